"""What a file has beside its content: mode, owner, time, extended attributes; a link's target.

In the store they are kept in sidecars (`engine.tree.sidecar`), as JSON that a person can read.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import stat as modes
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from engine.spec.errors import InvalidParameter
from engine.tree.beneath import name_in

Kind = Literal["file", "directory", "symlink"]
"""What a tree holds. Devices, sockets and FIFOs stay local: no store has such things."""
DEFAULT_FILE_MODE = 0o644
DEFAULT_DIRECTORY_MODE = 0o755
_XATTRS = ("user.", "security.capability", "system.posix_acl_access", "system.posix_acl_default")
"""Extended attributes that travel. Others belong to the host (labels of SELinux, IMA) or to the engine (`trusted.`)."""
_BASE64 = "base64:"
_O_PATH = 0o10000000  # open(2)
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each file


class Attributes(NamedTuple):
    """Everything about a file that is not its content."""

    kind: Kind = "file"
    mode: int = DEFAULT_FILE_MODE
    """Permissions with setuid, setgid and sticky."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    """Nanoseconds since the epoch."""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Sorted by name."""
    target: str = ""
    """Of a symbolic link: what it says; bytes that are not UTF-8 as surrogates (os.fsdecode)."""
    link: str = ""
    """Another path of the tree that is the same file (hard link); empty for a file's first name."""

    def json(self) -> dict[str, Any]:
        """Return them as a JSON object, without what has its usual value."""
        found: dict[str, Any] = {} if self.kind == "file" else {"type": self.kind}
        if self.kind != "symlink":
            found["mode"] = f"{self.mode:04o}"
        found |= {"uid": self.uid, "gid": self.gid, "mtime": _seconds(self.mtime_ns)}
        if self.xattrs:
            found["xattrs"] = {name: _text(value) for name, value in self.xattrs}
        if self.target:
            found["target"] = _text(os.fsencode(self.target))
        if self.link:
            found["hardlink"] = self.link
        return found

    def text(self) -> str:
        """Return that object as a text."""
        return _encode(self.json())

    @classmethod
    def parse(cls, found: object) -> Attributes:
        """Return what a JSON object says. Raises InvalidParameter if it says nothing sensible."""
        try:
            if not isinstance(found, Mapping):
                raise TypeError("it is no object")
            kind = found.get("type", "file")
            if kind not in ("file", "directory", "symlink"):
                raise ValueError(f"the type {kind!r} is not known")
            usual = {"file": DEFAULT_FILE_MODE, "directory": DEFAULT_DIRECTORY_MODE, "symlink": 0o777}[kind]
            mode = int(found["mode"], 8) if "mode" in found else usual
            uid, gid = int(found.get("uid", 0)), int(found.get("gid", 0))
            if not (0 <= mode <= 0o7777 and 0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
                raise ValueError("the mode or an owner is out of range")
            target = os.fsdecode(_bytes(found.get("target", "")))
            if kind == "symlink" and (not target or "\0" in target):
                raise ValueError("a symbolic link has no target")
            xattrs = tuple(sorted((str(n), _bytes(v)) for n, v in dict(found.get("xattrs", {})).items() if _travels(n)))
            link = str(found.get("hardlink", ""))
            return cls(kind, mode, uid, gid, _nanoseconds(str(found.get("mtime", "0"))), xattrs, target, link)
        except (KeyError, ValueError, TypeError) as err:
            raise InvalidParameter("attributes of a file cannot be understood", why=str(err)) from err


def kind_of(mode: int) -> Kind | None:
    """Return what a tree calls a file of this `st_mode`; None for what it cannot hold."""
    if modes.S_ISREG(mode):
        return "file"
    if modes.S_ISDIR(mode):
        return "directory"
    return "symlink" if modes.S_ISLNK(mode) else None


def read(path: str, facts: os.stat_result, kind: Kind) -> Attributes:
    """Return the attributes of a local file; `facts` are of lstat(2). Raises OSError."""
    return Attributes(
        kind=kind,
        mode=0o777 if kind == "symlink" else modes.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime_ns=facts.st_mtime_ns,
        xattrs=read_xattrs(path),
        target=os.readlink(path) if kind == "symlink" else "",
    )


def read_xattrs(path: str | int) -> tuple[tuple[str, bytes], ...]:
    """Return those extended attributes that travel, sorted. A file system without them has none."""
    follow = isinstance(path, int)
    try:
        names = [n for n in os.listxattr(path, follow_symlinks=follow) if _travels(n)]
    except OSError as err:
        if err.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise
    found = []
    for name in sorted(names):
        try:
            found.append((name, os.getxattr(path, name, follow_symlinks=follow)))
        except OSError as err:
            if err.errno != errno.ENODATA:  # removed since it was listed
                raise
    return tuple(found)


def apply(directory: int, name: str, wanted: Attributes) -> list[str]:
    """Give a local file its attributes, and return what the file system refused, in words.

    `name` is in the directory of that descriptor and is not followed. Owners and extended attributes may be refused
    (other file systems, missing capabilities); that is said, not hidden. Raises OSError if the file cannot be changed.
    """
    refused = _apply_xattrs(name_in(directory, name), wanted)
    if why := give(directory, name, wanted.uid, wanted.gid, wanted.mode):
        refused.insert(0, why)
    os.utime(name, ns=(wanted.mtime_ns, wanted.mtime_ns), dir_fd=directory, follow_symlinks=False)
    return refused


def apply_to(fd: int, wanted: Attributes) -> list[str]:
    """Give an open file, which nobody else has yet, its attributes; otherwise as `apply`."""
    refused = _apply_xattrs(fd, wanted)
    facts = os.fstat(fd)
    if (facts.st_uid, facts.st_gid) != (wanted.uid, wanted.gid):
        try:
            os.chown(fd, wanted.uid, wanted.gid)
        except PermissionError as err:
            refused.insert(0, f"owner {wanted.uid}:{wanted.gid}: {err.strerror}")
    os.chmod(fd, wanted.mode)  # after chown(2), which takes setuid away
    os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))
    return refused


