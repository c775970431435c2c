"""kill -9 of a tree and its writer, at random moments: nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernel.storage import servers
from tests.kernel.tree.fault_store import FaultStore, kill_after
from tests.kernel.tree.grounds import Place, keys, picture, store_of

from engine.tree import transfers

ROOT = Path(__file__).resolve().parents[3]


def kill_many(base: Path, url: str, options: dict[str, str], **fields: object) -> dict:
    given = {"base": str(base), "url": url, "options": options, **fields}
    argv = [sys.executable, "-m", "tests.kernel.tree.killing", json.dumps(given)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.timeout(300)
def test_200_kills_lose_no_byte(tmp_path):
    url, options = f"file://{tmp_path}/store", {"fsync": "false"}
    answer = kill_many(tmp_path, url, options, seed=11, kills=200, every=25)
    assert answer["wrong"] == []
    assert answer["kills"] == 200
    assert answer["operations"] > 100


@pytest.mark.timeout(300)
def test_kills_on_s3_lose_no_byte(tmp_path):
    (tmp_path / "weed").mkdir()
    with servers.seaweed(tmp_path / "weed") as place:
        answer = kill_many(tmp_path, place.url, place.options, seed=12, kills=20, every=10, slower=2)
    assert answer["wrong"] == []
    assert answer["operations"] > 20


def work(base: Path, store: FaultStore) -> None:
    """What a process does until its end comes."""
    with Place(base, store) as place:
        for n in range(3):
            (place.path / f"file{n}").write_bytes(b"%d" % n * 1000)
        (place.path / "d").mkdir(exist_ok=True)
        (place.path / "d" / "large").write_bytes(os.urandom(1 << 20))
        place.tree.barrier(20)
        (place.path / "file0").write_bytes(b"changed")
        (place.path / "file1").unlink()
        (place.path / "d").rename(place.path / "e")
        place.tree.barrier(20)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_end_of_the_process_at_each_call_of_the_store_loses_nothing(tmp_path, before):
    """Every call of the store is once the last one: of its effect the journal may or may not have heard."""
    for call in range(1, 60):
        base = tmp_path / str(call)
        store = store_of(f"file://{base}/store", {"fsync": "false"})
        child = os.fork()
        if child == 0:
            try:
                transfers.THREADS = 24 if call % 2 else 2  # with few, small files are uploaded together
                work(base, FaultStore(store, kill_after(call, before=before)))
            finally:
                os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
        with Place(base, store) as place:
            place.sync()
            assert place.tree.status().conflicts == (), call
            assert keys(store) == sorted(str(p.relative_to(place.path)) for p in place.path.rglob("*") if p.is_file())
            with Place(base, store, "other") as other:
                assert picture(other.path) == picture(place.path), call
        if not killed:
            return
    pytest.fail("it was killed to the end")
