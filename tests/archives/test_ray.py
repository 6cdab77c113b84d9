"""`paddletag tag-archive --ray` on a cluster of two nodes on this machine, one of which is lost in the middle."""

import os
import shutil
import threading
import time

import pytest
from conftest import CLIPS, ROOT
from prepared import call, refusal
from test_tag_archive import rows

pytestmark = pytest.mark.full


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A cluster of two nodes with a core each."""
    pytest.importorskip("ray", reason="ray is not installed (pip install ray)")
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "local"))  # for the nodes
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    own = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield own
    own.shutdown()


def test_a_node_that_is_lost(cluster, tmp_path):
    """Its parts are done by the other: every file once, the same rows as without Ray."""
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    (tmp_path / "clips").mkdir()
    for path in sorted(CLIPS.glob("*.ogg"))[:24]:
        shutil.copy(path, tmp_path / "clips")
    (tmp_path / "clips/bad.wav").write_bytes(b"RIFF")

    done_before = []

    def lose():
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("o/tags/.part*"))) < 2 and time.monotonic() < end:  # both nodes are at work
            time.sleep(0.01)
        done_before.append(len(list(tmp_path.glob("o/tags/part*"))))
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    words = "--part_files", 2, "--window", 2
    call("tag_archive", "clips", "--out", "o", *words, "--ray", cluster.address)
    thread.join()
    assert len(list(tmp_path.glob("o/tags/part*"))) == len(list(tmp_path.glob("o/refused/part*"))) == 13
    call("tag_archive", "clips", "--out", "here", *words)
    assert len(done_before) == 1 and done_before[0] < 12
    assert len(rows()) == len(rows("here")) == 24 * 3
    for row, other in zip(rows(), rows("here"), strict=True):  # another number of threads adds in another order
        assert (row["file"], row["start"], row["end"]) == (other["file"], other["start"], other["end"])
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert [os.path.basename(row["file"]) for row in rows(kind="refused")] == ["bad.wav"]
    call("tag_archive", "clips", "--out", "o", *words, "--ray", cluster.address)  # nothing is left to do


def test_errors_of_tasks_are_lines(cluster, tmp_path):
    shutil.copytree(CLIPS, tmp_path / "clips", ignore=shutil.ignore_patterns("[2-5]*"))
    words = "clips", "--out", "o", "--ray", cluster.address
    assert "no node of the cluster has a GPU" in refusal("tag_archive", *words, "--device", "gpu")
    (tmp_path / "o/tags").mkdir(parents=True, exist_ok=True)
    (tmp_path / "o/refused").write_text("")  # in the place of the folder
    with pytest.raises(OSError) as caught:
        call("tag_archive", *words)
    assert "refused" in str(caught.value) and not list(tmp_path.glob("o/tags/part*"))
    assert "no such cluster" in refusal("tag_archive", "clips", "--out", "p", "--ray", "127.0.0.1:1")
