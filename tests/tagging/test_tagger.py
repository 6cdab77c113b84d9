"""Tagging from Python: against the pipeline, the command line and files of one sound; both engines; wrong arguments."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import paddletag
import pytest
import soundfile
from paddletag import runtime
from paddletag.data import audio
from paddletag.models import model_folder, registry
from paddletag.tagging import onnx_session, pipeline, tagger
from prepared import call, tone
from small_models import LABELS, save, waves

RATE = 32000  # of mn01_as
SPANS = {"the whole": (0, 0), "windows": (0.5, 0), "overlapping windows": (0.5, 0.2)}  # window, hop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model, as training leaves it."""
    return save(tmp_path_factory.mktemp("model"), "mn01_as", "multi_label")


@pytest.fixture(scope="module")
def model(folder):
    return paddletag.load_model(folder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """2.5 s of noise in five steps of loudness, for which the scores differ. (As float32: no number is rounded.)"""
    path = tmp_path_factory.mktemp("scene") / "scene.wav"
    soundfile.write(path, waves(5, 16000).ravel(), RATE, subtype="FLOAT")
    return path


def table(tags):
    """Start, end and {label: score} of each window."""
    windows = {}
    for start, end, label, score in tags:
        windows.setdefault((start, end), {})[label] = score
    return [(start, end, scores) for (start, end), scores in windows.items()]


def expect(tags, arrays, **tolerance):
    """All labels of all windows have the scores of these arrays."""
    rows = table(tags)
    assert [row[:2] for row in rows] == list(zip(arrays["start"].tolist(), arrays["end"].tolist(), strict=True))
    scores = [[scores[label] for label in LABELS] for _, _, scores in rows]
    np.testing.assert_allclose(scores, arrays["scores"], **{"rtol": 0, "atol": 0, **tolerance})


def test_a_tagger_says_what_it_is(model, folder):
    assert isinstance(model, paddletag.Tagger)
    assert model.labels == LABELS and model.sample_rate == RATE
    assert paddletag.load_model(str(folder)).labels == LABELS


@pytest.mark.parametrize("window, hop", SPANS.values(), ids=SPANS)
def test_values_are_those_of_the_pipeline_and_of_the_command_line(model, folder, scene, tmp_path, window, hop):
    tags = model.tag(scene, window=window, hop=hop)
    network, meta = model_folder.load_model(folder)
    settings = (window, hop or window) if window else ()
    expected = (pipeline.tag_windows if window else pipeline.tag_clip)(network, meta, scene, *settings)
    assert np.ptp(expected["scores"]) > 0.01  # else they would say nothing
    expect(tags, expected)
    options = ["--sample_duration", window, *(["--hop_duration", hop] if hop else []), "--embeddings"]
    call("audio_tag", scene, "--model", folder, "--output_dir", tmp_path, *options)
    with np.load(tmp_path / "scene.npz") as file:
        expect(tags, file)
        embeddings = model.embed(str(scene), window, hop)
        assert embeddings.dtype == np.float32 and embeddings.shape == (len(file["start"]), 96)
        np.testing.assert_array_equal(embeddings, file["embeddings"])


def test_tags_are_sorted_and_as_many_as_asked_for(model, scene):
    tags = model.tag(scene, 1.0, top_k=2)
    assert [tag[:2] for tag in tags] == [(0, 1), (0, 1), (1, 2), (1, 2), (1.5, 2.5), (1.5, 2.5)]
    assert all(isinstance(tag.label, str) and type(tag.score) is type(tag.start) is float for tag in tags)
    best = model.tag(scene, 1.0, top_k=99)
    assert len(best) == 3 * len(LABELS)
    for k in range(3):
        scores = [tag.score for tag in best[3 * k : 3 * k + 3]]
        assert scores == sorted(scores, reverse=True) and tags[2 * k : 2 * k + 2] == best[3 * k : 3 * k + 2]
    assert model.tag(scene) == model.tag(scene, top_k=5)


def test_the_short_way(folder, scene, model, capsys):
    tags = paddletag.tag(scene, folder, 0.5, 0.25, 1)
    assert tags == model.tag(scene, 0.5, 0.25, 1) and len(tags) == 9
    call(
        "audio_tag", scene, "--model", folder, "--json", "--top_k", 1, "--sample_duration", 0.5, "--hop_duration", 0.25
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["start"], row["end"], row["tags"]) for row in rows] == [
        (round(tag.start, 3), round(tag.end, 3), {tag.label: round(tag.score, 4)}) for tag in tags
    ]


