"""Pictures of networks, from answers of the API."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from engine.cli.errors import Failure
from engine.cli.picture import graphviz
from engine.cli.picture.graphviz import dot, draw
from engine.cli.picture.model import picture
from engine.cli.picture.svg import svg
from engine.cli.picture.tree import tree


def pool(subnet: str, gateway: str) -> dict[str, str]:
    return {"Subnet": subnet, "Gateway": gateway}


NETWORKS = [
    {"Name": "none", "Driver": "none", "IPAM": {"Config": []}, "Options": {}},
    {"Name": "lan", "Driver": "macvlan", "IPAM": {"Config": [pool("192.0.2.0/24", "192.0.2.1")]},
     "Options": {"parent": "eth0"}},
    {"Name": "front", "Driver": "bridge", "Internal": True, "Options": None,
     "IPAM": {"Config": [pool("10.1.0.0/24", "10.1.0.1"), pool("fd00::/64", "fd00::1")]}},
]  # fmt: skip
CONTAINERS = [
    {"Names": ["/web"], "Image": "a<b>&c",
     "Ports": [{"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
               {"IP": "::", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
               {"IP": "fd00::9", "PublicPort": 53, "PrivatePort": 53, "Type": "udp"},
               {"PrivatePort": 443, "Type": "tcp"}],
     "NetworkSettings": {"Networks": {"front": {"IPAddress": "10.1.0.2", "GlobalIPv6Address": "fd00::2"},
                                      "lan": {"IPAddress": "192.0.2.9"}}}},
    {"Names": ["/db"], "Image": "db", "Ports": [],
     "NetworkSettings": {"Networks": {"front": {"IPAddress": "10.1.0.3"}}}},
]  # fmt: skip
ALL = picture("host1", NETWORKS, CONTAINERS, ["bridge"])


def test_a_tree() -> None:
    assert list(tree(ALL)) == [
        "host1",
        "├─ front (bridge, internal)  10.1.0.0/24  fd00::/64",
        "│  ├─ db   10.1.0.3",
        "│  └─ web  10.1.0.2  fd00::2  8080->80/tcp  [fd00::9]:53->53/udp",
        "└─ lan (macvlan, on eth0, gateway 192.0.2.1)  192.0.2.0/24",
        "   └─ web  192.0.2.9  8080->80/tcp  [fd00::9]:53->53/udp",
    ]
    assert all(line.isascii() for line in tree(ALL, plain=True))


def test_only_some_networks() -> None:
    lan = picture("host1", NETWORKS, CONTAINERS, ["bridge"], ["lan"])
    assert [n.name for n in lan.networks] == ["lan"]
    assert [c.name for c in lan.containers] == ["web"]
    empty = picture("host1", NETWORKS, [], [], ["none"])
    assert list(tree(empty)) == ["host1", "└─ none (none)"]


@pytest.mark.parametrize("shown", [ALL, picture("h", NETWORKS, [], []), picture("h", [], [], [])])
def test_an_svg_is_well_formed(shown) -> None:
    root = ET.fromstring(svg(shown))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert shown.host in texts
    assert {c.image for c in shown.containers} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == sum(len(c.endpoints) for c in shown.containers)
    width = float(root.attrib["width"])
    assert all(0 <= float(e.attrib["x"]) <= width for e in root.iter("{http://www.w3.org/2000/svg}text"))


def test_a_graph_for_graphviz() -> None:
    text = dot(ALL)
    assert '"network front" -- "container web" [label="10.1.0.2\\nfd00::2"];' in text
    assert 'host -- "network lan" [label=""];' in text
    assert text.count("{") == text.count("}") == 1


def test_without_graphviz_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphviz.shutil, "which", lambda name: None)
    with pytest.raises(Failure, match=r"`dot` is not installed; try -o net\.svg"):
        draw(ALL, "png")
