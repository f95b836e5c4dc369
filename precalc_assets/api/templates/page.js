"use strict";
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

function offerCopies(within) {
  for (const button of within.querySelectorAll(".copy")) {
    const text = button.parentNode.querySelector("pre"), label = button.firstChild;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        label.data = "Copied";
      } catch { // not allowed, or no secure page
        getSelection().selectAllChildren(text);
        label.data = "Press Ctrl+C";
      }
      setTimeout(() => { label.data = "Copy"; }, 2000);
    });
  }
}
offerCopies(document);

// What stops the requests under way, and what is done again with another key.
let stopping = new AbortController(), again, links = [];

const KEY_NAME = "precalc-api-key";
const number = (n) => n.toLocaleString("en");

// sessionStorage may be forbidden; then a key lasts as long as the page.
let apiKey = "";
try { apiKey = sessionStorage.getItem(KEY_NAME) || ""; } catch { /* as it is */ }

class Refused extends Error {}

const post = (path, body) =>
  ask(path, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)});

async function ask(path, request) {
  const {signal} = stopping;
  if (apiKey) request.headers["x-api-key"] = apiKey;
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(root + path, {...request, signal});
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

function askForKey(refused) {
  $("key").hidden = false;
  fail((apiKey ? "The key was refused: " : "A key is needed: ") + refused.message, $("api-key"));
}

function fail(message, field) {
  $("problem").textContent = message;
  field?.focus();
}

$("key")?.addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("api-key").value.trim();
  try { sessionStorage.setItem(KEY_NAME, apiKey); } catch { /* as above */ }
  $("key").hidden = true;
  again();
});

// Drawings come after the table, which does without them if there are none.
async function draw() {
  const cells = [...$("table").querySelectorAll("td.picture")], wanted = cells.filter((cell) => cell.dataset.smiles);
  try {
    const {drawings} = await (await post("/drawings", {smiles: wanted.map((cell) => cell.dataset.smiles)})).json();
    wanted.forEach((cell, at) => {
      if (!drawings[at]) return;
      const image = new Image();
      image.alt = "";
      image.src = "data:image/svg+xml," + encodeURIComponent(drawings[at]);
      cell.append(image);
    });
  } catch (error) {
    if (error.name !== "AbortError") cells.forEach((cell) => { cell.textContent = "not drawn"; });
  }
}

function save(link, name, parts) {
  link.href = URL.createObjectURL(new Blob(parts, {type: "text/csv;charset=utf-8"}));
  link.download = name;
  links.push(link.href);
}
