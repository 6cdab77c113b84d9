// One timeline: waveform, spectrogram and a lane per class under one cursor; events that follow the threshold.

const { times } = data; // microseconds
const raw = bytes(data.scores).buffer;
const windows = times.onsets.length;
const from = times.onsets.map((t) => t / 1e6), to = times.offsets.map((t) => t / 1e6); // what each window speaks for
const classes = data.labels.map((label, k) => ({
  label, own: data.own[k], low: data.low[k], scores: new Float32Array(raw, 4 * windows * k, windows),
}));
const LANES = 12; // at first
const ROWS = 500;

/** The threshold and the lower threshold of a class, in float32 as its scores. */
const highOf = ({ own }) => Math.fround(own ?? threshold);
const lowOf = (item) => Math.min(highOf(item), Math.fround(item.low ?? 1));

/** The events of a class, as find_events (tagging/events.py) finds them: tests compare the two. */
function eventsOf(item) {
  const { onsets, offsets } = times, { label, scores } = item, high = highOf(item), low = lowOf(item);
  const found = [];
  for (let first = 0, last; first < windows; first = last + 1) {
    last = first;
    if (!(scores[first] >= high)) continue;
    while (last + 1 < windows && scores[last + 1] >= low) last++;
    let onset = onsets[first], offset = offsets[last];
    const by = Math.min(times.narrow, Math.floor(Math.max(offset - onset - times.hop, 0) / 2));
    if (first > 0) onset = Math.max(onset + by, onsets[0]);
    if (last < windows - 1) offset = Math.min(offset - by, offsets[windows - 1]);
    const before = found.at(-1), gap = before && onset - before.offset;
    if (before && (gap <= 0 || gap < times.min_gap)) Object.assign(before, { offset, last });
    else found.push({ label, first, last, onset, offset });
  }
  return found.filter(({ onset, offset }) => offset - onset >= times.min_duration).map(({ first, last, onset, offset }) => {
    const part = scores.subarray(first, last + 1);
    const peak = part.reduce((a, b) => Math.max(a, b)), mean = part.reduce((a, b) => a + b) / part.length;
    return { label, onset: onset / 1e6, offset: offset / 1e6, peak, mean };
  });
}

// The player.

const audio = el("audio", { preload: "auto", src: soundUrl(data) });
const alertLine = el("p", { className: "alert", role: "alert" });
audio.onerror = () => { alertLine.textContent = "This browser cannot play the sound" + (data.audio ? ": is it still beside the report?" : "."); };
let until = null; // where the event that is being played ends
let playing = null; // that event

/** Go there. wavesurfer's own setTime loses what comes while it is on its way to another place. */
function seek(time, to = null, event = null) {
  until = to;
  playing = event;
  audio.currentTime = Math.max(0, Math.min(data.seconds, time));
  update();
}

function listen(from, to = null, event = null) {
  seek(from, to, event);
  start();
}

function start() {
  audio.play().catch(() => {}); // a fault is told by audio.onerror
}

function toggle() {
  until = playing = null;
  if (audio.paused) start();
  else audio.pause();
}

const play = el("button", { id: "play", type: "button", onclick: toggle }, "Play");
const time = el("output", { id: "time", className: "clock" });
const speed = el("select", { id: "speed", onchange: () => { audio.playbackRate = Number(speed.value); } },
  ...["0.5", "1", "1.5", "2"].map((rate) => el("option", { value: rate, selected: rate === "1" }, `${rate}×`)));
const zoom = el("input", { id: "zoom", type: "range", min: 0, max: Math.max(1, Math.min(4, Math.log2(data.seconds / 4))), step: 0.5, value: 0 });

// The timeline.

const cursor = el("div", { className: "cursor" });
const wave = el("div", {
  id: "wave", className: "track wave", tabIndex: 0, role: "slider", "aria-label": "Position in the sound",
  "aria-valuemin": "0", "aria-valuemax": data.seconds.toFixed(2),
});
const ruler = el("div", { className: "track ruler" });
const picture = el("div", { className: "track spectrogram" },
  el("img", { src: `data:image/png;base64,${data.spectrogram}`, alt: "log-mel spectrogram" }),
  ...data.frequencies.map(([kilohertz, height]) => {
    const line = el("div", { className: "hertz" }, el("span", null, `${kilohertz} kHz`));
    line.style.bottom = `${100 * height}%`;
    return line;
  }));
const lanes = el("div");
const timeline = el("div", { className: "timeline" },
  ...[[`Waveform, peak ${Math.max(...data.peaks).toFixed(2)}`, wave], ["Log-mel spectrogram", picture], ["", ruler]].map(([name, track]) => el("div", { className: "row" },
    el("div", { className: "name faint" }, ...(name ? [name] : [])), track)),
  lanes,
  el("div", { className: "over" }, cursor));
const scroller = el("div", { className: "scroll" }, timeline);

