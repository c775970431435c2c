from __future__ import annotations

from tests.host import EngineHost


def test_run(clean: EngineHost) -> None:
    assert clean.engine("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
    assert clean.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"


def test_restart(clean: EngineHost) -> None:
    clean.engine("run", "-d", "--name", "c1", "busybox", "sleep", "100")
    clean.kill_daemon()
    clean.start_daemon()
    assert clean.engine("exec", "c1", "echo", "x").stdout == "x\n"
