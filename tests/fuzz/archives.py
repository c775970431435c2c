"""Tar archives whose headers say what no file system can keep, and files that others read: /etc/passwd,
/etc/group."""

from __future__ import annotations

from random import Random

from tests.images import Entry, Sample, busybox_image, directory, entry, symlink, tar

_PAX = (
    {"mtime": "1e30"}, {"mtime": "-1e30"}, {"mtime": "nan"}, {"mtime": "x"}, {"uid": str(2**40)}, {"uid": "-5"},
    {"gid": "x"},
    {"size": "-1"}, {"size": str(2**62)}, {"SCHILY.xattr.user.a": "\udcff"}, {"SCHILY.xattr.": "x"},
    {"path": "../../x"},
    {"SCHILY.xattr.security.capability": "short"}, {"SCHILY.xattr.trusted.overlay.opaque": "y"}, {"path": "a" * 5000},
    {"SCHILY.xattr.user." + "n" * 300: "v"}, {"linkpath": "/etc/passwd"}, {"hdrcharset": "BINARY"},
    {"comment": "c" * 9000},
)  # fmt: skip
_PASSWD = (
    b"", b"\n\n:::\n", b"root:x:0\n", b"u:x:99999999999999999999:1::/:/bin/sh\n", b"u:x:-1:-1::/:/bin/sh\n",
    b"u\0:x:1:1::/:\n",
    b"\xff\xfe:x:1:1::/:\n", b"u:x:1:1:" + b"g" * 100_000 + b":/:/bin/sh\n", b"u:x:0x10:010::/:/bin/sh\n",
    b"+::::::\n",
)  # fmt: skip


def archive(random: Random) -> bytes:
    """Return a small tar; a fifth of them end too early."""
    entries = [_entry(random) for _ in range(random.randrange(1, 4))]
    data = tar(entries)
    return data[: random.randrange(len(data))] if random.random() < 0.2 else data


def _entry(random: Random) -> Entry:
    kind = random.random()
    if kind < 0.3:
        return entry(random.choice(("etc/passwd", "etc/group")), random.choice(_PASSWD))
    headers = dict(random.choice(_PAX)) if random.random() < 0.7 else {}
    if kind < 0.7:
        return entry(random.choice(("f", "tmp/f", "/f", "../f", "a/b/c")), b"text", pax_headers=headers)
    if kind < 0.8:
        return symlink("l", random.choice(("/", "..", "x" * 300, "l")), pax_headers=headers)
    return directory(random.choice(("d", ".", "", "etc")), random.choice((0, 0o7777)), pax_headers=headers)


def image(random: Random) -> Sample:
    """Return an image with such an archive as its upper layer."""
    return busybox_image([archive(random)])
