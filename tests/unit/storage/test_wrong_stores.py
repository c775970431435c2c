"""The conformance kit catches wrong stores: each by the checks that are meant for its fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine_sdk.testing.lab import Lab, checks_of

HERE = Path(__file__).parent
WRONG = {
    "Blind": {"writes_on_conditions", "one_of_many_writers_wins"},
    "Racy": {"one_of_many_writers_wins"},
    "Careless": {"removes_on_conditions", "a_removal_on_a_condition_takes_nothing_else"},
    "Peeping": {"a_removal_on_a_condition_takes_nothing_else"},
    "Old": set(),
    "Whole": {"reads_ranges_exactly"},
    "Short": {"reads_ranges_exactly"},
    "Paged": {"lists_all_of_many"},
    "Deep": {"lists_one_level"},
    "Talkative": {"shows_no_secret"},
    "Raw": {"knows_what_is_not_there", "shows_no_secret"},
    "Strict": {"deletes_twice", "removes_on_conditions"},
    "Credulous": {"refuses_keys_that_are_none"},
    "Pretender": {"refuses_what_it_does_not_declare"},
    "Hasty": {"a_broken_stream_leaves_nothing"},
    "Forgetful": {"keeps_metadata"},
    "Vague": {"tells_one_etag"},
}
"""By driver: the checks that fail (of those that the others pass)."""
CHECKED = sorted({check for checks in WRONG.values() for check in checks})


@pytest.fixture
def site(tmp_path, monkeypatch):
    shutil.copy(HERE / "wrong_stores.py", tmp_path)
    info = tmp_path / "wrong_stores-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-stores\nVersion: 1.0\n")
    lines = ["[engine.storage]", *(f"{name.lower()} = wrong_stores:{name}" for name in WRONG)]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WRONG_STORES_SECRET", "a-secret-of-the-tests")


@pytest.mark.parametrize("name", WRONG)
def test_each_is_caught_by_its_checks(name, site):
    lab = Lab("storage", name.lower(), {"token": "env:WRONG_STORES_SECRET"})
    known = checks_of("storage")
    try:
        outcomes = {
            check: lab.run(known[check]) for check in CHECKED if check != "lists_all_of_many" or name == "Paged"
        }
    finally:
        lab.close()
    failed = {check for check, outcome in outcomes.items() if outcome.outcome == "failed"}
    assert failed == WRONG[name], outcomes
