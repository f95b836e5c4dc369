// Pasted molecules and files, looked up by the routes of the API.
(() => {
const form = $("lookup");
if (!form) return;
form.hidden = false;
again = () => form.requestSubmit();
$("no-script").hidden = true;

const LISTS = ["numbers", "texts", "cells", "inchikeys", "forms", "reasons"];
const plural = (n, word) => number(n) + " " + word + (n === 1 ? "" : "s");
let file = null, answered = null;

// Titles stand in the table already; where that is the answer to a search, the other models are chosen by id.
const titles = new Map();
for (const row of document.querySelectorAll(".models tbody tr")) {
  titles.set(row.cells[0].textContent.trim(), row.cells[1].firstChild.textContent.trim());
}
for (const option of $("model").options || []) {
  const title = titles.get(option.value);
  // What it is sent as was its text until now.
  option.value = option.value;
  if (title) option.text = option.value + " · " + title;
}

async function countColumns(model) {
  const answer = await ask("/models/" + encodeURIComponent(model), {headers: {accept: "application/json"}});
  return (await answer.json()).columns.length;
}

// Some rows of a file, as the server takes them.
const rowsAt = (table, places) => Object.fromEntries([["names", table.names],
  ...LISTS.map((list) => [list, places.map((at) => table[list][at])])]);

function* batches(places, size) {
  for (let from = 0; from < places.length; from += size) yield places.slice(from, from + size);
}

// What the server reads of a file or of the box: files are never parsed here.
async function readRows() {
  const query = new URLSearchParams({name: file ? file.name : "", column: $("column").value.trim()});
  const request = {method: "POST", headers: {"content-type": "application/octet-stream"}, body: file || $("molecules").value};
  const table = await (await ask("/rows?" + query, request)).json();
  table.forms = table.texts.map(() => null);
  table.reasons = table.texts.map(() => null);
  return table;
}

async function identify(table) {
  const places = [...table.texts.keys()].filter((at) => !table.inchikeys[at]);
  let done = 0;
  for (const batch of batches(places, Number(form.dataset.smiles))) {
    const found = await (await post("/inchikeys", {smiles: batch.map((at) => table.texts[at])})).json();
    batch.forEach((place, at) => {
      table.inchikeys[place] = found.inchikeys[at];
      table.forms[place] = found.forms[at];
    });
    for (const error of found.errors) table.reasons[batch[error.index]] = error.reason;
    progress(done += batch.length, places.length, "read");
  }
}

// The rows with predictions. Another version of RDKit may have written the library's SMILES: only what differs by this
// one is another form, so the server is asked again with what this one makes of them.
async function predict(model, nColumns, table) {
  const size = Math.max(1, Math.min(Number(form.dataset.keys), Math.floor(Number(form.dataset.values) / nColumns)));
  const result = {model, table, csv: [], spreadsheet: [], missing: [], statuses: [], others: 0, forms: {},
    releases: new Set(), varies: false};
  for (const batch of batches([...table.texts.keys()], size)) {
    const body = {...rowsAt(table, batch), library_forms: result.forms, first: !batch[0]};
    const write = async () => (await post(modelPath(model) + "/rows", body)).json();
    let answer = await write();
    if (answer.other_forms.length) {
      const found = await (await post("/inchikeys", {smiles: answer.other_forms})).json();
      answer.other_forms.forEach((smiles, at) => { result.forms[smiles] = found.forms[at]; });
      answer = await write();
    }
    result.csv.push(answer.csv);
    result.spreadsheet.push(answer.spreadsheet ?? answer.csv);
    result.missing.push(...answer.missing);
    result.statuses.push(...answer.statuses);
    result.others += answer.matches.filter((match) => match === "other_form").length;
    answer.releases.forEach((release) => result.releases.add(release));
    result.varies ||= answer.deterministic === false;
    progress(result.statuses.length, table.texts.length, "looked up");
  }
  return result;
}

function progress(done, all, what) {
  $("bar").max = all;
  $("bar").value = done;
  $("status").textContent = number(done) + " of " + plural(all, "molecule") + " " + what;
}

function busy(on) {
  $("progress").hidden = !on;
  form.querySelector("[type=submit]").disabled = on;
}

const modelPath = (model) => "/models/" + encodeURIComponent(model);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  $("result").hidden = true;
  $("problem").textContent = $("status").textContent = "";
  if (!file && !$("molecules").value.trim()) { fail("There is no molecule in the box.", $("molecules")); return; }
  if (file && file.size > Number(form.dataset.bytes)) {
    fail(file.name + " is larger than " + form.dataset.bytes / 1e6 + " MB; precalc get reads larger files.", $("file"));
    return;
  }
  const model = $("model").value;
  const chosen = $("model").selectedOptions ? $("model").selectedOptions[0] : $("model");
  stopping = new AbortController();
  busy(true);
  $("status").textContent = "Reading …";
  try {
    const table = await readRows();
    await identify(table);
    answered = await predict(model, Number(chosen.dataset.n || 1) || await countColumns(model), table);
    await show(answered);
  } catch (error) {
    $("status").textContent = "";
    if (error instanceof Refused) {
      askForKey(error);
    } else if (error.name === "AbortError") {
      $("status").textContent = "Stopped.";
    } else {
      if (error.message.includes("the field Column")) $("choose-column").hidden = false;
      fail(error.message, error.message.includes("the field Column") ? $("column") : null);
    }
  } finally {
    busy(false);
  }
});

