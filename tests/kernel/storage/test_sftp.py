"""What only an SSH server shows: host keys, user keys, and files that others wrote."""

from __future__ import annotations

import subprocess

import pytest
from tests.kernel.storage import servers

from engine.plugins import Plugins
from engine.spec.errors import Forbidden, NotFound
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sshd")
    with servers.sshd(directory) as place:
        yield place


def open_store(place, **changes):
    stores = Stores(Plugins(deadline=60))
    given = {**place.options, "deadline": "10", **{k.replace("_", "-"): v for k, v in changes.items()}}
    return stores.open(stores.plan(place.url, given), Secrets())


def test_another_users_key_is_refused(place, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True, timeout=30)
    with pytest.raises(Forbidden, match="Permission denied"):
        open_store(place, private_key=f"file:{tmp_path}/k").check()


def test_a_server_with_another_host_key_is_refused(place, tmp_path):
    (tmp_path / "known").write_text("")
    with pytest.raises(Forbidden, match="HostKeyNotVerifiable"):
        open_store(place, known_hosts=str(tmp_path / "known")).check()


def test_a_directory_that_is_not_there(place):
    store = open_store(place._replace(url=place.url + "/missing"))
    with pytest.raises(NotFound):
        store.check()
    store.put("a/b", b"made with its directory")
    store.check()


def test_a_range_is_a_range(place):
    store = open_store(place)
    store.put("large", bytes(4 << 20))
    assert len(store.get("large", 1000, 2000)) == 1000
