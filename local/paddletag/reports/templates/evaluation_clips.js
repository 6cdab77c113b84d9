// Clips of an evaluation: what the page says of them, and one player for all of them.

const { metrics, labels, clips } = data;
const single = data.task === "single_label";
const guess = (clip) => clip.top[0][0];
const wrong = (clip) => !clip.labels.includes(guess(clip));
const names = (numbers) => numbers.map((k) => labels[k]).join(", ") || "no label";
const count = (n, word, plural = `${word}s`) => `${n} ${n === 1 ? word : plural}`;

const sound = new Audio(); // one for all clips, so that no two play at once, and 2000 clips are no weight
let playing = null; // the player that it serves
let loaded = null; // the clip that it holds

function show(player) {
  player.fault.textContent = "";
  const at = Math.max(0, Math.min(sound.currentTime - player.start, player.length));
  player.seek.value = at;
  player.seek.setAttribute("aria-valuetext", `${at.toFixed(1)} seconds`);
  player.time.textContent = sound.paused && at === 0 ? player.whole : `${at.toFixed(1)} of ${player.whole}`;
  player.button.classList.toggle("on", !sound.paused);
  player.button.setAttribute("aria-label", `${sound.paused ? "Play" : "Pause"} ${player.name}`);
}

function follow() {
  if (!playing || sound.paused) return;
  if (sound.currentTime - playing.start >= playing.length) stop();
  else {
    show(playing);
    requestAnimationFrame(follow);
  }
}

function stop() {
  if (!playing) return;
  sound.pause();
  sound.currentTime = playing.start;
  show(playing);
}

/** Give the sound to a player, at so many seconds from its beginning. */
function take(player, seconds) {
  if (playing !== player) {
    stop();
    if (loaded !== player.clip) {
      if (sound.src.startsWith("blob:")) URL.revokeObjectURL(sound.src);
      sound.src = soundUrl(player.clip);
      loaded = player.clip;
    }
    playing = player;
  }
  sound.currentTime = player.start + seconds;
}

sound.onplay = () => { follow(); };
sound.onpause = () => { if (playing) show(playing); };
sound.onended = stop;
sound.onerror = () => {
  if (playing) playing.fault.textContent = "Cannot be played: the sound is not where it was when this page was made.";
  [playing, loaded] = [null, null];
};

/** A button, a place to seek in, and the length; a line instead where there is no sound. */
function playerOf(clip) {
  if (!clip.sound && !clip.audio) return el("p", { className: "faint small" }, "The sound is not at hand.");
  const length = clip.sound ? Math.min(clip.seconds, 10) : clip.seconds; // only the beginning is embedded
  const player = {
    clip, length, start: clip.start || 0, name: clip.id,
    whole: length < clip.seconds ? `${length.toFixed(1)} s, the start of ${clip.seconds.toFixed(1)} s` : `${length.toFixed(1)} s`,
    button: el("button", { type: "button", className: "play", "aria-label": `Play ${clip.id}` }, el("i", { "aria-hidden": "true" })),
    seek: el("input", { type: "range", min: 0, max: length, step: 0.1, value: 0, "aria-label": `Position in ${clip.id}` }),
    time: el("span", { className: "faint small time" }),
    fault: el("p", { className: "alert small", role: "alert" }),
  };
  player.time.textContent = player.whole;
  player.button.onclick = () => {
    if (playing === player && !sound.paused) return sound.pause();
    const at = Number(player.seek.value);
    take(player, at < length ? at : 0);
    sound.play().catch(() => {}); // onerror says what is wrong
  };
  player.seek.oninput = () => { take(player, Number(player.seek.value)); show(player); };
  const track = el("div", { className: "seek" });
  if (clip.picture) track.append(el("img", { src: `data:image/png;base64,${clip.picture}`, alt: "" }));
  track.append(player.seek);
  return el("div", null, el("div", { className: "player" }, player.button, track), el("div", { className: "row-ends" },
    el("span", { className: "faint small name-of" }, clip.id), player.time), player.fault);
}

/** The scores of a clip's highest labels and, whatever they are, of its own. */
function scoresOf(clip) {
  const shown = clip.top.slice(0, 3);
  const others = clip.labels.map((k, n) => [k, clip.own[n]]).filter(([k]) => !shown.some(([other]) => other === k));
  return el("table", { className: "scores small" }, el("tbody", null, ...[...shown, ...others].map(([k, score]) => {
    const own = clip.labels.includes(k);
    return el("tr", { className: own ? "own" : "" },
      el("td", null, labels[k], own ? el("span", { className: "sign" }, single ? " (true)" : " (own)") : null),
      el("td", { className: "number" }, score.toFixed(3)), el("td", null, bar(score)));
  })));
}

