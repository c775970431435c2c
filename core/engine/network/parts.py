"""What all that works on the networks of one engine shares."""

from __future__ import annotations

from dataclasses import dataclass

from engine.network.addresses import Addresses
from engine.network.creation import Creation
from engine.network.names import Names
from engine.network.planner import Planner
from engine.network.store import NetworkStore
from engine.plugins import Plugins
from engine.reconcile.reconciler import Reconciler
from engine.state import State


@dataclass(frozen=True)
class Parts:
    """One of each, made by the network manager."""

    state: State
    plugins: Plugins
    store: NetworkStore
    planner: Planner
    creation: Creation
    addresses: Addresses
    reconciler: Reconciler
    names: Names
