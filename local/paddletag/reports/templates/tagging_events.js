// What sounds when: the events of each class at the threshold, the listener's corrections, and one sentence on all.

const { times } = data; // microseconds
const raw = bytes(data.scores).buffer;
const windows = times.onsets.length;
const from = times.onsets.map((t) => t / 1e6), to = times.offsets.map((t) => t / 1e6); // what each window speaks for
const classes = data.labels.map((label, k) => newClass(label, new Float32Array(raw, 4 * windows * k, windows), k));
let threshold = data.threshold; // as given, until the slider moves: it may lie between its steps

/** A class. column: where it stands among the labels of the result, which orders events of the same time. */
function newClass(label, scores, k) {
  const peak = scores.reduce((a, b) => Math.max(a, b), 0);
  return { label, scores, peak, own: data.own[k] ?? null, low: data.low[k] ?? null, column: data.columns[k] ?? Infinity, events: [] };
}

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
  return found.filter(({ onset, offset }) => offset - onset >= times.min_duration).map(({ first, last, onset, offset }) => (
    { label, onset: onset / 1e6, offset: offset / 1e6, ...strength(scores.subarray(first, last + 1)) }));
}

function strength(scores) {
  return { peak: scores.reduce((a, b) => Math.max(a, b)), mean: scores.reduce((a, b) => a + b) / scores.length };
}

// Corrections. A corrected event stays, wherever the threshold goes, and takes the place of the model's event.

const corrections = []; // {label, onset, offset, peak, mean, status, origin: the model's event; null if it was added}
const STATUSES = { accepted: "✓ accepted", changed: "✎ changed", added: "+ added", rejected: "✗ rejected" };

/** Give an event of the table a status, and what is new about it; returns the row that stands for it from now on. */
function correct(event, status, changes = {}) {
  const row = event.status ? event : { ...event, origin: status === "added" ? null : event };
  if (!corrections.includes(row)) corrections.push(row);
  Object.assign(row, changes, { status });
  const item = classes.find(({ label }) => label === row.label);
  const [first, last] = item ? [windowAt(row.onset), windowAt(row.offset - 1e-6)] : [];
  if (row.origin && row.label === row.origin.label && row.onset === row.origin.onset && row.offset === row.origin.offset) {
    if (status === "changed") row.status = "accepted";
    Object.assign(row, { peak: row.origin.peak, mean: row.origin.mean });
  } else if (item && item.column !== Infinity) Object.assign(row, strength(item.scores.subarray(first, last + 1)));
  else Object.assign(row, { peak: null, mean: null });
  if (!item) classes.push(newClass(row.label, new Float32Array(windows), Infinity)); // its lane has no scores
  return row;
}

/** Take a correction back; returns the model's event, or null if there was none. */
function forget(row) {
  corrections.splice(corrections.indexOf(row), 1);
  return row.origin;
}

function windowAt(seconds) {
  let low = 0, high = windows - 1;
  while (low < high) { const middle = (low + high) >> 1; if (to[middle] > seconds) high = middle; else low = middle + 1; }
  return low;
}

/** All events at the threshold, corrected, and in each class its own without those that were rejected. */
function allEvents() {
  const origins = Map.groupBy(corrections.filter((row) => row.origin).map((row) => row.origin), ({ label }) => label);
  const rows = [...corrections];
  for (const item of classes) {
    const taken = origins.get(item.label) || [];
    item.events = (item.column === Infinity ? [] : eventsOf(item)).filter((e) => !taken.some((o) => o.onset < e.offset && e.onset < o.offset));
    for (const event of item.events) rows.push(event);
    for (const row of corrections) if (row.label === item.label && row.status !== "rejected") item.events.push(row);
    item.events.sort((a, b) => a.onset - b.onset);
  }
  return rows;
}

// One sentence.

const SENTENCE = 120; // characters, about

/** Two times as text: "0 to 1.8 s" in a short sound, "1:05 to 1:20" in a longer one. */
function spanText(onset, offset) {
  const short = data.seconds < 60;
  const [a, b] = [onset, offset].map((t) => short ? String(Math.round(10 * t) / 10) : clock(t, 0));
  return (a === b ? `at ${a}` : `${a} to ${b}`) + (short ? " s" : "");
}

/** The classes with the most score times duration, by their first event, each with its times. */
function sentence(rows) {
  const groups = [...Map.groupBy(rows.filter((row) => row.status !== "rejected"), ({ label }) => label)].map(([label, found]) => {
    found.sort((a, b) => a.onset - b.onset);
    const total = (weight) => found.reduce((sum, e) => sum + (e.offset - e.onset) * weight(e), 0), seconds = total(() => 1);
    const often = `${found.length} times (${seconds < 60 ? `${Math.round(seconds)} s` : clock(seconds, 0)})`;
    const text = found.length > 2 ? often : found.map((e) => spanText(e.onset, e.offset)).join(" and ");
    return { weight: total((e) => e.mean ?? 1), first: found[0].onset, text: `${label} ${text}` };
  });
  if (!groups.length) return "Nothing reached the threshold";
  groups.sort((a, b) => b.weight - a.weight);
  let count = 0;
  for (let length = 0; count < groups.length && (length += groups[count].text.length + 2) <= SENTENCE; count++);
  count = Math.max(1, count);
  const rest = groups.length - count;
  const named = groups.slice(0, count).sort((a, b) => a.first - b.first).map(({ text }) => text);
  const separator = named.some((text) => /,/.test(text)) ? "; " : ", "; // labels may have commas
  return named.join(separator) + (rest ? ` and ${rest} more class${rest === 1 ? "" : "es"}` : "");
}
