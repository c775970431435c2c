"""Whatever fails, nothing is left: not on the host, not in the database."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from engine.network.model import PortRequest
from engine.reconcile.applier import BatchError
from engine.spec.errors import ApplyFailed, DeadlineExceeded, DriverFault, EngineError

PORT = [PortRequest(target_port=80, host_port=8080)]


class Saboteur:
    """Lets the n-th resource that an applier is told to make fail, after those before it were made."""

    def __init__(self, reconciler):
        self.count, self.fail_at = 0, None
        for applier in reconciler._execution.appliers:
            applier.create = self._wrap(applier.create)

    def _wrap(self, create):
        def sabotaged(batch, context):
            made = []
            for n, resource in enumerate(batch):
                self.count += 1
                if self.count == self.fail_at:
                    made += create(batch[:n], context) if n else []
                    raise BatchError(resource, OSError(28, "injected"), made, errno=28)
            return create(batch, context)

        return sabotaged


def test_a_failure_at_every_step_of_an_attachment_leaves_nothing(host):
    host.warm()
    host.networks.create("six", ipv6=True)
    before = host.snapshot()
    saboteur = Saboteur(host.reconciler)
    host.end(host.container("a", "six", ports=PORT))
    steps = saboteur.count
    assert host.snapshot() == before
    assert steps >= 12
    for step in range(1, steps + 1):
        saboteur.count, saboteur.fail_at = 0, step
        with pytest.raises(ApplyFailed, match="injected") as caught:
            host.container("a", "six", ports=PORT)
        assert caught.value.driver == "bridge"
        saboteur.fail_at = None
        assert host.snapshot() == before, f"after a failure at step {step} of {steps}"
    host.end(host.container("a", "six", ports=PORT))


CODE = """
    import os, time
    from engine_sdk import *

    class Options(NetworkOptions):
        fault: str = ""
        at: str = "endpoint_plan"

    class Driver(NetworkDriver[Options]):
        caps = NetworkCaps(host_gateway=True)

        def network_plan(self, network):
            if network.options.at == "network_plan":
                fault(network)
            return Plan.of(Bridge(name=network.ifname))

        def endpoint_plan(self, network, endpoint):
            if endpoint.container_name != "good":
                answer = fault(network)
                if answer is not None:
                    return answer
            return Plan.of(Veth(name=endpoint.host_ifname, peer=endpoint.ifname, peer_mac=endpoint.mac))

    def fault(network):
        what = network.options.fault
        if what == "raise":
            raise ValueError("a bug")
        if what == "exit":
            raise SystemExit(1)
        if what == "hang":
            time.sleep(3)
        if what == "nonsense":
            return 42
        if what == "hijack":
            return Plan.of(Bridge(name="up0"))
        if what == "master":
            return Plan.of(Veth(name="up0x", peer="eth0", master="up0"))
        if what == "gone":
            return Plan.of(Veth(name="x" * 3, peer="eth0"), Route(link="nolink", destination="10.0.0.0/8"))
"""


@pytest.fixture
def odd(host, tmp_path, monkeypatch):
    """Install a driver that fails on demand."""
    site = tmp_path / "site"
    (site / "odd-3.dist-info").mkdir(parents=True)
    (site / "odd.py").write_text(textwrap.dedent(CODE))
    (site / "odd-3.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 3\n")
    (site / "odd-3.dist-info/entry_points.txt").write_text("[engine.network]\nodd = odd:Driver\n")
    monkeypatch.syspath_prepend(str(site))
    yield "odd"
    sys.modules.pop("odd", None)


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("raise", DriverFault, r"endpoint_plan of network driver 'odd' \(odd 3\) failed.*ValueError: a bug"),
        ("exit", DriverFault, "SystemExit"),
        ("nonsense", DriverFault, "odd 3 returned int instead of Plan"),
        ("hijack", DriverFault, "link/host/up0: names of host links are given by the engine"),
        ("master", DriverFault, "link/host/up0x"),
        ("gone", DriverFault, "link/host/xxx"),
    ],
)
def test_a_driver_that_fails(host, odd, fault, kind, text):
    host.warm()
    host.networks.create("net", odd, options={"fault": fault})
    before = host.snapshot()
    for _ in range(2):
        with pytest.raises(kind, match=text) as caught:
            host.container("a", "net")
        assert caught.value.driver == "odd"
        assert host.snapshot() == before
    host.end(host.container("good", "net"))
    assert host.snapshot() == before


def test_a_driver_that_hangs_is_given_up_and_other_networks_go_on(host, odd):
    host.start(deadline=0.3)
    host.warm()
    host.networks.create("net", odd, options={"fault": "hang"})
    before = host.snapshot()
    with pytest.raises(DeadlineExceeded, match=r"endpoint_plan of network driver 'odd' \(odd 3\) did not end"):
        host.container("a", "net")
    with pytest.raises(DriverFault, match="hung in endpoint_plan"):
        host.container("a", "net")
    assert host.snapshot() == before
    host.end(host.container("b", "bridge"))
    host.networks.remove("net")


def test_a_network_that_its_driver_refuses_is_not_created(host, odd):
    host.warm()
    before = host.snapshot()
    with pytest.raises(DriverFault, match="a bug"):
        host.networks.create("net", odd, options={"fault": "raise", "at": "network_plan"})
    with pytest.raises(EngineError, match=r"unknown option 'falt'.*Did you mean 'fault'"):
        host.networks.create("net", odd, options={"falt": "raise"})
    assert host.snapshot() == before


WORKER = """
import sys
from pathlib import Path
from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings, PortRequest
from engine.plugins import Plugins
from engine.reconcile.applier import Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
from engine.state import State

class Events:
    def emit(self, *args): pass

path, tag = Path(sys.argv[1]), Tag("0badcafe", 0x0BADCAFE, "engine-0badcafe")
reconciler = Reconciler(tag, network_appliers(tag))
networks = NetworkManager(State(path / "engine.db"), Plugins(), reconciler, path / "netns", Events())
networks.restore(["c0".ljust(64, "0")])
print("ready", flush=True)
for n in range(10000):
    ref = ContainerRef(id=f"c{n}".ljust(64, "0"), name=f"c{n}")
    sandbox = networks.sandbox_create(ref.id)
    networks.attach("bridge", ref, sandbox, EndpointSettings(), [PortRequest(target_port=80, host_port=9000 + n % 50)])
    if n == 0:
        print("first", flush=True)
    else:
        networks.detach_all(ref.id)
"""


def test_kill_minus_nine_and_restore(host, run, ping):
    host.warm()
    before = host.snapshot()
    live = "c0".ljust(64, "0")
    for round in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(host.path)], stdout=subprocess.PIPE, text=True, cwd="/"
        )
        assert worker.stdout.readline() == "ready\n"
        assert worker.stdout.readline() == "first\n"
        time.sleep(0.05 + round * 0.017)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(10)
        host.start()
        host.networks.restore([live])
        host.reconciler.collect()
        report = host.reconciler.repair(sandboxes=True)
        assert report.ok
        assert host.reconciler.diff(sandboxes=True) == []
        (endpoint,) = host.networks.attachments(live)
        host.settle()
        assert ping(endpoint, "198.51.100.2")
        assert run("nft", "list", "ruleset").count(endpoint.address(4)) > 0
        host.end(endpoint)
        assert host.snapshot() == before, f"after kill {round}"