$("stop").addEventListener("click", () => stopping.abort());

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!$("lookup").querySelector("[type=submit]").disabled) form.requestSubmit();
  }
});

// A file takes the place of the box.
function choose(chosen) {
  file = chosen || null;
  $("molecules").hidden = Boolean(file);
  $("chosen").hidden = !file;
  $("chosen").firstElementChild.textContent = file ? file.name + ", " + number(Math.ceil(file.size / 1000)) + " KB" : "";
  $("column").value = "";
  $("choose-column").hidden = true;
}

$("file").addEventListener("change", () => { choose($("file").files[0]); });
$("forget").addEventListener("click", () => { $("file").value = ""; choose(); $("molecules").focus(); });
$("example")?.addEventListener("click", () => {
  choose();
  $("molecules").value = $("example").dataset.example;
  $("molecules").focus();
});
form.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
form.addEventListener("dragleave", (event) => { if (!form.contains(event.relatedTarget)) $("drop").classList.remove("over"); });
form.addEventListener("drop", (event) => {
  $("drop").classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  choose(event.dataTransfer.files[0]);
});

async function show(result) {
  const counts = new Map();
  for (const status of result.statuses) counts.set(status, (counts.get(status) || 0) + 1);
  const all = plural(result.statuses.length, "molecule");
  const found = counts.get("found") || 0;
  const parts = [number(found) + " of " + all + " found"];
  for (const [status, n] of counts) if (status !== "found") parts.push(number(n) + " " + status);
  const told = parts.join(", ") + "." + (result.others ? " For " + plural(result.others, "molecule") +
    " another form with the same InChIKey was predicted, such as a tautomer: the table shows which." : "");
  const releases = [...result.releases].join(", ");
  $("about").textContent = result.model + (releases ? ", release " + releases : "") +
    (result.varies ? ". This model gives other values each time it is run; these are of one run." : "");
  links.forEach((link) => URL.revokeObjectURL(link));
  links = [];
  save($("download"), result.model + ".csv", result.csv);
  save($("spreadsheet"), result.model + "-spreadsheet.csv", result.spreadsheet);
  save($("missing"), result.model + "-missing.csv", ["smiles\n", ...result.missing.map((smiles) => smiles + "\n")]);
  $("missing").hidden = !result.missing.length;
  $("only").replaceChildren(new Option("all rows", ""));
  for (const [status, n] of counts) $("only").append(new Option(status + " (" + number(n) + ")", status));
  $("only").parentNode.hidden = counts.size < 2 && result.statuses.length <= Number(form.dataset.shown);
  await view(0);
  $("status").textContent = told;
  $("result").hidden = false;
  $("result").focus();
}

// The server makes the table of the rows in view.
async function view(first) {
  const {model, table, statuses, forms} = answered, size = Number(form.dataset.shown);
  const places = [...statuses.keys()].filter((at) => !$("only").value || statuses[at] === $("only").value);
  const shown = places.slice(first, first + size);
  const body = {...rowsAt(table, shown), library_forms: forms};
  const answer = await post(modelPath(model) + "/rows/shown", body);
  $("table").innerHTML = await answer.text();
  $("table").parentNode.scrollTop = 0;
  $("range").textContent = number(first + 1) + " to " + number(first + shown.length) + " of " + number(places.length);
  for (const [id, to] of [["previous", first - size], ["next", first + size]]) {
    $(id).disabled = to < 0 || to >= places.length;
    $(id).hidden = places.length <= size;
    $(id).onclick = () => turn(to);
  }
  draw();
  const n = $("table").tHead.dataset;
  const ranked = n.ranked ? "P90: 90% of the library’s molecules have at most this value. " : "";
  $("cut").textContent = ranked + (n.columns === n.shown ? "" :
    "Shown are the first " + n.shown + " of " + number(Number(n.columns)) + " columns; the files have all.");
}

async function turn(first) {
  stopping = new AbortController();
  try {
    await view(first);
    $("problem").textContent = "";
  } catch (error) {
    fail(error.message, null);
  }
}

$("only").addEventListener("change", () => turn(0));

})();
