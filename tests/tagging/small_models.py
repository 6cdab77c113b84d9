"""Models with random weights whose scores depend on the sound, saved as folders, for tests of tagging."""

import numpy as np
import paddle
from paddletag.models import model_folder, registry
from paddletag.models.backbone import set_bn_momentum
from paddletag.tagging import scoring

LABELS = ["a", "b", "ü"]
SECONDS = 1.0


def waves(batch, samples, seed=0):
    """Noise of another loudness in each row, float32 [batch, samples]."""
    noise = np.random.default_rng(seed).standard_normal((batch, samples))
    return (noise * np.logspace(-3, -1, batch)[:, None]).astype(np.float32)


def lively(model):
    """`model` with BatchNorm statistics of noise, a head that tells inputs apart, and in evaluation mode.

    (As it is made, it gives much the same for all inputs, which any export would match.)
    """
    model.train()
    set_bn_momentum(model, 0.0)
    log_mel = np.stack([model.front_end.log_mel(wave) for wave in waves(8, model.front_end.samples(SECONDS), 1)])
    x = scoring.to_input(model, paddle.to_tensor(log_mel))
    model(x)
    model.eval()
    weight = model.state_dict()[model.head[0]]
    weight.set_value(weight / float(model(x).numpy().std(axis=0).mean()))
    return model


def save(folder, name, task):
    """The folder of a lively model of three labels, for clips of a second."""
    model = lively(registry.create_model(name, len(LABELS)))
    meta = {"backbone": name, "labels": LABELS, "task": task, "clip_seconds": SECONDS, "run": {}}
    model_folder.save_model(folder, model, meta)
    return folder
