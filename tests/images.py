"""Small real images and a real registry, all made here: no network is needed.

`busybox_image()` is an image of Debian's busybox-static; `docker_archive()` and `oci_layout()` write images the way
`docker save` and OCI tools do; `Registry` is Debian's docker-registry on a free loopback port.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.namespaces import call_in

BUSYBOX = Path("/bin/busybox")
USER, PASSWORD = "alice", "correct horse"
_HTPASSWD = "alice:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"
"""The bcrypt hash of `PASSWORD` (docker-registry takes nothing else); the test of a private registry proves it."""

Entry = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True)
class Sample:
    """An image in memory: uncompressed layer tars, bottom first, and the `config` section of its OCI image config."""

    layers: tuple[bytes, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    created: str = "2024-01-02T03:04:05Z"

    @property
    def config(self) -> bytes:
        return json.dumps(
            {
                "created": self.created,
                "architecture": _architecture(),
                "os": "linux",
                "config": dict(self.run),
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
                "history": [
                    {"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(self.layers))
                ],
            }
        ).encode()

    @property
    def id(self) -> str:
        return digest(self.config)


def _architecture() -> str:
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **attributes: Any
) -> Entry:
    """One tar member; `attributes` are those of `tarfile.TarInfo` (linkname, uid, mtime, pax_headers, devmajor ...)."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, 1_600_000_000
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, mode: int = 0o755, **attributes: Any) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, **attributes)


def symlink(name: str, target: str, **attributes: Any) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, mode=0o777, linkname=target, **attributes)


def tar(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@functools.cache
def busybox_layer() -> bytes:
    """A root file system of busybox with every applet linked, /etc/passwd, /etc/group and the usual directories."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return tar(
        [
            *(directory(name) for name in ("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var", "run")),
            directory("root", 0o700),
            directory("tmp", 0o1777),
            symlink("var/run", "../run"),
            entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            entry("etc/group", b"root:x:0:\nstaff:x:50:\nnogroup:x:65534:\n"),
            entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
            *(symlink(f"bin/{name}", "busybox") for name in names if name != "busybox"),
            symlink("usr/bin/env", "../../bin/busybox"),
        ]
    )


def busybox_image(extra_layers: Sequence[bytes] = (), **run: Any) -> Sample:
    """The busybox image; `run` replaces keys of its config section (Env, Cmd, Entrypoint, User, Labels ...)."""
    section = {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["sh"],
        **run,
    }
    return Sample((busybox_layer(), *extra_layers), section)


def docker_archive(path: Path, images: Mapping[str, Sample]) -> Path:
    """Write a docker-archive (`docker save`) of one or more images by name; a name of "" is an untagged image."""
    manifest = []
    with tarfile.open(path, "w") as archive:
        written: set[str] = set()

        def add(name: str, data: bytes) -> None:
            if name not in written:
                written.add(name)
                archive.addfile(*_member(name, data))

        for name, image in images.items():
            config = image.id.removeprefix("sha256:") + ".json"
            layers = [digest(layer).removeprefix("sha256:") + "/layer.tar" for layer in image.layers]
            add(config, image.config)
            for layer_name, layer in zip(layers, image.layers, strict=True):
                add(layer_name, layer)
            manifest.append({"Config": config, "RepoTags": [name] if name else None, "Layers": layers})
        add("manifest.json", json.dumps(manifest).encode())
    return path


def _member(name: str, data: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, io.BytesIO(data)


def busybox_archive(path: Path, ref: str = "busybox:latest") -> Path:
    """Write the busybox image as a docker-archive tar to `path`; returns `path`."""
    return docker_archive(path, {ref: busybox_image()})


_MEDIA = "application/vnd.oci.image."


def compress(data: bytes, how: str) -> bytes:
    """`how`: "" (plain), "gzip" or "zstd"."""
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data


def oci_layout(path: Path, image: Sample, name: str = "latest", compression: str = "gzip") -> Path:
    """Write an OCI layout directory with one image; `name` is its org.opencontainers.image.ref.name."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    suffix = f"+{compression}" if compression else ""
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_MEDIA}manifest.v1+json",
                "config": put(image.config, f"{_MEDIA}config.v1+json"),
                "layers": [
                    put(compress(layer, compression), f"{_MEDIA}layer.v1.tar{suffix}") for layer in image.layers
                ],
            }
        ).encode(),
        f"{_MEDIA}manifest.v1+json",
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": name}
    (path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return path


def oci_archive(path: Path, image: Sample, name: str = "latest", compression: str = "gzip") -> Path:
    """Write the tar of an OCI layout."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(path, "w") as archive:
        archive.add(oci_layout(Path(scratch), image, name, compression), arcname=".")
    return path


class Registry:
    """Debian's docker-registry on a free loopback port, plain HTTP, data in a temporary directory. A context manager.

    `host` is "127.0.0.1:PORT"; with `private=True` it wants `USER` and `PASSWORD` (basic auth). `netns` is the network
    namespace whose loopback it is on.
    """

    def __init__(self, *, private: bool = False, netns: Path | None = None) -> None:
        self.private = private
        self.netns = netns
        self._prefix = [] if netns is None else ["nsenter", f"--net={netns}"]
        self.host = ""
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-registry-")
        self.data = Path(self._scratch.name, "data")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        for _ in range(5):  # the free port may be taken by a neighbour before the registry binds it
            if self._start():
                return self
        log = Path(self._scratch.name, "log").read_text(errors="replace")
        self._scratch.cleanup()
        raise RuntimeError(f"docker-registry did not start: {log[-2000:]}")

    def _start(self) -> bool:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.data)}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if self.private:
            passwords = Path(self._scratch.name, "htpasswd")
            passwords.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
        path = Path(self._scratch.name, "config.yml")
        path.write_text(json.dumps(config))  # JSON is YAML
        with Path(self._scratch.name, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "docker-registry", "serve", str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._knock()
            except urllib.error.HTTPError:
                return self._process.poll() is None  # 401: it is up and private
            except OSError:
                time.sleep(0.02)
            else:
                return self._process.poll() is None
        self._stop()
        return False

    def _knock(self) -> None:
        def knock() -> None:
            urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()

        if self.netns is None:
            knock()
        else:
            call_in(self.netns, knock)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._scratch.cleanup()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def push(self, image: Sample, name: str = "busybox:latest", compression: str = "gzip", *options: str) -> str:
        """Push a sample by skopeo; returns its full name, for example "127.0.0.1:41234/busybox:latest"."""
        with tempfile.TemporaryDirectory() as scratch:
            layout = oci_layout(Path(scratch), image, "image", compression)
            return self.push_from(f"oci:{layout}:image", name, *options)

    def push_from(self, source: str, name: str, *options: str) -> str:
        """Push from any source that skopeo knows (`docker-archive:PATH`, `oci:PATH:NAME`, `dir:PATH`)."""
        full = f"{self.host}/{name}"
        argv = [*self._prefix, "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *options]
        if self.private:
            argv += ["--dest-creds", f"{USER}:{PASSWORD}"]
        argv += [source, f"docker://{full}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"skopeo copy {source} {full}: {done.stderr}")
        return full

    def blob(self, of: str) -> Path:
        """The file in which the registry keeps the blob of a digest (tests corrupt it)."""
        value = of.removeprefix("sha256:")
        return self.data / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"


@contextlib.contextmanager
def tmpfs(path: Path, size: str) -> Any:
    """Mount a small tmpfs at `path` (needs root; use it within a private mount namespace or a temporary directory)."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True, timeout=10)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=10)
