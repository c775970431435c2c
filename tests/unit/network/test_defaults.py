"""Default address pools as they are written on a command line."""

from __future__ import annotations

import pytest

from engine.network.defaults import parse_pools
from engine.spec.errors import InvalidParameter
from engine.spec.ipam import AddressPool


def test_pools() -> None:
    assert parse_pools(["base=10.10.0.0/16,size=24", "size=64,base=fd00:1::/48"]) == (
        AddressPool(base="10.10.0.0/16", size=24), AddressPool(base="fd00:1::/48", size=64),
    )  # fmt: skip
    assert parse_pools([]) == ()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["10.0.0.0/8"], "Write for example"),
        (["base=10.0.0.0/8"], "Write for example"),
        (["base=10.0.0.0/8,size=x"], "Write for example"),
        (["base=10.0.0.0/8,size=24,more=1"], "Write for example"),
        (["base=10.0.0,size=24"], "malformed"),
        (["base=10.0.0.0/16,size=8"], "from 16 to 30, not 8"),
        (["base=fd00::/64,size=127"], "from 64 to 126, not 127"),
        (["base=224.0.0.0/8,size=24"], "is multicast"),
        (["base=10.0.0.0/8,size=24", "base=10.5.0.0/16,size=24"], "overlaps 10.0.0.0/8"),
    ],
)
def test_what_is_no_pool(texts: list[str], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        parse_pools(texts)
