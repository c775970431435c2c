"""How each kind of mount comes about: a detached mount, or one made in place where the file system needs mount(2).

Sources: Documentation/filesystems/overlayfs.rst, tmpfs(5), nfs(5), mount.cifs(8).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from engine import opening
from engine.reconcile import gocryptfs, loops, mountapi
from engine.reconcile.encryption import VolumeKeys
from engine.spec.encryption import GocryptMount
from engine.spec.mounts import Bind, ImageMount, Mount, OverlayMount, Tmpfs
from engine.spec.resource import Resource

NETWORK_DEADLINE = 15.0
"""Seconds that a server has to answer a mount."""
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p"})
_OVERLAY = (("index", "off"), ("metacopy", "off"), ("redirect_dir", "off"))
"""An upper directory must be a plain difference of trees: it is exported, committed and used again as a layer."""
_PAGE = 4096  # what mount(2) takes as data, with its final NUL


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def options_of(resource: Resource) -> tuple[str, ...]:
    """Return the mount options that a resource asks for."""
    return cast(tuple[str, ...], getattr(resource, "options", ()))


def target_of(resource: Resource) -> str:
    """Return the mount point of a resource."""
    return cast(str, getattr(resource, "target", ""))


def is_directory(resource: Resource) -> bool:
    """Tell whether the mount point has to be a directory; only a bind of a file has another one. Raises OSError."""
    if isinstance(resource, Bind) and not resource.subpath:
        return stat.S_ISDIR(Path(resource.source).stat().st_mode)
    if isinstance(resource, Bind):
        with _source(resource) as source:
            return stat.S_ISDIR(os.fstat(source).st_mode)
    return True


@contextmanager
def _source(resource: Bind) -> Iterator[int]:
    """Open what a bind shows. A subpath never leads out of the source, whatever a container wrote there."""
    with _opened(resource.source, os.O_PATH) as base:
        if not resource.subpath:
            yield base
            return
        inside = opening.RESOLVE_BENEATH | opening.RESOLVE_NO_MAGICLINKS
        found = opening.openat2(base, resource.subpath, os.O_PATH, inside)
        try:
            yield found
        finally:
            os.close(found)


def _bind(resource: Bind, target: int) -> int:
    with _source(resource) as source:
        mount = mountapi.clone(source, recursive=resource.recursive)
    return _with_options(mount, resource.options, recursive=resource.recursive)


def _with_options(mount: int, options: tuple[str, ...], *, recursive: bool = False) -> int:
    try:
        mountapi.set_attributes(mount, options, private=True, recursive=recursive)
    except OSError:
        os.close(mount)
        raise
    return mount


def _tmpfs(resource: Tmpfs, target: int) -> int:
    parameters: list[tuple[str, str | None]] = [("source", "tmpfs"), ("mode", f"{resource.mode:o}")]
    parameters += [(name, str(value)) for name in ("size", "uid", "gid") if (value := getattr(resource, name))]
    for word in filter(None, resource.data.split(",")):
        name, equals, text = word.partition("=")
        parameters.append((name, text if equals else None))
    return mountapi.filesystem("tmpfs", parameters, resource.options)


def _image(resource: ImageMount, target: int) -> int:
    with _opened(resource.image, os.O_RDWR) as image:
        device, keep = loops.attach(image)
    try:
        careful = [("errors", "remount-ro")] if resource.fs == "ext4" else []  # a damaged one is not written to
        return mountapi.filesystem(resource.fs, [("source", device), *careful], resource.options)
    finally:
        os.close(keep)


def _overlay(resource: OverlayMount, target: int) -> int | None:
    if resource.upper is None and len(resource.lower) == 1:  # overlayfs wants two layers: show the only one as it is
        with _opened(resource.lower[0], os.O_PATH) as source:
            return _with_options(mountapi.clone(source, recursive=False), ("ro", *resource.options))
    paths = [*resource.lower, *(p for p in (resource.upper, resource.work) if p)]
    if mountapi.kernel_version() < (6, 7) or max(len(os.fsencode(p)) for p in paths) > mountapi.MAX_PARAMETER:
        _overlay_in_place(resource, target)
        return None
    parameters: list[tuple[str, str | None]] = [("source", "overlay"), *_OVERLAY]
    parameters += [("lowerdir+", layer) for layer in resource.lower]
    if resource.upper is not None:
        parameters += [("upperdir", resource.upper), ("workdir", resource.work)]
    return mountapi.filesystem("overlay", parameters, resource.options)


def _overlay_in_place(resource: OverlayMount, target: int) -> None:
    """Mount by mount(2). Its data is one page: where the names of the layers do not fit, descriptors stand for them."""

    def data(lower: list[str]) -> str:
        words = [f"{name}={value}" for name, value in _OVERLAY] + [f"lowerdir={':'.join(lower)}"]
        if resource.upper is not None:
            words += [f"upperdir={_escaped(resource.upper)}", f"workdir={_escaped(resource.work or '')}"]
        return ",".join(words)

    flags = mountapi.flags_of(resource.options)
    text = data([_escaped(layer).replace(":", "\\:") for layer in resource.lower])
    if len(os.fsencode(text)) < _PAGE:
        mountapi.mount("overlay", target, "overlay", flags, text)
        return
    opened: list[int] = []
    try:
        for layer in resource.lower:
            opened.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        mountapi.mount("overlay", target, "overlay", flags, data([f"/proc/self/fd/{number}" for number in opened]))
    finally:
        for number in opened:
            os.close(number)


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,")


def _mount(resource: Mount, target: int) -> None:
    flags = mountapi.flags_of(resource.options)
    if resource.fstype not in _NETWORK:
        mountapi.mount(resource.source, target, resource.fstype, flags, resource.data)
        return
    request = {
        "source": resource.source, "target": target, "fstype": resource.fstype, "flags": flags, "data": resource.data,
    }  # fmt: skip
    _in_child(request, target)


def _in_child(request: dict[str, object], target: int) -> None:
    """Mount in a process of its own: a server or a name server that does not answer costs a deadline, not the daemon.

    The request goes by stdin: it may hold a password.
    """
    argv = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            argv,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            pass_fds=(target,),
            timeout=NETWORK_DEADLINE,
        )
    except subprocess.TimeoutExpired as err:
        raise TimeoutError(
            errno.ETIMEDOUT, f"no answer within {NETWORK_DEADLINE:g} seconds", str(request["source"])
        ) from err
    if done.returncode != 0:
        try:
            code, text = json.loads(done.stdout)
        except ValueError:
            code, text = errno.EIO, f"the mounting process failed: {done.stderr.strip()[-500:]}"
        raise OSError(code, text, str(request["source"]))


def resolved(fstype: str, source: str, data: str, lookup: Callable[[str], str]) -> str:
    """Return mount data with the server's address in place of its name, as the kernel wants it.

    nfs: the value of `addr=`. cifs: `ip=` of the host in `//host/share`, or of `addr=` or `ip=` where one is given.
    """
    words = [word for word in data.split(",") if word]
    for n, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("addr", "ip") and value:
            words[n] = f"{'ip' if fstype in ('cifs', 'smb3') else name}={lookup(value)}"
            return ",".join(words)
    if fstype in ("cifs", "smb3"):
        words.insert(0, f"ip={lookup(source.lstrip('/').split('/')[0])}")
    return ",".join(words)


def _lookup(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as err:
        raise OSError(errno.EHOSTUNREACH, f"the server's name {host!r} cannot be resolved: {err}") from err


def main() -> int:
    """Mount what stdin asks for; on failure write [errno, text] to stdout and return 1."""
    request = json.load(sys.stdin)
    try:
        data = resolved(request["fstype"], request["source"], request["data"], _lookup)
        mountapi.mount(request["source"], request["target"], request["fstype"], request["flags"], data)
    except OSError as err:
        json.dump([err.errno, err.strerror or str(err)], sys.stdout)
        return 1
    return 0


def make(resource: Resource, target: int, keys: VolumeKeys) -> int | None:
    """Return a detached mount of what a resource describes, or mount it on `target` (O_PATH) and return None.

    Raises OSError, and what reading the key of an encrypted one raises.
    """
    match resource:
        case Bind():
            return _bind(resource, target)
        case Tmpfs():
            return _tmpfs(resource, target)
        case ImageMount():
            return _image(resource, target)
        case OverlayMount():
            return _overlay(resource, target)
        case Mount():
            _mount(resource, target)
            return None
        case GocryptMount():
            gocryptfs.serve(resource, str(Path(f"/proc/self/fd/{target}").readlink()), keys.read(resource.slots))
            return None
    raise OSError(errno.EOPNOTSUPP, f"mounts of kind {resource.kind!r} are not known here")


if __name__ == "__main__":
    sys.exit(main())
