"""Default networks that were made for a set of options go with their last container; the others stay."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator

import pytest
from tests.host import EngineHost, skip_unless_possible, until

MORE_THAN_POOLS = 36
"""More than there are default pools."""


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    skip_unless_possible()
    with EngineHost("--net-driver", "bridge", "--net-opt", "mtu=1400") as host:
        host.load_busybox()
        yield host


@pytest.fixture(autouse=True)
def _cleared(host: EngineHost) -> Iterator[None]:
    yield
    host.clear()


def networks(host: EngineHost) -> set[str]:
    return set(host.engine("network", "ls", "--format", "{{.Name}}").stdout.split())


def create(host: EngineHost, name: str, mtu: int = 1300) -> None:
    host.engine(
        "create", "--name", name, "--net-driver", "bridge", "--net-opt", f"mtu={mtu}", "busybox", "sleep", "999"
    )


def test_many_sets_of_options_one_after_the_other(host: EngineHost) -> None:
    before = networks(host)
    for n in range(MORE_THAN_POOLS):
        create(host, "one", 1200 + n)
        host.engine("rm", "one")
    assert networks(host) == before


def test_a_network_stays_as_long_as_any_container_has_it(host: EngineHost) -> None:
    before = networks(host)
    create(host, "one")
    (made,) = networks(host) - before
    create(host, "two")
    host.engine("start", "one")
    host.engine("rm", "-f", "one")
    assert networks(host) == before | {made}, "a stopped container is to start again"
    host.engine("start", "two")
    host.restart_daemon()
    assert networks(host) == before | {made}
    host.engine("network", "disconnect", made, "two")
    assert networks(host) == before


def test_with_rm(host: EngineHost) -> None:
    before = networks(host)
    host.engine("run", "--rm", "--net-driver", "bridge", "--net-opt", "mtu=1310", "busybox", "true")
    until(lambda: networks(host) == before, "the end of the network")


def test_what_could_not_be_created_leaves_no_network(host: EngineHost) -> None:
    before = networks(host)
    options = ["--net-driver", "bridge", "--net-opt", "mtu=1320"]
    done = host.engine("create", *options, "--hostname", "-", "busybox", check=False)
    assert "hostname" in done.stderr, "which is looked at after the networks"
    assert networks(host) == before


def test_others_stay(host: EngineHost) -> None:
    """The daemon's own default, the default of a driver without options, and what a person made."""
    host.engine("network", "create", "-o", "mtu=1280", "mine")
    host.engine("run", "--rm", "busybox", "true")
    host.engine("run", "--rm", "--net-driver", "bridge", "busybox", "true")
    host.engine("run", "--rm", "--network", "mine", "busybox", "true")
    before = networks(host)
    assert {"mine", "bridge"} < before
    host.restart_daemon()
    assert networks(host) == before


def test_a_kill_before_the_removal(host: EngineHost) -> None:
    before = networks(host)
    create(host, "one")
    assert networks(host) != before
    # As after a kill between the end of the container's record and the removal of the network.
    host.kill_daemon()
    with contextlib.closing(sqlite3.connect(host.data_root / "state.db")) as database, database:
        ((id,),) = database.execute("SELECT id FROM objects WHERE kind = 'container' AND name = 'one'").fetchall()
        database.execute("DELETE FROM objects WHERE kind = 'container'")
    shutil.rmtree(host.data_root / "containers" / id)
    host.start_daemon()
    assert networks(host) == before
