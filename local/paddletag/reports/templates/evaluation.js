// How good a model is: the result, what it confuses, its clips, its classes, its training.

const SMALL = 30; // labels up to which the matrix has large cells
const MOST = 100; // labels that a matrix shows at most
const LISTED = 5; // pairs, or labels, that the list shows at first

function figure(title, value, note) {
  return el("div", null, el("span", { className: "faint small" }, title), el("b", null, value), note ? el("span", { className: "faint small" }, note) : null);
}

/** A scale from 0 to 1 with the value and its interval. */
function gauge(value, interval) {
  const percent = (share) => `${100 * share}%`;
  const fill = el("i"), range = el("u");
  fill.style.width = percent(value);
  if (interval) [range.style.left, range.style.width] = [percent(interval[0]), percent(interval[1] - interval[0])];
  return el("div", { className: "gauge", "aria-hidden": "true" }, fill, range);
}

function result() {
  const right = clips.length - clips.filter(wrong).length;
  const range = (ends, factor, digits) => ends ? `95 % interval ${ends.map((end) => (factor * end).toFixed(digits)).join(" to ")}` : "";
  const error = metrics.calibration && figure("Calibration error", number(metrics.calibration.ece), "0 is best");
  const share = clips.length ? 100 * right / clips.length : 0;
  if (single) {
    const said = [`${share.toFixed(1)} %`, range(metrics.accuracy_ci, 100, 1)].filter(Boolean).join(", ");
    return section(null, el("div", { className: "result" },
      el("div", { className: "main-figure" }, el("b", null, number(100 * metrics.accuracy, 1), el("small", null, " %")), el("span", null, "accuracy")),
      el("div", { className: "said-of-it" }, el("p", { id: "result" }, `${right} of ${count(clips.length, "clip")} right (${said})`), gauge(metrics.accuracy, metrics.accuracy_ci)),
      el("div", { className: "figures" }, figure("Mistakes", String(clips.length - right)), figure("Macro F1", number(metrics.macro_f1), "1 is best"), error)));
  }
  const said = metrics.mAP === null ? "No mAP: no label has clips both with it and without it"
    : `mAP ${number(metrics.mAP)} over ${count(Object.keys(metrics.per_class || {}).length, "label")}${metrics.mAP_ci ? ` (${range(metrics.mAP_ci, 1, 3)})` : ""}`;
  return section(null, el("div", { className: "result" },
    el("div", { className: "main-figure" }, el("b", null, number(metrics.mAP)), el("span", null, "mean average precision")),
    el("div", { className: "said-of-it" }, el("p", { id: "result" }, said),
      ...(metrics.mAP === null ? [] : [gauge(metrics.mAP, metrics.mAP_ci)]),
      el("p", { className: "faint small" }, `The highest label is right for ${right} of ${count(clips.length, "clip")} (${share.toFixed(1)} %).`)),
    el("div", { className: "figures" }, figure("AUC", number(metrics.auc), "1 is best, 0.5 is chance"), figure("d-prime", number(metrics.d_prime), "more is better"), error)));
}

/** A list of buttons, the first few at first; `choose` gets the entry. */
function choices(entries, content, choose) {
  const buttons = entries.map((entry) => el("button", { type: "button", "aria-pressed": "false", onclick: () => choose(entry) }, ...content(entry)));
  const items = buttons.map((button, n) => el("li", { hidden: n >= LISTED }, button));
  const more = el("button", { type: "button", className: "plain", hidden: entries.length <= LISTED }, `All ${entries.length}`);
  more.onclick = () => { more.hidden = true; for (const item of items) item.hidden = false; buttons[LISTED].focus(); };
  return { node: el("div", { className: "choices" }, el("ul", null, ...items), more),
    mark(chosen) { buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(entries[n] === chosen))); } };
}

/** The labels that a matrix has: all, or of very many those that are confused most. */
function matrixLabels(pairs) {
  const all = labels.map((_, k) => k);
  if (labels.length <= MOST) return all;
  const order = new Set([...pairs.flatMap((pair) => [pair.truth, pair.guess]), ...all]);
  return [...order].slice(0, MOST).sort((a, b) => a - b);
}

