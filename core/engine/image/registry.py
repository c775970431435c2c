"""Talking to registries: all through skopeo, which knows credentials, TLS, mirrors, proxies and signatures."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.image.reference import DEFAULT_REGISTRY, Reference
from engine.spec.errors import (
    DeadlineExceeded,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unavailable,
    Unsupported,
)

DEADLINE = 120.0
"""Seconds for one short exchange with a registry, and the longest silence within a long one."""

Auth = Mapping[str, str]
"""Docker's AuthConfig: username and password, or auth (base64 of user:password), or identitytoken."""

_POLICIES = ("/etc/containers/policy.json", "~/.config/containers/policy.json")


@dataclass(frozen=True)
class Registries:
    """How registries are reached: which without TLS, and where temporary credentials are kept (below the exec root)."""

    scratch: Path
    insecure: tuple[str, ...] = ()

    def verify_tls(self, registry: str) -> bool:
        """Whether TLS is demanded: not for loopback hosts and those (or those networks) that the operator named."""
        if registry in self.insecure:
            return False
        host = registry.rsplit(":", 1)[0] if not registry.endswith("]") else registry
        host = host.strip("[]")
        if host == "localhost" or host in self.insecure:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return True
        return not (address.is_loopback or any(_within(address, entry) for entry in self.insecure))

    @contextlib.contextmanager
    def options(self, registry: str, auth: Auth | None, prefix: str = "") -> Iterator[list[str]]:
        """Options of skopeo for a registry: TLS, and a file of credentials (mode 0600) that is gone afterwards.

        Without `auth` the file is empty: the credentials of whoever started the daemon are never used by accident.
        """
        self.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self.scratch, prefix="auth-", suffix=".json") as file:
            json.dump({"auths": {registry: _entry(auth)} if auth else {}}, file)
            file.flush()
            tls = "true" if self.verify_tls(registry) else "false"
            yield [f"--{prefix}tls-verify={tls}", "--authfile", file.name]

    def manifest(self, reference: Reference, auth: Auth | None) -> bytes:
        """The manifest or manifest list of a name, byte for byte. Raises NotFound, Forbidden, Unavailable."""
        with self.options(reference.registry, auth) as options:
            return run(["inspect", "--raw", *options, url(reference)], f"cannot pull {reference.familiar}")

    def login(self, server: str, username: str, password: str) -> str:
        """Check credentials with a registry; returns its name. Raises Forbidden when they are wrong."""
        registry = registry_of(server)
        with self.options(registry, None) as options:
            argv = ["login", *options, "--username", username, "--password-stdin", registry]
            try:
                run(argv, f"login to {registry} failed", stdin=password.encode())
            except Forbidden as err:
                raise Forbidden(err.what, why=err.why, hint="Check the user name and the password.") from err
        return registry


def registry_of(server: str) -> str:
    """The registry of a server address as docker sends it ("", "https://index.docker.io/v1/", "host:5000")."""
    host = server.removeprefix("https://").removeprefix("http://").split("/", 1)[0]
    return DEFAULT_REGISTRY if host in ("", "index.docker.io", "registry-1.docker.io") else host


def url(reference: Reference) -> str:
    """The name for skopeo, which takes a tag or a digest, not both."""
    return f"docker://{reference.at(reference.digest) if reference.digest else reference.with_default_tag()}"


def command() -> list[str]:
    """Skopeo; the signature policy is the operator's where there is one, else everything is accepted, as in docker."""
    has_policy = any(Path(path).expanduser().exists() for path in _POLICIES)
    return ["skopeo"] if has_policy else ["skopeo", "--insecure-policy"]


def run(argv: list[str], what: str, stdin: bytes = b"") -> bytes:
    """Run a short skopeo command; returns its output. `what` begins the error's sentence."""
    try:
        done = subprocess.run(
            [*command(), *argv], input=stdin, capture_output=True, timeout=DEADLINE, check=False, env=environment()
        )
    except FileNotFoundError as err:
        raise no_skopeo(what) from err
    except subprocess.TimeoutExpired as err:
        raise DeadlineExceeded(what, why=f"the registry did not answer within {DEADLINE:.0f} s") from err
    if done.returncode:
        raise error(what, last_message(done.stderr.decode(errors="replace")))
    return done.stdout


def environment() -> dict[str, str]:
    """Our environment for skopeo; messages in English, since `error` reads them."""
    return {**os.environ, "LC_ALL": "C"}


def no_skopeo(what: str) -> Unsupported:
    """The error when skopeo is missing."""
    return Unsupported(what, why="skopeo is not installed", hint="Install it, for example by `apt-get install skopeo`.")


def last_message(stderr: str) -> str:
    """The message of skopeo's last log line (logrus: time=... level=fatal msg="...")."""
    lines = [line for line in stderr.strip().splitlines() if line] or ["skopeo failed without a message"]
    _, found, message = lines[-1].partition(" msg=")
    if not found:
        return lines[-1]
    with contextlib.suppress(ValueError):
        message = str(json.loads(message))
    return re.sub(r'^Error parsing image name "[^"]*": ', "", message)


def error(what: str, why: str) -> EngineError:
    """Skopeo's words as one of our error kinds."""
    text = why.lower()
    login = "Log in with `engine login` if the registry is private."
    if any(word in text for word in ("unauthorized", "authentication required", "invalid username/password")):
        return Forbidden(what, why=why, hint=login)
    if any(word in text for word in ("denied", "403 (forbidden)")):
        return Forbidden(what, why=why, hint=f"The repository does not exist or may not be read. {login}")
    if any(word in text for word in ("manifest unknown", "name unknown", "not found", "repository name not known")):
        return NotFound(what, why=why, hint="Check the name and the tag.")
    if "corrupted blob" in text or "bytes in blob" in text:
        return InvalidParameter(what, why=why, hint="Try again; if it stays so, the registry is damaged.")
    if "server gave http response to https client" in text:
        return Unavailable(what, why=why, hint="Use --insecure-registry if it has no TLS on purpose.")
    return Unavailable(what, why=why)


def _entry(auth: Auth) -> dict[str, str]:
    if token := auth.get("identitytoken"):
        return {"auth": _base64("<token>:"), "identitytoken": token}
    if auth.get("registrytoken"):
        raise Unsupported("cannot use a registry token", hint="Log in with user and password or an identity token.")
    if encoded := auth.get("auth"):
        return {"auth": encoded}
    return {"auth": _base64(f"{auth.get('username', '')}:{auth.get('password', '')}")}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, entry: str) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
