"""Key-value flags: environment, labels, options, hosts, ulimits, devices, security options."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.cli.errors import BadValue, Failure, did_you_mean

ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


def _lines(flag: str, path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        cause = err.strerror if isinstance(err, OSError) else "not UTF-8"
        raise BadValue(flag, path, str(cause)) from err
    return [line.lstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def environment(texts: Iterable[str], files: Iterable[str], ours: Mapping[str, str]) -> list[str]:
    """Parse `-e` and `--env-file`: `NAME=value`, or `NAME` to take it from our environment (dropped if unset)."""
    found: dict[str, str] = {}
    given = [("--env-file", line) for path in files for line in _lines("--env-file", path)]
    for flag, text in [*given, *(("-e", text) for text in texts)]:
        name, equals, value = text.partition("=")
        if not name or (flag == "--env-file" and re.search(r"\s", name)):
            raise BadValue(flag, text, "expected NAME=value, the name must not be empty or have spaces")
        if equals:
            found[name] = value
        elif name in ours:
            found[name] = ours[name]
        else:
            found.pop(name, None)
    return [f"{name}={value}" for name, value in found.items()]


def labels(texts: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
    """Parse `--label` and `--label-file`: `key=value` or `key`. Raises BadValue."""
    found = {}
    given = [("--label-file", line) for path in files for line in _lines("--label-file", path)]
    for flag, text in [*given, *(("--label", text) for text in texts)]:
        name, _, value = text.partition("=")
        if not name:
            raise BadValue(flag, text, "expected key=value, the key is empty")
        found[name] = value
    return found


def options(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """Parse `-o`/`--opt`/`--net-opt`/`--sysctl key=value`. Raises BadValue; a key that comes twice is refused."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadValue(flag, text, "expected key=value")
        if name in found:
            raise BadValue(flag, text, f"{name!r} is given twice")
        found[name] = value
    return found


def host_entry(flag: str, text: str) -> str:
    """Check `--add-host name:ip` (also name=ip; ip may be host-gateway). Raises BadValue."""
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    if not found or not name or not address:
        raise BadValue(flag, text, "expected name:ip")
    if address != "host-gateway":
        address = ip_address(flag, address.strip("[]"), text)
    return f"{name}:{address}"


def ip_address(flag: str, text: str, whole: str | None = None, version: int | None = None) -> str:
    """Check an IP address. Raises BadValue."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadValue(flag, whole or text, f"{text!r} is no IP address") from None
    if version and address.version != version:
        raise BadValue(flag, whole or text, f"expected an IPv{version} address")
    return str(address)


def mac_address(flag: str, text: str) -> str:
    """Check a MAC address: `02:42:ac:11:00:02`. Raises BadValue."""
    if not _MAC.fullmatch(text):
        raise BadValue(flag, text, "expected six pairs of hexadecimal digits, e.g. 02:42:ac:11:00:02")
    if int(text[:2], 16) & 1:
        raise BadValue(flag, text, "that is a multicast address; the second digit must be even")
    return text.lower()


def ulimit(flag: str, text: str) -> dict[str, Any]:
    """Parse `name=soft[:hard]`. Raises BadValue."""
    name, equals, limits = text.partition("=")
    if name not in ULIMITS:
        raise BadValue(flag, text, f"unknown limit {name!r}{did_you_mean(name, ULIMITS)}")
    soft, colon, hard = limits.partition(":")
    try:
        low, high = int(soft), int(hard if colon else soft)
    except ValueError:
        raise BadValue(flag, text, "expected name=soft[:hard] with whole numbers, -1 for unlimited") from None
    if not equals or (high != -1 and (low > high or low == -1)):
        raise BadValue(flag, text, "the soft limit must not be above the hard one")
    return {"Name": name, "Soft": low, "Hard": high}


def device(flag: str, text: str) -> dict[str, str]:
    """Parse `/dev/host[:/dev/container][:rwm]`. Raises BadValue."""
    parts = text.split(":")
    permissions = parts.pop() if len(parts) > 1 and re.fullmatch(r"[rwm]+", parts[-1]) else "rwm"
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise BadValue(flag, text, "expected /dev/HOST[:/dev/CONTAINER][:rwm]")
    return {"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": permissions}


def security_option(flag: str, text: str) -> str:
    """Check `--security-opt`; a file with a seccomp profile is read and sent as its JSON. Raises BadValue."""
    name, equals, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
    if name == "no-new-privileges":
        return text
    if not equals:
        raise BadValue(
            flag, text, "expected seccomp=FILE, seccomp=unconfined, apparmor=…, label=… or no-new-privileges"
        )
    if name == "seccomp" and value not in ("unconfined", "builtin"):
        try:
            return "seccomp=" + json.dumps(json.loads(Path(value).read_text(encoding="utf-8")))
        except (OSError, ValueError) as err:
            raise BadValue(flag, text, f"cannot read the profile: {err}") from err
    return f"{name}={value}"


def restart_policy(flag: str, text: str) -> dict[str, Any]:
    """Parse `no`, `always`, `unless-stopped`, `on-failure[:retries]`. Raises BadValue."""
    name, colon, count = text.partition(":")
    known = ("no", "always", "unless-stopped", "on-failure")
    if name not in known:
        raise BadValue(
            flag, text, f"unknown policy{did_you_mean(name, known)}; use no, on-failure[:N], always or unless-stopped"
        )
    if colon and (name != "on-failure" or not count.isdecimal()):
        raise BadValue(flag, text, "only on-failure has a maximum number of retries: on-failure:5")
    return {"Name": name, "MaximumRetryCount": int(count) if colon else 0}


def filters(texts: Iterable[str]) -> dict[str, list[str]] | None:
    """Parse `--filter key=value` to the API's filters; None if there are none. Raises BadValue."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadValue("--filter", text, "expected key=value")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found or None


def signal_name(flag: str, text: str) -> str:
    """Check a signal: a name with or without SIG, or a number. Raises BadValue."""
    import signal

    bare = text.upper().removeprefix("SIG")
    known = {s.name.removeprefix("SIG") for s in signal.Signals} | {"RTMIN", "RTMAX"}
    if text.isdecimal() and 0 <= int(text) <= 64:
        return text
    if bare in known or re.fullmatch(r"RTM(IN\+|AX-)\d+", bare):
        return "SIG" + bare
    raise BadValue(flag, text, f"no such signal{did_you_mean(bare, known)}")


def require_file(flag: str, path: str) -> None:
    """Raise Failure unless a new file can be made at the path."""
    if Path(path).exists():
        raise Failure(f"the file of {flag}, {path}, exists already; remove it or choose another", 125)
