"""Our bytes are pyroute2's bytes."""

from __future__ import annotations

import struct
from copy import deepcopy

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import cls_u32, tcmsg

from engine.reconcile import messages as m
from engine.reconcile.observation import read_link
from engine.reconcile.rtnetlink import Message, attributes, split
from engine.spec.links import (
    Address,
    Bridge,
    BridgePort,
    Dummy,
    ForwardingEntry,
    Ifb,
    Ipvlan,
    Macvlan,
    Neighbour,
    Route,
    Shape,
    Veth,
    Vlan,
    Vxlan,
)

MAC = "02:42:0a:00:00:02"
NEW, SET = 0x605, 0x5  # REQUEST, ACK (and CREATE, EXCL)


def theirs(cls, kind: int, flags: int, fields: dict, attrs: list) -> bytes:
    message = cls()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = deepcopy(attrs)  # the encoder writes into them
    message["header"]["type"], message["header"]["flags"] = kind, flags
    message["header"]["sequence_number"], message["header"]["pid"] = 7, 0
    message.encode()
    return bytes(message.data)


def same(ours: Message, cls, kind: int, flags: int, fields: dict, attrs: list) -> None:
    assert ours.encode(7).hex(" ", 4) == theirs(cls, kind, flags, fields, attrs).hex(" ", 4)


def info(kind: str, *data: tuple[str, object]) -> tuple[str, object]:
    attrs: list[tuple[str, object]] = [("IFLA_INFO_KIND", kind)]
    if data:
        attrs.append(("IFLA_INFO_DATA", {"attrs": list(data)}))
    return ("IFLA_LINKINFO", {"attrs": attrs})


