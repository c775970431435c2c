"""The daemon's side of a helper's socket. Every request has a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

from engine.helper.messages import HelperGone, error_of
from engine.helper.place import HelperPlace
from engine.spec.errors import DeadlineExceeded, Internal
from engine.spec.trees import TreeStatus

ANSWER_SECONDS = 5.0
"""For the answer to a question that needs no store. A helper that is started answers after its imports: below one."""
_MOST_DESCRIPTORS = 16


class HelperClient:
    """Speaks with one helper. Methods may be called from any thread.

    All raise HelperGone, and DeadlineExceeded when the helper does not answer.
    """

    def __init__(self, place: HelperPlace) -> None:
        self._place = place

    def status(self, seconds: float = ANSWER_SECONDS) -> TreeStatus:
        """Return what the helper says of its tree."""
        return TreeStatus.model_validate(self._ask({"op": "status"}, seconds)["status"])

    def descriptors(self, seconds: float = ANSWER_SECONDS) -> list[int]:
        """Return what must stay open as long as a container runs on the tree; the caller closes them.

        Raises also what keeps the tree from being opened.
        """
        found: list[int] = []
        try:
            with self._speak(seconds) as connection:
                connection.sendall(json.dumps({"op": "descriptors", "deadline": seconds}).encode() + b"\n")
                first, found, _, _ = socket.recv_fds(connection, 1, _MOST_DESCRIPTORS)
                with connection.makefile("rb") as answers:
                    count = int(_answer_of(first + answers.readline())["descriptors"])
            if len(found) != count:
                raise Internal("the volume's helper gave no valid answer", why=f"{len(found)} of {count} descriptors")
        except BaseException:
            for descriptor in found:
                os.close(descriptor)
            raise
        for descriptor in found:
            os.set_inheritable(descriptor, False)
        return found

    def barrier(self, deadline: float) -> int:
        """Have everything uploaded that is changed now; return how many changes are left after `deadline` seconds.

        Raises also what keeps the tree from being opened.
        """
        return int(self._ask({"op": "barrier", "deadline": deadline}, deadline + ANSWER_SECONDS)["left"])

    def stop(self, deadline: float = 0.0) -> int:
        """Upload for at most `deadline` seconds, then end the helper; return how many changes are left."""
        return int(self._ask({"op": "stop", "deadline": deadline}, deadline + ANSWER_SECONDS)["left"])

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        with self._speak(seconds) as connection, connection.makefile("rb") as answers:
            connection.sendall(json.dumps(request).encode() + b"\n")
            return _answer_of(answers.readline())

    @contextlib.contextmanager
    def _speak(self, seconds: float) -> Iterator[socket.socket]:
        try:
            with self._place.connect(seconds) as connection:
                yield connection
        except TimeoutError as err:
            raise DeadlineExceeded("the volume's helper does not answer", why=f"no answer in {seconds:g} s") from err
        except OSError as err:
            raise HelperGone("the volume's helper does not run", why=err.strerror or str(err)) from err


def _answer_of(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise HelperGone("the volume's helper does not run", why="it ended before it answered")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise Internal("the volume's helper gave no valid answer", why=repr(line[:200]))
    if "error" in answer:
        raise error_of(answer["error"])
    return answer
