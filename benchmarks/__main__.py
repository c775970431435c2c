"""Run benchmarks one after the other: `python -m benchmarks [SUITE]`; a suite is one of those below.

Alone on the machine, as root. What each prints is passed on, with the time that it took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SUITES: dict[str, list[list[str]]] = {
    "networks": [
        ["attach_peers.py", "--rounds", "11"],
        ["ports.py", "--rounds", "11"],
        ["throughput.py", "--rounds", "7"],
        ["names.py"],
        ["many_starts.py", "--count", "200"],
        ["run_latency.py", "--rounds", "9"],
    ],
    "volumes": [
        ["volumes.py"],
        ["on_demand.py"],
        ["encrypted_remote.py"],
    ],
}


def main() -> int:
    """Run a suite; return how many of its benchmarks failed."""
    suite = sys.argv[1] if len(sys.argv) > 1 else "networks"
    if suite not in SUITES:
        sys.exit(f"benchmarks: there is no suite {suite}; there are: {', '.join(SUITES)}")
    failed = 0
    for script, *options in SUITES[suite]:
        print(f"== {script} {' '.join(options)}", flush=True)
        begin = time.monotonic()
        done = subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *options], check=False)
        failed += done.returncode != 0
        print(f"-- {time.monotonic() - begin:.0f} s, exit code {done.returncode}\n", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
