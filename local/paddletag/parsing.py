"""Tagging results (npz) to text that a person reads."""

import numpy as np

from paddletag.runtime import UserError


def read(path):
    """The arrays of a tagging result. UserError for a file that is not one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if len(arrays["time"]) != len(arrays["scores"]) or arrays["scores"].shape[1] != len(arrays["labels"]):
            raise ValueError("its arrays differ in length")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: stage 4 (local/audio_tag.py) makes it") from None
    except KeyError as error:
        raise UserError(f"{path}: not a tagging result: it has no array {error}: run stage 4 again") from None
    except Exception as error:  # the file may hold any bytes: what goes wrong is its fault
        reason = str(error).split(". ")[0]
        raise UserError(f"{path}: not a tagging result, or damaged ({reason}): run stage 4 again") from None
    return arrays


def top_k(scores, labels, k):
    """[(label, score)] of the k highest of scores [C], highest first; equal scores in the order of the labels."""
    return [(str(labels[i]), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]


def text(arrays, k):
    """PaddleAudio's format (its parse_result.py): per window its time, k lines `label: score`, and a blank line."""
    lines = []
    for time, scores in zip(arrays["time"], arrays["scores"], strict=True):
        lines += [str(float(time)), *(f"{label}: {score}" for label, score in top_k(scores, arrays["labels"], k)), ""]
    return "\n".join(lines) + "\n"
