"""Long work on volumes over HTTP: streams of progress, detached jobs, archives, wrong bodies."""

from __future__ import annotations

import pytest

from engine.spec.errors import Forbidden

from .conftest import Server

V = "/engine/volumes/vol"


def test_a_job_streams_progress_and_result(server: Server) -> None:
    server.volume_work.jobs.steps = [
        {"step": "Backing up", "done": 5, "total": 10, "unit": "bytes"},
        {"step": "Looking", "done": 3, "total": None, "unit": "files"},
    ]
    body = {"URL": "s3://b/p", "Options": {"region": "x"}, "Password": "env:P"}
    status, lines, _ = server.request("POST", f"{V}/backup", body)
    assert status == 200
    assert lines == [
        {"status": "Starting", "id": "vol", "progressDetail": {}, "job": "0" * 12},
        {"status": "Backing up", "id": "vol", "progressDetail": {"current": 5, "total": 10}},
        {"status": "Looking", "id": "vol", "progressDetail": {"current": 3, "units": "files"}},
        {"aux": {"snapshot": "0123abcd"}},
    ]
    args = server.volume_work.jobs.records["0" * 12].args
    assert args == {"url": "s3://b/p", "options": {"region": "x"}, "password": "env:P"}


def test_a_failure_after_the_first_message_is_one(server: Server) -> None:
    server.volume_work.jobs.failure = Forbidden("restic backup failed", why="the password is not the repository's")
    status, lines, _ = server.request("POST", f"{V}/backup", {"URL": "file:///x"})
    assert status == 200
    assert lines[-1]["errorDetail"]["code"] == 403
    assert "password" in lines[-1]["error"]


def test_a_refusal_is_a_status(server: Server) -> None:
    status, body, _ = server.request("POST", "/engine/volumes/none/usage")
    assert (status, body["message"]) == (404, "get none: no such volume")


def test_detached_jobs_are_followed_and_cancelled(server: Server) -> None:
    status, body, _ = server.request("POST", f"{V}/clone?detach=1", {"Name": "new"})
    assert status == 202
    status, lines, _ = server.request("GET", f"/engine/volume-jobs/{body['ID']}")
    assert (status, lines[-1]["aux"]["name"]) == (200, "new")
    status, job, _ = server.request("DELETE", f"/engine/volume-jobs/{body['ID']}")
    assert (status, job["State"]) == (200, "cancelled")
    assert server.request("GET", "/engine/volume-jobs/unknown")[0] == 404
    for path in ("/engine/volume-jobs", f"{V}/jobs"):
        rows = server.request("GET", path)[1]
        assert [row["ID"] for row in rows] == [body["ID"]]
    assert server.request("GET", "/engine/volumes/other/jobs")[1] == []


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("backup", {}), ("backup", {"URL": 5}), ("backup", {"URL": "file:///x", "Options": {"a": 1}}),
        ("restore", {"Snapshot": "x"}), ("rollback", {}), ("clone", {}), ("snapshot", {"Tag": ["x"]}),
        ("update", {"RemoveLabels": "x"}), ("update", {"Labels": []}),
    ],
)  # fmt: skip
def test_wrong_bodies(server: Server, what: str, body: dict[str, object]) -> None:
    assert server.request("POST", f"{V}/{what}", body)[0] == 400
    assert server.volume_work.jobs.records == {}


def test_archives(server: Server) -> None:
    status, data, headers = server.request("POST", f"{V}/export")
    assert (status, data, headers["Content-Type"]) == (200, b"a tar", "application/x-tar")
    status, body, _ = server.request("POST", f"{V}/import", b"some tar")
    assert (status, body, server.volume_work.received) == (200, {"bytes": 8}, b"some tar")


def test_the_rest(server: Server) -> None:
    body = {"URL": "file:///x", "Snapshot": "abc", "Of": "old", "Force": True}
    assert server.request("POST", f"{V}/restore", body)[0] == 200
    assert server.volume_work.jobs.records["0" * 12].args == {"snapshot": "abc", "of": "old", "force": True}
    assert server.request("POST", f"{V}/snapshot")[1][-1] == {"aux": {"ID": "abc"}}
    assert server.request("GET", f"{V}/snapshots")[1][0]["Tag"] == "one"
    assert server.request("DELETE", f"{V}/snapshots/abc")[0] == 204
    assert server.request("DELETE", f"{V}/snapshots/other")[0] == 404
    assert server.request("POST", f"{V}/rollback", {"Snapshot": "abc"})[1][-1] == {"aux": {"kept": "def"}}
    assert server.request("POST", f"{V}/rename?name=new")[0] == 204
    assert server.request("POST", f"{V}/rename?name=taken")[0] == 409
    assert server.request("POST", f"{V}/rename")[0] == 400
    assert server.request("POST", f"{V}/update", {"Labels": {"a": "b"}})[1] == {"Labels": {"a": "b"}}
    assert server.request("GET", "/engine/volume-backup-key")[1] == {"Key": "the key"}
