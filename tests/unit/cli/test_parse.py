"""What is written after flags: tables of good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.errors import BadValue, Failure
from engine.cli.parse import amounts, mounts, networks, pairs, ports
from engine.cli.transport import Endpoint, Tls

CWD = Path("/work")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("80/udp", [("80/udp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("8080:80/UDP", [("80/udp", "", "8080")]),
        ("127.0.0.1:8080:80", [("80/tcp", "127.0.0.1", "8080")]),
        ("127.0.0.1::80", [("80/tcp", "127.0.0.1", "")]),
        ("[::1]:8080:80/sctp", [("80/sctp", "::1", "8080")]),
        ("[::1]::80", [("80/tcp", "::1", "")]),
        ("8000-8002:80-82", [("80/tcp", "", "8000"), ("81/tcp", "", "8001"), ("82/tcp", "", "8002")]),
        ("80-81", [("80/tcp", "", ""), ("81/tcp", "", "")]),
        ("8000-8010:80", [("80/tcp", "", "8000-8010")]),
    ],
)
def test_publish(text: str, expected: list[tuple[str, str, str]]) -> None:
    found = [(port, binding["HostIp"], binding["HostPort"]) for port, binding in ports.publish("-p", text)]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "missing"), ("x", "neither a port"), ("0", "outside 1-65535"), ("65536:1", "outside 1-65535"),
        ("80/tpc", "did you mean 'tcp'"), ("1:2:3:4", "expected"), ("300.1.1.1:1:2", "no IP address"),
        ("1-2:1-3", "different lengths"), ("5-3", "backwards"), ("[::1]80", "expected"), ("80:", "missing"),
        ("٨٠", "neither a port"), ("80/", "unknown protocol"),
    ],
)  # fmt: skip
def test_publish_refuses(text: str, cause: str) -> None:
    with pytest.raises(BadValue) as err:
        ports.publish("--publish", text)
    assert cause in str(err.value)
    assert "--publish" in str(err.value)
    assert repr(text) in str(err.value)
    assert err.value.code == 125


@given(st.integers(1, 65000), st.integers(1, 65000), st.integers(0, 20))
def test_ranges_keep_their_order(host: int, container: int, length: int) -> None:
    found = ports.publish("-p", f"{host}-{host + length}:{container}-{container + length}")
    expected = [(f"{container + n}/tcp", str(host + n)) for n in range(length + 1)]
    assert [(port, binding["HostPort"]) for port, binding in found] == expected


def test_exposed_ports() -> None:
    assert ports.exposed("--expose", ["80", "90-91/udp"]) == ["80/tcp", "90/udp", "91/udp"]


def test_bindings_of_one_port_are_joined() -> None:
    found = ports.published("-p", ["80:80", "127.0.0.1:81:80"])
    assert [b["HostPort"] for b in found["80/tcp"]] == ["80", "81"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("512", 512), ("1k", 1024), ("512m", 512 << 20), ("1.5G", 3 << 29), ("64KiB", 65536), ("2 gb", 2 << 30)],
)
def test_size(text: str, expected: int) -> None:
    assert amounts.size("-m", text) == expected


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1e3", "1,5g", "0x10", "1 k m", "infinity"])
def test_size_refuses(text: str) -> None:
    with pytest.raises(BadValue, match="--memory"):
        amounts.size("--memory", text)


def test_swap_may_be_unlimited() -> None:
    assert amounts.swap("--memory-swap", "-1") == -1


@pytest.mark.parametrize(("text", "expected"), [("1", 10**9), ("0.5", 5 * 10**8), ("1.000000001", 10**9 + 1)])
def test_cpus(text: str, expected: int) -> None:
    assert amounts.nano_cpus("--cpus", text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "NaN", "inf", "0.0000000001"])
def test_cpus_refuses(text: str) -> None:
    with pytest.raises(BadValue):
        amounts.nano_cpus("--cpus", text)


@pytest.mark.parametrize(("text", "good"), [("0", True), ("0-2,4", True), ("2-1", False), ("", False), ("a", False)])
def test_cpu_set(text: str, good: bool) -> None:
    if good:
        assert amounts.cpu_set("--cpuset-cpus", text) == text
    else:
        with pytest.raises(BadValue):
            amounts.cpu_set("--cpuset-cpus", text)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1s", 10**9), ("1m30s", 90 * 10**9), ("500ms", 5 * 10**8), ("1.5h", 5400 * 10**9)]
)
def test_duration(text: str, expected: int) -> None:
    assert amounts.duration_ns("--since", text) == expected


@pytest.mark.parametrize("text", ["", "5", "1d", "s", "1s x", "-1s"])
def test_duration_refuses(text: str) -> None:
    with pytest.raises(BadValue):
        amounts.duration_ns("--health-timeout", text)


def test_moment() -> None:
    assert amounts.moment("--since", "1700000000.5") == "1700000000.5"
    assert amounts.moment("--since", "2023-11-14T22:13:20Z") == "1700000000.000000000"
    assert float(amounts.moment("--since", "10m", now=1000.0)) == 400.0
    with pytest.raises(BadValue, match="yesterday"):
        amounts.moment("--since", "yesterday")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data", ("", "/data")),
        ("name:/data", ("name:/data", None)),
        ("name:/data:ro", ("name:/data:ro", None)),
        ("/a:/b:ro,rshared", ("/a:/b:ro,rshared", None)),
        ("./a:/b", ("/work/a:/b", None)),
        ("../a:/b", ("/a:/b", None)),
        (".:/b", ("/work:/b", None)),
    ],
)
def test_volume(text: str, expected: tuple[str, str | None]) -> None:
    assert mounts.volume("-v", text, CWD) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("data", "must be absolute"), ("a:b", "must be absolute"), (":/x", "source is empty"),
        ("/a:/b:nocpy", "did you mean .nocopy."), ("a:/b:c:d", "expected"), ("a:/", "must not be /"),
    ],
)  # fmt: skip
def test_volume_refuses(text: str, cause: str) -> None:
    with pytest.raises(BadValue, match=cause):
        mounts.volume("--volume", text, CWD)


def test_mount_kinds() -> None:
    bind = mounts.mount("--mount", "type=bind,src=rel,dst=/x,readonly,bind-propagation=rslave", CWD)
    assert (bind["Type"], bind["Source"], bind["Target"], bind["ReadOnly"]) == ("bind", "/work/rel", "/x", True)
    assert bind["BindOptions"]["Propagation"] == "rslave"
    volume = mounts.mount("--mount", "source=v,target=/x,volume-driver=local,volume-opt=a=b=c,volume-label=l=1", CWD)
    assert volume["Type"] == "volume"
    assert volume["VolumeOptions"]["DriverConfig"] == {"Name": "local", "Options": {"a": "b=c"}}
    assert volume["VolumeOptions"]["Labels"] == {"l": "1"}
    tmpfs = mounts.mount("--mount", "type=tmpfs,destination=/t,tmpfs-size=64m,tmpfs-mode=1770", CWD)
    assert tmpfs["TmpfsOptions"] == {"SizeBytes": 64 << 20, "Mode": 0o1770}
    quoted = mounts.mount("--mount", 'source=v,target=/x,"volume-opt=o=addr=1.2.3.4,rw"', CWD)
    assert quoted["VolumeOptions"]["DriverConfig"]["Options"] == {"o": "addr=1.2.3.4,rw"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("type=bind,target=/x", "source=PATH is missing"), ("type=volume,source=a", "target=PATH is missing"),
        ("type=bnd,source=/a,target=/x", "did you mean 'bind'"), ("sorce=/a,target=/x", "did you mean 'source'"),
        ("type=tmpfs,source=/a,target=/x", "no source"), ("source=a,target=x", "must be absolute"),
        ("type=bind,source=/a,target=/x,tmpfs-size=1m", "does not go with"), ("source=a,source=b,target=/x", "twice"),
        ("type=tmpfs,target=/x,tmpfs-size=big", "no size"), ("type=tmpfs,target=/x,tmpfs-mode=9", "no octal mode"),
        ("source,target=/x", "needs a value"), ("source=a,target=/x,readonly=maybe", "true or false"),
        ("type=bind,source=/a,target=/x,volume-opt=a=b", "does not go with"),
    ],
)  # fmt: skip
def test_mount_refuses(text: str, cause: str) -> None:
    with pytest.raises(BadValue, match=cause):
        mounts.mount("--mount", text, CWD)


def test_environment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\n\n  A=from file\nHOME\nGONE\n")
    found = pairs.environment(["A=flag", "B=", "C=x=y"], [str(file)], {"HOME": "/root"})
    assert found == ["A=flag", "HOME=/root", "B=", "C=x=y"]


@pytest.mark.parametrize("text", ["", "=x"])
def test_environment_refuses(text: str) -> None:
    with pytest.raises(BadValue, match="-e"):
        pairs.environment([text], [], {})


def test_environment_file_refuses(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("A B=c\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, cause in (("bad", "spaces"), ("binary", "UTF-8"), ("absent", "No such file")):
        with pytest.raises(BadValue, match=cause):
            pairs.environment([], [str(tmp_path / name)], {})


def test_labels_and_options() -> None:
    assert pairs.labels(["a=b", "c", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}
    assert pairs.options("-o", ["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    for bad in (["a"], ["=b"], ["a=1", "a=2"]):
        with pytest.raises(BadValue):
            pairs.options("--opt", bad)


@pytest.mark.parametrize(
    ("function", "good", "bad"),
    [
        (pairs.host_entry,
         {"a:1.2.3.4": "a:1.2.3.4", "a=::1": "a:::1", "a:[::1]": "a:::1", "h:host-gateway": "h:host-gateway"},
         ["a", "a:", ":1.2.3.4", "a:1.2.3"]),
        (pairs.mac_address,
         {"02:42:AC:11:00:02": "02:42:ac:11:00:02"},
         ["02:42", "01:00:5e:00:00:01", "0242ac110002", "zz:zz:zz:zz:zz:zz"]),
        (pairs.signal_name,
         {"TERM": "SIGTERM", "sigkill": "SIGKILL", "9": "9", "RTMIN+3": "SIGRTMIN+3"},
         ["TREM", "99", ""]),
    ],
)  # fmt: skip
def test_single_values(function: Any, good: dict[str, str], bad: list[str]) -> None:
    for text, expected in good.items():
        assert function("--flag", text) == expected
    for text in bad:
        with pytest.raises(BadValue, match="--flag"):
            function("--flag", text)


def test_ulimit() -> None:
    assert pairs.ulimit("--ulimit", "nofile=10:20") == {"Name": "nofile", "Soft": 10, "Hard": 20}
    assert pairs.ulimit("--ulimit", "core=-1") == {"Name": "core", "Soft": -1, "Hard": -1}
    assert pairs.ulimit("--ulimit", "core=0:-1") == {"Name": "core", "Soft": 0, "Hard": -1}
    for text, cause in (
        ("nofiles=1", "did you mean 'nofile'"),
        ("core=2:1", "above"),
        ("core=", "whole"),
        ("core", "whole"),
        ("core=-1:5", "above"),
    ):
        with pytest.raises(BadValue, match=cause):
            pairs.ulimit("--ulimit", text)


def test_device() -> None:
    assert pairs.device("--device", "/dev/fuse") == {
        "PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm",
    }  # fmt: skip
    assert pairs.device("--device", "/dev/a:/dev/b:r")["CgroupPermissions"] == "r"
    assert pairs.device("--device", "/dev/a:rw")["PathInContainer"] == "/dev/a"
    for text in ("fuse", "/dev/a:b:rwm", "/dev/a:/dev/b:rwx", "/dev/a:/b:/c:r"):
        with pytest.raises(BadValue):
            pairs.device("--device", text)


def test_restart_policy() -> None:
    assert pairs.restart_policy("--restart", "on-failure:3") == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert pairs.restart_policy("--restart", "always")["Name"] == "always"
    for text in ("allways", "always:3", "on-failure:x", ""):
        with pytest.raises(BadValue):
            pairs.restart_policy("--restart", text)


def test_security_options(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert (
        pairs.security_option("--security-opt", f"seccomp={profile}") == 'seccomp={"defaultAction": "SCMP_ACT_ALLOW"}'
    )
    assert pairs.security_option("--security-opt", "seccomp:unconfined") == "seccomp=unconfined"
    assert pairs.security_option("--security-opt", "no-new-privileges") == "no-new-privileges"
    for text in ("seccomp=/nonexistent", "privileged"):
        with pytest.raises(BadValue):
            pairs.security_option("--security-opt", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net", networks.Attachment("net")),
        ("container:web", networks.Attachment("container:web")),
        ("name=net,ip=10.0.0.2,alias=a,alias=b", networks.Attachment("net", ("a", "b"), "10.0.0.2")),
        ("net:ip=10.0.0.2,ip6=fd00::2", networks.Attachment("net", (), "10.0.0.2", "fd00::2")),
        ("name=net,mac-address=02:00:00:00:00:01", networks.Attachment("net", mac="02:00:00:00:00:01")),
        ("name=net,driver-opt=a=b", networks.Attachment("net", driver_opts={"a": "b"})),
    ],
)
def test_network(text: str, expected: networks.Attachment) -> None:
    assert networks.attachment("--network", text) == expected


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty"), ("ip=1.2.3.4", "name=NETWORK is missing"), ("name=a,ipp=1.2.3.4", "did you mean 'ip'"),
        ("name=a,ip=fd00::1", "IPv4"), ("name=a,ip6=1.2.3.4", "IPv6"), ("name=a,ip=", "needs a value"),
        ("name=a,name=b", "twice"), ("name=a,driver-opt=x", "no key=value"),
    ],
)  # fmt: skip
def test_network_refuses(text: str, cause: str) -> None:
    with pytest.raises(BadValue, match=cause):
        networks.attachment("--network", text)


def test_flags_complete_the_first_network() -> None:
    found = networks.attachments(["a", "name=b,ip=10.0.0.3"], aliases=["x"], ip="10.0.0.2")
    assert [(n.network, n.ip, n.aliases) for n in found] == [("a", "10.0.0.2", ("x",)), ("b", "10.0.0.3", ())]
    assert networks.attachments([], ip="10.0.0.2")[0].network == "default"


@pytest.mark.parametrize(
    ("texts", "more"),
    [(["a", "a"], {}), (["host", "a"], {}), (["host"], {"aliases": ["x"]}), (["none"], {"ip": "10.0.0.1"})],
)
def test_networks_that_contradict(texts: list[str], more: dict[str, Any]) -> None:
    with pytest.raises(Failure) as err:
        networks.attachments(texts, **more)
    assert err.value.code == 125


def test_endpoint() -> None:
    assert Endpoint.parse("unix:///run/x.sock").path == "/run/x.sock"
    assert (Endpoint.parse("tcp://h:99").name, Endpoint.parse("tcp://h:99").port) == ("h", 99)
    assert Endpoint.parse("tcp://h").port == 2375
    assert Endpoint.parse("tcp://h", Tls()).port == 2376
    assert (Endpoint.parse("tcp://[::1]:99").name, Endpoint.parse("tcp://[::1]").port) == ("::1", 2375)
    for text in ("", "/run/x", "unix://", "unix://rel", "ssh://h", "tcp://h:port", "tcp://h:0"):
        with pytest.raises(BadValue, match="--host"):
            Endpoint.parse(text)


def test_filters() -> None:
    assert pairs.filters([]) is None
    assert pairs.filters(["status=running", "label=a=b", "status=exited"]) == {
        "status": ["running", "exited"], "label": ["a=b"],
    }  # fmt: skip
    with pytest.raises(BadValue):
        pairs.filters(["running"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", ("", 8080, 1, None, "tcp")),
        ("8080/udp", ("", 8080, 1, None, "udp")),
        ("8080:80", ("", 8080, 1, 80, "tcp")),
        ("8000-8009", ("", 8000, 10, None, "tcp")),
        ("8000-8009:80-89", ("", 8000, 10, 80, "tcp")),
        ("127.0.0.1:8080", ("127.0.0.1", 8080, 1, None, "tcp")),
        ("127.0.0.1:8080:80/sctp", ("127.0.0.1", 8080, 1, 80, "sctp")),
        ("[::1]:8080", ("::1", 8080, 1, None, "tcp")),
        ("[::1]:8080-8081:80", ("::1", 8080, 2, 80, "tcp")),
    ],
)
def test_which_published_ports_are_meant(text: str, expected: tuple[Any, ...]) -> None:
    found = ports.span("PORT", text)
    names = ("HostIp", "HostPort", "Count", "ContainerPort", "Protocol")
    assert tuple(found.get(name) for name in names) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "0", "70000", "9-8", "1:2:3:4", "8000-8009:80-81", "80/icmp", "[::1]", "1.2.3.4:"]
)
def test_which_are_none(text: str) -> None:
    with pytest.raises(BadValue):
        ports.span("PORT", text)
