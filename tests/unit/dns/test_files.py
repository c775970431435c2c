"""The files of /etc in which names are: resolv.conf and hosts."""

from __future__ import annotations

import pytest

from engine.container import etc

HOST = "nameserver 192.0.2.1\nnameserver 127.0.0.53\nsearch corp.test\noptions edns0 trust-ad\n"


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        (HOST, {}, "nameserver 127.0.0.11\nsearch corp.test\noptions edns0 trust-ad\noptions ndots:0\n"),
        ("", {}, "nameserver 127.0.0.11\noptions ndots:0\n"),
        (HOST, {"search": ["."]}, "nameserver 127.0.0.11\noptions edns0 trust-ad\noptions ndots:0\n"),
        (HOST, {"search": ["a.test", "b.test"], "options": ["ndots:2", "timeout:1"]},
         "nameserver 127.0.0.11\nsearch a.test b.test\noptions ndots:2 timeout:1\n"),
        ("options ndots:5\n", {}, "nameserver 127.0.0.11\noptions ndots:5\n"),
    ],
    ids=["host", "empty", "no search", "given", "host's ndots"],
)  # fmt: skip
def test_resolv_conf_of_a_served_container(host: str, given: dict[str, list[str]], expected: str) -> None:
    assert etc.served_resolv_conf(host, "127.0.0.11", **given) == expected


@pytest.mark.parametrize(
    ("options", "expected"), [([], 0), (["ndots:3"], 3), (["timeout:2", "ndots:1", "ndots:4"], 4), (["ndots:x"], 0)]
)
def test_ndots(options: list[str], expected: int) -> None:
    assert etc.ndots(options) == expected


def test_only_our_own_lines_of_hosts_change() -> None:
    text = etc.hosts([("10.1.0.2", ["box.lan", "box"])], [("db", "10.9.9.9")]) + "10.1.0.2 mine\n10.2.0.2\tbox\n"
    names = ["box.lan", "box"]
    more = etc.hosts_changed(text, names, ["10.2.0.2", "fd02::2"], [])
    assert more == text + "10.2.0.2\tbox.lan box\nfd02::2\tbox.lan box\n"
    assert etc.hosts_changed(more, names, [], ["10.2.0.2", "fd02::2"]) == text
    assert etc.hosts_changed(text, names, [], ["10.1.0.2"]) == text.replace("10.1.0.2\tbox.lan box\n", "")
    assert etc.hosts_changed("no line end", names, ["10.1.0.3"], []) == "no line end\n10.1.0.3\tbox.lan box\n"
