"""The name server on real sockets: what it answers, forwards and refuses, and that nobody can take it away."""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import threading
import time

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rrset
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.unit.dns.conftest import World, positive

from engine.dns import server


def texts(message: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for rrset in message.answer for record in rrset)


def answering(*addresses: str, ttl: int = 60, code: int = 0, udp_limit: int = 65535):
    def reply(query: dns.message.Message, over_tcp: bool) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.Rcode(code))
        if addresses:
            response.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", *addresses))
        return response.to_wire(max_size=65535 if over_tcp else udp_limit, prefer_truncation=True)

    return reply


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("edns", [False, True])
def test_containers(world: World, tcp: bool, edns: bool) -> None:
    found = world.ask("Two", tcp=tcp, edns=edns)
    assert texts(found) == ["10.1.0.2"]
    assert found.flags & dns.flags.RA
    assert found.edns == (0 if edns else -1)
    assert world.ask("two", "AAAA", tcp=tcp).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("tcp", [False, True])
def test_forwarded_and_kept(world: World, tcp: bool) -> None:
    upstream = world.upstream()
    query = dns.message.make_query("example.org", "A", use_edns=0, payload=1400)
    first = world.ask("example.org", tcp=tcp)
    assert texts(first) == ["192.0.2.99"]
    assert texts(world.ask("example.org", tcp=tcp)) == ["192.0.2.99"]
    assert texts(world.ask("example.org", by="two", tcp=not tcp)) == ["192.0.2.99"]
    assert len(upstream.asked) == 1
    # Another question: this one has an OPT record, which goes through.
    response = world.raw(query.to_wire())
    assert response is not None
    assert upstream.asked[1][2:] == query.to_wire()[2:]


def test_ids_and_ports_are_random(world: World) -> None:
    upstream = world.upstream()
    for n in range(20):
        world.ask(f"n{n}.example.org")
    assert len({query[:2] for query in upstream.asked}) > 15
    assert len(set(upstream.ports)) > 10


def test_what_is_too_long_is_asked_for_by_tcp(world: World) -> None:
    upstream = world.upstream(answering(*[f"192.0.2.{n}" for n in range(100)], udp_limit=512))
    short = world.ask("big.example.org")
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert upstream.by_tcp == 1
    assert len(texts(world.ask("big.example.org", tcp=True))) == 100
    query = dns.message.make_query("big.example.org", "A", use_edns=0, payload=4096)
    whole = world.raw(query.to_wire())
    assert whole is not None
    assert len(texts(dns.message.from_wire(whole))) == 100


def test_many_containers_with_one_name(world: World) -> None:
    for n in range(100):
        world.directory.put(
            server_member := world.directory.of("two")[0].__class__(
                endpoint=f"m{n}", network="net", network_name="net", container=f"m{n}",
                names=("crowd",), addresses=(f"10.1.1.{n}",),
            )
        )  # fmt: skip
        assert server_member.named
    first = {world.ask("crowd", tcp=True).answer[0][0].to_text() for _ in range(20)}
    assert len(first) > 5  # they take turns
    short = world.ask("crowd")
    assert short.flags & dns.flags.TC
    assert len(short.to_wire()) <= 512
    assert len(texts(world.ask("crowd", tcp=True))) == 100


def test_the_next_server_is_asked_when_one_is_silent_or_fails(world: World) -> None:
    silent = world.upstream(lambda query, tcp: None)
    failing = world.upstream(answering(code=dns.rcode.SERVFAIL))
    good = world.upstream()
    start = time.monotonic()
    assert texts(world.ask("example.org")) == ["192.0.2.99"]
    assert 0.3 <= time.monotonic() - start < 10
    assert (len(silent.asked), len(failing.asked), len(good.asked)) == (1, 1, 1)
    assert texts(world.ask("example.com")) == ["192.0.2.99"]
    assert len(silent.asked) == 1  # it is asked last for a while


def test_nobody_answers(world: World) -> None:
    world.upstream(lambda query, tcp: None)
    assert world.ask("example.org").rcode() == dns.rcode.SERVFAIL
    world.servers.clear()
    assert world.ask("example.org").rcode() == dns.rcode.REFUSED
    assert texts(world.ask("two")) == ["10.1.0.2"]


def test_a_refusing_port_is_passed_over_at_once(world: World) -> None:
    closed = world.upstream()
    closed.close()
    world.upstream()
    world.forwarder._patience = 600  # so that an answer shows that nobody waited for it
    assert texts(world.ask("example.org")) == ["192.0.2.99"]


def test_failures_of_all_are_passed_on(world: World) -> None:
    world.upstream(answering(code=dns.rcode.REFUSED))
    world.upstream(answering(code=dns.rcode.SERVFAIL))
    assert world.ask("example.org").rcode() == dns.rcode.SERVFAIL


