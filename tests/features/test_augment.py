"""Augmentation: against the log-mels of the sound treated alike, and against what masks and mixes show."""

import numpy as np
import paddle
import pytest
import scipy.stats
from paddletag import config
from paddletag.features import augment, frontend
from paddletag.training import losses
from prepared import tone


class Largest:
    """A generator that draws the upper end of every range, or the lower."""

    def __init__(self, upper):
        self.upper = upper

    def uniform(self, low, high):
        return high if self.upper else low


def frozen(*shape, seed=0):
    """Random values in an array that refuses to be changed."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    array.flags.writeable = False
    return array


@pytest.fixture
def wave():
    generator = np.random.default_rng(1)
    return tone(700, 0.5, generator) * np.linspace(1, 0.01, 16000, dtype=np.float32)


# Normalised units for MN, dB for PANNs. A float16 of a log-mel near its floor stands for a power that is known to a
# few per cent, and float32 to a millionth.
@pytest.mark.parametrize(
    "front_end, stored, tolerance",
    [
        (frontend.MN, np.float32, 1e-4),
        (frontend.MN, np.float16, 1e-2),
        (frontend.PANNS, np.float32, 1e-3),
        (frontend.PANNS, np.float16, 4e-2),
    ],
    ids=["mn-float32", "mn-float16", "panns-float32", "panns-float16"],
)
@pytest.mark.parametrize("upper", [True, False], ids=["louder", "softer"])
def test_gain_is_that_of_the_sound(wave, front_end, stored, tolerance, upper):
    decibels = 10 if upper else -10
    before = front_end.log_mel(wave).astype(stored)
    before.flags.writeable = False
    changed = augment.gain(before, front_end, 10.0, Largest(upper))
    expected = front_end.log_mel(wave * np.float32(10 ** (decibels / 20)))
    assert changed.dtype == np.float32
    assert np.abs(expected - before.astype(np.float32)).max() > 100 * tolerance / (1 if stored == np.float32 else 10)
    np.testing.assert_allclose(changed, expected, atol=tolerance)


def test_roll_is_circular_and_reaches_both_ends():
    log_mel, shifts = frozen(9, 4), set()
    for seed in range(100):
        rolled = augment.roll(log_mel, 3, np.random.default_rng(seed))
        fits = [s for s in range(-4, 5) if all(np.array_equal(rolled[(t + s) % 9], log_mel[t]) for t in range(9))]
        assert len(fits) == 1
        shifts.update(fits)
    assert shifts == set(range(-3, 4))


def test_crop_is_an_excerpt_and_reaches_both_ends():
    log_mel, starts = frozen(9, 4), set()
    for seed in range(100):
        excerpt = augment.crop(log_mel, 6, np.random.default_rng(seed))
        fits = [s for s in range(4) if np.array_equal(excerpt, log_mel[s : s + 6])]
        assert len(excerpt) == 6 and len(fits) == 1
        starts.update(fits)
    assert starts == {0, 1, 2, 3}
    np.testing.assert_array_equal(augment.crop(log_mel, 9, np.random.default_rng(0)), log_mel)
    np.testing.assert_array_equal(augment.crop(log_mel, 12, np.random.default_rng(0)), log_mel)


def mask(changed):
    """The width of the one run of True in a row, which must be the only one."""
    edges = np.diff(np.concatenate([[0], changed.astype(int), [0]]))
    assert (edges == 1).sum() <= 1
    return int(changed.sum())


def test_spec_augment_fills_one_band_and_one_stretch_with_the_mean():
    log_mel, widths = frozen(12, 10), set()
    for seed in range(400):
        masked = augment.spec_augment(log_mel, 4, 3, np.random.default_rng(seed))
        changed = masked != log_mel
        mels, frames = changed.all(axis=0), changed.all(axis=1)
        np.testing.assert_array_equal(changed, mels[None] | frames[:, None])
        np.testing.assert_allclose(masked[changed], log_mel.mean(dtype=np.float64), rtol=1e-4, atol=1e-6)
        widths.add((mask(mels), mask(frames)))
    assert widths == {(m, t) for m in range(5) for t in range(4)}


def test_spec_augment_survives_masks_wider_than_the_clip():
    for seed in range(20):
        assert augment.spec_augment(frozen(3, 2), 50, 50, np.random.default_rng(seed)).shape == (3, 2)


def test_mixup_mixes_inputs_and_targets_alike():
    size = 400
    targets = np.eye(size, dtype=np.float32)
    batch = np.repeat(targets[:, None], 2, axis=1)  # each clip shows its number as its target does: [B, 2, B]
    batch.flags.writeable = targets.flags.writeable = False
    mixed, mixed_targets = augment.mixup(batch, targets, 0.3, np.random.default_rng(0))
    assert mixed.dtype == mixed_targets.dtype == np.float32
    np.testing.assert_array_equal(mixed[:, 0], mixed_targets)
    np.testing.assert_array_equal(mixed[:, 1], mixed_targets)
    np.testing.assert_allclose(mixed_targets.sum(1), 1, atol=1e-6)
    own = mixed_targets.diagonal()
    assert (own >= 0.5).all()
    guests = mixed_targets.sum(0) - own
    assert ((mixed_targets > 0).sum(1) <= 2).all() and guests.max() <= 0.5 + 1e-6  # each is lent to one other
    share = scipy.stats.beta(0.3, 0.3)
    drawn = own[(mixed_targets > 0).sum(1) == 2]  # the larger of lambda and 1 - lambda
    assert scipy.stats.kstest(drawn, lambda x: share.cdf(x) - share.cdf(1 - x)).pvalue > 0.01


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_loss_of_a_mixture_is_that_of_either_clip_by_its_share(task):
    generator = np.random.default_rng(3)
    size, classes = 6, 5
    targets = (generator.random((size, classes)) < 0.5).astype(np.float32)
    targets[:, 0] = 1  # a label that all have, and so the mixtures
    if task == "single_label":
        targets = np.eye(classes, dtype=np.float32)[generator.integers(classes, size=size)]
    marks = np.eye(size, dtype=np.float32)[:, None]  # [B, 1, B]: which clips are in a mixture, by their shares
    mixed, mixed_targets = augment.mixup(marks, targets, 0.5, np.random.default_rng(0))
    if task == "multi_label":
        np.testing.assert_allclose(mixed_targets[:, 0], 1, atol=1e-6)
    logits = generator.standard_normal((size, classes)).astype(np.float32)

    def loss(logits, targets):
        return float(losses.loss(task, paddle.to_tensor(logits[None]), paddle.to_tensor(targets[None])))

    for row in range(size):
        parts = sum(mixed[row, 0, clip] * loss(logits[row], targets[clip]) for clip in range(size))
        np.testing.assert_allclose(loss(logits[row], mixed_targets[row]), parts, rtol=1e-5)


def test_a_background_lies_under_the_clip_at_the_levels_that_are_set(wave):
    background = np.random.default_rng(2).laplace(size=len(wave)).astype(np.float32) * 5 + 1
    levels = []  # dB of the clip over its background
    for seed in range(200):
        mixed = augment.wavmix(wave, background, 10.0, np.random.default_rng(seed))
        assert mixed.dtype == np.float32
        under = mixed.astype(np.float64) - wave
        assert np.corrcoef(under, background)[0, 1] > 0.999
        levels.append(10 * np.log10((wave.astype(np.float64) ** 2).sum() / (under**2).sum()))
    assert scipy.stats.kstest(levels, scipy.stats.uniform(10, 20).cdf).pvalue > 0.01
    assert 9.99 < min(levels) < 11 and 29 < max(levels) < 30.01


def test_a_longer_background_gives_an_excerpt_and_a_shorter_one_is_repeated():
    wave, starts = frozen(50), set()
    ramp = np.arange(1, 61, dtype=np.float32)
    for seed in range(150):
        under = augment.wavmix(wave, ramp, 0.0, np.random.default_rng(seed)).astype(np.float64) - wave
        start = round(under[0] / np.diff(under).mean()) - 1
        np.testing.assert_allclose(under / under[0], ramp[start : start + 50] / ramp[start], rtol=1e-4, atol=1e-3)
        starts.add(start)
    assert starts == set(range(11))
    under = augment.wavmix(wave, ramp[:20], 0.0, np.random.default_rng(0)).astype(np.float64) - wave
    repeated = np.concatenate([ramp[:20], ramp[:20], ramp[:10]])
    np.testing.assert_allclose(under / under[0], repeated, rtol=1e-4, atol=1e-3)


def test_nothing_is_laid_under_silence_nor_silence_under_anything():
    sound, silence = frozen(40), np.zeros(40, np.float32)
    np.testing.assert_array_equal(augment.wavmix(silence, sound, 10.0, np.random.default_rng(0)), silence)
    np.testing.assert_array_equal(augment.wavmix(sound, silence, 10.0, np.random.default_rng(0)), sound)
    faint = augment.wavmix(sound, sound * np.float32(1e-30), 10.0, np.random.default_rng(0))
    assert np.isfinite(faint).all() and (faint != sound).any()


def all_of_them(**changes):
    settings = config.defaults().augment
    settings.update({"roll": 0.1, "gain": 6.0, "freq_mask": 10, "time_mask": 10, **changes})
    return settings


def test_augment_is_determined_by_its_generator_and_leaves_its_input():
    log_mel = frozen(40, 128)
    first, again, other = (
        augment.augment(log_mel, all_of_them(), frontend.MN, np.random.default_rng(s)) for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and first.dtype == np.float32


def test_augment_without_settings_is_the_identity():
    off = all_of_them(roll=0.0, gain=0.0, freq_mask=0, time_mask=0)
    log_mel = frozen(40, 128)
    np.testing.assert_array_equal(augment.augment(log_mel, off, frontend.MN, np.random.default_rng(0)), log_mel)


def test_roll_is_set_in_seconds():
    only = all_of_them(roll=0.02, gain=0.0, freq_mask=0, time_mask=0)  # 2 frames of 10 ms
    log_mel, shifts = frozen(40, 128), set()
    for seed in range(60):
        rolled = augment.augment(log_mel, only, frontend.MN, np.random.default_rng(seed))
        shifts.update(s for s in range(-5, 6) if np.array_equal(np.roll(log_mel, s, 0), rolled))
    assert shifts == {-2, -1, 0, 1, 2}
