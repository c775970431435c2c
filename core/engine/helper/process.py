"""The helper process: opens the store, keeps the tree, answers requests, and ends when it is told to."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

from engine.helper.config import HelperConfig
from engine.helper.messages import HelperGone, error_json
from engine.helper.place import HelperPlace
from engine.plugins import Plugins
from engine.spec.errors import DeadlineExceeded, EngineError, Forbidden, Internal, InvalidParameter
from engine.spec.storage import PROBES, Store
from engine.spec.trees import SyncedTree, TreeStatus
from engine.storage.stores import Stores

log = logging.getLogger("engine.helper")

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds between two tries to open a tree: the first time, and at most."""
PROBE = f"{PROBES}write"
"""Object that is written to a new volume's store and removed again."""
LOG_BYTES = 1 << 20
"""A log of this size is put aside; one older one is kept."""


class TreeLike(Protocol):
    """What a helper needs of `engine.tree.tree.Tree`."""

    def open(self) -> None:
        """Read the journal, list the store, fetch what has to be local. Raises EngineError."""

    def status(self) -> TreeStatus:
        """Return the state; also while `open` runs."""

    def descriptors(self) -> Sequence[int]:
        """Return what is to be held open as long as a container runs on the tree."""

    def barrier(self, deadline: float) -> int:
        """Upload what is changed now; return how many changes are left after `deadline` seconds."""

    def close(self, deadline: float) -> int:
        """Do so, and end."""


class MakeTree(Protocol):
    """Makes a tree that is not open yet."""

    def __call__(self, resource: SyncedTree, store: Store, *, host: str) -> TreeLike:
        """Return it."""


def open_store(config: HelperConfig) -> Store:
    """Open the store of a configuration. Raises what drivers and their secrets raise."""
    stores = Stores(Plugins())
    return stores.open(stores.plan(config.store.url, config.store.options), config.given_secrets())


class Session:
    """The life of one helper."""

    def __init__(self, config: HelperConfig, make_tree: MakeTree) -> None:
        assert config.tree is not None
        self._config, self._resource, self._make_tree = config, config.tree, make_tree
        self._tree: TreeLike | None = None
        self._store: Store | None = None
        self._failure: EngineError | None = None
        self._changed = threading.Condition()
        self._opened = False
        self._closing = threading.Lock()
        self._closed = threading.Event()
        self._left = 0
        self.ended = threading.Event()
        """Set when the process is to end."""

    # Opening

    def open(self) -> None:
        """Open the tree, and try again as long as it cannot be opened."""
        pause = FIRST_RETRY
        while not self._closed.is_set():
            failure = self._try_open()
            with self._changed:
                self._opened, self._failure = failure is None, failure
                self._changed.notify_all()
            if failure is None:
                log.info("%s is ready", self._resource.path)
                return
            log.warning("%s cannot be opened, next try in %g s: %s", self._resource.path, pause, failure)
            self._closed.wait(pause)
            pause = min(pause * 2, LONGEST_RETRY)

    def _try_open(self) -> EngineError | None:
        try:
            self._store = open_store(self._config)
            tree = self._make_tree(self._resource, self._store, host=self._config.host)
            with self._changed:
                self._tree = tree
            tree.open()
        except Exception as err:
            if not isinstance(err, EngineError):
                log.exception("opening %s failed", self._resource.path)
            self._give_up()
            return err if isinstance(err, EngineError) else Internal("the tree cannot be opened", why=repr(err))
        return None

    def _give_up(self) -> None:
        with self._changed:
            tree, self._tree = self._tree, None
        store, self._store = self._store, None
        for close in (*((lambda: tree.close(0.0),) if tree else ()), *((store.close,) if store else ())):
            try:
                close()
            except Exception:
                log.exception("closing what could not be opened failed")

    # Requests

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises EngineError, which is the answer as well."""
        deadline = float(request.get("deadline", 0.0))
        match request.get("op"):
            case "status":
                return {"status": self.status().model_dump(mode="json")}
            case "barrier":
                return {"left": self._when_open(deadline).barrier(deadline)}
            case "stop":
                return {"left": self.close(deadline)}
            case other:
                raise InvalidParameter(f"a helper knows no request {other!r}")

    def status(self) -> TreeStatus:
        """Return the tree's state, or why there is none."""
        with self._changed:
            tree, failure = self._tree, self._failure
        if failure is not None and not self._opened:
            return TreeStatus(state="failed", reason=str(failure), last_error=str(failure))
        return tree.status() if tree is not None else TreeStatus(state="loading")

    def _when_open(self, seconds: float) -> TreeLike:
        """Return the tree when it is open. Raises why it is not."""
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._failure is not None or self._closed.is_set(), seconds)
            if self._failure is not None:
                raise self._failure
            if self._closed.is_set():
                raise HelperGone("the helper is ending")
            if not self._opened or self._tree is None:
                raise DeadlineExceeded("the content is not local yet", why=f"not within {seconds:g} s")
            return self._tree

    def close(self, deadline: float) -> int:
        """Upload for a while, and close; return how many changes are left. What is not open leaves all for later."""
        with self._closing:
            if self._closed.is_set():
                return self._left
            self._closed.set()
            with self._changed:
                tree = self._tree if self._opened else None
                self._changed.notify_all()
            if tree is not None:
                self._left = tree.close(deadline)
            if tree is not None and self._store is not None:
                self._store.close()
            return self._left

    def end(self) -> None:
        """Close at once, and end the process."""
        try:
            self.close(0.0)
        finally:
            self.ended.set()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections, each in a thread of its own."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError), connection.makefile("rb") as lines:
            for line in lines:
                request: dict[str, Any] = {}
                descriptors: Sequence[int] = ()
                try:
                    request = json.loads(line)
                    if request.get("op") == "descriptors":
                        descriptors = self._when_open(float(request.get("deadline", 0.0))).descriptors()
                        answer: dict[str, Any] = {"descriptors": len(descriptors)}
                    else:
                        answer = self.answer(request)
                except EngineError as err:
                    answer = {"error": error_json(err)}
                except Exception as err:
                    log.exception("a request failed: %r", line[:200])
                    answer = {"error": error_json(Internal("the helper failed", why=repr(err)))}
                _send(connection, json.dumps(answer).encode() + b"\n", descriptors)
                if request.get("op") == "stop":
                    self.ended.set()  # only now: the answer would not have been sent


