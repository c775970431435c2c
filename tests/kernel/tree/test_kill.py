"""kill -9 of a tree and its writer, at random moments: nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernel.storage import servers

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