function matrix(pairs, shown, cell, choose) {
  const buttons = new Map(); // "true label, model's label" -> button
  const body = shown.map((i) => {
    const total = Math.max(1, labels.reduce((sum, _, j) => sum + cell(i, j).found.length, 0));
    return el("tr", null, el("th", { scope: "row", title: labels[i] }, labels[i]), ...shown.map((j) => {
      const pair = cell(i, j), n = pair.found.length;
      if (!n) return el("td", null, "·");
      const what = pairText(pair), share = n / total;
      const button = el("button", { type: "button", title: what, "aria-label": what, "aria-pressed": "false", tabIndex: -1 }, String(n));
      const most = share > 0.8; // the shades between leave neither dark nor light text readable
      button.style.background = `color-mix(in oklab, ${i === j ? "var(--accent)" : "var(--warm)"} ${Math.round(most ? 60 + 40 * share : 25 + 30 * share)}%, var(--panel))`;
      if (most) button.style.color = "var(--panel)";
      button.onclick = () => choose(pair, true);
      buttons.set(pair, button);
      return el("td", null, button);
    }));
  });
  const heads = shown.map((k) => el("th", { scope: "col", title: labels[k] }, el("span", null, labels[k])));
  const table = el("table", { className: shown.length > SMALL ? "matrix tight" : "matrix", id: "matrix", "aria-label": "Confusion matrix" },
    el("thead", null, el("tr", null, el("th"), ...heads)), el("tbody", null, ...body));
  table.style.setProperty("--count", shown.length);
  const order = [...buttons.values()];
  const place = (button) => [button.closest("tr").rowIndex, button.parentNode.cellIndex];
  const aim = (event) => { // the labels of the cell under the pointer, or with the focus
    for (const node of table.querySelectorAll(".on")) node.classList.remove("on");
    const td = event.target.closest("td");
    if (td) for (const node of [td.parentNode.firstChild, heads[td.cellIndex - 1]]) node.classList.add("on");
  };
  table.onpointerover = aim;
  table.addEventListener("focusin", aim);
  table.onkeydown = (event) => { // one stop for Tab; arrows go from number to number
    const here = order.indexOf(document.activeElement);
    if (here < 0) return;
    const [row, column] = place(order[here]);
    const near = (step) => {
      const rows = order.map((button) => place(button)[0]).filter((other) => step * (other - row) > 0);
      const next = rows.length ? (step > 0 ? Math.min(...rows) : Math.max(...rows)) : row;
      return order.filter((button) => place(button)[0] === next).sort((a, b) => Math.abs(place(a)[1] - column) - Math.abs(place(b)[1] - column))[0];
    };
    const to = { ArrowRight: () => order[here + 1], ArrowLeft: () => order[here - 1], ArrowDown: () => near(1), ArrowUp: () => near(-1),
      Home: () => order[0], End: () => order.at(-1) }[event.key];
    if (!to) return;
    event.preventDefault();
    to()?.focus();
  };
  return { table, mark(pair) {
    for (const button of order) { button.setAttribute("aria-pressed", "false"); button.tabIndex = -1; }
    const button = buttons.get(pair) || order[0];
    if (button) button.tabIndex = 0;
    buttons.get(pair)?.setAttribute("aria-pressed", "true");
    return buttons.get(pair);
  } };
}

function pairText({ truth, guess: k, found }) {
  const were = found.length === 1 ? "was" : "were";
  const clip = `${count(found.length, "clip")} of ${labels[truth]} ${were}`;
  return truth === k ? `${clip} recognised` : `${clip} taken for ${labels[k]}`;
}

/** What is confused: the pairs with their clips, the largest open, beside the matrix. */
function confusions() {
  const none = (truth, k) => ({ truth, guess: k, found: [] });
  const cells = new Map();
  const cell = (i, j) => cells.get(i * labels.length + j) || none(i, j);
  for (const clip of clips) {
    for (const k of clip.labels) {
      const key = k * labels.length + guess(clip);
      if (!cells.has(key)) cells.set(key, none(k, guess(clip)));
      cells.get(key).found.push(clip);
    }
  }
  const pairs = [...cells.values()].filter((pair) => pair.truth !== pair.guess)
    .sort((a, b) => b.found.length - a.found.length || a.truth - b.truth || a.guess - b.guess);
  const shown = matrixLabels(pairs);
  const title = el("h3", { "aria-live": "polite" });
  const found = el("div");
  const back = el("button", { type: "button", className: "plain", id: "back", hidden: true }, "Back to the matrix");
  const panel = el("div", { id: "cell" });
  const list = choices(pairs, (pair) => [el("span", null, labels[pair.truth], " → ", el("span", { className: "taken" }, labels[pair.guess])),
    el("b", null, String(pair.found.length))], choose);
  const grid = matrix(pairs, shown, cell, choose);
  function choose(pair, fromMatrix = false) {
    title.textContent = `${pairText(pair)}.`;
    found.replaceChildren(cards(pair.found, 4));
    list.mark(pair);
    const button = grid.mark(pair);
    back.hidden = !fromMatrix;
    back.onclick = () => { button.scrollIntoView({ block: "center", inline: "center" }); button.focus(); };
    if (fromMatrix) reveal(title);
  }
  panel.append(pairs.length ? list.node : el("p", null, "Nothing: every clip is right."), title, back, found);
  if (pairs.length) choose(pairs[0]);
  else grid.mark(null);
  const left = labels.length - shown.length;
  const whole = section("What it confuses", el("div", { className: "beside" }, panel, el("div", { className: "map" },
    el("p", { className: "faint small" }, `Rows: the true label. Columns: the model's label. A number opens its clips.${left ? ` ${count(left, "label")} with few mistakes or none ${left === 1 ? "is" : "are"} left out.` : ""}`),
    el("div", { className: "scroll" }, grid.table))));
  if (pairs.length) whole.classList.add(shown.length > SMALL ? "wide" : "narrow");
  return whole;
}

