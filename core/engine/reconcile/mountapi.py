"""The kernel's mount system calls, by ctypes.

Sources: mount(2), umount(2), statx(2), and the descriptions of fsopen, fsconfig, fsmount, open_tree,
move_mount and mount_setattr in linux/mount.h. Numbers of new system calls are the same on every architecture. Needs
Linux 5.12.

A *detached* mount is a file descriptor: it is seen nowhere until `attach`, and goes away when it is closed before that.
Every function raises OSError; where the kernel wrote a message into the file system context, the error carries it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from engine.opening import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_libc = ctypes.CDLL(None, use_errno=True)

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _AT_RECURSIVE, _AT_STATX_DONT_SYNC = 0x100, 0x1000, 0x8000, 0x4000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_UMOUNT_NOFOLLOW = 8
_STATX_INO, _STATX_MNT_ID, _STATX_ATTR_MOUNT_ROOT = 0x100, 0x1000, 0x2000

MAX_PARAMETER = 255
"""Bytes of one parameter's value that fsconfig(2) takes."""
MS_PRIVATE = 1 << 18

ATTRIBUTES = {
    "ro": 0x01, "nosuid": 0x02, "nodev": 0x04, "noexec": 0x08, "noatime": 0x10, "nodiratime": 0x80, "relatime": 0,
}  # fmt: skip
"""Options of one mount -> MOUNT_ATTR_* (linux/mount.h)."""
FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024, "nodiratime": 2048,
    "relatime": 1 << 21,
}  # fmt: skip
"""Options -> MS_* of mount(2)."""
SUPERBLOCK = frozenset({"sync", "dirsync"})
"""Options that belong to the file system and not to one mount of it."""


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64), ("userns_fd", ctypes.c_uint64),
    )  # fmt: skip


class Identity(NamedTuple):
    """What a path is, without asking a server: `mount_root` if something is mounted right there."""

    device: int
    inode: int
    mount: int
    mount_root: bool


def _syscall(number: int, *arguments: object, what: str) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _int(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


def attributes_of(options: Iterable[str]) -> int:
    """Return the MOUNT_ATTR_* bits of mount options."""
    bits = 0
    for option in options:
        bits |= ATTRIBUTES.get(option, 0)
    return bits


def flags_of(options: Iterable[str]) -> int:
    """Return the MS_* bits of mount options."""
    bits = 0
    for option in options:
        bits |= FLAGS[option]
    return bits


def filesystem(fstype: str, parameters: Iterable[tuple[str, str | None]], options: Iterable[str] = ()) -> int:
    """Return a new, detached mount of a file system; a parameter without a value is a flag."""
    wanted = tuple(options)
    context = _syscall(_FSOPEN, fstype.encode(), _int(_CLOEXEC), what=fstype)
    try:
        for name, value in (*parameters, *((o, None) for o in wanted if o in SUPERBLOCK)):
            text = None if value is None else os.fsencode(value)
            _fsconfig(context, _SET_FLAG if text is None else _SET_STRING, name.encode(), text)
        _fsconfig(context, _CMD_CREATE, None, None)
        return _syscall(_FSMOUNT, _int(context), _int(_CLOEXEC), _int(attributes_of(wanted)), what=fstype)
    except OSError as err:
        raise OSError(err.errno, _messages(context) or err.strerror, err.filename) from err
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, name: bytes | None, value: bytes | None) -> None:
    what = b"=".join(part for part in (name, value) if part is not None).decode(errors="replace")
    _syscall(_FSCONFIG, _int(context), _int(command), name, value, _int(0), what=what)


def _messages(context: int) -> str:
    """Return the kernel's messages of a file system context: lines `e text`, one for each read(2)."""
    found: list[str] = []
    while True:
        try:
            line = os.read(context, 4096)
        except OSError:  # ENODATA: that was all
            return "; ".join(found)
        found.append(line.decode(errors="replace").strip().partition(" ")[2])


