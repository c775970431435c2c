"""What a helper is told: the tree, and the secrets that its store needs. It travels in a sealed memory file."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Mapping

from engine.spec.errors import NotFound
from engine.spec.trees import StoreSpec, SyncedTree
from engine.spec.values import Frozen
from engine.storage.secrets import Secrets
from engine.storage.stores import StorePlan, Stores

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_DEADLINE = "deadline"
"""The option of stores behind a network (`engine_sdk.storage.RemoteOptions`) for the time of one request."""


class HelperConfig(Frozen):
    """The configuration of a helper or of a check. It has secrets: never log it, never write it to a disk."""

    store: StoreSpec
    """What is opened."""
    tree: SyncedTree | None = None
    """What the helper keeps; None for a check of the store alone."""
    host: str = ""
    """Short name of this host, for the names of conflicting copies."""
    secrets: Mapping[str, str] = {}
    """By reference (`env:NAME`, ...): the bytes, in base64."""

    def sealed(self) -> int:
        """Return the descriptor of a memory file with the configuration, that nobody can change."""
        descriptor = os.memfd_create("engine-helper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            data = memoryview(self.model_dump_json().encode())
            while data:
                data = data[os.write(descriptor, data) :]
            os.lseek(descriptor, 0, os.SEEK_SET)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @classmethod
    def read(cls, descriptor: int) -> HelperConfig:
        """Return what is in a memory file, and close it."""
        with open(descriptor, "rb") as file:
            return cls.model_validate_json(file.read())

    def given_secrets(self) -> Secrets:
        """Return the secrets that were handed over: no other can be read."""
        return GivenSecrets({reference: base64.b64decode(data) for reference, data in self.secrets.items()})


class GivenSecrets(Secrets):
    """Secrets that somebody else has read."""

    def __init__(self, known: Mapping[str, bytes]) -> None:
        super().__init__()
        self._known = known

    def read(self, reference: str) -> bytes:
        """Return the bytes of a secret. Raises NotFound."""
        if reference not in self._known:
            raise NotFound(f"the secret {reference} was not handed to the helper")
        return self._known[reference]


class HelperConfigs:
    """Makes configurations: plans a store, and reads its secrets at the moment of use."""

    def __init__(self, stores: Stores, secrets: Secrets, *, host: str) -> None:
        self._stores, self._secrets, self._host = stores, secrets, host

    def plan(self, store: StoreSpec) -> StorePlan:
        """Return the drivers of a store with their checked options. Raises InvalidParameter, NotFound, DriverFault."""
        return self._stores.plan(store.url, store.options)

    def option_names(self, store: StoreSpec) -> list[str]:
        """Return the options that the drivers of a store's URL have, as they are written. Raises what `plan` raises."""
        models = self._stores.option_models(store.url)
        return sorted({name.replace("_", "-") for model in models for name in model.model_fields})

    def of_tree(self, tree: SyncedTree) -> HelperConfig:
        """Return the configuration of a tree's helper. Raises also what reading a secret raises."""
        return self.of_store(tree.store, tree.patience).model_copy(update={"tree": tree})

    def of_store(self, store: StoreSpec, patience: float) -> HelperConfig:
        """Return the configuration of a check of the store.

        A request may take `patience` seconds, unless the operator gave the store a deadline.
        """
        if _DEADLINE in self.option_names(store) and _DEADLINE not in store.options:
            store = store.model_copy(update={"options": {**store.options, _DEADLINE: f"{patience:g}"}})
        secrets: dict[str, str] = {}
        for part in self.plan(store).parts:
            values = self._secrets.of(part.options)
            for option, data in values.items():
                secrets[str(getattr(part.options, option))] = base64.b64encode(data).decode()
        return HelperConfig(store=store, host=self._host, secrets=secrets)
