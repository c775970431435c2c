"""`engine network graph`, from a running engine."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET

import pytest
from tests.host import EngineHost


def test_a_picture_of_the_host(clean: EngineHost) -> None:
    host = clean
    host.engine("network", "create", "--subnet", "10.99.0.0/24", "drawn")
    host.engine("run", "-d", "--name", "web", "--network", "drawn", "-p", "8500:80", "busybox", "sleep", "1000")
    text = host.engine("network", "graph").stdout
    assert "drawn (bridge)  10.99.0.0/24" in text
    assert "web  10.99.0.2  8500->80/tcp" in text
    assert host.engine("network", "graph", "bridge").stdout.splitlines()[1].endswith("172.17.0.0/16")
    place = host.root / "net.svg"
    host.engine("network", "graph", "-o", str(place))
    assert "10.99.0.2" in [element.text for element in ET.parse(place).iter()]
    host.engine("network", "graph", "-o", str(place.with_suffix(".dot")))
    assert '"container web"' in place.with_suffix(".dot").read_text()


def test_a_file_that_graphviz_draws(clean: EngineHost) -> None:
    place = clean.root / "net.png"
    done = clean.engine("network", "graph", "-o", str(place), check=False)
    if shutil.which("dot") is None:
        assert "not installed" in done.stderr
    else:
        assert place.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "network nowhere not found"),
        (["-o", "x.txt"], "known endings"),
        (["-o", "/no/x.svg"], "cannot write"),
    ],
)
def test_what_cannot_be_drawn(host: EngineHost, words: list[str], text: str) -> None:
    done = host.engine("network", "graph", *words, check=False)
    assert done.returncode != 0
    assert text in done.stderr
