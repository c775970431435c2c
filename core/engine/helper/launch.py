"""Starting helpers, and short checks of a store in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from engine.helper.config import HelperConfig
from engine.helper.messages import error_of
from engine.helper.place import HelperPlace
from engine.spec.errors import DeadlineExceeded, Internal

ARGV = (sys.executable, "-P", "-m", "engine.helper")
"""What is run. `-P`: nothing is imported from the working directory."""


def launch(
    place: HelperPlace,
    config: HelperConfig,
    *,
    argv: Sequence[str] = ARGV,
    started: Callable[[int], object] | None = None,
) -> None:
    """Start a helper; it lists and fetches by itself. `started` is called with its process id.

    Raises BlockingIOError if there is one already, OSError.
    """
    place.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = place.take()
    try:
        with place.listen() as listener, place.output.open("ab") as output:
            sealed = config.sealed()
            try:
                descriptors = (lock, listener.fileno(), sealed)
                process = subprocess.Popen(
                    [*argv, "serve", *map(str, descriptors)],
                    pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    cwd="/", umask=0o077, start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(sealed)
    finally:
        os.close(lock)  # the process has it
    threading.Thread(target=process.wait, name=f"helper-{process.pid}", daemon=True).start()  # no zombies
    if started is not None:
        started(process.pid)


def check_store(config: HelperConfig, seconds: float, *, argv: Sequence[str] = ARGV) -> None:
    """Open a store in a process of its own, and see whether it can be used with these credentials.

    Raises what opening it raises, what `Store.check` raises, and DeadlineExceeded.
    """
    sealed = config.sealed()
    what = f"{config.store.url} cannot be used"
    try:
        done = subprocess.run(
            [*argv, "check", str(sealed)],
            pass_fds=(sealed,), stdin=subprocess.DEVNULL, capture_output=True, cwd="/", timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        hint = "Is the server up, and the address right?"
        raise DeadlineExceeded(what, why=f"no answer within {seconds:g} s", hint=hint) from err
    finally:
        os.close(sealed)
    if done.returncode == 0:
        return
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as err:
        why = done.stderr.decode(errors="replace").strip()[-1000:] or f"the check ended with {done.returncode}"
        raise Internal(what, why=why) from err
    raise error_of(answer)
