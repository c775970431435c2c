import json

import pytest

from engine.image.manifest import Platform, choose, is_index, load_json, parse_config, parse_manifest
from engine.spec.errors import InvalidParameter, NotFound, Unsupported

D = "sha256:" + "a" * 64


def entry(os: str, architecture: str, variant: str = "", digest: str = D) -> dict[str, object]:
    platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    return {"digest": digest, "size": 1, "platform": platform}


def test_chooses_the_platform() -> None:
    wanted = "sha256:" + "b" * 64
    index = {
        "manifests": [
            entry("unknown", "unknown"),
            entry("linux", "arm", "v6"),
            entry("linux", "arm", "v7", wanted),
            entry("windows", "amd64"),
            entry("linux", "amd64"),
        ]
    }
    assert is_index(index)
    assert choose(index, Platform.parse("linux/arm/v7")).digest == wanted
    assert choose(index, Platform.parse("linux/amd64")).digest == D


def test_names_what_there_is_when_nothing_fits() -> None:
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x") as caught:
        choose({"manifests": [entry("linux", "amd64"), entry("unknown", "unknown")]}, Platform("linux", "s390x"))
    assert caught.value.why == "the image offers linux/amd64"


def test_arm64_means_v8() -> None:
    assert Platform("linux", "arm64", "v8").accepts({"os": "linux", "architecture": "arm64"})
    assert not Platform("linux", "arm64", "v8").accepts({"os": "linux", "architecture": "arm64", "variant": "v9"})


@pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "a/b/c/d", ""])
def test_refuses_malformed_platforms(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        ({"schemaVersion": 1}, Unsupported),
        ({"config": {"digest": D, "size": 1, "mediaType": "application/vnd.helm.config"}, "layers": []}, Unsupported),
        ({"config": {"digest": "sha256:12", "size": 1}, "layers": []}, InvalidParameter),
        ({"config": {"digest": D, "size": -1}, "layers": []}, InvalidParameter),
        ({"config": {"digest": D, "size": 1}}, InvalidParameter),
        ({"config": {"digest": D, "size": 1}, "layers": [{"digest": "../../x", "size": 1}]}, InvalidParameter),
        ({}, InvalidParameter),
    ],
)
def test_refuses_what_is_no_image(manifest: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parse_manifest(manifest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"rootfs":{"diff_ids":["x"]}}',
        b'{"rootfs":[]}',
        b'{"rootfs":{},"history":[1]}',
        b'{"rootfs":{},"config":[1]}',
        b'{"rootfs":{},"config":{"Env":"A=b"}}',
        b'{"rootfs":{},"config":{"Labels":[]}}',
        b'{"rootfs":{},"config":{"Labels":{"a":1}}}',
        b'{"rootfs":{},"config":{"Env":[1]}}',
        b'{"rootfs":{},"config":{"Env":["A=\\u0000"]}}',
        b'{"rootfs":{},"config":{"Cmd":["\\ud800"]}}',
        b'{"rootfs":{},"config":{"Cmd":{"a":1}}}',
        b'{"rootfs":{},"config":{"ExposedPorts":{"zz":{}}}}',
        b'{"rootfs":{},"config":{"ExposedPorts":{"70000/tcp":{}}}}',
        b'{"rootfs":{},"config":{"Healthcheck":{"Test":"true"}}}',
        b'{"rootfs":{},"config":{"Healthcheck":{"Interval":1e30}}}',
        b'{"rootfs":{},"config":{"Healthcheck":{"Interval":-1}}}',
        b'{"rootfs":{},"config":{"User":0}}',
        b'{"rootfs":{},"config":{"Volumes":{"/a":1}}}',
        b'{"rootfs":{},"created":"not a date"}',
        b'{"rootfs":{},"created":5}',
        b'{"rootfs":{},"history":[{"created_by":[]}]}',
        b'{"rootfs":{},"author":{}}',
        b'{"rootfs":{},"architecture":1}',
        b'{"rootfs":{"diff_ids":"sha256:' + b"a" * 64 + b'"}}',
    ],
)
def test_refuses_malformed_configurations(data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        parse_config(data)


def test_accepts_what_others_write() -> None:
    """Null is "not given" in Go, which writes nine digits of a second; ranges are buildah's, one string is docker's."""
    section = {
        "Cmd": None,
        "Entrypoint": "/start",
        "Env": ["PATH=/bin", "EMPTY=", "BARE"],
        "ExposedPorts": {"80": {}, "53/udp": {}, "8000-8010/tcp": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000, "Retries": 3},
        "Labels": {"a": ""},
        "Volumes": {"/data": {}, "/more": None},
        "ArgsEscaped": True,
    }
    image = {
        "os": "linux",
        "created": "2024-02-29T12:00:00.123456789Z",
        "config": section,
        "container_config": {"Cmd": 1},
        "rootfs": {"type": "layers", "diff_ids": [D]},
        "history": [{"created": "0001-01-01T00:00:00Z", "created_by": "/bin/sh", "empty_layer": True}, {}],
    }
    config, diff_ids = parse_config(json.dumps(image).encode())
    assert config == image
    assert diff_ids == (D,)
    assert parse_config(b'{"config":null,"history":null,"rootfs":{"diff_ids":null}}')[1] == ()


def test_says_which_field_is_wrong() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_config(b'{"rootfs":{},"config":{"Labels":{"a":1}}}')
    assert "config.Labels.a" in caught.value.why


def test_refuses_another_operating_system() -> None:
    with pytest.raises(Unsupported):
        parse_config(json.dumps({"os": "windows", "rootfs": {"diff_ids": []}}).encode())


def test_json_must_be_an_object() -> None:
    with pytest.raises(InvalidParameter, match="the thing is invalid"):
        load_json(b"1", "the thing")
