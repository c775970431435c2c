"""What the plans of a network driver must do when the engine applies them: in namespaces that exist for one check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine_sdk import Unavailable
from engine_sdk.testing import network_requests as requests
from engine_sdk.testing.bench import collect, engine, fail_at_every_step, kill_at_step
from engine_sdk.testing.checks import Checks, NotDeclared, explain
from engine_sdk.testing.host import PrivateHost, run
from engine_sdk.testing.network_bench import NetworkBench, private_only, reaches
from engine_sdk.testing.network_requests import CASES, Case
from engine_sdk.testing.snapshot import changes
from engine_sdk.testing.subject import Subject

if TYPE_CHECKING:
    from engine.reconcile.reconciler import Reconciler


def add_kernel_checks(checks: Checks) -> None:
    """Register the checks of this module."""
    for case in CASES:
        _applied_plan(checks, case)
    for body in (
        applying_twice_changes_nothing,
        detaching_leaves_nothing,
        detaching_works_without_the_namespace,
        detaching_twice_is_no_error,
        attaching_again_at_once,
        network_failure_at_every_step_leaves_nothing,
        endpoint_failure_at_every_step_leaves_nothing,
        leftovers_of_a_killed_engine_are_collected,
        a_restarted_engine_goes_on,
        endpoints_reach_each_other,
        endpoint_reaches_its_gateway,
        two_networks_live_side_by_side,
        waits_for_an_absent_parent,
        peers_are_applied,
    ):
        checks.kernel(body)


def _applied_plan(checks: Checks, case: Case) -> None:
    """Register the check that plans of one variety of requests can be applied."""

    def body(subject: Subject, host: PrivateHost) -> None:
        if not requests.applies(subject, case) or case not in requests.cases(subject):
            raise NotDeclared(f"driver does not declare requests of the kind {case.name!r}")
        bench = NetworkBench(subject, host, case)
        core, end = engine(host), bench.endpoint()
        bench.use(core)
        if subject.caps.sandbox == "private":
            bench.attach(core, end, bench.new_sandbox())
        explain("after apply, the host differs from the plan", core.diff(sandboxes=True))

    statement = f"After the plans are applied, the host is as they say: {case.name.replace('-', ' ')}."
    checks.add("kernel", f"applied_{case.name.replace('-', '_')}", body, statement)


def applying_twice_changes_nothing(subject: Subject, host: PrivateHost) -> None:
    """Applying the same plans a second time changes nothing: not even an interface index."""
    bench = NetworkBench(subject, host)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()

    def apply() -> None:
        bench.use(core)
        if subject.caps.sandbox == "private":
            bench.attach(core, end, sandbox)

    apply()
    once = bench.state(sandbox)
    apply()
    explain("the second time changed", changes(once, bench.state(sandbox)))


def detaching_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """What was there before is there after detaching, and nothing else; the same for the network."""
    bench = NetworkBench(subject, host)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()
    unused = bench.state(sandbox)
    bench.use(core)
    if subject.caps.sandbox == "private":
        used = bench.state(sandbox)
        bench.attach(core, end, sandbox)
        bench.detach(core, end)
        explain("left by the endpoint", changes(used, bench.state(sandbox)))
    bench.release(core)
    explain("left by the network", changes(unused, bench.state(sandbox)))


def detaching_works_without_the_namespace(subject: Subject, host: PrivateHost) -> None:
    """Detaching works, and leaves nothing, when the container's namespace is gone already."""
    private_only(subject)
    bench = NetworkBench(subject, host)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()
    bench.use(core)
    used = bench.state()
    bench.attach(core, end, sandbox)
    bench.destroy(sandbox)
    bench.detach(core, end, namespace_gone=True)
    explain("left by the endpoint", bench.settled_changes(used))


def detaching_twice_is_no_error(subject: Subject, host: PrivateHost) -> None:
    """Detaching what is detached already is no error."""
    private_only(subject)
    bench = NetworkBench(subject, host)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()
    bench.use(core)
    bench.attach(core, end, sandbox)
    bench.detach(core, end)
    bench.detach(core, end)
    bench.release(core)
    bench.release(core)


def attaching_again_at_once(subject: Subject, host: PrivateHost) -> None:
    """A container that is restarted is attached again at once: the old attachment's names are not in the way."""
    private_only(subject)
    bench = NetworkBench(subject, host)
    core = engine(host)
    bench.use(core)
    for generation in range(3):
        end, sandbox = bench.endpoint(generation=generation), bench.new_sandbox()
        bench.attach(core, end, sandbox)
        bench.destroy(sandbox)
        bench.detach(core, end, namespace_gone=True)


def network_failure_at_every_step_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """When the kernel refuses any one resource of the network's plan, nothing of the plan is left."""
    bench = NetworkBench(subject, host)
    fail_at_every_step(host, bench.state, lambda core: None, bench.use)


def endpoint_failure_at_every_step_leaves_nothing(subject: Subject, host: PrivateHost) -> None:
    """When the kernel refuses any one resource of the endpoint's plan, nothing of the plan is left."""
    private_only(subject)
    bench = NetworkBench(subject, host)
    end, sandbox, plan = bench.endpoint(), bench.new_sandbox(), requests.network_plan(subject, bench.net)
    bench.use(engine(host))

    def adopt(core: Reconciler) -> None:
        core.adopt(bench.owner, plan)

    fail_at_every_step(host, lambda: bench.state(sandbox), adopt, lambda core: bench.attach(core, end, sandbox))


