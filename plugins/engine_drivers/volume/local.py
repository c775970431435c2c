"""Volumes on this host: a directory, an image of fixed size, or whatever the kernel can mount.

Options are those of docker's local driver (`type`, `o`, `device` go to mount(2)), and beside them `size` for a hard
limit, and owner and mode of a new volume.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from typing import Literal, cast, get_args

from engine_drivers.volume.sizes import parse_size
from engine_sdk import (
    Bind,
    Directory,
    Field,
    Image,
    ImageMount,
    InvalidParameter,
    Mount,
    MountOption,
    Plan,
    Resource,
    Tmpfs,
    Volume,
    VolumeDriver,
    VolumeOptions,
    VolumePlan,
    field_validator,
)

_SMALLEST = {"ext4": 16 << 20, "xfs": 300 << 20, "btrfs": 109 << 20}
"""Bytes that mkfs.xfs (since 5.19) and mkfs.btrfs want at least."""
_FLAGS = frozenset(get_args(MountOption))
_IGNORED = frozenset({"rw", "defaults", "async", "exec"})
_FIXED = frozenset({"suid", "dev"})
_OWNER = ("uid", "gid", "mode", "size")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3")
_TMPFS = frozenset({"nr_inodes", "nr_blocks", "huge", "mpol", "inode32", "inode64", "noswap", *_OWNER})


class LocalOptions(VolumeOptions):
    """Options of a local volume."""

    type: str = Field(default="", description="File system: none (with o=bind), tmpfs, nfs, nfs4, cifs, ext4, ...")
    o: str = Field(default="", description="Mount options, separated by commas: addr=HOST,ro,size=100m,uid=1000")
    device: str = Field(default="", description="What is mounted: a path, a device, :/EXPORT, //HOST/SHARE")
    size: int = Field(default=0, description="Hard limit of a volume of its own, for example 500m (16m at least)")
    fs: Literal["ext4", "xfs", "btrfs"] = Field(default="ext4", description="File system of a volume with a size")
    uid: int = Field(default=0, ge=0, description="Owner of a new volume")
    gid: int = Field(default=0, ge=0, description="Group of a new volume")
    mode: int = Field(
        default=0o755, ge=0, le=0o7777, description="Mode of a new volume, octal", json_schema_extra={"default": "755"}
    )

    @field_validator("size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        size = parse_size(value) if isinstance(value, str) else value
        if isinstance(size, int) and 0 < size < 16 << 20:
            raise ValueError("a file system needs 16m at least")
        return size

    @field_validator("mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        return int(value, 8) if isinstance(value, str) else value

    def words(self) -> dict[str, str]:
        """Return the words of `o`, in order; a word without `=` has an empty value."""
        return dict(word.partition("=")[::2] for word in self.o.split(",") if word)

    def flags(self) -> tuple[MountOption, ...]:
        """Return the words of `o` that are flags of the mount."""
        return tuple(cast(MountOption, word) for word in self.words() if word in _FLAGS)

    def data(self, *without: str) -> str:
        """Return the words of `o` that are for the file system."""
        kept = [w for w in self.o.split(",") if w and w not in _FLAGS | _IGNORED and w.partition("=")[0] not in without]
        return ",".join(kept)


class LocalDriver(VolumeDriver[LocalOptions]):
    """Keep a volume on this host, or mount it by the kernel: bind, tmpfs, nfs, cifs, a disk."""

    def settle_volume(self, options: LocalOptions) -> LocalOptions:
        """Check the options against each other; take what `o` says of owner, mode and size of a volume of our own."""
        words = options.words()
        for word in _FIXED & words.keys():
            raise InvalidParameter(f"o={word} is not possible", why="volumes are mounted with nosuid and nodev")
        if not options.type and not options.device:
            return _own(options, words)
        if not options.type:
            raise InvalidParameter(
                'missing required option: "type"', hint="For a directory of the host: type=none,o=bind"
            )
        if options.size or options.uid or options.gid:
            raise InvalidParameter(f"size, uid and gid do not go with type={options.type}", hint="Put them into o=")
        if options.type == "tmpfs":
            _known(words, _TMPFS, "tmpfs")
            _check_numbers(words)
        elif not options.device:
            raise InvalidParameter(
                'missing required option: "device"', why=f"type={options.type} has to mount something"
            )
        elif "bind" in words or "rbind" in words:
            _known(words, frozenset({"bind", "rbind"}), "a bind")
            if not options.device.startswith("/") or ".." in options.device.split("/"):
                raise InvalidParameter(f"device={options.device!r} is not an absolute path")
        else:
            _check_mount(options, words)
        return options

    def volume_plan(self, volume: Volume[LocalOptions]) -> VolumePlan:
        """Return a directory or an image below the volume's data, or a mount of what `device` names."""
        options, target = volume.options, f"{volume.run}/fs"
        if not options.type:
            own = {"uid": options.uid, "gid": options.gid, "mode": options.mode}
            if not options.size:
                path = f"{volume.data}/_data"
                return VolumePlan(plan=Plan.of(Directory(path=path, **own)), path=path)
            image = Image(path=f"{volume.data}/disk.img", size=options.size, fs=options.fs, **own)
            mount = ImageMount(target=target, image=image.path, fs=options.fs, options=options.flags())
            return VolumePlan(plan=Plan.of(image, mount), path=target)
        return VolumePlan(plan=Plan.of(_mount(options, target)), path=target)


