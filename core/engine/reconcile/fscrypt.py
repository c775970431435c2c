"""The kernel's encryption of directories, by ioctl. Source: Documentation/filesystems/fscrypt.rst, linux/fscrypt.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

_ADD_KEY, _REMOVE_KEY, _KEY_STATUS = 0xC0506617, 0xC0406618, 0xC080661A
_SET_POLICY, _GET_POLICY = 0x800C6613, 0xC0096616
_SPECIFIER = struct.Struct("=II16s16x")  # struct fscrypt_key_specifier: type, reserved, identifier
_BY_IDENTIFIER = 2
_POLICY = struct.Struct("=BBBBB3x16s")  # struct fscrypt_policy_v2
_AES_256_XTS, _AES_256_CTS, _PAD_32 = 1, 4, 3
_PRESENT = 2
_FILES_BUSY = 1
IDENTIFIER = 16
"""Bytes of what the kernel calls a key."""


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def supported(directory: int) -> bool:
    """Tell whether the file system of a directory can encrypt: ext4 and f2fs made with the feature `encrypt`."""
    try:
        policy_of(directory)
    except OSError as err:
        if err.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def best_method(root: Path) -> Literal["fscrypt", "image", "gocryptfs"]:
    """Return the first way to encrypt that this host has for directories below `root`. Raises OSError."""
    with opened(str(root)) as directory:
        if supported(directory):
            return "fscrypt"
    return "image" if Path("/sys/fs/ext4/features/encryption").exists() else "gocryptfs"


def add_key(directory: int, key: bytes) -> bytes:
    """Give the file system of a directory a key, and return what the kernel calls it. Raises OSError."""
    argument = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, b"") + struct.pack("=II32x", len(key), 0) + key)
    try:
        fcntl.ioctl(directory, _ADD_KEY, argument, True)
        return bytes(argument[8 : 8 + IDENTIFIER])
    finally:
        argument[:] = bytes(len(argument))


def has_key(directory: int, identifier: bytes) -> bool:
    """Tell whether the file system of a directory has a key. Raises OSError."""
    argument = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier) + bytes(24 + 64))
    fcntl.ioctl(directory, _KEY_STATUS, argument, True)
    return int.from_bytes(argument[64:68], "little") == _PRESENT


def remove_key(directory: int, identifier: bytes) -> bool:
    """Take a key from the file system of a directory; False while files that it opened are still in use.

    One that is not there is no error. Raises OSError.
    """
    argument = bytearray(_SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier) + bytes(4 + 20))
    try:
        fcntl.ioctl(directory, _REMOVE_KEY, argument, True)
    except OSError as err:
        if err.errno == errno.ENOKEY:
            return True
        raise
    return not int.from_bytes(argument[40:44], "little") & _FILES_BUSY


def set_policy(directory: int, identifier: bytes) -> None:
    """Let an empty directory be encrypted under a key, content by AES-256-XTS and names by AES-256-CTS. OSError."""
    fcntl.ioctl(directory, _SET_POLICY, _POLICY.pack(2, _AES_256_XTS, _AES_256_CTS, _PAD_32, 0, identifier))


def policy_of(directory: int) -> bytes | None:
    """Return what the key of a directory is called; None if it is not encrypted. Raises OSError.

    It needs no key. A policy of version 1, which this engine never makes, counts as none of ours: b"".
    """
    argument = bytearray(struct.pack("=Q", _POLICY.size) + bytes(_POLICY.size))
    try:
        fcntl.ioctl(directory, _GET_POLICY, argument, True)
    except OSError as err:
        if err.errno == errno.ENODATA:
            return None
        raise
    version, *_, identifier = _POLICY.unpack(argument[8:])
    return bytes(identifier) if version == 2 else b""
