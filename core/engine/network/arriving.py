"""From a link that is there to an endpoint that has its addresses, on a wire that is not the engine's alone.

Only on the link can be asked whether an address is free, or what a DHCP server gives. That takes time, and is done
without the network's lock: others come and go meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.lease import Lease
from engine.network.addresses import Chosen, with_lengths
from engine.network.leasing import Leasing
from engine.network.model import Attachment, NetworkRecord, PortRequest, PublishedPort
from engine.network.parts import Parts
from engine.network.ports import Ports
from engine.network.replanning import Replanning, announce
from engine.reconcile import neighbourhood
from engine.reconcile.applier import Sandbox
from engine.spec.errors import Conflict
from engine.spec.network import Network
from engine.spec.values import family_of

log = logging.getLogger(__name__)
MOST_CONFLICTS = 8
"""So many addresses that others have are passed over for one endpoint; each costs a wait for its answer."""
Publish = Callable[[NetworkRecord, Attachment, Sequence[PortRequest]], tuple[PublishedPort, ...]]


GONE_SECONDS = (0.05, 0.1, 0.2)
"""Pauses in which the links of a namespace that was dropped go: 16 to 47 ms on an idle machine."""


def _lasting_conflicts(sandbox: Sandbox, link: str, addresses: Sequence[str]) -> dict[str, str]:
    """Ask who has these addresses; an answer counts when it comes again.

    The links of a container that has just ended answer for a moment, and a restart with a fixed address must not be
    refused because of them.
    """
    for pause in GONE_SECONDS:
        found = neighbourhood.conflicts(sandbox, link, addresses)
        if not found:
            return found
        time.sleep(pause)
    return neighbourhood.conflicts(sandbox, link, addresses)


class Arriving:
    """Gives endpoints addresses that are not the engine's to give alone. Safe to use from any thread."""

    def __init__(self, parts: Parts, replanning: Replanning, ports: Ports, publish: Publish) -> None:
        self._store = parts.store
        self._addresses = parts.addresses
        self._replanning = replanning
        self._ports = ports
        self._publish = publish
        self.leasing = Leasing(parts.plugins, parts.store, self.lease_changed)

    def arrive(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        chosen: list[Chosen],
        ports: Sequence[PortRequest],
    ) -> Attachment:
        """Give an endpoint whose link is there its addresses, once nobody else on the wire has them.

        Without the network's lock: others may come and go while this one listens.
        """
        sandbox, own = Sandbox(Path(attachment.sandbox)), host_addresses(network)
        for _ in range(MOST_CONFLICTS):
            addresses = [address for _, address in chosen]
            conflicts = {a: own[a] for a in addresses if a in own}
            if not conflicts and getattr(network.options, "probe", True):
                conflicts = _lasting_conflicts(sandbox, attachment.ifname, addresses)
            if not conflicts:
                break
            log.warning("addresses of network %s are in use on its wire: %s", record.name, conflicts)
            with self._store.lock(record.id):
                chosen = self._addresses.exchange(
                    record, chosen, conflicts, attachment.settings, attachment.container, attachment.id
                )
            attachment = attachment.model_copy(update={"addresses": with_lengths(chosen)})
        else:
            raise Conflict(
                f"no free address was found for container {attachment.container.name} on network {record.name}",
                why=f"{MOST_CONFLICTS} addresses one after the other are in use on the wire",
                hint="Give the network a range that is its own: --ip-range",
                details={"conflicts": conflicts},
            )
        return self._complete(attachment, ports)

    def lease(
        self,
        record: NetworkRecord,
        network: Network[Any],
        attachment: Attachment,
        ports: Sequence[PortRequest],
        route: frozenset[int],
    ) -> Attachment:
        """Give an endpoint whose link is there the address that a DHCP server on its wire has for it."""
        lease = self.leasing.acquire(record, attachment, probe=getattr(network.options, "probe", True))
        attachment = with_lease(attachment, lease, internal=record.internal)
        gateways = tuple(g for g in attachment.network_gateways if family_of(g) in route)
        attachment = attachment.model_copy(update={"gateways": gateways})
        try:
            done = self._complete(attachment, ports)
        except BaseException:
            self.leasing.release(attachment)
            raise
        self.leasing.track(done)
        return done

    def lease_changed(self, endpoint: Attachment, lease: Lease | None) -> None:
        """Go over to another lease of an endpoint; None: it has lost its address."""
        with self._store.lock(endpoint.network):
            current = self._store.endpoint(endpoint.id)
            if current is None:
                return
            internal = self._store.get(current.network).internal
            changed = with_lease(current, lease, internal=internal)
            if changed.addresses == current.addresses and changed.network_gateways == current.network_gateways:
                self._store.put_endpoint(changed)
                return
            log.info("container %s on network %s: addresses %s", current.container.name, current.network_name,
                     ", ".join(changed.addresses) or "none")  # fmt: skip
            routed = current.gateways if changed.network_gateways == current.network_gateways else ()
            done = self._replanning.replan(changed.model_copy(update={"gateways": routed}))
        self._replanning.reroute(done.container.id)
        announce(done)

    def _complete(self, attachment: Attachment, ports: Sequence[PortRequest]) -> Attachment:
        """Give an endpoint that is there its addresses, routes and ports, and tell the wire."""
        with self._store.lock(attachment.network):
            record = self._store.get(attachment.network)
            if self._store.endpoint(attachment.id) is None:
                raise Conflict(f"container {attachment.container.name} was taken off network {record.name} meanwhile")
            published = self._publish(record, attachment, ports)
            try:
                done = self._replanning.replan(attachment.model_copy(update={"ports": published}))
            except BaseException:
                self._ports.release(published, attachment.id)
                raise
        announce(done)
        return done


def with_lease(attachment: Attachment, lease: Lease | None, *, internal: bool) -> Attachment:
    """Return an endpoint with what a lease brings; its own default routes are not decided here."""
    return attachment.model_copy(update={
        "lease": lease,
        "addresses": (lease.address,) if lease else (),
        "network_gateways": lease.routers[:1] if lease and not internal else (),
    })  # fmt: skip


def host_addresses(network: Network[Any]) -> dict[str, str]:
    """Return the host's own addresses on the links that a network is on, with their MAC addresses.

    The host does not answer for them to its own children of the link.
    """
    facts = network.links.values()
    return {a.partition("/")[0]: f"{fact.mac} (the host)" for fact in facts for a in fact.addresses}
