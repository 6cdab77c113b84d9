// How good a model is, and what it gets wrong, to hear.

const { metrics, labels, clips } = data;
const single = data.task === "single_label";
const guess = (clip) => clip.top[0][0];
const wrong = (clip) => !clip.labels.includes(guess(clip));
const names = (numbers) => numbers.map((k) => labels[k]).join(", ") || "none";
const number = (value, digits = 3) => value === null || value === undefined ? "–" : value.toFixed(digits);
const SHOWN = 12;

function figure(title, value, interval, unit = "") {
  const scale = unit ? 100 : 1, digits = unit ? 1 : 3;
  const shown = typeof value === "string" ? value : number(value && scale * value, digits) + unit;
  const range = interval && `95 % interval: ${interval.map((end) => (scale * end).toFixed(digits)).join(" to ")}${unit}`;
  return el("div", null, el("span", { className: "faint" }, title),
    el("b", null, shown),
    range ? el("span", { className: "faint small" }, range) : null);
}

function card(clip) {
  const url = soundUrl(clip);
  const fault = el("p", { className: "alert small", role: "alert" });
  const audio = url && el("audio", { controls: true, preload: "none", src: url, "aria-label": clip.id });
  if (audio) audio.onerror = () => { fault.textContent = "Cannot be played: is the sound still beside the report?"; };
  return el("article", { className: "clip" },
    el("div", null, el("b", null, names(clip.labels)), ...(wrong(clip) ? [single ? ", taken for " : "; highest: ", el("b", null, labels[guess(clip)])] : [])),
    el("div", { className: "faint small" }, clip.id),
    audio || el("p", { className: "faint small" }, "The sound is not at hand."), fault,
    el("table", { className: "small" }, el("tbody", null, ...clip.top.map(([k, score]) => el("tr", null,
      el("td", { className: clip.labels.includes(k) ? "right" : "" }, (clip.labels.includes(k) ? "✓ " : "") + labels[k]),
      el("td", { className: "number" }, score.toFixed(3), bar(score)))))));
}

/** Cards of clips, some at a time. */
function cards(found) {
  const grid = el("div", { className: "clips" });
  const button = el("button", { type: "button" });
  let shown = 0;
  function add() {
    grid.append(...found.slice(shown, shown + SHOWN).map(card));
    shown = Math.min(found.length, shown + SHOWN);
    button.textContent = `More (${found.length - shown})`;
    button.hidden = shown === found.length;
  }
  button.onclick = add;
  add();
  return el("div", null, grid, el("p", null, button));
}

function confusion() {
  const cells = labels.map(() => labels.map(() => []));
  for (const clip of clips) for (const k of clip.labels) cells[k][guess(clip)].push(clip);
  const below = el("div", { id: "cell", "aria-live": "polite" });
  let pressed = null;
  const body = cells.map((row, i) => {
    const total = Math.max(1, row.reduce((sum, cell) => sum + cell.length, 0));
    return el("tr", null, el("th", { scope: "row", title: labels[i] }, labels[i]), ...row.map((cell, j) => {
      if (!cell.length) return el("td", null, "·");
      const what = i === j ? `${labels[i]}, recognised` : `${labels[i]}, taken for ${labels[j]}`;
      const button = el("button", { type: "button", title: `${cell.length} × ${what}`, "aria-label": `${cell.length} × ${what}`, "aria-pressed": "false" }, String(cell.length));
      const share = cell.length / total;
      const colour = i === j ? "var(--accent)" : "var(--warm)";
      button.style.background = `color-mix(in oklab, ${colour} ${Math.round(20 + 80 * share)}%, var(--panel))`;
      if (share > 0.4) button.style.color = "var(--panel)";
      button.onclick = () => {
        if (pressed) pressed.setAttribute("aria-pressed", "false");
        pressed = button;
        button.setAttribute("aria-pressed", "true");
        below.replaceChildren(el("h2", null, `${what}: ${cell.length} clip${cell.length === 1 ? "" : "s"}`), cards(cell));
      };
      return el("td", null, button);
    }));
  });
  return section("Confusion matrix", el("p", { className: "faint small" }, "Rows: the true label. Columns: the model's. Choose a cell to hear its clips."),
    el("div", { className: "beside" }, el("div", { className: "scroll" }, el("table", { className: "matrix", id: "matrix" },
      el("thead", null, el("tr", null, el("th"), ...labels.map((label) => el("th", { scope: "col", title: label }, el("span", null, label))))),
      el("tbody", null, ...body))), below));
}

function perClass() {
  const rows = Object.entries(metrics.per_class || {}).map(([label, values]) => ({ label, ...values }));
  const keys = single ? ["recall", "precision"] : ["ap", "auc"];
  const titles = { recall: "Recall", precision: "Precision", ap: "Average precision", auc: "AUC" };
  const table = sortableTable([
    { title: "Label", value: (row) => row.label, cell: (row) => row.label },
    { title: "Clips", value: (row) => row.n, number: true, cell: (row) => String(row.n) },
    ...keys.map((key) => ({ title: titles[key], value: (row) => row[key], number: true, cell: (row) => {
      const cell = el("span", null, number(row[key]));
      if (row[key] !== null && row[key] !== undefined) cell.append(bar(row[key]));
      return cell;
    } })),
  ], { by: 2 });
  table.table.id = "classes";
  table.show(rows);
  return section("Classes", el("div", { className: "scroll" }, table.table), table.note);
}

