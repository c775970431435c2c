"""Published ports in a real kernel."""

import socket
from pathlib import Path

import pytest

from engine.network.model import PortRequest
from engine.spec.errors import Conflict, InvalidParameter, Unsupported

HOST, HOST6 = "198.51.100.1", "2001:db8::1"


@pytest.fixture
def serve(socket_in):
    """Return a function that listens in a container; what connects gets the text."""
    listening = []

    def serve(endpoint, port: int, family: int = socket.AF_INET):
        server = socket_in(endpoint.sandbox, family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen(8)
        listening.append(server)
        return server

    yield serve
    for server in listening:
        server.close()


@pytest.fixture
def reach(socket_in, host):
    """Return a function that tells whether a connection from the outside arrives at a listener."""

    def reach(server, address: str, port: int, source: Path | None = None) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for _ in range(3):  # a new link is not always ready at once: see `ping`
            with socket_in(source or host.outside, family) as client:
                client.settimeout(2)
                try:
                    client.connect((address, port))
                except OSError:
                    continue
                accepted, _ = server.accept()
                with accepted:
                    accepted.sendall(b"x")
                    return client.recv(1) == b"x"
        return False

    return reach


def test_a_port_reaches_the_container_until_it_ends(host, serve, reach):
    host.warm()
    before = host.snapshot()
    a = host.container("a", "bridge", ports=[PortRequest(target_port=80, host_port=8080)])
    server = serve(a, 80)
    assert reach(server, HOST, 8080)
    assert reach(server, HOST, 8080, Path(a.sandbox))  # by its own published port, also with br_netfilter
    assert host.networks.port_bindings(a.container.id) == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    with pytest.raises(Conflict, match=r"0\.0\.0\.0:8080/tcp is already published by container a"):
        host.container("b", "bridge", ports=[PortRequest(target_port=81, host_port=8080)])
    server.close()
    host.end(a)
    assert host.snapshot() == before
    again = host.container("b", "bridge", ports=[PortRequest(target_port=81, host_port=8080)])
    assert reach(serve(again, 81), HOST, 8080)


def test_both_families_and_chosen_addresses(host, serve, reach):
    host.networks.create("six", ipv6=True)
    ports = [
        PortRequest(target_port=80, host_port=8080),
        PortRequest(target_port=81, host_port=8081, host_ip=HOST),
        PortRequest(target_port=81, host_port=8081, host_ip="127.0.0.1"),
        PortRequest(target_port=82, host_port=8082, host_ip="::"),
    ]
    a = host.container("a", "six", ports=ports)
    assert sorted((p.family, p.host_ip, p.host_port) for p in a.ports) == [
        (4, "", 8080), (4, "127.0.0.1", 8081), (4, HOST, 8081), (6, "", 8080), (6, "", 8082),
    ]  # fmt: skip
    assert reach(serve(a, 80), HOST, 8080)
    server6 = serve(a, 82, socket.AF_INET6)
    assert reach(server6, HOST6, 8082)
    assert reach(server6, HOST6, 8082, Path(a.sandbox))
    assert reach(serve(a, 81), HOST, 8081)


def test_the_ipv6_loopback_address_refuses_at_once(host):
    """Its kernel could not bring back an answer: a client must not wait, but go on to 127.0.0.1."""
    host.networks.create("six", ipv6=True)
    host.container("a", "six", ports=[PortRequest(target_port=80, host_port=8080)])
    with socket.socket(socket.AF_INET6) as client:
        client.settimeout(5)
        with pytest.raises(ConnectionRefusedError):
            client.connect(("::1", 8080))
    with pytest.raises(InvalidParameter, match="cannot be published at ::1"):
        host.container("b", "six", ports=[PortRequest(target_port=80, host_port=8081, host_ip="0::1")])


def test_ephemeral_ports_and_ranges(host, serve, reach):
    host.networks.restore([])
    ports = [PortRequest(target_port=80), PortRequest(target_port=80), PortRequest(protocol="udp", target_port=53)]
    a = host.container("a", "bridge", ports=ports)
    numbers = [p.host_port for p in a.ports]
    assert len(set(numbers)) == 3
    assert all(32768 <= n <= 60999 for n in numbers)
    assert reach(serve(a, 80), HOST, numbers[1])
    many = [PortRequest(target_port=2000 + n, host_port=3000 + n) for n in range(100)]
    b = host.container("b", "bridge", ports=many)
    assert [(p.host_port, p.target_port, p.count) for p in b.ports] == [(3000, 2000, 100)]
    assert reach(serve(b, 2042), HOST, 3042)
    assert len(host.networks.port_bindings(b.container.id)) == 100
    for wanted in (3099, 3000):
        with pytest.raises(Conflict, match=r"3000-3099|:(3099|3000)/tcp.*container b"):
            host.container("c", "bridge", ports=[PortRequest(target_port=1, host_port=wanted)])
    first_free = host.container("c", "bridge", ports=[PortRequest(target_port=1, host_port=3098, host_port_end=3105)])
    assert first_free.ports[0].host_port == 3100


def test_ports_that_cannot_be(host):
    host.warm()
    host.networks.create("wire", "macvlan", options={"parent": "up0"})
    before = host.snapshot()
    with socket.socket() as foreign:
        foreign.bind(("0.0.0.0", 0))
        foreign.listen()
        number = foreign.getsockname()[1]
        with pytest.raises(Conflict, match="a process of the host listens there"):
            host.container("a", "bridge", ports=[PortRequest(target_port=80, host_port=number)])
    for request, kind, text in (
        (PortRequest(target_port=80, host_port=80, host_ip="203.0.113.7"), InvalidParameter, "has no address 203"),
        (PortRequest(target_port=80, host_port=80, host_ip="::"), InvalidParameter, "no IPv6 address"),
        (PortRequest(target_port=80, host_port=80, host_ip="nonsense"), InvalidParameter, "not an IP address"),
    ):
        with pytest.raises(kind, match=text):
            host.container("a", "bridge", ports=[PortRequest(target_port=1, host_port=4000), request])
    for network in ("wire", "none"):
        with pytest.raises(Unsupported, match=f"cannot be published on network {network}"):
            host.container("a", network, ports=[PortRequest(target_port=80)])
        with pytest.raises(Unsupported, match=f"cannot be published on network {network}"):
            host.networks.check_ports([network], [PortRequest(target_port=80)])
    host.networks.check_ports(["wire", "bridge"], [PortRequest(target_port=80)])
    assert host.snapshot() == before
