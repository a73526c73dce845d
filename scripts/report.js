"use strict";
// Reading aids. Nothing depends on them: without this script the page has the same content, unsorted and unmarked.

// Examples: narrow them by category and by who won; mark what is not in another arm's answer.
for (const section of document.querySelectorAll(".examples")) {
  const form = section.querySelector("form"), rows = [...section.querySelectorAll(".example")];
  const more = section.querySelector("details.more");
  const sign = "lower" in section.dataset ? -1 : 1; // whether less is better
  const score = (row, arm) => sign * Number(row.querySelector(`[data-arm="${arm}"]`).dataset.score || 0);
  const won = (row, winner) => {
    if (winner === "=") return new Set([...row.querySelectorAll("[data-arm]")].map((one) => score(row, one.dataset.arm))).size === 1;
    const [better, worse] = winner.split(">");
    return score(row, better) > score(row, worse);
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const { category, winner, marked } = form.elements;
    let left = 0;
    for (const row of rows) {
      row.hidden = Boolean((category.value && row.dataset.category !== category.value) || (winner.value && !won(row, winner.value)));
      left += !row.hidden;
      mark(row, marked.value);
    }
    if (more && (category.value || winner.value)) more.open = true;
    form.querySelector("output").value = category.value || winner.value ? `${left} of ${rows.length} shown` : "";
  });
}

function mark(row, arm) {
  const given = arm && row.querySelector(`[data-arm="${arm}"] .text`).textContent.split(/(\s+)/);
  for (const answer of row.querySelectorAll("[data-arm]")) {
    const place = answer.querySelector(".text"), words = place.textContent.split(/(\s+)/);
    place.replaceChildren(...(!arm || answer.dataset.arm === arm ? words : words.map(kept(words, given))));
  }
}

// A function that wraps the words that are no part of the longest common subsequence with `given`.
function kept(words, given) {
  const best = Array.from({ length: words.length + 1 }, () => new Uint16Array(given.length + 1));
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = given.length - 1; j >= 0; j--)
      best[i][j] = words[i] === given[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const common = new Set();
  for (let i = 0, j = 0; i < words.length && j < given.length; )
    if (words[i] === given[j]) common.add(i++), j++;
    else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  return (word, i) => {
    if (common.has(i) || !word.trim()) return word;
    const own = document.createElement("mark");
    own.textContent = word;
    return own;
  };
}

// Tables: a click on a column's head sorts by it, a second one the other way round.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3 || table.querySelector("[rowspan], [colspan]")) continue;
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way);
      const rows = [...body.rows].map((row) => [value(row.cells[column].textContent), row]);
      rows.sort(([a], [b]) => (way === "ascending" ? 1 : -1) * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  }
}

// What a cell is sorted by: its number where it begins with one ("−1.2 (…)", "<0.001", "35%"), else its text.
function value(text) {
  const found = text.trim().replaceAll("\u2212", "-").match(/^[<+]?(-?[0-9][0-9.]*)/);
  return found ? Number(found[1]) : text.trim();
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
}

// A link to something inside a closed part of the page opens it.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

// On paper nothing is closed.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
