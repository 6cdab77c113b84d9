"""An archive of very many files: memory does not grow with their number, and neither does the time of a file.

PADDLETAG_ARCHIVE_FILES says how many (default: 20000). They are links to short pieces of real clips, and a stand-in is
in the place of the network, so that what is measured is all else: listing, decoding, log-mels, Parquet.
"""

import json
import os
import subprocess
import sys

import pyarrow.dataset as ds
import pytest
import soundfile
from conftest import CLIPS, ROOT

pytestmark = pytest.mark.full
MEASURED = """
import json, resource, sys, time
sys.path[:0] = [{tests!r}, {archives!r}]
import test_tag_archive
from paddletag.archives import parts
from paddletag.commands import tag_archive
tag_archive.open_predictor = lambda *args, **options: test_tag_archive.predict
sys.argv = ["paddletag tag-archive", "links", "--out", "o", "--window", "1"]
start = time.process_time(), time.monotonic()
tag_archive.main()
seconds = time.process_time() - start[0], time.monotonic() - start[1]
print(json.dumps([*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measure(folder, clips, count):
    """(CPU seconds, seconds, largest memory in MiB) of an archive of `count` links to `clips`."""
    (folder / "links").mkdir(parents=True)
    for number in range(count):
        place = folder / "links" / f"{number // 1000:04d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:07d}.wav").symlink_to(clips[number % len(clips)])
    code = MEASURED.format(tests=str(ROOT / "tests"), archives=str(ROOT / "tests/archives"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "local"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = ds.dataset(folder / "o/tags").to_table(columns=["file"])["file"]
    assert len(files) == len(files.unique()) == count
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_and_time_of_a_file_are_constant(tmp_path):
    clips = []
    for number, path in enumerate(sorted(CLIPS.glob("*.ogg"))):
        wave, rate = soundfile.read(path, 32000)
        clips.append(tmp_path / f"{number}.wav")
        soundfile.write(clips[-1], wave[: rate // 2], rate)
    many = int(os.environ.get("PADDLETAG_ARCHIVE_FILES", 20000))
    few = measure(tmp_path / "few", clips, 1000)
    lot = measure(tmp_path / "lot", clips, many)
    again = measure(tmp_path / "again", clips, 1000)
    print(f"1000 files: {few}, {again}; {many} files: {lot} (CPU s, s, MiB)")
    assert lot[2] < 1.1 * max(few[2], again[2])
    assert lot[0] / many < 1.1 * max(few[0], again[0]) / 1000
