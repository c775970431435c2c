"""This daemon's part in a cluster: entering, leaving, and what clients see of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.api.services.data import JsonObject
from engine.cluster.access import open_cluster
from engine.cluster.cluster import Cluster
from engine.cluster.membership import Memory, NodeState
from engine.cluster.options import ClusterOptions, unpack_token
from engine.network.spanning import Spanning
from engine.spec.errors import Conflict, EngineError, NotFound, Unsupported
from engine.state import State

log = logging.getLogger(__name__)
_KIND, _ID = "cluster", "node"
_SAVED = "options.json"


class Clustering:
    """Opens, starts and ends the cluster. Thread-safe."""

    def __init__(self, state: State, spanning: Spanning, directory: Path, options: ClusterOptions | None) -> None:
        """`directory` keeps what `engine node join` was told; `options`, of the command line, go before."""
        self._state = state
        self._spanning = spanning
        self._directory = directory
        self._given = options
        self._options: ClusterOptions | None = None
        self._guard = threading.Lock()
        self._started = False

    # The life of the daemon

    def open(self) -> None:
        """Be part of the cluster that the daemon was told of, if any; nothing is asked yet.

        Raises InvalidParameter for wrong options.
        """
        options = self._given or self._saved()
        if options is not None:
            self._spanning.enter(self._make(options), self._directory)
            self._options = options

    def start(self) -> None:
        """Register, and follow. What fails is logged and tried again: the rest of the daemon works without."""
        if self._cluster is not None:
            self._cluster.start(strict=False)
            self._spanning.started()
            self._started = True
            if fault := self._cluster.members.fault:
                log.error("this node is not in the cluster: %s", fault)

    def close(self) -> None:
        """End it. A node that nothing of the cluster's runs on disappears at once, others after the time of grace."""
        if self._cluster is not None:
            self._cluster.close(leave=self._started and not self._spanning.in_use())

    # What clients ask for

    def list(self) -> Sequence[JsonObject]:
        """Return all nodes, by name. Raises Unsupported without a cluster, Unavailable."""
        return [_row(state) for state in self._required().members.states()]

    def inspect(self, name: str) -> JsonObject:
        """Return one node, with its networks' endpoints. Raises NotFound, Unavailable."""
        cluster = self._required()
        state = next((s for s in cluster.members.states() if s.node.name == name), None)
        if state is None:
            raise NotFound(f"the cluster has no node {name}", hint="See: engine node ls")
        endpoints = [
            {"Network": network.name, "Container": e.name, "ContainerID": e.container, "Addresses": list(e.addresses)}
            for network in cluster.networks.known().values()
            for e in cluster.endpoints.of_network(network.id)
            if e.node == name and not e.assumed
        ]
        return _row(state) | {"Endpoints": endpoints}

    def remove(self, name: str) -> None:
        """Make a node that is down disappear at once. Raises NotFound, Conflict if it answers, Unavailable."""
        self._required().members.remove(name)

    def token(self) -> str:
        """Return what `engine node join` takes on another host."""
        self._required()
        assert self._options is not None  # there is a cluster
        return self._options.token()

    def join(self, token: str, *, advertise: str = "", node: str = "") -> JsonObject:
        """Enter a cluster now, and whenever the daemon starts. Returns this node.

        Raises Conflict when this daemon is in a cluster, or for a name or address that another node has;
        InvalidParameter, Unavailable, Unsupported, Forbidden. Then nothing has changed.
        """
        with self._guard:
            if self._spanning.cluster is not None:
                raise Conflict("this daemon is in a cluster already", hint="First: engine node leave")
            options = unpack_token(token, self._directory, advertise=advertise, node=node)
            cluster = self._make(options)
            self._spanning.enter(cluster, self._directory)
            try:
                cluster.start(strict=True)
            except BaseException:
                self._spanning.exit()
                cluster.close(leave=True)
                raise
            saved = self._directory / _SAVED
            saved.touch(mode=0o600)
            saved.write_text(json.dumps(dataclasses.asdict(options)))
            self._spanning.started()
            self._options, self._started = options, True
        return next(_row(s) for s in cluster.members.states() if s.own)

    def leave(self) -> None:
        """Be in no cluster any more. Raises Conflict while containers here are on its networks."""
        with self._guard:
            cluster = self._required()
            if self._given is not None:
                raise Conflict("the daemon was started with --cluster", hint="Start it without")
            if used := self._spanning.in_use():
                names = ", ".join(record.name for record in used)
                raise Conflict(f"containers are on networks of the cluster: {names}", hint="Stop them first")
            self._spanning.exit()
            cluster.close(leave=True)
            self._options = None
            (self._directory / _SAVED).unlink(missing_ok=True)

    @property
    def _cluster(self) -> Cluster | None:
        return self._spanning.cluster

    def _required(self) -> Cluster:
        if self._cluster is None:
            raise Unsupported(
                "this daemon is in no cluster",
                hint="Start it with --cluster etcd://HOST:2379 --advertise ADDRESS, or: engine node join TOKEN",
            )
        return self._cluster

    def _saved(self) -> ClusterOptions | None:
        path = self._directory / _SAVED
        return ClusterOptions(**json.loads(path.read_text())) if path.exists() else None

    def _make(self, options: ClusterOptions) -> Cluster:
        doc: dict[str, Any] = self._state.get(_KIND, _ID) or {"id": secrets.token_hex(16), "lease": 0}
        self._state.put(_KIND, _ID, doc)

        def keep(lease: int) -> None:
            self._state.put(_KIND, _ID, doc | {"lease": lease})

        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        version = metadata.version("pluggable-engine")
        return open_cluster(options, doc["id"], version, Memory(doc["lease"], keep), self._directory)

    def faults(self) -> Sequence[JsonObject]:
        """Return what does not work between this host and the cluster, in the shape of the doctor's differences."""
        try:
            found = self._spanning.faults()
        except EngineError as err:
            found = [str(err)]
        common = {"resource": "cluster", "owner": "cluster", "title": "cluster", "fields": {}}
        return [{**common, "state": sentence} for sentence in found]


def _row(state: NodeState) -> JsonObject:
    node = state.node
    return {
        "Name": node.name,
        "ID": node.id,
        "Address": node.address,
        "Status": state.status,
        "Self": state.own,
        "Engine": node.version,
        "Spec": ".".join(map(str, node.spec)),
        "Joined": node.joined,
        "Keys": dict(node.keys),
    }