function curve(name, epochs, values) {
  const points = epochs.map((epoch, i) => [epoch, values[i]]).filter(([x, y]) => x !== null && y !== null);
  if (!points.length) return null;
  const short = (y) => y && Math.abs(y) < 0.001 ? y.toExponential(1) : String(Number(y.toPrecision(3)));
  const [left, right, top, bottom] = [48, 310, 10, 140];
  const ends = (list) => [Math.min(...list), Math.max(...list)];
  const [[x0, x1], [y0, y1]] = [ends(points.map((p) => p[0])), ends(points.map((p) => p[1]))];
  const x = (value) => x1 > x0 ? left + (right - left) * (value - x0) / (x1 - x0) : (left + right) / 2;
  const y = (value) => y1 > y0 ? bottom - (bottom - top) * (value - y0) / (y1 - y0) : (top + bottom) / 2;
  const text = (content, at) => { const node = svg("text", at); node.textContent = content; return node; };
  const dots = points.map(([a, b]) => {
    const title = svg("title");
    title.textContent = `epoch ${a}: ${b}`;
    return svg("circle", { cx: x(a), cy: y(b), r: points.length > 60 ? 1.5 : 3 }, title);
  });
  const image = svg("svg", { viewBox: "0 0 320 172", role: "img", "aria-label": `${name} over the epochs` },
    svg("path", { d: `M${left} ${top}V${bottom + 4}H${right}` }),
    svg("polyline", { points: points.map(([a, b]) => `${x(a)},${y(b)}`).join(" ") }), ...dots,
    text(short(y1), { x: left - 5, y: y(y1) + 4, "text-anchor": "end" }),
    ...(y1 > y0 ? [text(short(y0), { x: left - 5, y: bottom + 4, "text-anchor": "end" })] : []),
    text(String(x0), { x: x(x0), y: bottom + 18, "text-anchor": "middle" }),
    ...(x1 > x0 ? [text(String(x1), { x: right, y: bottom + 18, "text-anchor": "middle" })] : []),
    text("epoch", { x: (left + right) / 2, y: bottom + 28, "text-anchor": "middle" }));
  return el("figure", null, el("figcaption", { className: "faint small" }, name), image);
}

function settings(value, prefix = "") {
  const inside = (v) => v !== null && typeof v === "object" && (!Array.isArray(v) || v.some(inside));
  if (!inside(value)) {
    return [el("tr", null, el("td", null, prefix), el("td", null, typeof value === "string" ? value : JSON.stringify(value)))];
  }
  return Object.entries(value).flatMap(([key, inner]) => settings(inner, prefix ? `${prefix}.${key}` : key));
}

const epochs = data.history.epoch || [];
const mistakes = clips.filter(wrong);
const CURVES = {
  loss: "Loss, training", valid_loss: "Loss, validation",
  accuracy: "Accuracy, training", valid_accuracy: "Accuracy, validation",
  valid_mAP: "mAP, validation", lr: "Learning rate", skipped: "Steps left out",
};
const curves = Object.keys(CURVES).filter((key) => (data.history[key] || []).some((value) => value !== null && (key !== "skipped" || value > 0)));
const means = [ // how the scores came about, where that is not the plain way
  Array.isArray(data.about) && `${data.about.length} models`,
  metrics.tta > 1 && `${metrics.tta} copies of each clip, rolled in time (--tta ${metrics.tta})`,
].filter(Boolean);
main.append(
  head(`${data.model}, ${data.side}`,
    `${metrics.n} clips that were not trained on · ${labels.length} classes, ${single ? "one label" : "several labels"} per clip`,
    ...(means.length ? [`Scores are means over ${means.join(" and ")}`] : [])),
  section(null, el("div", { className: "figures" }, ...(single
    ? [figure("Accuracy", metrics.accuracy, metrics.accuracy_ci, " %"), figure("Macro F1", metrics.macro_f1), figure("Mistakes", String(mistakes.length))]
    : [figure("mAP", metrics.mAP, metrics.mAP_ci), figure("AUC", metrics.auc), figure("d-prime", metrics.d_prime)]))),
  ...(single ? [confusion()] : []),
  section("The most confident mistakes", el("p", { className: "faint small" },
    mistakes.length
      ? `${mistakes.length} of ${clips.length} clips have a highest label that is not ${single ? "theirs" : "one of theirs"}; those that the model is surest of come first.`
      : "None: the highest label of every clip is right."), cards(mistakes)),
  perClass());
if (epochs.length) {
  main.append(section("Learning curve", el("div", { className: "curves" }, ...curves.map((key) => curve(CURVES[key], epochs, data.history[key])).filter(Boolean))));
}
main.append(el("section", null, el("details", null, el("summary", null, "Configuration"),
  el("table", { className: "settings" }, el("tbody", null, ...settings({ ...data.about, evaluation: { command: metrics.command ?? "", tta: metrics.tta ?? 1 } }))))));

document.addEventListener("play", ({ target }) => {
  for (const other of document.querySelectorAll("audio")) if (other !== target) other.pause();
}, true);
