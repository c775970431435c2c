"""The directory of one container below the exec root: its OCI configuration, and what conmon keeps there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.spec.errors import Internal

_DIRECTORY = "c"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Paths of one container or exec; all of them die with the exec root, that is at a reboot."""

    id: str
    path: Path

    @classmethod
    def at(cls, exec_root: Path, container_id: str) -> Bundle:
        """The bundle of `container_id`, whether it exists or not."""
        return cls(container_id, exec_root / _DIRECTORY / container_id)

    @classmethod
    def all(cls, exec_root: Path) -> list[Bundle]:
        """Every bundle below `exec_root`, for reconciling at start."""
        parent = exec_root / _DIRECTORY
        return [cls(path.name, path) for path in sorted(parent.iterdir())] if parent.is_dir() else []

    def create(self, config: str) -> None:
        """Make the directory (mode 0700) with `config` as its config.json.

        Raises Internal when it exists already or cannot be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True)
            self.persist.mkdir(mode=0o700)
            self.config.write_text(config)
        except FileExistsError as err:
            raise Internal(f"the bundle {self.path} exists already", hint="Delete the old container first") from err
        except OSError as err:
            self.remove()
            raise Internal(f"cannot write the bundle {self.path}", why=err.strerror or str(err)) from err

    def remove(self) -> None:
        """Remove the directory and all in it; nothing happens when it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)

    def exists(self) -> bool:
        """Whether there is a directory."""
        return self.path.is_dir()

    def read_config(self) -> Mapping[str, Any]:
        """The OCI configuration that the container was made from."""
        return dict(json.loads(self.config.read_text()))

    def cgroup(self) -> str:
        """Path of the container's cgroup in each hierarchy, as of the OCI configuration."""
        return str(self.read_config()["linux"]["cgroupsPath"])

    def exec_bundle(self, exec_id: str) -> Bundle:
        """Directory of an exec in this container."""
        return Bundle(exec_id, self.path / "x" / exec_id)

    @property
    def config(self) -> Path:
        """The OCI configuration (for an exec: the process object)."""
        return self.path / "config.json"

    @property
    def pidfile(self) -> Path:
        """Pid of the container's first process, in our pid namespace."""
        return self.path / "pidfile"

    @property
    def conmon_pidfile(self) -> Path:
        """Pid of its monitor."""
        return self.path / "conmon.pid"

    @property
    def control(self) -> Path:
        """Fifo that takes conmon's commands (window size)."""
        return self.path / "ctl"

    @property
    def persist(self) -> Path:
        """Where conmon leaves `exit` (decimal code) and `oom` (present when the kernel killed for memory)."""
        return self.path / "p"
