"""Names of images: the grammar of distribution's references, and Docker Hub's short forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.spec.errors import InvalidParameter

DEFAULT_REGISTRY = "docker.io"
BUILTIN_REGISTRY = "engine.local"
"""A reserved registry name: what lies below it is built in; it is never contacted, pulled from or pushed to."""

_NAME_MAX = 255
_HOST = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FULL_ID = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether `text` is a whole "sha256:<64 hex>" (the only algorithm that registries use and that we verify)."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class Reference:
    """A normalised name: `registry` "docker.io", `path` "library/busybox", and a tag, a digest, both or neither."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse what a person wrote; docker.io and library/ are added where Docker Hub's rules add them.

        Raises InvalidParameter, in docker's words where docker has any.
        """
        name, _, digest = text.partition("@")
        if "@" in text and not is_digest(digest):
            raise _invalid(text, f"{digest!r} is not a digest; write sha256: and 64 hexadecimal digits")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        name = head + slash + last
        if colon and not _TAG.fullmatch(tag):
            raise _invalid(text, f"{tag!r} is not a tag")
        if not name:
            raise _invalid(text, "the name is empty")
        registry, path = _split_registry(name)
        if not _HOST.fullmatch(registry):
            raise _invalid(text, f"{registry!r} is not a registry host")
        if not _PATH.fullmatch(path):
            why = "repository name must be lowercase" if _PATH.fullmatch(path.lower()) else f"{path!r} is not a name"
            raise _invalid(text, why)
        if not slash and _FULL_ID.fullmatch(name):
            raise _invalid(text, "64 hexadecimal digits are an image id and cannot be a name")
        if len(registry) + 1 + len(path) > _NAME_MAX:
            raise _invalid(text, f"the name is longer than {_NAME_MAX} characters")
        return cls(registry, path, tag, digest)

    def with_default_tag(self) -> Reference:
        """The same, with tag "latest" when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def tagged(self) -> Reference:
        """The name with its tag only."""
        return replace(self, digest="")

    def at(self, digest: str) -> Reference:
        """The name without tag, at a digest."""
        return replace(self, tag="", digest=digest)

    @property
    def name(self) -> str:
        """Registry and path: "docker.io/library/busybox"."""
        return f"{self.registry}/{self.path}"

    @property
    def suffix(self) -> str:
        """ ":tag" and "@digest", as far as given."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar_name(self) -> str:
        """The name as people write it: "busybox", "user/app", "quay.io/user/app"."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    @property
    def familiar(self) -> str:
        """The reference as people write it: "busybox:latest"."""
        return self.familiar_name + self.suffix

    def __str__(self) -> str:
        return self.name + self.suffix


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = slash and (any(c in first for c in ".:[") or first == "localhost" or first.lower() != first)
    registry, path = (first, rest) if is_host else (DEFAULT_REGISTRY, name)
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and path and "/" not in path:
        path = f"library/{path}"
    return registry, path


def _invalid(text: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"invalid reference format: {text!r}", why=why)
