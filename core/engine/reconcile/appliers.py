"""Which appliers there are."""

from __future__ import annotations

from engine.reconcile.applier import Applier, Tag
from engine.reconcile.netlink import NetlinkApplier
from engine.reconcile.sysctl import SysctlApplier


def network_appliers(tag: Tag) -> list[Applier]:
    """Return the appliers of everything that networks need."""
    return [NetlinkApplier(tag), SysctlApplier()]
