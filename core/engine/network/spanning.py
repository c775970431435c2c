"""Networks that span hosts: what the cluster keeps of them, brought together with what this host has of them.

The cluster's networks are mirrored among this host's, so that all that lists, inspects and joins networks knows nothing
of it. A network's peers are followed while a container of this host is on it, each with a plan of its own
(`peer:NETWORK:ENDPOINT`): what joins elsewhere costs this host that one plan. They are kept in the database as well, so
that the next daemon finds everything as it was before the cluster has said a word.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from engine.cluster.cluster import Changes, Cluster, Remote
from engine.cluster.model import ClusterEndpoint, ClusterNetwork
from engine.cluster.networks import free_vni
from engine.cluster.questions import Answer
from engine.network.addresses import Addresses
from engine.network.creation import Creation, NetworkRequest
from engine.network.elsewhere import Elsewhere
from engine.network.model import Attachment, EndpointSettings, NetworkRecord
from engine.network.names import Names
from engine.network.planner import Planner
from engine.network.replanning import Replanning
from engine.network.store import NetworkStore
from engine.network.underlay import Underlay
from engine.network.verifying import Verifying
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unavailable, Unsupported
from engine.spec.network import Peer
from engine.spec.options import wants_encryption
from engine.state import State

log = logging.getLogger(__name__)
PEER = "peer"
"""Kind of objects in the database: endpoints on other hosts whose plans are applied here."""
ATTEMPTS = 32
"""So many addresses that other hosts were quicker to take are passed over for one endpoint."""
LISTING_SECONDS = 2.0
T = TypeVar("T")


class Spanning:
    """The networks of scope global. Safe to use from any thread; without a cluster it refuses to make any."""

    def __init__(
        self,
        state: State,
        store: NetworkStore,
        creation: Creation,
        planner: Planner,
        addresses: Addresses,
        reconciler: Reconciler,
        names: Names,
    ) -> None:
        self._state = state
        self._store = store
        self._creation = creation
        self._planner = planner
        self._addresses = addresses
        self._reconciler = reconciler
        self._names = names
        self._replanning = Replanning(store, planner, reconciler)
        self._faults: dict[str, str] = {}
        self.cluster: Cluster | None = None
        self._verifying: Verifying | None = None

    def enter(self, cluster: Cluster, directory: Path) -> None:
        """Be part of a cluster from now on; it is not started yet. `directory` keeps keys."""
        self.cluster = cluster
        self._planner.cluster = cluster
        self._planner.underlay = Underlay(cluster, self._reconciler, self._state, directory)
        self._verifying = Verifying(self._store, self._planner, self._reconciler, cluster)
        cluster.watch(self)

    def exit(self) -> None:
        """Be in no cluster any more: its networks, which nobody here uses, are gone from this host."""
        self.close()
        self.cluster = self._verifying = self._planner.cluster = self._planner.underlay = None
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

    @property
    def _underlay(self) -> Underlay | None:
        return self._planner.underlay

    def _encrypts(self, record: NetworkRecord) -> bool:
        return wants_encryption(self._planner.network(record, "known").options)

    def started(self) -> None:
        """The cluster was started: answer what other hosts ask."""
        if self._verifying is not None:
            self._verifying.start()

    def verify(self, record: NetworkRecord) -> list[Answer]:
        """Return what each host says of a network. Raises Unsupported without a cluster, Unavailable."""
        self._required(record.driver)
        assert self._verifying is not None  # there is a cluster
        return self._verifying.verify(record)

    # Networks

    def create(self, request: NetworkRequest) -> NetworkRecord:
        """Make a network for all hosts of the cluster. Raises what `Creation.record` raises, and Unavailable."""
        cluster = self._required(request.driver)
        self._check_agreed(cluster, request)

        def build(found: Sequence[ClusterNetwork]) -> ClusterNetwork:
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
            assert record.vni is not None  # as `identity` says
            return ClusterNetwork(
                id=record.id, name=record.name, driver=record.driver, vni=record.vni, record=record.doc()
            )

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
            if network is None:
                if known is not None:
                    self._forget(known)
                return
            try:
                record = self._mirrored(network, known)
                if record != known:
                    self._store.put_network(record)
            except (ValidationError, EngineError, ValueError) as err:
                why = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
                self._fault(id, f"network {network.name} of the cluster cannot be used on this host: {why}")

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

    def _forget(self, record: NetworkRecord) -> None:
        try:
            self._store.delete_network(record)
            self._addresses.forget(record)
        except Conflict:
            self._fault(record.id, f"network {record.name} is gone from the cluster while containers here are on it")

    def _fault(self, id: str, sentence: str) -> None:
        self._faults[id] = sentence
        log.warning("%s", sentence)

    # Endpoints of this host

    def claim(
        self, record: NetworkRecord, settings: EndpointSettings, choose: Callable[[], tuple[Attachment, T]]
    ) -> tuple[Attachment, T]:
        """Have the cluster's word for the addresses that `choose` chooses; it is asked again when others have them.

        The caller holds the network's lock. Raises what `choose` and `Endpoints.join` raise.
        """
        cluster = self._required(record.driver)
        if cluster.partition is not None and (settings.mac or settings.ip or settings.ip6):
            raise Unsupported(
                "addresses cannot be chosen on a network of a cluster that is a file of peers",
                why="the other hosts would not hear of it", hint="A cluster on etcd can",
            )  # fmt: skip
        if self._underlay is not None and self._encrypts(record):
            self._underlay.secure(record.id)
        view = cluster.use(record.id)
        try:
            elsewhere = Elsewhere(view.taken)
            if view.follower is not None and not view.follower.wait(LISTING_SECONDS):
                elsewhere.learn(cluster.endpoints.taken(record.id))
            for attempt in range(ATTEMPTS):
                elsewhere.watch_over(self._addresses, record, at_random=attempt > 0)
                attachment, chosen = choose()
                if cluster.partition is not None:
                    mac = cluster.partition.mac(record.id, attachment.addresses[0].partition("/")[0])
                    attachment = attachment.model_copy(update={"mac": mac})
                try:
                    cluster.endpoints.join(record.id, endpoint_of(attachment, cluster.node.name))
                except Conflict as err:
                    if _asked_for(settings, err) or attempt == ATTEMPTS - 1:
                        raise
                    elsewhere.learn(cluster.endpoints.taken(record.id))
                else:
                    return attachment, chosen
            raise AssertionError("unreachable: the last attempt returns or raises")
        except BaseException:
            self.unused(record)
            raise

    def left(self, record: NetworkRecord, attachment: Attachment) -> None:
        """Tell the cluster that an endpoint is gone; if it cannot be told now, it is when it is back."""
        cluster = self.cluster
        if cluster is None:
            return
        try:
            cluster.endpoints.leave(record.id, endpoint_of(attachment, cluster.node.name))
        except EngineError as err:
            log.warning("the cluster hears later that %s is gone: %s", attachment.container.name, err)
        self.unused(record)

    def renamed(self, attachment: Attachment) -> None:
        """Tell the cluster of an endpoint whose container has another name."""
        record = self._store.get(attachment.network)
        if self.cluster is None or record.scope != "global":
            return
        try:
            self.cluster.endpoints.join(record.id, endpoint_of(attachment, self.cluster.node.name))
        except EngineError as err:
            log.warning("the cluster hears later of the name %s: %s", attachment.container.name, err)

    def unused(self, record: NetworkRecord) -> None:
        """Hear no more of a network's peers if no container here is on it (any more), and forget them."""
        if self._store.endpoints_of(record.id):
            return
        if self.cluster is not None:
            self.cluster.unuse(record.id)
        gone = [e for e in self._applied() if e.network == record.id]
        with self._state.transaction():
            for endpoint in gone:
                self._state.delete(PEER, endpoint.id)
        for endpoint in gone:
            self._reconciler.remove(_owner(endpoint.network, endpoint.id))
            self._names.remove_remote(endpoint.id)
        if self._underlay is not None:
            self._underlay.release(record.id)

    # Peers: called by the cluster

    def peers(self, network: str, changes: Changes) -> None:
        """Take over endpoints on other hosts. Raises the first error after all that can be done is."""
        errors: list[EngineError] = []
        with self._store.lock(network):
            if not self._store.endpoints_of(network):
                return  # the last container has left meanwhile
            record = self._store.get(network)
            value = self._planner.network(record, "known")
            for id in (id for id, remote in changes.items() if remote is None):
                self._names.remove_remote(id)
                self._reconciler.remove(_owner(network, id))
            for id, remote in changes.items():
                if remote is not None:
                    try:
                        self._reconciler.apply(_owner(network, id), self._planner.peer_plan(value, remote.peer))
                        self._names.put_remote(remote.endpoint, record)
                    except EngineError as err:
                        errors.append(err)
            with self._state.transaction():
                for id, remote in changes.items():
                    if remote is None:
                        self._state.delete(PEER, id)
                    else:
                        doc = {"endpoint": remote.endpoint.model_dump(mode="json"), "host": remote.peer.host}
                        self._state.put(PEER, id, doc)
        if errors:
            raise errors[0]

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
                for record in filter(self._encrypts, self.in_use()):
                    self._underlay.secure(record.id)
            except EngineError as err:
                log.warning("the other hosts are not told of this one: %s", err)
        for record in (n for n in self._store.networks() if n.scope == "global"):
            with self._store.lock(record.id):
                own = [endpoint_of(a, self.cluster.node.name) for a in self._store.endpoints_of(record.id)]
                try:
                    refused = self.cluster.endpoints.agree(record.id, own)
                except NotFound:
                    if own:
                        self._fault(record.id, f"network {record.name} is in use here, and gone from the cluster")
                    continue
                except Unavailable as err:
                    log.warning("the cluster has gone again: %s", err)
                    return
                self._faults.pop(f"refused {record.id}", None)
                if refused:
                    whys = "; ".join(map(str, refused))
                    self._fault(f"refused {record.id}", f"network {record.name}: while this host was away, {whys}")
        for record in self.in_use():
            self.cluster.use(record.id)

    # The start of the daemon

    def restore(self) -> None:
        """Want the plans of the peers that an earlier daemon knew, and have the cluster tell of differences to them."""
        in_use = {record.id: record for record in self.in_use()}
        if self._underlay is not None:
            self._underlay.adopt(id for id, record in in_use.items() if self._encrypts(record))
        for doc in self._state.all(PEER):
            endpoint = ClusterEndpoint.model_validate(doc["endpoint"])
            record = in_use.get(endpoint.network)
            if record is None:
                self._state.delete(PEER, endpoint.id)
                continue
            peer = Peer(
                id=endpoint.id, host=doc["host"], mac=endpoint.mac, addresses=endpoint.addresses, node=endpoint.node
            )
            try:
                plan = self._planner.peer_plan(self._planner.network(record, "known"), peer)
                self._reconciler.adopt(_owner(record.id, endpoint.id), plan)
            except EngineError as err:
                log.warning("network %s: a peer is planned anew when the cluster tells of it: %s", record.name, err)
                continue
            self._names.put_remote(endpoint, record)
            if self.cluster is not None:
                self.cluster.seed(record.id, {endpoint.id: Remote(endpoint, peer)})
        if in_use and self.cluster is None:
            names = ", ".join(sorted(record.name for record in in_use.values()))
            log.warning("this daemon is in no cluster any more: nothing is heard of the other hosts on %s", names)

    def in_use(self) -> list[NetworkRecord]:
        """Return the networks of the cluster that containers of this host are on."""
        return [n for n in self._store.networks() if n.scope == "global" and self._store.endpoints_of(n.id)]

    def _applied(self) -> Iterable[ClusterEndpoint]:
        return [ClusterEndpoint.model_validate(doc["endpoint"]) for doc in self._state.all(PEER)]


def endpoint_of(attachment: Attachment, node: str) -> ClusterEndpoint:
    """Return what the cluster knows of an endpoint of this host."""
    container = attachment.container
    published = {f"{p.target_port + n}/{p.protocol}" for p in attachment.ports for n in range(p.count)}
    return ClusterEndpoint(
        id=attachment.id,
        network=attachment.network,
        node=node,
        mac=attachment.mac,
        addresses=attachment.addresses,
        container=container.id,
        name=container.name,
        hostname=container.hostname,
        aliases=attachment.settings.aliases,
        services=tuple(sorted({*container.exposed, *published})),
    )


def _asked_for(settings: EndpointSettings, err: Conflict) -> bool:
    """Return whether what another endpoint has was asked for by a person."""
    return err.details.get("address") in (settings.ip, settings.ip6) or err.details.get("mac") == settings.mac


def _owner(network: str, endpoint: str) -> str:
    return f"peer:{network}:{endpoint}"
