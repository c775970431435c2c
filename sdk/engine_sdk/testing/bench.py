"""The engine on a private host: its reconciler with a tag of the kit's, and faults where a check wants them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from engine_sdk import Plan, Segment
from engine_sdk.testing.checks import explain
from engine_sdk.testing.faults import KILLED, Fault, FaultyApplier
from engine_sdk.testing.host import PrivateHost
from engine_sdk.testing.snapshot import State, changes

if TYPE_CHECKING:
    from engine.reconcile.applier import Applier
    from engine.reconcile.reconciler import Reconciler

Step = Callable[["Reconciler"], None]
_BASE_OWNER = "core"
_BASE_PLAN = Plan.of(Segment(link="ecnone"))
_MOST_STEPS = 300
"""More than a plan has (the core refuses 256): a fault that never stops to strike is a fault of the kit."""


def engine(host: PrivateHost, fault: Fault | None = None) -> Reconciler:
    """Return a new reconciler on this host, as a newly started engine has it."""
    from engine.reconcile.applier import Tag
    from engine.reconcile.appliers import default_appliers
    from engine.reconcile.reconciler import Reconciler

    tag = Tag(instance="0ec0ec0e", link_group=0xEC0EC0E, table="engine-conformance")
    appliers = default_appliers(tag, roots=[host.root / "run"])
    if fault:
        appliers = [cast("Applier", FaultyApplier(applier, fault)) for applier in appliers]
    core = Reconciler(tag, appliers)
    if host.has_base_rules:
        core.adopt(_BASE_OWNER, _BASE_PLAN)
    return core


def lay_base_rules(host: PrivateHost) -> None:
    """Let the core lay its own firewall rules: no part of a driver's plan, they stay, and every engine wants them."""
    engine(host).apply(_BASE_OWNER, _BASE_PLAN)
    host.has_base_rules = True


def collect(core: Reconciler) -> None:
    """Let an engine remove what is left of earlier ones; fail with what it could not remove."""
    explain("could not be collected", [d for d in core.collect() if "error" in d.fields])


def fail_at_every_step(host: PrivateHost, state: Callable[[], State], before: Step, step: Step) -> int:
    """Run `step` again and again, with a failure one resource later each time, until none strikes. Return their number.

    After each failure the state must be what it was before the step. `before` prepares each new engine.
    """
    from engine_sdk import EngineError

    for passes in range(_MOST_STEPS):
        fault = Fault("failure", passes=_MOST_STEPS)
        core = engine(host, fault)
        before(core)
        old = state()
        fault.rearm(passes)
        try:
            step(core)
        except EngineError:
            if not fault.happened:
                raise
            explain(f"left after a failure at step {passes + 1}", changes(old, state()))
            continue
        if fault.happened:
            raise AssertionError(f"the failure at step {passes + 1} was not reported")
        return passes
    raise AssertionError(f"more than {_MOST_STEPS} steps")


def kill_at_step(host: PrivateHost, passes: int, work: Step) -> None:
    """Run `work` in a process that dies when it has made `passes` resources, or, if there are fewer, at its end."""
    child = os.fork()
    if child == 0:
        try:
            work(engine(host, Fault("kill", passes)))
        except BaseException:  # noqa: BLE001  # told by the exit status and on standard error
            traceback.print_exc()
            os._exit(1)
        os._exit(KILLED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != KILLED:
        raise AssertionError(f"the process that was to be killed at step {passes + 1} failed before")