def test_negative_answers_are_passed_on(world: World) -> None:
    world.upstream(answering(code=dns.rcode.NXDOMAIN))
    assert world.ask("example.org").rcode() == dns.rcode.NXDOMAIN


def test_equal_questions_are_asked_once(world: World) -> None:
    go = threading.Event()

    def reply(query: dns.message.Message, over_tcp: bool) -> bytes:
        go.wait(5)
        return positive(query, over_tcp)

    world.forwarder._patience = 5
    upstream = world.upstream(reply)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda by=by: found.append(texts(world.ask("example.org", by=by))))
        for by in ("one", "two") * 10
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    go.set()
    for thread in threads:
        thread.join(5)
    assert found == [["192.0.2.99"]] * 20
    assert len(upstream.asked) == 1


def test_forged_responses_are_passed_over(world: World) -> None:
    def reply(query: dns.message.Message, over_tcp: bool) -> bytes:
        right = positive(query, over_tcp)
        target = ("127.0.0.1", upstream.ports[-1])
        other = dns.message.make_query("evil.org", "A")
        other.id = query.id
        for forged in (
            bytes((right[0] ^ 1,)) + right[1:], right[:2], b"", right[:12] + b"\xc0\x0c\0\x01\0\x01",
            positive(other, False).replace(b"\xc0\x00\x02c", b"\x06\x06\x06\x06"),
        ):  # fmt: skip
            upstream._udp.sendto(forged, target)
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:  # right, but from elsewhere
            stranger.sendto(right.replace(b"\xc0\x00\x02c", b"\x06\x06\x06\x06"), target)
        return right

    upstream = world.upstream(reply)
    assert texts(world.ask("example.org")) == ["192.0.2.99"]


def test_broken_responses_are_no_answers(world: World) -> None:
    world.upstream(lambda query, tcp: positive(query, tcp)[:-3])
    assert world.ask("example.org").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (dns.message.make_query("two", "A", rdclass="CH"), "REFUSED"),
        (dns.message.make_query("two", "AXFR"), "REFUSED"),
        (dns.message.make_query("two", "A", use_edns=1), "BADVERS"),
    ],
    ids=["class", "transfer", "edns"],
)
def test_refused(world: World, query: dns.message.Message, code: str) -> None:
    response = world.raw(query.to_wire())
    assert response is not None
    assert dns.message.from_wire(response).rcode() == dns.rcode.from_text(code)


def header(id: int = 7, flags: int = 0x0100, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!HHHHHH", id, flags, *counts)


QUESTION = b"\x03two\0\0\x01\0\x01"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (header(), dns.rcode.FORMERR),
        (header(counts=(0, 0, 0, 0)), dns.rcode.FORMERR),
        (header(counts=(2, 0, 0, 0)) + QUESTION * 2, dns.rcode.FORMERR),
        (header() + QUESTION + b"junk", dns.rcode.FORMERR),
        (header() + b"\xc0\x0c\0\x01\0\x01", dns.rcode.FORMERR),
        (header(flags=0x2800) + QUESTION, dns.rcode.NOTIMP),
        (header(flags=0x2000) + QUESTION, dns.rcode.NOTIMP),
        (header(flags=0x8100) + QUESTION, None),
        (b"", None),
        (b"\0" * 11, None),
    ],
)
def test_malformed(world: World, data: bytes, code: dns.rcode.Rcode | None) -> None:
    response = world.raw(data, seconds=5 if code is not None else 0.1)
    if code is None:
        assert response is None
    else:
        assert response is not None
        assert response[:2] == b"\0\x07"
        assert response[3] & 0xF == code
        assert response[2] & 0x80


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda tail: header() + tail, st.binary(max_size=120)),
        st.builds(lambda flags, counts, tail: header(flags=flags, counts=counts) + QUESTION + tail,
                  st.integers(0, 0x7FFF), st.tuples(*[st.integers(0, 3)] * 4), st.binary(max_size=80)),
    )
)  # fmt: skip
@example(header(counts=(1, 0, 0, 1)) + QUESTION + b"\0\0\x29\xff\xff\xff\xff\xff\xff\0\0")
def test_whatever_is_sent_nothing_breaks(world: World, data: bytes) -> None:
    client = world.server._clients["one"]
    done: list[bytes | None] = []
    world.run(lambda: done.append(world.server._read(data)[1]))
    world.run(lambda: world.server._datagram(client, data, ("127.0.0.1", 9)))
    assert done
    assert world.problems == []


@pytest.mark.parametrize("data", [b"\0", b"\0\0", b"\0\x04ab", b"\xff\xff" + b"x" * 100, b"\0\x0c" + b"\0" * 12])
def test_malformed_connections(world: World, data: bytes) -> None:
    with socket.create_connection(world.addresses["one"], timeout=5) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1000):
            pass
    assert texts(world.ask("two", tcp=True)) == ["10.1.0.2"]


