"""How the names of files are spelled in keys of objects: reversibly, and as rclone does.

A file's name may be any bytes but `/` and NUL; a key is UTF-8, and object stores cannot have control characters in it,
or take a backslash for a slash. So a newline is stored as `␊`, a backslash as `＼`, a byte that is not UTF-8 as `‛FF`,
and what would be read as one of these has `‛` before it: see "Restricted filenames and characters" in rclone's
documentation (https://rclone.org/overview/#restricted-filenames). With `OBJECTS`, rclone shows the true names by
`--s3-encoding Slash,BackSlash,Del,Ctl,InvalidUtf8,Dot`, and the spelling without it.

Names that begin with `.engine-` are the engine's own in stores: a file's is stored as `．engine-`.

Everywhere in `engine.tree`, a path is the spelling; `Root` and `QuietMount`, and the scan, turn it into names and back.
"""

from __future__ import annotations

import os
import re

from engine.spec.storage import StorageCaps

RESERVED = ".engine-"
"""Beginning of names that are the engine's: sidecars, and files that drivers are still writing."""
_QUOTE = "‛"  # U+201B
_FULLWIDTH_STOP = "．"  # U+FF0E
_WRITTEN_OUT = _FULLWIDTH_STOP + RESERVED[1:]


class Spelling:
    """One way to spell names. Pure; nothing raises."""

    def __init__(self, escapes: dict[str, str], also_quoted: str = "", *, dots: bool = False) -> None:
        """`escapes`: by a character that cannot be in a key, what stands for it.

        `also_quoted`: further characters that rclone takes for the spelling of another one. With `dots` it takes `．`
        and `．．` for `.` and `..`.
        """
        quoted = {*escapes.values(), *also_quoted, _QUOTE}
        self._dots = dots
        self._spelled = str.maketrans(
            {chr(0xDC00 + byte): f"{_QUOTE}{byte:02X}" for byte in range(0x80, 0x100)}  # as os.fsdecode has bytes
            | {char: _QUOTE + char for char in quoted}
            | escapes
        )
        odd = "".join(map(re.escape, {*quoted, *escapes, _FULLWIDTH_STOP}))
        self._odd = re.compile(rf"[{odd}\udc80-\udcff]|{re.escape(RESERVED)}")
        self._meant = {spelled: char for char, spelled in escapes.items()}
        self._escape = re.compile(rf"{_QUOTE}[89A-F][0-9A-F]|{_QUOTE}?[{odd}]")

    def stored(self, name: str) -> str:
        """Return how a name or a path is spelled. It has the bytes that are not UTF-8 as `os.fsdecode` gives them."""
        if not self._odd.search(name):  # nearly all
            return name
        return "/".join(map(self._guarded, name.translate(self._spelled).split("/")))

    def _guarded(self, spelled: str) -> str:
        if self._dots and spelled in (_FULLWIDTH_STOP, _FULLWIDTH_STOP * 2):
            return spelled.replace(_FULLWIDTH_STOP, _QUOTE + _FULLWIDTH_STOP)
        if spelled.startswith(_WRITTEN_OUT):
            return _QUOTE + spelled
        return _WRITTEN_OUT + spelled[len(RESERVED) :] if spelled.startswith(RESERVED) else spelled

    def local(self, path: str) -> str:
        """Return the name or the path that is spelled so. Of what `is_spelled` denies, something similar."""
        if not self._odd.search(path):
            return path
        names = path.split("/")
        unguarded = [RESERVED + n[len(_WRITTEN_OUT) :] if n.startswith(_WRITTEN_OUT) else n for n in names]
        return self._escape.sub(self._mean, "/".join(unguarded))

    def _mean(self, found: re.Match[str]) -> str:
        spelled = found[0]
        if len(spelled) == 3:
            return chr(0xDC00 + int(spelled[1:], 16))
        return spelled[1:] if len(spelled) == 2 else self._meant.get(spelled, spelled)

    def is_spelled(self, path: str) -> bool:
        """Tell whether a key is the spelling of a path: some file that is stored gets this key, and no other one."""
        return self.stored(os.fsdecode(os.fsencode(self.local(path)))) == path


_CONTROL = {chr(code): chr(0x2400 + code) for code in range(1, 0x20)} | {"\x7f": "␡"}
_NUL = "␀"

OBJECTS = Spelling(_CONTROL | {"\\": "＼"}, f"{_NUL}／", dots=True)
"""For object stores: rclone's `Slash,BackSlash,Del,Ctl,InvalidUtf8,Dot`."""
FILES = Spelling({}, _NUL)
"""For stores whose keys are paths of files: rclone's `InvalidUtf8`."""


def spelling_of(caps: StorageCaps) -> Spelling:
    """Return how a store's keys are spelled."""
    return FILES if caps.hierarchical else OBJECTS
