"""Tag sounds with CNN14 of the package panns_inference, as its example goes about it: librosa decodes and resamples.

python peer_cnn14.py OUT WINDOW BATCH SOUND ...    (seconds; WINDOW 0: whole files, of one length). Writes
OUT/NAME.npz with `scores` [windows, 527] and `embeddings`. python peer_cnn14.py make: a checkpoint with weights drawn
by chance, and the list of labels, in the folder panns_data of HOME. It is a peer to measure, no tool.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))

import librosa
import numpy as np
from paddletag.models import registry

RATE = 32000
DATA = Path.home() / "panns_data"
CHECKPOINT = DATA / "Cnn14_mAP=0.431.pth"


def make() -> None:
    """What the package would download otherwise: its speed does not depend on what the weights are."""
    DATA.mkdir(parents=True, exist_ok=True)
    with open(DATA / "class_labels_indices.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("index", "mid", "display_name"))
        writer.writerows((n, f"/m/{n}", label) for n, label in enumerate(registry.audioset_labels()))
    import torch
    from panns_inference.models import Cnn14

    torch.manual_seed(0)
    model = Cnn14(sample_rate=RATE, window_size=1024, hop_size=320, mel_bins=64, fmin=50, fmax=14000, classes_num=527)
    torch.save({"model": model.state_dict()}, CHECKPOINT)


def main(out: Path, window: float, batch: int, paths: list[str]) -> None:
    """Score all sounds."""
    from panns_inference import AudioTagging

    tagging = AudioTagging(checkpoint_path=str(CHECKPOINT), device="cpu")
    out.mkdir(parents=True, exist_ok=True)
    step = 1 if window else batch
    for first in range(0, len(paths), step):
        group = paths[first : first + step]
        waves = np.stack([librosa.core.load(path, sr=RATE, mono=True)[0] for path in group])
        if window:
            length = round(window * RATE)
            waves = waves[0, : waves.shape[1] // length * length].reshape(-1, length)
        results = [tagging.inference(waves[i : i + batch]) for i in range(0, len(waves), batch)]
        scores, embeddings = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
        rows = [slice(None)] if window else [slice(n, n + 1) for n in range(len(group))]
        for path, row in zip(group, rows, strict=True):
            np.savez(out / f"{Path(path).stem}.npz", scores=scores[row], embeddings=embeddings[row])


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        make()
    else:
        folder, window, batch, *sounds = sys.argv[1:]
        main(Path(folder), float(window), int(batch), sounds)
