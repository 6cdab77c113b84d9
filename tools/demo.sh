#!/usr/bin/env bash
# See it work: from a fresh clone to a model trained on real sounds, within a minute of CPU time after the installation.
#   bash tools/demo.sh
#
# Installs what is missing. Then it trains mn04 on the clips of examples/esc10 (fold 1 is held out, no download),
# evaluates it, makes a scene of clips that were held out, and tags the scene over time with AudioSet's labels and with
# the new model. Then it says what came out. Everything it writes lies in .venv/ and demo/. Safe to run again: what is
# done is not done again.

set -Eeuo pipefail
case ${1-} in
  "") ;;
  -h | --help)
    sed -n '2,/^$/ s/^# \{0,1\}//p' "$0"
    exit
    ;;
  *)
    echo "demo.sh: error: unknown option $1 (see --help)" >&2
    exit 2
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tag() { # tag NAME OPTION ...: the scene over time, in demo/NAME
  local windows=(--sample_duration 2 --hop_duration 0.25)
  .venv/bin/python local/audio_tag.py demo/scene.wav "${windows[@]}" --output_dir "demo/$1" "${@:2}"
  .venv/bin/python local/parse_result.py --tagging_file "demo/$1/scene.npz" --format csv --report \
    --output_dir "demo/$1" >/dev/null
}

bash tools/install.sh
bash examples/esc10/run.sh --config conf/mn04_probe.yaml --folds 1 --stop-stage 3 --data demo/clips --exp demo/model
echo "== a scene of clips that were held out"
.venv/bin/python tools/make_scene.py --raw examples/esc10/clips --fold 1 --out demo/scene.wav
tag audioset --engine onnxruntime
tag new_model --model demo/model/fold1

.venv/bin/python - <<'PYTHON'
import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, "tools")
from zero_shot import MATCHES  # AudioSet's labels for each class

about, metrics = (json.loads(Path("demo/model/fold1", name).read_text()) for name in ("model.json", "metrics.json"))
seconds = about["trained"]["seconds"]
print(f"""
A new model. mn04, pretrained on AudioSet, got a new last layer, which was trained on 120 clips in {seconds:.0f} s.
It is right for {100 * metrics["accuracy"]:.1f} % of the {metrics["n"]} clips that it was not trained on. They are few: the report has the 95 % interval.

A scene of such clips. Rain is quiet, under all other sounds. What two models heard, with the highest score:

   from    to   sound           the new model               AudioSet's labels""")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def at_once(one, other):
    """Whether two sounds overlap."""
    return float(one["onset"]) < float(other["offset"]) and float(other["onset"]) < float(one["offset"])


def heard(sound, events, labels):
    """The highest of the events of `labels` that overlap with the sound, in words."""
    found = [e for e in events if e["label"] in labels and at_once(e, sound)]
    best = max(found, key=lambda e: float(e["peak"]), default=None)
    return f"{float(best['peak']):.2f} {best['label']}" if best else "not heard"


new, known = (read(f"demo/{name}/scene.csv") for name in ("new_model", "audioset"))
rows = [(s, heard(s, new, [s["label"]]), heard(s, known, MATCHES[s["label"]])) for s in read("demo/scene_labels.csv")]
for sound, one, other in rows:
    print(f"  {float(sound['onset']):5.1f} {float(sound['offset']):5.1f}   {sound['label']:14}  {one:26}  {other}")
counts = [sum(row[n] != "not heard" for row in rows) for n in (1, 2)]
print(f"\n  heard: {counts[0]} of {len(rows)} by the new model, {counts[1]} of {len(rows)} by AudioSet's labels")
wrong = [e for e in new if not any(at_once(e, s) and e["label"] == s["label"] for s, _, _ in rows)]
print(f"  named by the new model where no such sound is: {len(wrong)} of its {len(new)} events")
PYTHON
cat <<'TEXT'

Open in a browser (each is one file and works offline):
  demo/audioset/scene.html        the scene with AudioSet's labels: listen, and see them come and go
  demo/new_model/scene.html       the scene with the labels of the new model
  demo/model/fold1/report.html    the evaluation: mistakes to hear, confusion matrix, learning curve

Next:
  tag your own sound              .venv/bin/paddletag tag YOUR.wav --model demo/model/fold1
  all five folds, fine-tuned      bash examples/esc10/run.sh
  all 50 classes of ESC-50        bash examples/esc50/run.sh      (downloads 600 MB)
TEXT
