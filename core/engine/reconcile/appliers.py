"""Which appliers there are."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from engine.helper.config import HelperConfigs
from engine.plugins import Plugins
from engine.reconcile import encryption
from engine.reconcile.applier import Applier, Tag
from engine.reconcile.data import DataApplier
from engine.reconcile.encryption import FscryptApplier, KeySlotsApplier, NoKeys
from engine.reconcile.mounts import MountApplier
from engine.reconcile.netlink import NetlinkApplier
from engine.reconcile.nft import NftApplier
from engine.reconcile.settings import Settings
from engine.reconcile.sysctl import SysctlApplier
from engine.reconcile.trees import TreeApplier
from engine.reconcile.wireguard import WireguardApplier
from engine.secrets.keys import VolumeKeys
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores


def network_appliers(tag: Tag, settings: Settings | None = None) -> list[Applier]:
    """Return the appliers of everything that networks need; `settings` watches the kernel parameters that they set."""
    return [NetlinkApplier(tag), SysctlApplier(settings), NftApplier(tag, settings), WireguardApplier(tag)]


def mount_appliers(
    roots: Sequence[str | os.PathLike[str]], trees: TreeApplier, keys: encryption.VolumeKeys | None = None
) -> list[Applier]:
    """Return the appliers of what volumes need. `roots` are the directories below which every mount is the engine's.

    A reconciler of their own keeps networks from waiting for a file server that does not answer. `keys` are those of
    encrypted volumes.
    """
    keys = keys or NoKeys()
    return [KeySlotsApplier(keys), FscryptApplier(keys), DataApplier(keys), MountApplier(roots, keys), trees]


def default_appliers(tag: Tag, roots: Sequence[str | os.PathLike[str]]) -> list[Applier]:
    """Return all appliers, for one reconciler; volumes have their mount points below the first of the roots."""
    secrets = Secrets(volume_keys=lambda path: keys.password(path))
    keys = VolumeKeys(secrets.read)
    configs = HelperConfigs(Stores(Plugins()), secrets, host=socket.gethostname())
    return [*network_appliers(tag), *mount_appliers(roots, TreeApplier(configs.of_tree, Path(roots[0])), keys)]
