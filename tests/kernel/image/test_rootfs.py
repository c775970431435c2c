"""Root file systems really mounted, by the reconciler's mount applier, in a private mount namespace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.images import Sample, directory, docker_archive, entry, tar

from engine.image.manager import BUILTIN_HOST, ImageManager

_SCRIPT = """
import json, os, sys
from pathlib import Path
from engine.image.manager import ImageManager
from engine.reconcile.applier import Tag
from engine.reconcile.mounts import MountApplier
from engine.reconcile.reconciler import Reconciler
from engine.spec.mounts import OverlayMount
from engine.spec.resource import Plan

base, reference, look = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
run = base / "run"
run.mkdir(exist_ok=True)

def engine():
    reconciler = Reconciler(Tag("test0001", 1 << 20, "engine_test0001"), [MountApplier((base, run))])
    mount = lambda plan: reconciler.apply("image:host", plan)
    return reconciler, ImageManager(base / "image", exec_root=run, mount=mount)

def rootfs(images, name):
    for part in ("up", "work"):
        (base / name / part).mkdir(parents=True, exist_ok=True)
    root = images.rootfs(images.resolve(reference).id)
    overlay = OverlayMount(target=str(run / name), lower=tuple(map(str, root.lower)),
                           upper=str(base / name / "up"), work=str(base / name / "work"))
    return Plan.of(root.resources, overlay)

def mounts():
    return sorted(line.split()[4] for line in open("/proc/self/mountinfo") if str(base) in line.split()[4])

reconciler, images = engine()
for name in ("one", "two"):
    reconciler.apply(f"rootfs:{name}", rootfs(images, name))
result = {"look": eval(look, {"os": os, "root": run / "one", "base": base, "Path": Path})}
(run / "one" / "etc" / "written").write_text("x")
result["upper"] = sorted(str(p.relative_to(base / "one/up")) for p in (base / "one/up").rglob("*"))
result["other"] = (run / "two" / "etc" / "written").exists()
reconciler.close(); images.close()

reconciler, images = engine()  # the daemon was restarted: what is mounted stays
images.collect()
for name in ("one", "two"):
    reconciler.adopt(f"rootfs:{name}", rootfs(images, name))
result["collected"] = [str(difference) for difference in reconciler.collect()]
result["again"] = (run / "one" / "etc" / "written").read_text()
left = [reconciler.remove(f"rootfs:{name}") for name in ("one", "two")]
result["left"] = [str(item) for item in left if item] + [m for m in mounts() if m != str(run / "host")]
reconciler.close(); images.close()
print(json.dumps(result))
"""


def _mounted(base: Path, reference: str, look: str) -> dict[str, Any]:
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", sys.executable, "-c", _SCRIPT, str(base), reference, look],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_layers_of_an_image_mounted(make_manager: Callable[..., ImageManager], tmp_path: Path) -> None:
    lower = tar([entry("etc/keep", b"1"), entry("etc/gone", b"1"), entry("opaque/old"), entry("both", b"old")])
    upper = tar([entry("etc/.wh.gone"), entry("opaque/.wh..wh..opq"), entry("opaque/new"), entry("both", b"new")])
    base = tmp_path / "engine"
    manager = make_manager(base)
    manager.load(docker_archive(tmp_path / "a.tar", {"a:1": Sample((lower, upper))}))
    manager.close()
    names = "[sorted(os.listdir(root / d)) for d in ('', 'etc', 'opaque')]"
    look = f"[*{names}, (root / 'both').read_text()]"
    result = _mounted(base, "a:1", look)
    assert result == {
        "look": [["both", "etc", "opaque"], ["keep"], ["new"], "new"],
        "upper": ["etc", "etc/written"],
        "other": False,
        "collected": [],
        "again": "x",
        "left": [],
    }


def test_an_image_without_layers_mounted(make_manager: Callable[..., ImageManager], tmp_path: Path) -> None:
    base = tmp_path / "engine"
    manager = make_manager(base)
    images = {"none:1": Sample(()), "one:1": Sample((tar([directory("etc")]),))}
    manager.load(docker_archive(tmp_path / "a.tar", images))
    manager.close()
    assert _mounted(base, "none:1", "[os.listdir(root), (root / 'etc').mkdir()][0]")["look"] == []
    assert _mounted(base, "one:1", "os.listdir(root)")["look"] == ["etc"]


def test_the_hosts_root_file_system_mounted(make_manager: Callable[..., ImageManager], tmp_path: Path) -> None:
    base = tmp_path / "engine"
    make_manager(base).close()
    secret = base / "secret"
    secret.write_text("x")
    look = (
        "[sorted(os.listdir(root / d)) for d in ('proc', 'sys', 'dev', 'run', 'tmp')]"
        " + [(root / 'usr/bin').is_dir(), (root / 'etc/passwd').read_text() == Path('/etc/passwd').read_text(),"
        " (Path(str(root) + str(base)) / 'secret').exists()]"
    )
    result = _mounted(base, BUILTIN_HOST, look)
    assert result == {
        "look": [[], [], [], [], [], True, True, False],
        "upper": ["etc", "etc/written"],
        "other": False,
        "collected": [],
        "again": "x",
        "left": [],
    }
    assert not Path("/etc/written").exists()
    assert list((base / "run/host").iterdir()) == []  # its tmpfs was in the private namespace only
