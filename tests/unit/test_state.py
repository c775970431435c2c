"""The state database: one transaction for each operation, nothing acknowledged is lost."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.spec.errors import ApplyFailed, Conflict
from engine.state import State


def test_objects_by_id_and_name(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    state.put("network", "1", {"a": 1}, name="one")
    state.put("network", "1", {"a": 2}, name="uno")
    assert state.get("network", "1") == {"a": 2}
    assert state.by_name("network", "one") is None
    assert state.by_name("network", "uno") == {"a": 2}
    with pytest.raises(Conflict, match="uno"):
        state.put("network", "2", {}, name="uno")
    state.put("volume", "2", {}, name="uno")
    state.delete("network", "1")
    state.delete("network", "1")
    assert state.all("network") == []


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    with pytest.raises(ZeroDivisionError), state.transaction():
        state.put("a", "1", {})
        with state.transaction():
            state.claim("pool", "10.0.0.2", "me")
        raise ZeroDivisionError
    assert state.all("a") == []
    assert state.claimed("pool") == {}


def test_claims(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    state.claim("pool", "b", "one")
    state.claim("pool", "a", "two")
    state.claim("pool", "b", "one")
    with pytest.raises(Conflict, match="taken by one"):
        state.claim("pool", "b", "two")
    assert list(state.claimed("pool").items()) == [("b", "one"), ("a", "two")]
    state.claim("ports", "80", "one")
    state.release("one", "pool")
    assert state.claims_of("one") == [("ports", "80")]


def test_claims_are_exclusive_between_threads(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    won: list[str] = []

    def run(owner: str) -> None:
        try:
            state.claim("pool", "x", owner)
            won.append(owner)
        except Conflict:
            pass

    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(won) == 1


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from engine.state import State\n"
        "s = State(pathlib.Path(sys.argv[1]))\n"
        "for n in range(100000):\n    s.put('o', str(n), {'n': n}); print(n, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    seen = [process.stdout.readline() for _ in range(50)][-1]
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait(10)
    last = int(rest[-1] if rest else seen)
    state = State(tmp_path / "s.db")
    assert {doc["n"] for doc in state.all("o")} >= set(range(last + 1))


def test_a_full_disk_is_an_error_and_no_end(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    state.put("thing", "1", {"a": 1})
    pages = state._db.execute("PRAGMA page_count").fetchone()[0]
    state._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ApplyFailed, match="full"):
        for n in range(100):
            state.put("thing", f"big{n}", {"a": "x" * 10_000})
    with pytest.raises(ApplyFailed, match="full"), state.transaction():
        state.put("thing", "1", {"a": 2})
        state.put("thing", "big", {"a": "x" * 100_000})
    assert state.get("thing", "1") == {"a": 1}
    state._db.execute("PRAGMA max_page_count = 100000")
    state.put("thing", "big", {"a": "x" * 100_000})
