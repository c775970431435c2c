"""What all drivers have in common: a class with typed options, declared capabilities, and hooks.

A driver is a plain class. The specification classes (`NetworkDriver`, `IpamDriver`, `VolumeDriver`, `StorageDriver`)
mark their operations as pluggy hook specs; subclassing one marks the overriding methods as implementations, so that an
author writes no decorator and a type checker knows every signature. A call goes to exactly one driver, selected by
name; ordinary pluggy plugins (entry-point group `engine.plugins`) may wrap any operation of any driver.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, get_args, get_origin

import pluggy

from engine.spec.options import Options as BaseOptions

PROJECT = "engine"
hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks an operation of the contract."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks an implementation in a plugin of the group `engine.plugins`; drivers do not need it."""


class SpecVersion(NamedTuple):
    """Version of one kind of driver's specification.

    A driver says the lowest version that it needs; the engine loads it when the major is the same and the minor is not
    newer than the engine's.
    """

    major: int
    """Another one means another contract."""
    minor: int
    """Counts additions."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Driver:
    """Base of the specification classes. Instances have no state: every operation is a function of its arguments."""

    GROUP: ClassVar[str]
    """Entry-point group in which drivers of this kind are found."""
    SPEC: ClassVar[SpecVersion]
    """The specification's version in this engine."""
    OPERATIONS: ClassVar[tuple[str, ...]]
    """The names of the hooks."""
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    """Those that every driver must define; the others have a default."""

    needs: ClassVar[SpecVersion]
    """The lowest specification version that the driver works with."""
    options_model: ClassVar[type[BaseOptions]] = BaseOptions
    """The model of the driver's options: the type argument of its base class, `NetworkDriver[MyOptions]`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "OPERATIONS" in cls.__dict__:
            return  # a specification class
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Driver) and isinstance(arguments[0], type):
                cls.options_model = arguments[0]
        for name in cls.OPERATIONS:
            function = cls.__dict__.get(name)
            if function is not None:
                hookimpl(function)
