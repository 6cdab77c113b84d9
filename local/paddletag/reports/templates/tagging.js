// The page of a tagging result: what was heard in one sentence, the timeline, the table of events, and their files.

const ROWS = 500;
const LANES = 12; // at first

const slider = el("input", { id: "threshold", type: "range", min: 0.01, max: 0.99, step: 0.01, value: data.threshold });
const shownThreshold = el("output", { id: "shown-threshold" });
const filter = el("input", { id: "filter", type: "search", placeholder: "part of a name" });
const more = el("button", { id: "more", type: "button", "aria-expanded": "false" });
const answer = el("p", { id: "answer", className: "answer", "aria-live": "polite" });
const count = el("h2", { id: "count" });
const left = el("p", { className: "faint small" });
const rules = el("p", { id: "rules", className: "faint small" });
let all = false; // whether all classes have lanes, those without events, too
let shown = []; // classes with a lane

const events = sortableTable([
  { title: "Start", value: (e) => e.onset, number: true, cell: (e) => clock(e.onset) },
  { title: "End", value: (e) => e.offset, number: true, cell: (e) => clock(e.offset) },
  { title: "Label", value: (e) => e.label, cell: labelCell },
  { title: "Peak", value: (e) => e.peak, number: true, cell: (e) => e.peak?.toFixed(3) ?? "–" },
  { title: "Mean", value: (e) => e.mean, number: true, cell: (e) => e.mean?.toFixed(3) ?? "–" },
], { limit: ROWS });
events.table.id = "events";

function labelCell(row) {
  const name = el("button", { type: "button", className: "plain", onclick: () => {
    const stops = playing === row && !audio.paused;
    choose(row);
    if (stops) audio.pause();
    else listen(row.onset, row.offset, row);
  } }, row.label);
  if (!row.status) return name;
  return el("span", { className: row.status }, name, el("span", { className: "status small" }, STATUSES[row.status]));
}

events.body.onclick = (event) => {
  if (!event.target.closest("button")) event.target.closest("tr").querySelector("button").click();
};
events.body.onkeydown = (event) => {
  const line = event.target.closest("tr");
  const step = { ArrowDown: "nextSibling", ArrowUp: "previousSibling" }[event.key];
  const act = { a: accept, r: reject, n: next, l: loop }[event.key];
  if (step && line[step]) line[step].querySelector("button").focus();
  if (act && !event.ctrlKey && !event.altKey && !event.metaKey) {
    choose(line.row);
    act.click();
    events.reveal(chosen, true);
  }
  if (step || act) event.preventDefault();
};

/** Find the events anew, and show them. */
function draw() {
  const part = filter.value.trim().toLowerCase();
  const rows = allEvents();
  const matches = ({ label }) => label.toLowerCase().includes(part);
  const matching = classes.filter(matches), having = matching.filter((item) => item.events.length);
  shown = all || part ? matching : having.slice(0, LANES);
  lanes.replaceChildren(...shown.map(lane));
  drawLanes();
  const listed = rows.filter(matches);
  events.show(listed);
  answer.textContent = sentence(rows);
  count.textContent = `${listed.length} event${listed.length === 1 ? "" : "s"}`;
  shownThreshold.value = threshold.toFixed(2);
  const others = matching.length - Math.min(having.length, LANES), loud = Math.max(0, having.length - LANES);
  more.hidden = Boolean(part) || !others;
  more.textContent = all ? "Show fewer classes" : `Show ${others} more class${others === 1 ? "" : "es"}` + (loud ? `, ${loud} with events` : ", without events");
  more.setAttribute("aria-expanded", all);
  left.textContent = data.classes > data.labels.length
    ? `Here are the ${data.labels.length} of ${data.classes} classes with the highest peaks` +
      (threshold <= data.left_out_peak ? `; others reach up to ${data.left_out_peak.toFixed(3)}, too.` : ".") : "";
  names.replaceChildren(...classes.map(({ label }) => el("option", { value: label })));
  const kept = corrections.filter(({ status }) => status !== "rejected").length;
  files.corrections.textContent = `Corrections (${kept})`;
  files.corrections.disabled = !kept;
  choose(chosen && (rows.find((row) => row === chosen || (row.label === chosen.label && row.onset === chosen.onset && row.offset === chosen.offset)) ?? null));
  update();
}

const fixed = data.own.filter((value) => value !== null).length;
const lows = [...new Set(data.low.filter((value) => value !== null))];
rules.textContent = [
  fixed && (data.movable ? `${fixed} class${fixed === 1 ? "" : "es"} with another threshold keep${fixed === 1 ? "s" : ""} it.` : "Each class has its own threshold."),
  lows.length && `An event lasts down to ${lows.length === 1 ? `a score of ${lows[0]}` : "the lower threshold of its class"}.`,
  times.min_gap && `Events of a class less than ${times.min_gap / 1e6} s apart are one.`,
  times.min_duration && `Events shorter than ${times.min_duration / 1e6} s are left out.`,
].filter(Boolean).join(" ");
rules.hidden = !rules.textContent;

slider.oninput = () => { threshold = Number(slider.value); draw(); };
filter.oninput = draw;
more.onclick = () => { all = !all; draw(); };

const files = Object.fromEntries([
  ["csv", "CSV", ".csv", eventsCsv, "The events in the table"],
  ["audacity", "Audacity", ".audacity.txt", eventsAudacity, "A label track of the events in the table"],
  ["labelstudio", "Label Studio", ".labelstudio.json", eventsLabelStudio, "Tasks with the events in the table as predictions"],
  ["corrections", "", ".corrections.csv", () => { saved = true; return correctionsCsv(); }, "CSV of the accepted, changed and added events, to train with"],
].map(([name, text, ending, make, title]) => [name, button(`save-${name}`, text, title, () => download(ending, make(events.rows())))]));

const swatch = (kind) => el("i", { className: `swatch ${kind}`, "aria-hidden": "true" });
const legend = el("p", { id: "legend", className: "legend faint small" },
  el("span", null, swatch("event"), "event"), el("span", null, swatch("below"), "score outside events"),
  el("span", null, swatch("limit"), "threshold"),
  el("span", null, swatch("score"), "score at the cursor"),
  el("span", null, "Number: the highest score of the class, from 0 to 1"));
const key = (name) => el("kbd", null, name);

main.append(
  head(data.file, answer, `${clock(data.seconds)} · ${windows} window${windows === 1 ? "" : "s"} · model ${data.model || "not named"}`),
  el("div", { className: "desk" },
    section(null, el("div", { className: "controls" }, play, time, el("label", null, "Speed", speed), el("label", null, "Zoom", zoom),
      el("label", { hidden: !data.movable }, "Threshold", slider, shownThreshold)),
      alertLine, scroller, legend, el("p", { className: "controls" }, more), rules, left,
      el("p", { className: "faint small" }, key("Space"), " plays and pauses, ", key("←"), " ", key("→"),
        " move by a second (with ", key("Shift"), " by a tenth), ", key("↑"), " ", key("↓"), " walk through the events. On an event ",
        key("Enter"), " plays, ", key("L"), " loops, ", key("N"), " goes to the next of its class, ", key("A"), " accepts, ", key("R"), " rejects.")),
    el("div", null,
      el("section", null, el("div", { className: "controls" }, count, el("label", null, "Class", filter)),
        el("div", { className: "scroll events" }, events.table), events.note,
        el("div", { className: "buttons" }, el("span", { className: "faint small" }, "Download"), ...Object.values(files))),
      editor)),
  audio);

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
