"""Files of /etc, names, ports, restart policies, waiting, filters, texts."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from engine.container import etc
from engine.container.config import Config, HostConfig, PortBinding, RestartPolicy
from engine.container.creation import signal_number
from engine.container.filters import ContainerFilter, prune_matches
from engine.container.naming import check_name, made_up_name, new_id
from engine.container.ports import requested_ports
from engine.container.record import Container, ContainerState
from engine.container.restart import RestartTimers, check_policy
from engine.container.views import ago, port_list, status_text
from engine.container.waiters import ExitResult, Waiters
from engine.events import EventBus
from engine.filters import parse_time
from engine.spec.errors import InvalidParameter, NotFound
from engine.spec.plugin import Event

RESOLV = "# c\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\noptions edns0\n"


def make(name: str = "one", **changes: Any) -> Container:
    host = HostConfig(
        restart_policy=RestartPolicy(name=changes.pop("policy", ""), maximum_retry_count=changes.pop("max", 0))
    )
    state = ContainerState(**changes.pop("state", {}))
    return Container(
        id=changes.pop("id", new_id()),
        name=name,
        created=changes.pop("created", "2026-01-01T00:00:00Z"),
        image_id="sha256:x",
        image_ref="busybox",
        config=Config(**changes),
        host_config=host,
        path="sh",
        state=state,
    )


def test_name_servers_on_the_hosts_loopback_are_left_out() -> None:
    text = etc.resolv_conf(RESOLV, own_loopback=True)
    assert text == "nameserver 192.0.2.1\nsearch example.org\noptions edns0\n"
    assert "127.0.0.53" in etc.resolv_conf(RESOLV, own_loopback=False)


def test_no_label_takes_the_place_of_an_attribute_of_events() -> None:
    container = make(labels={"name": "other", "image": "other", "a": "b"})
    assert container.attributes() == {"name": "one", "image": "busybox", "a": "b"}


def test_given_dns_replaces_the_hosts() -> None:
    text = etc.resolv_conf(RESOLV, servers=["9.9.9.9"], search=["a.b"], options=["ndots:2"], own_loopback=True)
    assert text == "nameserver 9.9.9.9\nsearch a.b\noptions ndots:2\n"
    assert "search" not in etc.resolv_conf(RESOLV, search=["."], own_loopback=True)


def test_hosts() -> None:
    text = etc.hosts([("10.0.0.2", ["c.example", "c"])], [("db", "10.0.0.3"), ("none", "")])
    assert "127.0.0.1\tlocalhost" in text
    assert text.endswith("10.0.0.3\tdb\n10.0.0.2\tc.example c\n")
    assert etc.hosts([], [], base="1.1.1.1\tx\n") == "1.1.1.1\tx\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("db:10.0.0.3", ("db", "10.0.0.3")),
        ("db=::1", ("db", "::1")),
        ("db:[fd00::1]", ("db", "fd00::1")),
        ("up:host-gateway", ("up", "10.0.0.1")),
    ],
)
def test_extra_hosts(value: str, expected: tuple[str, str]) -> None:
    assert etc.parse_extra_host(value, "10.0.0.1") == expected


@pytest.mark.parametrize("value", ["db", ":10.0.0.1", "db:", "db:ten"])
def test_malformed_extra_hosts(value: str) -> None:
    with pytest.raises(InvalidParameter):
        etc.parse_extra_host(value)


def test_names() -> None:
    assert check_name("/web.1") == "web.1"
    for bad in ("", "a", "-a", "a b", "a/b"):
        with pytest.raises(InvalidParameter):
            check_name(bad)
    assert check_name(made_up_name(lambda name: False))
    assert made_up_name(lambda name: True).count("_") == 2
    assert len(new_id()) == 64


def test_ports() -> None:
    host = HostConfig(
        port_bindings={"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="8080")], "53/udp": None},
        publish_all_ports=True,
    )
    requests = requested_ports(Config(exposed_ports={"80/tcp": {}, "443/tcp": {}}), host)
    assert [(r.protocol, r.target_port, r.host_ip, r.host_port) for r in requests] == [
        ("tcp", 80, "127.0.0.1", 8080),
        ("udp", 53, "", 0),
        ("tcp", 443, "", 0),
    ]
    for bad in ("0/tcp", "x", "80/icmp", "70000"):
        with pytest.raises(InvalidParameter):
            requested_ports(Config(), HostConfig(port_bindings={bad: None}))
    with pytest.raises(InvalidParameter):
        requested_ports(Config(), HostConfig(port_bindings={"80": [PortBinding(host_port="many")]}))


@pytest.mark.parametrize(("name", "number"), [("SIGHUP", 1), ("hup", 1), ("9", 9), ("", 15)])
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["SIGNONE", "0", "999", "-1"])
def test_signals_that_there_are_not(name: str) -> None:
    with pytest.raises(InvalidParameter, match=name):
        signal_number(name)


ENDED = {"status": "exited", "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}


@pytest.mark.parametrize(
    ("policy", "changes", "restarts"),
    [
        ("no", {}, False),
        ("always", {}, True),
        ("always", {"stopped_by_hand": True}, False),
        ("unless-stopped", {}, True),
        ("on-failure", {"exit_code": 0}, False),
        ("on-failure", {"exit_code": 3}, True),
    ],
)
def test_restart_policies(policy: str, changes: dict[str, Any], restarts: bool) -> None:
    delay = RestartTimers().delay(make(policy=policy, state=ENDED | changes))
    assert (delay is not None) == restarts


def test_restart_delays_double_until_a_run_was_stable() -> None:
    timers, container = RestartTimers(), make(policy="always", state=ENDED)
    assert [timers.delay(container) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    container.state.finished_at = "2026-01-01T00:10:00Z"
    assert timers.delay(container) == 0.1


def test_on_failure_gives_up() -> None:
    container = make(policy="on-failure", max=2, state=ENDED | {"exit_code": 1, "restart_count": 2})
    assert RestartTimers().delay(container) is None
    with pytest.raises(InvalidParameter, match="on-failure"):
        check_policy("always", 2, auto_remove=False)
    with pytest.raises(InvalidParameter, match="AutoRemove"):
        check_policy("always", 0, auto_remove=True)


def test_a_cancelled_timer_does_not_start() -> None:
    timers, started = RestartTimers(), threading.Event()
    timers.set("x", 0.05, started.set)
    timers.cancel("x")
    assert not started.wait(0.2)
    timers.set("x", 0.0, started.set)
    assert started.wait(5)


def test_waiting() -> None:
    waiters, container = Waiters(), make(state={"status": "running"})
    end = waiters.wait(container, "not-running")
    removed = waiters.wait(container, "removed")
    gone: Future[ExitResult] = waiters.wait(container, "next-exit")
    assert gone.cancel()
    waiters.ended(container.id, ExitResult(3))
    assert end.result(1).code == 3
    assert not removed.done()
    waiters.removed(container.id, ExitResult(3))
    assert removed.result(1).code == 3
    container.state = ContainerState(status="exited", exit_code=7)
    assert waiters.wait(container, "").result(1).code == 7
    with pytest.raises(InvalidParameter):
        waiters.wait(container, "sometime")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (5, "5 seconds"),
        (70, "About a minute"),
        (600, "10 minutes"),
        (4000, "About an hour"),
        (7300, "2 hours"),
        (47 * 3600, "47 hours"),
        (49 * 3600, "2 days"),
        (30 * 86400, "4 weeks"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_status_texts() -> None:
    ended = make(state=ENDED | {"exit_code": 3})
    assert status_text(ended, at=1767225604.0) == "Exited (3) 3 seconds ago"
    assert status_text(make()) == "Created"


def test_port_list() -> None:
    ports = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None}
    assert port_list(ports) == [
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "Type": "tcp", "PublicPort": 8080},
    ]


def filtered(container: Container, **filters: list[str]) -> bool:
    def find(ref: str) -> Container:
        raise NotFound(ref)

    test = ContainerFilter(
        filters, find=find, networks_of=lambda c: ["net"], image_matches=lambda v, c: v == c.image_ref
    )
    return test(container)


def test_filters() -> None:
    container = make("web", labels={"a": "1", "b": "2"}, state=ENDED | {"exit_code": 1})
    assert filtered(container, name=["^/web$"], label=["a=1", "b"], exited=["1"], network=["net"])
    assert filtered(container, status=["running", "exited"])
    assert not filtered(container, label=["a=1", "c"])
    assert not filtered(container, ancestor=["alpine"])
    assert not filtered(container, before=["nobody"])
    for bad in ({"colour": ["red"]}, {"status": ["tired"]}, {"exited": ["x"]}, {"exited": ["--5"]}, {"name": ["["]}):
        with pytest.raises(InvalidParameter):
            filtered(container, **bad)


def test_no_pattern_of_a_client_keeps_the_engine_busy() -> None:
    container = make("a" * 60 + "_b")
    assert not filtered(container, name=["(a+)+$"])  # Python's own engine tries 2**60 ways
    assert filtered(container, name=["^/(a+)+_b$"])
    with pytest.raises(InvalidParameter):
        filtered(container, name=["(?=a)"])  # Go has no such thing either


@pytest.mark.parametrize("text", ["nan", "inf", "-1e999", "9" * 400 + "h", "0001-01-01T00:00:00"])
def test_a_time_that_is_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_time(text)


def test_prune_filters() -> None:
    container = make(labels={"keep": ""})
    assert prune_matches(container, {"until": ["1h"]})
    assert not prune_matches(container, {"label!": ["keep"]})
    assert not prune_matches(container, {"until": ["2000-01-01T00:00:00Z"]})
    with pytest.raises(InvalidParameter):
        prune_matches(container, {"name": ["x"]})
    with pytest.raises(InvalidParameter):
        parse_time("yesterday")


def test_events_are_seen_once_and_a_failing_listener_silences_nobody() -> None:
    bus = EventBus()
    first = bus.emit("container", "create", "1")
    seen: list[Event] = []
    done = threading.Event()

    def fails(event: Event) -> None:
        raise RuntimeError

    bus.subscribe(fails)
    past, stop = bus.subscribe(seen.append, since_ns=0)
    assert past == [first]
    second = bus.emit("container", "start", "1")
    bus.subscribe(lambda event: done.set())
    bus.emit("container", "die", "1")
    assert done.wait(5)
    stop()
    bus.emit("container", "destroy", "1")
    bus.close()
    assert [e.action for e in seen] == ["start", "die"]
    assert seen[0] == second
