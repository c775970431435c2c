"""A picture in the language of Graphviz, and drawn by its program `dot`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

from engine.cli.errors import Failure
from engine.cli.picture.model import Picture

SECONDS = 60.0
"""In which `dot` must be done."""


def dot(picture: Picture) -> str:
    """Return the graph: the host, networks as ellipses, containers as boxes, addresses at the edges."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield "graph networks {"
    yield '  rankdir=LR; node [fontname="monospace", fontsize=10]; edge [fontname="monospace", fontsize=9];'
    yield f"  host [shape=box3d, label={_quoted(picture.host)}];"
    for network in picture.networks:
        label = _quoted("\n".join([network.title, *network.subnets]))
        node = _quoted(f"network {network.name}")
        yield f"  {node} [shape=ellipse, style=filled, fillcolor=lightyellow, label={label}];"
        yield f"  host -- {node} [label={_quoted(chr(10).join(network.gateways))}];"
    for container in picture.containers:
        label = _quoted("\n".join([container.name, container.image, *container.ports]))
        node = _quoted(f"container {container.name}")
        yield f"  {node} [shape=box, style=filled, fillcolor=lightblue, label={label}];"
        for endpoint in container.endpoints:
            if any(network.name == endpoint.network for network in picture.networks):
                ends = f"{_quoted('network ' + endpoint.network)} -- {node}"
                yield f"  {ends} [label={_quoted(chr(10).join(endpoint.addresses))}];"
    yield "}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def draw(picture: Picture, format: str) -> bytes:
    """Return the picture in a format of `dot`. Raises Failure when that is not installed, or fails."""
    program = shutil.which("dot")
    if program is None:
        raise Failure(f"a .{format} file is drawn by Graphviz, whose program `dot` is not installed; try -o net.svg")
    try:
        done = subprocess.run(
            [program, f"-T{format}"], input=dot(picture).encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as err:
        raise Failure(f"dot was not done after {SECONDS:.0f} s") from err
    if done.returncode:
        raise Failure(f"dot failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
