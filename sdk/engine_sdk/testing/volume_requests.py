"""Requests for volume drivers: volumes as the core would hand them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_sdk import Volume, VolumePlan
from engine_sdk.testing.subject import Subject

NOWHERE = Path("/engine-conformance")
"""Root of the volumes of pure checks: it does not exist, and nobody looks."""


def volume(subject: Subject, root: Path = NOWHERE, number: int = 1) -> Volume[Any]:
    """Return a volume below `root`; volumes of other numbers have nothing in common."""
    identifier = f"{number:02x}" * 32
    return Volume(
        id=identifier,
        name=f"conformance{number}",
        driver=subject.name,
        options=subject.settle(),
        labels={"made-by": "the conformance kit"},
        data=str(root / "volumes" / identifier),
        run=str(root / "run" / identifier),
    )


def volume_plan(subject: Subject, vol: Volume[Any]) -> VolumePlan:
    """Ask for the volume's plan."""
    answer = subject.ask("volume_plan", volume=vol)
    if not isinstance(answer, VolumePlan):
        raise AssertionError(f"volume_plan returned {type(answer).__name__}: {answer!r}; a VolumePlan is expected")
    return answer


def all_plans(subject: Subject) -> dict[str, VolumePlan]:
    """Return every plan that this kit asks for, by a name that says which."""
    return {f"volume {n}": volume_plan(subject, volume(subject, number=n)) for n in (1, 2)}


def answers(subject: Subject) -> dict[str, str]:
    """Return every plan as text, to compare with those of another time and place."""
    return {name: f"{plan.path} {plan.plan.to_json()}" for name, plan in all_plans(subject).items()}
