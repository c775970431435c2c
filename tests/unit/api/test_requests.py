"""How parameters and bodies are read."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from engine.api import requests
from engine.spec.errors import InvalidParameter


def request(query: str = "", **headers: str) -> Any:
    return make_mocked_request("GET", f"/path?{query}", headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("", {}),
        ("{}", {}),
        ('{"label": {"a=b": true, "c": true}}', {"label": ["a=b", "c"]}),
        ('{"label": {"a=b": false}}', {"label": []}),
        ('{"label": ["a=b", "c"], "label!": ["d"]}', {"label": ["a=b", "c"], "label!": ["d"]}),
    ],
)
def test_filters(source: str, parsed: dict[str, list[str]]) -> None:
    assert requests.parse_filters(source) == parsed


@pytest.mark.parametrize("source", ["x", "[]", '{"a": "b"}', '{"a": [1]}', '{"a": null}', '"a"', "{'a': []}"])
def test_filters_that_are_none(source: str) -> None:
    with pytest.raises(InvalidParameter):
        requests.parse_filters(source)


@pytest.mark.parametrize(
    ("query", "value"),
    [("f=1", True), ("f=true", True), ("f=yes", True), ("f=", False), ("f=0", False), ("f=False", False), ("", False)],
)
def test_flags(query: str, value: bool) -> None:
    assert requests.flag(request(query), "f") is value


def test_a_flag_has_a_default() -> None:
    assert requests.flag(request(), "f", True) is True
    assert requests.flag(request("f=0"), "f", True) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1577836800", 1577836800 * 10**9),
        ("1577836800.5", 1577836800_500000000),
        ("1577836800.000000001", 1577836800_000000001),
        ("-5", -5 * 10**9),
        ("", None),
        ("0", None),
    ],
)
def test_timestamps(text: str, value: int | None) -> None:
    assert requests.timestamp_ns(request(f"since={text}"), "since") == value


@pytest.mark.parametrize("text", ["now", "1.", ".5", "1e9", "1.0000000001", "٣"])
def test_timestamps_that_are_none(text: str) -> None:
    with pytest.raises(InvalidParameter):
        requests.timestamp_ns(request(f"since={text}"), "since")


def test_numbers() -> None:
    assert requests.number(request("t=-1"), "t") == -1
    assert requests.number(request("t="), "t") is None
    assert requests.number(request(), "t") is None
    with pytest.raises(InvalidParameter, match="'soon' is not a number"):
        requests.number(request("t=soon"), "t")


@pytest.mark.parametrize("padding", [True, False])
def test_registry_credentials(padding: bool) -> None:
    encoded = base64.urlsafe_b64encode(json.dumps({"username": "a", "password": "ÿ?>", "auth": ""}).encode()).decode()
    header = encoded if padding else encoded.rstrip("=")
    assert requests.registry_auth(request(X_Registry_Auth=header)) == {"username": "a", "password": "ÿ?>"}


def test_no_registry_credentials() -> None:
    assert requests.registry_auth(request()) is None
    assert requests.registry_auth(request(X_Registry_Auth="e30=")) is None


@pytest.mark.parametrize("header", ["!", "e3", base64.urlsafe_b64encode(b"[]").decode(), "_____w=="])
def test_registry_credentials_that_are_none(header: str) -> None:
    with pytest.raises(InvalidParameter, match="X-Registry-Auth"):
        requests.registry_auth(request(X_Registry_Auth=header))


def test_objects_of_strings() -> None:
    assert requests.strings({"a": {"b": "c"}}, "a") == {"b": "c"}
    assert requests.strings({"a": None}, "a") == {}
    for wrong in ([], {"b": 1}, "c"):
        with pytest.raises(InvalidParameter, match="invalid a"):
            requests.strings({"a": wrong}, "a")
