"""Databases that are lost or damaged: the backup takes their place, and it is said."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from engine.database import DatabaseFile
from engine.spec.errors import Internal, Unavailable
from engine.state import State

SCHEMA = "CREATE TABLE IF NOT EXISTS objects (id TEXT PRIMARY KEY)"


def file_of(path: Path) -> DatabaseFile:
    return DatabaseFile(path, SCHEMA, 1)


def used(path: Path) -> DatabaseFile:
    """A database with a row, that was stopped cleanly."""
    file = file_of(path)
    connection = file.open(data_there=lambda: False, seeded="objects")
    connection.execute("INSERT INTO objects VALUES ('one')")
    file.keep_backup(connection)
    connection.close()
    return file


def rows(file: DatabaseFile, *, data: bool = True) -> list[str]:
    connection = file.open(data_there=lambda: data, seeded="objects")
    try:
        return [row[0] for row in connection.execute("SELECT id FROM objects")]
    finally:
        connection.close()


def emptied(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM objects")


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda path: path.write_bytes(b""), emptied], ids=["gone", "truncated", "without rows"]
)
def test_the_backup_takes_the_place_of_a_lost_database(tmp_path: Path, lose: "object") -> None:
    file = used(tmp_path / "s.db")
    assert callable(lose)
    lose(file.path)
    assert rows(file_of(file.path)) == ["one"]
    assert "the backup of 20" in file.loss()
    assert str(file.mark) in file.loss()


def test_without_a_backup_a_loss_is_noted(tmp_path: Path) -> None:
    file = used(tmp_path / "s.db")
    file.backup.unlink()
    file.path.write_bytes(b"")
    assert rows(file_of(file.path)) == []
    assert "a new one" in file.loss()


def test_a_first_start_is_no_loss(tmp_path: Path) -> None:
    file = file_of(tmp_path / "s.db")
    assert rows(file, data=False) == []
    assert file.loss() == ""


@pytest.mark.parametrize("backup", [True, False])
def test_a_damaged_database_is_said_in_words(tmp_path: Path, backup: bool) -> None:
    file = used(tmp_path / "s.db")
    if not backup:
        file.backup.unlink()
    file.path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(Unavailable, match="damaged") as caught:
        rows(file_of(file.path))
    assert (str(file.backup) in str(caught.value)) == backup
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file.path}{suffix}").unlink(missing_ok=True)
    assert rows(file_of(file.path)) == (["one"] if backup else [])


def test_a_damaged_page_is_found_at_the_start(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    for number in range(2000):
        state.put("thing", str(number), {"text": "x" * 100})
    state.close()
    content = bytearray((tmp_path / "s.db").read_bytes())
    content[8192:20480] = b"\xa5" * 12288
    (tmp_path / "s.db").write_bytes(content)
    with pytest.raises(Unavailable, match="damaged"):
        State(tmp_path / "s.db")


def test_what_is_whole_is_opened_without_a_write(tmp_path: Path) -> None:
    file = used(tmp_path / "s.db")
    before = file.path.read_bytes()
    connection = file_of(file.path).open(data_there=lambda: True, seeded="objects")
    wal = file.path.with_name("s.db-wal")
    assert not wal.exists() or wal.stat().st_size == 0
    connection.close()
    assert file.path.read_bytes() == before


def test_a_backup_is_written_only_after_changes(tmp_path: Path) -> None:
    file = used(tmp_path / "s.db")
    inode = file.backup.stat().st_ino
    connection = file.open(data_there=lambda: True, seeded="objects")
    file.keep_backup(connection)
    assert file.backup.stat().st_ino == inode
    connection.execute("INSERT INTO objects VALUES ('two')")
    file.keep_backup(connection)
    connection.close()
    file.path.unlink()
    assert rows(file_of(file.path)) == ["one", "two"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("DROP TABLE objects; CREATE TABLE other (x)", "the table objects is missing"),
        ("ALTER TABLE objects RENAME COLUMN id TO x", "the table objects has no column id"),
    ],
)
def test_a_database_without_its_tables_is_damaged(tmp_path: Path, damage: str, why: str) -> None:
    file = used(tmp_path / "s.db")
    with sqlite3.connect(file.path) as connection:
        connection.executescript(damage)
    with pytest.raises(Unavailable, match=why) as caught:
        rows(file_of(file.path))
    assert str(file.backup) in str(caught.value)


def test_what_cannot_be_used_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "s.db").mkdir()
    with pytest.raises(Unavailable, match=r"s\.db cannot be opened: unable to open"):
        rows(file_of(tmp_path / "s.db"))
    with pytest.raises(Unavailable, match=r"none/s\.db cannot be opened: .*No such file"):
        rows(file_of(tmp_path / "none" / "s.db"))
    file = used(tmp_path / "t.db")
    content = bytearray(file.path.read_bytes())
    content[4096:8192] = b"x" * 4096
    file.path.write_bytes(content)
    with pytest.raises(Unavailable, match="is damaged") as caught:
        rows(file_of(file.path))
    assert "\n" not in str(caught.value)


def test_a_newer_engine_s_database_is_left_alone(tmp_path: Path) -> None:
    file = used(tmp_path / "s.db")
    with sqlite3.connect(file.path) as connection:
        connection.execute("PRAGMA user_version=2")
    with pytest.raises(Internal, match=r"newer engine .* Start that engine again"):
        rows(file_of(file.path))


def test_damage_that_is_met_later_is_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    first = State(path)
    first.put("thing", "one", {})
    first.close()
    state = State(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript(
            "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = 'rubbish' WHERE name = 'objects';"
            "PRAGMA schema_version=99"
        )
    for act in (lambda: state.all("thing"), lambda: state.put("thing", "id", {}), lambda: state.get("thing", "id")):
        with pytest.raises(Unavailable, match=r"the database .*s\.db is damaged: .*Its state of"):
            act()
