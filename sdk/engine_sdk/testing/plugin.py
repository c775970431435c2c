"""pytest plugin of the conformance kit: options, the choice of the suite, and the verdict at the end.

Every pytest run on a machine with the engine loads this module: it imports the standard library only (and pytest for
type checkers), and without one of its options it changes nothing.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

KINDS = ("network", "volume", "ipam", "storage")
NOT_DECLARED = "not declared: "
"""Reason of a skip that is no gap: the driver does not claim what the check is about."""
_PROPERTY = "engine-conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose a driver."""
    group = parser.getgroup("engine", "conformance of engine drivers")
    for kind in KINDS:
        group.addoption(f"--{kind}-driver", metavar="NAME", help=f"run the conformance suite on this {kind} driver")
    group.addoption(
        "--driver-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option that the driver cannot run without; of a storage driver also url=URL (repeatable)",
    )


def chosen_driver(config: pytest.Config, kind: str) -> str:
    """Return the driver of that kind that the command line names, or an empty string."""
    return str(config.getoption(f"{kind}_driver") or "")


def chosen_options(config: pytest.Config) -> dict[str, str]:
    """Return the driver's options that the command line gives."""
    return dict(text.split("=", 1) for text in config.getoption("driver_option"))


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixtures, and choose the conformance modules when a driver is named and no path is."""
    config.pluginmanager.register(Verdicts(), "engine-conformance-verdicts")
    config.pluginmanager.import_plugin("engine_sdk.testing.fixtures")
    kinds = [kind for kind in KINDS if chosen_driver(config, kind)]
    if not kinds:
        return
    import pytest

    for text in config.getoption("driver_option"):
        if "=" not in text:
            raise pytest.UsageError(f"--driver-option {text}: say KEY=VALUE")
    if config.option.driver_option and len(kinds) > 1:
        raise pytest.UsageError("--driver-option goes with one driver: name one kind at a time")
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = [_file_of(f"engine_sdk.testing.conformance_{kind}") for kind in kinds]


def _file_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{module} is not installed as a file")
    return spec.origin


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that are checks, so that the verdict finds their reports (also those of xdist's workers)."""
    suite: Any = getattr(item, "cls", None)
    kind = getattr(suite, "conformance_kind", "")
    if kind:
        name = suite.driver_name or chosen_driver(item.config, kind)
        item.user_properties.append((_PROPERTY, json.dumps([kind, name])))


class Verdicts:
    """Counts what came of the checks of each driver, and says it at the end."""

    def __init__(self) -> None:
        self._left_out: set[str] = set()

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember that checks were left out: the verdict is partial then."""
        self._left_out |= {subject for item in items if (subject := _subject(item))}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print a verdict for each driver that was checked."""
        counts: dict[str, Counter[str]] = {}
        for outcome in ("passed", "failed", "error", "skipped"):
            for report in terminalreporter.stats.get(outcome, ()):
                if subject := _subject(report):
                    counts.setdefault(subject, Counter())[_category(outcome, report)] += 1
        if counts:
            terminalreporter.section("conformance")
        for subject, count in sorted(counts.items()):
            kind, name = json.loads(subject)
            terminalreporter.write_line(_verdict(kind, name, count, left_out=subject in self._left_out))


def _subject(thing: Any) -> str:
    """Return kind and name of the driver that a test or its report is about, as JSON; empty for other tests."""
    return str(dict(getattr(thing, "user_properties", ())).get(_PROPERTY, ""))


def _category(outcome: str, report: Any) -> str:
    if outcome != "skipped":
        return "passed" if outcome == "passed" else "failed"
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return "not declared" if NOT_DECLARED in reason else "not run"


def _verdict(kind: str, name: str, count: Counter[str], *, left_out: bool) -> str:
    from engine_sdk.testing.subject import SPECIFICATIONS

    partial = left_out or count["not run"]
    word = "not conformant" if count["failed"] else "partly conformant" if partial else "conformant"
    text = f"{kind} driver {name}: {word} to {kind} spec {SPECIFICATIONS[kind].SPEC}: " + ", ".join(
        f"{count[category]} {category}" for category in ("passed", "not declared", "failed")
    )
    if count["not run"]:
        text += f", {count['not run']} could not run here"
    return text + (" (some were deselected)" if left_out else "")