/** All labels with their measures; a label opens its clips. */
function classTable(choose) {
  const rows = Object.entries(metrics.per_class || {}).map(([label, values]) => ({ label, ...values }));
  const columns = single ? [["recall", "Recall"], ["precision", "Precision"]] : [["ap", "Average precision"], ["auc", "AUC"]];
  const table = sortableTable([
    { title: "Label", value: (row) => row.label, cell: (row) => el("button", { type: "button", className: "plain", onclick: () => choose(labels.indexOf(row.label)) }, row.label) },
    { title: "Clips", value: (row) => row.n, number: true, cell: (row) => String(row.n) },
    ...columns.map(([key, title]) => ({ title, value: (row) => row[key], number: true, cell: (row) => {
      const cell = el("span", null, number(row[key]));
      if (row[key] !== null && row[key] !== undefined) cell.append(bar(row[key]));
      return cell;
    } })),
  ], { by: 2 });
  table.table.id = "classes";
  table.show(rows);
  return el("div", null, el("div", { className: "scroll classes", tabIndex: 0, role: "region", "aria-label": "Labels" }, table.table), table.note);
}

/** Several labels per clip: the labels, and the clips that speak against one; the weakest is open. */
function labelsAndClips() {
  const title = el("h3", { "aria-live": "polite" });
  const found = el("div");
  function choose(k, fromTable = true) {
    const { ap, n } = metrics.per_class[labels[k]];
    const own = (clip) => clip.own[clip.labels.indexOf(k)], other = (clip) => (clip.top.find(([j]) => j === k) || [])[1];
    const missed = clips.filter((clip) => clip.labels.includes(k)).sort((a, b) => own(a) - own(b));
    const heard = clips.filter((clip) => !clip.labels.includes(k) && other(clip) !== undefined).sort((a, b) => other(b) - other(a));
    title.textContent = `${labels[k]}: average precision ${number(ap)}${k === data.weakest ? ", the lowest of all" : ""} (${count(n, "clip")}).`;
    found.replaceChildren(...[["Clips that have it, lowest scores first", missed], ["Clips without it, highest scores first", heard]]
      .flatMap(([text, list]) => list.length ? [el("h4", null, text), cards(list, 4)] : []));
    if (fromTable) reveal(title);
  }
  if (data.weakest === null) return null;
  const table = classTable((k) => choose(k));
  choose(data.weakest, false);
  const whole = section("Where it is weak", el("div", { className: "beside" }, el("div", { id: "cell" }, title, found),
    el("div", { className: "map" }, el("p", { className: "faint small" }, "A label opens its clips. A column's title sorts."), table)));
  whole.classList.add("wide");
  return whole;
}

function settings(value, prefix = "") {
  const inside = (v) => v !== null && typeof v === "object" && (!Array.isArray(v) || v.some(inside));
  if (!inside(value)) {
    return [el("tr", null, el("td", null, prefix), el("td", null, typeof value === "string" ? value : JSON.stringify(value)))];
  }
  return Object.entries(value).flatMap(([key, inner]) => settings(inner, prefix ? `${prefix}.${key}` : key));
}

const means = [ // how the scores came about, where that is not the plain way
  Array.isArray(data.about) && `${data.about.length} models`,
  metrics.tta > 1 && `${metrics.tta} copies of each clip, rolled in time (--tta ${metrics.tta})`,
].filter(Boolean);
main.append(
  head([data.data_set, data.model, data.side, metrics.date].filter(Boolean).join(" · "),
    `${count(metrics.n, "clip")} that the model was not trained on · ${count(labels.length, "label")}, ${single ? "one" : "several"} per clip`,
    ...(means.length ? [`Scores are means over ${means.join(" and ")}`] : [])),
  result(),
  ...[single ? confusions() : labelsAndClips(), clipSection()].filter(Boolean),
  el("div", { className: "columns" }, ...[
    single ? section("Labels", el("p", { className: "faint small" }, "A label opens its clips. A column's title sorts."), classTable((k) => clipSearch.show(k))) : null,
    calibration()].filter(Boolean)),
  ...[learningCurves()].filter(Boolean),
  el("section", null, el("details", null, el("summary", null, "Configuration"),
    el("table", { className: "settings" }, el("tbody", null, ...settings({ ...data.about, evaluation: { command: metrics.command ?? "", tta: metrics.tta ?? 1 } }))))));
