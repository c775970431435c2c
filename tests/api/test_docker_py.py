"""docker-py, and a WebSocket, against the server."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import aiohttp
import docker
import pytest

from .conftest import SECONDS, Server


def test_run_logs_wait_remove(server: Server) -> None:
    client = server.py()
    assert client.ping()
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"bad\n")
    container = client.containers.create("busybox", ["sh", "-c", "echo one; echo two >&2"], name="c")
    container.start()
    assert container.wait() == {"StatusCode": 0}
    assert sorted(container.logs(stream=True, follow=True)) == [b"one\n", b"two\n"]
    container.remove()
    client.close()


def test_error_kinds(server: Server) -> None:
    client = server.py()
    with pytest.raises(docker.errors.NotFound, match="No such container: nobody"):
        client.containers.get("nobody")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nothing")
    client.containers.create("busybox", name="c")
    with pytest.raises(docker.errors.APIError) as failed:
        client.containers.create("busybox", name="c")
    assert failed.value.status_code == 409
    client.close()


def test_attach_socket_with_input(server: Server) -> None:
    api = server.py().api
    id = api.create_container("busybox", ["cat"], stdin_open=True, name="c")["Id"]
    attached = api.attach_socket(id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    api.start(id)
    raw = attached._sock
    raw.settimeout(SECONDS)
    raw.sendall(b"hello")
    head = raw.recv(8, 256)  # MSG_WAITALL
    assert head == b"\1\0\0\0\0\0\0\5"
    assert raw.recv(5) == b"hello"
    raw.shutdown(1)
    assert raw.recv(1) == b""
    assert api.wait(id)["StatusCode"] == 0
    attached.close()
    api.close()


def test_exec(server: Server) -> None:
    client = server.py()
    container = client.containers.run("busybox", ["sleep", "100"], detach=True)
    assert container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True) == (4, (b"o\n", b"e\n"))
    assert container.exec_run(["echo", "terminal"], tty=True).output == b"terminal\r\n"
    id = client.api.exec_create(container.id, ["true"])["Id"]
    client.api.exec_start(id)
    with pytest.raises(docker.errors.APIError) as failed:
        client.api.exec_start(id)
    assert failed.value.status_code == 409
    client.api.exec_resize(id, height=10, width=20)
    assert server.containers.execs[id].size == (10, 20)
    client.close()


def test_pull_push_build_messages(server: Server) -> None:
    api = server.py().api
    steps = list(api.pull("registry.example/busybox", tag="1", stream=True, decode=True))
    assert [s["progressDetail"] for s in steps if s.get("status") == "Downloading"] == [
        {"current": 0, "total": 300}, {"current": 100, "total": 300}, {"current": 200, "total": 300},
    ]  # fmt: skip
    steps = list(api.pull("registry.example/breaks", tag="1", stream=True, decode=True))
    assert steps[-1]["errorDetail"]["message"] == "the registry went away: connection reset"
    credentials = {"username": "alice", "password": "päss"}
    steps = list(api.push("registry.example/busybox", tag="1", stream=True, decode=True, auth_config=credentials))
    assert steps[-1]["aux"]["Tag"] == "1"
    assert server.images.calls[-1][2] == credentials
    api.close()


def test_events_and_stats(server: Server) -> None:
    client = server.py()
    seen = client.events(decode=True, filters={"event": ["start", "die"]})
    container = client.containers.run("busybox", ["sleep", "100"], detach=True, name="c")
    event = next(seen)
    assert (event["status"], event["id"], event["from"]) == ("start", container.id, "busybox")
    assert event["timeNano"] // 10**9 == event["time"]
    seen.close()
    samples = container.stats(stream=True, decode=True)
    first, second = next(samples), next(samples)
    assert first["preread"] == "0001-01-01T00:00:00Z"
    assert second["preread"] == first["read"]
    assert second["precpu_stats"] == first["cpu_stats"]
    container.remove(force=True)
    assert list(samples) == []
    client.close()


def test_archives(server: Server) -> None:
    client = server.py()
    container = client.containers.create("busybox", name="c")
    server.containers.files["/d/f"] = b"content"
    chunks, stat = container.get_archive("/d/f")
    assert stat["name"] == "f"
    assert b"content" in b"".join(chunks)
    with pytest.raises(docker.errors.APIError) as failed:
        container.put_archive("/d", b"this is no archive")
    assert failed.value.status_code == 400
    client.close()


def test_attach_over_a_websocket(server: Server) -> None:
    server.cli("create", "-i", "--name", "c", "busybox", "sh", "-c", "read x; echo got $x", check=True)
    seen = []

    async def talk() -> None:
        connector = aiohttp.UnixConnector(server.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect("http://d/v1.43/containers/c/attach/ws?stream=1&stdin=1&stdout=1") as client,
        ):
            threading.Thread(target=server.containers.start, args=("c",)).start()
            await client.send_bytes(b"word\n")
            async for message in client:
                seen.append(message.data)

    asyncio.run(asyncio.wait_for(talk(), SECONDS))
    assert b"".join(seen) == b"got word\n"


def test_500_clients_wait_without_500_threads(server: Server) -> None:
    server.cli("run", "-d", "--name", "c", "busybox", "sleep", "100", check=True)
    codes = []
    reached = asyncio.Event()

    async def wait(session: aiohttp.ClientSession, started: list[int]) -> None:
        async with session.post("http://d/containers/c/wait") as response:  # returns when the headers are there
            started.append(1)
            if len(started) == 500:
                reached.set()
            codes.append((await response.json())["StatusCode"])

    async def main() -> int:
        started: list[int] = []
        connector = aiohttp.UnixConnector(server.socket, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for _ in range(500):
                group.create_task(wait(session, started))
            await asyncio.wait_for(reached.wait(), SECONDS)
            threads = threading.active_count()
            await asyncio.to_thread(server.containers.kill, "c")
        return threads

    assert asyncio.run(main()) < 200
    assert codes == [137] * 500
    with contextlib.suppress(docker.errors.APIError):
        server.containers.remove("c")
