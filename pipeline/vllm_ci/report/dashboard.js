"use strict";
const search = document.getElementById("search");
const shown = document.getElementById("shown");
const rows = [...document.querySelectorAll(".matrix tbody tr")];

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word) || row.dataset.words.includes(word));
    count += !row.hidden;
  }
  shown.textContent = words.length ? `${count} of ${rows.length} runs` : `${rows.length} runs`;
}

if (search) {
  document.querySelector(".filters").hidden = false;
  search.addEventListener("input", filter);
  filter();
}
