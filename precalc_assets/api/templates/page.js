"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const root = document.body.dataset.root;

// The search: the server's own answer, put in place of the table.
const search = $("q");
if (search) {
  let timer, running;
  const find = async () => {
    clearTimeout(timer);
    running?.abort();
    running = new AbortController();
    const words = search.value.trim();
    const url = root + "/" + (words ? "?q=" + encodeURIComponent(words) : "");
    try {
      const answer = await fetch(url, {signal: running.signal});
      if (!answer.ok) throw new Error("the server answers " + answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const old = $("models"), found = page.getElementById("models"), at = document.activeElement, inside = old.contains(at);
      old.replaceWith(found);
      // Who has gone on to the table by keyboard meanwhile stays where they are.
      if (inside) ([...found.querySelectorAll("a")].find((link) => link.href === at.href) || found).focus();
      $("count").textContent = page.getElementById("count").textContent;
      history.replaceState(null, "", url);
    } catch (error) {
      if (error.name !== "AbortError") $("count").textContent = "The search failed (" + error.message + "); try again.";
    }
  };
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 250); });
  search.form.addEventListener("submit", (event) => { event.preventDefault(); find(); });
}

const form = $("lookup");
if (!form) return;
form.hidden = false;
$("no-script").hidden = true;

const SHOWN_ROWS = 100, SHOWN_COLUMNS = 50, LISTED = 100;
const INCHIKEY = /^[A-Z]{14}-[A-Z]{10}-[A-Z]$/i;
const NUMBER = /^-?[0-9][0-9.e+-]*$/;
const HEADERS = /^"?(smiles|canonical_smiles|inchikey|inchi_key|input|key)"?$/i;
const KEY_NAME = "precalc-api-key";
const number = (n) => n.toLocaleString("en");
const plural = (n, word) => number(n) + " " + word + (n === 1 ? "" : "s");
let stopping, links = [];

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

// sessionStorage may be forbidden; then a key lasts as long as the page.
let apiKey = "";
try { apiKey = sessionStorage.getItem(KEY_NAME) || ""; } catch { /* as it is */ }

class Refused extends Error {}

// What is pasted: a molecule with its line for each; a first line that names columns is none.
function readMolecules(text) {
  const asked = [];
  text.split(/\r\n|[\n\r\u0085\u2028\u2029]/).forEach((row, at) => {
    for (const piece of row.split(/[,;]/)) {
      const words = piece.trim().replace(/^"(.*)"$/, "$1").trim().split(/\s+/).filter(Boolean);
      const all = words.every((word) => INCHIKEY.test(word));
      for (const word of all ? words : words.slice(0, 1)) {
        asked.push({line: at + 1, text: word, key: INCHIKEY.test(word) ? word.toUpperCase() : "", state: ""});
      }
    }
  });
  return asked.length && HEADERS.test(asked[0].text) ? asked.filter((one) => one.line !== asked[0].line) : asked;
}

const post = (path, body, accept) =>
  ask(path, {method: "POST", headers: {"content-type": "application/json", accept}, body: JSON.stringify(body)});

async function ask(path, request) {
  if (apiKey) request.headers["x-api-key"] = apiKey;
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(root + path, {...request, signal: stopping.signal});
    } catch (error) {
      if (error.name === "AbortError" || attempt === 3) throw error;
      await pause(attempt);
      continue;
    }
    if (answer.ok) return answer;
    if (answer.status === 401 || answer.status === 403) throw new Refused(await reason(answer));
    if (attempt === 3 || ![429, 502, 503, 504].includes(answer.status)) throw new Error(await reason(answer));
    await pause(attempt);
  }
}

const pause = (attempt) => new Promise((done) => setTimeout(done, 500 * 2 ** attempt));

async function reason(answer) {
  try {
    const problem = (await answer.json()).error;
    return problem.message || problem.code;
  } catch {
    return "the server answers " + answer.status;
  }
}

