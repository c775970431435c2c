"""One row, one plan, one image that is not what it should be: the start and the views go on, and it can be removed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.crash.conftest import CrashHost
from tests.host import skip_unless_possible, until
from tests.images import busybox_image, docker_archive

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def odd() -> Iterator[CrashHost]:
    """A machine whose database is changed by hand."""
    skip_unless_possible()
    with CrashHost() as host:
        host.load_busybox()
        yield host


def edit(host: CrashHost, kind: str, change: Change | None, name: str = "") -> None:
    """Change the document of the objects of a kind (of that name); None: make it unreadable altogether."""
    with contextlib.closing(sqlite3.connect(host.data_root / "state.db")) as db, db:
        rows = db.execute("SELECT id, doc FROM objects WHERE kind = ? AND name IS ?", (kind, name or None)).fetchall()
        assert rows
        for id, text in rows:
            doc = json.loads(text)
            if change is not None:
                change(doc)
            new = "{" if change is None else json.dumps(doc)
            db.execute("UPDATE objects SET doc = ? WHERE kind = ? AND id = ?", (new, kind, id))


def status(host: CrashHost, name: str) -> str:
    listed = host.engine("ps", "-a", "--filter", f"name=^/{name}$", "--format", "{{.Status}}")
    return listed.stdout.strip()


def test_a_container_whose_row_is_odd(odd: CrashHost) -> None:
    odd.engine("run", "-d", "--name", "well", "busybox", "sleep", "1000")
    odd.engine("run", "-d", "--name", "lives", "--memory", "32m", "busybox", "sleep", "1000")
    odd.engine("run", "-d", "--name", "portly", "busybox", "sleep", "1000")
    odd.engine("create", "--name", "labelled", "busybox", "true")
    odd.engine("create", "--name", "nothing", "busybox", "true")
    pid = odd.inspect("lives")["State"]["Pid"]  # type: ignore[index]
    odd.kill_daemon()
    edit(odd, "container", lambda doc: doc["config"]["labels"].update(a=1), "labelled")
    edit(odd, "container", lambda doc: doc["host_config"].update(memory="much"), "lives")
    edit(odd, "container", lambda doc: doc["config"]["exposed_ports"].update(zz={}), "portly")
    edit(odd, "container", None, "nothing")
    odd.start_daemon()
    assert status(odd, "well").startswith("Up")
    assert status(odd, "lives").startswith("Up")
    assert "host_config.memory" in status(odd, "lives")
    assert "config.labels.a" in status(odd, "labelled")
    assert "faulty" in status(odd, "nothing")
    assert status(odd, "portly").startswith("Faulty")
    assert odd.inspect("lives")["State"]["Pid"] == pid  # type: ignore[index]
    for command in ("info", "system df", "ps -a -s"):
        odd.engine(*command.split())
    found = odd.engine("doctor", check=False)
    assert "engine rm labelled" in found.stdout
    odd.engine("stop", "-t", "0", "lives")
    done = odd.engine("start", "lives", check=False)
    assert "cannot be read" in done.stderr
    odd.engine("rm", "-f", "lives", "labelled", "nothing", "portly", "well")
    assert odd.engine("ps", "-aq").stdout == ""
    assert odd.engine("doctor", check=False).returncode == 0


def test_a_network_and_a_volume_whose_rows_are_odd(odd: CrashHost) -> None:
    odd.engine("network", "create", "odd")
    for name in ("odd", "copied"):
        odd.engine("volume", "create", name)
    place = Path(json.loads(odd.engine("volume", "inspect", "odd").stdout)[0]["Mountpoint"])
    (place / "file").write_text("kept")
    odd.kill_daemon()
    edit(odd, "network", lambda doc: doc.pop("driver"), "odd")
    edit(odd, "volume", lambda doc: doc.update(state="?"), "odd")
    edit(odd, "volume", None, "copied")
    (place.parent / "volume.json").unlink()
    odd.start_daemon()
    assert odd.engine("volume", "ls", "-q").stdout.split() == ["copied"]
    odd.engine("network", "ls")
    odd.engine("system", "df")
    found = odd.engine("doctor", check=False).stdout
    assert "engine network rm odd" in found
    assert "engine volume rm odd" in found
    odd.engine("network", "rm", "odd")
    odd.engine("volume", "rm", "odd", "copied")
    assert (place / "file").read_text() == "kept"
    assert odd.engine("doctor", check=False).returncode == 0


def test_a_plan_that_is_odd(odd: CrashHost) -> None:
    for name in ("one", "two"):
        odd.engine("network", "create", f"net-{name}")
        odd.engine("run", "-d", "--name", name, "--network", f"net-{name}", "busybox", "sleep", "1000")
    odd.kill_daemon()
    edit(odd, "network", lambda doc: doc.update(plan="{"), "net-one")
    odd.start_daemon()
    assert "net-one" in odd.engine("doctor", check=False).stdout
    assert odd.engine("exec", "two", "ip", "addr").stdout.count("eth0") > 1
    odd.engine("restart", "-t", "0", "one")
    until(lambda: "eth0" in odd.engine("exec", "one", "ip", "addr").stdout, "the network of a new start")
    odd.engine("rm", "-f", "one", "two")
    odd.engine("network", "rm", "net-one", "net-two")


def store_config(host: CrashHost, ref: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration of an image that is there already, as an engine that did not check it has stored it."""
    host.stop_daemon()
    with contextlib.closing(sqlite3.connect(host.data_root / "image/images.db")) as db, db:
        where = "id = (SELECT image FROM names WHERE name LIKE ?)"
        (config,) = db.execute(f"SELECT config FROM images WHERE {where}", (f"%{ref}",)).fetchone()
        doc = json.loads(config)
        change(doc)
        db.execute(f"UPDATE images SET config = ? WHERE {where}", (json.dumps(doc).encode(), f"%{ref}"))
    host.start_daemon()


def test_an_image_that_is_odd(odd: CrashHost, tmp_path: Path) -> None:
    image = busybox_image(ExposedPorts={"80/tcp": {}}, Labels={"a": "b"})
    archive = docker_archive(
        tmp_path / "odd.tar", {"odd:1": image, "odd:2": replace(image, created="2020-01-01T00:00:00Z")}
    )
    odd.engine("load", "-i", str(archive))
    store_config(odd, "odd:1", lambda doc: doc.update(created="not a date"))
    store_config(odd, "odd:1", lambda doc: doc["config"].update(ExposedPorts={"zz": {}, "80/tcp": {}}))
    odd.engine("images")
    odd.engine("system", "df")
    odd.engine("history", "odd:1")
    odd.engine("run", "-d", "--name", "one", "odd:1", "sleep", "1000")
    assert odd.engine("ps", "--format", "{{.Ports}}").stdout.strip() == "80/tcp"
    odd.engine("rm", "-f", "one")
    store_config(odd, "odd:2", lambda doc: doc["config"].update(Labels={"a": 1}))
    done = odd.engine("create", "odd:2", "true", check=False)
    assert "the image's configuration is invalid" in done.stderr
    odd.engine("images")
    odd.stop_daemon()
    with contextlib.closing(sqlite3.connect(odd.data_root / "image/images.db")) as db, db:
        db.execute("UPDATE images SET config = '{' WHERE id = (SELECT image FROM names WHERE name LIKE '%odd:2')")
    odd.start_daemon()
    odd.engine("images")
    odd.engine("info")
    odd.engine("rmi", "odd:1", "odd:2")
