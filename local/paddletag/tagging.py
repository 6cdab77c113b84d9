"""Scores of a sound file over time: windows of one log-mel of the file, through the same call as evaluation."""

import numpy as np

from paddletag import audio, engine
from paddletag.frontend import clip_log_mel
from paddletag.runtime import UserError


def tag_clip(model, meta, path, batch_size=32):
    """The scores of the whole file, as evaluation computes them: arrays as `tag_windows`, with one row.

    Clips that are shorter than those a model was fine-tuned on are padded to their length, as they were in training; a
    backbone straight from the registry takes them as they are.
    """
    log_mel = clip_log_mel({"audio": str(path)}, model.front_end, meta.get("min_seconds", meta["clip_seconds"]))
    scores = engine.clip_scores(model, [(0, log_mel)], meta["task"], meta["clip_seconds"], batch_size)
    return _arrays(meta, path, np.zeros(1), np.array([audio.probe(path).seconds]), scores[0][None])


def tag_windows(model, meta, path, window, hop, batch_size=32):
    """Scores of windows of `window` seconds every `hop` seconds: a dict of arrays.

    time [N]: a window's start as a fraction of the file; start, end [N]: in seconds; scores [N, C]; labels [C]; model;
    source. A window begins at every hop before the end; the last ones are padded with zeros.
    """
    front_end = model.front_end
    hop_frames = round(hop * front_end.sample_rate / front_end.hop_length)
    if hop_frames < 1:
        frame = front_end.hop_length / front_end.sample_rate
        raise UserError(f"--hop_duration {hop}: must be at least {frame:g} s, one frame")
    wave = audio.load(path, front_end.sample_rate)
    # A window beyond both the file and what the model knows would be nothing but padding.
    window = min(window, max(len(wave) / front_end.sample_rate, meta["clip_seconds"]))
    samples = max(front_end.samples(window), front_end.min_samples)
    length = front_end.frames(samples)
    starts = np.arange(0, len(wave), hop_frames * front_end.hop_length)
    log_mel = front_end.log_mel(audio.pad(wave, starts[-1] + samples))
    windows = [log_mel[s : s + length] for s in starts // front_end.hop_length]
    batches = (
        (range(i, i + batch_size), np.stack(windows[i : i + batch_size])) for i in range(0, len(windows), batch_size)
    )
    scores = np.concatenate([rows for _, rows in engine.predict(model, batches, meta["task"])])
    start = starts / front_end.sample_rate
    end = np.minimum(start + window, len(wave) / front_end.sample_rate)
    return _arrays(meta, path, start, end, scores)


def _arrays(meta, path, start, end, scores):
    return {
        "time": start / end[-1],
        "start": start,
        "end": end,
        "scores": scores.astype(np.float32),
        "labels": np.array(meta["labels"]),
        "model": np.array(meta["sha256"]),
    }