function timeAt(event, track) {
  const box = track.getBoundingClientRect();
  return data.seconds * Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
}
for (const track of [wave, picture]) track.onclick = (event) => seek(timeAt(event, track));

/** Give a class its lane, when it is first shown. */
function lane(item) {
  if (item.row) return item.row;
  let outline = "";
  item.scores.forEach((score, i) => {
    const y = (1 - score).toFixed(4);
    outline += `H${to[i - 1] ?? from[0]}V${y}H${to[i]}`;
  });
  const best = item.scores.indexOf(item.scores.reduce((a, b) => Math.max(a, b)));
  item.marks = svg("g");
  item.line = svg("line", { x1: 0, x2: data.seconds, "vector-effect": "non-scaling-stroke" });
  item.now = el("span", { className: "number" });
  const track = el("div", { className: "track lane" }, svg("svg",
    { viewBox: `0 0 ${data.seconds} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
    item.marks, svg("path", { d: `M${from[0]} 1${outline}V1Z` }), item.line));
  track.onclick = (event) => listen(timeAt(event, track));
  const hint = `Play ${item.label} where it scores highest`;
  item.row = el("div", { className: "row" }, el("div", { className: "name" },
    el("button", { type: "button", className: "plain", title: hint, onclick: () => listen(from[best]) }, item.label), item.now), track);
  return item.row;
}

function rule() {
  const width = wave.clientWidth;
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find((s) => s * width / data.seconds >= 60) || 7200;
  const marks = [];
  for (let n = 0; n * step < data.seconds; n++) {
    const mark = el("span", null, clock(n * step, step < 1 ? 1 : 0));
    mark.style.left = `${100 * n * step / data.seconds}%`;
    if ((data.seconds - n * step) * width / data.seconds > 40) marks.push(mark);
  }
  ruler.replaceChildren(...marks);
}
new ResizeObserver(rule).observe(wave);
zoom.oninput = () => { timeline.style.width = `${100 * 2 ** zoom.value}%`; follow(); };

// Threshold, filter, events.

const slider = el("input", { id: "threshold", type: "range", min: 0.01, max: 0.99, step: 0.01, value: data.threshold });
const shownThreshold = el("output", { id: "shown-threshold" });
const filter = el("input", { id: "filter", type: "search", placeholder: "part of a name" });
const more = el("button", { id: "more", type: "button", "aria-expanded": "false" });
const count = el("h2", { id: "count" });
const left = el("p", { className: "faint small" });
const rules = el("p", { id: "rules", className: "faint small" });
let threshold = data.threshold; // as given, until the slider moves: it may lie between its steps
let all = false;
let shown = []; // classes with a lane

const events = sortableTable([
  { title: "Start", value: (e) => e.onset, number: true, cell: (e) => clock(e.onset) },
  { title: "End", value: (e) => e.offset, number: true, cell: (e) => clock(e.offset) },
  { title: "Label", value: (e) => e.label, cell: (e) => el("button", { type: "button", className: "plain", onclick: () => {
    if (playing === e && !audio.paused) audio.pause();
    else listen(e.onset, e.offset, e);
  } }, e.label) },
  { title: "Peak", value: (e) => e.peak, number: true, cell: (e) => e.peak.toFixed(3) },
  { title: "Mean", value: (e) => e.mean, number: true, cell: (e) => e.mean.toFixed(3) },
], { limit: ROWS });
events.table.id = "events";
events.body.onclick = (event) => {
  if (!event.target.closest("button")) event.target.closest("tr").querySelector("button").click();
};
events.body.style.cursor = "pointer";
events.body.onkeydown = (event) => {
  const step = { ArrowDown: "nextSibling", ArrowUp: "previousSibling" }[event.key];
  const row = step && event.target.closest("tr")[step];
  if (row) row.querySelector("button").focus();
  if (step) event.preventDefault();
};

function draw() {
  const part = filter.value.trim().toLowerCase();
  const chosen = classes.filter((item) => item.label.toLowerCase().includes(part));
  const rows = [];
  for (const item of chosen) {
    item.events = eventsOf(item);
    for (const event of item.events) rows.push(event);
  }
  shown = all ? chosen : chosen.slice(0, LANES);
  lanes.replaceChildren(...shown.map(lane));
  for (const item of shown) {
    item.marks.replaceChildren(...item.events.map((e) => svg("rect", { x: e.onset, y: 0, width: e.offset - e.onset, height: 1 })));
    for (const end of ["y1", "y2"]) item.line.setAttribute(end, 1 - highOf(item));
  }
  events.show(rows);
  count.textContent = `${rows.length} event${rows.length === 1 ? "" : "s"}`;
  shownThreshold.value = threshold.toFixed(2);
  more.hidden = chosen.length <= LANES;
  more.textContent = all ? `The ${LANES} strongest classes` : `All ${chosen.length} classes`;
  more.setAttribute("aria-expanded", all);
  left.textContent = data.classes > classes.length
    ? `Here are the ${classes.length} of ${data.classes} classes with the highest peaks` +
      (threshold <= data.left_out_peak ? `; others reach up to ${data.left_out_peak.toFixed(3)}, too.` : ".") : "";
  update();
}

const fixed = data.own.filter((value) => value !== null).length;
const lows = [...new Set(data.low.filter((value) => value !== null))];
rules.textContent = [
  fixed && `${fixed} class${fixed === 1 ? "" : "es"} with another threshold keep${fixed === 1 ? "s" : ""} it.`,
  lows.length && `An event lasts down to ${lows.length === 1 ? `a score of ${lows[0]}` : "the lower threshold of its class"}.`,
  times.min_gap && `Events of a class less than ${times.min_gap / 1e6} s apart are one.`,
  times.min_duration && `Events shorter than ${times.min_duration / 1e6} s are left out.`,
].filter(Boolean).join(" ");
rules.hidden = !rules.textContent;

slider.oninput = () => { threshold = Number(slider.value); draw(); };
filter.oninput = draw;
more.onclick = () => { all = !all; draw(); };

main.append(
  head(data.file, `${clock(data.seconds)} · ${windows} window${windows === 1 ? "" : "s"} · model ${data.model || "not named"}`),
  section(null, el("div", { className: "controls" }, play, time, el("label", null, "Speed", speed), el("label", null, "Zoom", zoom)),
    alertLine, scroller,
    el("p", { className: "controls" }, more),
    el("p", { className: "faint small" }, el("kbd", null, "Space"), " plays and pauses, ", el("kbd", null, "←"), " ", el("kbd", null, "→"),
      " move by a second (with ", el("kbd", null, "Shift"), " by a tenth), ", el("kbd", null, "↑"), " ", el("kbd", null, "↓"), " walk through the events, ", el("kbd", null, "Enter"), " plays one.")),
  el("section", null, count,
    el("div", { className: "controls" }, el("label", null, "Threshold", slider, shownThreshold), el("label", null, "Class", filter)),
    rules, left, el("div", { className: "scroll events" }, events.table), events.note),
  audio);

// wavesurfer has the peaks already: nothing has to be decoded before the report is of use.
const player = WaveSurfer.create({
  container: wave, media: audio, peaks: [data.peaks], duration: data.seconds, height: 80, normalize: true, interact: false,
  cursorWidth: 0, hideScrollbar: true, autoScroll: false, ...colours(),
});
audio.onplay = () => { play.textContent = "Pause"; requestAnimationFrame(tick); };
audio.onpause = () => { play.textContent = "Play"; update(); };
audio.onseeking = () => update();

function colours() {
  return { waveColor: getComputedStyle(left).color, progressColor: getComputedStyle(slider).accentColor };
}
document.addEventListener("theme", () => player.setOptions(colours()));

function tick() {
  if (audio.paused) return;
  if (until !== null && audio.currentTime >= until) { until = null; audio.pause(); }
  update();
  follow();
  requestAnimationFrame(tick);
}

function follow() {
  const at = cursor.offsetLeft;
  const width = scroller.clientWidth - (timeline.clientWidth - cursor.parentNode.clientWidth);
  if (at < scroller.scrollLeft || at > scroller.scrollLeft + width) scroller.scrollLeft = at - 0.1 * width;
}

function windowAt(seconds) {
  let low = 0, high = windows - 1;
  while (low < high) { const middle = (low + high) >> 1; if (to[middle] > seconds) high = middle; else low = middle + 1; }
  return low;
}

function update() {
  const seconds = Math.min(audio.currentTime, data.seconds);
  cursor.style.left = `${100 * seconds / data.seconds}%`;
  time.value = `${clock(seconds)} / ${clock(data.seconds)}`;
  wave.setAttribute("aria-valuenow", seconds.toFixed(2));
  wave.setAttribute("aria-valuetext", clock(seconds));
  const here = windowAt(seconds);
  for (const item of shown) {
    const score = item.scores[here];
    item.now.textContent = score.toFixed(2);
    item.now.classList.toggle("above", score >= highOf(item));
  }
  for (const line of events.body.rows) {
    if (line.row === playing || (line.row.onset <= seconds && seconds < line.row.offset)) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

document.addEventListener("keydown", (event) => {
  const target = event.target.tagName;
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
  const slides = event.target.type === "range"; // its arrows are its own
  if ((target === "INPUT" && !(slides && event.key === " ")) || target === "SELECT") return;
  if (event.key === " " && target !== "BUTTON") toggle();
  else if (event.key === "ArrowLeft") seek(audio.currentTime - (event.shiftKey ? 0.1 : 1));
  else if (event.key === "ArrowRight") seek(audio.currentTime + (event.shiftKey ? 0.1 : 1));
  else if (event.key === "Home") seek(0);
  else if (event.key === "End") seek(data.seconds);
  else if (event.key === "ArrowDown" && events.body.rows.length && target !== "BUTTON") events.body.querySelector("button").focus();
  else return;
  follow();
  event.preventDefault();
});

draw();
