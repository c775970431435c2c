"""A layer's tar becomes a directory that overlayfs can stack: whiteouts, opaque directories, nothing outside of it.

Layers come from strangers. The kernel opens every path below the layer's own root (openat2 with RESOLVE_BENEATH), so
a name, a symbolic link or a hard link that would lead out of it is an error, never a file somewhere else.
Form of the input: OCI image specification, layer.md. Form of the result: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import posixpath
import stat
import tarfile
from typing import Any

from engine.image.compression import CHUNK, Readable
from engine.opening import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2
from engine.spec.errors import InvalidParameter
from engine.tarfiles import FAULTS_OF_ARCHIVES, Header, attributes, times, write_content

log = logging.getLogger(__name__)

OPAQUE = "trusted.overlay.opaque"
_WHITEOUT = ".wh."
_OPAQUE_MARK = ".wh..wh..opq"
_MOST_MEMBERS = 1 << 23
_TOLD = 10
"""Extended attributes that are not kept of which the log tells."""
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")

HARMLESS_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)})
"""Character devices that a layer may hold: null, zero, full, random, urandom, tty, console, ptmx (devices.txt)."""

_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_beneath(root: int, path: str) -> int:
    """Open a directory below `root`. Raises OSError: EXDEV when the path leads out of `root`."""
    return openat2(root, path, _DIRECTORY, _BENEATH)


def unpack(stream: Readable, root: int) -> int:
    """Unpack a plain layer tar into the empty directory of descriptor `root`; returns the bytes of its regular files.

    Raises InvalidParameter for a tar that is damaged or that tries to leave its root, OSError for what the file system
    refuses (no space). The caller throws the directory away then.
    """
    unpacker = _Unpacker(root)
    source: Any = stream
    try:
        with (
            contextlib.closing(unpacker),
            tarfile.open(
                fileobj=source, mode="r|", bufsize=CHUNK, tarinfo=Header, encoding="utf-8", errors="surrogateescape"
            ) as archive,
        ):
            for _ in range(_MOST_MEMBERS):
                member = archive.next()
                if member is None:
                    break
                archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                unpacker.add(archive, member)
            else:
                raise InvalidParameter("the layer cannot be unpacked", why=f"it has more than {_MOST_MEMBERS} members")
            unpacker.finish()
    except OSError as err:
        if err.errno not in FAULTS_OF_ARCHIVES:
            raise
        raise InvalidParameter("the layer says what no file can have", why=str(err)) from err
    except (tarfile.TarError, UnicodeError, ValueError, OverflowError) as err:
        if str(err) == "empty file":
            return 0  # a layer of no bytes at all is an empty layer, as in docker
        raise InvalidParameter("the layer is not a valid tar archive", why=str(err)) from err
    return unpacker.size


class _Unpacker:
    def __init__(self, root: int) -> None:
        self.size = 0
        self._not_kept: dict[str, str] = {}
        self._root = root
        self._parent = ""  # the directory of the last member: archives are mostly in directory order
        self._parent_fd = os.open(".", _DIRECTORY, dir_fd=root)
        self._directories: dict[str, tarfile.TarInfo] = {}

    def close(self) -> None:
        os.close(self._parent_fd)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _inside(member.name, member.name)
        if not path:
            if not member.isdir():
                raise _escape(member.name, "only a directory can be the root")
            self._directories[""] = member
            return
        parent, name = posixpath.split(path)
        if name.startswith(_WHITEOUT):
            self._whiteout(parent, name, member)
            return
        parent_fd = self._open_parent(parent)
        if member.isdir():
            self._directory(parent_fd, path, name, member)
            return
        self._make_room(parent_fd, path, name)
        if member.islnk():
            self._hard_link(parent_fd, name, member)
            return
        if member.isreg():
            self._file(parent_fd, name, archive, member)
            return
        if member.issym():
            _check_symlink(path, member)
            os.symlink(member.linkname, name, dir_fd=parent_fd)
        else:
            _node(parent_fd, name, member)
        self._attributes(parent_fd, name, member)

    def finish(self) -> None:
        """Give directories their attributes last: what was created in them changed their times."""
        for path, member in self._directories.items():
            fd = _open_beneath(self._root, path or ".")
            try:
                self._attributes(fd, ".", member)
            finally:
                os.close(fd)
        for name, why in list(self._not_kept.items())[:_TOLD]:
            log.warning("extended attribute %s not kept, first %s", name, why)

    # -- the kinds of members

    def _directory(self, parent_fd: int, path: str, name: str, member: tarfile.TarInfo) -> None:
        try:
            found = os.lstat(name, dir_fd=parent_fd)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        else:
            if not stat.S_ISDIR(found.st_mode):
                self._replace_by_directory(parent_fd, name, found)
        self._directories[path] = member

    def _replace_by_directory(self, parent_fd: int, name: str, found: os.stat_result) -> None:
        os.unlink(name, dir_fd=parent_fd)
        os.mkdir(name, 0o755, dir_fd=parent_fd)
        if _is_whiteout(found):  # deleted and made anew in one layer: nothing of the lower one shines through
            os.setxattr(_by_fd(parent_fd, name), OPAQUE, b"y", follow_symlinks=False)

    def _whiteout(self, parent: str, name: str, member: tarfile.TarInfo) -> None:
        hidden = name.removeprefix(_WHITEOUT)
        if name == _OPAQUE_MARK:
            os.setxattr(_by_fd(self._open_parent(parent), "."), OPAQUE, b"y")
        elif name.startswith(_WHITEOUT + _WHITEOUT):
            log.debug("skipped %s: book-keeping of aufs", member.name)
        elif hidden in ("", ".", ".."):
            raise _escape(member.name, "it would hide a directory outside")
        else:
            parent_fd = self._open_parent(parent)
            try:
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent_fd)
            except FileExistsError:
                if stat.S_ISDIR(os.lstat(hidden, dir_fd=parent_fd).st_mode):
                    os.setxattr(_by_fd(parent_fd, hidden), OPAQUE, b"y")

    def _hard_link(self, parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
        target = _inside(member.linkname, member.name)
        directory, target_name = posixpath.split(target)
        try:
            target_fd = _open_beneath(self._root, directory or ".")
        except OSError as err:
            raise _refused(member.name, f"its hard link target {member.linkname!r}", err) from err
        try:
            os.link(target_name, name, src_dir_fd=target_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except (FileNotFoundError, PermissionError, FileExistsError) as err:
            raise InvalidParameter(
                f"the layer cannot be unpacked at {member.name!r}",
                why=f"its hard link target {member.linkname!r} is no file of this layer",
            ) from err
        finally:
            os.close(target_fd)

    def _file(self, parent_fd: int, name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)
        try:
            write_content(archive, member, fd)
            self.size += member.size
            os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o7777)  # after chown, which clears setuid and setgid
            self._set_xattrs(fd, member)
            os.utime(fd, ns=times(member))
        finally:
            os.close(fd)

    def _attributes(self, parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
        os.chown(name, member.uid, member.gid, dir_fd=parent_fd, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & 0o7777, dir_fd=parent_fd)  # what `name` is was just made by us: no link
        self._set_xattrs(_by_fd(parent_fd, name), member)
        os.utime(name, ns=times(member), dir_fd=parent_fd, follow_symlinks=False)

    def _set_xattrs(self, target: int | str, member: tarfile.TarInfo) -> None:
        for name, data in attributes(member):
            if name.startswith(_OVERLAY_XATTRS):
                continue  # overlayfs' own marks would let a layer redirect into others: they come from whiteouts only
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, data)
                else:
                    os.setxattr(target, name, data, follow_symlinks=False)
            except OSError as err:
                if err.errno not in (errno.EOPNOTSUPP, errno.EPERM):  # EPERM: user.* on a link or a device
                    raise
                self._not_kept.setdefault(name, f"of {member.name!r}: {err.strerror}")

    # -- places

    def _make_room(self, parent_fd: int, path: str, name: str) -> None:
        """A later member replaces an earlier one of the same name; a directory only when it is empty, as in docker."""
        try:
            os.unlink(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            try:
                os.rmdir(name, dir_fd=parent_fd)
            except OSError as err:
                raise InvalidParameter(
                    f"the layer cannot be unpacked at {path!r}", why="a file would replace a directory with content"
                ) from err
            self._directories.pop(path, None)

    def _open_parent(self, path: str) -> int:
        """The directory `path`, made where it is missing. The descriptor is ours until the next call."""
        if path != self._parent:
            fd = self._open_or_make(path)
            os.close(self._parent_fd)
            self._parent, self._parent_fd = path, fd
        return self._parent_fd

    def _open_or_make(self, path: str) -> int:
        try:
            return _open_beneath(self._root, path or ".")
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTDIR) or not path:
                raise _refused(path, "a directory on its way", err) from err
        fd = _open_beneath(self._root, ".")
        way = ""
        for name in path.split("/"):
            way, above = posixpath.join(way, name), fd
            try:
                fd = self._open_or_make_one(above, way, name)
            except OSError as err:
                raise _refused(path, "a directory on its way", err) from err
            finally:
                os.close(above)
        return fd

    def _open_or_make_one(self, above: int, path: str, name: str) -> int:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return _open_beneath(self._root, path)
        found = _lstat(above, name)
        if found is None:
            os.mkdir(name, 0o755, dir_fd=above)
        elif _is_whiteout(found):
            self._replace_by_directory(above, name, found)
        return _open_beneath(self._root, path)


def _lstat(parent_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _inside(path: str, member: str) -> str:
    """The path relative to the root, without "." and ".."; a leading "/" means the root, as in tar and docker."""
    if "\0" in path:
        raise _escape(member, "it holds a NUL byte")
    clean = posixpath.normpath(path.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise _escape(member, f"{path!r} leads out of the root")
    return "" if clean == "." else clean


def _check_symlink(path: str, member: tarfile.TarInfo) -> None:
    """Refuse a relative link that climbs over the root, as docker does; an absolute one is at home in a container."""
    if not member.linkname:
        raise _escape(member.name, "a symbolic link without target")
    if not member.linkname.startswith("/"):
        _inside(posixpath.join(posixpath.dirname(path), member.linkname), member.name)


def _node(parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
    device = (member.devmajor, member.devminor)
    if member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=parent_fd)
    elif member.ischr() and (device in HARMLESS_DEVICES or device == (0, 0)):
        os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(*device), dir_fd=parent_fd)
    elif member.ischr() or member.isblk():
        kind = "character" if member.ischr() else "block"
        raise InvalidParameter(
            f"the layer cannot be unpacked at {member.name!r}",
            why=f"it holds the {kind} device {device[0]}:{device[1]}; only null, zero, full, random, urandom, tty, "
            "console and ptmx are allowed in an image",
            hint="Give a container a device with --device.",
        )
    else:
        raise InvalidParameter(
            f"the layer cannot be unpacked at {member.name!r}", why=f"tar member type {member.type!r} is unknown"
        )


def _by_fd(parent_fd: int, name: str) -> str:
    return f"/proc/self/fd/{parent_fd}/{name}"


def _escape(member: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"the layer leaves its root at {member!r}", why=why)


def _refused(member: str, place: str, err: OSError) -> Exception:
    if err.errno == errno.EXDEV:
        return _escape(member, f"{place} is a symbolic link that leads out of the root")
    if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidParameter(f"the layer cannot be unpacked at {member!r}", why=f"{place}: {err.strerror}")
    return err


def drain(stream: Readable) -> None:
    """Read to the end: a diff id covers what follows a tar's last member."""
    while stream.read(CHUNK):
        pass
