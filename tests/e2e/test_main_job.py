"""The main job: an image from a real registry, on every network driver, by both command lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import ADDRESS, GATEWAY, EngineHost
from tests.images import PASSWORD, USER, Registry, busybox_image

from .conftest import Cli

DRIVERS = ("bridge", "host", "none", "macvlan")


@pytest.fixture(scope="module")
def registry(host: EngineHost) -> Iterator[Registry]:
    with Registry(private=True, netns=host.netns) as running:
        running.push(busybox_image(), "team/busybox:1")
        yield running


@pytest.fixture
def image(cli: Cli, registry: Registry) -> Iterator[str]:
    """The image, pulled by the command line under test."""
    name = f"{registry.host}/team/busybox:1"
    cli("login", "-u", USER, "--password-stdin", registry.host, input=PASSWORD)
    cli("pull", "-q", name)
    yield name
    cli("rmi", name)
    cli("logout", registry.host)


def test_login_is_checked(cli: Cli, clean: EngineHost, registry: Registry) -> None:
    name = f"{registry.host}/team/busybox:1"
    done = cli("pull", name, check=False)
    assert done.returncode == 1
    assert "unauthorized" in done.stderr or "authentication required" in done.stderr or "no basic auth" in done.stderr
    done = cli("login", "-u", USER, "--password-stdin", registry.host, input="wrong", check=False)
    assert done.returncode == 1
    assert "invalid username/password" in done.stderr


def test_pull_tag_push_rmi(cli: Cli, clean: EngineHost, registry: Registry, image: str) -> None:
    mine = f"{registry.host}/mine/busybox:2"
    cli("tag", image, mine)
    cli("push", mine)
    cli("rmi", mine)
    assert mine not in cli("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    pulled = cli("pull", mine).stdout
    assert "Digest: sha256:" in pulled
    assert json.loads(cli("inspect", "--type", "image", mine).stdout)[0]["RepoDigests"]
    cli("rmi", mine)


def test_an_image_is_pulled_by_run(cli: Cli, clean: EngineHost, registry: Registry) -> None:
    name = f"{registry.host}/team/busybox:1"
    cli("login", "-u", USER, "--password-stdin", registry.host, input=PASSWORD)
    done = cli("run", "--rm", name, "echo", "here")
    assert done.stdout == "here\n"
    cli("rmi", name)
    cli("logout", registry.host)


def _look(host: EngineHost, driver: str, text: str) -> None:
    """Check what `ip addr` in a container of a driver shows."""
    if driver == "host":
        assert f"inet {ADDRESS}/24" in text
    elif driver == "none":
        assert "lo:" in text
        assert "eth0" not in text
    elif driver == "bridge":
        assert "eth0" in text
        assert "inet 172." in text
    else:
        assert "eth0" in text
        assert re.search(r"inet (172|192\.0\.2)\.", text)
        assert f"inet {ADDRESS}/" not in text


@pytest.mark.parametrize("driver", DRIVERS)
def test_net_driver(host: EngineHost, clean: EngineHost, driver: str) -> None:
    _look(host, driver, host.engine("run", "--rm", "--net-driver", driver, "busybox", "ip", "addr").stdout)
    _look(host, driver, host.engine("--net-driver", driver, "run", "--rm", "busybox", "ip", "addr").stdout)


@pytest.mark.parametrize("driver", DRIVERS)
def test_pulled_image_on_each_network(cli: Cli, clean: EngineHost, driver: str, image: str) -> None:
    network = driver
    if driver == "macvlan":
        network = "lan"
        cli("network", "create", "-d", "macvlan", "-o", "parent=eth0", "--subnet", "192.0.2.0/24",
            "--gateway", GATEWAY, "--ip-range", "192.0.2.128/25", network)  # fmt: skip
    _look(clean, driver, cli("run", "--rm", "--network", network, image, "ip", "addr").stdout)
    if driver == "macvlan":
        done = cli("run", "--rm", "--network", network, image, "ping", "-c1", "-W5", GATEWAY, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_options_of_a_net_driver(host: EngineHost, clean: EngineHost) -> None:
    done = host.engine(
        "run", "--rm", "--net-driver", "macvlan", "--net-opt", "parent=eth0", "--net-opt", "mode=private", "busybox",
        "ip", "addr",
    )  # fmt: skip
    _look(host, "macvlan", done.stdout)


def test_builtin_image_needs_no_registry(host: EngineHost, clean: EngineHost) -> None:
    done = host.engine("run", "--rm", "--net-driver", "macvlan", "engine.local/host", "ip", "addr")
    _look(host, "macvlan", done.stdout)
    mark = Path(host.root.anchor, "etc", "written-by-container")
    host.engine("run", "--rm", "engine.local/host", "touch", str(mark))
    assert not mark.exists()


def test_default_driver_of_the_daemon() -> None:
    with EngineHost("--net-driver", "macvlan", "--net-opt", "parent=eth0") as other:
        other.load_busybox()
        _look(other, "macvlan", other.docker("run", "--rm", "busybox", "ip", "addr").stdout)
        _look(other, "macvlan", other.engine("run", "--rm", "busybox", "ip", "addr").stdout)
        assert "inet 172." in other.docker("run", "--rm", "--network", "bridge", "busybox", "ip", "addr").stdout
