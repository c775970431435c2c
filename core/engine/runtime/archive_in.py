"""Unpacks a tar into a directory of a container, from inside of its root.

Nothing that is there is opened: what is in the way of a member is removed, as Docker does, and a file is a new one.
A device that the container has made is never written to, and a pipe never waited for.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tarfile

from engine import treewalk
from engine.image.compression import DECOMPRESSION_ERRORS, Readable, decompressed
from engine.runtime.refusal import Refusal
from engine.tarfiles import FAULTS_OF_ARCHIVES, Header, attributes, times, write_content

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 16


def receive(path: str, source: Readable, *, no_overwrite: bool, copy_owner: bool) -> None:
    """Unpack a tar, which may be compressed, into a directory. Raises Refusal, OSError.

    `no_overwrite` refuses a directory in place of another thing, and the other way round; `copy_owner` gives all files
    the directory's owner.
    """
    try:
        root = os.open(path, _DIRECTORY)
    except FileNotFoundError as err:
        raise Refusal("not-found", f"Could not find the file {path} in container") from err
    except NotADirectoryError as err:
        raise Refusal("invalid-parameter", f"extraction point is not a directory: {path}") from err
    plain = decompressed(source)
    try:
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=Header) as archive:
            extraction = _Extraction(archive, root, no_overwrite, copy_owner)
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                extraction.add(member)
            extraction.finish()
    except (tarfile.TarError, *DECOMPRESSION_ERRORS, UnicodeError) as err:
        raise Refusal("invalid-parameter", f"the archive is damaged or is none: {err}") from err
    except OSError as err:
        if err.errno is not None:
            raise
        raise Refusal("invalid-parameter", f"the archive is damaged: {err}") from err  # so says bz2
    except (ValueError, OverflowError, MemoryError) as err:
        raise Refusal("invalid-parameter", f"the archive has what no file can have: {err or 'a size'}") from err
    for rest in (plain, source):
        while rest.read(_CHUNK):
            pass  # what follows the end of the tar, so that the sender is not cut off


class _Extraction:
    def __init__(self, archive: tarfile.TarFile, root: int, no_overwrite: bool, copy_owner: bool) -> None:
        self._archive = archive
        self._root = root
        self._no_overwrite = no_overwrite
        self._owner = os.fstat(root) if copy_owner else None
        self._directories: dict[str, tuple[int, int]] = {}
        self._parent, self._parent_fd = "", os.dup(root)

    def add(self, member: tarfile.TarInfo) -> None:
        """Unpack one member. Raises Refusal, OSError."""
        # Links may lead anywhere: "anywhere" ends at the container's root, which is ours here.
        path = _inside(member.name)
        if self._owner is not None:
            member.uid, member.gid = self._owner.st_uid, self._owner.st_gid
        try:
            parent, name = posixpath.split(path)
            fd = self._open_parent(parent)
            self._clear(fd, name or ".", member)
            self._make(fd, name or ".", member)
        except OSError as err:
            raise _explained(member.name, err) from err
        if member.isdir():
            self._directories[path] = times(member)

    def finish(self) -> None:
        """Give directories their times last: what was made in them changed those."""
        for path, both in self._directories.items():
            try:
                os.utime(path or ".", ns=both, dir_fd=self._root, follow_symlinks=False)
            except FileNotFoundError:  # a later member, or somebody in the container, removed it
                pass

    def _open_parent(self, path: str) -> int:
        """The directory `path`, made where it is missing. The descriptor is good until the next call."""
        if path != self._parent:
            fd = self._open_or_make(path)
            os.close(self._parent_fd)
            self._parent, self._parent_fd = path, fd
        return self._parent_fd

    def _open_or_make(self, path: str) -> int:
        try:
            return os.open(path or ".", _DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            pass
        fd, way = os.dup(self._root), ""
        for name in path.split("/"):
            way, above = posixpath.join(way, name), fd
            try:
                try:
                    fd = os.open(way, _DIRECTORY, dir_fd=self._root)
                except FileNotFoundError:
                    os.mkdir(name, 0o755, dir_fd=above)
                    fd = os.open(way, _DIRECTORY, dir_fd=self._root)
            finally:
                os.close(above)
        return fd

    def _clear(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        """Remove what is in the way: everything but a directory for a directory."""
        try:
            found = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return
        there = stat.S_ISDIR(found.st_mode)
        if there and member.isdir():
            return
        if there != member.isdir() and (self._no_overwrite or name == "."):
            kind = "directory" if there else "non-directory"
            raise Refusal("invalid-parameter", f"cannot overwrite {kind} {member.name!r}")
        treewalk.remove(parent, name)

    def _make(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if member.isreg():
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                write_content(self._archive, member, fd)
                _set_attributes(fd, member)
                os.utime(fd, ns=times(member))
            finally:
                os.close(fd)
            return
        if member.isdir():
            if name != ".":
                try:
                    os.mkdir(name, 0o700, dir_fd=parent)
                except FileExistsError:
                    pass
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                _set_attributes(fd, member)
            finally:
                os.close(fd)
            return
        if member.islnk():
            target = _inside(member.linkname)
            os.link(target, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            return
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.isdev():
            os.mknod(name, _node_type(member) | stat.S_IMODE(member.mode), _device(member), dir_fd=parent)
        else:
            raise Refusal("invalid-parameter", f"{member.name!r} is of the unknown type {member.type!r}")
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=times(member), dir_fd=parent, follow_symlinks=False)


def _inside(path: str) -> str:
    """The path relative to the directory; `..` ends there."""
    if "\0" in path:
        raise Refusal("invalid-parameter", f"{path!r} has a NUL byte")
    return posixpath.normpath(posixpath.join("/", path)).lstrip("/")


def _node_type(member: tarfile.TarInfo) -> int:
    return stat.S_IFIFO if member.isfifo() else stat.S_IFCHR if member.ischr() else stat.S_IFBLK


def _device(member: tarfile.TarInfo) -> int:
    return 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor)


def _set_attributes(fd: int, member: tarfile.TarInfo) -> None:
    os.fchown(fd, member.uid, member.gid)
    os.fchmod(fd, stat.S_IMODE(member.mode))  # after chown, which clears setuid and setgid
    for name, value in attributes(member):
        if not name.startswith("trusted.overlay."):
            try:
                os.setxattr(fd, name, value)
            except OSError as err:
                if err.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                    raise


def _explained(name: str, err: OSError) -> Exception:
    if err.errno == errno.EBUSY:
        return Refusal("forbidden", f"{name!r} is a mount of the container: it cannot be replaced from outside")
    if err.errno in FAULTS_OF_ARCHIVES:
        return Refusal("invalid-parameter", f"{name!r} cannot be unpacked: {err.strerror}")
    return OSError(err.errno, err.strerror, name) if err.errno is not None else err
