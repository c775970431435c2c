"""The kit catches wrong drivers: each by the checks that are meant for its fault, and by no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_sdk.testing.lab import Lab, Outcome, checks_of

HERE = Path(__file__).parent
IMPURE = {"looks_at_nothing_but_its_arguments"}
OTHER_ANSWER = {"same_answer_twice", "same_answer_in_another_interpreter"}

NETWORK = {
    "Fine": set(),
    "Chance": IMPURE | OTHER_ANSWER,
    "Clock": IMPURE,
    "Reader": IMPURE,
    "Sleeper": IMPURE,
    "Changer": IMPURE,
    "Unordered": {"same_answer_in_another_interpreter"},
    "Publisher": {"plans_obey_the_rules", "endpoints_do_not_collide", "networks_do_not_collide"},
    "Trespasser": {"plans_obey_the_rules"},
    "Router": {"plans_obey_the_rules", "networks_do_not_collide"},
    "Baptist": {"uses_the_given_name_in_the_sandbox"},
    "Monopolist": {"plans_obey_the_rules", "endpoints_do_not_collide", "networks_do_not_collide"},
    "Impatient": {"has_a_plan_addresses_to_come"},
    "Forgetful": {"has_a_plan_dual_stack"},
    "Silent": {"options_are_documented"},
    "Undecided": {"settling_is_final"},
}
"""By driver: the pure checks that fail."""
HOPELESS = {
    "Raiser": "endpoint_plan raised KeyError: 'no such thing'",
    "Liar": "endpoint_plan returned dict",
    "Futurist": "2.0",
}
"""By driver: what the check `has_a_plan_ipv4` says. Nothing can be checked of such a driver: much else fails, too."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with all the wrong drivers, by their class names."""
    shutil.copy(HERE / "wrong_drivers.py", tmp_path)
    info = tmp_path / "wrong_drivers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-drivers\nVersion: 1.0\n")
    groups = {
        "network": [*NETWORK, *HOPELESS, "Hanger", "Stray", "Island", "Speller"],
        "volume": ["Outsider", "Sharer"],
        "ipam": ["Generous"],
    }
    lines = [
        line
        for group, names in groups.items()
        for line in (f"[engine.{group}]", *(f"{name} = wrong_drivers:{name}" for name in names))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def outcomes(site: Path) -> Iterator[object]:
    """Run checks on a driver: all of one level, or those that are named."""
    labs: list[Lab] = []

    def run(kind: str, name: str, *checks: str, deadline: float | None = None) -> dict[str, Outcome]:
        labs.append(Lab(kind, name, {}))
        known = checks_of(kind)
        return {check: labs[-1].run(known[check], deadline) for check in checks or known.names("pure")}

    yield run
    for lab in labs:
        lab.close()


def failed(outcomes: dict[str, Outcome]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.outcome == "failed"}


@pytest.mark.parametrize("name", NETWORK)
def test_each_is_caught_by_its_checks(name, outcomes):
    assert failed(outcomes("network", name)) == NETWORK[name]


@pytest.mark.parametrize("name", HOPELESS)
def test_nothing_can_be_checked_of_a_broken_one(name, outcomes):
    check = "has_a_plan_ipv4"
    assert HOPELESS[name] in outcomes("network", name, check)[check].message


def test_one_that_hangs_is_given_up(outcomes):
    check = "answers_at_once"
    assert outcomes("network", "Hanger", check, deadline=1.5)[check].message == "gave no answer within 1.5 s"


def test_what_it_touched_is_said_with_its_place(outcomes):
    check = "looks_at_nothing_but_its_arguments"
    message = outcomes("network", "Reader", check)[check].message
    assert "open('/proc/version')" in message
    assert "wrong_drivers.py" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="plans are applied by root")
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("Stray", "applied_ipv4"),
        ("Speller", "applied_ipv4"),
        ("Island", "endpoints_reach_each_other"),
    ],
)
def test_what_only_the_kernel_shows(name, check, outcomes):
    assert failed(outcomes("network", name, check)) == {check}


def test_volume_data_outside_of_the_directory(outcomes):
    assert failed(outcomes("volume", "Outsider")) == {"plan_obeys_the_rules"}


def test_volumes_that_share_one_directory(outcomes):
    assert failed(outcomes("volume", "Sharer")) == {"plan_obeys_the_rules", "volumes_do_not_collide"}


def test_ipam_that_does_not_look(outcomes):
    assert failed(outcomes("ipam", "Generous")) >= {
        "gives_each_address_once",
        "gives_the_address_that_was_asked_for",
        "own_ipv4_pools_do_not_overlap",
        "refuses_pools_that_cannot_be",
        "stays_in_the_range",
    }
