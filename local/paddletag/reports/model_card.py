"""The card of a trained model, README.md in its folder: what it is, how good it is, and how to use it.

Everything in it comes from the folder, so that a copy of the folder has all of it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddletag.data import clip_list
from paddletag.data.splits import describe_split
from paddletag.files import write_text
from paddletag.models import model_folder, registry
from paddletag.reports import evaluation_files, markdown
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File, Meta

CARD = "README.md"
MARK = "<!-- Written by paddletag after training and evaluation. If you edit it, remove this line: it then stays. -->"
LABELS, WEAKEST = 50, 3  # how many labels a card lists, and of how many it says that they are recognised worst


def write_card(folder: File) -> None:
    """Write the card of the trained model in `folder`.

    A file that people have written there, or edited (without MARK), stays. A card that cannot be written is a warning.
    """
    path = Path(folder) / CARD
    try:
        before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else MARK
        if not before.startswith(MARK):
            log.info("%s is not as paddletag wrote it: it stays as it is", path)
            return
        meta = model_folder.describe_model(folder)
        counts = clip_list.count_clips(Path(folder) / model_folder.CLIPS)
        text = model_card(meta, counts, read_evaluations(Path(folder)))
        if text != before:
            write_text(path, text)
    except (UserError, OSError) as error:
        log.warning("%s: the model's card was not written: %s", path, error)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The metrics of the model's evaluations, that without --tta first; those of an earlier model are left out."""
    numbers = [re.fullmatch(r"metrics(?:\.tta(\d+))?\.json", path.name) for path in folder.glob("metrics*.json")]
    found = []
    for tta in sorted(int(match[1] or 1) for match in numbers if match):
        try:
            found.append(evaluation_files.read_metrics(folder, tta)[0])
        except UserError:
            continue
    return found


def model_card(meta: Meta, counts: Mapping[int | str, int], evaluations: Sequence[dict[str, Any]]) -> str:
    """The card's Markdown.

    meta: as `describe_model` gives it. counts: the clips of each fold or split. evaluations: metrics, one for each.
    """
    settings, several = meta["run"].get("config", {}), meta["task"] == "multi_label"
    name = settings.get("data", {}).get("name")
    rows = [("", ""), *facts(meta, settings, counts), *results(meta, evaluations), *origin(meta, settings)]
    labels = ", ".join(map(markdown.escape, meta["labels"][:LABELS]))
    more = f" and {len(meta['labels']) - LABELS} more (in model.json)" if len(meta["labels"]) > LABELS else ""
    return "\n".join(
        [
            MARK,
            "",
            f"# {markdown.escape(meta['backbone'])}{f', trained on {markdown.escape(name)}' if name else ''}",
            "",
            f"It names what is heard in a sound: {'any' if several else 'one'} of {len(meta['labels'])} labels.",
            "",
            *markdown.table(rows),
            "",
            "## How to use it",
            "",
            "From this folder, where paddletag is installed:",
            "",
            "```bash",
            "paddletag tag --model . recording.wav        # what is heard, and when",
            "paddletag tag --model . clip.wav --window 0   # the labels of the whole clip",
            "```",
            "",
            "```python",
            "import paddletag",
            "",
            'model = paddletag.load_model(".")',
            'for start, end, label, score in model.tag("sound.wav"):',
            '    print(f"{start:.1f} {end:.1f} {label} {score:.3f}")',
            "```",
            "",
            "## Labels",
            "",
            f"{labels}{more}.",
            "",
            "## Limits",
            "",
            "The result is that on clips of the same data set. Other microphones, rooms and sounds may be harder."
            f" {unknown(meta)}",
            "",
        ]
    )


def facts(meta: Meta, settings: Mapping[str, Any], counts: Mapping[int | str, int]) -> Iterator[tuple[str, str]]:
    """The first rows of the card's table, (title, text in Markdown): what the model has learnt from."""
    data, fold = settings.get("data", {}), meta["run"].get("fold")
    total = sum(counts.values())
    name = data.get("name")
    words = [
        f"{name} (so the config calls it)" if name else "",
        counted(total) if total else "",
        f"{len(meta['labels'])} labels",
    ]
    words += [data.get("url"), f"licence: {data.get('licence') or 'not in the recipe'}"]
    yield "Data", "; ".join(markdown.escape(str(word)) for word in words if word)
    yield "Trained on", trained_on(settings, counts, fold)
    yield "Held out", f"{markdown.escape(describe_split(fold))}{f', {counted(counts[fold])}' if fold in counts else ''}"