// Records of CSV: the text of each, unchanged, and its cells.
function readRecords(text) {
  const records = [];
  let cells = [], start = 0, at = 0;
  while (at < text.length) {
    let cell = "";
    if (text[at] === '"') {
      for (at++; ;) {
        const end = text.indexOf('"', at);
        cell += text.slice(at, end);
        at = end + 1;
        if (text[at] !== '"') break;
        cell += '"';
        at++;
      }
    } else {
      const from = at;
      while (at < text.length && text[at] !== "," && text[at] !== "\n") at++;
      cell = text.slice(from, at);
    }
    cells.push(cell);
    if (text[at] !== ",") {
      records.push({raw: text.slice(start, at), cells});
      cells = [];
      start = at + 1;
    }
    at++;
  }
  return records;
}

const quoted = (text) => {
  const safe = /^[=+\-@\t\r\n]/.test(text) ? "'" + text : text;
  return /[",\r\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
};

async function countColumns(model) {
  const answer = await ask("/models/" + encodeURIComponent(model), {headers: {accept: "application/json"}});
  return (await answer.json()).columns.length;
}

async function resolve(asked) {
  const size = Number(form.dataset.smiles);
  const smiles = asked.filter((one) => !one.key);
  for (let from = 0; from < smiles.length; from += size) {
    const batch = smiles.slice(from, from + size);
    const found = await (await post("/inchikeys", {smiles: batch.map((one) => one.text)}, "application/json")).json();
    batch.forEach((one, at) => { one.key = found.inchikeys[at] || ""; });
    for (const error of found.errors || []) batch[error.index].why = error.reason;
    progress(from + batch.length, smiles.length, "SMILES read");
  }
}

// Numbers are never parsed here: what the server wrote is what is shown and saved.
async function predict(model, nColumns, readable) {
  const size = Math.max(1, Math.min(Number(form.dataset.keys), Math.floor(Number(form.dataset.values) / nColumns)));
  const path = "/models/" + encodeURIComponent(model) + "/predictions";
  const result = {header: {raw: "", cells: []}, releases: new Set(), varies: false};
  for (let from = 0; from < readable.length; from += size) {
    const batch = readable.slice(from, from + size);
    const answer = await post(path + "?include=smiles", {inchikeys: batch.map((one) => one.key)}, "text/csv");
    const about = JSON.parse(answer.headers.get("precalc-provenance") || "{}");
    const [header, ...records] = readRecords(await answer.text());
    if (records.length !== batch.length) throw new Error("the answer was cut off; try again");
    const before = header.cells[1] === "smiles" ? 2 : 1;
    const empty = batch.filter((one, at) => {
      one.record = records[at];
      one.smiles = before === 2 ? records[at].cells[1] : "";
      one.state = "found";
      return records[at].cells.slice(before).every((cell) => cell === "");
    });
    // A molecule without any value may be missing, or one that the model could not answer.
    let rows = empty.map(() => null);
    if (empty.length !== about.missing) {
      const asked = {inchikeys: empty.map((one) => one.key)};
      rows = empty.length ? (await (await post(path, asked, "application/json")).json()).predictions : [];
    }
    empty.forEach((one, at) => { if (rows[at] === null) one.state = "missing"; });
    Object.assign(result, {header, before});
    for (const release of about.releases || []) result.releases.add(release);
    result.varies ||= about.deterministic === false;
    progress(from + batch.length, readable.length, "looked up");
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

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = readMolecules($("molecules").value);
  $("result").hidden = true;
  $("problem").textContent = $("status").textContent = "";
  if (!asked.length) { $("problem").textContent = "There is no molecule in the box."; return; }
  const model = $("model").value;
  const chosen = $("model").selectedOptions ? $("model").selectedOptions[0] : $("model");
  stopping = new AbortController();
  busy(true);
  progress(0, asked.length, "looked up");
  try {
    await resolve(asked);
    const readable = asked.filter((one) => one.key);
    const width = Number(chosen.dataset.n || 1) || await countColumns(model);
    const result = readable.length ? await predict(model, width, readable) : null;
    show(model, asked, result);
  } catch (error) {
    $("status").textContent = "";
    if (error instanceof Refused) {
      $("key").hidden = false;
      $("problem").textContent = apiKey ? "The key was refused: " + error.message : "A key is needed: " + error.message;
      $("api-key").focus();
    } else if (error.name === "AbortError") {
      $("status").textContent = "Stopped.";
    } else {
      $("problem").textContent = error.message;
    }
  } finally {
    busy(false);
  }
});

$("stop").addEventListener("click", () => stopping.abort());

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("api-key").value.trim();
  try { sessionStorage.setItem(KEY_NAME, apiKey); } catch { /* as above */ }
  $("key").hidden = true;
  form.requestSubmit();
});

