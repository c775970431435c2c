"""Key slots: who opens them, what is in the file, and what a damaged or exchanged one does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.secrets import slots
from engine.secrets.keys import VolumeKeys
from engine.spec.encryption import KeySlots
from engine.spec.errors import (
    Conflict,
    DeadlineExceeded,
    EngineError,
    Forbidden,
    Internal,
    InvalidParameter,
    Locked,
    NotFound,
)
from engine.storage import secrets as reading
from engine.storage.secrets import Secrets


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "pass").write_bytes(b"a passphrase\r\n")
    return VolumeKeys(Secrets(environ={"K": "from the environment"}).read)


def make(keys: VolumeKeys, tmp_path: Path, **fields) -> str:
    path = str(tmp_path / "keyslots.json")
    keys.create(KeySlots(path=path, **{"source": f"file:{tmp_path}/pass", **fields}))
    return path


def test_every_slot_opens_the_same_key(keys, tmp_path):
    path = make(keys, tmp_path)
    secret = keys.read(path)
    assert len(secret) == 64
    keys.set_slot(path, "env", "env:K", None)
    keys.set_slot(path, "person", "prompt", b"typed")
    file = keys.file(path)
    assert file.names() == ("main", "env", "person")
    for key in (b"a passphrase", b"from the environment", b"typed"):
        assert file.open(key)[1] == secret
    for key in (b"a passphrase\r\n", b"a passphras", b"", b"\0"):
        with pytest.raises(Forbidden):
            file.open(key)


def test_the_file_has_neither_key_nor_passphrase_and_is_for_root_alone(keys, tmp_path):
    path = Path(make(keys, tmp_path, password=True))
    secret = keys.read(str(path))
    text = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for part in (b"a passphrase", secret, secret.hex().encode()):
        assert part not in text
    assert keys.password(str(path)) == b"a passphrase"


def test_a_changed_passphrase_leaves_the_store_s_password(keys, tmp_path):
    path = make(keys, tmp_path, password=True)
    secret = keys.read(path)
    keys.set_slot(path, "main", "env:K", None)
    assert keys.read(path) == secret
    assert keys.password(path) == b"a passphrase"
    with pytest.raises(Forbidden):
        keys.file(path).open(b"a passphrase")


@pytest.mark.parametrize("field", ["salt", "nonce", "sealed", "n", "source", "name", "form", "id", "identifier"])
def test_whatever_is_changed_in_the_file_it_does_not_open(keys, tmp_path, field):
    path = Path(make(keys, tmp_path))
    document = json.loads(path.read_bytes())
    other = {"n": 1 << 14, "source": "prompt", "name": "other", "form": "bytes"}
    place = document if field in ("id", "identifier") else document["slots"][0]
    was = str(place[field])
    place[field] = other.get(field, ("a" if was[0] != "a" else "b") + was[1:])
    with pytest.raises(Forbidden):
        slots.parse(json.dumps(document).encode(), "x").open(b"a passphrase")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"v":2}', b'{"v":1,"id":"x","slots":[{"name":"a"}]}'])
def test_a_damaged_file_is_a_clear_error(data):
    with pytest.raises(Internal, match="damaged"):
        slots.parse(data, "x")


def test_a_costly_file_is_refused(keys, tmp_path):
    path = Path(make(keys, tmp_path))
    document = json.loads(path.read_bytes())
    document["slots"][0]["n"] = 1 << 30
    with pytest.raises(Internal):
        slots.parse(json.dumps(document).encode(), "x")


def test_slots_of_another_volume_do_not_open_here(keys, tmp_path):
    one = keys.file(make(keys, tmp_path))
    (tmp_path / "other").mkdir()
    keys.create(KeySlots(path=str(tmp_path / "other/keyslots.json"), source=f"file:{tmp_path}/pass"))
    two = keys.file(str(tmp_path / "other/keyslots.json"))
    with pytest.raises(Forbidden):
        two.model_copy(update={"slots": one.slots}).open(b"a passphrase")


def test_locked_wrong_and_unlocked(keys, tmp_path):
    path = make(keys, tmp_path)
    (tmp_path / "pass").unlink()
    assert str(tmp_path / "pass") in keys.needs(path)
    with pytest.raises(Locked):
        keys.read(path)
    (tmp_path / "pass").write_bytes(b"another")
    with pytest.raises(Forbidden):
        keys.read(path)
    with pytest.raises(Forbidden):
        keys.unlock(path, b"another")
    assert keys.unlock(path, b"a passphrase\n") == "main"
    assert keys.needs(path) == ""
    assert len(keys.read(path)) == 64
    keys.lock(path)
    with pytest.raises(Forbidden):
        keys.read(path)


def test_changes_are_refused_without_a_key_and_leave_the_file(keys, tmp_path):
    path = make(keys, tmp_path)
    before = Path(path).read_bytes()
    with pytest.raises(Conflict, match="last one"):
        keys.remove_slot(path, "main")
    with pytest.raises(InvalidParameter):
        keys.set_slot(path, "x", "prompt", None)
    with pytest.raises(InvalidParameter):
        keys.set_slot(path, "../x", "prompt", b"k")
    with pytest.raises(NotFound):
        keys.set_slot(path, "x", "env:ABSENT", None)
    (tmp_path / "pass").unlink()
    with pytest.raises(Locked):
        keys.set_slot(path, "x", "prompt", b"k")
    with pytest.raises(Forbidden):
        keys.set_slot(path, "x", "prompt", b"k", old=b"wrong")
    assert Path(path).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["keyslots.json"]


def test_a_key_of_bytes_keeps_its_end_of_line(keys, tmp_path):
    raw = os.urandom(40) + b"\n"
    (tmp_path / "pass").write_bytes(raw)
    path = make(keys, tmp_path, form="bytes")
    assert keys.file(path).open(raw)[0].name == "main"
    assert keys.unlock(path, raw) == "main"
    with pytest.raises(Forbidden):
        keys.file(path).open(raw[:-1])


@pytest.mark.parametrize("data", [b"", b"\n", b"two\nlines", b"\xff\xfe"])
def test_what_is_no_password_of_a_store(keys, tmp_path, data):
    (tmp_path / "pass").write_bytes(data)
    with pytest.raises(InvalidParameter):
        make(keys, tmp_path, password=True)
    assert not (tmp_path / "keyslots.json").exists()


def test_the_kernel_s_name_of_a_key():
    """HKDF-SHA512 as in fs/crypto; the kernel's own answer is compared by FscryptApplier at each mount."""
    assert len(bytes.fromhex(slots.fscrypt_identifier(bytes(64)))) == 16
    assert slots.fscrypt_identifier(bytes(64)) != slots.fscrypt_identifier(bytes(63) + b"\1")


def test_secrets_from_commands(monkeypatch):
    secrets = Secrets(environ={})
    assert secrets.read("command:/bin/echo -n 'two words'") == b"two words"
    for command, why in (
        ("/bin/false", "ended with 1"),
        ("/nowhere", "cannot be run"),
        ("/bin/echo 'x", "cannot be read"),
    ):
        with pytest.raises(EngineError, match=why):
            secrets.read(f"command:{command}")
    monkeypatch.setattr(reading, "COMMAND_DEADLINE", 0.2)
    with pytest.raises(DeadlineExceeded):
        secrets.read("command:/bin/sleep 60")
