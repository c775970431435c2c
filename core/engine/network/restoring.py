"""What a new daemon makes of the networks that it finds, and what follows when the host changes."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from engine.alone import UNREADABLE, alone, reason
from engine.network.attaching import Attaching
from engine.network.connecting import Connecting
from engine.network.model import Attachment, NetworkRecord
from engine.network.parts import Parts
from engine.network.publishing import Publishing
from engine.network.replanning import announce
from engine.network.sandboxes import Sandboxes
from engine.network.spanning import Spanning
from engine.reconcile.applier import Sandbox
from engine.spec.errors import EngineError
from engine.spec.resource import Plan

log = logging.getLogger(__name__)


class Restoring:
    """Brings endpoints to where they belong. Safe to use from any thread."""

    def __init__(
        self,
        parts: Parts,
        spanning: Spanning,
        attaching: Attaching,
        publishing: Publishing,
        connecting: Connecting,
        sandboxes: Sandboxes,
    ) -> None:
        self._store = parts.store
        self._planner = parts.planner
        self._names = parts.names
        self._reconciler = parts.reconciler
        self._spanning = spanning
        self._attaching = attaching
        self._publishing = publishing
        self._connecting = connecting
        self._sandboxes = sandboxes
        self.faults: dict[str, str] = {}
        """What could not be taken up, with a sentence why."""

    def restore(self, live_containers: Collection[str]) -> None:
        """Take up what an earlier daemon left: want the plans of running containers, forget those of others.

        The host is not touched but for the namespaces of containers that are gone: `Reconciler.collect` and `repair`,
        after all managers have restored, do the rest.
        """
        live = set(live_containers)
        self._store.drop_unreadable_endpoints(live)
        for endpoint in self._store.endpoints():
            if endpoint.container.id not in live:
                self._attaching.leasing.release(endpoint)
                self._store.delete_endpoint(endpoint)
        for record in self._store.networks():
            endpoints = self._store.endpoints_of(record.id)
            if endpoints:
                with alone(f"network {record.name}", self.faults):
                    self._reconciler.adopt(record.owner, Plan.from_json(record.plan))
            for endpoint in endpoints:
                with alone(f"container {endpoint.container.name} on network {record.name}", self.faults):
                    self._take_up(endpoint, record)
        self._spanning.restore()
        self._sandboxes.sweep(live)
        self._restore_names()

    def _take_up(self, endpoint: Attachment, record: NetworkRecord) -> None:
        self._reconciler.adopt(endpoint.owner, Plan.from_json(endpoint.plan), sandbox=Sandbox(Path(endpoint.sandbox)))
        self._attaching.ports.adopt(endpoint.ports, endpoint.id, endpoint.container.name)
        self._attaching.leasing.track(endpoint, unsure=True)
        if endpoint.arriving:
            log.info("container %s was being connected to network %s", endpoint.container.name, record.name)
            self._attaching.detach(endpoint, namespace_gone=False)

    def _restore_names(self) -> None:
        """Serve all living containers again: what their resolv.conf says was settled when they started."""
        for container, path in {e.container.id: e.sandbox for e in self._store.endpoints()}.items():
            try:
                self._names.serve(container, Sandbox(Path(path)))
            except EngineError as err:
                log.error("container %s cannot look up names: %s", container[:12], err)

    def settle(self) -> None:
        """Finish what an earlier daemon had begun with running containers, after the host was repaired.

        What it was about to change in them is done; default routes and published ports go where they belong.
        """
        replanning = self._attaching.replanning
        self.follow_links()  # a parent, or this host's address in its cluster, may have changed meanwhile
        for container in {e.container.id: e.container for e in self._store.endpoints()}.values():
            with alone(f"the networks of container {container.name}", self.faults):
                endpoints = self._store.of_container(container.id)
                for endpoint in (e for e in endpoints if e.unsettled):
                    replanning.settle(endpoint)
                self._connecting.lead_out(container, Sandbox(Path(endpoints[0].sandbox)))
                replanning.reroute(container.id)
                self._publishing.follow(container.id)

    def follow_links(self) -> bool:
        """Go over to other plans where links that networks are on (parents) have changed, for example their addresses.

        Return whether all did. What cannot be done is logged: the links may change again.
        """
        well = True
        for record in self._store.networks():
            if (record.links or record.scope == "global") and self._store.endpoints_of(record.id):
                try:
                    self._attaching.replanning.follow_links(record.id)
                except (EngineError, *UNREADABLE) as err:
                    log.warning("network %s does not follow its links: %s", record.name, reason(err))
                    well = False
        return well

    def announce(self, owners: Collection[str]) -> None:
        """Tell shared wires of endpoints whose links were made anew; `owners` is as in the reconciler's reports."""
        for endpoint in self._store.endpoints():
            if endpoint.owner in owners and self._planner.caps(endpoint.driver).shares_wire:
                announce(endpoint)
