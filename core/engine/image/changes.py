"""Changes of an image's run section written as Dockerfile instructions (`import --change`, `commit --change`)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.spec.errors import InvalidParameter

Section = dict[str, Any]


def apply(section: Mapping[str, Any], changes: Iterable[str]) -> Section:
    """The `config` section after the changes. Raises InvalidParameter for an instruction that is not known."""
    result = dict(section)
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None or not rest.strip():
            raise InvalidParameter(
                f"invalid change {change!r}",
                why=f"{word or 'nothing'} is not an instruction with a value",
                hint=f"Known are {', '.join(sorted(_INSTRUCTIONS))}.",
            )
        try:
            instruction(result, rest.strip())
        except ValueError as err:
            raise InvalidParameter(f"invalid change {change!r}", why=str(err)) from err
    return result


def _command(key: str) -> Callable[[Section, str], None]:
    def set_command(section: Section, text: str) -> None:
        section[key] = _argv(text)

    return set_command


def _argv(text: str) -> list[str]:
    """JSON form, or shell form: /bin/sh -c TEXT."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", text]


def _text(key: str) -> Callable[[Section, str], None]:
    def set_text(section: Section, text: str) -> None:
        section[key] = text

    return set_text


def _pairs(text: str) -> dict[str, str]:
    words = shlex.split(text)
    if "=" not in words[0]:  # the old form: KEY the rest
        key, _, value = text.partition(" ")
        return {key: value.strip()}
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word!r} has no =")
    return dict(word.split("=", 1) for word in words)


def _env(section: Section, text: str) -> None:
    values = dict(item.partition("=")[::2] for item in section.get("Env") or ())
    values.update(_pairs(text))
    section["Env"] = [f"{key}={value}" for key, value in values.items()]


def _labels(section: Section, text: str) -> None:
    section["Labels"] = {**(section.get("Labels") or {}), **_pairs(text)}


def _expose(section: Section, text: str) -> None:
    ports = dict(section.get("ExposedPorts") or {})
    for word in text.split():
        if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(/(tcp|udp|sctp))?", word):
            raise ValueError(f"{word!r} is not a port")
        ports[word if "/" in word else f"{word}/tcp"] = {}
    section["ExposedPorts"] = ports


def _volumes(section: Section, text: str) -> None:
    paths = _argv(text) if text.startswith("[") else text.split()
    section["Volumes"] = {**(section.get("Volumes") or {}), **{path: {} for path in paths}}


def _workdir(section: Section, text: str) -> None:
    before = section.get("WorkingDir") or "/"
    section["WorkingDir"] = text if text.startswith("/") else f"{before.rstrip('/')}/{text}"


def _onbuild(section: Section, text: str) -> None:
    section["OnBuild"] = [*(section.get("OnBuild") or ()), text]


def _healthcheck(section: Section, text: str) -> None:
    if text.upper() == "NONE":
        section["Healthcheck"] = {"Test": ["NONE"]}
        return
    check: Section = {}
    while option := re.match(r"--(interval|timeout|start-period|retries)=(\S+)\s+", text):
        name = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "retries": "Retries"}
        value = option[2]
        check[name[option[1]]] = int(value) if option[1] == "retries" else _nanoseconds(value)
        text = text[option.end() :]
    word, _, command = text.partition(" ")
    if word.upper() != "CMD" or not command.strip():
        raise ValueError("a health check is NONE or CMD and a command")
    argv = _argv(command.strip())
    check["Test"] = ["CMD-SHELL", argv[2]] if argv[:2] == ["/bin/sh", "-c"] else ["CMD", *argv]
    section["Healthcheck"] = check


def _nanoseconds(text: str) -> int:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|ns|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration like 1m30s")
    return round(sum(float(number) * units[unit] for number, unit in parts) * 1e9)


_INSTRUCTIONS: dict[str, Callable[[Section, str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _labels,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _text("StopSignal"),
    "USER": _text("User"),
    "VOLUME": _volumes,
    "WORKDIR": _workdir,
}
