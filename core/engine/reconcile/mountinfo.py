"""What is mounted, and who holds it: /proc/*/mountinfo (proc(5)) and /proc/*/fdinfo."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo. `options` belong to the mount, `super_options` to the file system."""

    id: int
    parent: int
    device: int
    root: str
    target: str
    options: frozenset[str]
    shared: bool
    fstype: str
    source: str
    super_options: tuple[str, ...]


def _plain(text: str) -> str:
    """Undo the escapes of space, tab, newline, backslash and `#`."""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 8)), text) if "\\" in text else text


def parse_line(line: str) -> Mounted:
    """Read one line of mountinfo."""
    head, _, tail = line.rstrip("\n").partition(" - ")
    number, parent, device, root, target, options, *tags = head.split(" ")
    fstype, source, super_options = [*tail.split(" "), "", ""][:3]
    major, minor = device.split(":")
    return Mounted(
        id=int(number),
        parent=int(parent),
        device=os.makedev(int(major), int(minor)),
        root=_plain(root),
        target=_plain(target),
        options=frozenset(options.split(",")),
        shared=any(tag.startswith("shared:") for tag in tags),
        fstype=fstype,
        source=_plain(source),
        super_options=tuple(_plain(option) for option in super_options.split(",")),
    )


def read(pid: str = "self") -> list[Mounted]:
    """Return the mounts that a process sees, in the order in which they were made."""
    with Path(f"/proc/{pid}/mountinfo").open(errors="surrogateescape") as file:
        return [parse_line(line) for line in file]


def is_below(path: str, root: str) -> bool:
    """Tell whether a path is strictly below another one (both normalised)."""
    return path.startswith(root.rstrip("/") + "/") and path != root


def below(root: str) -> list[Mounted]:
    """Return the mounts strictly below a directory, in the order in which they were made."""
    return [m for m in read() if is_below(m.target, root)]


def holders(mounted: Mounted) -> list[str]:
    """Return who keeps a mount busy: processes with a file or directory of it, and other mount namespaces that show it.

    Each entry is `pid (command)`; a process that ends while it is looked at is left out.
    """
    own = Path("/proc/self/ns/mnt").stat().st_ino
    found: list[str] = []
    seen = {own}
    for pid in sorted((p.name for p in Path("/proc").iterdir() if p.name.isdecimal()), key=int):
        try:
            namespace = Path(f"/proc/{pid}/ns/mnt").stat().st_ino
            if namespace not in seen:
                seen.add(namespace)
                if any(m.device == mounted.device and m.root == mounted.root for m in read(pid)):
                    found.append(f"{pid} ({_command(pid)}, in another mount namespace)")
                    continue
            if any(number == mounted.id for number in _mount_ids(pid)):
                found.append(f"{pid} ({_command(pid)})")
        except OSError:
            continue
    return found


def _command(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _mount_ids(pid: str) -> Iterator[int]:
    """Yield the ids of the mounts in which a process has its directories and open files."""
    for name in ("cwd", "root", "exe"):
        try:
            descriptor = os.open(f"/proc/{pid}/{name}", os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:  # a kernel thread has none
            continue
        try:
            yield _mount_id(f"/proc/self/fdinfo/{descriptor}")
        finally:
            os.close(descriptor)
    for entry in os.scandir(f"/proc/{pid}/fdinfo"):
        try:
            yield _mount_id(entry.path)
        except FileNotFoundError:
            continue


def _mount_id(fdinfo: str) -> int:
    for line in Path(fdinfo).read_text().splitlines():
        if line.startswith("mnt_id:"):
            return int(line[7:])
    return -1
