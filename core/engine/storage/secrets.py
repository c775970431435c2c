"""Reads what a `SecretRef` names, at the moment of use. Nothing is kept."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.spec.errors import DeadlineExceeded, Forbidden, InvalidParameter, NotFound, Unavailable
from engine.spec.options import Options
from engine.spec.secret import secret_fields

LARGEST = 1 << 20
"""Bytes of a secret at most: a file that is larger was not meant."""
COMMAND_DEADLINE = 30.0
"""Seconds that a command has to write a secret."""
Source = Callable[[str], bytes]
"""Gives the bytes of one of the engine's own secrets by name, or of a volume's key by its file; raises NotFound."""


def _no_secrets(name: str) -> bytes:
    raise NotFound(f"there is no secret {name!r}", hint="Use env:NAME or file:/PATH")


class Secrets:
    """Where secrets are read: the environment, files, commands, the engine's own store, the keys of its volumes."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        engine_secrets: Source = _no_secrets,
        volume_keys: Source = _no_secrets,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._engine_secrets = engine_secrets
        self._volume_keys = volume_keys

    def read(self, reference: str) -> bytes:
        """Return the bytes of a secret.

        Raises NotFound, Forbidden, Locked or Unavailable, which name the reference only.
        """
        source, _, name = reference.partition(":")
        match source:
            case "env":
                if name not in self._environ:
                    raise NotFound(
                        f"the secret {reference} is not set",
                        why="it is read in the environment of the daemon, not in yours",
                        hint=f"Start `engine daemon` with {name}, or name a file:/PATH or secret:NAME instead",
                    )
                return os.fsencode(self._environ[name])
            case "file":
                return _read(Path(name), reference)
            case "command":
                return _run(name)
            case "keyslots":
                return self._volume_keys(name)
        return self._engine_secrets(name)

    def of(self, options: Options) -> dict[str, bytes]:
        """Return the bytes of every secret that the options name, by the option's name."""
        references = {name: getattr(options, name) for name in secret_fields(type(options))}
        return {name: self.read(reference) for name, reference in references.items() if reference is not None}


def _read(path: Path, reference: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as err:
        raise NotFound(f"the secret {reference} is not there", why=str(err)) from err
    except PermissionError as err:
        raise Forbidden(f"the secret {reference} cannot be read", why=str(err)) from err
    except OSError as err:
        raise Unavailable(f"the secret {reference} cannot be read", why=str(err)) from err
    if len(data) > LARGEST:
        raise InvalidParameter(f"the secret {reference} has more than {LARGEST} bytes")
    return data


def _run(command: str) -> bytes:
    """Return what a command writes to its standard output. What it says to stderr is not repeated: it may be a key."""
    try:
        argv = shlex.split(command)
    except ValueError as err:
        raise InvalidParameter("the command of a secret cannot be read", why=str(err)) from err
    program = argv[0]
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as err:
        raise Unavailable(f"the command of a secret cannot be run: {program}", why=err.strerror or str(err)) from err
    try:
        data, _ = process.communicate(timeout=COMMAND_DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children, too: they hold the pipe
        process.communicate()
        what = f"the command of a secret did not end within {COMMAND_DEADLINE:g} seconds: {program}"
        raise DeadlineExceeded(what) from None
    if process.returncode != 0:
        raise Unavailable(f"the command of a secret failed: {program}", why=f"it ended with {process.returncode}")
    if len(data) > LARGEST:
        raise InvalidParameter(f"the command of a secret wrote more than {LARGEST} bytes: {program}")
    return data
