"""Whether a network that spans hosts is on every host as the cluster says: `engine network verify`.

Every daemon looks at its own host. What the plans of the network, its endpoints and its peers want is compared with the
kernel; the peers with the endpoints that the cluster has; and packets of the largest size are sent to every other host
that has containers on the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.cluster.cluster import Cluster
from engine.cluster.model import ClusterEndpoint
from engine.cluster.questions import Answer, Path, Questions
from engine.network.model import NetworkRecord
from engine.network.planner import Planner
from engine.network.store import NetworkStore
from engine.reconcile.pathprobe import problem_of_path
from engine.reconcile.reconciler import Reconciler
from engine.spec.errors import NotFound
from engine.spec.network import Network, Peer

ANSWER_SECONDS = 15.0
"""How long the other hosts have."""
PROBES_AT_ONCE = 16


class Verifying:
    """Looks at this host, and asks the others. Thread-safe."""

    def __init__(self, store: NetworkStore, planner: Planner, reconciler: Reconciler, cluster: Cluster) -> None:
        self._store = store
        self._planner = planner
        self._reconciler = reconciler
        self._cluster = cluster
        self._questions = Questions(cluster.store, cluster.node.name, self.look)

    def start(self) -> None:
        """Answer the other hosts' questions from now on."""
        self._questions.start()

    def close(self) -> None:
        """Answer no more."""
        self._questions.close()

    def verify(self, record: NetworkRecord) -> list[Answer]:
        """Return what each host of the cluster says, by name; one that does not answer has that for a problem.

        Raises Unavailable.
        """
        own = self._cluster.node.name
        if self._cluster.partition is not None:  # the others cannot be asked
            return [self.look(record.id)]
        names = {own, *(host.name for host in self._cluster.hosts())}
        answers = self._questions.ask(record.id, names, ANSWER_SECONDS)
        silent = Answer(node="", problems=("its daemon gives no answer",))
        return [answers.get(name) or silent.model_copy(update={"node": name}) for name in sorted(names)]

    def look(self, network: str) -> Answer:
        """Return what is so on this host. Raises Unavailable."""
        own = self._cluster.node.name
        try:
            record = self._store.get(network)
        except NotFound:
            return Answer(node=own, problems=("this host does not know the network",))
        endpoints = self._store.endpoints_of(record.id)
        if not endpoints:
            return Answer(node=own)
        known = self._cluster.endpoints.of_network(record.id)
        others = {e.id: e for e in known if e.node != own}
        problems = [f"{d} ({d.owner.partition(':')[0]})" for d in self._differences(record)]
        problems += self._strangers(record, {e.id: e for e in known if e.node == own})
        problems += self._peers(record, others)
        return Answer(
            node=own,
            containers=len(endpoints),
            entries=len(self._wanted(record)),
            problems=tuple(problems),
            paths=tuple(self._paths(self._planner.network(record, "known"), others)),
        )

    def _differences(self, record: NetworkRecord) -> list[Any]:
        prefixes = (f"net:{record.id}", f"ep:{record.id}:", f"peer:{record.id}:")
        return [d for d in self._reconciler.diff(sandboxes=True) if d.owner.startswith(prefixes)]

    def _strangers(self, record: NetworkRecord, listed: Mapping[str, ClusterEndpoint]) -> list[str]:
        """Compare this host's endpoints with those that the cluster has of it."""
        here = {e.id: e for e in self._store.endpoints_of(record.id)}
        unknown = [here[id].container.name for id in here.keys() - listed.keys()]
        return [f"the cluster does not know of container {name}" for name in unknown] + [
            f"the cluster has a container {listed[id].name} here which is not there"
            for id in listed.keys() - here.keys()
            if not listed[id].assumed
        ]

    def _peers(self, record: NetworkRecord, listed: Mapping[str, ClusterEndpoint]) -> list[str]:
        """Compare the peers that this host has entries for with the endpoints that the cluster has on other hosts."""
        wanted, hosts = self._wanted(record), {host.name: host.address for host in self._cluster.hosts()}
        network, found = self._planner.network(record, "known"), []
        for id in sorted(wanted - listed.keys()):
            found.append(f"there are entries for endpoint {id[:12]}, which the cluster does not have")
        for id, endpoint in listed.items():
            if endpoint.node not in hosts:
                continue
            if id not in wanted:
                found.append(f"there are no entries for {endpoint.name} on {endpoint.node}")
                continue
            peer = Peer(
                id=id, host=hosts[endpoint.node], mac=endpoint.mac, addresses=endpoint.addresses, node=endpoint.node
            )
            if self._planner.peer_plan(network, peer) != self._reconciler.plan_of(f"peer:{record.id}:{id}"):
                found.append(f"the entries for {endpoint.name} on {endpoint.node} are old")
        return found

    def _wanted(self, record: NetworkRecord) -> set[str]:
        prefix = f"peer:{record.id}:"
        return {owner.removeprefix(prefix) for owner in self._reconciler.owners() if owner.startswith(prefix)}

    def _paths(self, network: Network[Any], others: Mapping[str, ClusterEndpoint]) -> list[Path]:
        """Send the largest packets to the hosts of these endpoints."""
        if network.host is None or network.underlay is None or network.underlay.mtu is None:
            return [Path(to="", bytes=0, problem="this host's address is on none of its links")]
        nodes = {endpoint.node for endpoint in others.values()}
        hosts = [host for host in self._cluster.hosts() if host.name in nodes]
        source, size = network.host, network.underlay.mtu

        def probe(name: str, address: str) -> Path:
            target = self._planner.reached_at(network, name, address)
            return Path(to=name, bytes=size, problem=problem_of_path(source, target, size))

        with ThreadPoolExecutor(PROBES_AT_ONCE, thread_name_prefix="probe") as pool:
            return list(pool.map(lambda host: probe(host.name, host.address), hosts))


def result(record: NetworkRecord, answers: list[Answer]) -> dict[str, Any]:
    """Return the answers in the API's shape."""
    fine = all(not a.problems and not any(path.problem for path in a.paths) for a in answers)
    return {"Network": record.name, "Ok": fine, "Hosts": [answer.model_dump() for answer in answers]}
