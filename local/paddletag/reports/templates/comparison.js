// Runs side by side: a table to sort, each run's interval on one scale, and the settings that differ.

const ends = data.rows.flatMap((row) => row.interval);
const [lowest, highest] = [Math.min(...ends), Math.max(...ends)];
const place = (value) => `${highest > lowest ? 100 * (value - lowest) / (highest - lowest) : 50}%`;

/** A run's interval as a line, its figure as a dot, on the scale of all runs. */
function range([low, value, high]) {
  const line = el("i"), dot = el("b");
  line.style.left = place(low);
  line.style.right = `calc(100% - ${place(high)})`;
  dot.style.left = place(value);
  return el("span", { className: "range", "aria-hidden": "true" }, line, dot);
}

function cell(row, i) {
  const [, text] = row.cells[i];
  if (i === 0) return el("b", null, text);
  if (data.columns[i].title === "95 % interval") return el("span", null, text, " ", range(row.interval));
  if (data.columns[i].title === "Difference" && row.apart) return el("b", null, text);
  return text;
}

const runs = sortableTable(data.columns.map((column, i) => ({
  title: column.title, number: column.number, value: (row) => row.cells[i][0], cell: (row) => cell(row, i),
})), { by: 1, down: true });
runs.table.id = "runs";
runs.show(data.rows);
main.append(
  head("Comparison of runs", data.headline),
  section(null, el("p", { id: "sideways", className: "faint small" }, "The table goes on to the right."), el("div", { className: "scroll" }, runs.table),
    data.rows.some((row) => row.apart) ? el("p", { className: "faint small" }, `A difference in bold: p is below ${data.level}, corrected where there are several tests.`) : null,
    ...data.notes.map((note) => el("p", { className: "small" }, note))));
if (data.settings.length) {
  const settings = sortableTable(["Setting", ...data.names].map((title, i) => ({
    title, value: (row) => row[i], cell: (row) => row[i],
  })));
  settings.table.id = "settings";
  settings.show(data.settings);
  main.append(section("Settings that differ", el("div", { className: "scroll" }, settings.table)));
}
main.append(el("section", null, el("details", null, el("summary", null, "Command"), el("p", { className: "small" }, el("code", null, data.command)))));
