"""The process of a job: `python -m engine.volume.jobs DIRECTORY FD`, where FD has the configuration."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from engine.logs import configure_logging
from engine.spec.errors import ApplyFailed, EngineError, Internal
from engine.volume.jobs.place import Place
from engine.volume.jobs.record import error_json
from engine.volume.jobs.work import Cancelled, Work

_MODULES = {
    "backup": "backup", "restore": "backup", "export": "archive", "import": "archive", "snapshot": "copies",
    "rollback": "copies", "clone": "copies", "usage": "measure", "scrub": "scrub",
}  # fmt: skip
_WATCH_SECONDS = 0.2


def _watch_for_cancel(place: Place) -> None:
    while not place.is_cancelled():
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _give_up(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: the way out is not to be interrupted
    raise Cancelled


def run(place: Place, config: dict[str, Any]) -> dict[str, Any]:
    """Do the work and return its outcome."""
    kind = config["kind"]
    try:
        module = importlib.import_module(f"engine.volume.jobs.{_MODULES[kind]}")
        result = getattr(module, f"run_{kind}")(Work(place, config))
        return {"state": "done", "result": result}
    except Cancelled:
        return {"state": "cancelled"}
    except EngineError as err:
        logging.getLogger(__name__).warning("%s", err, exc_info=err.__cause__)
        return {"state": "failed", "error": error_json(err)}
    except OSError as err:
        what = f"{kind} of volume {config['name']} failed"
        hint = "Free some space, and try again" if err.errno in (28, 122) else ""  # ENOSPC, EDQUOT
        return {"state": "failed", "error": error_json(ApplyFailed(what, why=str(err), hint=hint))}
    except Exception as err:
        logging.getLogger(__name__).exception("the job failed unexpectedly")
        fault = Internal(f"{kind} of volume {config['name']} failed", why=f"{type(err).__name__}: {err}")
        return {"state": "failed", "error": error_json(fault)}


def main() -> int:
    """Read the configuration, work, say how it ended."""
    place, descriptor = Place(Path(sys.argv[1])), int(sys.argv[2])
    with os.fdopen(descriptor, "rb") as file:
        config = json.load(file)
    configure_logging("info", "text")
    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_for_cancel, args=(place,), daemon=True).start()
    outcome = run(place, config)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    place.end(outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