def _send(connection: socket.socket, line: bytes, descriptors: Sequence[int]) -> None:
    """Send an answer; with its first byte, descriptors (unix(7), SCM_RIGHTS)."""
    if descriptors:
        socket.send_fds(connection, [line[:1]], list(descriptors))
        line = line[1:]
    connection.sendall(line)


def serve(lock: int, listener: int, config_fd: int, make_tree: MakeTree) -> int:
    """Run a helper until it is told to end; the descriptors are those that `launch` handed over."""
    for descriptor in (lock, listener, config_fd):
        os.set_inheritable(descriptor, False)
    config = HelperConfig.read(config_fd)
    assert config.tree is not None
    card = {"pid": os.getpid(), "resource": config.tree.model_dump(mode="json")}
    os.pwrite(lock, json.dumps(card).encode(), 0)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would have the secrets in it
    _survive_memory_shortage()
    _log_to(HelperPlace(config.tree.run))
    session = Session(config, make_tree)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=session.end).start())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for work in (session.open, lambda: session.serve(socket.socket(fileno=listener))):
        threading.Thread(target=work, daemon=True).start()
    session.ended.wait()
    return 0


def _log_to(place: HelperPlace) -> None:
    handler = RotatingFileHandler(place.log, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _survive_memory_shortage() -> None:
    """Ask the kernel to kill others first: the containers' files depend on this process."""
    try:
        Path("/proc/self/oom_score_adj").write_text("-900")
    except OSError:  # not allowed in some containers, and then no worse than before
        pass


def probe(config: HelperConfig) -> None:
    """See whether the credentials may write and remove objects: one is written and removed, past all wrappers.

    Raises Forbidden if they may not, and what else the store raises.
    """
    stores = Stores(Plugins())
    plan = stores.plan(config.store.url, config.store.options)
    store = stores.open(plan._replace(parts=plan.parts[-1:]), config.given_secrets())
    try:
        store.put(PROBE, b"Written to see whether this can be, and removed at once. It may be removed.")
        store.delete(PROBE)
    except Forbidden as err:
        raise Forbidden(
            f"{config.store.url} can be read, but not written",
            driver=err.driver,
            why=err.why or err.what,
            hint="Give credentials that may write and remove objects",
        ) from err
    finally:
        store.close()


def check(config_fd: int, out: Callable[[str], object]) -> int:
    """See whether a store can be used and written, and write the error as JSON if not. Returns the exit code."""
    os.set_inheritable(config_fd, False)
    config = HelperConfig.read(config_fd)
    try:
        store = open_store(config)
        try:
            store.check()
        finally:
            store.close()
        probe(config)
    except EngineError as err:
        out(json.dumps(error_json(err)))
        return 1
    return 0
