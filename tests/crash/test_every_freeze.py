"""The daemon is killed at every step of what freezes a container, or lets it go on: no container stays frozen unseen.

After each kill the cgroup's freezer is as the container's status says, and what was frozen only for the time of some
work goes on by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.crash.killing_host import MOST_STEPS, KillingHost
from tests.host import ENGINE, SECONDS, EngineHost, skip_unless_possible, until

TOP = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def machine() -> Iterator[KillingHost]:
    skip_unless_possible()
    with KillingHost() as host:
        host.load_busybox()
        host.engine("run", "--rm", "-v", "data:/data", "busybox", "true")
        host.engine("volume", "snapshot", "data")  # the directory of jobs stays, once there was one
        remove_volume(host)
        yield host


@pytest.fixture
def sleeper(crashing: KillingHost) -> Iterator[KillingHost]:
    """The machine with a container `sleeper` that runs and uses the volume `data`."""
    crashing.engine("run", "-d", "--name", "sleeper", "-v", "data:/data", "busybox", "sleep", "10000")
    yield crashing
    found = crashing.inspect("sleeper")
    if found and found["State"]["Running"]:
        write(crashing, frozen=False)  # what is frozen does not even die
    crashing.remove_all()
    remove_volume(crashing)


def remove_volume(host: EngineHost) -> None:
    """Remove the volume; its jobs are forgotten when somebody asks for jobs."""
    host.engine("volume", "rm", "-f", "data")
    host.engine("volume", "jobs")


def freezer(host: EngineHost) -> tuple[Path, str, str]:
    """Return the file that freezes the container's cgroup, and what is written there to freeze it and to thaw it."""
    pid = host.engine("inspect", "-f", "{{.State.Pid}}", "sleeper").stdout.strip()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            return TOP / "freezer" / path.lstrip("/") / "freezer.state", "FROZEN", "THAWED"
        if not controllers and (TOP / "cgroup.controllers").exists():
            return TOP / path.lstrip("/") / "cgroup.freeze", "1", "0"
    pytest.skip("there is no freezer")


def is_frozen(host: EngineHost) -> bool:
    file, frozen, _ = freezer(host)
    return file.read_text().strip() == frozen


def write(host: EngineHost, *, frozen: bool) -> None:
    """Freeze or thaw the container behind the engine's back."""
    file, freeze, thaw = freezer(host)
    file.write_text(freeze if frozen else thaw)
    until(lambda: is_frozen(host) == frozen, "the freezer")


def status(host: KillingHost) -> str:
    """Return the container's status, with which the freezer has to agree."""
    found = host.inspect("sleeper")
    assert found is not None
    word: str = found["State"]["Status"]
    if found["State"]["Running"]:
        assert is_frozen(host) == (word == "paused"), f"the container is {word}"
    return word


def every_step(attempt: Callable[[int], bool], least: int) -> None:
    """Attempt an operation with the death of the daemon at step 0, 1, ..., until it survives; it has `least` steps."""
    for step in range(MOST_STEPS):
        if not attempt(step):
            assert step >= least, f"only {step} steps"
            return
    pytest.fail("the operation has no end")


def test_pause(sleeper: KillingHost) -> None:
    def attempt(step: int) -> bool:
        killed = sleeper.killed_at(step, "POST", "/containers/sleeper/pause")
        paused = status(sleeper) == "paused"
        assert paused or killed, "an acknowledged pause is lost"
        sleeper.assert_whole()
        if paused:
            assert sleeper.call("POST", "/containers/sleeper/unpause")[0] == 204
        assert status(sleeper) == "running"
        return killed

    every_step(attempt, 2)


def test_unpause(sleeper: KillingHost) -> None:
    def attempt(step: int) -> bool:
        if status(sleeper) != "paused":
            assert sleeper.call("POST", "/containers/sleeper/pause")[0] == 204
        killed = sleeper.killed_at(step, "POST", "/containers/sleeper/unpause")
        paused = status(sleeper) == "paused"
        assert killed or not paused, "an acknowledged end of a pause was undone"
        sleeper.assert_whole()
        return killed

    every_step(attempt, 2)


