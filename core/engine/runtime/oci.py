"""The OCI runtime's command line: crun or runc."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.runtime.failures import runtime_error
from engine.runtime.processes import run
from engine.spec.errors import Conflict, Internal, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class OciRuntime:
    """One OCI runtime. Each operation is one short-lived process with a deadline of `seconds`.

    `binary` runs every command but those that conmon runs (create, exec), for which `monitored` is used: the same
    program, or a command line that ends in it. Errors are of our kinds, with the runtime's own words as `why`:
    NotFound for an unknown container, Conflict for one in the wrong state, DeadlineExceeded, Unavailable when the
    program is missing, Internal for the rest.
    """

    name: str
    binary: Path
    monitored: tuple[str, ...]
    root: Path
    options: tuple[str, ...] = ()
    version: str = ""
    seconds: float = field(default=30.0)

    def state(self, container_id: str) -> Mapping[str, Any]:
        """The OCI state object: `status` is `creating`, `created`, `running`, `paused` or `stopped`; `pid` is 0
        when stopped.
        """
        return dict(json.loads(self._run("state", container_id)))

    def start(self, container_id: str) -> None:
        """Let a created container run its command."""
        self._run("start", container_id)

    def kill(self, container_id: str, signal: int, *, everything: bool = False) -> None:
        """Send `signal` to the first process, or to all. Raises Conflict when the container does not run."""
        self._run("kill", *(["--all"] if everything else []), container_id, str(signal))

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove a stopped container's state and cgroup; with `force` one that runs (killed) or does not exist,
        too.
        """
        try:
            self._run("delete", *(["--force"] if force else []), container_id)
        except NotFound:
            if not force:
                raise

    def pause(self, container_id: str) -> None:
        """Freeze all processes."""
        self._run("pause", container_id)

    def resume(self, container_id: str) -> None:
        """Thaw them."""
        self._run("resume", container_id)

    def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        """Change limits; `resources` is an OCI `linux.resources` object (see `resources.linux_resources`)."""
        file = self.root / f"{container_id}.update"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(json.dumps(resources))
        try:
            self._run("update", "--resources", str(file), container_id)
        finally:
            file.unlink()

    def containers(self) -> list[str]:
        """Ids of all containers that the runtime knows below its root."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []

    def global_arguments(self) -> list[str]:
        """What stands before every command."""
        return [*self.options, "--root", str(self.root)]

    def _run(self, command: str, *arguments: str) -> str:
        container_id = next(a for a in arguments if not a.startswith("-") and "/" not in a)
        what = f"cannot {command} container {container_id[:12]}"
        done = run([str(self.binary), *self.global_arguments(), command, *arguments], seconds=self.seconds, what=what)
        if done.returncode != 0:
            raise runtime_error(what, done.stderr, default=Internal, conflict=Conflict)
        return done.stdout
