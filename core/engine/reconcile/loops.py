"""Loop devices: an image file is attached at most once, and the kernel detaches it when its last user is gone.

Source: loop(4) and linux/loop.h. An image that is attached is found by its inode, never by its path: a second loop
device on one image mounts without complaint and gives two superblocks on the same blocks, which destroys the content.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_INFO = struct.Struct("=5Q4I64s64s32s2Q")  # struct loop_info64
_CONFIG_HEAD = struct.Struct("=II")  # fd, block_size of struct loop_config; loop_info64 and 8 reserved words follow
_ATTEMPTS = 32


class Attached(NamedTuple):
    """A loop device and the file behind it, which may be deleted already."""

    device: str
    backing_device: int
    backing_inode: int


def attached() -> Iterator[Attached]:
    """Yield all loop devices that have a file."""
    for entry in Path("/sys/block").glob("loop*/loop"):
        device = f"/dev/{entry.parent.name}"
        found = status(device)
        if found is not None:
            yield found


def status(device: str) -> Attached | None:
    """Return what is behind a loop device; None if it is free or gone."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENXIO):
            return None
        raise
    try:
        return _status(descriptor, device)
    finally:
        os.close(descriptor)


def _status(descriptor: int, device: str) -> Attached | None:
    try:
        info = _INFO.unpack(fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_INFO.size)))
    except OSError as err:
        if err.errno == errno.ENXIO:
            return None
        raise
    return Attached(device, _device(info[0]), info[1])


def _device(encoded: int) -> int:
    """Decode the kernel's huge_encode_dev (linux/kdev_t.h)."""
    return os.makedev((encoded & 0xFFF00) >> 8, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00))


def attach(image: int) -> tuple[str, int]:
    """Attach an image (an open descriptor), or find where it is attached already.

    Return the device's path and a descriptor that keeps it: close it when the file system is mounted.
    """
    wanted = os.fstat(image)
    for found in attached():
        if (found.backing_device, found.backing_inode) == (wanted.st_dev, wanted.st_ino):
            descriptor = os.open(found.device, os.O_RDWR | os.O_CLOEXEC)
            if _status(descriptor, found.device) == found:
                return found.device, descriptor
            os.close(descriptor)  # it was just let go
    return _attach_new(image)


def _attach_new(image: int) -> tuple[str, int]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                name = os.fsencode(Path(f"/proc/self/fd/{image}").readlink())[:63]
                info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR | _DIRECT_IO, name, b"", b"", 0, 0)
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, _CONFIG_HEAD.pack(image, 0) + info + bytes(64))
                return device, descriptor
            except OSError as err:
                os.close(descriptor)
                if err.errno != errno.EBUSY:  # somebody else took it between the two calls
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every loop device that was free was taken by somebody else", "/dev/loop-control")
