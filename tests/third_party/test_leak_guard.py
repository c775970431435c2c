"""The fixture `leak_guard` notices what a test leaves on the host, and nothing else."""

import os

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes links, in a network namespace of its own")
TESTS = """
import subprocess

def test_tidy(leak_guard):
    subprocess.run(["ip", "link", "add", "tidy0", "type", "veth", "peer", "name", "tidy1"], check=True)
    subprocess.run(["ip", "link", "delete", "tidy0"], check=True)

def test_leak(leak_guard, tmp_path):
    subprocess.run(["ip", "link", "add", "leak0", "type", "veth", "peer", "name", "leak1"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "leaked", str(tmp_path)], check=True)
    subprocess.run(["nft", "add", "table", "inet", "leaked"], check=True)
"""


def test_leaks_are_noticed(site):
    (site.work / "test_leaks.py").write_text(TESTS)
    done = site.run("unshare", "--net", "--mount", "pytest", "-q", check=False)
    assert "2 passed" in done.stdout
    assert "1 error" in done.stdout
    for line in ("leak0", "leak1", "tmpfs leaked", '"name": "leaked"'):
        assert line in done.stdout
    assert "tidy" not in done.stdout.replace("test_tidy", "")