def _own(options: LocalOptions, words: dict[str, str]) -> LocalOptions:
    """A volume of our own: `o` may say owner, mode and size, as podman's users write it."""
    _known(words, frozenset(_OWNER), "a volume without type and device")
    given = {name: words[name] for name in _OWNER if name in words}
    _check_numbers(given)
    try:
        settled = LocalOptions.model_validate({**options.model_dump(), **given})
    except ValueError as err:
        raise InvalidParameter(f"invalid option o={options.o}", why=str(err)) from err
    if 0 < settled.size < _SMALLEST[settled.fs]:
        least = f"mkfs.{settled.fs} wants {_SMALLEST[settled.fs] >> 20}m at least"
        raise InvalidParameter(f"size is too small for {settled.fs}", why=least)
    if not settled.size and settled.flags():
        raise InvalidParameter(f"o={options.o} needs something to mount", hint="Give type and device, or a size")
    return settled


def _known(words: dict[str, str], more: frozenset[str], what: str) -> None:
    known = more | _FLAGS | _IGNORED
    for word in words.keys() - known:
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}"
        raise InvalidParameter(f"unknown mount option {word!r} for {what}", hint=hint)


def _check_numbers(words: dict[str, str]) -> None:
    for name, base in (("uid", 10), ("gid", 10), ("mode", 8)):
        try:
            int(words.get(name, "0"), base)
        except ValueError as err:
            raise InvalidParameter(f"o={name}={words[name]} is not a number", why=str(err)) from err
    if not words.get("size", "0").endswith("%"):
        try:
            parse_size(words.get("size", "0"))
        except ValueError as err:
            raise InvalidParameter(f"o=size={words['size']} is not a size", why=str(err)) from err


def _check_mount(options: LocalOptions, words: dict[str, str]) -> None:
    if options.type == "none":
        raise InvalidParameter(
            f"type={options.type} needs o=bind", hint="For a directory of the host: type=none,o=bind"
        )
    if options.type in ("nfs", "nfs4"):
        host, colon, _ = options.device.rpartition(":/")
        if not colon:
            raise InvalidParameter(
                f"device={options.device!r} is no NFS export", hint="Write device=:/PATH, o=addr=HOST"
            )
        if not words.get("addr") and not host:
            raise InvalidParameter("an NFS volume needs its server", hint="Add addr=HOST to o=")
    if options.type in ("cifs", "smb3") and not re.match(r"//[^/]+/.+", options.device):
        raise InvalidParameter(f"device={options.device!r} is no share", hint="Write device=//HOST/SHARE")
    if options.type not in _NETWORK and not options.device.startswith("/"):
        raise InvalidParameter(f"device={options.device!r} is not an absolute path")


def _mount(options: LocalOptions, target: str) -> Resource:
    words, flags = options.words(), options.flags()
    if options.type == "tmpfs":
        size = words.get("size", "0")
        relative = size.endswith("%")
        return Tmpfs(
            target=target,
            options=flags,
            size=0 if relative else parse_size(size),
            mode=int(words.get("mode", "1777"), 8),
            uid=int(words.get("uid", "0")),
            gid=int(words.get("gid", "0")),
            data=options.data("mode", "uid", "gid", *(() if relative else ("size",))),
        )
    if "bind" in words or "rbind" in words:
        source = posixpath.normpath(options.device)
        return Bind(target=target, source=source, recursive="rbind" in words, options=flags)
    data = options.data()
    if options.type in ("nfs", "nfs4") and not words.get("addr"):
        data = ",".join(filter(None, (f"addr={options.device.rpartition(':/')[0]}", data)))
    return Mount(target=target, fstype=options.type, source=options.device, data=data, options=flags)
