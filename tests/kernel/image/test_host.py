import os
import stat
from pathlib import Path

import pytest

from engine.image import host
from engine.image.host import EMPTIED, HostRoot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="trusted.* attributes need root")


def test_the_id_is_always_the_same() -> None:
    assert host.image() == host.image()
    assert host.image().repo_tags == ("engine.local/host:latest",)
    assert not host.image().dangling


def test_the_mask_empties_what_must_not_show(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    root = HostRoot(tmp_path / "host", (data, Path("/var/lib/no such/engine"), Path("/var/lib/no such/engine/run")))
    root.base.mkdir()
    for _ in range(2):  # again changes nothing
        root.write_mask()
    opaque = {
        "/" + str(path.relative_to(root.mask)): stat.S_IMODE(path.stat().st_mode)
        for path in root.mask.rglob("*")
        if "trusted.overlay.opaque" in os.listxattr(path)
    }
    wanted = {path: mode for path, mode in EMPTIED.items() if not Path(path).is_symlink()}
    wanted["/var/lib/no such/engine"] = 0o700
    if not str(tmp_path).startswith(tuple(EMPTIED)):
        wanted[str(data)] = 0o700
    assert opaque == wanted
    assert stat.S_IMODE((root.mask / "var").stat().st_mode) == stat.S_IMODE(Path("/var").stat().st_mode)