function card(clip) {
  const own = el("b", null, names(clip.labels)), highest = el("b", { className: wrong(clip) ? "taken" : "" }, labels[guess(clip)]);
  const verdict = !single ? [own, "; highest: ", highest] : wrong(clip) ? [own, " taken for ", highest] : [own, ", recognised"];
  return el("article", { className: "clip" }, el("p", null, ...verdict), playerOf(clip), scoresOf(clip));
}

/** Cards of clips, so many at a time. */
function cards(found, step = 12) {
  const grid = el("div", { className: "clips" });
  const button = el("button", { type: "button" });
  let shown = 0;
  function add() {
    grid.append(...found.slice(shown, shown + step).map(card));
    shown = Math.min(found.length, shown + step);
    button.textContent = `More (${found.length - shown})`;
    button.hidden = shown === found.length;
  }
  button.onclick = add;
  add();
  return el("div", null, grid, button);
}

/** Bring a part of the page into view where it is not, which it seldom is on a phone. */
function reveal(node) {
  const { top } = node.getBoundingClientRect();
  if (top >= 0 && top < innerHeight / 2) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}

const clipSearch = { show: null }; // ({truth, outcome}): set the filters and bring the clips into view

/** All clips, to search: by name, true label, the model's label, right or wrong. */
function clipSection() {
  const mistakes = clips.filter(wrong).length;
  const option = (value, text) => el("option", { value }, text);
  const choice = (id, ...options) => el("select", { id }, ...options);
  const every = labels.map((label, k) => option(String(k), label));
  const text = el("input", { type: "search", id: "clip-text", placeholder: "name or label" });
  const truth = choice("clip-truth", option("", "any"), ...every);
  const model = choice("clip-guess", option("", "any"), ...every.map((node) => node.cloneNode(true)));
  const outcome = choice("clip-outcome", option("wrong", "wrong"), option("right", "right"), option("", "right or wrong"));
  const order = choice("clip-order", option("high", "most confident first"), option("low", "least confident first"), option("name", "by name"));
  const said = el("p", { id: "clip-count", "aria-live": "polite" });
  const list = el("div");
  const words = (clip) => `${clip.id} ${clip.file || ""} ${names(clip.labels)} ${labels[guess(clip)]}`.toLowerCase();
  const orders = {
    high: (a, b) => b.top[0][1] - a.top[0][1], low: (a, b) => a.top[0][1] - b.top[0][1],
    name: (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }),
  };
  function draw() {
    const wanted = text.value.trim().toLowerCase();
    const found = clips.filter((clip) => (!outcome.value || wrong(clip) === (outcome.value === "wrong"))
      && (!truth.value || clip.labels.includes(Number(truth.value))) && (!model.value || guess(clip) === Number(model.value))
      && (!wanted || words(clip).includes(wanted))).sort(orders[order.value]);
    const filtered = wanted || truth.value || model.value;
    const of = `${found.length} of ${count(clips.length, "clip")}`, are = found.length === 1 ? "is" : "are";
    const how = order.selectedOptions[0].textContent;
    said.textContent = !found.length ? (outcome.value === "wrong" && !filtered ? "No clip is wrong." : "No clip fits.")
      : `${of} ${filtered ? (found.length === 1 ? "fits" : "fit") + (outcome.value ? ` and ${are} ${outcome.value}` : "")
        : outcome.value ? `${are} ${outcome.value}` : `${are} shown`}${found.length > 1 ? `, ${how}` : ""}.`;
    list.replaceChildren(cards(found));
  }
  if (!mistakes) outcome.value = "right";
  for (const node of [text, truth, model, outcome, order]) node.oninput = draw;
  const field = (title, node) => el("label", null, el("span", { className: "faint small" }, title), node);
  const whole = section("Clips", single ? null : el("p", { className: "faint small" }, "A clip counts as right when its highest label is one of its own."),
    el("div", { className: "controls fields" }, field("Search", text), field("True label", truth), field("Model's label", model),
      field("Show", outcome), field("Order", order)), said, list);
  whole.id = "clips";
  clipSearch.show = (k) => {
    [text.value, truth.value, model.value, outcome.value, order.value] = ["", String(k), "", "", "low"];
    draw();
    whole.scrollIntoView({ block: "start" });
    truth.focus({ preventScroll: true });
  };
  draw();
  return whole;
}
