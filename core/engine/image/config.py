"""What an image configuration may say: the types of all that is read of it, before any of it is stored.

Source: OCI image specification, config.md; healthcheck and shell are of docker's image specification 1.2. Null means
"not given", as in Go; fields that nobody here reads are kept as they are, whatever they hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from engine.image.reference import is_digest
from engine.spec.errors import InvalidParameter

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(?:tcp|udp|sctp))?", re.ASCII)


def _time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


def _port(text: str) -> str:
    found = _PORT.fullmatch(text)
    if not found or not all(1 <= int(number) <= 65535 for number in found.groups() if number):
        raise ValueError("expected PORT[/PROTOCOL] of 1 to 65535, for example 80/tcp")
    return text


def _digest(text: str) -> str:
    if not is_digest(text):
        raise ValueError("expected a digest")
    return text


Time = Annotated[str, AfterValidator(_time)]
Port = Annotated[str, AfterValidator(_port)]
Digest = Annotated[str, AfterValidator(_digest)]
Nanoseconds = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Healthcheck(_Model):
    Test: list[str] | None = None
    Interval: Nanoseconds | None = None
    Timeout: Nanoseconds | None = None
    StartPeriod: Nanoseconds | None = None
    StartInterval: Nanoseconds | None = None
    Retries: Annotated[int, Field(ge=0)] | None = None


class _Section(_Model):
    """What a container takes of the image."""

    Cmd: list[str] | str | None = None
    Entrypoint: list[str] | str | None = None
    Env: list[str] | None = None
    ExposedPorts: dict[Port, dict[str, Any] | None] | None = None
    Healthcheck: _Healthcheck | None = None
    Labels: dict[str, str] | None = None
    OnBuild: list[str] | None = None
    Shell: list[str] | None = None
    StopSignal: str | None = None
    User: str | None = None
    Volumes: dict[str, dict[str, Any] | None] | None = None
    WorkingDir: str | None = None


class _Step(_Model):
    created: Time | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _RootFs(_Model):
    diff_ids: list[Digest] | None = None


class _Image(_Model):
    architecture: str | None = None
    variant: str | None = None
    os: str | None = None
    author: str | None = None
    created: Time | None = None
    docker_version: str | None = None
    config: _Section | None = None
    rootfs: _RootFs
    history: list[_Step] | None = None


def check_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the diff ids of an image configuration, bottom first. Raises InvalidParameter naming the wrong fields."""
    try:
        found = _Image.model_validate(config)
    except ValidationError as err:
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in err.errors()[:3])
        raise InvalidParameter("the image configuration is invalid", why=f"{problems:.500}") from err
    return tuple(found.rootfs.diff_ids or ())
