import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.image.reference import Reference
from engine.spec.errors import InvalidParameter

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/user/app:2", "docker.io/user/app:2", "user/app:2"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("quay.io/a/b/c", "quay.io/a/b/c:latest", "quay.io/a/b/c:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a:t", "localhost:5000/a:t", "localhost:5000/a:t"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("Host/a", "Host/a:latest", "Host/a:latest"),
        (f"busybox@{D}", f"docker.io/library/busybox@{D}", f"busybox@{D}"),
        (f"busybox:1@{D}", f"docker.io/library/busybox:1@{D}", f"busybox:1@{D}"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest", "a__b/c-d.e:latest"),
    ],
)
def test_normalises_as_docker_does(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text).with_default_tag()
    assert (str(reference), reference.familiar) == (full, familiar)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (":tag", "empty"),
        ("busybox:", "not a tag"),
        ("busybox:-x", "not a tag"),
        ("busybox:" + "t" * 129, "not a tag"),
        ("Busybox", "lowercase"),
        ("docker.io/Busybox", "lowercase"),
        ("a//b", "not a name"),
        ("a b", "not a name"),
        ("-a", "not a name"),
        ("a/", "not a name"),
        ("a\n", "not a name"),
        ("a" * 250, "longer"),
        ("busybox@sha256:12", "not a digest"),
        ("busybox@md5:" + "a" * 32, "not a digest"),
        ("c" * 64, "image id"),
        ("a:b:c", "not a tag"),
        ("..", "not a name"),
        ("-h.x/a", "registry host"),
        ("docker://busybox", "registry host"),
        ("../../etc", "registry host"),
    ],
)
def test_refuses_what_docker_refuses(text: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid reference format") as caught:
        Reference.parse(text)
    assert why in caught.value.why


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidParameter:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
