"""Images, volumes and a doctor without an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.api.services.data import Auth, Filters, JsonObject, Readable, Writable
from engine.image.model import HistoryEntry, Image, Progress, ProgressSink, Removal
from engine.network.model import NetworkRecord
from engine.spec.errors import Conflict, Forbidden, NotFound, Unavailable
from engine.spec.ipam import Pool
from engine.spec.links import Address, Bridge
from engine.spec.resource import Plan
from engine.volume.record import VolumeRecord

IMAGE = Image(
    id="sha256:" + "ab" * 32,
    config={
        "created": "2026-01-02T03:04:05.123456789Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Labels": {"a": "b"}},
        "history": [{"created_by": "layer 0", "comment": "made by hand"}],
    },
    layers=("sha256:" + "cd" * 32,),
    size=1234567,
    repo_tags=("busybox:latest", "registry.example:5000/team/busybox:1"),
    repo_digests=("busybox@sha256:" + "ef" * 32,),
    last_tagged=1767225600.0,
)


class FakeImages:
    """Implements `engine.api.services.images.ImageManager`: one image, and registries named by what they do."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.aborted = threading.Event()
        self.loaded = b""

    def resolve(self, ref_or_id: str) -> Image:
        if ref_or_id in ("busybox", IMAGE.id, *IMAGE.repo_tags) or IMAGE.id.startswith(f"sha256:{ref_or_id}"):
            return IMAGE
        raise NotFound(f"No such image: {ref_or_id}", hint="Did you mean busybox?")

    def history(self, ref: str) -> Sequence[HistoryEntry]:
        self.resolve(ref)
        return [HistoryEntry(IMAGE.id, IMAGE.created, "layer 0", 1234567, "made by hand", IMAGE.repo_tags)]

    def pull(self, ref: str, *, auth: Auth | None, progress: ProgressSink | None, platform: str | None) -> Image:
        self.calls.append(("pull", ref, auth, platform))
        assert progress is not None
        if "/absent:" in ref:
            raise NotFound(f"manifest for {ref} not found")
        progress(Progress("Pulling from library/busybox", "latest"))
        for n in range(3):
            progress(Progress("Downloading", "0123456789ab", n * 100, 300))
        if "/breaks:" in ref:
            raise Unavailable("the registry went away", why="connection reset")
        if "/endless:" in ref:
            try:
                while True:
                    progress(Progress("Downloading", "0123456789ab", 1, 300))
                    time.sleep(0.01)
            except ConnectionAbortedError:
                self.aborted.set()
                raise
        progress(Progress("Pull complete", "0123456789ab"))
        progress(Progress(f"Status: Downloaded newer image for {ref}"))
        return IMAGE

    def push(self, ref: str, *, auth: Auth | None, progress: ProgressSink | None) -> str:
        self.calls.append(("push", ref, auth))
        assert progress is not None
        progress(Progress("Pushed", "0123456789ab"))
        return "sha256:" + "12" * 32

    def login(self, server: str, username: str, password: str) -> str:
        self.calls.append(("login", server, username))
        if password != "right":
            raise Forbidden(f"login to {server} failed", why="unauthorized: incorrect username or password")
        return server

    def tag(self, src: str, dst: str) -> None:
        self.resolve(src)
        self.calls.append(("tag", src, dst))

    def remove(self, ref: str, *, force: bool, prune: bool) -> Sequence[Removal]:
        self.resolve(ref)
        if not force:
            raise Conflict("conflict: unable to remove repository reference", why="container 0123 uses it")
        return [Removal("Untagged", "busybox:latest"), Removal("Deleted", IMAGE.id)]

    def prune(self, *, all: bool, filters: Filters | None) -> tuple[Sequence[Removal], int]:
        self.calls.append(("prune", all, dict(filters or {})))
        return [Removal("Deleted", IMAGE.id)], 99

    def load(self, source: Readable, *, progress: ProgressSink | None) -> Sequence[str]:
        assert progress is not None
        while data := source.read(1 << 16):
            self.loaded += data
        progress(Progress("Loaded image: busybox:latest"))
        return ["busybox:latest"]

    def save(self, refs: Sequence[str], out: Writable) -> None:
        for ref in refs:
            self.resolve(ref)
        for _ in range(64):
            out.write(b"x" * (1 << 16))

    def import_(
        self, source: Readable, ref: str, *, changes: Iterable[str], message: str, platform: str | None
    ) -> Image:
        self.calls.append(("import", len(source.read()), ref, list(changes), message, platform))
        return IMAGE

    def list(self, filters: Filters | None = None) -> Sequence[Image]:
        self.calls.append(("list", dict(filters or {})))
        return [IMAGE]


@dataclass(frozen=True)
class FakeDifference:
    key: tuple[str, ...]
    state: str
    fields: Mapping[str, tuple[object, object]]


@dataclass(frozen=True)
class FakeOwnerPlan:
    title: str
    plan: Plan
    differences: Sequence[FakeDifference]
    in_use: bool


