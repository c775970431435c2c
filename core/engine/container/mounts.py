"""What a container mounts, resolved: volumes are made, names given, sources checked."""

from __future__ import annotations

from pathlib import Path

from engine import directories
from engine.container.config import Config, HostConfig
from engine.container.record import MountPoint
from engine.container.store import ContainerStore
from engine.spec.errors import InvalidParameter
from engine.volume.binds import MountRequest, parse_all
from engine.volume.manager import VolumeManager


class MountResolver:
    """Turns what was asked for into mount points. Volumes that are named and not there are made, as Docker does."""

    def __init__(self, store: ContainerStore, volumes: VolumeManager) -> None:
        self._store = store
        self._volumes = volumes

    def resolve(self, config: Config, host: HostConfig, user: str) -> list[MountPoint]:
        """Return the mount points of a new container, whose id `user` refers to its volumes from now on.

        Raises InvalidParameter, NotFound (volumes-from, driver), Conflict; then no volume that was made for it is left.
        """
        requests = parse_all(host.binds, host.mounts, host.tmpfs, config.volumes)
        given = {r.target for r in parse_all(host.binds, host.mounts, host.tmpfs)}
        inherited = [m for m in self._inherited(host) if m.target not in given]
        taken = {m.target for m in inherited}
        wanted = [r for r in requests if r.target in given or r.target not in taken]
        for request in wanted:
            _check_source(request)
        taken_over = [m.source for m in inherited if m.type == "volume"]
        made: list[str] = []
        try:
            points = [self._point(request, host, user, made) for request in wanted]
            for name in taken_over:
                self._volumes.reference(name, user)
        except Exception:
            for name in (*taken_over, *made, *(r.source for r in wanted if r.type == "volume" and r.source)):
                self._volumes.dereference(name, user)
            for name in made:
                self._volumes.remove(name)
            raise
        return points + inherited

    def _point(self, request: MountRequest, host: HostConfig, user: str, made: list[str]) -> MountPoint:
        source, driver = request.source, ""
        if request.type == "volume":
            volume = self._volumes.create(
                request.source or None,
                driver=request.driver or host.volume_driver,
                options=request.driver_options,
                labels=request.labels,
                user=user,
            )
            source, driver = volume.name, volume.driver
            if request.anonymous:
                made.append(volume.name)
        elif request.type == "bind" and request.create_host_path and not Path(source).exists():
            directories.make_public(Path(source))
        return MountPoint(
            type=request.type,
            target=request.target,
            source=source,
            driver=driver,
            read_only=request.read_only,
            propagation=request.propagation,
            recursive=request.recursive,
            no_copy=request.no_copy,
            subpath=request.subpath,
            options=request.options,
            anonymous=request.anonymous,
        )

    def _inherited(self, host: HostConfig) -> list[MountPoint]:
        points: dict[str, MountPoint] = {}
        for text in host.volumes_from:
            ref, _, mode = text.partition(":")
            if mode not in ("", "ro", "rw", "z", "Z"):
                raise InvalidParameter(f"invalid mode {mode!r} of --volumes-from {text!r}")
            for point in self._store.get(ref).mounts:
                if point.type != "tmpfs":
                    changes = {"read_only": point.read_only or mode == "ro", "anonymous": False}
                    points[point.target] = point.model_copy(update=changes)
        return list(points.values())


def _check_source(request: MountRequest) -> None:
    if request.type == "bind" and not request.create_host_path and not Path(request.source).exists():
        raise InvalidParameter(
            'invalid mount config for type "bind"', why=f"bind source path does not exist: {request.source}"
        )