@pytest.mark.parametrize("window, hop", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("rate, channels", [(RATE, 1), (RATE, 2), (44100, 1), (16000, 2)])
def test_a_waveform_is_its_file(model, tmp_path, rate, channels, window, hop):
    """To the bit: it is mixed and resampled as a file is."""
    generator = np.random.default_rng(channels)
    wave = np.stack([tone(hertz, 2.2, generator, rate) for hertz in (500, 4000)[:channels]], axis=1)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    sound = wave if channels > 1 else wave[:, 0]
    own = {} if rate == RATE else {"sample_rate": rate}
    assert model.tag(sound, window, hop, **own) == model.tag(tmp_path / "a.wav", window, hop)
    np.testing.assert_array_equal(model.embed(sound, window, hop, **own), model.embed(tmp_path / "a.wav", window, hop))
    if channels == 2:
        assert model.tag(sound, **own) != model.tag(sound[:, 0], **own)
        assert model.tag(sound.mean(1), window, hop, **own) == model.tag(sound, window, hop, **own)


def test_a_long_waveform_is_its_file(model, tmp_path):
    """Longer than what is decoded at a time; and with many channels, of which fewer samples are."""
    generator = np.random.default_rng(0)
    for channels, seconds in ((1, 9), (40, 1)):
        wave = 0.1 * generator.standard_normal((seconds * RATE, channels)).astype(np.float32)
        assert wave.size > audio.BLOCK
        soundfile.write(tmp_path / "long.wav", wave, RATE, subtype="FLOAT")
        assert model.tag(wave, 0.5) == model.tag(tmp_path / "long.wav", 0.5)


def test_other_floating_point_numbers_and_views(model, scene):
    wave = audio.load(scene, RATE)
    expected = model.tag(wave, 0.5)
    assert model.tag(wave.astype(np.float64), 0.5) == expected
    assert model.tag(np.repeat(wave, 2)[::2], 0.5) == expected
    assert model.tag(wave[:, None], 0.5, sample_rate=np.int64(RATE)) == expected
    before = wave.copy()
    before.setflags(write=False)
    assert model.tag(before, 0.5) == expected  # and nothing is written to it


def test_a_waveform_that_is_shorter_than_a_frame_is_padded(model):
    ((start, end, _, score),) = model.tag(np.full(10, 0.1, np.float32), top_k=1)
    assert (start, end) == (0, 10 / RATE) and 0 <= score <= 1


def test_engines_agree(folder, model, scene, tmp_path, monkeypatch):
    for package in onnx_session.EXPORT:
        pytest.importorskip(package)
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path / "home"))
    other = paddletag.load_model(folder, engine="onnxruntime")
    assert other.labels == model.labels and other.sample_rate == model.sample_rate
    for window in (0, 0.5):
        rows, expected = table(other.tag(scene, window)), table(model.tag(scene, window))
        assert len(rows) == len(expected) == (5 if window else 1)
        for (*span, scores), (*span2, scores2) in zip(rows, expected, strict=True):
            assert span == span2 and scores == pytest.approx(scores2, abs=1e-4)
        embeddings = other.embed(scene, window)
        np.testing.assert_allclose(embeddings, model.embed(scene, window), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"window": -1}, "window -1: "),
        ({"window": float("nan")}, "window nan: "),
        ({"window": float("inf")}, "window inf: "),
        ({"window": 0.001}, "window 0.001: must be at least 0.01 s"),
        ({"hop": 0.5}, "hop 0.5: needs a window"),
        ({"window": 1, "hop": -0.5}, "hop -0.5: "),
        ({"window": 1, "hop": float("nan")}, "hop nan: "),
        ({"window": 1, "hop": 0.001}, "hop 0.001: must be at least 0.01 s"),
        ({"sample_rate": 32000}, "sample_rate 32000: "),  # of a file
        ({"top_k": 0}, "top_k 0: "),
        ({"top_k": -1}, "top_k -1: "),
    ],
)
def test_wrong_arguments(model, scene, arguments, words):
    with pytest.raises(paddletag.UserError) as caught:
        model.tag(scene, **arguments)
    assert str(caught.value).startswith(words) and not isinstance(caught.value, paddletag.AudioError)
    if "top_k" not in arguments:
        with pytest.raises(paddletag.UserError, match=words):
            model.embed(scene, **arguments)


@pytest.mark.parametrize("rate", [0, -1, 999, 768_001, 32000.5, float("nan"), float("inf")])
def test_wrong_rates_of_a_waveform(model, rate):
    with pytest.raises(paddletag.UserError, match="sample_rate") as caught:
        model.tag(np.zeros(RATE, np.float32), sample_rate=rate)
    assert str(rate) in str(caught.value)


def broken(value):
    wave = np.zeros(1000, np.float32)
    wave[500] = value
    return wave


@pytest.mark.parametrize(
    "wave, words",
    [
        (broken(np.nan), "NaN"),
        (broken(np.inf), "infinite"),
        (broken(1e13), "beyond"),
        (np.zeros(0, np.float32), r"\[0\]"),
        (np.zeros((100, 0), np.float32), r"\[100, 0\]"),
        (np.array(0.5, np.float32), r"\[\]"),
        (np.zeros((2, 2, 100), np.float32), r"\[2, 2, 100\]"),
        (np.zeros((2, 32000), np.float32), "32000 channels"),  # channels first
        (np.zeros(1000, np.int16), "int16"),  # 32767 would be taken for 32767 times full scale
        (np.zeros(1000, bool), "bool"),
        (np.array(["a", "b"]), "<U1"),
    ],
)
def test_waveforms_that_are_no_sound(model, wave, words):
    with pytest.raises(paddletag.AudioError, match=words) as caught:
        model.tag(wave)
    assert str(caught.value).startswith("waveform: ")


