"""Results as one HTML file each, to look at and to listen to: it needs a browser and nothing else, no network.

A page is templates/report.html with the shared style and script, those of its kind, and its data as JSON.
"""

import base64
import csv
import html
import io
import json
import math
import os
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from paddletag import audio, checkpoint, frontend, manifest, parsing, results, tagging
from paddletag.runtime import UserError

TEMPLATES = Path(__file__).parent / "templates"
FRONT_END = frontend.MN  # its log-mel is the picture, its rate the sound's
CLASSES = 40  # in a tagging report: those with the highest peaks; more if more reach the threshold
PEAKS, COLUMNS = 4000, 3000  # points of the waveform, columns of the spectrogram, at most
EMBEDDED = 20 * 60.0  # seconds of sound that a tagging report holds; longer sound is referred to
CLIPS, CLIP_SECONDS = 40, 10.0  # embedded in an evaluation report: how many mistakes, and how much of each
TOP = 5  # labels of a clip
_LICENCE = "/*\n{}*/"  # it asks to be in all that is made of the player


def tagging_page(arrays, sound, folder, threshold=parsing.THRESHOLD, low=None, link=None, **options):
    """The HTML of a tagging result (as `parsing.read` gives it, with seconds) and the file `sound` that it is of.

    Its events are those that `parsing.events` finds with `threshold`, `low` and `options` (min_duration, min_gap,
    overlap). The page can move the threshold that most classes have; classes with another one keep theirs, and a lower
    threshold that equals the class's threshold moves with it.

    link: refer to the sound by its path from `folder`, where the report will lie, instead of embedding it as Ogg Vorbis
    (some 0.6 MB a minute); None: refer to what is longer than EMBEDDED. AudioError for a sound that cannot be read;
    UserError for one that is not as long as the result.
    """
    scores = np.asarray(arrays["scores"], "<f4")
    tagged = float(arrays["end"].max())
    link = tagged > EMBEDDED if link is None else link
    seconds, wave, log_mel, ogg = _hear(sound, tagged, embed=not link)
    parsing.check_length(arrays, sound, seconds)
    peaks = scores.max(0)
    high = np.broadcast_to(np.asarray(threshold, float), peaks.shape)
    low = high if low is None else np.broadcast_to(np.asarray(low, float), peaks.shape)
    values, counts = np.unique(high, return_counts=True)
    common = values[counts.argmax()]  # what most classes have
    order = np.argsort(-peaks, kind="stable")
    keep = (np.arange(len(order)) < CLASSES) | (peaks >= high.astype(np.float32))[order]
    kept, left_out = order[keep], order[~keep]
    times = parsing.timing(arrays["start"], arrays["end"], **options)
    data = {
        "file": Path(sound).name,
        "seconds": seconds,
        "model": " ".join([str(arrays.get("backbone", "")), str(arrays.get("model", ""))[:12]]).strip(),
        "labels": [str(label) for label in arrays["labels"][kept]],
        "classes": len(peaks),
        "left_out_peak": float(peaks[left_out[high[left_out] == common]].max(initial=0)),
        "scores": _base64(np.ascontiguousarray(scores[:, kept].T).tobytes()),  # float32 [classes, windows]
        "threshold": float(common),
        "own": [None if high[k] == common else float(high[k]) for k in kept],  # thresholds
        "low": [None if low[k] == high[k] else float(low[k]) for k in kept],
        "times": {name: value.tolist() for name, value in times.items()},  # microseconds
        "peaks": _pool(wave, PEAKS).round(3).tolist(),
        "spectrogram": _base64(_picture(_pool(log_mel, COLUMNS))),
        "frequencies": [(kilohertz, FRONT_END.height(1000 * kilohertz)) for kilohertz in (1, 2, 4, 8)],
        **({"audio": _address(sound, folder)} if link else {"sound": _base64(ogg)}),
    }
    return page("tagging", f"{data['file']}: tags", data)


def read_evaluation(folder, tta=1):
    """What stage 3 wrote into the folder of a trained model: {"metrics", "ids", "scores", "targets", "labels"}.

    tta: the evaluation on so many rolled copies of each clip. UserError where it is missing, or of an earlier model.
    """
    metrics, _ = results.read_metrics(folder, tta)
    path = Path(folder) / results.named("scores.npz", tta)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("ids", "scores", "targets", "labels")}
    except Exception as error:  # the file may hold any bytes: what goes wrong is its fault
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise UserError(f"{path}: {reason}: evaluate the model first (stage 3)") from None
    return {"metrics": metrics, **arrays}


def evaluation_page(evaluation, models, records, output, clips=CLIPS):
    """The HTML of an evaluation, as `read_evaluation` gives it, of the trained model in the folder models[0].

    models: several, if the scores are the mean of theirs. records: those of the clips, for their sound. `clips`
    mistakes, those that the model is surest of, are embedded; the others' sound is referred to by its path from the
    folder `output`, where the report will lie. A mistake is a clip of which the highest label is not one of its own.
    """
    metas, metrics = [checkpoint.read_meta(folder) for folder in models], evaluation["metrics"]
    ids, scores, targets = evaluation["ids"], evaluation["scores"], evaluation["targets"]
    known = {record["id"]: record for record in records}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    wrong = targets[np.arange(len(scores)), best[:, 0]] == 0
    rows = []
    for i in np.lexsort((-scores.max(1), ~wrong)):  # mistakes first, then by what the model is surest of
        row = {
            "id": str(ids[i]),
            "labels": np.flatnonzero(targets[i]).tolist(),
            "top": [[int(k), round(float(scores[i, k]), 4)] for k in best[i]],
        }
        if record := known.get(row["id"]):
            row |= _clip(record, output, embed=bool(wrong[i]) and len(rows) < clips)
        rows.append(row)
    about = [{key: value for key, value in meta.items() if key != "labels"} for meta in metas]
    model = " + ".join(dict.fromkeys(meta["backbone"] for meta in metas))
    data = {
        "model": model,
        "side": manifest.words(metrics["fold"]),
        "task": metas[0]["task"],
        "labels": [str(label) for label in evaluation["labels"]],
        "metrics": metrics,
        "clips": rows,
        "history": _history(Path(models[0]) / "history.csv") if len(models) == 1 else {},
        "about": about[0] if len(models) == 1 else about,
    }
    return page("evaluation", f"{model}, {data['side']}: evaluation", data)


