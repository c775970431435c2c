"""Published ports that come, go and move while containers run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from tests.host import ADDRESS, ADDRESS6, EngineHost, until

SERVE = "mkdir -p /www && echo -n {0} >/www/index.html && exec httpd -f -p 8080 -h /www"
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


@pytest.fixture(scope="module")
def servers(host: EngineHost) -> Iterator[EngineHost]:
    """A machine with two servers, `red` and `blue`, which publish nothing."""
    for name in ("red", "blue"):
        host.engine("run", "-d", "--name", name, "busybox", "sh", "-c", SERVE.format(name))
        own = json.loads(host.engine("inspect", name).stdout)[0]["NetworkSettings"]["IPAddress"]
        until(lambda own=own: answer(host, 8080, own), f"{name}'s first answer")
    yield host
    host.clear()


def answer(host: EngineHost, port: int, address: str = ADDRESS, *, lan: bool = False, seconds: float = 3) -> str:
    """Return what a server says, or "" if there is none."""
    try:
        return host.connect(address, port, lan=lan, send=REQUEST, seconds=seconds).rpartition(b"\r\n")[2].decode()
    except OSError:
        return ""


def ports(host: EngineHost, container: str) -> dict[str, list[dict[str, str]]]:
    found = json.loads(host.engine("inspect", container).stdout)[0]["NetworkSettings"]["Ports"]
    return {name: bindings for name, bindings in found.items() if bindings}


def test_a_port_comes_moves_and_goes(servers: EngineHost) -> None:
    host = servers
    host.engine("port", "add", "red", "8090:8080")
    assert answer(host, 8090, lan=True) == "red"
    assert answer(host, 8090, "127.0.0.1") == "red"
    assert ports(host, "red") == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8090"}]}
    assert host.engine("port", "red").stdout == "8080/tcp -> 0.0.0.0:8090\n"
    assert "0.0.0.0:8090->8080/tcp" in host.docker("ps").stdout
    host.restart_daemon()
    assert answer(host, 8090, lan=True) == "red"
    assert ports(host, "red") == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8090"}]}
    host.engine("port", "move", "red", "blue", "8090")
    assert answer(host, 8090, lan=True) == "blue"
    assert (ports(host, "red"), ports(host, "blue")) == (
        {}, {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8090"}]},
    )  # fmt: skip
    host.restart_daemon()
    assert answer(host, 8090, lan=True) == "blue"
    host.engine("restart", "-t", "0", "blue")
    until(lambda: answer(host, 8090, lan=True) == "blue", "the port after a restart of the container")
    host.engine("port", "rm", "blue", "8090")
    assert answer(host, 8090, lan=True, seconds=1) == ""
    assert ports(host, "blue") == {}
    assert host.engine("doctor").returncode == 0


def test_no_attempt_is_refused_while_a_port_moves(servers: EngineHost) -> None:
    host = servers
    host.engine("port", "add", "red", "8091:8080")
    answers: list[str] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            answers.append(answer(host, 8091, lan=True))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        holder, other = "red", "blue"
        for _ in range(6):
            host.engine("port", "move", holder, other, "8091")
            holder, other = other, holder
    finally:
        enough.set()
        asking.join(30)
    assert set(answers) == {"red", "blue"}
    host.engine("port", "rm", "red", "8091")


@pytest.mark.parametrize("size", [3, 20])
def test_ranges_are_cut(servers: EngineHost, size: int) -> None:
    host = servers
    last = 8200 + size - 1
    host.engine("port", "add", "red", f"8200-{last}:8080-{8080 + size - 1}")
    assert answer(host, 8200, lan=True) == "red"
    host.engine("port", "move", "red", "blue", "8200")
    assert answer(host, 8200, lan=True) == "blue"
    host.engine("port", "rm", "red", "8201")
    assert sorted(ports(host, "red")) == sorted(f"{8080 + n}/tcp" for n in range(2, size))
    done = host.engine("port", "rm", "red", f"8201-{last}", check=False)
    assert done.returncode == 1
    assert "8201/tcp is not published" in done.stderr
    done = host.engine("port", "add", "blue", f"8190-{last}:1190-{last - 7000}", check=False)
    assert done.returncode == 1
    assert "container red" in done.stderr or "container blue" in done.stderr
    host.engine("port", "rm", "red", f"8202-{last}")
    host.engine("port", "rm", "blue", "8200")
    assert (ports(host, "red"), ports(host, "blue")) == ({}, {})


def test_what_cannot_be(servers: EngineHost) -> None:
    host = servers
    host.engine("port", "add", "red", "8092:8080", "127.0.0.1:8093:8080/udp")
    for arguments, text in (
        (("add", "blue", "8092:80"), "published by container red"),
        (("add", "blue", "8094-8096:80-81"), "different lengths"),
        (("add", "blue", "203.0.113.1:8094:80"), "no address 203.0.113.1"),
        (("add", "nobody", "8094:80"), "nobody"),
        (("rm", "red", "8095"), "8095/tcp is not published by this container. Published: "),
        (("rm", "red", "8092:81"), "8092:81/tcp is not published"),
        (("rm", "red", "8093"), "8093/tcp is not published"),
        (("move", "red", "red", "8092"), "has that port already"),
        (("move", "red", "nobody", "8092"), "nobody"),
        (("move", "red", "blue", "8097"), "8097/tcp is not published"),
    ):
        done = host.engine("port", *arguments, check=False)
        assert done.returncode != 0, arguments
        assert text in done.stderr, (arguments, done.stderr)
    assert answer(host, 8092, lan=True) == "red"
    host.engine("port", "rm", "red", "8092", "127.0.0.1:8093/udp")
    host.engine("create", "--name", "asleep", "--network", "none", "busybox")
    assert (
        "ports cannot be published on network none" in host.engine("port", "add", "asleep", "1:1", check=False).stderr
    )
    done = host.engine("port", "move", "red", "asleep", "8092", check=False)
    assert "asleep is not running" in done.stderr


def test_ports_that_the_engine_chooses(servers: EngineHost) -> None:
    host = servers
    host.engine("run", "-d", "--name", "many", "-P", "--expose", "8080", "--expose", "9000", "busybox",
                "sh", "-c", SERVE.format("many"))  # fmt: skip
    first = ports(host, "many")
    assert sorted(first) == ["8080/tcp", "9000/tcp"]
    number = int(first["8080/tcp"][0]["HostPort"])
    until(lambda: answer(host, number, lan=True) == "many", "an answer at a chosen port")
    host.engine("port", "rm", "many", first["9000/tcp"][0]["HostPort"])
    host.engine("port", "add", "many", "9001")
    host.engine("restart", "-t", "0", "many")
    again = ports(host, "many")
    assert sorted(again) == ["8080/tcp", "9001/tcp"]
    until(lambda: answer(host, int(again["8080/tcp"][0]["HostPort"]), lan=True) == "many", "an answer after a restart")
    host.engine("rm", "-f", "many")


def test_wishes_of_a_container_that_does_not_run(servers: EngineHost) -> None:
    host = servers
    host.engine("create", "--name", "later", "-p", "8098:8080", "busybox", "sh", "-c", SERVE.format("later"))
    host.engine("port", "add", "later", "8099:8080")
    host.engine("port", "rm", "later", "8098")
    host.engine("start", "later")
    until(lambda: answer(host, 8099, lan=True) == "later", "the port that was added before the start")
    assert answer(host, 8098, lan=True, seconds=1) == ""
    host.engine("rm", "-f", "later")


def test_ports_of_ipv6(servers: EngineHost) -> None:
    host = servers
    host.engine("network", "create", "--ipv6", "six")
    host.engine("run", "-d", "--name", "dual", "--network", "six", "-p", "8100:8080", "busybox",
                "sh", "-c", SERVE.format("dual"))  # fmt: skip
    assert [b["HostIp"] for b in ports(host, "dual")["8080/tcp"]] == ["0.0.0.0", "::"]
    for address, lan in ((ADDRESS, True), (ADDRESS6, True), (ADDRESS6, False), ("127.0.0.1", False)):
        until(lambda a=address, w=lan: answer(host, 8100, a, lan=w) == "dual", f"an answer at {address}")
    host.engine("port", "add", "dual", f"[{ADDRESS6}]:8101:8080")
    assert answer(host, 8101, ADDRESS6, lan=True) == "dual"
    assert answer(host, 8101, ADDRESS, lan=True, seconds=1) == ""
    done = host.engine("port", "move", "dual", "red", f"[{ADDRESS6}]:8101", check=False)
    assert "no IPv6 address" in done.stderr
    host.engine("rm", "-f", "dual")
    host.engine("network", "rm", "six")


def test_ports_follow_the_container_to_another_network(servers: EngineHost) -> None:
    host = servers
    for name in ("one", "two"):
        host.engine("network", "create", name)
    host.engine("run", "-d", "--name", "nomad", "--network", "one", "-p", "8102:8080", "busybox",
                "sh", "-c", SERVE.format("nomad"))  # fmt: skip
    until(lambda: answer(host, 8102, lan=True) == "nomad", "an answer on the first network")
    host.engine("network", "connect", "two", "nomad")
    host.engine("network", "disconnect", "one", "nomad")
    assert answer(host, 8102, lan=True) == "nomad"
    assert answer(host, 8102, "127.0.0.1") == "nomad"
    assert ports(host, "nomad") == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8102"}]}
    host.engine("network", "disconnect", "two", "nomad")
    assert answer(host, 8102, lan=True, seconds=1) == ""
    host.engine("network", "connect", "one", "nomad")
    assert answer(host, 8102, lan=True) == "nomad"
    host.engine("rm", "-f", "nomad")
    for name in ("one", "two"):
        host.engine("network", "rm", name)
