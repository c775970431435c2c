"""A failure at any step leaves the host as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernel.reconcile import faults, plans
from tests.kernel.reconcile.conftest import Host
from tests.kernel.snapshot import assert_becomes, assert_same, network

from engine.reconcile import netns
from engine.spec.errors import EngineError
from engine.spec.links import Bridge, Sysctl
from engine.spec.resource import Plan

CASES = {
    "bridge endpoint with ports": lambda: plans.endpoint(2, 9, plans.port(8080, 2), plans.port(53, 2, protocol="udp")),
    "macvlan": lambda: plans.macvlan(2),
    "every kind on the host": plans.overlay,
    "network": lambda: plans.network(8),
}


def prepare(host: Host) -> Path:
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    host.reconciler.apply("net:9", plans.network())
    return host.sandbox("s").path


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_at_every_step_is_undone(host: Host, case: str) -> None:
    sandbox = prepare(host)
    plan = CASES[case]()
    before = network(sandbox)
    step = failures = 0
    while True:
        step += 1
        left: object = []
        with faults.at_step(step, lambda: faults.REFUSED) as count:
            try:
                host.reconciler.apply("x", plan, sandbox=netns.Sandbox(sandbox))
            except EngineError as err:
                failures += 1
                left = err.details["left"]
        if count[0] < step:
            break
        assert left == []
        if failures == step:
            assert_same(before, network(sandbox))
        else:  # what failed was a lookup or a repair that is not needed
            host.reconciler.remove("x")
            failures = step
        assert host.reconciler.owners() == ["net:9"]
    assert step > len(plan) // 2
    assert host.reconciler.diff(sandboxes=True) == []  # the last round had no failure
    assert host.reconciler.remove("x") == []
    assert_becomes(before, lambda: network(sandbox))


@pytest.mark.parametrize("case", CASES)
def test_something_that_exists_at_any_step_is_found_out_and_corrected(host: Host, case: str) -> None:
    sandbox = prepare(host)
    plan = CASES[case]()
    step = 0
    while True:
        step += 1
        with faults.at_step(step, lambda: faults.TAKEN) as count:
            host.reconciler.apply("x", plan, sandbox=netns.Sandbox(sandbox))
        assert host.reconciler.diff(sandboxes=True) == []
        assert host.reconciler.remove("x") == []
        if count[0] < step:
            break


def test_a_parameter_that_does_not_exist_undoes_the_rest(host: Host) -> None:
    before = network()
    plan = Plan.of(Bridge(name="b5"), Sysctl(ns="host", name="net.ipv4.conf.{link}.nosuch", link="b5", value="1"))
    with pytest.raises(EngineError, match=r"cannot make sysctl net.ipv4.conf.\{link\}.nosuch b5.*ENOENT"):
        host.reconciler.apply("x", plan)
    assert_same(before, network())


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.kernel.reconcile import faults, plans
from tests.kernel.reconcile.conftest import TAG
from engine.reconcile.applier import Sandbox
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
reconciler = Reconciler(TAG, network_appliers(TAG))
reconciler.adopt("net:9", plans.network())
with faults.at_step(int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)):
    plan = plans.endpoint(2, 9, plans.port(8080, 2))
    reconciler.apply("ep:9:2", plan, sandbox=Sandbox(Path(sys.argv[2])))
os._exit(7)
"""


def test_kill_9_at_every_step_leaves_nothing_that_collect_does_not_find(host: Host) -> None:
    host.reconciler.apply("net:9", plans.network())
    before = network()
    root = Path(__file__).parents[3]
    for step in range(1, 40):
        sandbox = host.sandbox(f"s{step}")
        argv = [sys.executable, "-c", KILLED, str(step), str(sandbox.path)]
        done = subprocess.run(argv, cwd=root, timeout=30, check=False, capture_output=True, text=True)
        assert done.returncode in (-9, 7), done.stderr
        netns.destroy(sandbox.path)
        again = host.start()
        again.adopt("net:9", plans.network())
        again.collect()
        assert_becomes(before, network)
        if done.returncode == 7:
            break
    assert step > 5
    assert done.returncode == 7
