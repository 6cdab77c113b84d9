"""The configuration: defaults, YAML, --opts, and what is refused."""

import re
from pathlib import Path

import pytest
from paddletag import config
from paddletag.runtime import UserError

RECIPES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*/conf/*.yaml"))


@pytest.fixture
def load(tmp_path):
    """A function: text of a YAML file (and options) -> config."""

    def load(text="", *opts):
        (tmp_path / "conf.yaml").write_text(text)
        return config.load(tmp_path / "conf.yaml", opts)

    return load


def test_a_file_overrides_the_defaults_and_options_override_the_file(load):
    text = "train: {lr: 0.5, epochs: 7}\n"
    defaults = config.defaults()
    assert config.to_dict(load()) == config.to_dict(defaults)
    assert load(text).train.lr == 0.5 and load(text).train.batch_size == defaults.train.batch_size
    loaded = load(text, "train.lr", "1e-4", "task", "multi_label")
    assert (loaded.train.lr, loaded.train.epochs, loaded.task) == (1e-4, 7, "multi_label")
    assert config.to_dict(config.defaults()) == config.to_dict(defaults)  # loading changes no defaults


@pytest.mark.parametrize("text, value", [("1", 1.0), ("1e-4", 1e-4), ("2.5E-3", 2.5e-3), ("'0.25'", 0.25)])
def test_what_passes_for_a_number(load, text, value):
    """PyYAML reads 1e-4 as text, since YAML 1.1 wants 1.0e-4."""
    for loaded in (load(f"train: {{lr: {text}}}"), load("", "train.lr", text.strip("'"))):
        assert loaded.train.lr == value and type(loaded.train.lr) is float


@pytest.mark.parametrize("text", ["off", "1", "a: b", "{label}/{id}.wav", "", "[x", "'quoted'", "0123", "# 1"])
def test_an_option_that_sets_a_text_is_taken_literally(load, text):
    assert load("", "data.audio", text).data.audio == text


def test_numbers_and_nothing_pass_for_texts_in_yaml(load):
    loaded = load("data: {fold: 5, label: , md5: 123}").data
    assert (loaded.fold, loaded.label, loaded.md5) == ("5", "", "123")


def says(text, words):
    """Whether a text has these words, in this order, and anything in the place of ` ... `."""
    return re.search(".*".join(map(re.escape, words.split(" ... "))), text) is not None


@pytest.mark.parametrize(
    "text, words",
    [
        ("trian: {lr: 1}", "key trian ... task, data, model"),
        ("train: {learning_rate: 1}", "key train.learning_rate ... train.epochs"),
        ("train: {lr: {a: 1}}", "train.lr ... number"),
        ("train: {lr: high}", "train.lr ... number ... 'high'"),
        ("train: {lr: true}", "train.lr ... number ... True"),
        ("train: {lr: }", "train.lr ... number ... None"),
        ("train: {epochs: 2.5}", "train.epochs ... integer ... 2.5"),
        ("train: {epochs: '3'}", "train.epochs ... integer ... '3'"),
        ("train: {epochs: true}", "train.epochs ... integer ... True"),
        ("data: {label: [a, b]}", "data.label ... text"),
        ("data: {label: yes}", "data.label ... text ... True"),
        ("train: 3", "train ... mapping"),
        ("train:", "train ... mapping"),
        ("- train", "the file ... mapping"),
        ("just words", "the file ... mapping"),
        ("features: {front_end: 3}", "features.front_end ... mapping"),
        ("task: regression", "task ... single_label, multi_label ... 'regression'"),
        ("data: {layout: xml}", "data.layout ... csv"),
        ("data: {clip_seconds: 601}", "data.clip_seconds ... 600"),
        ("train: {lr: .nan}", "train.lr ... more than 0 ... nan"),
        ("train: {lr: .inf}", "train.lr ... more than 0 ... inf"),
        ("train: {lr: -1}", "train.lr ... more than 0"),
        ("train: {lr: 0}", "train.lr ... more than 0"),
        (f"train: {{lr: 1{400 * '0'}}}", "train.lr ... number"),
        ("train: {epochs: 0}", "train.epochs ... more than 0"),
        ("train: {batch_size: -4}", "train.batch_size ... more than 0"),
        ("data: {clip_seconds: 0}", "data.clip_seconds ... more than 0"),
        ("data: {max_rejected: -1}", "data.max_rejected ... 0 or more"),
        ("augment: {mixup: -0.1}", "augment.mixup ... 0 or more"),
        ("train: {weight_decay: .nan}", "train.weight_decay ... 0 or more"),
        ("train: {weight_decay: .inf}", "train.weight_decay ... 0 or more"),
        ("train: {label_smoothing: 1}", "train.label_smoothing"),
        ("train: {final_lr: 2}", "train.final_lr"),
        ("train: {seed: 99999999999999999999}", "train.seed ... 4294967295"),
        ("augment: {roll: 1.0e+300}", "augment.roll ... 600"),
        ("augment: {gain: 1.0e+5}", "augment.gain ... 100"),
        ("? [train, 1]\n: 3", "key ... word"),
        ("train: [", "not a YAML file"),
        ("a: b: c", "not a YAML file"),
        ("train: {lr: 1}\ntrain: {epochs: 3}", "key train ... twice"),
        ("train:\n  lr: 1\n  lr: 2", "key lr ... twice"),
    ],
)
def test_refused_files(load, text, words):
    with pytest.raises(UserError) as caught:
        load(text)
    assert "conf.yaml: " in str(caught.value) and says(str(caught.value), words)


@pytest.mark.parametrize(
    "opts, words",
    [
        (["train.lr"], "pairs ... 'train.lr'"),
        (["train.lr", "1", "train.epochs"], "pairs ... 'train.epochs'"),
        (["lr", "1"], "key lr;"),
        (["train.lrr", "1"], "key train.lrr;"),
        (["train.lr.x", "1"], "train.lr ... number"),
        (["train.lr", "fast"], "train.lr ... number ... 'fast'"),
        (["train.epochs", "1.5"], "train.epochs ... integer"),
        (["train.epochs", ""], "train.epochs ... integer"),
        (["train.epochs", "[1"], "train.epochs: '[1'"),
        (["train", "3"], "train ... mapping"),
    ],
)
def test_refused_options(load, opts, words):
    with pytest.raises(UserError) as caught:
        load("", *opts)
    assert "--opts" in str(caught.value) and says(str(caught.value), words)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    for path in (tmp_path / "a.yaml", tmp_path):
        with pytest.raises(UserError, match=f"{path}: .*YAML"):
            config.load(path)


def test_settings_of_the_front_end_are_free(load):
    loaded = load("features: {front_end: {hop_length: 160}}", "features.front_end.f_max", "8000.0")
    assert dict(loaded.features.front_end) == {"hop_length": 160, "f_max": 8000.0}


def test_a_saved_config_comes_back(load):
    loaded = load("train: {lr: 0.5}\nfeatures: {front_end: {hop_length: 160}}", "data.label", "category")
    tree = config.to_dict(loaded)
    assert type(tree) is dict and type(tree["features"]["front_end"]) is dict and tree["data"]["label"] == "category"
    again = config.from_dict(tree)
    assert config.to_dict(again) == tree
    tree["train"]["epochs"] = 99
    assert again.train.epochs == loaded.train.epochs != 99
    with pytest.raises(UserError, match=r"key train\.lrr"):
        config.from_dict({"train": {"lrr": 1}})


def test_a_loaded_config_cannot_be_changed(load):
    loaded = load("features: {front_end: {hop_length: 160}}")
    for node, key in ((loaded, "task"), (loaded.train, "lr"), (loaded.features.front_end, "hop_length")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(node, key, 1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_the_recipes_configs_load(path):
    assert config.load(path).data.audio


def test_paths_are_found_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "user").mkdir()
    (tmp_path / "recipe").mkdir()
    (tmp_path / "user" / "a.wav").touch()
    monkeypatch.chdir(tmp_path / "recipe")
    assert config.find("a.wav") == Path("a.wav")
    monkeypatch.setenv("RECIPE_CALLER", str(tmp_path / "user"))
    assert config.find("a.wav") == tmp_path / "user" / "a.wav"
    assert config.find("conf/b.yaml") == Path("conf/b.yaml")
    assert config.find(tmp_path / "c.wav") == tmp_path / "c.wav"
