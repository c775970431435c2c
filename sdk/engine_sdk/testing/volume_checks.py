"""What a volume driver must do. Reference counting, read-only views, subpaths and pre-population are the core's."""

from __future__ import annotations

from typing import Any

from engine_sdk import VolumePlan
from engine_sdk.testing import volume_requests as requests
from engine_sdk.testing.checks import Checks, explain
from engine_sdk.testing.common_checks import add_common_checks, settling_twice_changes_nothing
from engine_sdk.testing.subject import Subject
from engine_sdk.testing.volume_kernel_checks import add_kernel_checks

CHECKS = Checks()
add_common_checks(CHECKS)


@CHECKS.pure
def settling_is_final(subject: Subject) -> None:
    """Options that were settled once stay as they are when they are settled again, and survive JSON."""

    def settle(options: Any) -> Any:
        answer = subject.ask("settle_volume", options=options)
        return options if answer is None else answer

    settling_twice_changes_nothing(subject, settle)


@CHECKS.pure
def plan_survives_json(subject: Subject) -> None:
    """A plan that is written to JSON and read again is equal: it is all that the core keeps."""
    for name, plan in requests.all_plans(subject).items():
        again = VolumePlan.model_validate_json(plan.model_dump_json())
        if again != plan:
            raise AssertionError(f"JSON changes the plan of {name}:\n  {plan!r}\n  {again!r}")


@CHECKS.pure
def plan_obeys_the_rules(subject: Subject) -> None:
    """Data lie below the volume's directory, mount points below its run directory, sources are the operator's."""
    from engine.volume.vet import vet

    volume = requests.volume(subject)
    vet(volume, requests.volume_plan(subject, volume), subject.given)


@CHECKS.pure
def volumes_do_not_collide(subject: Subject) -> None:
    """Plans of two volumes claim no exclusive thing twice."""
    first, second = (
        {r.key for r in plan.plan.resources if r.SCOPE == "exclusive"} for plan in requests.all_plans(subject).values()
    )
    explain("claimed by two volumes", ["/".join(key) for key in sorted(first & second)])


add_kernel_checks(CHECKS)
