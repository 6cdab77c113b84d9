"""Tag sounds with mn04 in PyTorch, as EfficientAT's inference script goes about it: librosa decodes and resamples.

python peer_mn.py OUT WINDOW HOP BATCH LAYOUT SOUND ...    (seconds; WINDOW 0: whole files, of one length; LAYOUT:
contiguous or channels_last). Writes OUT/NAME.npz with `scores` [windows, 527]. It is a peer to measure, no tool.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))

import librosa
import numpy as np
import torch
from torch_mn import LogMel, pretrained

RATE = 32000


def main(out: Path, window: float, hop: float, batch: int, layout: str, paths: list[str]) -> None:
    """Score all sounds."""
    model, log_mel = pretrained(), LogMel()
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = model.to(memory_format=memory_format)

    def scores(log_mels: torch.Tensor) -> np.ndarray:
        return model(log_mels.contiguous(memory_format=memory_format)).sigmoid().numpy()

    out.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(paths), batch if not window else 1):
        group = paths[first : first + (batch if not window else 1)]
        waves = [torch.from_numpy(librosa.core.load(path, sr=RATE, mono=True)[0]) for path in group]
        if not window:
            for path, row in zip(group, scores(log_mel(torch.stack(waves))), strict=True):
                np.savez(out / f"{Path(path).stem}.npz", scores=row[None])
            continue
        (wave,) = waves
        if hop < window:  # the frames of windows that overlap are computed once
            frames = log_mel(wave[None])[0, 0]  # [128, T]
            pieces = frames.unfold(1, round(window * 100), round(hop * 100)).permute(1, 0, 2)[:, None]
            rows = [scores(pieces[i : i + batch]) for i in range(0, len(pieces), batch)]
        else:
            pieces = wave.unfold(0, round(window * RATE), round(hop * RATE))
            rows = [scores(log_mel(pieces[i : i + batch])) for i in range(0, len(pieces), batch)]
        np.savez(out / f"{Path(group[0]).stem}.npz", scores=np.concatenate(rows))


if __name__ == "__main__":
    folder, window, hop, batch, layout, *sounds = sys.argv[1:]
    with torch.inference_mode():
        main(Path(folder), float(window), float(hop), int(batch), layout, sounds)
