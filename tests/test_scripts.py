"""The stage scripts as a shell meets them: a mistake is one line and exit status 2, before paddle is imported."""

import sys
from pathlib import Path

import pytest

LOCAL = Path(__file__).resolve().parents[1] / "local"


@pytest.fixture
def no_paddle(tmp_path):
    """A paddle that cannot be imported without being noticed."""
    (tmp_path / "python" / "paddle").mkdir(parents=True)
    (tmp_path / "python" / "paddle" / "__init__.py").write_text("raise SystemExit('paddle was imported')\n")
    return str(tmp_path / "python")


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("train", "", "required: --config, --data, --fold, --exp"),
        ("train", "--config {yaml} --data {folder} --fold one --exp {folder}/e", "--fold one: neither the number of"),
        ("train", "--config nowhere.yaml --data {folder} --fold 1 --exp {folder}/e", "nowhere.yaml: no such config"),
        ("train", "--config {yaml} --data {folder} --fold 1 --exp {folder}/e", "manifest.jsonl: no such file"),
        ("train", "--config {yaml} --data {folder} --fold 1 --exp {folder}/e --opts train.lr high", "train.lr"),
        ("train", "--config {yaml} --data {folder} --fold 1 --exp {folder}/e --device tpu", "invalid choice: 'tpu'"),
        ("train", "{classic} --opts classic.classifier knn", "classic.classifier knn: no network"),
        ("train_classic", "", "required: --config, --data, --fold, --exp"),
        ("train_classic", "{classic}", "classic.classifier is none: choose one of knn"),
        ("train_classic", "{classic} --classifier knn", "manifest.jsonl: no such file"),
        ("train_classic", "{classic} --classifier net", "--classifier: invalid choice: 'net'"),
        ("train_classic", "{classic} --classifier knn --extend true", "--extend true: a classic baseline has"),
        ("evaluate", "--model nowhere --data {folder} --fold train", "--fold train: neither the number of"),
        ("evaluate", "--model nowhere --data {folder}", "nowhere/model.json: no such file"),
        ("evaluate", "--mode nowhere --data {folder}", "required: --model"),
        ("summarize", "--exp {folder} --folds 1", "fold1/metrics.json: no such file"),
        ("summarize", "--exp {folder} --folds test", "test/metrics.json: no such file"),
        ("audio_tag", "a.wav --engine onnxruntime --device gpu", "--engine onnxruntime: computes on the CPU"),
        ("audio_tag", "a.wav --engine tensorflow", "--engine: invalid choice: 'tensorflow'"),
        ("audio_tag", "--model nowhere --wav a.wav", "nowhere: neither"),
        ("audio_tag", "--sample_duration long", "--sample_duration: invalid float value: 'long'"),
        ("audio_tag", "--model mn04_as --wav a.wav", "fetch_weights.py mn04_as"),
        ("audio_tag", "a.wav --hop_duration 1", "--hop_duration needs a window"),
        ("audio_tag", "a.wav --device tpu", "--device tpu: must be cpu, gpu or gpu:0"),
        ("audio_tag", "a.wav --pcm_format s17", "--pcm_format: invalid choice: 's17'"),
        ("audio_tag", "--stream --output_dir {folder}", "--stream listens and prints"),
        ("parse_result", "--tagging_file {folder}/none.npz", "none.npz: no such file"),
        ("parse_result", "--tagging_file {yaml} --top_k many", "--top_k: invalid int value: 'many'"),
        ("parse_result", "--tagging_file {yaml} --topk 3", "unrecognized arguments: --topk 3"),
        ("parse_result", "--tagging_file {yaml} --smooth maybe", "--smooth: invalid boolean value: 'maybe'"),
        ("parse_result", "--tagging_file {yaml} --format xml", "--format: invalid choice: 'xml'"),
        ("parse_result", "--tagging_file {yaml} --audio a.wav", "--audio a.wav: is for --report"),
        ("report", "{folder}/none.npz", "none.npz: no such file"),
        ("report", "{folder}", "is not the folder of a model: for tagging results"),
        ("render_video", "none.wav --out a.mp4", "none.wav: no such file"),
        ("render_video", "none.wav --out a.avi", "--out a.avi: must end in .mp4"),
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