def test_files_that_are_no_sound(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    for name in ("bad.wav", "none.wav"):
        for sound in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(paddletag.AudioError, match=name):
                model.tag(sound)
    with pytest.raises(TypeError):
        model.tag([0.0, 0.1])  # neither a file nor an array


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"engine": "torch"}, "engine 'torch': "),
        ({"device": "tpu"}, "device 'tpu': "),
        ({"device": "gpu:x"}, "device 'gpu:x': "),
        ({"engine": "onnxruntime", "device": "gpu"}, "engine onnxruntime: "),
    ],
)
def test_wrong_engines_and_devices(folder, arguments, words):
    with pytest.raises(paddletag.UserError) as caught:
        paddletag.load_model(folder, **arguments)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("engine", tagger.ENGINES)
def test_models_that_are_not_there_or_damaged(folder, tmp_path, engine):
    with pytest.raises(paddletag.UserError, match="nowhere"):
        paddletag.load_model("nowhere", engine)
    with pytest.raises(paddletag.UserError, match="model.json"):
        paddletag.load_model(tmp_path, engine)
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    with pytest.raises(paddletag.UserError, match="model.safetensors"):
        paddletag.load_model(tmp_path, engine)


def test_the_other_public_names():
    assert paddletag.list_models() == registry.list_models() == list(registry.ENTRIES)
    assert paddletag.list_models("mn0*") == ["mn01_as", "mn02_as", "mn04_as", "mn05_as"]
    model = paddletag.create_model("mn01_as", 3)
    assert model(paddle.zeros([2, 1, 128, 50])).shape == [2, 3]
    assert paddletag.AudioError is audio.AudioError and paddletag.UserError is runtime.UserError
    assert issubclass(paddletag.AudioError, paddletag.UserError)
    assert paddletag.Tagger is tagger.Tagger and paddletag.tag is tagger.tag
    assert all(hasattr(paddletag, name) for name in paddletag.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = paddletag.no_such_name
    with pytest.raises(ImportError):
        from paddletag import no_such_name  # noqa: F401


def loaded(code):
    """Which of paddle and numpy a new process has imported after this code."""
    code += "\nimport sys; print(*(name for name in ('numpy', 'paddle') if name in sys.modules))"
    local = str(Path(paddletag.__file__).parents[1])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {local!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_name_is_imported_when_it_is_asked_for():
    assert loaded("import paddletag; paddletag.__version__") == []
    assert loaded("import paddletag; paddletag.UserError") == []
    code = "import paddletag; paddletag.list_models(); paddletag.AudioError; paddletag.load_model"
    assert loaded(code) == ["numpy"]  # paddle comes with the first model


FIT = """
import numpy as np
from paddletag.features import frontend
from paddletag.tagging import onnx_engine
meta = {"backbone": "ast_base", "front_end": frontend.AST.to_dict()}
frames, log_mel = onnx_engine.fit_to_graph(meta, np.zeros((2, 98, 128), np.float32))
assert frames == 128 and log_mel.shape == (2, 128, 128)
"""


def test_the_length_of_an_ast_needs_no_paddle():
    assert loaded(FIT) == ["numpy"]


def test_a_folder_called_as_a_backbone_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "mn04_as").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not model_folder.is_folder("mn04_as")
    (tmp_path / "mn04_as" / "model.json").write_text("{}")
    assert model_folder.is_folder("mn04_as") and not model_folder.is_folder("mn10_as")


def test_the_folder_of_a_run_is_its_only_model(folder, model, scene, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path / "cache"))
    exp = tmp_path / "exp" / "mn01"
    (exp / "log").mkdir(parents=True)
    shutil.copytree(folder, exp / "fold2")
    (exp / "fold10" / "checkpoints").mkdir(parents=True)  # not finished
    expected = model.tag(scene)
    assert paddletag.load_model(str(exp)).tag(scene) == expected
    assert model_folder.find_model(exp) == exp / "fold2" and model_folder.find_model("mn04_as") == "mn04_as"
    assert model_folder.load_model(exp)[1] == model_folder.load_model(folder)[1]

    shutil.copytree(folder, exp / "fold10", dirs_exist_ok=True)
    shutil.copytree(folder, exp / "seed3" / "test")
    for engine in tagger.ENGINES:
        with pytest.raises(runtime.UserError, match="fold2, fold10, seed3/test"):
            paddletag.load_model(exp, engine)
    assert paddletag.load_model(exp / "seed3").tag(scene) == expected


@pytest.mark.parametrize("seconds", [1e15, 1e300, 10**400], ids=["1e15", "1e300", "10**400"])
def test_windows_longer_than_any_sound_are_refused(model, scene, seconds):
    with pytest.raises(runtime.UserError, match="window"):
        model.tag(scene, window=seconds)
    with pytest.raises(runtime.UserError, match="hop"):
        model.tag(scene, window=1.0, hop=seconds)