def test_many_questions_on_one_connection(world: World) -> None:
    query = dns.message.make_query("two", "A").to_wire()
    with socket.create_connection(world.addresses["one"], timeout=5) as sock:
        sock.sendall((len(query).to_bytes(2, "big") + query) * 20)
        for _ in range(20):
            message, _ = dns.query.receive_tcp(sock, time.time() + 5)
            assert texts(message) == ["10.1.0.2"]


def test_connections_are_limited_and_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE", 0.5)
    held = [socket.create_connection(world.addresses["one"], timeout=5) for _ in range(server.CONNECTIONS + 10)]
    time.sleep(0.1)
    assert len(world.server._clients["one"].connections) <= server.CONNECTIONS
    assert texts(world.ask("one", by="two", tcp=True)) == ["10.1.0.1"]
    for sock in held:
        assert sock.recv(1) == b""
        sock.close()
    assert texts(world.ask("two", tcp=True)) == ["10.1.0.2"]


def test_a_flood_does_not_keep_others_from_answers(world: World) -> None:
    query = dns.message.make_query("two", "A").to_wire()
    over = threading.Event()

    def flood() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(world.addresses["one"])
            while not over.is_set():
                for _ in range(100):
                    try:
                        sock.send(query)
                    except OSError:
                        pass
                time.sleep(0.001)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        times = []
        for _ in range(50):
            start = time.perf_counter()
            assert texts(world.ask("one", by="two")) == ["10.1.0.1"]
            times.append(time.perf_counter() - start)
    finally:
        over.set()
        thread.join()
    assert statistics.median(times) < 0.1


def test_waiting_questions_are_limited(world: World) -> None:
    world.forwarder._patience = 3
    world.upstream(lambda query, tcp: None if b"slow" in query.question[0].name.labels[0] else positive(query, tcp))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(world.addresses["one"])
        for n in range(300):
            sock.send(dns.message.make_query(f"slow{n}.example.org", "A").to_wire())
            if n % 8 == 7:
                time.sleep(0.005)
        deadline = time.monotonic() + 2
        while world.server._clients["one"].waiting < server.WAITING and time.monotonic() < deadline:
            time.sleep(0.01)
        assert world.server._clients["one"].waiting == server.WAITING
        assert texts(world.ask("two")) == ["10.1.0.2"]
        assert texts(world.ask("quick.example.org", by="two")) == ["192.0.2.99"]


def test_questions_under_way_are_limited_in_all(world: World) -> None:
    world.forwarder._most = 2
    world.forwarder._patience = 1
    world.upstream(lambda query, tcp: None)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(world.addresses["one"])
        for n in range(4):
            sock.send(dns.message.make_query(f"slow{n}.example.org", "A").to_wire())
        sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            sock.recv(100)
    assert texts(world.ask("two")) == ["10.1.0.2"]


def test_a_container_that_goes_while_it_waits(world: World) -> None:
    world.upstream(lambda query, tcp: None)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(world.addresses["one"])
        sock.send(dns.message.make_query("slow.example.org", "A").to_wire())
        time.sleep(0.05)
        world.run(lambda: world.server.stop("one"))
        world.run(lambda: world.server.stop("one"))
    time.sleep(0.5)
    assert texts(world.ask("two", by="two")) == ["10.1.0.2"]


def test_internal_networks_lead_nowhere(world: World) -> None:
    upstream = world.upstream()
    world.add("jailed", "10.1.0.9", internal=True)
    assert world.ask("secret.example.org", by="jailed").rcode() == dns.rcode.REFUSED
    assert texts(world.ask("two", by="jailed")) == ["10.1.0.2"]
    assert upstream.asked == []


def test_own_servers_of_a_container(world: World) -> None:
    host = world.upstream()
    world.add("special", "10.1.0.8", servers=("127.0.0.11", "nonsense"))
    assert world.ask("example.org", by="special").rcode() == dns.rcode.REFUSED  # never itself: no loop
    assert host.asked == []


def test_it_is_quick(world: World) -> None:
    times = []
    for _ in range(200):
        start = time.perf_counter()
        world.ask("two")
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.01  # generous; see benchmarks/names.py


def test_nothing_runs_on_after_all(world: World) -> None:
    world.upstream()
    world.ask("example.org")
    tasks = asyncio.run_coroutine_threadsafe(_tasks(), world.loop).result(5)
    assert tasks == 0
    assert world.forwarder._under_way == {}


async def _tasks() -> int:
    await asyncio.sleep(0.05)
    return len(asyncio.all_tasks()) - 1
