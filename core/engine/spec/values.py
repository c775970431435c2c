"""Addresses and names in one normal form, so that two equal things are equal values.

The kernel answers in its own spelling (`fd00::1`, lower-case MACs, masked prefixes); a plan that spelt the same thing
otherwise would differ from it for ever. Every value is therefore normalised when a model is built.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
IFNAMSIZ = 16
"""Bytes of an interface name with its final NUL (linux/if.h)."""


class Frozen(BaseModel):
    """Base of every value that crosses the contract: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def family_of(address: str) -> int:
    """Return 4 or 6 for an address, with or without a prefix length."""
    return 6 if ":" in address else 4


def bits_of(address: str) -> int:
    """Return the length in bits of the address's family: 32 or 128."""
    return 128 if ":" in address else 32


def pack(address: str) -> bytes:
    """Return an address (without prefix length) in network byte order; ValueError if it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, UnicodeError) as err:
        raise ValueError(f"{address!r} is not an IP address") from err


def unpack(packed: bytes) -> str:
    """Return the text of an address of 4 or 16 bytes."""
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def contains(prefix: str, address: str) -> bool:
    """Return whether an address is in a prefix; both may have host bits or a prefix length of their own."""
    network, length = _split(prefix)
    packed = pack(address.partition("/")[0])
    shift = len(network) * 8 - length
    same = int.from_bytes(network, "big") >> shift == int.from_bytes(packed, "big") >> shift
    return len(packed) == len(network) and same


def _split(value: str) -> tuple[bytes, int]:
    address, slash, length = value.partition("/")
    packed = pack(address)
    if not slash or not length.isdecimal() or int(length) > len(packed) * 8:
        raise ValueError(f"{value!r} needs a prefix length, for example {address}/{24 if len(packed) == 4 else 64}")
    return packed, int(length)


def _ip(value: str) -> str:
    return unpack(pack(value))


def _interface(value: str) -> str:
    packed, length = _split(value)
    return f"{unpack(packed)}/{length}"


def _prefix(value: str) -> str:
    packed, length = _split(value)
    width = len(packed) * 8
    masked = int.from_bytes(packed, "big") >> (width - length) << (width - length)
    return f"{unpack(masked.to_bytes(len(packed), 'big'))}/{length}"


def _mac(value: str) -> str:
    text = value.lower().replace("-", ":")
    if not _MAC.match(text):
        raise ValueError(f"{value!r} is not a MAC address, for example 02:42:0a:00:00:02")
    return text


def _ifname(value: str) -> str:
    encoded = value.encode()
    if not 0 < len(encoded) < IFNAMSIZ:
        raise ValueError(f"{value!r}: an interface name has 1 to {IFNAMSIZ - 1} bytes")
    if value in (".", "..") or any(c.isspace() or c in "/:" for c in value):
        raise ValueError(f"{value!r}: an interface name has no space, slash or colon")
    return value


IpAddress = Annotated[str, AfterValidator(_ip)]
"""`10.0.0.2` or `fd00::2`."""
InterfaceAddress = Annotated[str, AfterValidator(_interface)]
"""An address with the length of its prefix: `10.0.0.2/24`."""
Prefix = Annotated[str, AfterValidator(_prefix)]
"""A network prefix, host bits cleared: `10.0.0.0/24`."""
Mac = Annotated[str, AfterValidator(_mac)]
"""`02:42:0a:00:00:02`, lower case."""
IfName = Annotated[str, AfterValidator(_ifname)]
"""The name of a network interface (dev_valid_name in the kernel's net/core/dev.c)."""
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", max_length=128)]
"""A name that a person gives to a network or a volume."""


_RATE_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}


def bits_per_second(value: object) -> object:
    """Return a rate that is written as tc(8) does (`10mbit`, `1.5gbit`) as bits a second; ValueError if it is none."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    if found is None or found[2] not in _RATE_UNITS:
        units = ", ".join(unit for unit in _RATE_UNITS if unit)
        raise ValueError(f"{value!r} is no rate: expected a number and one of {units}, in bits a second")
    return round(float(found[1]) * _RATE_UNITS[found[2]])


Rate = Annotated[int, BeforeValidator(bits_per_second), Field(ge=8_000, le=10**13)]
"""Bits a second; also read from `10mbit`."""


def normal_prefix(value: str) -> str:
    """Return a prefix in normal form; ValueError if it is none."""
    return _prefix(value)


def normal_ip(value: str) -> str:
    """Return an address in normal form; ValueError if it is none."""
    return _ip(value)


def normal_mac(value: str) -> str:
    """Return a MAC address in normal form; ValueError if it is none."""
    return _mac(value)
