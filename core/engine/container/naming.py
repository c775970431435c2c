"""Identifiers and made-up names."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable

from engine.spec.errors import InvalidParameter

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_LEFT = """
    amber bold brave bright calm candid clever cosmic crisp curious daring dapper eager early fair famous fine
    fleet fresh gentle glad golden grand happy hardy honest ideal jolly keen kind lively loyal lucid lucky
    mellow merry mild modest neat nimble noble patient plucky polite prime proud quick quiet rapid ready
    robust royal serene sharp silent sincere sleek smart snug solid spry stable steady stoic sunny swift tidy
    true upbeat vivid warm wise witty zesty
""".split()
_RIGHT = """
    abel ampere babbage banach bell bohr boole borg bose cantor carson cauchy cerf church curie darwin
    dijkstra dirac edison einstein elion engelbart euclid euler faraday fermat fermi feynman franklin galileo
    galois gauss germain goodall hamilton hawking hertz hilbert hodgkin hopper hypatia jacobi jemison johnson
    kalam kepler knuth kovalevsky lagrange lamarr laplace leavitt leibniz lovelace maxwell mccarthy meitner
    mendel mirzakhani morse newton nobel noether pascal pasteur perlman planck poincare ramanujan riemann
    ritchie rubin sagan shannon swartz tesla thompson torvalds turing volta wiles wing wozniak wu yalow
""".split()


def new_id() -> str:
    """Return a random identifier: 64 hex digits, as Docker's."""
    return secrets.token_hex(32)


def check_name(name: str) -> str:
    """Return a container's name without its slash. Raises InvalidParameter when it is none."""
    name = name.removeprefix("/")
    if not _NAME.match(name):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name


def made_up_name(taken: Callable[[str], bool]) -> str:
    """Return a readable name that is free."""
    for _ in range(20):
        name = f"{random.choice(_LEFT)}_{random.choice(_RIGHT)}"
        if not taken(name):
            return name
    return f"{name}_{secrets.token_hex(4)}"
