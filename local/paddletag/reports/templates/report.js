"use strict";
// What all reports share. Text from the data goes into the page through textContent alone, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("report");

/** An element; `props` are its properties, attributes where the name has a dash, and listeners (onclick). */
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => typeof child === "string" ? printable(child) : child));
  return node;
}

/** A text with its invisible characters as codes: among them those that turn the direction of what follows. */
function printable(text) {
  return text.replace(/[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`);
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function bytes(base64) {
  const text = atob(base64);
  const array = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
  return array;
}

/** The URL of what is embedded or, failing that, beside the report; undefined if there is no sound. */
function soundUrl(item) {
  return item.sound ? URL.createObjectURL(new Blob([bytes(item.sound)], { type: "audio/ogg" })) : item.audio;
}

function clock(seconds, digits = 2) {
  const scale = 10 ** digits;
  const rounded = Math.round(seconds * scale) / scale;
  const minutes = Math.floor(rounded / 60), hours = Math.floor(minutes / 60);
  const rest = (rounded - 60 * minutes).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function bar(share) {
  const fill = el("i");
  fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return el("span", { className: "bar", "aria-hidden": "true" }, fill);
}

function section(title, ...children) {
  return el("section", null, title ? el("h2", null, title) : null, ...children);
}

/** The page's head: its title, lines (text or elements) below it, and a button for light and dark. */
function head(title, ...lines) {
  const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (document.documentElement.style.colorScheme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
  const button = el("button", { id: "theme", type: "button" });
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  const changed = () => { show(); document.dispatchEvent(new Event("theme")); };
  button.onclick = () => { document.documentElement.style.colorScheme = dark() ? "light" : "dark"; changed(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  show();
  const text = el("div", null, el("h1", null, title), ...lines.map((line) => line instanceof Node ? line : el("p", { className: "faint small" }, line)));
  return el("header", null, text, button);
}

/** A table that is sorted by a click on a column's head. columns: [{title, value(row), cell(row), number}]. */
function sortableTable(columns, { by = 0, down = false, limit = Infinity } = {}) {
  const body = el("tbody");
  const note = el("p", { className: "faint small" });
  const state = { by, down, rows: [] };
  const heads = columns.map((column, i) => el("th", { className: column.number ? "number" : "", scope: "col" },
    el("button", { type: "button", className: "plain", onclick: () => {
      state.down = state.by === i ? !state.down : Boolean(column.number);
      state.by = i;
      draw();
    } }, column.title)));
  function draw() {
    const value = columns[state.by].value;
    const order = (a, b) => typeof a === "string" ? a.localeCompare(b) : (a ?? -Infinity) - (b ?? -Infinity);
    const rows = [...state.rows].sort((a, b) => (state.down ? -1 : 1) * order(value(a), value(b)));
    heads.forEach((cell, i) => {
      cell.setAttribute("aria-sort", i !== state.by ? "none" : state.down ? "descending" : "ascending");
      cell.firstChild.textContent = columns[i].title + (i !== state.by ? "" : state.down ? " ↓" : " ↑");
    });
    body.replaceChildren(...rows.slice(0, limit).map((row) => {
      const line = el("tr", null, ...columns.map((column) => el("td", { className: column.number ? "number" : "" }, column.cell(row))));
      line.row = row;
      return line;
    }));
    note.textContent = rows.length > limit ? `The first ${limit} of ${rows.length} are shown.` : rows.length ? "" : "None.";
  }
  const table = el("table", null, el("thead", null, el("tr", null, ...heads)), body);
  /** Scroll what the table stands in until a row is seen, and nothing else. */
  function reveal(row, focus = false) {
    const line = [...body.rows].find((other) => other.row === row);
    if (!line) return;
    const box = table.parentNode, at = line.offsetTop, head = table.tHead.offsetHeight;
    if (at - head < box.scrollTop || at + line.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = at - 2 * head;
    if (focus) line.querySelector("button")?.focus();
  }
  return { table, body, note, reveal, rows: () => state.rows, show(rows) { state.rows = rows; draw(); } };
}
