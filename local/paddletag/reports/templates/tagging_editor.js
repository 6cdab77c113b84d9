// One event: to hear it again and again, to go to the next, to correct it; and a missing one to add.

let chosen = null; // the row of the table that the buttons are for
let saved = true; // whether all corrections have been downloaded

const field = {
  label: el("input", { id: "event-label", type: "text" }),
  onset: el("input", { id: "event-start", type: "number", min: 0, max: data.seconds, step: "any" }),
  offset: el("input", { id: "event-end", type: "number", min: 0, max: data.seconds, step: "any" }),
};
field.label.setAttribute("list", "labels");
const button = (id, text, title, onclick) => el("button", { id, type: "button", title, onclick }, text);
const loop = button("loop", "Loop", "Play this event again and again (L)", () => setLoop(!loops));
const next = button("next", "Next", "Play the next event of this class (N)", playNext);
const accept = button("accept", "Accept", "This event is right (A)", () => decide("accepted"));
const reject = button("reject", "Reject", "There is no such event (R)", () => decide("rejected"));
const undo = button("undo", "Undo", "Take the correction back", () => { const row = forget(chosen); changed(row); });
const about = el("p", { id: "about", className: "small", "aria-live": "polite" });
const fault = el("p", { className: "alert small", role: "alert" });
const fields = el("fieldset", null, el("legend", null, "The chosen event"), about,
  el("div", { className: "fields" }, ...[["Label", "label"], ["Start (s)", "onset"], ["End (s)", "offset"]].map(([name, key]) => el("label", null, name, field[key]))), fault,
  el("div", { className: "buttons" }, loop, next, accept, reject, undo));
const add = button("add", "Add an event", "A missing event, one second from the cursor on", addEvent);
const acceptAll = button("accept-all", "Accept all", "All events in the table that are not corrected yet are right", () => {
  for (const row of events.rows()) if (!row.status) correct(row, "accepted");
  changed(null);
});
const names = el("datalist", { id: "labels" });
const editor = el("section", { className: "editor" }, fields, el("div", { className: "buttons" }, add, acceptAll), names);

/** Make an event the one that the buttons are for; null: none. */
function choose(row) {
  chosen = row;
  fault.textContent = "";
  fields.disabled = !row;
  undo.disabled = !row?.status;
  next.textContent = row ? `Next ${row.label}` : "Next";
  about.textContent = row
    ? `${row.label}, ${spanText(row.onset, row.offset)}` + (row.status ? ` (${row.status})` : "") +
      (row.origin && row.label !== row.origin.label ? `; the model said ${row.origin.label}` : "")
    : "Choose one in the table or in a lane: to hear it again, to change its label and times, to accept or reject it.";
  field.label.value = row ? row.label : "";
  for (const key of ["onset", "offset"]) field[key].value = row ? String(rounded(row[key])) : "";
  selection.hidden = !row;
  if (row) place(selection, row.onset, row.offset);
  for (const line of events.body.rows) line.classList.toggle("chosen", line.row === row);
}

/** Draw all again after a correction, with `row` (or the row that has its place now) chosen. */
function changed(row) {
  saved = false;
  chosen = row;
  draw();
}

function decide(status, changes) {
  changed(correct(chosen, status, changes));
}

/** Take over what stands in the fields. */
function edit() {
  const label = field.label.value.trim(), [onset, offset] = [field.onset, field.offset].map(({ valueAsNumber }) => valueAsNumber);
  const exact = (key, value) => (value === rounded(chosen[key]) ? chosen[key] : value); // what was not touched keeps all its digits
  fault.textContent = !label ? "The label is empty." : !(onset >= 0 && onset < offset && offset <= data.seconds + 1e-4)
    ? `Start and end must be seconds from 0 to ${rounded(data.seconds)}, the end after the start.` : "";
  if (!fault.textContent) decide(chosen.status === "added" ? "added" : "changed", { label, onset: exact("onset", onset), offset: exact("offset", offset) });
}
for (const input of Object.values(field)) input.onchange = edit;

function addEvent() {
  const onset = Math.min(audio.currentTime, Math.max(0, data.seconds - 0.1));
  const label = chosen?.label ?? shown[0]?.label ?? classes[0].label;
  changed(correct({ label, onset, offset: Math.min(onset + 1, data.seconds) }, "added"));
  field.label.focus();
  field.label.select();
}

function setLoop(on) {
  loops = on;
  loop.setAttribute("aria-pressed", on);
  if (on) listen(chosen.onset, chosen.offset, chosen);
}
loop.setAttribute("aria-pressed", "false");

/** Choose and play the next event of the class, the first after the last. */
function playNext() {
  const own = classes.find(({ label }) => label === chosen.label).events;
  const row = own.find(({ onset }) => onset > chosen.onset) ?? own[0];
  if (!row) return;
  choose(row);
  listen(row.onset, row.offset, row);
  follow();
  events.reveal(row);
}

window.addEventListener("beforeunload", (event) => { if (!saved && corrections.length) event.preventDefault(); });
