"""A picture as text: a tree of the host's networks and their containers."""

from __future__ import annotations

from collections.abc import Iterator

from engine.cli.picture.model import Container, Endpoint, Picture

LINES = ("├─ ", "└─ ", "│  ", "   ")
PLAIN_LINES = ("|- ", "`- ", "|  ", "   ")


def tree(picture: Picture, *, plain: bool = False) -> Iterator[str]:
    """Yield the lines; `plain` ones have no characters beyond ASCII."""
    branch, last_branch, trunk, gap = PLAIN_LINES if plain else LINES
    yield picture.host
    for network in picture.networks:
        last = network is picture.networks[-1]
        yield (last_branch if last else branch) + "  ".join([network.title, *network.subnets])
        before = gap if last else trunk
        members = picture.members(network)
        width = max((len(container.name) for container, _ in members), default=0)
        for n, (container, endpoint) in enumerate(members):
            yield before + (last_branch if n == len(members) - 1 else branch) + _line(container, endpoint, width)


def _line(container: Container, endpoint: Endpoint, width: int) -> str:
    return "  ".join([container.name.ljust(width), *endpoint.addresses, *container.ports]).rstrip()
