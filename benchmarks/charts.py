"""Line charts as SVG: sizes to the right, a cost upwards from 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 40, 84
COLOURS = ("#1b6ca8", "#c8553d", "#5b8c5a")


@dataclass(frozen=True)
class Chart:
    """`lines` are values by name, one for each of `sizes`, in `unit`."""

    title: str
    sizes: Sequence[float]
    lines: Mapping[str, Sequence[float]]
    unit: str
    across: str
    """What the sizes are."""
    logarithmic: bool = True
    """The scale of sizes; otherwise an even one from 0, on which what grows linearly is a straight line."""


def svg(charts: Sequence[Chart]) -> str:
    """Return a picture of charts beside each other."""
    width = WIDTH * len(charts)
    body = "".join(f'<g transform="translate({n * WIDTH} 0)">{_chart(chart)}</g>\n' for n, chart in enumerate(charts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{body}</svg>\n"
    )


def _chart(chart: Chart) -> str:
    step = _step(max(max(line) for line in chart.lines.values()))
    most = step * 5
    scale = log10 if chart.logarithmic else float
    first, last = scale(chart.sizes[0]) if chart.logarithmic else 0.0, scale(chart.sizes[-1])
    marks = chart.sizes if chart.logarithmic else [n * chart.sizes[-1] / 3 for n in range(4)]

    def x(size: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (scale(size) - first) / (last - first)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most

    parts = [_text(LEFT, 20, f"{chart.title} ({chart.unit})", size=13)]
    for n in range(6):
        parts.append(_line([(LEFT, y(n * step)), (WIDTH - RIGHT, y(n * step))], "#ddd", 1))
        parts.append(_text(LEFT - 6, y(n * step) + 4, f"{n * step:g}", anchor="end"))
    for size in marks:
        parts.append(_text(x(size), HEIGHT - BOTTOM + 16, f"{size:g}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 32, chart.across, anchor="middle"))
    for n, (name, values) in enumerate(chart.lines.items()):
        points = [(x(size), y(value)) for size, value in zip(chart.sizes, values, strict=True)]
        parts.append(_line(points, COLOURS[n], 2))
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{COLOURS[n]}"/>' for a, b in points]
        height = HEIGHT - BOTTOM + 48 + 15 * n
        parts += [_line([(LEFT, height), (LEFT + 18, height)], COLOURS[n], 2), _text(LEFT + 24, height + 4, name)]
    return "\n".join(parts)


def _step(most: float) -> float:
    """Return a round step, five of which reach the largest value."""
    return next(s * 10.0**power for power in range(-4, 12) for s in (1, 2, 5) if 5 * s * 10.0**power >= most)


def _line(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    where = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(a: float, b: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
