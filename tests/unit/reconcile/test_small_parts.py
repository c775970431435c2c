from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from engine.reconcile import rtnetlink as rt
from engine.reconcile.sysctl import path_of
from engine.spec.links import Sysctl


def test_a_links_name_is_one_component_of_a_parameters_path() -> None:
    item = Sysctl(name="net.ipv4.conf.{link}.rp_filter", link="eth0.5", value="1")
    assert path_of(item) == Path("/proc/sys/net/ipv4/conf/eth0.5/rp_filter")
    assert path_of(Sysctl(name="net.core.somaxconn", value="1")) == Path("/proc/sys/net/core/somaxconn")


def test_attributes_are_padded_and_read_back() -> None:
    data = rt.attr(3, "abc") + rt.attr(4, b"\1") + rt.nest(5 | rt.NLA_F_NESTED, rt.attr(1, 7))
    assert len(data) % 4 == 0
    found = rt.attributes(data)
    assert rt.text(found[3]) == "abc"
    assert found[4] == b"\1"
    assert rt.attributes(found[5]) == {1: struct.pack("=I", 7)}
    assert rt.attributes(b"\1\0\0\0") == {}  # a length below the header's ends it


def test_a_name_that_is_no_utf8_is_kept() -> None:
    assert rt.text(b"\xff\xfe\0").encode(errors="surrogateescape") == b"\xff\xfe"


def test_many_messages_are_sent_in_pieces_with_one_answer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def chunk(self: rt.NetlinkSocket, messages: list[rt.Message]) -> list[rt.Ack]:
        sent.append(len(messages))
        return [rt.Ack(0) for _ in messages]

    monkeypatch.setattr(rt.NetlinkSocket, "_send_chunk", chunk)
    with rt.NetlinkSocket() as sock:
        assert len(sock.send([rt.Message(16, 0, b"")] * 300)) == 300
        assert sock.send([]) == []
    assert sent == [128, 128, 44]


def test_links_are_asked_for_without_privileges() -> None:
    with rt.NetlinkSocket() as sock:
        assert sock.index("lo") == 1
        assert sock.name(1) == "lo"
        assert sock.index("no-such-link") == 0
        assert sock.name(1 << 29) == ""


def test_neither_pyroute2_nor_libnftables_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; import engine.reconcile.watch, engine.reconcile.appliers; "
        "assert not {'pyroute2', 'nftables'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
