import pytest

from engine.image.changes import apply
from engine.spec.errors import InvalidParameter


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("cmd echo hi", {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        ('ENTRYPOINT ["x"]', {"Entrypoint": ["x"]}),
        ('ENV A=1 B="x y"', {"Env": ["OLD=1", "A=1", "B=x y"]}),
        ("ENV OLD two words", {"Env": ["OLD=two words"]}),
        ("LABEL a=b c=d", {"Labels": {"a": "b", "c": "d"}}),
        ("EXPOSE 80 53/udp", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        ('VOLUME ["/a", "/b"]', {"Volumes": {"/a": {}, "/b": {}}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ("WORKDIR sub", {"WorkingDir": "/base/sub"}),
        ("WORKDIR /x", {"WorkingDir": "/x"}),
        ("USER nobody", {"User": "nobody"}),
        ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
            {"Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90_000_000_000, "Retries": 2}},
        ),
    ],
)
def test_applies(change: str, expected: dict[str, object]) -> None:
    before = {"Env": ["OLD=1"], "WorkingDir": "/base"}
    assert apply(before, [change]) == {**before, **expected}
    assert before == {"Env": ["OLD=1"], "WorkingDir": "/base"}


@pytest.mark.parametrize(
    "change",
    [
        "",
        "RUN x",
        "CMD",
        "EXPOSE x",
        "LABEL a=b c",
        "ENV 'a=b",
        "HEALTHCHECK curl",
        "HEALTHCHECK --interval=soon CMD x",
    ],
)
def test_refuses(change: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid change"):
        apply({}, [change])
