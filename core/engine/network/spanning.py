"""Networks that span hosts: what the cluster keeps of them, brought together with what this host has of them.

The cluster's networks are mirrored among this host's, so that all that lists, inspects and joins networks knows nothing
of it. A network's peers are followed while a container of this host is on it (see `remotes`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from engine.cluster.cluster import Changes, Cluster
from engine.cluster.model import ClusterNetwork
from engine.cluster.networks import free_vni
from engine.cluster.questions import Answer
from engine.network.creation import NetworkRequest
from engine.network.joining import Joining
from engine.network.model import NetworkRecord
from engine.network.parts import Parts
from engine.network.remotes import Remotes
from engine.network.replanning import Replanning
from engine.network.underlay import Underlay
from engine.network.verifying import Verifying
from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unavailable, Unsupported

log = logging.getLogger(__name__)
MOST_AT_ONCE = 500
"""So many endpoints on other hosts are taken over while a network's lock is held: some 0.1 s."""
YIELD_SECONDS = 0.001
"""Between two such lots: so that who waits for the lock, to join, gets it (a lock of Python's is not fair)."""


class Spanning:
    """The networks of scope global. Safe to use from any thread; without a cluster it refuses to make any."""

    def __init__(self, parts: Parts) -> None:
        self._state = parts.state
        self._store = parts.store
        self._creation = parts.creation
        self._planner = parts.planner
        self._addresses = parts.addresses
        self._reconciler = parts.reconciler
        self._replanning = Replanning(parts.store, parts.planner, parts.reconciler)
        self._remotes = Remotes(parts)
        self.joining = Joining(parts, self._remotes, self._required)
        """This host's endpoints."""
        self._faults: dict[str, str] = {}
        self._verifying: Verifying | None = None

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that this host is in."""
        return self._planner.cluster

    @property
    def _underlay(self) -> Underlay | None:
        return self._planner.underlay

    def enter(self, cluster: Cluster, directory: Path) -> None:
        """Be part of a cluster from now on; it is not started yet. `directory` keeps keys."""
        self._planner.cluster = cluster
        self._planner.underlay = Underlay(cluster, self._reconciler, self._state, directory)
        self._verifying = Verifying(self._store, self._planner, self._reconciler, cluster)
        cluster.watch(self)

    def exit(self) -> None:
        """Be in no cluster any more: its networks, which nobody here uses, are gone from this host."""
        self.close()
        self._verifying = self._planner.cluster = self._planner.underlay = None
        with self._creation.lock:
            for record in [n for n in self._store.networks() if n.scope == "global"]:
                self._forget(record)
        self._faults.clear()

    def close(self) -> None:
        """End what goes on by itself. The networks go on."""
        if self._underlay is not None:
            self._underlay.close()
        if self._verifying is not None:
            self._verifying.close()

    def faults(self) -> list[str]:
        """Say, in sentences, what does not work between this host and its cluster."""
        found = list(self._faults.values())
        if self.cluster is not None:
            found += self.cluster.faults()
            try:
                found += [f"the cluster's key {key} holds something else" for key in self.cluster.garbage()]
            except EngineError:
                log.debug("the cluster's keys cannot be looked at", exc_info=True)
        return found

    def started(self) -> None:
        """The cluster was started: answer what other hosts ask."""
        if self._verifying is not None:
            self._verifying.start()

    def verify(self, record: NetworkRecord) -> list[Answer]:
        """Return what each host says of a network. Raises Unsupported for one of this host alone, Unavailable."""
        if record.scope != "global":
            raise Unsupported(
                f"network {record.name} is this host's alone",
                hint=f"See: engine network plan {record.name}, engine doctor",
            )
        self._required(record.driver)
        assert self._verifying is not None  # there is a cluster
        return self._verifying.verify(record)

    # Networks

    def create(self, request: NetworkRequest) -> NetworkRecord:
        """Make a network for all hosts of the cluster. Raises what `Creation.record` raises, and Unavailable."""
        cluster = self._required(request.driver)
        self._check_agreed(cluster, request)

        def build(found: Sequence[ClusterNetwork]) -> ClusterNetwork:
            cluster.members.lease()  # a node that is kept out, such as one of another version, makes none
            with self._creation.lock:
                for network in found:  # others may have made some of which this host has not heard yet
                    self.network(network.id, network)

                def identity(wanted: int | None) -> tuple[str, int]:
                    if cluster.partition is not None:
                        return cluster.partition.network_id(request.name), wanted or cluster.partition.vni(request.name)
                    return secrets.token_hex(32), wanted or free_vni(found)

                record = self._creation.record(request, identity)
            if cluster.partition is not None and len(record.pools) != 1:
                raise InvalidParameter("a network of a cluster that is a file of peers has one subnet, of one family")
            return _of_cluster(record)

        network = cluster.networks.create(build)
        self.network(network.id, network)
        return self._store.get(network.id)

    def _required(self, driver: str) -> Cluster:
        if self.cluster is not None:
            return self.cluster
        raise Unsupported(
            f"networks of driver {driver} span the hosts of a cluster, and this daemon is in none",
            hint="Start it with --cluster etcd://HOST:2379 --advertise ADDRESS, or with a file of peers: "
            "--cluster file:///etc/engine/peers.json (docs/explanation/cluster.md)",
            driver=driver,
        )

    def _check_agreed(self, cluster: Cluster, request: NetworkRequest) -> None:
        """Refuse what hosts cannot agree on without a word, where a file of peers stands for a store."""
        if cluster.partition is None:
            return
        subnets = [str(config.get("Subnet") or "") for config in request.ipam if config]
        if len(subnets) != 1 or not all(subnets):
            raise InvalidParameter(
                "a network of a cluster that is a file of peers needs one subnet, the same on each host",
                hint="Give one --subnet",
            )
        cluster.partition.part(subnets[0])

    def remove(self, record: NetworkRecord) -> None:
        """Remove a network from the cluster. Raises Conflict while it has endpoints on any host, Unavailable."""
        if self.cluster is not None:
            self.cluster.networks.remove(record.id)

    def network(self, id: str, network: ClusterNetwork | None) -> None:
        """Mirror a network of the cluster, or that it is gone (called by the cluster, and after a creation)."""
        with self._creation.lock:
            known = next((n for n in self._store.networks() if n.id == id), None)
            self._faults.pop(id, None)
            if network is not None:
                self._mirror(network, known)
            in_use = known if network is None and known is not None and not self._forget(known) else None
        if in_use is not None:
            self._write_anew(in_use)

    def _mirror(self, network: ClusterNetwork, known: NetworkRecord | None) -> None:
        try:
            record = self._mirrored(network, known)
            if record != known:
                self._store.put_network(record)
        except (ValidationError, EngineError, ValueError) as err:
            why = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
            self._fault(network.id, f"network {network.name} of the cluster cannot be used on this host: {why}")

    def _mirrored(self, network: ClusterNetwork, known: NetworkRecord | None) -> NetworkRecord:
        own = {"plan": known.plan, "links": known.links} if known else {}
        record = NetworkRecord.model_validate(network.record).model_copy(
            update={"id": network.id, "name": network.name, "driver": network.driver, "vni": network.vni} | own
        )
        partition = self.cluster.partition if self.cluster else None
        if partition is not None:
            pools = tuple(p.model_copy(update={"ip_range": partition.part(p.subnet)}) for p in record.pools)
            record = record.model_copy(update={"pools": pools})
        return record

    def _forget(self, record: NetworkRecord) -> bool:
        """Forget a network that is gone from the cluster; False if containers here are on it."""
        try:
            self._store.delete_network(record)
        except Conflict:
            return False
        self._addresses.forget(record)
        return True

    def _write_anew(self, record: NetworkRecord) -> bool:
        """Put a network back into the cluster that is gone there while containers here are on it; tell whether it is.

        None in use is ever removed: somebody took its key away, or this host was away for longer than its grace.
        """
        assert self.cluster is not None
        shared = record.model_copy(update={"plan": "", "links": {}})  # those are this host's own
        try:
            self.cluster.networks.restore(_of_cluster(shared))
        except EngineError as err:
            sentence = f"network {record.name} is in use here, gone from the cluster, and cannot be put back: {err}"
            self._fault(record.id, sentence)
            return False
        log.warning("network %s was gone from the cluster while containers here are on it: it is put back", record.name)
        return True

    def _fault(self, id: str, sentence: str) -> None:
        self._faults[id] = sentence
        log.warning("%s", sentence)

    # What the cluster tells

    def peers(self, network: str, changes: Changes) -> Collection[str]:
        """Take over endpoints on other hosts; returns those that could not be, after all that can be are."""
        errors: dict[str, EngineError] = {}
        ids = list(changes)
        for start in range(0, len(ids), MOST_AT_ONCE):
            some = {id: changes[id] for id in ids[start : start + MOST_AT_ONCE]}
            with self._store.lock(network):
                if not self._store.endpoints_of(network):
                    return ()  # the last container has left meanwhile
                errors |= self._remotes.take_over(self._store.get(network), some)
            if start + MOST_AT_ONCE < len(ids):
                time.sleep(YIELD_SECONDS)
        if errors:
            log.warning("network %s: %d containers of other hosts cannot be reached yet: %s", network[:12], len(errors),
                        next(iter(errors.values())))  # fmt: skip
        return errors

    def missed(self, network: str, endpoints: Collection[str]) -> None:
        """Write endpoints of this host anew that somebody took out of the cluster. Raises Unavailable."""
        with self._store.lock(network):
            if any(self._store.endpoint(id) for id in endpoints):
                log.warning("the cluster has lost endpoints of this host: they are written anew")
                self._agree(self._store.get(network))

    def hosts(self) -> None:
        """Follow the other hosts: their keys, the largest packets between all of them, which hosts there are."""
        if self._underlay is not None:
            try:
                self._underlay.follow()
            except EngineError as err:
                log.warning("encryption does not follow the hosts of the cluster: %s", err)
        for record in self.in_use():
            try:
                self._replanning.follow_links(record.id)
            except EngineError as err:
                log.warning("network %s does not follow the hosts of the cluster: %s", record.name, err)

    def returned(self) -> None:
        """Make what the cluster has of this host's endpoints what there is."""
        assert self.cluster is not None
        if self._underlay is not None:
            try:
                self._underlay.publish()
                for record in filter(self.joining.encrypts, self.in_use()):
                    self._underlay.secure(record.id)
            except EngineError as err:
                log.warning("the other hosts are not told of this one: %s", err)
        for record in (n for n in self._store.networks() if n.scope == "global"):
            try:
                with self._store.lock(record.id):
                    self._agree(record)
            except Unavailable as err:
                log.warning("the cluster has gone again: %s", err)
                return
        for record in self.in_use():
            self.cluster.use(record.id)

    def _agree(self, record: NetworkRecord) -> None:
        """Make what the cluster has of this host's endpoints on a network what there is. Raises Unavailable."""
        assert self.cluster is not None
        try:
            refused = self.joining.agree(self.cluster, record)
        except NotFound:  # the network, while containers here are on it
            if not self._write_anew(record):
                return
            refused = self.joining.agree(self.cluster, record)
        self._faults.pop(f"refused {record.id}", None)
        if refused:
            whys = "; ".join(map(str, refused))
            self._fault(f"refused {record.id}", f"network {record.name}: while this host was away, {whys}")

    # The start of the daemon

    def restore(self) -> None:
        """Want the plans of the peers that an earlier daemon knew, and have the cluster tell of differences to them."""
        in_use = {record.id: record for record in self.in_use()}
        if self._underlay is not None:
            self._underlay.adopt(id for id, record in in_use.items() if self.joining.encrypts(record))
        if self.cluster is not None:
            self.cluster.networks.seed(n.id for n in self._store.networks() if n.scope == "global")
        for remote in self._remotes.restore(in_use):
            if self.cluster is not None:
                self.cluster.seed(remote.endpoint.network, {remote.endpoint.id: remote})
        if in_use and self.cluster is None:
            names = ", ".join(sorted(record.name for record in in_use.values()))
            log.warning("this daemon is in no cluster any more: nothing is heard of the other hosts on %s", names)

    def in_use(self) -> list[NetworkRecord]:
        """Return the networks of the cluster that containers of this host are on."""
        return [n for n in self._store.networks() if n.scope == "global" and self._store.endpoints_of(n.id)]


def _of_cluster(record: NetworkRecord) -> ClusterNetwork:
    assert record.vni is not None  # it was made for a cluster
    return ClusterNetwork(id=record.id, name=record.name, driver=record.driver, vni=record.vni, record=record.doc())
