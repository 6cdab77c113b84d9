"""Features computed from the sound: against those that stage 1 stored, and against waveforms mixed by hand."""

import pickle

import numpy as np
import pytest
import soundfile
from paddletag import config
from paddletag.data import audio
from paddletag.features import frontend, online, shards
from paddletag.features.batches import TrainBatches, load_batches
from paddletag.features.feature_source import open_features
from paddletag.runtime import UserError
from prepared import LABELS, SECONDS, call, prepare, settings, tone


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(the prepared folder, its records, its features)."""
    folder = tmp_path_factory.mktemp("data")
    return folder, *prepare(folder)


@pytest.fixture
def computed(stored):
    return online.OnlineFeatures(stored[1], frontend.MN, SECONDS)


def augmentation(**values):
    tree = config.defaults().augment
    tree.update(values)
    return tree


def test_computed_features_are_the_stored_ones(stored, computed):
    _, records, features = stored
    again = pickle.loads(pickle.dumps(computed))
    for record in records:
        for some in (computed, again):
            assert some[record["id"]].dtype == np.float16
            np.testing.assert_array_equal(some[record["id"]], features[record["id"]])


@pytest.mark.parametrize("front_end", [frontend.MN, frontend.PANNS, frontend.AST], ids=lambda f: f.name)
def test_other_rates_lengths_and_excerpts(tmp_path, front_end):
    generator, records = np.random.default_rng(0), []
    for name, rate, seconds, span in (
        ("short", 44100, 0.2, {}),
        ("long", 16000, 1.3, {}),
        ("excerpt", 22050, 1.5, {"start": 0.25, "end": 1.0}),
    ):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, tone(440, seconds, generator, rate), rate)
        records.append({"id": name, "audio": str(path), "labels": [], "fold": 1, **span})
    (tmp_path / "manifest.jsonl").touch()
    shards.extract(tmp_path, records, front_end, 0.5, 2, 0, 1)
    features, computed = (open_features(tmp_path, front_end, 0.5, records, flag) for flag in (False, True))
    assert isinstance(features, shards.Features) and isinstance(computed, online.OnlineFeatures)
    background_is_far = augmentation(wavmix=1.0, wavmix_snr=400.0)
    for row, record in enumerate(records):
        np.testing.assert_array_equal(computed[record["id"]], features[record["id"]])
        # -400 dB are nothing to float32: what remains is the way that a mixture takes.
        clip = computed.clip(records, row, np.random.default_rng(0), background_is_far)
        np.testing.assert_array_equal(clip, features[record["id"]])


@pytest.mark.parametrize("workers", [0, 2])
def test_training_meets_the_same_batches(stored, computed, workers):
    _, records, features = stored
    tree = config.defaults()
    tree.augment.update(mixup=0.3, roll=0.05, gain=6.0, freq_mask=8, time_mask=4)
    tree.train.batch_size = 6
    one, other = (
        list(load_batches(TrainBatches(records, LABELS, source, frontend.MN, 20, tree, 1), workers))
        for source in (features, computed)
    )
    assert len(one) == len(other) == 4
    for batch, same in zip(one, other, strict=True):
        for k in (0, 1):
            np.testing.assert_array_equal(batch[k].numpy(), same[k].numpy())


def test_a_share_of_the_clips_gets_another_training_clip_under_it(stored, computed, monkeypatch):
    _, records, features = stored
    pairs = []
    waves = {record["id"]: soundfile.read(record["audio"], dtype="float32")[0] for record in records}

    def note(wave, background, snr, generator):
        names = [next(name for name in waves if np.array_equal(waves[name], x)) for x in (wave, background)]
        pairs.append((*names, snr))
        return wave + background

    monkeypatch.setattr(online.augment, "wavmix", note)
    training = records[:5]  # the others are not to be met
    for seed in range(400):
        row = seed % 5
        before, clip_id = len(pairs), training[row]["id"]
        log_mel = computed.clip(training, row, np.random.default_rng(seed), augmentation(wavmix=0.25, wavmix_snr=7.0))
        if len(pairs) == before:
            np.testing.assert_array_equal(log_mel, features[clip_id])
        else:
            own, other, snr = pairs[-1]
            assert own == clip_id and snr == 7.0
            np.testing.assert_array_equal(
                log_mel, frontend.MN.log_mel(waves[clip_id] + waves[other]).astype(np.float16)
            )
    assert 70 <= len(pairs) <= 130
    ids = [record["id"] for record in training]
    assert {pair[:2] for pair in pairs} == {(own, other) for own in ids for other in ids if own != other}
    alone = computed.clip(records[:1], 0, np.random.default_rng(0), augmentation(wavmix=1.0))
    np.testing.assert_array_equal(alone, features[records[0]["id"]])


def test_training_lays_backgrounds_under_clips_and_keeps_their_labels(stored, computed):
    records = stored[1]

    def items(**augment):
        tree = config.defaults()
        tree.augment.update(augment)
        tree.train.batch_size = 8
        return TrainBatches(records, LABELS, computed, frontend.MN, 50, tree, 0)

    plain, mixed, again = (items(wavmix=share)[0] for share in (0.0, 1.0, 1.0))
    np.testing.assert_array_equal(mixed[0], again[0])
    np.testing.assert_array_equal(mixed[1], plain[1])
    assert all((a != b).any() for a, b in zip(mixed[0], plain[0], strict=True))
    # The loudest mel band is the clip's own tone: the background is 10 dB softer at least.
    np.testing.assert_array_equal(mixed[0].mean(1).argmax(1), plain[0].mean(1).argmax(1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_used_is_named_in_one_line(stored, tmp_path, workers):
    records = [dict(record) for record in stored[1][:8]]
    values = np.zeros(9600, np.float32)
    values[100] = np.nan
    soundfile.write(tmp_path / "spoilt.wav", values, 32000, subtype="FLOAT")
    records[3]["audio"] = str(tmp_path / "spoilt.wav")
    features = online.OnlineFeatures(records, frontend.MN, SECONDS)
    with pytest.raises(audio.AudioError):
        features[records[3]["id"]]
    tree = config.defaults()
    tree.train.batch_size = 2
    batches = TrainBatches(records, LABELS, features, frontend.MN, 30, tree, 0)
    with pytest.raises(UserError) as caught:
        list(load_batches(batches, workers))
    assert str(caught.value).startswith(f"{tmp_path / 'spoilt.wav'}: ")
    assert "NaN" in str(caught.value) and "\n" not in str(caught.value)


def test_the_digest_tells_sound_and_settings_apart(stored, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(9600), 32000)
    records = [*stored[1][:3], {"id": "a", "audio": str(path), "labels": ["low"], "fold": 1}]

    def digest(records, front_end=frontend.MN, seconds=SECONDS):
        return online.OnlineFeatures(records, front_end, seconds).digest(records)

    first = digest(records)
    assert len(first) == 16 and digest(records[::-1]) == first
    assert digest([{**record, "labels": ["high"], "fold": 2} for record in records]) == first
    others = [digest(records[1:]), digest(records, seconds=1.0), digest(records, frontend.MN.replace(n_mels=64))]
    others.append(digest([*records[:3], {**records[3], "end": 0.1}]))
    soundfile.write(path, np.zeros(9601), 32000)
    others.append(digest(records))
    assert len({first, *others}) == 6


def test_stage_1_has_nothing_to_do(tmp_path, capsys):
    path, _ = settings(tmp_path)
    call("extract_features", "--config", path, "--data", tmp_path, "--opts", "features.online", "true")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "features.online" in lines[0]
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yaml"]
