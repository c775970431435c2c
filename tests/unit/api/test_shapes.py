"""Errors, events, statistics, progress and versions in docker's shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from engine.api import errors, events, images, stats, versions
from engine.image.model import Progress
from engine.spec import errors as kinds
from engine.spec.errors import EngineError, InvalidParameter
from engine.spec.plugin import Event


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (kinds.InvalidParameter("x"), 400),
        (kinds.Forbidden("x"), 403),
        (kinds.NotFound("x"), 404),
        (kinds.Conflict("x"), 409),
        (kinds.Unsupported("x"), 501),
        (kinds.Unavailable("x"), 503),
        (kinds.DeadlineExceeded("x"), 503),
        (kinds.DriverFault("x"), 500),
        (kinds.ApplyFailed("x"), 500),
        (kinds.Internal("x"), 500),
    ],
)
def test_errors(error: EngineError, status: int) -> None:
    response = errors.response(error)
    assert response.status == status
    assert response.headers["Content-Type"] == "application/json"
    assert isinstance(response.body, bytes)
    found = json.loads(response.body)
    assert found["message"] == "x"
    assert found["error"]["kind"] == error.kind


def test_an_error_has_all_its_parts() -> None:
    error = kinds.ApplyFailed("w", why="y", hint="h", driver="d", details={"errno": 17})
    assert errors.body(error) == {
        "message": str(error),
        "error": {
            "kind": "apply-failed", "what": "w", "why": "y", "hint": "h", "driver": "d", "details": {"errno": 17},
        },
    }  # fmt: skip


def event(type: str = "container", action: str = "start", id: str = "0123", **attributes: str) -> Event:
    return Event(type=type, action=action, id=id, attributes=attributes, time_ns=1_600_000_000_123456789)


def test_an_event() -> None:
    assert events.as_json(event(image="busybox", name="c")) == {
        "status": "start",
        "id": "0123",
        "from": "busybox",
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "0123", "Attributes": {"image": "busybox", "name": "c"}},
        "scope": "local",
        "time": 1_600_000_000,
        "timeNano": 1_600_000_000_123456789,
    }
    assert "status" not in events.as_json(event("network"))


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({}, True),
        ({"type": []}, True),
        ({"type": ["image", "container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["start"]}, True),
        ({"event": ["star"]}, False),
        ({"event": ["start"], "type": ["image"]}, False),
        ({"container": ["name"]}, True),
        ({"container": ["/name"]}, True),
        ({"container": ["01"]}, True),
        ({"container": ["23"]}, False),
        ({"network": ["name"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:1"]}, True),
        ({"image": ["busybox:2"]}, False),
        ({"label": ["a"]}, True),
        ({"label": ["a=b"]}, True),
        ({"label": ["a=c"]}, False),
        ({"scope": ["local"]}, True),
        ({"scope": ["swarm"]}, False),
        ({"node": ["n"]}, False),
    ],
)
def test_filters_of_events(wanted: dict[str, list[str]], shown: bool) -> None:
    assert events.EventFilter(wanted)(event(name="name", image="busybox:1", a="b")) is shown


def test_more_filters_of_events() -> None:
    assert events.EventFilter({"event": ["exec_start"]})(event(action="exec_start: sh -c x"))
    assert events.EventFilter({"container": ["0123abc"]})(event("network", "connect", container="0123abc"))
    assert events.EventFilter({"image": ["registry:5000/a"]})(event("image", "pull", "registry:5000/a:1"))
    assert events.EventFilter({"image": ["a"]})(event("image", "pull", "a@sha256:00"))
    assert not events.EventFilter({"image": ["registry"]})(event("image", "pull", "registry:5000/a"))
    with pytest.raises(InvalidParameter, match="colour"):
        events.EventFilter({"colour": ["red"]})


def test_samples_know_the_one_before() -> None:
    first: dict[str, Any] = {"read": "t1", "cpu_stats": {"cpu_usage": {"total_usage": 1}}}
    second: dict[str, Any] = {"read": "t2", "cpu_stats": {"cpu_usage": {"total_usage": 2}}}
    assert stats.complete(first, None)["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    found = stats.complete(second, first)
    assert (found["preread"], found["precpu_stats"], found["cpu_stats"]) == (
        "t1",
        first["cpu_stats"],
        second["cpu_stats"],
    )
    assert stats.complete({"id": "c"}, None)["read"] == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        (Progress("Status: done"), {"status": "Status: done"}),
        (Progress("Pull complete", "ab"), {"status": "Pull complete", "id": "ab", "progressDetail": {}}),
        (
            Progress("Downloading", "ab", 0, 9),
            {"status": "Downloading", "id": "ab", "progressDetail": {"current": 0, "total": 9}},
        ),
        (Progress("Downloading", "ab", 5), {"status": "Downloading", "id": "ab", "progressDetail": {"current": 5}}),
    ],
)
def test_progress(progress: Progress, message: dict[str, Any]) -> None:
    assert images.progress_message(progress) == message


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/v1.43/version", (1, 43)),
        ("/v1.24/containers/json", (1, 24)),
        ("/version", versions.CURRENT),
        ("/v1/version", versions.CURRENT),
        ("/v1.43", versions.CURRENT),
        ("/vol.1/x", versions.CURRENT),
        ("/v2.0/x", (2, 0)),
    ],
)
def test_versions(path: str, version: tuple[int, int]) -> None:
    assert versions.of(make_mocked_request("GET", path)) == version


@pytest.mark.parametrize("path", ["/v1.45/x", "/v2.0/x", "/v1.23/x", "/v0.1/x", "/v1.9/x"])
def test_versions_that_are_not_spoken(path: str) -> None:
    with pytest.raises(InvalidParameter, match="supported API version is"):
        versions.check(make_mocked_request("GET", path))