def test_stop_of_a_paused_container(sleeper: KillingHost) -> None:
    def attempt(step: int) -> bool:
        if status(sleeper) == "exited":
            assert sleeper.call("POST", "/containers/sleeper/start")[0] == 204
        if status(sleeper) != "paused":
            assert sleeper.call("POST", "/containers/sleeper/pause")[0] == 204
        killed = sleeper.killed_at(step, "POST", "/containers/sleeper/stop?t=0")
        assert status(sleeper) == "exited" or killed, "an acknowledged stop was undone"
        sleeper.assert_whole()
        return killed

    every_step(attempt, 4)


def test_commit(sleeper: KillingHost) -> None:
    def attempt(step: int) -> bool:
        killed = sleeper.killed_at(step, "POST", "/commit?container=sleeper&repo=made")
        assert status(sleeper) == "running", "the pause of a commit outlives it"
        sleeper.assert_whole()
        made, _ = sleeper.call("DELETE", "/images/made?force=1")
        assert made == 200 or (killed and made == 404)
        return killed

    every_step(attempt, 4)


def test_paused_snapshot(sleeper: KillingHost) -> None:
    """The job goes on without the daemon; the container goes on when it has ended."""
    volume = "/engine/volumes/data"

    def ended() -> bool:
        code, jobs = sleeper.call("GET", f"{volume}/jobs")
        places = [place for place in (sleeper.data_root / "jobs").glob("*") if place.name != "cache"]
        return code == 200 and all(job["State"] != "running" for job in jobs) and not places

    def attempt(step: int) -> bool:
        body = {"Tag": f"s{step}", "Consistency": "paused"}
        begin = partial(sleeper.call, "POST", f"{volume}/snapshot?detach=1", body)
        killed = sleeper.killed_while(step, begin, ended, "the job's end")
        until(ended, "the job's end")
        assert status(sleeper) == "running", "the pause of a job outlives it"
        sleeper.assert_whole()
        return killed

    every_step(attempt, 4)


def test_a_pause_for_some_work_ends_no_other(sleeper: KillingHost) -> None:
    """Who pauses a container while a commit has it paused, after having let it go on, has it paused afterwards, too."""
    sleeper.engine("exec", "sleeper", "dd", "if=/dev/urandom", "of=/large", "bs=1M", "count=200")
    with sleeper.process(str(ENGINE), "commit", "sleeper", "made") as commit:
        until(lambda: is_frozen(sleeper), "the pause of a commit")
        assert sleeper.call("POST", "/containers/sleeper/unpause")[0] == 204
        assert sleeper.call("POST", "/containers/sleeper/pause")[0] == 204
        _, errors = commit.communicate(timeout=SECONDS)
    assert commit.returncode == 0, errors
    assert status(sleeper) == "paused"
    assert sleeper.call("DELETE", "/images/made?force=1")[0] == 200


def test_the_doctor_knows_the_freezer(sleeper: KillingHost) -> None:
    write(sleeper, frozen=True)
    said = sleeper.engine("doctor", check=False)
    assert said.returncode == 1
    assert "container sleeper" in said.stdout
    assert "frozen True instead of False" in said.stdout
    assert sleeper.engine("doctor", "--repair").returncode == 0
    assert not is_frozen(sleeper)

    sleeper.engine("pause", "sleeper")
    write(sleeper, frozen=False)
    said = sleeper.engine("doctor", check=False)
    assert "frozen False instead of True" in said.stdout
    sleeper.engine("doctor", "--repair")
    assert is_frozen(sleeper)

    write(sleeper, frozen=False)
    sleeper.engine("unpause", "sleeper")  # what is thawed already is no error
    assert status(sleeper) == "running"
    sleeper.assert_whole()


def test_a_restart_undoes_what_somebody_else_froze(sleeper: KillingHost) -> None:
    write(sleeper, frozen=True)
    sleeper.kill_daemon()
    sleeper.start_daemon()
    assert status(sleeper) == "running"
    sleeper.engine("pause", "sleeper")
    write(sleeper, frozen=False)
    sleeper.kill_daemon()
    sleeper.start_daemon()
    assert status(sleeper) == "paused"


def test_a_container_that_somebody_else_froze_can_be_killed(sleeper: KillingHost) -> None:
    pid = int(sleeper.engine("inspect", "-f", "{{.State.Pid}}", "sleeper").stdout)
    write(sleeper, frozen=True)
    sleeper.engine("rm", "-f", "sleeper")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
