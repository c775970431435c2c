"""`name|uid[:group|gid]` to numbers, by the container's own /etc/passwd and /etc/group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.runtime.rootfs import read_in_root
from engine.spec.errors import InvalidParameter

_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class User:
    """Ids of a process."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Passwd:
    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(rootfs: Path, user: str = "", extra_groups: Sequence[str] = ()) -> User:
    """Resolve `user` as docker does: unknown numbers are taken as they are (group 0), unknown names are refused.

    Raises InvalidParameter for an unknown name or a number out of range.
    """
    user_part, _, group_part = user.partition(":")
    groups = tuple(_groups(read_in_root(rootfs, "/etc/group")))
    entry = _find_passwd(tuple(_passwd(read_in_root(rootfs, "/etc/passwd"))), user_part or "0")
    if group_part:
        gid = _group_id(groups, group_part)
        supplementary: tuple[int, ...] = ()
    else:
        gid = entry.gid
        supplementary = tuple(group.gid for group in groups if entry.name and entry.name in group.members)
    extra = tuple(_group_id(groups, name) for name in extra_groups)
    unique = tuple(dict.fromkeys((*supplementary, *extra)))
    return User(uid=entry.uid, gid=gid, groups=unique)


def _find_passwd(entries: Sequence[_Passwd], wanted: str) -> _Passwd:
    number = _number(wanted, "user")
    for entry in entries:
        if entry.name == wanted or (number is not None and entry.uid == number):
            return entry
    if number is None:
        raise InvalidParameter(
            f"unable to find user {wanted}",
            why="no matching entries in passwd file",
            hint="Give a name of the image, or a numeric id",
        )
    return _Passwd(name="", uid=number, gid=0)


def _group_id(entries: Sequence[_Group], wanted: str) -> int:
    number = _number(wanted, "group")
    for entry in entries:
        if entry.name == wanted or (number is not None and entry.gid == number):
            return entry.gid
    if number is None:
        raise InvalidParameter(
            f"unable to find group {wanted}",
            why="no matching entries in group file",
            hint="Give a name of the image, or a numeric id",
        )
    return number


def _number(text: str, kind: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    if number > _MAX_ID:
        raise InvalidParameter(f"{kind} {text} is out of range", why=f"ids are 0 to {_MAX_ID}")
    return number


def _passwd(text: str) -> Iterator[_Passwd]:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and fields[2].isdigit() and fields[3].isdigit():
            yield _Passwd(fields[0], int(fields[2]), int(fields[3]))


def _groups(text: str) -> Iterator[_Group]:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] and fields[2].isdigit():
            members = tuple(name for name in fields[3].split(",") if name) if len(fields) > 3 else ()
            yield _Group(fields[0], int(fields[2]), members)
