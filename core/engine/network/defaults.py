"""The operator's default address pools: docker's option, in docker's words."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from engine.network.unusable import check_reserved, overlap
from engine.spec.errors import InvalidParameter
from engine.spec.ipam import AddressPool

FLAG = "--default-address-pool"


def parse_pools(texts: Sequence[str]) -> tuple[AddressPool, ...]:
    """Read pools, each written `base=PREFIX,size=LENGTH`. Raises InvalidParameter that names what is wrong with one."""
    pools: list[AddressPool] = []
    for text in texts:
        pool = _parse(text)
        check_reserved(pool.base)
        for other in pools:
            if overlap(pool.base, other.base):
                raise InvalidParameter(f"{FLAG} {text}: it overlaps {other.base}", hint="Give pools that are apart")
        pools.append(pool)
    return tuple(pools)


def _parse(text: str) -> AddressPool:
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    if set(fields) != {"base", "size"} or not fields["size"].isdecimal():
        raise InvalidParameter(f"{FLAG} {text}: malformed", hint="Write for example base=10.10.0.0/16,size=24")
    try:
        return AddressPool(base=fields["base"], size=int(fields["size"]))
    except ValidationError as err:
        raise InvalidParameter(f"{FLAG} {text}: malformed", why=err.errors()[0]["msg"]) from err
