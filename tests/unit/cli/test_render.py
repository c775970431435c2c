"""Templates, tables, words, progress."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from engine.cli.errors import Failure
from engine.cli.render.progress import Progress
from engine.cli.render.table import write_objects, write_rows
from engine.cli.render.template import Template
from engine.cli.render.words import (
    ago,
    bytes_binary,
    bytes_decimal,
    duration,
    parse_time,
    ports_text,
    short_id,
)

OBJECT = {
    "ID": "abc",
    "Names": ["a", "b"],
    "State": {"Running": True, "Pid": 7},
    "Labels": {"x": "1", "a.b": "2"},
    "Networks": {"n2": {"IPAddress": "10.0.0.2"}, "n1": {"IPAddress": ""}},
    "Empty": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{.ID}}", "abc"),
        ("<{{ .State.Pid }}>", "<7>"),
        ("{{.State.Running}}", "true"),
        ("{{json .State}}", '{"Running":true,"Pid":7}'),
        ("{{json .Names}}", '["a","b"]'),
        ("{{.Names}}", "[a b]"),
        ("{{.Labels}}", "map[a.b:2 x:1]"),
        ('{{index .Labels "a.b"}}', "2"),
        ("{{index .Names 1}}", "b"),
        ("{{len .Names}}", "2"),
        ('{{join .Names ","}}', "a,b"),
        ("{{.ID | upper}}", "ABC"),
        ('{{printf "%s-%d" .ID .State.Pid}}', "abc-7"),
        ("{{range .Names}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range $k, $v := .Networks}}{{$k}}={{$v.IPAddress}};{{end}}", "n1=;n2=10.0.0.2;"),
        ("{{range .Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if not .State.Running}}down{{else if eq .ID "abc"}}it{{end}}', "it"),
        ("{{with .State}}{{.Pid}}{{end}}", "7"),
        ("{{with .Empty}}x{{else}}-{{end}}", "-"),
        ("{{$x := .ID}}{{range .Names}}{{$x}}{{.}} {{end}}", "abca abcb "),
        ("a {{- .ID -}} b", "aabcb"),
        ("{{/* nothing */}}x", "x"),
        ('{{(index .Networks "n2").IPAddress}}', "10.0.0.2"),
        ("{{.Empty}}", "<no value>"),
        ("{{.Labels.x}}", "1"),
        ("{{and .ID .Names}}", "[a b]"),
        ("{{or .Empty .ID}}", "abc"),
        ("{{gt .State.Pid 5}}", "true"),
        ("{{println .ID}}", "abc\n"),
        (r"{{.ID}}\t{{.ID}}", "abc\tabc"),
    ],
)
def test_template(text: str, expected: str) -> None:
    assert Template(text).render(OBJECT) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{{.Idd}}", "did you mean 'ID'"), ("{{.ID", "not closed"), ("{{if .ID}}", "{{end}} is missing"),
        ("{{end}}", "too many"), ("{{jsn .ID}}", "did you mean 'json'"), ("{{}}", "empty"), ("{{.ID.X}}", "no fields"),
        ("{{else}}", "without"), ("{{$y}}", "not defined"), ("{{join .ID}}", "join"), ("{{.ID .ID}}", "function"),
        ("{{.ID | }}", "missing"), ("{{(.ID}}", ") is missing"), ("{{.ID # }}", "unexpected"),
    ],
)  # fmt: skip
def test_template_refuses(text: str, cause: str) -> None:
    with pytest.raises(Failure) as err:
        Template(text).render(OBJECT)
    assert cause in str(err.value)


ROWS = [{"ID": "1", "Name": "one", "Size": 5}, {"ID": "2", "Name": "a name that is long", "Size": 6}]
COLUMNS = {"ID": "ROW ID", "Name": "NAME"}


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("", "ROW ID    NAME\n1         one\n2         a name that is long\n"),
        ("table", "ROW ID    NAME\n1         one\n2         a name that is long\n"),
        ("json", '{"ID": "1", "Name": "one", "Size": 5}\n{"ID": "2", "Name": "a name that is long", "Size": 6}\n'),
        ("{{.Name}}={{.Size}}", "one=5\na name that is long=6\n"),
        (r"table {{.Size}}\t{{.ID}}", "SIZE      ROW ID\n5         1\n6         2\n"),
    ],
)
def test_rows(format: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(ROWS, COLUMNS, format=format)
    assert capsys.readouterr().out == expected


def test_quiet_rows(capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(ROWS, COLUMNS, quiet=lambda row: str(row["ID"]))
    assert capsys.readouterr().out == "1\n2\n"


def test_objects(capsys: pytest.CaptureFixture[str]) -> None:
    write_objects([{"a": 1}], "")
    assert capsys.readouterr().out == '[\n    {\n        "a": 1\n    }\n]\n'
    write_objects([{"a": 1}, {"a": 2}], "{{.a}}")
    assert capsys.readouterr().out == "1\n2\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (120, "2 minutes"),
        (3600, "About an hour"), (7200, "2 hours"), (3600 * 50, "2 days"), (86400 * 20, "2 weeks"),
        (86400 * 70, "2 months"), (86400 * 800, "2 years"),
    ],
)  # fmt: skip
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_words() -> None:
    assert ago(time.time() - 5) == "5 seconds ago"
    assert ago(0) == "N/A"
    assert short_id("sha256:" + "a" * 64) == "a" * 12
    assert (bytes_decimal(0), bytes_decimal(1999, 3), bytes_decimal(5_580_000, 3)) == ("0B", "2kB", "5.58MB")
    assert bytes_binary(1536) == "1.5KiB"
    assert parse_time("2023-11-14T22:13:20.5Z") == 1_700_000_000.5
    assert parse_time("2023-11-14T23:13:20.123456789+01:00") == pytest.approx(1_700_000_000.123456789)
    assert parse_time("0001-01-01T00:00:00Z") is None


def test_ports_are_joined() -> None:
    def port(private: int, public: int = 0, ip: str = "0.0.0.0", kind: str = "tcp") -> dict[str, object]:
        return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": ip} if public else {})}

    assert ports_text([port(80, 8080), port(81, 8081), port(90)]) == "90/tcp, 0.0.0.0:8080-8081->80-81/tcp"
    assert ports_text([port(80, 8080, "::"), port(80, 8080)]) == "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    assert ports_text([port(80, 8080), port(81, 9000)]) == "0.0.0.0:8080->80/tcp, 0.0.0.0:9000->81/tcp"


class _File(io.StringIO):
    """A text file that is no terminal."""

    def fileno(self) -> int:
        return -1


MESSAGES: list[dict[str, Any]] = [
    {"status": "Pulling from x", "id": "latest"},
    {"status": "Downloading", "id": "aaa", "progressDetail": {"current": 1, "total": 2}},
    {"status": "Downloading", "id": "aaa", "progressDetail": {"current": 2, "total": 2}},
    {"status": "Pull complete", "id": "aaa"},
    {"status": "Digest: sha256:0"},
]


def test_progress_in_a_pipe_is_a_line_for_each_change() -> None:
    out = _File()
    Progress(out).show(MESSAGES)
    assert out.getvalue().splitlines() == [
        "latest: Pulling from x", "aaa: Downloading", "aaa: Pull complete", "Digest: sha256:0",
    ]  # fmt: skip


def test_quiet_progress_shows_nothing_but_fails() -> None:
    out = _File()
    progress = Progress(out, quiet=True)
    progress.show(MESSAGES)
    assert out.getvalue() == ""
    with pytest.raises(Failure, match="denied"):
        progress.show([{"error": "denied", "errorDetail": {"message": "denied: no rights"}}])
