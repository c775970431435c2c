from __future__ import annotations

import errno
import sys

import pytest

from engine.reconcile.applier import BatchError
from engine.reconcile.failures import explain
from engine.reconcile.libnft import NftError
from engine.reconcile.rtnetlink import _ack, attr
from engine.spec.errors import ApplyFailed, Conflict, Unavailable, Unsupported
from engine.spec.firewall import Masquerade
from engine.spec.links import Extern, Macvlan, Route

LINK = Macvlan(name="eth0", ns="sandbox", parent="p0", mode="passthru")


def failed(resource, number: int, text: str = "") -> BatchError:
    return BatchError(resource, OSError(number, text), (), errno=number)


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.EINVAL, ApplyFailed, "passthru"), (errno.ENODEV, ApplyFailed, "does not exist"),
        (errno.EEXIST, ApplyFailed, "there already"), (errno.EPERM, ApplyFailed, "CAP_NET_ADMIN"),
        (errno.EXFULL, ApplyFailed, "1023"),
    ],
)  # fmt: skip
def test_hints(number, kind, hint) -> None:
    err = explain(failed(LINK, number), "ep:1")
    assert type(err) is kind
    assert hint in err.hint
    assert err.details["errno"] == errno.errorcode[number]
    assert err.details["resource"] == ["link", "sandbox", "eth0"]


def test_the_kernels_own_words_are_kept() -> None:
    text = "A VXLAN device with the specified VNI already exists"
    assert text in str(explain(failed(LINK, errno.EEXIST, text), "ep:1"))


def test_a_kind_that_the_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.reconcile.failures.link_kind_supported", lambda kind: False)
    err = explain(failed(LINK, errno.EOPNOTSUPP), "ep:1")
    assert isinstance(err, Unsupported)
    assert err.what == "the kernel has no macvlan"
    monkeypatch.setattr("engine.reconcile.failures.link_kind_supported", lambda kind: True)
    assert isinstance(explain(failed(LINK, errno.EOPNOTSUPP), "ep:1"), ApplyFailed)


def test_an_extern_is_unavailable() -> None:
    assert isinstance(explain(failed(Extern(name="p0"), errno.ENODEV), "ep:1"), Unavailable)


def test_an_appliers_own_error_goes_through() -> None:
    cause = Conflict("taken")
    assert explain(BatchError(LINK, cause, ()), "ep:1") is cause


def test_the_resource_is_named_without_empty_parts() -> None:
    err = explain(failed(Route(destination="0.0.0.0/0", via="10.0.0.1"), errno.ENETUNREACH), "ep:1")
    assert err.what == "cannot make route 0.0.0.0/0 0"


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Error: Could not process rule: File exists\nadd x\n^", errno.EEXIST),
        ("Error: No such file or directory\nlist table inet t\n^", errno.ENOENT),
        ("Error: interval overlaps with an existing one\ncreate y", errno.EEXIST),
        ("Error: syntax error, unexpected junk", errno.EINVAL), ("", errno.EINVAL),
    ],
)  # fmt: skip
def test_messages_of_libnftables(message, number) -> None:
    err = NftError(message)
    assert err.errno == number
    assert err.line == (message.splitlines()[1] if "\n" in message else "")
    assert str(explain(BatchError(Masquerade(subnet="10.0.0.0/8"), err, (), errno=number), "net:1"))


def test_answers_of_the_kernel() -> None:
    number = (-22).to_bytes(4, sys.byteorder, signed=True)
    header = (100).to_bytes(4, sys.byteorder) + bytes(12)
    assert _ack(0, number + header) == _ack(0x100, number + header)
    told = _ack(0x300, number + header + attr(1, "why not"))
    assert (told.errno, told.text) == (22, "why not")
    assert _ack(0x200, number + header + bytes(84) + attr(1, "why not")).text == "why not"
    assert told.error().strerror == "why not"
