"""What `engine driver new` writes is installed, and passes its own tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine_sdk import Conflict, InvalidParameter
from engine_sdk.scaffold import KINDS, create


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_driver_works_at_once(kind, site, tmp_path):
    root = tmp_path / "new"
    files = create(kind, "my-first", root)
    assert len(files) == 8
    site.install(root)
    result = site.run("pytest", "-q", cwd=root).stdout
    assert "failed" not in result.replace(", 0 failed", "")
    if kind != "storage":
        assert f"{kind} driver my-first: " in result
        assert "not conformant" not in result
        assert ", 0 failed" in result


def test_the_generated_code_is_tidy(tmp_path, site):
    for kind in KINDS:
        create(kind, "my-first", tmp_path / kind)
        rules = ("--line-length=120", "--select=E,F,W,I,B,UP,D1", "--per-file-ignores=tests/*:D")
        site.run(sys.executable, "-m", "ruff", "check", "--isolated", *rules, ".", cwd=tmp_path / kind)


@pytest.mark.parametrize("name", ["", "My", "a b", "../x", "-a", "a-", "a--b", "9p", "x" * 41, "network"])
def test_bad_names_are_refused(name, tmp_path):
    with pytest.raises(InvalidParameter):
        create("network", name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(InvalidParameter, match="Kinds: network"):
        create("netwrk", "mine", tmp_path / "new")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Conflict):
        create("network", "mine", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_directory_is_named_after_the_distribution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create("volume", "attic")[0] == Path("engine-vol-attic/pyproject.toml")