function show(model, asked, result) {
  const found = asked.filter((one) => one.state === "found");
  const missing = asked.filter((one) => one.state === "missing");
  const unreadable = asked.filter((one) => !one.key);
  links.forEach((link) => URL.revokeObjectURL(link));
  links = [];
  const parts = [found.length + " of " + plural(asked.length, "molecule") + " found"];
  if (missing.length) parts.push(number(missing.length) + " not precalculated");
  if (unreadable.length) parts.push(number(unreadable.length) + " not read");
  $("status").textContent = parts.join(", ") + ".";
  const releases = result ? [...result.releases].join(", ") : "";
  $("about").textContent = model + (releases ? ", release " + releases : "") +
    (result && result.varies ? ". This model gives other values each time it is run; these are of one run." : "");
  $("download").hidden = !found.length;
  if (result) {
    const nothing = ",".repeat(result.header.cells.length - 1);
    const rows = asked.map((one) => quoted(one.text) + "," + (one.record ? one.record.raw : nothing));
    save($("download"), model + ".csv", ["input," + result.header.raw, ...rows]);
    fill(asked.filter((one) => one.record), result);
  } else {
    $("table").replaceChildren();
    $("cut").textContent = "";
  }
  $("table").parentNode.hidden = !result;
  $("missing").hidden = !missing.length;
  save($("missing"), model + "-missing.csv", ["smiles", ...missing.map((one) => quoted(one.smiles || one.text))]);
  list($("not-found"), missing.map((one) => ["line " + one.line + ": ", one.text, ""]));
  list($("unreadable"), unreadable.map((one) => ["line " + one.line + ": ", one.text, one.why ? " (" + one.why + ")" : ""]));
  $("result").hidden = false;
}

function save(link, name, lines) {
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv;charset=utf-8"}));
  link.download = name;
  links.push(link.href);
}

function list(place, entries) {
  place.hidden = !entries.length;
  const items = entries.slice(0, LISTED).map(([before, text, after]) => {
    const item = element("li", before);
    item.append(element("code", text), after);
    return item;
  });
  if (entries.length > LISTED) items.push(element("li", "and " + number(entries.length - LISTED) + " more"));
  place.lastElementChild.replaceChildren(...items);
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

function fill(rows, result) {
  const {header, before} = result;
  const names = header.cells.slice(before, before + SHOWN_COLUMNS);
  const plain = (text) => text.replace(/^'(?=[=+\-@\t\r\n])/, "");
  const shown = rows.slice(0, SHOWN_ROWS);
  const looks = names.map((_, at) => {
    const cells = shown.map((one) => one.record.cells[before + at]).filter((cell) => cell !== "");
    return cells.every((cell) => NUMBER.test(cell)) ? {class: "n"} : {};
  });
  const head = element("tr", "");
  head.append(...["Line", "Molecule", "InChIKey"].map((name) => element("th", name, {scope: "col"})));
  head.append(...names.map((name, at) => element("th", plain(name), {scope: "col", ...looks[at]})));
  const body = shown.map((one) => {
    const row = element("tr", "");
    row.append(element("td", one.line, {class: "n"}), element("th", one.text, {scope: "row", title: one.text}));
    row.append(element("td", one.key));
    if (one.state === "missing") {
      row.className = "none";
      row.append(element("td", "not precalculated", {colspan: names.length}));
    } else {
      const cells = one.record.cells.slice(before, before + SHOWN_COLUMNS);
      row.append(...cells.map((cell, at) => element("td", plain(cell), looks[at])));
    }
    return row;
  });
  const tops = document.createElement("thead"), bodies = document.createElement("tbody");
  tops.append(head);
  bodies.append(...body);
  $("table").replaceChildren(tops, bodies);
  const cut = [];
  if (rows.length > SHOWN_ROWS) cut.push("the first " + SHOWN_ROWS + " of " + plural(rows.length, "row"));
  const all = header.cells.length - before;
  if (all > SHOWN_COLUMNS) cut.push("the first " + SHOWN_COLUMNS + " of " + plural(all, "column"));
  $("cut").textContent = cut.length ? "Shown are " + cut.join(" and ") + "; the file has all." : "";
}
})();
