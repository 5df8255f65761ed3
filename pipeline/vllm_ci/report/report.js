"use strict";
const boxes = [...document.querySelectorAll("input[data-status]")];
const search = document.getElementById("search");
const shown = document.getElementById("shown");
const cases = [...document.querySelectorAll(".case")];
const stages = [...document.querySelectorAll("section.stage")];
let texts;

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.status));
  if (words.length) texts ??= cases.map((row) => `${row.id} ${row.textContent}`.toLowerCase());
  let count = 0;
  cases.forEach((row, at) => {
    const fits = wanted.has(row.dataset.status ?? "passed") && words.every((word) => texts[at].includes(word));
    if (row.hidden === fits) row.hidden = !fits;
    count += fits;
  });
  const all = !words.length && wanted.size === boxes.length;
  for (const stage of stages) stage.hidden = !all && !stage.querySelector(".case:not([hidden])");
  shown.textContent = all ? `${cases.length} cases` : `${count} of ${cases.length} cases`;
}

function unfold() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { /* an address that was cut off */ }
  const found = name && document.getElementById(name);
  if (!found) return;
  if (found.matches(".case") && found.hidden) {
    search.value = "";
    for (const box of boxes) box.checked = true;
    filter();
  }
  if (found.matches("details")) found.open = true;
  found.scrollIntoView();
}

// A page of thousands of names twice would be large: the name of a case is its id, and shown when the case is opened.
function showName(row) {
  if (!row.open || row.querySelector(":scope > div > code")) return;
  const code = document.createElement("code");
  code.textContent = row.id;
  (row.querySelector(":scope > div") ?? row.appendChild(document.createElement("div"))).prepend(code);
}
document.documentElement.classList.add("js");
for (const row of cases) showName(row);
document.getElementById("cases").addEventListener("toggle", (event) => {
  if (event.target.matches(".case")) showName(event.target);
}, true);

// The address of a case is that of the page while it is open: to be copied from there.
document.getElementById("cases").addEventListener("click", (event) => {
  const row = event.target.closest(".case > summary")?.parentElement;
  if (row && !row.open) history.replaceState(null, "", `#${encodeURIComponent(row.id)}`);
});
document.querySelector(".filters").hidden = false;
let waiting;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
for (const box of boxes) box.addEventListener("change", filter);
addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); search.focus(); }
  if (event.key === "Escape" && event.target === search) { search.value = ""; filter(); }
});
addEventListener("hashchange", unfold);
filter();
unfold();
