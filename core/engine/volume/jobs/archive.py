"""export and import: tar streams, by GNU tar, which keeps holes, hard links, attributes and owners.

The format is POSIX.1-2001 (pax) with GNU's records for sparse files and SCHILY's for attributes; memory does not grow
with the content.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from engine.image.compression import CHUNK, DECOMPRESSION_ERRORS, decompressed
from engine.spec.errors import ApplyFailed, Conflict, EngineError, InvalidParameter
from engine.volume.jobs.content import empty, is_full
from engine.volume.jobs.work import Work
from engine.volume.populate import is_empty

_COMMON = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--file=-")
_END = bytes(1024)
"""What every archive ends with: two blocks of zeroes."""
_CHANGED = 1
"""Exit code of tar: some files changed while they were read."""


def run_export(work: Work) -> dict[str, Any]:
    """Write the content as a tar to our standard output."""
    work.tell("Exporting")
    argv = ["tar", "--create", *_COMMON, "--format=posix", "--sparse", "--warning=no-file-ignored"]
    argv += ["--directory", str(work.path), "."]
    errors = (work.place.path / "tar.err").open("w+b")
    with errors, work.program(argv, stdin=subprocess.DEVNULL, stderr=errors) as tar:
        code = tar.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if code not in (0, _CHANGED):
        raise ApplyFailed(f"volume {work.volume} cannot be exported", why=_last_words(said))
    return {"changed": code == _CHANGED}


def run_import(work: Work) -> dict[str, Any]:
    """Fill the empty volume from a tar on our standard input; when that fails it is empty again."""
    work.tell("Importing")
    if not is_empty(work.path):
        raise Conflict(f"volume {work.volume} is not empty", hint="Import into a new volume")
    try:
        return {"bytes": _extract(work)}
    except BaseException:
        empty(work.path)
        raise


def _extract(work: Work) -> int:
    argv = ["tar", "--extract", *_COMMON, "--same-owner", "--same-permissions", "--delay-directory-restore"]
    argv += ["--directory", str(work.path)]
    errors = (work.place.path / "tar.err").open("w+b")
    with errors, work.program(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as tar:
        assert tar.stdin is not None
        count, problem, tail = 0, None, b""
        try:
            stream = decompressed(sys.stdin.buffer)
            while data := stream.read(CHUNK):
                tar.stdin.write(data)
                count, tail = count + len(data), (tail + data)[-len(_END) :]
                work.tell("Importing", count)
            tar.stdin.close()
        except BrokenPipeError:
            pass  # tar says why
        except (*DECOMPRESSION_ERRORS, OSError) as err:
            problem = InvalidParameter("the archive cannot be decompressed", why=str(err))
        code = tar.wait() if problem is None else 1
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if problem is not None:
        raise problem
    if code:
        raise _refused(work, said)
    if tail != _END:  # tar takes one that was cut between two members
        raise InvalidParameter("the archive is not whole", why="it has no end")
    return count


def _refused(work: Work, said: str) -> EngineError:
    if "No space left" in said or "Disk quota exceeded" in said or is_full(work.path):
        return ApplyFailed(f"the archive does not fit into volume {work.volume}", why="its disk is full")
    return InvalidParameter("the archive cannot be unpacked", why=_last_words(said))


def _last_words(said: str) -> str:
    lines = [line.removeprefix("tar: ") for line in said.strip().splitlines() if "Exiting with failure" not in line]
    return "; ".join(lines[-3:])
