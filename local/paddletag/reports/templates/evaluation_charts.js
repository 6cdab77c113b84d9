// Charts whose values can be read: with the pointer, by touch, and with the arrow keys.

const number = (value, digits = 3) => value === null || value === undefined ? "–" : value.toFixed(digits);
const short = (value) => value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));

function svgText(content, attributes) {
  const node = svg("text", attributes);
  node.textContent = content;
  return node;
}

/**
 * A chart with one stop for each x: a click, a pointer or an arrow key says what stands there.
 *
 * stops: [{x, ys: [[value, kind]], text}]; kind: "first" or "second", as in the legend {kind: name}. ends: {x: [from,
 * to], y: [from, to]}. ticks: {x: [numbers], y: [numbers]}. back: what is drawn behind, (x, y) => [SVG nodes].
 */
function chart(title, stops, { ends, ticks, unit, legend = {}, back = () => [], lines = true, size = () => 3 }) {
  const [width, height, left, right, top, bottom] = [360, 200, 54, 348, 12, 166];
  const across = (from, to) => (value, [low, high]) => high > low ? from + (to - from) * (value - low) / (high - low) : (from + to) / 2;
  const x = (value) => across(left, right)(value, ends.x), y = (value) => across(bottom, top)(value, ends.y);
  const kinds = [...new Set(stops.flatMap((stop) => stop.ys.map(([, kind]) => kind)))];
  const values = (kind) => stops.flatMap((stop) => stop.ys.filter(([, other]) => other === kind).map(([value]) => [x(stop.x), y(value), stop]));
  const cursor = svg("path", { class: "cursor-line" });
  const marks = kinds.flatMap((kind) => values(kind).map(([a, b, stop]) => {
    const mark = svg("circle", { cx: a, cy: b, r: size(stop), class: kind });
    mark.stop = stop;
    return mark;
  }));
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    ...ticks.y.map((value) => svg("path", { class: "grid", d: `M${left} ${y(value)}H${right}` })),
    ...back(x, y), svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }), cursor,
    ...(lines ? kinds.map((kind) => svg("polyline", { class: kind, points: values(kind).map(([a, b]) => `${a},${b}`).join(" ") })) : []), ...marks,
    ...ticks.y.map((value) => svgText(short(value), { x: left - 6, y: y(value) + 4, "text-anchor": "end" })),
    ...ticks.x.map((value) => svgText(short(value), { x: x(value), y: bottom + 16, "text-anchor": "middle" })),
    svgText(unit, { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }));
  const said = el("p", { className: "said small" });
  const plot = el("div", { className: "plot", tabIndex: 0, role: "slider", "aria-label": `${title}: values, arrow keys move`,
    "aria-valuemin": 1, "aria-valuemax": stops.length }, image);
  let at = stops.length - 1;
  function go(n) {
    at = Math.max(0, Math.min(stops.length - 1, n));
    const stop = stops[at];
    cursor.setAttribute("d", `M${x(stop.x)} ${top}V${bottom}`);
    for (const mark of marks) mark.classList.toggle("on", mark.stop === stop);
    said.textContent = stop.text;
    plot.setAttribute("aria-valuenow", at + 1);
    plot.setAttribute("aria-valuetext", stop.text);
  }
  plot.onpointermove = plot.onpointerdown = (event) => {
    const box = image.getBoundingClientRect(), place = (event.clientX - box.left) / box.width * width;
    go(stops.reduce((best, stop, n) => Math.abs(x(stop.x) - place) < Math.abs(x(stops[best].x) - place) ? n : best, 0));
  };
  plot.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -stops.length, End: stops.length }[event.key];
    if (!step) return;
    event.preventDefault();
    go(at + step);
  };
  go(at);
  const entries = Object.entries(legend).filter(([kind]) => kinds.includes(kind));
  return el("figure", null, el("figcaption", null, el("b", null, title), ...entries.map(([kind, name]) => el("span", { className: `key ${kind} faint small` }, name))), plot, said);
}