class FakeNetworks:
    """Implements `engine.api.services.networks.NetworkManager`, in memory."""

    def __init__(self) -> None:
        self.networks: dict[str, NetworkRecord] = {}
        self.pruned: list[tuple[Filters, float | None]] = []

    def create(
        self, name: str, driver: str, *, options: Mapping[str, str] | None, ipam: Sequence[Mapping[str, Any]],
        ipam_driver: str, ipam_options: Mapping[str, str] | None, labels: Mapping[str, str] | None, internal: bool,
        ipv4: bool, ipv6: bool, attachable: bool, scope: str,
    ) -> NetworkRecord:  # fmt: skip
        if name in self.networks:
            raise Conflict(f"network with name {name} already exists")
        pools = tuple(Pool(subnet=p["Subnet"], gateway=p.get("Gateway")) for p in ipam)
        self.networks[name] = NetworkRecord(
            id=f"{len(self.networks) + 1:064x}", name=name, driver=driver or "bridge", created="2026-01-01T00:00:00Z",
            given=options or {}, ipam_driver=ipam_driver or "range", pools=pools, labels=labels or {},
            internal=internal, ipv6=ipv6, attachable=attachable, ifname="br-1", mac="02:00:00:00:00:01",
        )  # fmt: skip
        return self.networks[name]

    def default_network(self, driver: str, options: Mapping[str, str] | None = None) -> NetworkRecord:
        if driver not in self.networks:
            self.create(
                driver, driver, options=options, ipam=(), ipam_driver="", ipam_options=None, labels=None,
                internal=False, ipv4=True, ipv6=False, attachable=False, scope="",
            )  # fmt: skip
        return self.networks[driver]

    def get(self, ref: str) -> NetworkRecord:
        for record in self.networks.values():
            if ref in (record.name, record.id):
                return record
        raise NotFound(f"network {ref} not found")

    def inspect(self, record: NetworkRecord) -> JsonObject:
        return {
            "Name": record.name, "Id": record.id, "Driver": record.driver, "Scope": "local",
            "Created": record.created, "Options": dict(record.given), "Labels": dict(record.labels),
            "IPAM": {"Driver": "default", "Config": [{"Subnet": str(p.subnet)} for p in record.pools]},
        }  # fmt: skip

    def remove(self, ref: str) -> None:
        del self.networks[self.get(ref).name]

    def prune(self, filters: Filters | None = None, until: float | None = None) -> Sequence[str]:
        self.pruned.append((dict(filters or {}), until))
        return list(self.networks)

    def plan(self, ref: str) -> Sequence[FakeOwnerPlan]:
        link = Bridge(name=self.get(ref).ifname, mtu=1400)
        differs = FakeDifference(link.key, "differs", {"mtu": (1400, 1500)})
        stray = FakeDifference(("link", "host", "stray0"), "unwanted", {})
        return [
            FakeOwnerPlan(
                "network", Plan.of(link, Address(link=link.name, address="10.9.0.1/24")), (differs, stray), True
            )
        ]

    def list(self, filters: Filters | None = None) -> Sequence[NetworkRecord]:
        return list(self.networks.values())


class FakeVolumes:
    """Implements `engine.api.services.volumes.VolumeManager`, in memory."""

    def __init__(self) -> None:
        self.volumes: dict[str, VolumeRecord] = {}
        self.pruned: list[Filters] = []

    def _get(self, name: str) -> VolumeRecord:
        if name not in self.volumes:
            raise NotFound(f"get {name}: no such volume")
        return self.volumes[name]

    def create(
        self,
        name: str | None,
        driver: str,
        options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        *,
        key: bytes | None = None,
    ) -> VolumeRecord:
        name = name or "f" * 64
        record = VolumeRecord(
            id="1" * 64, name=name, driver=driver or "local", created="2026-01-01T00:00:00Z",
            given=options or {}, labels=labels or {},
        )  # fmt: skip
        return self.volumes.setdefault(name, record)

    def describe(self, record: VolumeRecord) -> JsonObject:
        return {
            "Name": record.name, "Driver": record.driver, "Mountpoint": "/m", "Scope": "local",
            "CreatedAt": record.created, "Labels": dict(record.labels), "Options": dict(record.given),
        }  # fmt: skip

    def inspect(self, name: str) -> JsonObject:
        return self.describe(self._get(name))

    def usage(self, name: str) -> tuple[int, int]:
        return 4096, 0

    def remove(self, name: str, force: bool = False) -> None:
        if not (force and name not in self.volumes):
            del self.volumes[self._get(name).name]

    def prune(self, filters: Filters | None = None) -> tuple[Sequence[str], int]:
        self.pruned.append(dict(filters or {}))
        return list(self.volumes), 4096

    def list(self, filters: Filters | None = None) -> Sequence[VolumeRecord]:
        return list(self.volumes.values())


class FakeDoctor:
    """Implements `engine.api.services.host.Doctor`: one thing is wrong until it is repaired."""

    def __init__(self) -> None:
        self.wrong: list[JsonObject] = [
            {"resource": "link/br0", "state": "differs", "owner": "net:1", "fields": {"mtu": [1500, 1400]}}
        ]

    def diff(self) -> list[JsonObject]:
        return self.wrong

    def repair(self) -> JsonObject:
        repaired, self.wrong = self.wrong, []
        return {"repaired": repaired, "left": []}


class FakeNodes:
    """Implements `engine.api.services.host.Nodes`: a cluster of two."""

    def __init__(self) -> None:
        self.nodes = {
            name: {"Name": name, "ID": name, "Address": f"192.0.2.{n}", "Status": status, "Self": n == 1, "Engine": "1"}
            for n, (name, status) in enumerate((("one", "ready"), ("two", "down")), 1)
        }

    def list(self) -> list[JsonObject]:
        return list(self.nodes.values())

    def inspect(self, name: str) -> JsonObject:
        if name not in self.nodes:
            raise NotFound(f"the cluster has no node {name}")
        return self.nodes[name]

    def remove(self, name: str) -> None:
        self.inspect(name)
        del self.nodes[name]

    def token(self) -> str:
        return "engine-join-abc"

    def join(self, token: str, *, advertise: str, node: str) -> JsonObject:
        return {**self.nodes["one"], "Name": node, "Address": advertise, "Token": token}

    def leave(self) -> None:
        self.nodes.clear()
