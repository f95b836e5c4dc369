// The page of screens: ranges that are dragged over histograms, and the answer to them.
(() => {
const form = $("screen"), ranges = [...form.querySelectorAll(".range")];
const DEFAULTS = {where: "", order: "", select: "", limit: "100", allow_mixed: ""};
const MOST_SHADED = 8; // distributions that a question may ask for
const NEAR = 4; // pixels that a pointer may move in a click
for (const element of document.querySelectorAll(".no-script")) element.hidden = true;

const ends = (range) => [...range.querySelectorAll("input[type=number]")];

const open = (range) => range.querySelector("[name=open]");

// The signs and the ends of a range: > or ≥, which the grammar writes >=.
function limits(range, least, most) {
  const [from, to] = ends(range).map((end) => end.value), signs = open(range).value;
  return [[from, signs.includes(">") ? ">" : least], [to, signs.includes("<") ? "<" : most]].filter(([end]) => end);
}

function condition(range) {
  const [from, to] = ends(range).map((end) => end.value), name = range.dataset.name;
  if (from && to && !open(range).value) return name + " between " + from + " and " + to;
  return limits(range, ">=", "<=").map(([end, sign]) => name + " " + sign + " " + end).join(" and ");
}

// The question as the address has it, and /screens.
function question() {
  return {
    where: [$("where").value.trim(), ...ranges.filter((range) => ends(range).length).map(condition)].filter(Boolean).join(" and "),
    order: $("order").value,
    select: [...form.querySelectorAll("[name=select]")].map((field) => field.value).join(", "),
    limit: $("limit").value,
    allow_mixed: $("mixed")?.checked ? "true" : "",
  };
}

const written = (asked) => new URLSearchParams(Object.entries(asked).filter(([name, text]) => text !== DEFAULTS[name]));

async function screen(asked) {
  const text = await (await ask("/screens?" + written(asked), {headers: {accept: "application/json"}})).text();
  const {matched, screened, distributions} = JSON.parse(text), count = document.createElement("b");
  count.textContent = number(matched);
  $("problem").textContent = "";
  $("matched").replaceChildren(count, " of " + number(screened) + " molecules match");
  if (asked.distributions) shade(distributions);
  return text;
}

// The count, and the bars of the molecules that match if these are not all.
function overview(asked) {
  shade([]);
  const plotted = ranges.filter((range) => range.querySelector(".plot")).map((range) => range.dataset.name);
  const distributions = asked.where && plotted.slice(0, MOST_SHADED).join(", ");
  return screen({...asked, limit: "0", ...(distributions && {distributions, library_bars: "true"})});
}

// The molecules that match, as bars before those of the library, the highest as high.
function shade(distributions) {
  document.querySelector(".shading").hidden = !distributions.length;
  for (const range of ranges) {
    const found = distributions.find((each) => each.column === range.dataset.key), plot = range.querySelector(".plot");
    plot?.querySelectorAll(".match").forEach((bar) => bar.remove());
    const bars = plot ? [...plot.querySelectorAll(".bar")] : [], height = plot?.viewBox.baseVal.height;
    if (!found || found.counts.length !== bars.length) continue;
    const peak = Math.max(1, ...found.counts);
    bars.forEach((bar, at) => {
      const match = bar.parentNode.insertBefore(bar.cloneNode(), bar.nextSibling), high = height * found.counts[at] / peak;
      match.setAttribute("class", "match");
      match.setAttribute("y", height - high);
      match.setAttribute("height", high);
    });
  }
}

// While one drags: one request at a time, the last one for the range as it is then.
let counting = false, moved = false;
async function count() {
  moved = true;
  if (counting) return;
  counting = true;
  try {
    while (moved) {
      moved = false;
      await screen({...question(), limit: "0"});
    }
  } catch (error) {
    if (error.name !== "AbortError") refuse(error);
  } finally {
    counting = false;
  }
}

// The answer goes to the server as the text that it came as: JavaScript would round integers of 64 bits.
async function answer() {
  stopping.abort();
  stopping = new AbortController();
  moved = false;
  const asked = question();
  history.replaceState(null, "", root + "/screen?" + written(asked));
  showChips();
  if (!asked.select) return;
  $("answer").setAttribute("aria-busy", "true");
  try {
    // The count is there in a tenth of the time that the molecules of a large library take.
    await overview(asked);
    const text = await screen(asked);
    const body = '{"question":' + JSON.stringify(asked) + ',"answer":' + text + "}";
    const request = {method: "POST", headers: {"content-type": "application/json"}, body};
    $("answer").innerHTML = await (await ask("/hits", request)).text();
    arrive();
  } catch (error) {
    if (error.name === "AbortError") return;
    refuse(error);
  }
  $("answer").removeAttribute("aria-busy");
}
again = answer;

function refuse(error) {
  $("matched").textContent = $("answer").textContent = "";
  if (error instanceof Refused) askForKey(error);
  else fail(error.message);
}

function arrive() {
  offerCopies($("answer"));
  if ($("table")) draw();
  // A link cannot send a key.
  for (const link of $("answer").querySelectorAll("[data-name]")) {
    link.addEventListener("click", async (event) => {
      if (!apiKey || link.href.startsWith("blob:")) return;
      event.preventDefault();
      try {
        const file = await ask(link.href.slice(link.href.indexOf("/screens?")), {headers: {}});
        save(link, link.dataset.name, [await file.blob()]);
        link.click();
      } catch (error) {
        fail(error.message);
      }
    });
  }
}

function showChips() {
  $("chips").replaceChildren(...ranges.filter((range) => ends(range).some((end) => end.value)).map((range) => {
    const chip = document.createElement("button"), [from, to] = ends(range).map((end) => end.value);
    chip.type = "button";
    chip.className = "chip";
    const whole = from && to && !open(range).value;
    chip.textContent = range.dataset.label + " " + (whole ? from + " to " + to
      : limits(range, "≥", "≤").map(([end, sign]) => sign + " " + end).join(", "));
    chip.setAttribute("aria-label", "Remove the range " + chip.textContent);
    chip.addEventListener("click", () => {
      [...ends(range), open(range)].forEach((field) => { field.value = ""; });
      paint.get(range)?.();
      answer();
      (range.querySelector(".grip") || ends(range)[0]).focus();
    });
    return chip;
  }));
}

// A histogram with a grip at each end of its range. Values are where they are on its axis, from 0 to 1.
const paint = new Map();
function arm(range) {
  const plot = range.querySelector(".plot"), [from, to] = ends(range);
  const low = Number(range.dataset.low), high = Number(range.dataset.high), whole = range.dataset.whole === "1";
  const exponent = whole ? 0 : Math.floor(Math.log10((high - low) / 100)), step = whole ? 1 : 10 ** exponent;
  const bars = plot.querySelectorAll(".bar").length;
  const text = (value) => String(Number((Math.round(value / step) * step).toFixed(Math.max(0, -exponent))));
  const clamp = (share) => Math.min(1, Math.max(0, share));
  const share = (end) => end.value === "" ? Number(end === to) : clamp((Number(end.value) + (whole && end === to) - low) / (high - low));
  const area = document.createElement("div");
  area.className = "area";
  plot.replaceWith(area);
  const outside = [0, 1].map(() => area.appendChild(document.createElement("span")));
  area.prepend(plot);
  const grips = [from, to].map((end) => {
    const grip = document.createElement("span");
    grip.className = "grip";
    grip.tabIndex = 0;
    grip.setAttribute("role", "slider");
    grip.setAttribute("aria-label", range.dataset.label + (end === from ? ", from" : ", to"));
    grip.setAttribute("aria-valuemin", low);
    grip.setAttribute("aria-valuemax", high);
    grip.addEventListener("keydown", (event) => {
      const far = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -1e3, End: 1e3}[event.key];
      if (!far) return;
      event.preventDefault();
      const moved = share(end) + far * Math.max(0.01, step / (high - low));
      if (end === from) set(Math.min(moved, share(to)), share(to)); else set(share(from), Math.max(moved, share(from)));
      answerSoon();
    });
    return area.appendChild(grip);
  });

  // What begins or ends at the edge of the plot is open there: its last bars hold what lies farther out.
  function set(start, end) {
    const value = (at) => low + clamp(at) * (high - low);
    open(range).value = "";
    from.value = start <= 0.004 ? "" : whole ? text(Math.floor(value(start) + 1e-9)) : text(value(start));
    to.value = end >= 0.996 ? "" : whole ? text(Math.max(Math.ceil(value(end) - 1e-9) - 1, Number(from.value || low))) : text(value(end));
    draw();
  }
  function draw() {
    const places = [share(from), share(to)];
    grips.forEach((grip, at) => {
      grip.style.left = 100 * places[at] + "%";
      grip.setAttribute("aria-valuenow", [from, to][at].value || (at ? high : low));
      grip.setAttribute("aria-valuetext", [from, to][at].value || "open");
    });
    outside[0].style.width = 100 * places[0] + "%";
    outside[1].style.width = 100 * (1 - places[1]) + "%";
    range.classList.toggle("set", Boolean(from.value || to.value));
  }
  paint.set(range, draw);
  draw();

  let begun = null, anchor = 0;
  const at = (event) => clamp((event.clientX - area.getBoundingClientRect().left) / area.clientWidth);
  area.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const grip = grips.indexOf(event.target);
    begun = event.clientX;
    anchor = grip < 0 ? at(event) : share([to, from][grip]);
    area.setPointerCapture(event.pointerId);
    if (event.pointerType === "mouse") event.preventDefault();
  });
  area.addEventListener("pointermove", (event) => {
    if (begun === null || Math.abs(event.clientX - begun) < NEAR) return;
    set(Math.min(anchor, at(event)), Math.max(anchor, at(event)));
    count();
  });
  area.addEventListener("pointerup", (event) => {
    if (begun === null) return;
    // A click chooses the bar.
    const bar = Math.min(bars - 1, Math.floor(at(event) * bars));
    if (Math.abs(event.clientX - begun) < NEAR && !grips.includes(event.target)) set(bar / bars, (bar + 1) / bars);
    begun = null;
    answer();
  });
  area.addEventListener("pointercancel", () => { begun = null; });
}

let timer;
function answerSoon() {
  clearTimeout(timer);
  timer = setTimeout(answer, 150);
}

ranges.filter((range) => range.dataset.low && range.querySelector(".plot")).forEach(arm);
for (const range of ranges) for (const end of ends(range)) {
  end.addEventListener("input", () => { paint.get(range)?.(); answerSoon(); });
}
$("where").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(answer, 500); });
for (const id of ["order", "limit", "mixed"]) $(id)?.addEventListener("change", answer);
form.addEventListener("submit", (event) => {
  if (event.submitter?.name === "remove") return;
  event.preventDefault();
  answer();
});
$("add").addEventListener("change", () => form.submit());
$("choose-model").addEventListener("change", async () => {
  const found = await fetch(root + "/screen?" + written(question()) + "&model=" + encodeURIComponent($("choose-model").value));
  const page = new DOMParser().parseFromString(await found.text(), "text/html");
  $("add").replaceChildren(...page.getElementById("add").children);
  $("add").focus();
});

showChips();
if ($("answer").dataset.answered === "1") {
  arrive();
  if (question().where) overview(question()).catch((error) => fail(error.message));
} else if (!$("problem").textContent) answer();
})();