/** What stands at the epochs. columns: [[column of the history, kind]]. legend: {kind: name}, or {} where it needs none. */
function historyChart(title, columns, legend) {
  const { history } = data;
  const stops = history.epoch.map((epoch, i) => {
    const ys = columns.map(([key, kind]) => [(history[key] || [])[i] ?? null, kind]).filter(([value]) => value !== null);
    const told = ys.map(([value, kind]) => (columns.length > 1 ? `${legend[kind]}: ` : "") + Number(value.toPrecision(4)));
    return { x: epoch, ys, text: `Epoch ${epoch}: ${told.join(", ") || "no value"}` };
  }).filter((stop) => stop.x !== null);
  const values = stops.flatMap((stop) => stop.ys.map(([value]) => value));
  const epochs = stops.map((stop) => stop.x);
  const limits = (list) => [Math.min(...list), Math.max(...list)];
  const ends = { x: limits(epochs), y: limits(values) };
  const ticks = { x: [...new Set(ends.x)], y: [...new Set(ends.y)] };
  return chart(title, stops, { ends, ticks, unit: "epoch", legend, size: () => stops.length > 60 ? 1.5 : 3 });
}

/** The charts of the training, for what its history has. */
function learningCurves() {
  const { history } = data;
  const has = (key) => (history[key] || []).some((value) => value !== null && (key !== "skipped" || value > 0));
  if (!(history.epoch || []).length) return null;
  const sides = { first: "training clips", second: "validation clips" };
  const panels = [
    ["Loss", [["loss", "first"], ["valid_loss", "second"]], sides],
    ["Accuracy", [["accuracy", "first"], ["valid_accuracy", "second"]], sides],
    ["mAP", [["valid_mAP", "second"]], sides], ["Learning rate", [["lr", "first"]], {}], ["Steps left out", [["skipped", "first"]], {}],
  ].map(([title, columns, legend]) => [title, columns.filter(([key]) => has(key)), legend]).filter(([, columns]) => columns.length);
  return section("Learning curves", el("div", { className: "curves" }, ...panels.map((panel) => historyChart(...panel))));
}

/** Whether scores mean what they say: the share of right answers over the score, and their mean distance in words. */
function calibration() {
  const { ece, bins } = metrics.calibration || {};
  const used = (bins || []).filter((bin) => bin.n > 0);
  if (!used.length) return null;
  const [what, whats] = single ? ["clip", "clips"] : ["pair of a clip and a label", "pairs of a clip and a label"];
  const right = single ? "of the answers are right" : "have the label";
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const total = used.reduce((sum, bin) => sum + bin.n, 0);
  const excess = used.reduce((sum, bin) => sum + bin.n * (bin.confidence - bin.accuracy), 0) / total;
  const trend = Math.abs(excess) < 0.005 ? "" : ` On the whole, the scores are too ${excess > 0 ? "high" : "low"}.`;
  const most = Math.max(...used.map((bin) => bin.n));
  const stops = used.map((bin) => ({
    x: bin.confidence, ys: [[bin.accuracy, "first"]], n: bin.n,
    text: `Scores ${short(bin.from)} to ${short(bin.to)}: ${count(bin.n, what, whats)}, mean score ${bin.confidence.toFixed(3)}, ${percent(bin.accuracy)} ${right}`,
  }));
  const quarters = [0, 0.25, 0.5, 0.75, 1];
  const back = (x, y) => [svg("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }),
    ...used.map((bin) => svg("rect", { class: "amount", x: x(bin.from) + 1, width: Math.max(1, x(bin.to) - x(bin.from) - 2),
      y: y(0.25 * Math.sqrt(bin.n / most)), height: y(0) - y(0.25 * Math.sqrt(bin.n / most)) }))];
  const picture = chart(single ? "Share of right answers" : "Share that has the label", stops, {
    ends: { x: [0, 1], y: [0, 1] }, ticks: { x: quarters, y: quarters }, unit: "score of the model", back,
    size: (stop) => 2.5 + 4.5 * Math.sqrt(stop.n / most), // few clips say little
  });
  const whole = section("Do the scores mean what they say?",
    el("p", null, `A score differs from the share of ${single ? "right answers" : "clips that have the label"} by `,
      el("b", null, `${(100 * ece).toFixed(1)} percentage points`), ` on average (expected calibration error ${ece.toFixed(3)}).${trend}`),
    el("div", { className: "curves" }, picture, el("p", { className: "faint small" },
      `On the dashed line, a score of 0.8 is right in 8 of 10 cases. Points below the line: the scores are too high. Large points and high bars: many ${single ? "clips" : "pairs"} have such scores.`)));
  whole.id = "calibration";
  return whole;
}
