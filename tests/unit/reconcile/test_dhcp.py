"""DHCP messages as bytes, those of servers that err included."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.reconcile import dhcp_message as dm
from engine.reconcile.dhcp import _lease

MAC = bytes.fromhex("024200000001")


def reply(*options: bytes, file: bytes = b"", name: bytes = b"", op: int = 2, given: str = "192.0.2.9") -> bytes:
    head = struct.pack("!BBBBIHH", op, 1, 6, 0, 77, 0, 0) + bytes(4) + dm.pack(given) + bytes(8)
    return (
        head
        + MAC.ljust(16, b"\0")
        + name.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + b"\x63\x82\x53\x63"
        + b"".join(options)
    )


def option(code: int, data: bytes) -> bytes:
    return bytes((code, len(data))) + data


def test_a_request_has_what_a_server_reads():
    message = dm.Message(dm.DISCOVER, 77, MAC, options={dm.HOSTNAME: b"box", dm.IDENTITY: b"\xff1234"})
    data = dm.encode(message, 3)
    assert len(data) == 300
    assert data[:12] == bytes.fromhex("01010600" + "0000004d" + "0003" + "8000")
    assert data[28:34] == MAC
    assert data[236:].startswith(b"\x63\x82\x53\x63\x35\x01\x01\x0c\x03box\x3d\x05\xff1234\xff")
    renewal = dm.encode(dm.Message(dm.REQUEST, 77, MAC, own="192.0.2.9"))
    assert renewal[10:16] == b"\0\0" + bytes((192, 0, 2, 9))  # who has an address is answered there


def test_checksums():
    packet = dm.datagram("192.0.2.9", "192.0.2.1", b"odd")
    assert dm.internet_checksum(packet[:20]) == 0
    pseudo = packet[12:20] + struct.pack("!HH", 17, len(packet) - 20)
    assert dm.internet_checksum(pseudo + packet[20:]) == 0
    assert dm.payload_of(packet) == b"odd"


def test_an_answer_is_read():
    data = reply(
        option(dm.TYPE, b"\x05"), option(dm.MASK, b"\xff\xff\xf0\0"), option(dm.SERVER, b"\xc0\0\2\1"),
        option(dm.SECONDS, struct.pack("!I", 3600)), option(dm.DNS, b"\xc0\0"), b"\0\0",
        option(dm.DNS, b"\2\1\1\1\1\1"),
        option(dm.ROUTERS, b"\xc0\0\2\1\xc0\0\2\2"), option(dm.DOMAIN, b"lan\0"), b"\xff", b"after the end",
    )  # fmt: skip
    answer = dm.decode(data)
    assert answer is not None
    assert (answer.type, answer.transaction, answer.mac, answer.given) == (dm.ACK, 77, MAC, "192.0.2.9")
    lease = _lease(answer, "02:00:00:00:00:01")
    assert (lease.address, lease.server, lease.routers) == ("192.0.2.9/20", "192.0.2.1", ("192.0.2.1", "192.0.2.2"))
    assert (lease.dns, lease.domain) == (("192.0.2.1", "1.1.1.1"), "lan")
    assert (lease.seconds, lease.renew, lease.rebind) == (3600, 1800, 3150)


def test_options_in_the_fields_of_the_file_and_the_server_s_name():
    data = reply(
        option(dm.TYPE, b"\x02"), option(dm.OVERLOAD, b"\x03"), b"\xff",
        file=option(dm.SECONDS, struct.pack("!I", 60)) + b"\xff", name=option(dm.SERVER, b"\xc0\0\2\1") + b"\xff",
    )  # fmt: skip
    answer = dm.decode(data)
    assert answer is not None
    assert (answer.number(dm.SECONDS), answer.address(dm.SERVER)) == (60, "192.0.2.1")


@pytest.mark.parametrize("times", [(10, 5), (5000, 6000)])
def test_times_that_are_out_of_order_are_put_in_order(times):
    data = reply(
        option(dm.TYPE, b"\x05"), option(dm.SECONDS, struct.pack("!I", 3600)),
        option(dm.RENEW, struct.pack("!I", times[0])), option(dm.REBIND, struct.pack("!I", times[1])), b"\xff",
    )  # fmt: skip
    answer = dm.decode(data)
    assert answer is not None
    lease = _lease(answer, "")
    assert lease.renew <= lease.rebind <= lease.seconds


@pytest.mark.parametrize(
    "data", [b"", reply()[:239], reply(option(dm.TYPE, b"\x05"), op=1), reply(), reply(option(dm.TYPE, b""))]
)
def test_what_is_no_answer_is_nothing(data):
    assert dm.decode(data) is None


@given(st.binary(max_size=80), st.binary(max_size=128), st.binary(max_size=64))
def test_no_bytes_are_too_odd(options, file, name):
    answer = dm.decode(reply(option(dm.OVERLOAD, b"\3") + option(dm.TYPE, b"\5") + options, file=file, name=name))
    if answer is not None:
        _lease(answer, "")
    dm.payload_of(options)
