"""Manifests and image configurations: which layers, of which platform (OCI image specification; docker schema 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine import strict_json
from engine.image.config import check_config
from engine.image.reference import is_digest
from engine.spec.errors import InvalidParameter, NotFound, Unsupported

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_CONFIGS = ("application/vnd.oci.image.config.v1+json", DOCKER_CONFIG, "")

_GO_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}


@dataclass(frozen=True)
class Platform:
    """Operating system, architecture and variant in Go's words: linux/amd64, linux/arm/v7."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def host(cls) -> Platform:
        """The platform that this machine runs."""
        machine = os.uname().machine
        return cls("linux", *_GO_MACHINES.get(machine, (machine, "")))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse OS/ARCH[/VARIANT]."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise InvalidParameter(f"invalid platform {text!r}", hint="Write OS/ARCH or OS/ARCH/VARIANT: linux/arm64.")
        return cls(*parts)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def accepts(self, other: Mapping[str, Any]) -> bool:
        """Whether something for the platform `other` (an OCI platform object) is for this one."""
        if (other.get("os"), other.get("architecture")) != (self.os, self.architecture):
            return False
        default = "v8" if self.architecture == "arm64" else ""
        return not self.variant or (other.get("variant") or default or self.variant) == self.variant


@dataclass(frozen=True)
class Descriptor:
    """A blob of a manifest; `size` in bytes."""

    digest: str
    size: int
    media_type: str = ""

    @classmethod
    def of(cls, value: Any) -> Descriptor:
        """Check a descriptor that came from outside."""
        if not isinstance(value, dict) or not is_digest(str(value.get("digest"))):
            raise InvalidParameter("the image manifest is invalid", why=f"{value!r:.200} is not a descriptor")
        size = value.get("size")
        if not isinstance(size, int) or size < 0:
            raise InvalidParameter("the image manifest is invalid", why=f"{size!r} is not a size")
        return cls(value["digest"], size, str(value.get("mediaType") or ""))

    @property
    def short(self) -> str:
        """The 12 digits that progress messages show."""
        return self.digest.removeprefix("sha256:")[:12]


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from outside. Raises InvalidParameter."""
    try:
        value = strict_json.loads(data)
    except ValueError as err:
        raise InvalidParameter(f"{what} is invalid", why=str(err)) from err
    if not isinstance(value, dict):
        raise InvalidParameter(f"{what} is invalid", why="it is not a JSON object")
    return value


def is_index(manifest: Mapping[str, Any]) -> bool:
    """Whether it lists manifests of several platforms."""
    return manifest.get("mediaType") in (OCI_INDEX, DOCKER_LIST) or isinstance(manifest.get("manifests"), list)


def choose(index: Mapping[str, Any], platform: Platform) -> Descriptor:
    """The entry of an index for a platform. Raises NotFound, naming what there is."""
    offered = []
    for entry in index.get("manifests") or ():
        found = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(found, dict):
            if platform.accepts(found):
                return Descriptor.of(entry)
            offered.append("/".join(str(found[k]) for k in ("os", "architecture", "variant") if found.get(k)))
        elif len(index["manifests"]) == 1:
            return Descriptor.of(entry)
    names = ", ".join(sorted(name for name in set(offered) if "unknown" not in name)) or "nothing"
    raise NotFound(f"no matching manifest for {platform}", why=f"the image offers {names}")


def parse_manifest(manifest: Mapping[str, Any]) -> tuple[Descriptor, list[Descriptor]]:
    """Configuration and layers, bottom first. Raises Unsupported for what is no image of today."""
    if manifest.get("schemaVersion") == 1:
        raise Unsupported("the image has a manifest of the old schema 1", hint="Push it again with a current tool.")
    config = Descriptor.of(manifest.get("config"))
    if config.media_type not in _CONFIGS:
        raise Unsupported("this is not a container image", why=f"it is an artifact of type {config.media_type}")
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        raise InvalidParameter("the image manifest is invalid", why="it has no list of layers")
    return config, [Descriptor.of(layer) for layer in layers]


def parse_config(data: bytes) -> tuple[dict[str, Any], tuple[str, ...]]:
    """An image configuration and its diff ids, bottom first."""
    config = load_json(data, "the image configuration")
    diff_ids = check_config(config)
    if config.get("os") not in ("linux", "", None):
        raise Unsupported("the image cannot run here", why=f"it is for {config['os']}")
    return config, diff_ids
