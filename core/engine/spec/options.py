"""Options of a driver: one pydantic model, from which parsing, help and JSON schema follow.

Field names are written with dashes on the command line (`-o host-ip=…` sets `host_ip`); a field may name further
spellings with `validation_alias`. Docker's names of the common options are understood by the core before a driver sees
them (`com.docker.network.driver.mtu` is `mtu`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from engine.spec.errors import InvalidParameter
from engine.spec.values import Rate


class Options(BaseModel):
    """Base of a driver's options: frozen, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # what was given may be a secret in the wrong place
    )


class NetworkOptions(Options):
    """Options that every network driver has."""

    mtu: int | None = Field(
        default=None,
        ge=68,
        le=65535,
        description="Largest packet in bytes; the parent's or 1500 if not given",
    )
    rate: Rate | None = Field(
        default=None,
        description="What each container may send, for example 10mbit; the endpoint option of that name goes before",
    )
    rate_in: Rate | None = Field(
        default=None, description="What each container may receive, for example 10mbit; as with rate"
    )
    probe: bool = Field(
        default=True,
        description="Where the wire is shared with others: ask on it whether an address is free before it is used",
    )


class VolumeOptions(Options):
    """Options that every volume driver has (none yet)."""


class StorageOptions(Options):
    """Options that every storage driver has (none yet)."""


class ParentSelector:
    """Marks an option that selects a host link; the core resolves it and hands the link in as a fact.

    A selector is a link's name, `default-route` (the link of the host's default route) or `mac:AA:BB:…`.
    """


ParentLink = Annotated[str, ParentSelector()]
"""Type of an option that names a host link; see `ParentSelector`. Its link is `network.links[OPTION]`."""


class OwnLinkName:
    """Marks an option that names the network's own host link: the core checks it, and gives it as `network.ifname`."""


OwnLink = Annotated[str, OwnLinkName()]
"""Type of an option with which the operator chooses the name of the network's own host link; "" leaves it to us."""


class OwnLinkAdoption:
    """Marks an option that says whether the network's own host link is there already and not ours."""


AdoptOwnLink = Annotated[bool, OwnLinkAdoption()]
"""Type of an option with which the operator hands an existing host link to the network, for the driver to build on
(`Extern`) and never to change. The option of type `OwnLink` names it; what is known of it is `network.links` of that
option. Gateways and, where none is asked for, the subnets are those of its addresses."""


class VniChoice:
    """Marks an option with which the operator chooses the network's VNI; the core gives it as `network.vni`."""


Vni = Annotated[int | None, VniChoice()]
"""Type of such an option; None leaves the choice to the core, which refuses a number that another network has."""


class SecureUnderlay:
    """Marks an option that asks for an underlay that encrypts: the core gives its addresses as `network.host` and
    `peer.host`, and its link as `network.underlay`."""


Encrypted = Annotated[bool, SecureUnderlay()]
"""Type of an option with which the operator asks for encryption between hosts; a driver need not heed it."""


class ForStore:
    """Marks an option that takes what the model does not know: the options of the drivers of a store's URL."""


StoreOptions = Annotated[Mapping[str, str], ForStore()]
"""Type of the field with all `-o` options that a volume driver's model does not have, by the names that the operator
wrote. The driver hands them on in a `StoreSpec`. When a volume is created, the engine has every store of the plan
checked by its storage drivers, which refuse what they do not know."""


class EncryptionSelector:
    """Marks an option that says how a directory of this host is encrypted; the core replaces `auto`, once."""


EncryptionMethod = Annotated[Literal["auto", "fscrypt", "image", "gocryptfs"], EncryptionSelector()]
"""Type of an option that says how a directory of this host is encrypted. `fscrypt`: the file system of the volumes does
it. `image`: an ext4 image does it. `gocryptfs`: that program does it. When a volume is created the engine puts what the
host can do in the place of `auto`, the first that it can, and stores the choice."""

OptionsT = TypeVar("OptionsT", bound=Options)


def parent_fields(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the options that select host links."""
    return _marked(model, ParentSelector)


def own_link_fields(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the options that name the network's own host link."""
    return _marked(model, OwnLinkName)


def adopts_own_link(options: Options) -> bool:
    """Return whether options hand an existing host link to the network."""
    return any(getattr(options, name) for name in _marked(type(options), OwnLinkAdoption))


def vni_fields(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the options that choose a network's VNI."""
    return _marked(model, VniChoice)


def wants_encryption(options: Options) -> bool:
    """Return whether the operator asked for encryption between hosts."""
    return any(getattr(options, name) for name in _marked(type(options), SecureUnderlay))


def store_options_field(model: type[Options]) -> str | None:
    """Return the name of the field that takes the options of a store, None if the model has no such field."""
    return next(iter(_marked(model, ForStore)), None)


def encryption_fields(model: type[Options]) -> tuple[str, ...]:
    """Return the names of the options that say how a directory of this host is encrypted."""
    return _marked(model, EncryptionSelector)


def _marked(model: type[Options], marker: type) -> tuple[str, ...]:
    return tuple(name for name, f in model.model_fields.items() if any(isinstance(m, marker) for m in f.metadata))


def _spellings(name: str, alias: object) -> list[str]:
    names = [name.replace("_", "-"), name]
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return names + [c for c in choices if isinstance(c, str)]


def parse_options(model: type[OptionsT], given: Mapping[str, Any], *, driver: str) -> OptionsT:
    """Build a driver's options from `-o key=value` strings.

    Raises InvalidParameter that names each wrong option, with a suggestion where a name is unknown.
    """
    rest = store_options_field(model)
    fields = {
        s: name for name, f in model.model_fields.items() if name != rest for s in _spellings(name, f.validation_alias)
    }
    values: dict[str, Any] = {rest: {}} if rest else {}
    for key, value in given.items():
        name = fields.get(key)
        if name is None and rest:
            values[rest][key] = value
            continue
        if name is None:
            close = difflib.get_close_matches(key, fields, n=1)
            known = ", ".join(sorted(n.replace("_", "-") for n in model.model_fields)) or "none"
            raise InvalidParameter(
                f"unknown option {key!r}",
                driver=driver,
                hint=f"Did you mean {close[0]!r}?" if close else f"Options of this driver: {known}",
            )
        if name in values:
            raise InvalidParameter(f"option {key!r} is given twice", driver=driver)
        values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as err:
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']).replace('_', '-') or 'options'}: {e['msg']}" for e in err.errors()
        )
        raise InvalidParameter(
            "invalid option", driver=driver, why=problems, hint=f"See: engine driver show {driver}"
        ) from err
