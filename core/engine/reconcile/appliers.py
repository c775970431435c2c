"""Which appliers there are."""

from __future__ import annotations

import os
from collections.abc import Sequence

from engine.reconcile.applier import Applier, Tag
from engine.reconcile.data import DataApplier
from engine.reconcile.mounts import MountApplier
from engine.reconcile.netlink import NetlinkApplier
from engine.reconcile.nft import NftApplier
from engine.reconcile.sysctl import SysctlApplier


def network_appliers(tag: Tag) -> list[Applier]:
    """Return the appliers of everything that networks need."""
    return [NetlinkApplier(tag), SysctlApplier(), NftApplier(tag)]


def default_appliers(tag: Tag, roots: Sequence[str | os.PathLike[str]]) -> list[Applier]:
    """Return all appliers. `roots` are the directories below which every mount is the engine's."""
    return [*network_appliers(tag), DataApplier(), MountApplier(roots)]
