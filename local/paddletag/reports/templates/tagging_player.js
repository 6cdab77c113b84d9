// The player, and the timeline under its cursor: waveform, spectrogram and a lane for each class.

const audio = el("audio", { preload: "auto", src: soundUrl(data) });
const alertLine = el("p", { className: "alert", role: "alert" });
audio.onerror = () => { alertLine.textContent = "This browser cannot play the sound" + (data.audio ? ": is it still beside the report?" : "."); };
let until = null; // where the event that is being played ends
let playing = null; // that event
let loops = false; // whether it begins again there

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
  if (audio.paused) start();
  else { audio.pause(); until = playing = null; }
}

const play = el("button", { id: "play", type: "button", onclick: toggle }, "Play");
const time = el("output", { id: "time", className: "clock" });
const speed = el("select", { id: "speed", onchange: () => { audio.playbackRate = Number(speed.value); } },
  ...["0.5", "1", "1.5", "2"].map((rate) => el("option", { value: rate, selected: rate === "1" }, `${rate}×`)));
const zoom = el("input", { id: "zoom", type: "range", min: 0, max: Math.max(1, Math.min(6, Math.log2(data.seconds / 4))), step: 0.5, value: 0 });

audio.onplay = () => { play.textContent = "Pause"; requestAnimationFrame(tick); };
audio.onpause = () => { play.textContent = "Play"; update(); };
audio.onseeking = () => update();
audio.onended = () => { if (loops && playing) listen(playing.onset, playing.offset, playing); };

function tick() {
  if (audio.paused) return;
  if (until !== null && audio.currentTime >= until) {
    if (loops) audio.currentTime = playing.onset;
    else { until = null; audio.pause(); }
  }
  update();
  follow();
  requestAnimationFrame(tick);
}

// The timeline.

const cursor = el("div", { className: "cursor" });
const selection = el("div", { className: "selection", hidden: true });
const wave = el("div", {
  id: "wave", className: "track wave", tabIndex: 0, role: "slider", "aria-label": "Position in the sound",
  "aria-valuemin": "0", "aria-valuemax": data.seconds.toFixed(2),
}, waveform());
const ruler = el("div", { className: "track ruler" });
const picture = el("div", { className: "track spectrogram" },
  el("img", { src: `data:image/png;base64,${data.spectrogram}`, alt: "log-mel spectrogram" }),
  ...data.frequencies.map(([kilohertz, height]) => {
    const line = el("div", { className: "hertz" }, el("span", null, `${kilohertz} kHz`));
    line.style.bottom = `${100 * height}%`;
    return line;
  }));
const lanes = el("div");
const loudest = Math.max(...data.peaks);
const timeline = el("div", { className: "timeline" },
  ...[["Waveform", wave, `highest sample ${loudest.toFixed(2)} of 1`], ["Spectrogram", picture, "log-mel"], ["", ruler, ""]].map(([name, track, what]) =>
    el("div", { className: "row" }, el("div", { className: "name faint", title: what }, ...(name ? [name] : [])), track)),
  lanes,
  el("div", { className: "over" }, selection, cursor));
const scroller = el("div", { className: "scroll" }, timeline);

