"""Deletes links without waiting for the kernel's grace periods.

RTM_DELLINK is answered 15-45 ms after it was sent. Long before, within a millisecond, the link has been put down and
taken out of its namespace: its name is free, nothing passes through it any more, and no list shows it. So the request
is made in another thread, and what is waited for is that the link is gone, or that it is refused.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

from engine.reconcile import messages as m
from engine.reconcile.rtnetlink import Ack, NetlinkSocket

MOST = 8
"""So many links are on their way out at a time; the next one waits."""
FIRST_LOOK, LAST_LOOK = 0.0001, 0.002
"""Seconds between looks at whether a link is gone: it is asked for with an ioctl, which waits for nothing."""


class Unlinking:
    """Deletions that are under way. To be used by one thread."""

    def __init__(self) -> None:
        self._workers = ThreadPoolExecutor(MOST, thread_name_prefix="unlink")

    def delete(self, index: int, sender: NetlinkSocket, looker: NetlinkSocket) -> Ack:
        """Delete the link of that index, and return the answer as soon as it is known.

        Both sockets are in the link's namespace. `sender` is used up: it is closed here.
        """
        answer = self._workers.submit(_send, index, sender)
        pause = FIRST_LOOK
        while not answer.done():
            if not looker.name(index):
                return Ack(0)
            wait([answer], pause)
            pause = min(1.2 * pause, LAST_LOOK)
        return answer.result()


def _send(index: int, sender: NetlinkSocket) -> Ack:
    with sender:
        (ack,) = sender.send([m.delete_link(index)])
        return ack