UP = {"index": 70000, "flags": 1, "change": 1}
LINKS = [
    (Bridge(name="br0", mac=MAC, mtu=1400),
     [("IFLA_IFNAME", "br0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1399), ("IFLA_GROUP", 9), info("bridge")]),
    (Dummy(name="d0"), [("IFLA_IFNAME", "d0"), ("IFLA_GROUP", 9), info("dummy")]),
    (Ifb(name="i0"), [("IFLA_IFNAME", "i0"), ("IFLA_GROUP", 9), info("ifb")]),
    (Macvlan(name="m0", parent="p", mode="private"),
     [("IFLA_IFNAME", "m0"), ("IFLA_LINK", 5), ("IFLA_GROUP", 9), info("macvlan", ("IFLA_MACVLAN_MODE", "private"))]),
    (Ipvlan(name="v0", parent="p", mode="l3s"),
     [("IFLA_IFNAME", "v0"), ("IFLA_LINK", 5), ("IFLA_GROUP", 9),
      info("ipvlan", ("IFLA_IPVLAN_MODE", 2))]),
    (Vlan(name="p.7", parent="p", vid=7),
     [("IFLA_IFNAME", "p.7"), ("IFLA_LINK", 5), ("IFLA_GROUP", 9), info("vlan", ("IFLA_VLAN_ID", 7))]),
    (Vxlan(name="x0", vni=77, local="192.0.2.1"),
     [("IFLA_IFNAME", "x0"), ("IFLA_GROUP", 9),
      info("vxlan", ("IFLA_VXLAN_ID", 77), ("IFLA_VXLAN_LOCAL", "192.0.2.1"), ("IFLA_VXLAN_PORT", 4789),
           ("IFLA_VXLAN_LEARNING", 0))]),
    (Vxlan(name="x0", vni=77, local="2001:db8::1", port=8472),
     [("IFLA_IFNAME", "x0"), ("IFLA_GROUP", 9),
      info("vxlan", ("IFLA_VXLAN_ID", 77), ("IFLA_VXLAN_LOCAL6", "2001:db8::1"), ("IFLA_VXLAN_PORT", 8472),
           ("IFLA_VXLAN_LEARNING", 0))]),
]  # fmt: skip


@pytest.mark.parametrize(("link", "attrs"), LINKS, ids=lambda value: getattr(value, "kind", ""))
def test_links(link, attrs) -> None:
    ours = m.new_link(link, index=70000, up=True, parent=5 if hasattr(link, "parent") else 0, group=9)
    same(ours, ifinfmsg, 16, NEW, UP, attrs)


def test_flags_of_ipvlan_which_pyroute2_does_not_know() -> None:
    link = Ipvlan(name="v0", parent="p", mode="l2", isolation="private")
    assert attributes(m.link_kind_data(link)) == {1: b"\0\0", 2: b"\1\0"}


def test_a_pair_with_its_other_end_in_a_namespace() -> None:
    pair = Veth(name="v0", peer="eth0", master="br0", mtu=1400, peer_mac=MAC, peer_mtu=1300)
    data = m.veth_peer(pair, index=0, group=None, ns_fd=11)
    peer = {
        "index": 0,
        "attrs": [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1300), ("IFLA_NET_NS_FD", 11)],
    }
    attrs = [
        ("IFLA_IFNAME", "v0"), ("IFLA_MTU", 1400), ("IFLA_MASTER", 4), ("IFLA_GROUP", 9),
        info("veth", ("VETH_INFO_PEER", peer)),
    ]  # fmt: skip
    same(m.new_link(pair, index=70000, up=True, master=4, group=9, data=data), ifinfmsg, 16, NEW, UP, attrs)


def test_a_link_under_a_passing_name_in_a_namespace() -> None:
    link = Macvlan(name="eth0", parent="p", ns="sandbox")
    ours = m.new_link(link, index=0, name="tmp", parent=5, ns_fd=11)
    attrs = [
        ("IFLA_IFNAME", "tmp"), ("IFLA_LINK", 5), ("IFLA_NET_NS_FD", 11),
        info("macvlan", ("IFLA_MACVLAN_MODE", "bridge")),
    ]  # fmt: skip
    same(ours, ifinfmsg, 16, NEW, {"index": 0, "flags": 0, "change": 0}, attrs)


def test_changes_of_a_link() -> None:
    ours = m.set_link(8, up=False, name="n", alias="engine:x", mac=MAC, mtu=1400, master=0)
    attrs = [
        ("IFLA_IFNAME", "n"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1400), ("IFLA_MASTER", 0),
    ]  # fmt: skip
    plain = m.set_link(8, up=False, name="n", mac=MAC, mtu=1400, master=0)
    same(plain, ifinfmsg, 19, SET, {"index": 8, "flags": 0, "change": 1}, attrs)
    assert attributes(ours.body, 16)[m.IFLA_IFALIAS] == b"engine:x"
    same(m.delete_link(8), ifinfmsg, 17, SET, {"index": 8}, [])


def test_an_alias_is_cut_to_what_the_kernel_takes() -> None:
    assert len(attributes(m.set_link(8, alias="x" * 300).body, 16)[m.IFLA_IFALIAS]) == 255


def test_a_bridge_port() -> None:
    port = BridgePort(link="v0", hairpin=True, learning=False, isolated=True)
    body = m.bridge_port(port, 8).body
    assert body[0] == 7
    bits = attributes(attributes(body, 16)[m.IFLA_PROTINFO])
    assert bits == {4: b"\1", 8: b"\0", 33: b"\1"}
    bits = attributes(attributes(m.bridge_port(port, 8, reset=True).body, 16)[m.IFLA_PROTINFO])
    assert bits == {4: b"\0", 8: b"\1", 33: b"\0"}


ADDRESSES = [
    ("10.9.0.2/24", {"family": 2, "prefixlen": 24, "flags": 0x80},
     [("IFA_LOCAL", "10.9.0.2"), ("IFA_ADDRESS", "10.9.0.2"), ("IFA_BROADCAST", "10.9.0.255"), ("IFA_PROTO", 201)]),
    ("10.9.0.2/32", {"family": 2, "prefixlen": 32, "flags": 0x80},
     [("IFA_LOCAL", "10.9.0.2"), ("IFA_ADDRESS", "10.9.0.2"), ("IFA_PROTO", 201)]),
    ("fd00::2/64", {"family": 10, "prefixlen": 64, "flags": 0x82},
     [("IFA_LOCAL", "fd00::2"), ("IFA_ADDRESS", "fd00::2"), ("IFA_PROTO", 201)]),
]  # fmt: skip


@pytest.mark.parametrize(("address", "fields", "attrs"), ADDRESSES)
def test_addresses(address, fields, attrs) -> None:
    item = Address(link="eth0", address=address)
    same(m.address(item, 8, 201), ifaddrmsg, 20, NEW, {"index": 8, **fields}, attrs)
    gone = m.address(item, 8, 201, delete=True)
    same(gone, ifaddrmsg, 21, SET, {"index": 8, **fields}, attrs[:2])


ROUTES = [
    (Route(destination="0.0.0.0/0", via="10.0.0.1", link="eth0"), {"family": 2},
     [("RTA_OIF", 8), ("RTA_GATEWAY", "10.0.0.1")]),
    (Route(destination="10.1.0.0/16", link="eth0", metric=5, source="10.0.0.2"),
     {"family": 2, "dst_len": 16, "scope": 253},
     [("RTA_DST", "10.1.0.0"), ("RTA_OIF", 8), ("RTA_PRIORITY", 5), ("RTA_PREFSRC", "10.0.0.2")]),
    (Route(destination="::/0", via="fe80::1", link="eth0", onlink=True), {"family": 10, "flags": 4},
     [("RTA_OIF", 8), ("RTA_GATEWAY", "fe80::1")]),
    (Route(destination="10.1.0.0/16", via="fe80::1", link="eth0"), {"family": 2, "dst_len": 16},
     [("RTA_DST", "10.1.0.0"), ("RTA_OIF", 8), ("RTA_VIA", {"family": 10, "addr": "fe80::1"})]),
]  # fmt: skip


@pytest.mark.parametrize(("item", "fields", "attrs"), ROUTES)
def test_routes(item, fields, attrs) -> None:
    common = {"table": 254, "proto": 201, "type": 1, **fields}
    same(m.route(item, 8, 201), rtmsg, 24, NEW, common, attrs)
    same(m.replaced_route(item, 8, 201), rtmsg, 24, 0x505, common, attrs)
    same(m.route(item, 8, 201, delete=True), rtmsg, 25, SET, common, attrs)


def test_neighbours() -> None:
    fields = {"family": 2, "ifindex": 8, "state": 0x80}
    attrs = [("NDA_DST", "10.0.0.2"), ("NDA_LLADDR", MAC), ("NDA_PROTOCOL", 201)]
    item = Neighbour(link="br0", address="10.0.0.2", mac=MAC)
    same(m.neighbour(item, 8, 201), ndmsg, 28, NEW, fields, attrs)
    same(m.neighbour(item, 8, 201, delete=True), ndmsg, 29, SET, fields, attrs[:1])


def test_forwarding_entries() -> None:
    item = ForwardingEntry(link="x0", mac=MAC, dst="192.0.2.7")
    fields = {"family": 7, "ifindex": 8, "state": 0xC0, "flags": 2}
    attrs = [("NDA_LLADDR", MAC), ("NDA_DST", "192.0.2.7")]
    same(m.forwarding_entry(item, 8), ndmsg, 28, NEW, fields, attrs)
    flood = ForwardingEntry(link="x0", mac=m.FLOOD_MAC, dst="192.0.2.7")
    same(m.forwarding_entry(flood, 8), ndmsg, 28, 0xC05, fields, [("NDA_LLADDR", m.FLOOD_MAC), attrs[1]])
    static = ForwardingEntry(link="v0", mac=MAC, table="master")
    same(m.forwarding_entry(static, 8), ndmsg, 28, NEW, {**fields, "state": 0x40, "flags": 4}, attrs[:1])


def test_a_token_bucket() -> None:
    item = Shape(ns="host", link="i0", rate=10_000_000, burst=65_536)
    body = m.shape(item, 8).body
    options = attributes(attributes(body, 20)[m.TCA_OPTIONS])
    assert set(options) == {m.TCA_TBF_PARMS}
    rate, limit, burst = (int.from_bytes(options[1][at : at + 4], "little") for at in (8, 24, 28))
    assert (rate, limit) == (1_250_000, 128_036)
    assert abs(burst - 65_536 / 1_250_000 * 1e6 * 15.625) <= 1
    wide = attributes(attributes(m.shape(Shape(link="i0", rate=80_000_000_000), 8).body, 20)[m.TCA_OPTIONS])
    assert int.from_bytes(wide[m.TCA_TBF_RATE64], "little") == 10_000_000_000


def test_a_redirection() -> None:
    fields = {"index": 8, "handle": 0xFFFF0000, "parent": 0xFFFFFFF1}
    same(m.ingress(8), tcmsg, 36, NEW, fields, [("TCA_KIND", "ingress")])
    same(m.ingress(8, delete=True), tcmsg, 37, SET, fields, [("TCA_KIND", "ingress")])
    action = {"kind": "mirred", "action": "redirect", "direction": "egress", "ifindex": 9}
    parameters = {"parent": 0xFFFF0000, "target": 0, "keys": ["0x0/0x0+0"], "action": action}
    theirs_options = cls_u32.get_parameters(parameters)
    message = tcmsg()
    message["index"], message["parent"], message["info"] = 8, 0xFFFF0000, 1 << 16 | 0x0300
    message["attrs"] = [("TCA_KIND", "u32"), ("TCA_OPTIONS", theirs_options)]
    message["header"]["type"], message["header"]["flags"] = 44, NEW
    message["header"]["sequence_number"] = 7
    message.encode()
    expected = attributes(attributes(bytes(message.data), 36)[m.TCA_OPTIONS])
    ours = m.redirection(8, 9)
    assert ours.encode(7)[:36] == bytes([*struct.pack("=I", len(ours.encode(7))), *bytes(message.data)[4:36]])
    options = attributes(attributes(ours.body, 20)[m.TCA_OPTIONS])
    assert options[m.TCA_U32_SEL] == expected[m.TCA_U32_SEL]
    mine, known = (attributes(attributes(o[m.TCA_U32_ACT])[1]) for o in (options, expected))
    assert mine[m.TCA_ACT_KIND] == known[m.TCA_ACT_KIND]
    parms = attributes(mine[m.TCA_ACT_OPTIONS])[m.TCA_MIRRED_PARMS]
    assert parms == attributes(known[m.TCA_ACT_OPTIONS])[m.TCA_MIRRED_PARMS]
    assert m.redirection_target(ours.body) == 9


def test_a_link_is_read_as_it_was_written() -> None:
    link = Macvlan(name="m0", parent="p", mode="vepa", mac=MAC, mtu=1400)
    ((kind, _, sequence, body),) = split(m.new_link(link, index=9, up=True, parent=5, group=3).encode(4))
    seen = read_link(body)
    assert (kind, sequence) == (16, 4)
    assert (seen.index, seen.name, seen.up, seen.mac, seen.mtu, seen.parent, seen.group) == (
        9, "m0", True, MAC, 1400, 5, 3,
    )  # fmt: skip
    assert (seen.kind, seen.data[1]) == ("macvlan", b"\2\0\0\0")
