"""Reading conmon's k8s-file logs."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest

from engine.runtime.logs import LogReader, parse_timestamp, read_logs, rfc3339_nano
from engine.spec.errors import NotFound

STAMP = "2026-11-24T13:00:{:02}.123456789+00:00"


def write(path: Path, *records: tuple[str, str, str]) -> None:
    with path.open("a") as file:
        for number, (stream, tag, text) in enumerate(records):
            file.write(f"{STAMP.format(number)} {stream} {tag} {text}\n")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    write(
        path,
        ("stdout", "F", "one"),
        ("stderr", "F", "two"),
        ("stdout", "P", "thr"),
        ("stderr", "F", "between"),
        ("stdout", "F", "ee"),
        ("stdout", "F", ""),
        ("stdout", "P", "unfinished"),
    )
    return path


def data(path: Path, **options: object) -> list[bytes]:
    return [entry.data for entry in read_logs(path, **options)]  # type: ignore[arg-type]


def test_partial_records_are_joined(log: Path) -> None:
    assert data(log) == [b"one\n", b"two\n", b"between\n", b"three\n", b"\n", b"unfinished"]


def test_streams(log: Path) -> None:
    assert data(log, stdout=False) == [b"two\n", b"between\n"]
    assert data(log, stderr=False) == [b"one\n", b"three\n", b"\n", b"unfinished"]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (0, []),
        (1, [b"unfinished"]),
        (2, [b"\n", b"unfinished"]),
        (3, [b"three\n", b"\n", b"unfinished"]),
        (100, [b"one\n", b"three\n", b"\n", b"unfinished"]),
    ],
)
def test_tail_of_one_stream(log: Path, tail: int, expected: list[bytes]) -> None:
    assert data(log, stderr=False, tail=tail) == expected


def test_tail_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, *(("stdout", "F", f"{n} " + "x" * 3000) for n in range(58)))
    for tail in (1, 22, 23, 44, 57, 58, 59):
        entries = data(path, tail=tail)
        assert [int(entry.split()[0]) for entry in entries] == list(range(max(0, 58 - tail), 58))


def test_since_and_until(log: Path) -> None:
    first = parse_timestamp(STAMP.format(1))
    assert data(log, since_ns=first, until_ns=parse_timestamp(STAMP.format(3)))[:2] == [b"two\n", b"between\n"]
    assert data(log, since_ns=parse_timestamp(STAMP.format(6))) == [b"unfinished"]


def test_timestamps() -> None:
    assert parse_timestamp("1970-01-01T01:00:01.5+01:00") == 1_500_000_000
    assert parse_timestamp("1970-01-01T00:00:01.000000001Z") == 1_000_000_001
    assert rfc3339_nano(1_000_000_001) == "1970-01-01T00:00:01.000000001Z"


def test_rendered_with_timestamp(log: Path) -> None:
    entry = next(iter(read_logs(log)))
    assert entry.rendered(timestamps=True) == b"2026-11-24T13:00:00.123456789Z one\n"
    assert entry.rendered(timestamps=False) == b"one\n"


def test_damaged_records_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\0\0\0garbage\nshort record\n")
    write(path, ("stdout", "F", "good"))
    assert data(path) == [b"good\n"]
    assert data(path, tail=5) == [b"good\n"]


def test_missing_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(read_logs(tmp_path / "none"))


def test_very_long_line_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, *(("stdout", "P", "x" * 8000) for _ in range(300)), ("stdout", "F", "end"))
    pieces = data(path)
    assert len(pieces) == 3
    assert b"".join(pieces) == b"x" * 2_400_000 + b"end\n"


def test_follow_ends_with_the_container(log: Path) -> None:
    end_read, end_write = os.pipe()
    got: list[bytes] = []
    started, seen = threading.Event(), threading.Event()

    def follow() -> None:
        for entry in read_logs(log, follow=True, stdout=True, stderr=False, ended=end_read):
            got.append(entry.data)
            started.set()
            if len(got) == 4:
                seen.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    write(log, ("stdout", "F", "-now-finished"), ("stdout", "P", "last"))
    assert seen.wait(10)
    os.close(end_write)
    thread.join(10)
    os.close(end_read)
    assert not thread.is_alive()
    assert got == [b"one\n", b"three\n", b"\n", b"unfinished-now-finished\n", b"last"]


def test_follow_can_be_stopped(log: Path) -> None:
    end_read, end_write = os.pipe()
    stop_read, stop_write = os.pipe()
    thread = threading.Thread(target=lambda: list(read_logs(log, follow=True, ended=end_read, stop=stop_read)))
    thread.start()
    os.write(stop_write, b"x")
    thread.join(10)
    assert not thread.is_alive()
    for fd in (end_read, end_write, stop_read, stop_write):
        os.close(fd)


def test_reader_for_an_event_loop(log: Path) -> None:
    with LogReader(log) as reader:
        descriptor = reader.fileno()
        assert len(list(reader.read())) == 5
        assert list(reader.read()) == []
        write(log, ("stdout", "F", "!"))
        assert select.select([descriptor], [], [], 10)[0]
        assert [entry.data for entry in reader.read()] == [b"unfinished!\n"]
