"""Run all tests in parallel, and what failed there once more, alone: `python -m tests.run [arguments of pytest]`.

Where every core is busy with other tests, a wait ends in vain or a server is late, and nothing is wrong. A test that
fails alone as well fails the run. What failed only beside others is named by the second summary: who sees a test
there looks for the race.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

WORKERS = os.environ.get("PYTEST_WORKERS", "4")
MOST_REPEATED = 20
"""With more failures than these something is broken, and another try only takes time."""


class Failures:
    """A plugin that collects the names of the tests that failed, in the order of their failures."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a failure in any phase; a dead worker reports its test so as well."""
        if report.failed:
            self.names[report.nodeid] = None


def main(arguments: Sequence[str]) -> int:
    """Run pytest in parallel and repeat a few failures without it; return pytest's exit code."""
    failures = Failures()
    code = pytest.main(["-n", WORKERS, "--dist", "loadgroup", "-rfEs", *arguments], plugins=[failures])
    names = list(failures.names)
    if code != pytest.ExitCode.TESTS_FAILED or not 0 < len(names) <= MOST_REPEATED:
        return int(code)
    print(f"\nFailed beside other tests, now run alone: {len(names)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", "-v", "-rfEs", *names], check=False).returncode


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main(sys.argv[1:]))
