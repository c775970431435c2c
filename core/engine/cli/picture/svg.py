"""A picture as SVG: networks are horizontal lines, containers hang below them, the host is at their left end."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from engine.cli.picture.model import Container, Network, Picture

COLOURS = ("#1f6feb", "#2da44e", "#bf8700", "#8250df", "#cf222e", "#1b7c83", "#bc4c00", "#57606a")
LETTER = 6.7
"""Width of a letter of the small font, in pixels."""
ROW, TOP, LEFT, GAP, BOX = 64, 40, 20, 36, 20
"""Pixels: between networks, above the first one, left of the host, between containers, height of a line in a box."""


def svg(picture: Picture) -> str:
    """Return the document."""
    return "\n".join(_Drawing(picture).lines()) + "\n"


class _Drawing:
    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._y = {network.name: TOP + 34 + ROW * n for n, network in enumerate(picture.networks)}
        self._bottom = TOP + 34 + ROW * max(len(picture.networks), 1)
        titles = [f"{n.title}  {' '.join(n.subnets)}" for n in picture.networks]
        self._host_width = max([_width(picture.host) + 30, 110])
        self._start = LEFT + self._host_width
        # Titles are above the lines, left of the first container.
        self._x: dict[str, float] = {}
        at = self._start + max([_width(title) for title in titles] or [0]) + 40
        for container in picture.containers:
            wide = _container_width(container)
            self._x[container.name] = at + wide / 2
            at += wide + GAP
        self._end = at
        self._height = self._bottom + max([len(_texts(c)) for c in picture.containers] or [0]) * BOX + 40

    def lines(self) -> Iterator[str]:
        size = f'width="{self._end:.0f}" height="{self._height:.0f}" viewBox="0 0 {self._end:.0f} {self._height:.0f}"'
        yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="ui-monospace, monospace" font-size="11">'
        yield '<rect width="100%" height="100%" fill="#ffffff"/>'
        yield from self._host()
        for n, network in enumerate(self._picture.networks):
            yield from self._network(network, COLOURS[n % len(COLOURS)])
        for container in self._picture.containers:
            yield from self._container(container)
        yield "</svg>"

    def _host(self) -> Iterator[str]:
        height = self._bottom - TOP - 10
        yield _rectangle(LEFT, TOP, self._host_width, height, "#f6f8fa", "#24292f")
        yield _text(LEFT + self._host_width / 2, TOP + 20, self._picture.host, weight="bold", anchor="middle")

    def _network(self, network: Network, colour: str) -> Iterator[str]:
        y = self._y[network.name]
        ends = f'x1="{self._start}" y1="{y}" x2="{self._end - 20:.0f}" y2="{y}"'
        yield f'<line {ends} stroke="{colour}" stroke-width="4"/>'
        yield _text(self._start + 10, y - 9, network.title, weight="bold", fill=colour)
        yield _text(self._start + 10 + _width(network.title) + 14, y - 9, " ".join(network.subnets), fill=colour)
        for n, gateway in enumerate(network.gateways[:2]):
            yield _text(self._start - 8, y + 4 + 13 * n, gateway, anchor="end", fill=colour)

    def _container(self, container: Container) -> Iterator[str]:
        x, wide, texts = self._x[container.name], _container_width(container), _texts(container)
        shown = [e for e in container.endpoints if e.network in self._y]
        top = min(self._y[e.network] for e in shown)
        yield f'<line x1="{x:.0f}" y1="{top}" x2="{x:.0f}" y2="{self._bottom}" stroke="#57606a" stroke-width="1.5"/>'
        for endpoint in shown:
            y = self._y[endpoint.network]
            yield f'<circle cx="{x:.0f}" cy="{y}" r="5" fill="#24292f"/>'
            for n, address in enumerate(endpoint.addresses):
                yield _text(x + 8, y + 16 + 13 * n, address)
        height = len(texts) * BOX * 0.8 + 14
        yield _rectangle(x - wide / 2, self._bottom, wide, height, "#ddf4ff", "#0969da")
        for n, text in enumerate(texts):
            yield _text(x, self._bottom + 18 + n * BOX * 0.8, text, weight="normal" if n else "bold", anchor="middle")


def _texts(container: Container) -> list[str]:
    return [container.name, container.image, *container.ports]


def _container_width(container: Container) -> float:
    addresses = [address for endpoint in container.endpoints for address in endpoint.addresses]
    return max(
        [_width(text) + 20 for text in _texts(container)] + [2 * (_width(a) + 10) - GAP for a in addresses] + [80]
    )


def _width(text: str) -> float:
    return len(text) * LETTER


def _rectangle(x: float, y: float, width: float, height: float, fill: str, stroke: str) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"'
    return f'<rect {place} fill="{fill}" stroke="{stroke}"/>'


def _text(
    x: float, y: float, text: str, *, weight: str = "normal", anchor: str = "start", fill: str = "#24292f"
) -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}"'
    return f"<text {place}>{escape(text)}</text>"