def give(directory: int, name: str, uid: int, gid: int, mode: int) -> str:
    """Change owner and mode of a local file; return why the owner was refused, "" if it was not. As of `apply`."""
    refused = ""
    try:
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    except PermissionError as err:
        refused = f"owner {uid}:{gid}: {err.strerror}"
    _chmod(directory, name, mode)  # after chown(2), which takes setuid away
    return refused


def _chmod(directory: int, name: str, mode: int) -> None:
    """Change a mode without following a link: chmod(2) cannot say so, but a descriptor without access can."""
    fd = os.open(name, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not modes.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _apply_xattrs(path: str | int, wanted: Attributes) -> list[str]:
    refused = []
    follow = isinstance(path, int)
    now = dict(read_xattrs(path))
    for name, value in wanted.xattrs:
        if now.pop(name, None) == value:
            continue
        try:
            os.setxattr(path, name, value, follow_symlinks=follow)
        except OSError as err:
            refused.append(f"{name}: {err.strerror}")
    for name in now:
        os.removexattr(path, name, follow_symlinks=follow)
    return refused


def _travels(name: object) -> bool:
    return isinstance(name, str) and name.startswith(_XATTRS)


def _seconds(nanoseconds: int) -> str:
    sign, whole = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    return f"{sign}{whole // 10**9}.{whole % 10**9:09}"


def _nanoseconds(seconds: str) -> int:
    whole, _, part = seconds.lstrip("-").partition(".")
    value = int(whole or "0") * 10**9 + int((part + "0" * 9)[:9])
    if value >= 1 << 63:
        raise ValueError(f"{seconds} is no time")
    return -value if seconds.startswith("-") else value


def _text(value: bytes) -> str:
    """Return bytes as a text that a person can read where there is one."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if (text.isprintable() or not value) and not text.startswith(_BASE64) and (text or not value):
        return text
    return _BASE64 + base64.b64encode(value).decode()


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return base64.b64decode(text[len(_BASE64) :], validate=True) if text.startswith(_BASE64) else text.encode()
