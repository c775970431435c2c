"""The store on a real etcd: one member."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.etcd import Etcd, free_port, running_etcd
from tests.unit.cluster.store_contract import Heard, StoreContract, until

from engine.cluster.etcd import EtcdAccess, EtcdStore
from engine.cluster.follow import Follower
from engine.cluster.store import Compacted, Delete, Put
from engine.spec.errors import Forbidden, Unavailable, Unsupported


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with running_etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture
def store(etcd):
    store = etcd.store()
    for prefix in "rstu":
        store.commit([], [Delete(prefix, below=True)])
    yield store
    store.close()


class TestEtcd(StoreContract):
    def test_many_entries_come_in_pages_of_one_revision(self, store):
        for start in range(0, 4500, 100):
            store.commit([], [Put(f"t/{n:05}", b"v" * 50) for n in range(start, start + 100)])
        listing = store.list("t/")
        assert [e.key for e in listing.entries] == [f"t/{n:05}" for n in range(4500)]

    def test_a_compacted_revision_is_said(self, store, etcd):
        store.commit([], [Put("t/a", b"1")])
        old = store.list("t/").revision
        store.commit([], [Put("t/a", b"2")])
        store.commit([], [Put("t/a", b"3")])
        etcd.ctl("compact", str(old + 2))
        with pytest.raises(Compacted):
            list(store.watch("t/", old))


def test_a_restart_loses_no_change(tmp_path):
    with running_etcd(tmp_path / "etcd") as etcd:
        store, heard, told = etcd.store(), Heard(), []
        follower = Follower(store, "t/", heard, told.append)
        follower.start()
        try:
            assert follower.wait(20)
            store.commit([], [Put("t/a", b"1")])
            until(lambda: heard.entries == {"t/a": b"1"})
            etcd.members[0].stop()
            until(lambda: told[-1] != "")
            with pytest.raises(Unavailable, match="cannot be reached"):
                store.get("t/a")
            started = time.monotonic()
            with pytest.raises(Unavailable):
                store.commit([], [Put("t/b", b"")])
            assert time.monotonic() - started < 8
            etcd.start()
            etcd.wait()
            other = etcd.store()
            other.commit([], [Put("t/b", b"2"), Delete("t/a")])
            other.close()
            until(lambda: heard.entries == {"t/b": b"2"})
            until(lambda: told[-1] == "")
        finally:
            follower.close()
            store.close()


def test_another_etcd_in_its_place_is_listed_anew(tmp_path):
    with running_etcd(tmp_path / "one") as etcd:
        store, heard = etcd.store(), Heard()
        for n in range(20):
            store.commit([], [Put("t/a", str(n).encode())])
        follower = Follower(store, "t/", heard)
        follower.start()
        try:
            assert follower.wait(20)
            etcd.stop()
            other = Etcd(tmp_path / "two")
            other.members[0].client = etcd.members[0].client
            other.start()
            try:
                other.wait()
                until(lambda: heard.entries == {})
            finally:
                other.stop()
        finally:
            follower.close()
            store.close()


def test_nobody_listens():
    store = EtcdStore(EtcdAccess((f"127.0.0.1:{free_port()}",)))
    with pytest.raises(Unavailable, match=r"the cluster's etcd cannot be reached: 127\.0\.0\.1:\d+"):
        store.get("t/a")
    store.close()


def test_something_else_listens():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    store = EtcdStore(EtcdAccess((f"127.0.0.1:{port}",)))
    try:
        with pytest.raises(Unsupported, match=rf"there is no etcd of version 3.*127\.0\.0\.1:{port}"):
            store.get("t/a")
    finally:
        store.close()
        server.stop(None)


def test_one_of_three_addresses_answers(etcd):
    store = EtcdStore(EtcdAccess((f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", *etcd.endpoints)))
    assert store.commit([], [Put("t/x", b"1")])
    assert store.get("t/x").value == b"1"
    store.close()


def test_user_and_password(tmp_path):
    with running_etcd(tmp_path / "etcd") as etcd:
        etcd.ctl("user", "add", "root:secret")
        etcd.ctl("user", "grant-role", "root", "root")
        etcd.ctl("role", "add", "engine")
        etcd.ctl("role", "grant-permission", "engine", "--prefix=true", "readwrite", "engine/")
        etcd.ctl("user", "add", "engine:pass")
        etcd.ctl("user", "grant-role", "engine", "engine")
        etcd.ctl("auth", "enable")
        store = EtcdStore(EtcdAccess(etcd.endpoints, "engine", "pass"))
        assert store.commit([], [Put("engine/x", b"1")])
        lease = store.grant(30)
        store.keep(lease)
        store.commit([], [Put("engine/y", b"2", lease)])
        revision = store.list("engine/").revision
        batch = next(iter(store.watch("engine/", revision)))
        assert batch.changes[0].key == "engine/y"
        with pytest.raises(Forbidden, match="does not let us at the cluster's keys"):
            store.get("other")
        # A restart forgets the tokens that were given out.
        etcd.members[0].stop()
        etcd.start()
        until(lambda: _answers(store))
        wrong = EtcdStore(EtcdAccess(etcd.endpoints, "engine", "no"))
        with pytest.raises(Forbidden, match="refuses our name and password"):
            wrong.get("engine/x")
        unknown = EtcdStore(EtcdAccess(etcd.endpoints))
        with pytest.raises(Forbidden, match="--cluster-user"):
            unknown.get("engine/x")
        for each in (store, wrong, unknown):
            each.close()


def _answers(store):
    try:
        return store.get("engine/x").value == b"1"
    except Unavailable:
        return False


def test_tls_with_certificates_on_both_sides(tmp_path):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, cwd=tmp_path)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key",
            "-out", "ca.pem", "-subj", "/CN=test authority", "-days", "2")  # fmt: skip
    (tmp_path / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key",
                "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                f"{name}.pem", "-days", "2", "-extfile", "ext")  # fmt: skip
    files = {n: tmp_path / n for n in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
    extra = [
        f"--cert-file={files['server.pem']}", f"--key-file={files['server.key']}", "--client-cert-auth",
        f"--trusted-ca-file={files['ca.pem']}",
    ]  # fmt: skip
    etcd = Etcd(tmp_path / "etcd", extra=extra)
    etcd.start()
    try:
        access = EtcdAccess(
            etcd.endpoints, ca=files["ca.pem"], certificate=files["client.pem"], key=files["client.key"]
        )
        store = EtcdStore(access)

        def put():
            try:
                return store.commit([], [Put("t/a", b"1")])
            except Unavailable:
                return False

        until(put)
        bare, stranger = EtcdStore(EtcdAccess(etcd.endpoints)), EtcdStore(EtcdAccess(etcd.endpoints, tls=True))
        for each in (bare, stranger):
            with pytest.raises(Unavailable):
                each.get("t/a")
            each.close()
        store.close()
    finally:
        etcd.stop()
