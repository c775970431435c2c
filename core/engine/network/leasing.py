"""Addresses that a DHCP server gives for a time: got at the attachment, kept while it lasts, given back at its end.

One thread knows when which lease is due; the asking is done by a few others, since a server may take its time. What a
server says later (other address, no address any more) is handed to `changed`, which makes the endpoint's plan anew.
Leases are part of the endpoints in the database: the next daemon asks whether they hold, and goes on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.lease import Lease
from engine.network.addresses import GROUP, ipam_options
from engine.network.model import Attachment, NetworkRecord
from engine.network.store import NetworkStore
from engine.plugins import Plugins
from engine.reconcile import neighbourhood
from engine.reconcile.applier import Sandbox
from engine.reconcile.dhcp import Client, NoAnswer, Refused, Stopped
from engine.spec.errors import Conflict, DeadlineExceeded, EngineError
from engine.spec.ipam import IpamDriver

log = logging.getLogger(__name__)
ANSWER_SECONDS = 3.0
"""For so long one attempt to extend a lease waits; there are more attempts."""
SOONEST = 5.0
"""Seconds between attempts while nobody answers, at least (RFC 2131 says 60, for leases of hours)."""
WORKERS = 4


class Leasing:
    """The leases of all endpoints. Safe to use from any thread."""

    def __init__(
        self, plugins: Plugins, store: NetworkStore, changed: Callable[[Attachment, Lease | None], object]
    ) -> None:
        """`changed` is called, in a thread of this, when an endpoint has another lease, or has lost it."""
        self._plugins = plugins
        self._store = store
        self._changed = changed
        self._due: dict[str, float] = {}
        self._unsure: set[str] = set()
        self._wake = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._workers: ThreadPoolExecutor | None = None

    def serves(self, record: NetworkRecord) -> bool:
        """Return whether a network's addresses are leased."""
        driver = self._plugins.get(GROUP, record.ipam_driver)
        return isinstance(driver, IpamDriver) and driver.caps.leases

    def acquire(self, record: NetworkRecord, endpoint: Attachment, *, probe: bool) -> Lease:
        """Get a lease for an endpoint whose link is there.

        With `probe`, an address that somebody on the wire has is declined. Raises DeadlineExceeded when no server
        gives a usable address in time, Conflict when none gives the one that was asked for.
        """
        options = ipam_options(self._plugins, record.ipam_driver, dict(record.ipam_options))
        timeout = float(getattr(options, "timeout", 10.0))
        end, wanted, refused = time.monotonic() + timeout, endpoint.settings.ip, ""
        with self._client(record, endpoint) as client:
            while True:
                try:
                    lease = client.acquire(end - time.monotonic(), wanted)
                except NoAnswer:
                    raise DeadlineExceeded(
                        f"no DHCP server gave container {endpoint.container.name} an address on network {record.name}",
                        why=refused or f"nobody answered within {timeout:g} s",
                        hint="Is there a server on the wire, and the parent's cable plugged in?",
                        driver=record.ipam_driver,
                    ) from None
                address = lease.address.partition("/")[0]
                if wanted and address != wanted:
                    client.release(lease)
                    raise Conflict(
                        f"the DHCP server does not give the address {wanted} on network {record.name}",
                        why=f"it offers {address}",
                        hint="Reserve the address in the server, or leave the choice to it",
                    )
                found = neighbourhood.conflicts(_sandbox(endpoint), endpoint.ifname, [address]) if probe else {}
                if not found:
                    return lease
                refused = f"{found[address]} on the wire has the address {address} that the server gave"
                log.warning("network %s: %s", record.name, refused)
                client.decline(lease)

    def release(self, endpoint: Attachment) -> None:
        """Give an endpoint's lease back, while its link is there, and look after it no longer. None: no error."""
        self.forget(endpoint)
        if endpoint.lease is None:
            return
        try:
            with self._client(self._store.get(endpoint.network), endpoint) as client:
                client.release(endpoint.lease)
        except (OSError, EngineError) as err:
            log.warning("the lease of container %s ends by itself: %s", endpoint.container.name, err)

    def track(self, endpoint: Attachment, *, unsure: bool = False) -> None:
        """Look after an endpoint's lease; one that is `unsure`, since an earlier process got it, is confirmed first."""
        if endpoint.lease is None:
            return
        with self._wake:
            if unsure:
                self._unsure.add(endpoint.id)
            self._due[endpoint.id] = 0.0 if unsure else endpoint.lease.obtained + endpoint.lease.renew
            if self._thread is None:
                self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="lease")
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._wake.notify()

    def forget(self, endpoint: Attachment) -> None:
        """Look after an endpoint's lease no longer."""
        with self._wake:
            self._due.pop(endpoint.id, None)
            self._unsure.discard(endpoint.id)

    def close(self) -> None:
        """End the threads, at once also while a server does not answer. The leases go on."""
        with self._wake:
            self._closed.set()
            self._wake.notify()
        if self._thread is not None and self._workers is not None:
            self._thread.join()
            self._workers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        with self._wake:
            while not self._closed.is_set():
                now = time.time()
                for id in [id for id, due in self._due.items() if due <= now]:
                    del self._due[id]  # it comes back with a new time
                    assert self._workers is not None
                    self._workers.submit(self._tend, id)
                self._wake.wait(max(0.0, min(self._due.values()) - time.time()) if self._due else None)

    def _tend(self, id: str) -> None:
        """Do what is due for a lease, and say when to look at it again."""
        endpoint = self._store.endpoint(id)
        if endpoint is None or endpoint.lease is None:
            return
        try:
            lease = self._ask(endpoint, endpoint.lease)
            if lease != endpoint.lease:
                self._changed(endpoint, lease)
            again = _next(lease) if lease else time.time() + SOONEST
        except Stopped:
            return
        except Exception:  # a lease must not be forgotten because something else failed
            log.exception("the lease of container %s could not be looked after", endpoint.container.name)
            again = time.time() + SOONEST
        with self._wake:
            if self._store.endpoint(id) is not None and not self._closed.is_set():
                self._due[id] = again
                self._wake.notify()

    def _ask(self, endpoint: Attachment, lease: Lease) -> Lease | None:
        """Return the lease that holds from now on: the same while nobody answers, None when it has ended."""
        record = self._store.get(endpoint.network)
        age = time.time() - lease.obtained
        try:
            with self._client(record, endpoint, self._closed) as client:
                try:
                    if age >= lease.seconds:
                        return client.acquire(ANSWER_SECONDS, lease.address.partition("/")[0])
                    if endpoint.id in self._unsure:
                        fresh = client.confirm(lease, ANSWER_SECONDS)
                    elif age >= lease.renew:
                        fresh = client.extend(lease, ANSWER_SECONDS, anybody=age >= lease.rebind)
                    else:
                        return lease
                except Refused as err:
                    log.warning("container %s loses its address %s: %s", endpoint.container.name, lease.address, err)
                    return client.acquire(ANSWER_SECONDS)
                self._unsure.discard(endpoint.id)
                return fresh
        except NoAnswer:
            self._unsure.discard(endpoint.id)
            return lease if age < lease.seconds else None
        except OSError as err:  # its link waits for a parent, or it is about to go
            log.info("the lease of container %s has no link: %s", endpoint.container.name, err)
            return lease

    def _client(self, record: NetworkRecord, endpoint: Attachment, stop: threading.Event | None = None) -> Client:
        options = ipam_options(self._plugins, record.ipam_driver, dict(record.ipam_options))
        name = endpoint.container.hostname if getattr(options, "hostname", True) else ""
        return Client(_sandbox(endpoint), endpoint.ifname, identity(record, endpoint), name, stop)


def identity(record: NetworkRecord, endpoint: Attachment) -> bytes:
    """Return by what a DHCP server knows a container on a network: the same at each of its starts (RFC 4361).

    255, four bytes for the link, and a DUID of type 4 (RFC 6355), both from the network's and the container's name.
    """
    digest = hashlib.sha256(f"{record.id}/{endpoint.container.name}".encode()).digest()
    return b"\xff" + digest[16:20] + b"\x00\x04" + digest[:16]


def _sandbox(endpoint: Attachment) -> Sandbox:
    return Sandbox(Path(endpoint.sandbox))


def _next(lease: Lease) -> float:
    """Return when to look at a lease again: at T1; later, halfway to what is next (RFC 2131, 4.4.5)."""
    now = time.time()
    for moment in (lease.renew, lease.rebind, lease.seconds):
        left = lease.obtained + moment - now
        if left > 0:
            return now + (left if moment == lease.renew else min(max(left / 2, SOONEST), left))
    return now
