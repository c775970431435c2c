"""Failures at a chosen step: of netlink messages that are sent, and of firewall transactions."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from engine.reconcile.hot_elements import Change, ChangeRefused, HotElements
from engine.reconcile.libnft import Nft, NftError
from engine.reconcile.rtnetlink import NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket, attr

REFUSED = Message(20, 0, b"\2" + bytes(7))
"""An IPv4 address message without an address: EINVAL. (An empty message is ignored, and acknowledged.)"""
TAKEN = Message(16, NLM_F_CREATE | NLM_F_EXCL, bytes(16) + attr(3, "lo"))
"""A link of a name that is taken: EEXIST."""


@contextmanager
def at_step(number: int, fail: Callable[[], Message | None]) -> Iterator[list[int]]:
    """Count steps, and put what `fail` returns in the place of the message of that number.

    A firewall transaction is a step too: instead of it, EINVAL or EEXIST. The value is a list with the count.
    """
    count = [0]
    send, run = NetlinkSocket.send, Nft.run

    def sent(self: NetlinkSocket, messages: list[Message]) -> object:
        changed = []
        for message in messages:
            count[0] += 1
            changed.append((count[0] == number and fail()) or message)
        return send(self, changed)

    def ran(self: Nft, commands: str) -> None:
        count[0] += 1
        if count[0] == number:
            exists = fail() is TAKEN
            raise NftError("Error: Could not process rule: File exists" if exists else "Error: refused")
        run(self, commands)

    change = HotElements.change

    def changed_elements(self: HotElements, changes: list[Change]) -> None:
        count[0] += 1
        if count[0] == number:
            err = OSError(errno.EEXIST if fail() is TAKEN else errno.EINVAL, "refused")
            raise ChangeRefused(err, changes[0])
        change(self, changes)

    with NetlinkSocket() as sock:
        assert [ack.errno for ack in sock.send([REFUSED, TAKEN])] == [errno.EINVAL, errno.EEXIST]
    with (
        mock.patch.object(NetlinkSocket, "send", sent),
        mock.patch.object(Nft, "run", ran),
        mock.patch.object(HotElements, "change", changed_elements),
    ):
        yield count
