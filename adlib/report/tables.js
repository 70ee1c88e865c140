// Sorting and filtering of the index page's tables. Without it the page is whole and merely stands still.
"use strict";

const AT_ONCE = 200; // rows of a long list that are shown until one asks for all: laying out thousands takes seconds
const words = new Intl.Collator("en", { numeric: true });

// What is in a cell, for sorting: its leading number (also "+1.20", "-3", "✓ 98.2", and "<100", which lies between 99.99
// and 100.00), else its text.
function cellValue(cell) {
  const text = cell ? cell.textContent.trim().replace(/^[✓✗]\s*/, "") : "";
  const below = text.startsWith("<");
  const number = parseFloat(below ? text.slice(1) : text);
  return Number.isNaN(number) || !/^[<+-]?[.\d]/.test(text) ? text : number - (below ? 0.001 : 0);
}

function compare(first, second) {
  if (typeof first === typeof second) {
    return typeof first === "number" ? first - second : words.compare(first, second);
  }
  return typeof first === "number" ? -1 : 1; // numbers before words, in either direction: see sortBy
}

// The cell of a row in a column; cells may span several columns.
function cellAt(row, column) {
  for (const cell of row.cells) {
    if (column < cell.colSpan) return cell;
    column -= cell.colSpan;
  }
  return null;
}

// Sort a table's rows: "ascending", "descending", or "" for the order that it came in. Averages stay at the end.
function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const sign = direction === "descending" ? -1 : 1;
  const rows = [...body.rows].map((row) => [row, cellValue(cellAt(row, column))]);
  rows.sort(([first, a], [second, b]) => {
    if (!direction) return first.place - second.place;
    const average = first.classList.contains("average") - second.classList.contains("average");
    const kind = typeof a === typeof b ? sign : 1;
    return average || kind * compare(a, b) || first.place - second.place;
  });
  body.append(...rows.map(([row]) => row));
  table.refresh?.();
}

// The headers of single columns, as [header, column].
function columns(table) {
  const found = [];
  const taken = []; // by row: columns that a header from above reaches down into
  [...table.tHead.rows].forEach((row, line) => {
    let column = 0;
    for (const header of row.cells) {
      while (taken[line]?.has(column)) column += 1;
      for (let below = line + 1; below < line + header.rowSpan; below += 1) {
        (taken[below] ??= new Set()).add(column);
      }
      if (header.colSpan === 1 && line + header.rowSpan === table.tHead.rows.length) found.push([header, column]);
      column += header.colSpan;
    }
  });
  return found.sort(([, first], [, second]) => first - second);
}

// Make the headers buttons. One of them is reached by Tab, the others from it by arrow keys, Home and End.
// They are no <button>: of a head that is printed again on the next page browsers leave these out.
function makeSortable(table) {
  [...table.tBodies[0].rows].forEach((row, place) => { row.place = place; });
  const buttons = columns(table).map(([header, column]) => {
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = -1;
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(); // Space would scroll
      button.click();
    });
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "" };
      const before = header.getAttribute("aria-sort");
      const direction = before ? next[before] : "ascending";
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      if (direction) header.setAttribute("aria-sort", direction);
      sortBy(table, column, direction);
    });
    return button;
  });
  const reach = (place) => {
    buttons.forEach((button, number) => { button.tabIndex = number === place ? 0 : -1; });
  };
  table.tHead.addEventListener("keydown", (event) => {
    const here = buttons.indexOf(document.activeElement);
    const places = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: buttons.length - 1 };
    const place = Math.max(0, Math.min(buttons.length - 1, places[event.key] ?? -1));
    if (here < 0 || !(event.key in places)) return;
    event.preventDefault();
    reach(place);
    buttons[place].focus();
  });
  table.tHead.addEventListener("focusin", (event) => reach(buttons.indexOf(event.target)));
  reach(0);
}

// A field above a list: rows stay that have all of its words, the first ones of them until one asks for more. A number
// leads to the rows of its own runs alone, by their keys: other runs may be called alike.
function makeFilterable(table) {
  const body = table.tBodies[0];
  for (const row of body.rows) row.text = row.textContent.toLowerCase();
  const field = document.createElement("input");
  const count = document.createElement("output");
  const more = document.createElement("button");
  const label = document.createElement("label");
  const part = document.createElement("p"); // on paper, where no field says that these are not all
  const address = new URLSearchParams(location.search);
  let own = address.get("runs")?.split(".");
  let limit = AT_ONCE;
  field.type = "search";
  more.type = "button";
  label.append(`Filter ${table.dataset.filter} `, field);
  table.refresh = () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    let others = 0;
    for (const row of body.rows) {
      const named = wanted.every((word) => row.text.includes(word));
      const fits = named && (!own || own.includes(row.dataset.run));
      found += fits;
      others += named && !fits;
      const hidden = !fits || found > limit;
      if (row.hidden !== hidden) row.hidden = hidden;
    }
    count.textContent = `${found} of ${body.rows.length}` + (own ? ", the runs of that number" : "") +
      (found > limit ? `, the first ${limit} shown` : "");
    const by = field.value ? `, filtered by “${field.value}”` : "";
    part.textContent = found < body.rows.length || found > limit ? `${count.textContent}${by}` : "";
    more.textContent = `Show all ${found + others}`;
    more.hidden = found <= limit && !others;
  };
  field.addEventListener("input", () => {
    own = null;
    table.refresh();
  });
  more.addEventListener("click", () => {
    own = null;
    limit = Infinity;
    table.refresh();
    field.focus();
  });
  const line = document.createElement("p");
  line.className = "adlib-filter";
  line.append(label, " ", count, " ", more);
  part.className = "adlib-part";
  table.closest(".adlib-scroll").before(line, part);
  field.value = address.get("find") ?? ""; // the tables' averages link to their runs
  table.refresh();
}

document.querySelectorAll("table.adlib-comparison, table.adlib-list").forEach(makeSortable);
document.querySelectorAll("table.adlib-list").forEach(makeFilterable);
