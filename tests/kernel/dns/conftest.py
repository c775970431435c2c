"""A machine with a daemon, dnsmasq in the outside world as the host's name server, and questions from containers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest
from tests.host import GATEWAY, EngineHost, skip_unless_possible, until
from tests.namespaces import call_in

THIRD_PARTY = Path(__file__).parents[2] / "third_party"
RECORDS = [
    "--address=/example.test/203.0.113.7",
    "--txt-record=short.test,hello",
    *[f"--txt-record=long.test,{n:03}-{'x' * 200}" for n in range(20)],
    "--address=/#/",  # all else does not exist
]


class Net:
    """The machine, its name server, and what containers are told."""

    def __init__(self, host: EngineHost, path: Path) -> None:
        self.host = host
        self.resolv_conf = path / "resolv.conf"
        self.log = path / "dnsmasq.log"

    def run(self, name: str, network: str, *options: str) -> str:
        """Start a container and return its id."""
        command = ("run", "-d", "--name", name, "--network", network, *options, "busybox", "sleep", "1000")
        return self.host.engine(*command).stdout.strip()

    def netns(self, name: str) -> Path:
        """Return the network namespace of a running container."""
        (found,) = json.loads(self.host.engine("inspect", name).stdout)
        return Path(f"/proc/{found['State']['Pid']}/ns/net")

    def address(self, name: str, network: str) -> str:
        (found,) = json.loads(self.host.engine("inspect", name).stdout)
        return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])

    def message(
        self, asker: str, name: str, kind: str = "A", *, tcp: bool = False, at: str = "127.0.0.11", seconds: float = 10
    ) -> dns.message.Message:
        """Ask from a container's namespace."""
        query = dns.message.make_query(name, kind)
        ask = dns.query.tcp if tcp else dns.query.udp
        return call_in(self.netns(asker), lambda: ask(query, at, timeout=seconds))

    def ask(self, asker: str, name: str, kind: str = "A", **options: object) -> list[str] | str:
        """Ask, and return the records' data, or the code of a failure."""
        message = self.message(asker, name, kind, **options)  # type: ignore[arg-type]
        found = sorted(record.to_text() for rrset in message.answer for record in rrset)
        return found if message.rcode() == 0 else message.rcode().name

    def asked(self, name: str) -> int:
        """Return how often the host's name server was asked for a name."""
        time.sleep(0.05)
        return sum(f"] {name} from" in line for line in self.log.read_text().splitlines())


def install_a_strangers_driver(packages: Path) -> None:
    """Put the driver `ptp` where a Python with this directory in its path finds it, entry point and all."""
    shutil.copytree(THIRD_PARTY / "engine-net-ptp/src/engine_net_ptp", packages / "engine_net_ptp")
    info = packages / "engine_net_ptp-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-net-ptp\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[engine.network]\nptp = engine_net_ptp:PointToPoint\n")


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[Net]:
    skip_unless_possible()
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is not installed")
    path = tmp_path_factory.mktemp("dns")
    install_a_strangers_driver(path / "packages")
    patch.setenv("PYTHONPATH", str(path / "packages"))
    with EngineHost() as host:
        net = Net(host, path)
        net.resolv_conf.write_text(f"nameserver {GATEWAY}\nsearch corp.test\n")
        net.log.touch()
        net.log.chmod(0o666)
        host.run("mount", "--bind", str(net.resolv_conf), "/etc/resolv.conf")
        command = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]
        command += [f"--listen-address={GATEWAY}", "--bind-interfaces", "--pid-file=", "--local-ttl=60"]
        command += ["--log-queries=extra", f"--log-facility={net.log}", *RECORDS]
        with host.process(*command, lan=True):
            host.load_busybox()
            host.engine("network", "create", "front")
            host.engine("network", "create", "back")
            net.run("asker", "front")
            until(lambda: net.ask("asker", "ready.example.test") == ["203.0.113.7"], "dnsmasq")
            yield net
