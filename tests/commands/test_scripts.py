"""The stage scripts as a shell meets them: a mistake is one line and exit status 2, before paddle is imported."""

import sys

import pytest
from conftest import ROOT

LOCAL = ROOT / "local"


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("train", "", "--config, --data, --fold, --exp"),
        ("train", "--config {yaml} --data {folder} --fold one --exp {folder}/e", "--fold one"),
        ("train", "--config nowhere.yaml --data {folder} --fold 1 --exp {folder}/e", "nowhere.yaml"),
        ("train", "--config {yaml} --data {folder} --fold 1 --exp {folder}/e", "manifest.jsonl"),
        ("train", "--config {yaml} --data {folder} --fold 1 --exp {folder}/e --opts train.lr high", "train.lr"),
        (
            "train",
            "--config {yaml} --data {folder} --fold 1 --exp {folder}/e --device tpu",
            "--device: invalid choice: 'tpu'",
        ),
        ("train", "{classic} --opts classic.classifier knn", "classic.classifier knn"),
        ("train_classic", "", "--config, --data, --fold, --exp"),
        ("train_classic", "{classic}", "classic.classifier"),
        ("train_classic", "{classic} --classifier knn", "manifest.jsonl"),
        ("train_classic", "{classic} --classifier net", "--classifier: invalid choice: 'net'"),
        ("train_classic", "{classic} --classifier knn --extend true", "--extend true"),
        ("evaluate", "--model nowhere --data {folder} --fold train", "--fold train"),
        ("evaluate", "--model nowhere --data {folder}", "nowhere/model.json"),
        ("evaluate", "--mode nowhere --data {folder}", "--model"),
        ("summarize", "--exp {folder} --folds 1", "fold1/metrics.json"),
        ("summarize", "--exp {folder} --folds test", "test/metrics.json"),
        ("audio_tag", "a.wav --engine onnxruntime --device gpu", "--engine onnxruntime"),
        ("audio_tag", "a.wav --engine tensorflow", "--engine: invalid choice: 'tensorflow'"),
        ("audio_tag", "--model nowhere --wav a.wav", "nowhere"),
        ("audio_tag", "--sample_duration long", "--sample_duration: invalid"),
        ("audio_tag", "--model mn10_as --wav a.wav", "weights mn10_as"),
        ("audio_tag", "a.wav --hop_duration 1", "--sample_duration"),
        ("audio_tag", "a.wav --device tpu", "--device tpu"),
        ("audio_tag", "a.wav --pcm_format s17", "--pcm_format: invalid choice: 's17'"),
        ("audio_tag", "--stream --output_dir {folder}", "--output_dir"),
        ("parse_result", "--tagging_file {folder}/none.npz", "none.npz"),
        ("parse_result", "--tagging_file {yaml} --top_k many", "--top_k: invalid"),
        ("parse_result", "--tagging_file {yaml} --topk 3", "--top_k?"),
        ("parse_result", "--tagging_file {yaml} --smooth maybe", "--smooth: 'maybe'"),
        ("parse_result", "--tagging_file {yaml} --format xml", "--format: invalid choice: 'xml'"),
        ("parse_result", "--tagging_file {yaml} --audio a.wav", "--report"),
        ("report", "{folder}/none.npz", "none.npz"),
        ("report", "{folder}", "not the folder of a model"),
        ("render_video", "none.wav --out a.mp4", "none.wav"),
        ("render_video", "none.wav --out a.avi", ".mp4"),
    ],
)
def test_a_mistake_is_one_line_before_paddle_is_imported(script, no_paddle, tmp_path, name, options, words):
    (tmp_path / "empty.yaml").write_text("")
    classic = f"--config {tmp_path}/empty.yaml --data {tmp_path} --fold 1 --exp {tmp_path}/e"
    options = options.format(yaml=tmp_path / "empty.yaml", folder=tmp_path, classic=classic).split()
    done = script(f"local/{name}.py", *options, PYTHONPATH=no_paddle, PADDLETAG_HOME=str(tmp_path / "cache"))
    *usage, line = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert line.startswith(f"{name}.py: error: ") and words in line
    assert not [text for text in usage if not text.startswith(("usage:", " "))] and done.stdout == ""
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("name", ["train", "train_classic", "evaluate", "summarize", "audio_tag", "parse_result"])
def test_help(script, no_paddle, name):
    done = script(f"local/{name}.py", "--help", PYTHONPATH=no_paddle)
    assert done.returncode == 0 and "--help" in done.stdout and done.stderr == ""


def test_no_script_shadows_a_module_of_the_standard_library():
    stems = {path.stem for path in LOCAL.glob("*.py")}
    assert stems and not stems & set(sys.stdlib_module_names)
