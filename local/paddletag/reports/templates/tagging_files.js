// The events as files, made here: what `paddletag parse --format csv` and `audacity` write, Label Studio's tasks, corrections.

const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g; // as Python parts words
const stem = data.file.replace(/(?!^)\.[^.]*$/, "");

/** A number with four digits after the point, as Python rounds it. */
function rounded(value) {
  const tie = Number.isInteger(value * 32) && (value * 1e4) % 1 === 0.5; // all that lie exactly between two
  return tie ? 2 * Math.round(value * 1e4 / 2) / 1e4 : Number(value.toFixed(4));
}

function numberText(value) {
  if (value === null) return "";
  const short = rounded(value);
  return Number.isInteger(short) ? short.toFixed(1) : String(short);
}

const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
const inOrder = (rows) => rows.filter((row) => row.status !== "rejected").sort((a, b) =>
  a.onset - b.onset || a.offset - b.offset || columnOf(a) - columnOf(b));
const columnOf = (row) => Math.min(classes.find(({ label }) => label === row.label).column, Number.MAX_VALUE);

function eventsCsv(rows) {
  const lines = inOrder(rows).map((e) => [numberText(e.onset), numberText(e.offset), quoted(e.label), numberText(e.peak), numberText(e.mean)]);
  return ['"onset","offset","label","peak","mean"', ...lines.map((line) => line.join(","))].join("\n") + "\n";
}

function eventsAudacity(rows) {
  return inOrder(rows).map((e) => `${e.onset.toFixed(6)}\t${e.offset.toFixed(6)}\t${e.label.replace(SPACE, " ").trim()}\n`).join("");
}

function eventsLabelStudio(rows) {
  const result = inOrder(rows).map((e, i) => ({
    id: `event${i + 1}`, from_name: "label", to_name: "audio", type: "labels", original_length: rounded(data.seconds),
    value: { start: rounded(e.onset), end: rounded(e.offset), channel: 0, labels: [e.label] },
    ...(e.peak === null ? {} : { score: rounded(e.peak) }),
  }));
  return JSON.stringify([{ data: { audio: data.file }, predictions: [{ model_version: data.model, result }] }], null, 2) + "\n";
}

/** What `paddletag prepare` reads as labels: events that were accepted, changed or added. */
function correctionsCsv() {
  const lines = inOrder(corrections).map((e) => [quoted(data.file), numberText(e.onset), numberText(e.offset), quoted(e.label)].join(","));
  return ["filename,onset,offset,label", ...lines].join("\n") + "\n";
}

function download(ending, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  el("a", { href: url, download: stem + ending }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
