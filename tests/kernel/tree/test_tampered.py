"""Trees on an encrypted store whose objects were tampered with while a good copy of them is here."""

from __future__ import annotations

import shutil

import pytest
from tests.kernel.tree.grounds import Place, need_on_demand, store_of

from engine.tree import holder


@pytest.mark.parametrize("mode", ["sync", "on-demand"])
def test_a_file_that_is_whole_here_stays(tmp_path, monkeypatch, mode):
    if mode == "on-demand":
        need_on_demand(tmp_path)
    monkeypatch.setenv("PW", "correct horse")
    given = {"crypt-password": "env:PW", "manifest": "true", "fsync": "false"}
    store = store_of(f"crypt::file://{tmp_path}/store", given)
    try:
        with Place(tmp_path, store, mode=mode) as place:
            (place.path / "victim").write_bytes(b"genuine")
            (place.path / "other").write_bytes(b"another")
            place.sync()
        victim, other = (tmp_path / "store" / store._names.hide(name) for name in ("victim", "other"))
        genuine = victim.read_bytes()
        shutil.copyfile(other, victim)
        with place.reopened() as again:
            assert (again.path / "victim").read_bytes() == b"genuine"
            status = again.tree.status()
            assert status.state == "degraded"
            assert "'victim' (it is the object of 'other')" in status.reason
        victim.write_bytes(genuine)
        with place.reopened() as again:
            assert again.tree.status().state == "ready", again.tree.status()
    finally:
        holder.end(tmp_path / "a/run")
        store.close()
