"""`gcs` without a server: what can be checked where no emulator speaks the protocol that obstore uses."""

from __future__ import annotations

import pytest

from engine_sdk.testing.lab import Lab, checks_of


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.setenv("GCS_TOKEN", "a-token-of-the-tests")
    lab = Lab("storage", "gcs", {"url": "gcs://bucket/prefix", "token": "env:GCS_TOKEN"})
    yield lab
    lab.close()


def test_values_and_absent_servers(lab):
    chosen = [c for c in checks_of("storage") if c.level == "pure" or c.name.startswith("is_unavailable")]
    assert {c.name: lab.run(c).outcome for c in chosen} == {c.name: "passed" for c in chosen}