def clone(source: int, *, recursive: bool) -> int:
    """Return a detached mount that shows what the descriptor `source` is; with the mounts below it if recursive."""
    flags = _AT_EMPTY_PATH | _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _syscall(_OPEN_TREE, _int(source), b"", _int(flags), what="open_tree")


def attach(mount: int, target: int) -> None:
    """Make a detached mount visible on the descriptor `target` (O_PATH)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _syscall(_MOVE_MOUNT, _int(mount), b"", _int(target), b"", _int(flags), what="move_mount")


def set_attributes(
    mount: int,
    options: Iterable[str] = (),
    *,
    clear: Iterable[str] = (),
    private: bool = False,
    recursive: bool = False,
) -> None:
    """Set and clear options of the mount that a descriptor is in; `private`: no events to or from other namespaces."""
    wanted = _MountAttr(attributes_of(options), attributes_of(clear), MS_PRIVATE if private else 0, 0)
    if wanted.attr_set & ATTRIBUTES["noatime"]:
        wanted.attr_clr |= 0x70  # MOUNT_ATTR__ATIME is one field of three bits: it has to be cleared to be set
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    size = _int(ctypes.sizeof(wanted))
    _syscall(_MOUNT_SETATTR, _int(mount), b"", _int(flags), ctypes.byref(wanted), size, what="mount_setattr")


def mount(source: str, target: int, fstype: str, flags: int, data: str) -> None:
    """Call mount(2): what file systems with options of their own (nfs, cifs) and kernels before 6.7 (overlay) need."""
    path = f"/proc/self/fd/{target}".encode()
    if _libc.mount(os.fsencode(source), path, fstype.encode(), ctypes.c_ulong(flags), os.fsencode(data) or None) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source)


def unmount(path: str) -> None:
    """Call umount2(2), never lazily."""
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def identify(path: int | str) -> Identity:
    """Return what a path or descriptor is. Network file systems answer from their cache: a dead server hangs nobody."""
    buffer = (ctypes.c_char * 256)()
    directory, name, flags = (path, b"", _AT_EMPTY_PATH) if isinstance(path, int) else (_AT_FDCWD, os.fsencode(path), 0)
    flags |= _AT_STATX_DONT_SYNC
    if _libc.statx(directory, name, flags, _STATX_INO | _STATX_MNT_ID, ctypes.byref(buffer)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    raw = bytes(buffer)
    number = int.from_bytes

    def field(offset: int, size: int) -> int:
        return number(raw[offset : offset + size], "little" if _LITTLE else "big")

    device = os.makedev(field(136, 4), field(140, 4))
    return Identity(device, field(32, 8), field(144, 8), bool(field(8, 8) & _STATX_ATTR_MOUNT_ROOT))


_LITTLE = sys.byteorder == "little"


def kernel_version() -> tuple[int, int]:
    """Return the running kernel's major and minor version."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def open_below(root: str, relative: str, *, make: str = "") -> int:
    """Open `relative` below `root` (O_PATH), never through a symbolic link.

    `make`: make what is missing, as a "directory" or a "file". Raises FileNotFoundError, NotADirectoryError, and
    OSError with ELOOP where a link is in the way.
    """
    if make:
        Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_or_make(directory, relative, make)
    finally:
        os.close(directory)


def _open_or_make(directory: int, relative: str, make: str) -> int:
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(directory, relative, os.O_PATH, resolve)
    except OSError as err:
        if err.errno != errno.ENOENT or not make:
            raise
    parent, _, name = relative.rpartition("/")
    above = _open_or_make(directory, parent, "directory")
    try:
        try:
            if make == "directory":
                os.mkdir(name, 0o700, dir_fd=above)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=above))
        except FileExistsError:
            pass  # somebody was faster
        return openat2(above, name, os.O_PATH, resolve)
    finally:
        os.close(above)
