"""Plans are values: they compare, round-trip through JSON, and keep what they do not understand."""

import json

import pytest
from pydantic import ValidationError

from engine.spec.firewall import PortMap
from engine.spec.links import Address, Bridge, Extern, Macvlan, Route, Sysctl, Veth
from engine.spec.mounts import Bind, Directory, ImageMount, OverlayMount
from engine.spec.resource import Opaque, Plan, Resource, load_resource

ALL = Plan.of(
    Extern(name="eth1"),
    Bridge(name="br0", mac="02:42:00:00:00:01"),
    Veth(name="v0", master="br0", peer="eth0"),
    Macvlan(name="eth1", ns="sandbox", parent="p0", mode="vepa"),
    [Address(link="eth0", address=a) for a in ("10.0.0.2/24", "fd00::2/64")],
    Route(destination="0.0.0.0/0", via="10.0.0.1"),
    Sysctl(name="net.ipv4.conf.{link}.arp_notify", value="1", link="eth0"),
    PortMap(protocol="tcp", host_port=80, target="10.0.0.2", target_port=8080),
    Directory(path="/d/_data"),
    Bind(source="/d/_data", target="/run/v"),
    OverlayMount(target="/m", lower=("/l/a", "/l/b"), upper="/u", work="/w"),
)


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(ALL.to_json()) == ALL
    assert all(item["kind"] and item["v"] for item in json.loads(ALL.to_json())["resources"])


def test_links_of_all_kinds_share_one_key_space() -> None:
    assert Bridge(name="x").key == Veth(name="x", peer="y").key == Extern(name="x").key


def test_values_are_normalised() -> None:
    assert Address(link="e", address="fd00:0001::2/64") == Address(link="e", address="fd00:1::2/64")
    assert Route(destination="10.5.0.7/16", link="e").destination == "10.5.0.0/16"
    assert Bridge(name="b", mac="AA-BB-CC-DD-EE-FF").mac == "aa:bb:cc:dd:ee:ff"
    assert Directory(path="//a//b/").path == "/a/b"


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Bridge, {"name": "a" * 16}),
        (Bridge, {"name": "a/b"}),
        (Bridge, {"name": "br0", "mtu": 1}),
        (Bridge, {"name": "br0", "unknown": 1}),
        (Address, {"link": "e", "address": "10.0.0.1"}),
        (Address, {"link": "e", "address": "10.0.0.1/33"}),
        (Route, {"destination": "0.0.0.0/0"}),
        (Sysctl, {"name": "kernel.core_pattern", "value": "x"}),
        (Sysctl, {"name": "net/../kernel", "value": "x"}),
        (Sysctl, {"name": "net.ipv4.conf.{link}.x", "value": "1"}),
        (Directory, {"path": "relative"}),
        (Directory, {"path": "/a/../b"}),
    ],
)
def test_nonsense_is_refused(cls: type[Resource], fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        cls.model_validate({"kind": cls.model_fields["kind"].default, **fields})


def test_resources_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Bridge(name="b").name = "c"  # type: ignore[misc]


@pytest.mark.parametrize("data", [{"kind": "acme.tunnel", "v": 1, "peer": "a"}, {"kind": "bridge", "v": 9, "new": 1}])
def test_what_is_unknown_is_kept_as_it_was(data: dict[str, object]) -> None:
    resource = load_resource(data)
    assert isinstance(resource, Opaque)
    plan = Plan.of(resource)
    assert json.loads(plan.to_json())["resources"] == [data]
    assert Plan.from_json(plan.to_json()) == plan


def test_a_kind_can_be_registered_once() -> None:
    with pytest.raises(TypeError, match="taken"):
        type("Other", (Resource,), {"__annotations__": {"kind": str}, "kind": "bridge", "__module__": __name__})


def test_order_follows_from_names() -> None:
    assert ("link", "host", "br0") in tuple(Veth(name="v", master="br0", peer="e").requires())
    assert ("link", "host", "p0") in tuple(Macvlan(name="e", ns="sandbox", parent="p0").requires())
    mount = ImageMount(image="/a/disk", target="/run/vol/x")
    assert {("path", "host", "/a/disk"), ("mount", "host", "/run/vol")} <= set(mount.requires())