def leftovers_of_a_killed_engine_are_collected(subject: Subject, host: PrivateHost) -> None:
    """Whenever the engine is killed while it attaches, the next one finds what is left by its tags, and removes it."""
    bench = NetworkBench(subject, host)
    end, before = bench.endpoint(), bench.state()
    private = subject.caps.sandbox == "private"
    steps = len(requests.network_plan(subject, bench.net)) + (len(bench.plan(end)) if private else 0)

    def work(core: Reconciler) -> None:
        bench.use(core)
        if private:
            bench.attach(core, end, sandbox)

    for passes in range(steps + 1):
        sandbox = bench.new_sandbox()
        kill_at_step(host, passes, work)
        bench.destroy(sandbox)
        collect(engine(host))
        explain(f"left after the engine was killed at step {passes + 1}", bench.settled_changes(before))


def a_restarted_engine_goes_on(subject: Subject, host: PrivateHost) -> None:
    """A new engine adopts stored plans without touching the host, sees no difference, and can remove them."""
    bench = NetworkBench(subject, host)
    private = subject.caps.sandbox == "private"
    end, sandbox, before = bench.endpoint(), bench.new_sandbox(), bench.state()
    old = engine(host)
    bench.use(old)
    if private:
        bench.attach(old, end, sandbox)
    applied = bench.state(sandbox)
    new = engine(host)
    new.adopt(bench.owner, requests.network_plan(subject, bench.net))
    if private:
        new.adopt(bench.owner_of(end), bench.plan(end), sandbox=sandbox)
    explain("a new engine sees differences", new.diff(sandboxes=True))
    collect(new)
    new.repair(sandboxes=True)
    explain("a new engine changed what was right", changes(applied, bench.state(sandbox)))
    if private:
        bench.detach(new, end)
    bench.release(new)
    explain("left by the new engine", changes(before, bench.state()))


def endpoints_reach_each_other(subject: Subject, host: PrivateHost) -> None:
    """Two endpoints of a network reach each other, over every address family that they have."""
    private_only(subject)
    if not subject.caps.addresses:
        raise NotDeclared("driver does not declare addresses")
    bench = NetworkBench(subject, host)
    core = engine(host)
    bench.use(core)
    boxes = [(bench.endpoint(n), bench.new_sandbox()) for n in (1, 2)]
    for end, sandbox in boxes:
        bench.attach(core, end, sandbox)
    (first, here), (second, there) = boxes
    for address in second.addresses:
        reaches(here.path, there.path, address.partition("/")[0])
    for address in first.addresses:
        reaches(there.path, here.path, address.partition("/")[0])


def endpoint_reaches_its_gateway(subject: Subject, host: PrivateHost) -> None:
    """Where the host is the gateway, an endpoint reaches it at the gateway's address."""
    private_only(subject)
    if not subject.caps.host_gateway:
        raise NotDeclared("driver does not declare host_gateway")
    bench = NetworkBench(subject, host)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()
    bench.use(core)
    bench.attach(core, end, sandbox)
    for gateway in end.gateways:
        reaches(sandbox.path, None, gateway)


def two_networks_live_side_by_side(subject: Subject, host: PrivateHost) -> None:
    """A second network changes nothing of the first, and goes without it."""
    if subject.caps.max_networks == 1:
        raise NotDeclared("driver does not declare more than one network")
    bench = NetworkBench(subject, host)
    other = requests.network(subject, bench.case, 2)
    core = engine(host)
    bench.use(core)
    alone = bench.state()
    core.apply(f"net:{other.id}", requests.network_plan(subject, other))
    explain("a second network is in the way of the first", core.diff())
    explain("the second network could not be removed", core.remove(f"net:{other.id}"))
    explain("the second network left or took", changes(alone, bench.state()))


def waits_for_an_absent_parent(subject: Subject, host: PrivateHost) -> None:
    """While a host link that an option selects is absent, the engine says so, and makes nothing."""
    bench = NetworkBench(subject, host)
    parents = list(bench.net.links.values())
    if not parents:
        raise NotDeclared("driver does not declare an option that selects a host link")
    for parent in parents:
        run("ip", "link", "delete", parent.name)
    core, end, sandbox = engine(host), bench.endpoint(), bench.new_sandbox()
    before = bench.state(sandbox)
    try:
        bench.use(core)
        bench.attach(core, end, sandbox)
    except Unavailable as err:
        if parents[0].name not in str(err):
            raise AssertionError(f"the error does not name the link {parents[0].name}: {err}") from err
    else:
        raise AssertionError("an endpoint was attached although its parent is absent")
    bench.release(core)
    explain("left while the parent is absent", changes(before, bench.state(sandbox)))


def peers_are_applied(subject: Subject, host: PrivateHost) -> None:
    """Plans of endpoints on other hosts are applied beside the network's, and go without a trace."""
    if subject.caps.scope != "global":
        raise NotDeclared('driver does not declare scope "global"')
    bench = NetworkBench(subject, host)
    core = engine(host)
    bench.use(core)
    before = bench.state()
    peers = [requests.peer(bench.case, bench.net, n) for n in (1, 2)]
    for peer in peers:
        core.apply(f"ep:{bench.net.id}:{peer.id}:0", requests.peer_plan(subject, bench.net, peer))
    explain("after apply, the host differs from the plan", core.diff())
    for peer in peers:
        explain("a peer could not be removed", core.remove(f"ep:{bench.net.id}:{peer.id}:0"))
    explain("left by peers", changes(before, bench.state()))
