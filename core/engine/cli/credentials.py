"""Registry credentials in docker's format: ours in ~/.config/engine/auth.json (0600), docker's config as a fallback.

Format: {"auths": {"registry": {"auth": base64("user:password")}}}; a `credsStore` or `credHelpers` entry names a
program `docker-credential-NAME` that answers {"Username", "Secret"} (docker's credential helper protocol).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cli.errors import Failure

DOCKER_HUB = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", DOCKER_HUB)
_HELPER_SECONDS = 30


def own_file() -> Path:
    """Return the path of our file."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "engine" / "auth.json"


def docker_file() -> Path:
    """Return the path of docker's file."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        raise Failure(f"cannot read the credentials in {path}: {err}") from err
    if not isinstance(found, dict):
        raise Failure(f"cannot read the credentials in {path}: expected a JSON object")
    return found


def registry_of(image: str) -> str:
    """Return the registry of an image reference: its first part if that looks like a host, else Docker Hub."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "docker.io"


def _keys(registry: str) -> tuple[str, ...]:
    if registry in _HUB_NAMES:
        return (DOCKER_HUB, *_HUB_NAMES)
    return (registry, f"https://{registry}", f"https://{registry}/v1/", f"https://{registry}/v2/", f"http://{registry}")


def _helper(name: str, registry: str) -> dict[str, str] | None:
    server = DOCKER_HUB if registry in _HUB_NAMES else registry
    try:
        done = subprocess.run(
            [f"docker-credential-{name}", "get"], input=server, capture_output=True, text=True,
            timeout=_HELPER_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as err:
        raise Failure(f"the credential helper docker-credential-{name} does not answer: {err}") from err
    if done.returncode:
        return None
    answer = json.loads(done.stdout)
    if answer.get("Username") == "<token>":
        return {"identitytoken": answer["Secret"]}
    return {"username": answer["Username"], "password": answer["Secret"]}


def _decoded(entry: Mapping[str, Any]) -> dict[str, str] | None:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    if not entry.get("auth"):
        return None
    user, _, password = base64.b64decode(entry["auth"]).decode(errors="replace").partition(":")
    return {"username": user, "password": password.rstrip("\0")}


def find(registry: str) -> dict[str, str] | None:
    """Return the credentials for a registry as the API's AuthConfig, or None."""
    for path in (own_file(), docker_file()):
        config = _read(path)
        keys = _keys(registry)
        helper = next((h for k, h in (config.get("credHelpers") or {}).items() if k in keys), None)
        if helper is None and any(key in (config.get("auths") or {}) for key in keys):
            helper = config.get("credsStore")
        found = _helper(helper, registry) if helper else None
        for key in keys:
            if found is None and key in (config.get("auths") or {}):
                found = _decoded(config["auths"][key])
        if found is not None:
            return {**found, "serveraddress": keys[0]}
    return None


def header(registry: str) -> dict[str, str]:
    """Return the X-Registry-Auth header for a registry; empty credentials if there are none."""
    data = json.dumps(find(registry) or {}).encode()
    return {"X-Registry-Auth": base64.urlsafe_b64encode(data).decode()}


def _write(config: dict[str, Any]) -> None:
    """Replace our file; nobody else may read it at any moment."""
    path = own_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(config, file, indent=2)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as err:
        raise Failure(f"cannot write the credentials to {path}: {err}") from err


def store(registry: str, credentials: Mapping[str, str]) -> Path:
    """Remember credentials; return the file."""
    config = _read(own_file())
    entry = dict(credentials)
    if "identitytoken" not in entry:
        auth = f"{credentials['username']}:{credentials['password']}"
        entry = {"auth": base64.b64encode(auth.encode()).decode()}
    config.setdefault("auths", {})[_keys(registry)[0]] = entry
    _write(config)
    return own_file()


def forget(registry: str) -> bool:
    """Forget a registry's credentials; return whether there were any."""
    config = _read(own_file())
    auths = config.get("auths") or {}
    known = [key for key in _keys(registry) if key in auths]
    for key in known:
        del auths[key]
    if known:
        _write(config)
    return bool(known)