def origin(meta: Meta, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The last rows of the card's table: how the model came about, and what it takes."""
    yield "Backbone", backbone(meta, settings)
    yield "Front end", front_end(meta)
    yield (
        "Clip length",
        f"{meta['clip_seconds']:g} s: shorter sounds are filled up, longer ones cut or tagged in windows",
    )
    if calibration := meta.get("calibration"):
        yield "Calibration", f"temperature {calibration['temperature']:.3g}, a threshold for each label"
    trained = meta.get("trained", {})
    words = [f"{trained['epochs']} epochs" if "epochs" in trained else "", meta.get("date", "")]
    words += [f"{trained['seconds']:.1f} s" if "seconds" in trained else "", meta.get("machine", "")]
    yield "Training", markdown.escape(", ".join(str(word) for word in words if word))
    yield (
        "Versions",
        markdown.escape(", ".join(f"{name} {number}" for name, number in meta.get("versions", {}).items())),
    )


def counted(clips: int) -> str:
    """A number of clips in words."""
    return f"{clips} clip{'s' * (clips != 1)}"


def trained_on(settings: Mapping[str, Any], counts: Mapping[int | str, int], fold: int | str) -> str:
    """What the model has met, in words."""
    used = counts.get("train", sum(n for split, n in counts.items() if split != fold))
    text = (
        f"{counted(used)}, those of train" if "train" in counts else f"{counted(used)}, all but {describe_split(fold)}"
    )
    if not counts:
        text = "clips that are not listed here (no clips.jsonl.gz)"
    train = settings.get("train", {})
    if share := train.get("validation"):
        text += f", of which a share of {share:g} was set aside to watch the training"
    if train.get("select") == "best":
        text += "; the best epoch on clips set aside is the model"
    return markdown.escape(text)


def backbone(meta: Meta, settings: Mapping[str, Any]) -> str:
    """Where the network comes from, with its licence and its paper."""
    name = meta.get("classic", {}).get("backbone", meta["backbone"])
    if meta.get("classic", {}).get("features") == "mfcc" or name not in registry.ENTRIES:
        return f"{markdown.escape(meta['backbone'])}: no pretrained network"
    entry, weights = registry.entry(name), settings.get("model", {}).get("weights", "")
    if weights == "none":
        return f"{name} ({entry.paper}), from random weights"
    if weights == "pretrained":
        return f"{name} ({entry.paper}), pretrained on AudioSet; licence of these weights: {entry.licence}"
    return f"{name} ({entry.paper}), from the weights {markdown.escape(Path(str(weights)).name)}"


def front_end(meta: Meta) -> str:
    """Which features the model takes."""
    values = model_folder.saved_front_end(meta)
    hop = 1000 * values.hop_length / values.sample_rate
    return f"{values.name}: {values.sample_rate} Hz, {values.n_mels} mel bands, every {hop:g} ms"


def results(meta: Meta, evaluations: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The rows of the card's table on what evaluations found; that there was none before the first."""
    key, title, factor, digits = evaluation_files.METRICS[meta["task"]]
    if not evaluations:
        yield "Result", "not evaluated yet"
    for metrics in evaluations:
        value = metrics.get(key)
        figure = "not measurable" if value is None else f"**{factor * value:.{digits}f}**"
        interval = evaluation_files.interval(metrics, meta["task"], " (95 % interval: {})")
        copies = f", {metrics['tta']} rolled copies of each" if metrics.get("tta", 1) > 1 else ""
        yield "Result", f"{title} {figure}{interval} on {counted(metrics['n'])} held out{copies}"
    if evaluations and (worst := weakest(meta, evaluations[0])):
        yield "Weakest labels", worst


def weakest(meta: Meta, metrics: Mapping[str, Any]) -> str:
    """The labels that are recognised worst, in words; empty where all are recognised."""
    key, title = ("recall", "recall") if meta["task"] == "single_label" else ("ap", "average precision")
    values = {label: row[key] for label, row in metrics.get("per_class", {}).items() if row.get("n")}
    lowest = sorted((value, label) for label, value in values.items() if value < 1)[:WEAKEST]
    words = ", ".join(f"{markdown.escape(label)} {value:.2f}" for value, label in lowest)
    return f"{title}: {words}" if words else ""


def unknown(meta: Meta) -> str:
    """What the model says of sounds that it does not know."""
    if "calibration" in meta:
        return "A sound of which no label reaches its threshold is called unknown."
    return "A sound of none of the labels gets one all the same, with a score."