def page(kind, title, data):
    """HTML from the templates: nothing in `title` and `data` is taken for markup, whatever it holds."""
    scripts = ["report.js", f"{kind}.js"]
    player = [_LICENCE.format(_template("wavesurfer.LICENSE.txt")), _template("wavesurfer.min.js")]
    parts = {
        "title": html.escape(_printable(title)),
        "data": embedded_json(data),
        "style": _template("report.css"),
        "script": "\n".join([*(player if kind == "tagging" else ()), *map(_template, scripts)]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("report.html"))


def embedded_json(value):
    """JSON in ASCII that may stand in a <script>: no `</script>` or `<!--` can end it or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name):
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _printable(text):
    return text.encode("utf-8", "backslashreplace").decode()  # a file's name may hold bytes that are no text


def _base64(content):
    return base64.b64encode(content).decode()


def _hear(path, expected, embed):
    """(seconds, waveform's peaks [N], log-mel [T, n_mels], its bytes as Ogg Vorbis if `embed`) of a sound file.

    Of a sound of `expected` seconds there are some times PEAKS and COLUMNS of both, the maxima of equal parts, however
    long it is. What goes on beyond that is not decoded further.
    """
    rate, samples, ogg = FRONT_END.sample_rate, 0, io.BytesIO()
    peaks = _Maxima(expected * rate / (8 * PEAKS))
    frames = _Maxima(expected * rate / FRONT_END.hop_length / (8 * COLUMNS))
    log_mel = tagging.LogMelStream(FRONT_END)
    with audio.opened(path) as source, _ogg_file(ogg) as file:
        for wave in source.at(rate):
            samples += len(wave)
            peaks.feed(np.abs(wave))
            frames.feed(log_mel.feed(wave))
            if embed:
                _write(file, wave)
            if samples / rate > expected + 60:
                break
    frames.feed(log_mel.finish())
    return samples / rate, peaks.all(), frames.all(), ogg.getvalue()


class _Maxima:
    """The maxima of every `step` values [n, ...] of a stream of them."""

    def __init__(self, step):
        self.step, self.rest, self.found = max(1, int(step)), None, []

    def feed(self, values):
        values = values if self.rest is None else np.concatenate([self.rest, values])
        whole = len(values) // self.step * self.step
        self.rest = values[whole:]
        self.found.append(values[:whole].reshape(-1, self.step, *values.shape[1:]).max(1))

    def all(self):
        return np.concatenate([*self.found, self.rest.max(0, keepdims=True)] if len(self.rest) else self.found)


def _pool(values, columns):
    """The maxima of `columns` equal parts of values [N, ...]; all of them if there are no more."""
    if len(values) <= columns:
        return values
    return np.maximum.reduceat(values, np.arange(columns) * len(values) // columns)


def _picture(log_mel):
    """A log-mel [T, n_mels] as a PNG, low frequencies at the bottom."""
    from matplotlib import colormaps
    from PIL import Image  # matplotlib brings it

    low, high = np.quantile(log_mel, 0.02), log_mel.max()
    shades = ((log_mel - low) / max(high - low, 1e-3)).clip(0, 1)
    image = Image.fromarray((shades * 255).astype(np.uint8).T[::-1], "P")
    image.putpalette((colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _ogg_file(file):
    return soundfile.SoundFile(file, "w", FRONT_END.sample_rate, 1, "VORBIS", format="OGG")


def _write(file, wave):
    for begin in range(0, len(wave), FRONT_END.sample_rate):  # libsndfile overflows its stack with long writes
        file.write(wave[begin : begin + FRONT_END.sample_rate].clip(-1, 1))


def _ogg(wave):
    """A waveform [N] at the front end's rate as the bytes of an Ogg Vorbis file."""
    file = io.BytesIO()
    with _ogg_file(file) as sound:
        _write(sound, wave)
    return file.getvalue()


def _clip(record, output, embed):
    """Where the sound of a record is to be had: embedded, or a path; nothing for one that is no longer there."""
    start, end = record.get("start", 0.0), record.get("end")
    if embed:
        stop = min(end or math.inf, start + CLIP_SECONDS)
        try:
            return {"sound": _base64(_ogg(audio.load(record["audio"], FRONT_END.sample_rate, start, stop)))}
        except audio.AudioError:
            return {}
    part = f"#t={start},{end}" if end else f"#t={start}" if start else ""
    return {"audio": _address(record["audio"], output) + part} if os.path.isfile(record["audio"]) else {}


def _address(path, folder):
    """The relative URL of a file, seen from `folder`."""
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return "./" + quote(os.fsencode(relative))


def _history(path):
    """{column: [number or None]} of the learning curve; {} if there is none."""
    if not path.exists():
        return {}

    def number(text):
        try:
            return float(text) if math.isfinite(float(text)) else None
        except (TypeError, ValueError):
            return None

    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [number(row[key]) for row in rows] for key in (rows[0] if rows else ()) if key}
