"""The daemon: an engine, served until it is told to stop or has nothing to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine import directories
from engine.api.listening import Listener, listening
from engine.api.server import build_app, serve
from engine.cli import CLI_SOCKET
from engine.composition import Engine
from engine.daemon_options import DaemonOptions
from engine.logs import configure_logging
from engine.spec.errors import EngineError

log = logging.getLogger(__name__)

IDLE_CHECK_SECONDS = 2.0


async def _serve(engine: Engine, listeners: Sequence[Listener], started: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build_app(engine.services())
    addresses = [listener.address for listener in listeners]
    async with serve(app, listeners, engine.options.tls_context()):
        log.info("ready after %.0f ms on %s", (time.monotonic() - started) * 1000, ", ".join(addresses))
        # Only now: where we may not listen, the warm command line beside the socket is another daemon's.
        with _warm_cli(engine.options) if engine.options.cli_server else contextlib.nullcontext():
            if engine.options.idle_exit is not None:
                await _until_idle(engine, app, stop, engine.options.idle_exit)
            else:
                await stop.wait()
    log.info("stopping; containers go on")


async def _until_idle(engine: Engine, app: Any, stop: asyncio.Event, seconds: float) -> None:
    """Wait until asked to stop, or until there was nothing to do for so long."""
    from engine.api.activity import ACTIVITY

    busy_at = time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), IDLE_CHECK_SECONDS)
        if app[ACTIVITY].busy or not engine.idle():
            busy_at = time.monotonic()
        elif time.monotonic() - busy_at > seconds:
            log.info("idle for %.0f s", seconds)
            return


@contextlib.contextmanager
def _warm_cli(options: DaemonOptions) -> Iterator[None]:
    """Keep the command line warm meanwhile: a process that ends when the pipe to its standard input closes."""
    address = next((h for h in options.hosts if h.startswith("unix://")), None)
    if address is None:
        yield
        return
    socket = Path(address.removeprefix("unix://")).parent / CLI_SOCKET
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "engine.cli.warm", str(socket), address], stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _take_all_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: every container takes a few (names, its monitor).

    Containers have the same limit, unless they are given another, as with Docker.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(options: DaemonOptions) -> int:
    """Run the daemon until it is told to stop. Returns the exit code; raises EngineError if it cannot start."""
    started = time.monotonic()
    configure_logging(options.log_level, options.log_format)
    _take_all_descriptors()
    os.umask(directories.UMASK)
    engine = Engine(options)
    with contextlib.ExitStack() as ending:
        ending.callback(engine.close)
        listeners = ending.enter_context(listening(options.hosts))  # before anything is changed
        engine.restore()
        if options.pidfile is not None:
            options.pidfile.write_text(f"{os.getpid()}\n")
            options.pidfile.chmod(0o644)  # for who watches over daemons
            ending.callback(options.pidfile.unlink, missing_ok=True)
        asyncio.run(_serve(engine, listeners, started))
    return 0


def main() -> int:
    """Entry of a daemon that the command line starts by itself: options as JSON in the only argument."""
    try:
        return run(DaemonOptions.from_json(json.loads(sys.argv[1])))
    except EngineError as err:
        print(f"engine: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
