"""docker-py, the other client that people script with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.host import SECONDS, EngineHost

docker = pytest.importorskip("docker")


@pytest.fixture
def client(host: EngineHost) -> Iterator[Any]:
    with contextlib.closing(docker.DockerClient(base_url=host.url, timeout=SECONDS)) as made:
        yield made


def test_run(client: Any, clean: EngineHost) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert caught.value.exit_status == 3
    assert caught.value.stderr == b"bad\n"


def test_life(client: Any, clean: EngineHost) -> None:
    container = client.containers.run("busybox", "sleep 1000", detach=True, name="life", environment={"A": "b"})
    assert container.status in ("created", "running")
    assert container.exec_run(["sh", "-c", "echo $A; exit 4"]) == (4, b"b\n")
    container.put_archive("/tmp", _tar("file", b"content"))
    stream, facts = container.get_archive("/tmp/file")
    assert facts["size"] == 7
    assert b"content" in b"".join(stream)
    assert container.stats(stream=False)["pids_stats"]["current"] >= 1
    assert container.top()["Processes"]
    container.pause()
    container.unpause()
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("life")


def _tar(name: str, data: bytes) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_networks_and_volumes(client: Any, clean: EngineHost) -> None:
    pool = docker.types.IPAMPool(subnet="10.91.0.0/24", gateway="10.91.0.254")
    network = client.networks.create("mine", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    volume = client.volumes.create("data", labels={"a": "b"})
    container = client.containers.run(
        "busybox", "sleep 1000", detach=True, network="mine", volumes={"data": {"bind": "/data", "mode": "rw"}},
        ports={"80/tcp": ("127.0.0.1", None)}, mem_limit="32m",
    )  # fmt: skip
    container.reload()
    assert container.attrs["NetworkSettings"]["Networks"]["mine"]["IPAddress"].startswith("10.91.0.")
    assert container.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    network.disconnect(container)
    with pytest.raises(docker.errors.APIError) as caught:
        volume.remove()
    assert caught.value.status_code == 409
    container.remove(force=True)
    volume.remove()
    network.remove()


def test_images_and_events(client: Any, clean: EngineHost) -> None:
    image = client.images.get("busybox")
    assert image.tag("mine", "2")
    assert "mine:2" in client.images.get("mine:2").tags
    client.images.remove("mine:2")
    events = client.events(since=0, until=1, decode=True)
    assert list(events) == []
    assert client.ping()
    assert client.info()["Images"] >= 1
