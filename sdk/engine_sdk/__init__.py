"""What an author of a driver imports: the whole contract, from one place.

    from engine_sdk import Address, Dummy, Endpoint, Network, NetworkDriver, NetworkOptions, Plan

A driver is a class that answers "what must exist?" with a `Plan` of resources; the engine makes the host agree with it.
The names are listed in `engine_sdk.contract`, and defined and explained in `engine.spec`. They are imported on first
use: the pytest plugin of the conformance kit (`engine_sdk.testing`) is loaded by every pytest run, and must cost
nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine_sdk.contract import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        contract = import_module("engine_sdk.contract")
        try:
            return getattr(contract, name)
        except AttributeError:
            raise AttributeError(f"engine_sdk has no {name!r}") from None
