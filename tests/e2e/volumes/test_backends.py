"""A remote volume on each kind of server, made by docker's client and read again by ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.host import EngineHost, until
from tests.kernel.storage import servers
from tests.kernel.storage.servers import Place
from tests.namespaces import call_in

Server = Callable[[Path], AbstractContextManager[Place]]


@pytest.mark.parametrize("server", [servers.sshd, servers.azurite])
def test_a_volume_on(server: Server, clean: EngineHost, tmp_path: Path) -> None:
    running = server(tmp_path)
    place = call_in(clean.netns, running.__enter__)
    try:
        words = ["-o", f"url={place.url}"]
        for name, value in place.options.items():
            if value.startswith("file:"):  # credentials are the engine's secrets here
                clean.engine("secret", "create", name, value.removeprefix("file:"))
                value = f"secret:{name}"
            words += ["-o", f"{name}={value}"]
        clean.docker("volume", "create", "-d", "remote", *words, "vol")
        script = "echo one > /v/file; mkdir /v/dir; echo two > /v/dir/deep; ln -s file /v/link; chmod 640 /v/file"
        clean.docker("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", script)
        assert clean.engine("volume", "sync", "vol").stdout == "vol\n"
        until(lambda: "State" not in status(clean, "vol"), "the helper has ended")
        clean.engine("volume", "rm", "vol")
        clean.engine("volume", "create", "-d", "remote", *words, "again")
        script = "cat /v/link /v/dir/deep; stat -c %a /v/file; echo three > /v/file"
        assert clean.docker("run", "--rm", "-v", "again:/v", "busybox", "sh", "-c", script).stdout == "one\ntwo\n640\n"
        clean.engine("volume", "sync", "again")
        until(lambda: "State" not in status(clean, "again"), "the helper has ended")
        clean.docker("volume", "rm", "again")
        clean.engine("secret", "rm", *(name for name, value in place.options.items() if value.startswith("file:")))
    finally:
        call_in(clean.netns, lambda: running.__exit__(None, None, None))


def status(host: EngineHost, name: str) -> dict[str, object]:
    return dict(json.loads(host.engine("volume", "inspect", name).stdout)[0]["Status"])