/** The maxima of the parts of the sound, upwards and downwards from the middle. */
function waveform() {
  const peak = Math.max(...data.peaks) || 1;
  const shape = (sign) => data.peaks.map((value, i) => `${i} ${(sign * value / peak).toFixed(3)}`);
  const points = [...shape(-1), ...shape(1).reverse()].join(" ");
  return svg("svg", { viewBox: `0 -1 ${Math.max(1, data.peaks.length - 1)} 2`, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polygon", { points }));
}

function timeAt(event, track) {
  const box = track.getBoundingClientRect();
  return data.seconds * Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
}
for (const track of [wave, picture]) track.onclick = (event) => seek(timeAt(event, track));

/** Give a class its lane, when it is first shown. */
function lane(item) {
  if (item.row) return item.row;
  const best = item.scores.indexOf(item.peak);
  Object.assign(item, {
    shapes: svg("g"), drawn: 0, row: el("div", { className: "row" }), now: bar(0),
    line: svg("line", { x1: 0, x2: data.seconds, "vector-effect": "non-scaling-stroke" }),
  });
  const track = el("div", { className: "track lane" }, svg("svg",
    { viewBox: `0 0 ${data.seconds} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, item.shapes, item.line));
  track.onclick = (event) => {
    const at = timeAt(event, track);
    const hit = item.events.find(({ onset, offset }) => onset <= at && at < offset);
    if (hit) { choose(hit); events.reveal(hit); }
    listen(at);
  };
  item.row.append(el("div", { className: "name" },
    el("button", { type: "button", className: "plain", title: `Play ${item.label} where it scores highest`, onclick: () => listen(from[best] ?? 0) }, item.label),
    el("span", { className: "number faint", title: `Highest score of ${item.label} in this sound, from 0 to 1` }, item.peak.toFixed(2)),
    item.now), track);
  return item.row;
}

/** The scores as steps, no more of them than pixels: each is the highest of its pixel. */
function steps(item, width) {
  if (windows <= width) return { edges: [from[0], ...to], values: item.scores };
  const values = new Float32Array(width);
  for (let i = 0; i < windows; i++) {
    const first = Math.floor(from[i] / data.seconds * width), last = Math.max(first + 1, Math.ceil(to[i] / data.seconds * width));
    for (let k = first; k < Math.min(last, width); k++) values[k] = Math.max(values[k], item.scores[i]);
  }
  return { edges: Array.from({ length: width + 1 }, (_, k) => k * data.seconds / width), values };
}

/** The area below the steps between two times, as a path. */
function area({ edges, values }, begin, end) {
  let low = 0, high = values.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (edges[middle + 1] > begin) high = middle; else low = middle + 1; }
  let path = `M${begin} 1`, y = "1.000", k = low;
  for (; k < values.length && edges[k] < end; k++) {
    const next = (1 - values[k]).toFixed(3);
    if (next !== y) path += (k > low ? `H${edges[k]}` : "") + `V${next}`;
    y = next;
  }
  return `${path}H${end}V1Z`;
}

/** Events as they are drawn: gaps that hardly a pixel shows are closed, and every event is wide enough to be seen. */
function drawnSpans(events, pixel) {
  const spans = [];
  for (const { onset, offset } of events) {
    const end = Math.max(offset, Math.min(data.seconds, onset + 2 * pixel)), before = spans.at(-1);
    if (before && onset - before[1] < 2 * pixel) before[1] = Math.max(before[1], end);
    else spans.push([onset, end]);
  }
  return spans;
}

function drawLanes() {
  const width = Math.max(1, Math.round(wave.clientWidth));
  for (const item of shown) {
    const own = item.drawn === width ? item.steps : steps(item, width);
    Object.assign(item, { drawn: width, steps: own });
    const spans = drawnSpans(item.events, data.seconds / width);
    const paths = spans.map(([begin, end]) => area(own, begin, end)).join("");
    item.shapes.replaceChildren(
      ...spans.map(([x, end]) => svg("rect", { x, y: 0, width: end - x, height: 1 })),
      svg("path", { class: "below", d: area(own, own.edges[0], own.edges.at(-1)) }), svg("path", { d: paths }));
    for (const end of ["y1", "y2"]) item.line.setAttribute(end, 1 - highOf(item));
  }
}

function rule() {
  const width = wave.clientWidth;
  const sizes = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = sizes.find((s) => s * width / data.seconds >= 60) || 7200;
  const marks = [];
  for (let n = 0; n * step < data.seconds; n++) {
    const mark = el("span", null, clock(n * step, step < 1 ? 1 : 0));
    mark.style.left = `${100 * n * step / data.seconds}%`;
    if ((data.seconds - n * step) * width / data.seconds > 40) marks.push(mark);
  }
  ruler.replaceChildren(...marks);
}
new ResizeObserver(() => { rule(); drawLanes(); }).observe(wave);
zoom.oninput = () => { timeline.style.width = `${100 * 2 ** zoom.value}%`; follow(); };

function follow() {
  const at = cursor.offsetLeft;
  const width = scroller.clientWidth - (timeline.clientWidth - cursor.parentNode.clientWidth);
  if (at < scroller.scrollLeft || at > scroller.scrollLeft + width) scroller.scrollLeft = at - 0.1 * width;
}

function place(node, begin, end) {
  node.style.left = `${100 * begin / data.seconds}%`;
  if (end !== undefined) node.style.width = `${100 * (end - begin) / data.seconds}%`;
}

/** Show where the player is. */
function update() {
  const seconds = Math.min(audio.currentTime, data.seconds);
  place(cursor, seconds);
  time.value = `${clock(seconds)} / ${clock(data.seconds)}`;
  wave.setAttribute("aria-valuenow", seconds.toFixed(2));
  wave.setAttribute("aria-valuetext", clock(seconds));
  const here = windowAt(seconds);
  for (const item of shown) {
    const score = item.scores[here];
    item.now.firstChild.style.width = `${100 * score}%`;
    item.now.classList.toggle("above", score >= highOf(item));
  }
  for (const line of events.body.rows) {
    if (line.row === playing || (line.row.onset <= seconds && seconds < line.row.offset)) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}
