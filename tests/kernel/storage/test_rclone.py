"""Stock rclone reads what `crypt` writes, and the reverse: on a directory, and on S3."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from tests.kernel.storage import servers

from engine.plugins import Plugins
from engine.spec.errors import Forbidden
from engine.storage.secrets import Secrets
from engine.storage.stores import Stores
from engine_drivers.storage.crypt.content import BLOCK
from engine_drivers.storage.crypt.keys import obscure

pytestmark = pytest.mark.skipif(shutil.which("rclone") is None, reason="not installed: rclone")

PASSWORDS = {"P1": "secret", "P2": "pepper"}
SECRETS = Secrets(environ={**PASSWORDS, "WRONG": "not it"})
GIVEN = {"crypt-password": "env:P1", "crypt-password2": "env:P2"}
CONTENTS = {
    "empty": b"",
    "one": b"1",
    "dir one/h\u00e9llo file.txt": b"hello\n",
    "dir one/sub/block": bytes(n % 251 for n in range(BLOCK)),
    "dir one/sub/more": bytes(n % 251 for n in range(BLOCK + 1)),
    "a-name-longer-than-one-block-of-sixteen.txt": os.urandom(3 * BLOCK - 7),
    "foo-v2001-02-03-040506-123.txt": b"a version",
    "Mixed CASE 0189 !": b"rotations",
}
VARIANTS = {
    "standard": {},
    "base64": {"filename-encoding": "base64"},
    "plain directories": {"directory-name-encryption": "false"},
    "obfuscate": {"filename-encryption": "obfuscate"},
    "off": {"filename-encryption": "off"},
}


class Rclone:
    """rclone with a crypt remote around another one."""

    def __init__(self, remote: str, options: dict[str, str], environ: dict[str, str] | None = None) -> None:
        words = {"password": obscure(b"secret"), "password2": obscure(b"pepper")}
        words |= {name.replace("-", "_"): value for name, value in options.items()}
        self.remote = f':crypt,remote="{remote}",' + ",".join(f"{k}={v}" for k, v in words.items()) + ":"
        environ = {**os.environ, **(environ or {})}
        environ.pop("AWS_CA_BUNDLE", None)  # rclone 1.60 fails on it
        self._environ = environ

    def run(self, command: str, *arguments: str) -> None:
        argv = ["rclone", "--config", os.devnull, "--retries", "2", command, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90, env=self._environ, check=False)
        assert done.returncode == 0, done.stderr


def exchange(url: str, given: dict[str, str], rclone: Rclone, directory) -> None:
    stores = Stores(Plugins(deadline=60))
    store = stores.open(stores.plan(url, given), SECRETS)
    for name, data in CONTENTS.items():
        store.put_stream(f"ours/{name}", [data[:100], data[100:]])
    rclone.run("copy", rclone.remote + "ours", str(directory / "got"))
    got = {str(p.relative_to(directory / "got")): p.read_bytes() for p in (directory / "got").rglob("*") if p.is_file()}
    assert got == CONTENTS
    rclone.run("copy", str(directory / "got"), rclone.remote + "theirs")
    theirs = {s.key.removeprefix("theirs/"): s.size for s in store.list("theirs/")}
    assert theirs == {name: len(data) for name, data in CONTENTS.items()}
    for name, data in CONTENTS.items():
        assert store.get(f"theirs/{name}") == data
        if len(data) > BLOCK:
            assert store.get(f"theirs/{name}", BLOCK - 1, BLOCK + 1) == data[BLOCK - 1 : BLOCK + 1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_on_a_directory(variant, tmp_path):
    options = VARIANTS[variant]
    (tmp_path / "store").mkdir()
    rclone = Rclone(str(tmp_path / "store"), options)
    exchange(f"crypt::file://{tmp_path}/store", {**GIVEN, **options, "fsync": "false"}, rclone, tmp_path)


def test_both_ways_on_s3(tmp_path):
    (tmp_path / "weed").mkdir()
    with servers.seaweed(tmp_path / "weed") as place:
        environ = {
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENDPOINT": place.options["endpoint-url"],
            "RCLONE_S3_ACCESS_KEY_ID": (tmp_path / "weed" / "access").read_text(),
            "RCLONE_S3_SECRET_ACCESS_KEY": (tmp_path / "weed" / "secret").read_text(),
        }
        rclone = Rclone(":s3:" + place.url.removeprefix("s3://"), {}, environ)
        exchange("crypt::" + place.url, {**GIVEN, **place.options}, rclone, tmp_path)


@pytest.mark.parametrize("given", [{"crypt-password": "env:WRONG"}, {"crypt-password": "env:P1"}])
def test_a_wrong_password_changes_nothing(given, tmp_path):
    """Neither another password nor a forgotten second one opens what rclone wrote."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"content")
    Rclone(str(tmp_path / "store"), {}).run("copy", str(source), Rclone(str(tmp_path / "store"), {}).remote)
    before = {p: p.stat() for p in (tmp_path / "store").rglob("*")}
    assert before
    stores = Stores(Plugins(deadline=60))
    with pytest.raises(Forbidden, match="the password does not open this store"):
        stores.open(stores.plan(f"crypt::file://{tmp_path}/store", given), SECRETS)
    assert {p: p.stat() for p in (tmp_path / "store").rglob("*")} == before
