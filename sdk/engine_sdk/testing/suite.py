"""The suite class that the conformance modules and driver authors build on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from engine_sdk.testing.checks import Checks, Level
from engine_sdk.testing.lab import Lab, checks_of
from engine_sdk.testing.plugin import NOT_DECLARED, chosen_driver, chosen_options


class Conformance:
    """Base of the suites. A subclass names a driver; without a name the command line does."""

    conformance_kind: ClassVar[str] = ""
    driver_name: ClassVar[str] = ""
    driver_options: ClassVar[Mapping[str, str]] = {}
    """Options that the driver cannot run without, as on the command line."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, request: pytest.FixtureRequest) -> Iterator[Lab]:
        """Return the process that runs the checks on the driver."""
        name = cls.driver_name or chosen_driver(request.config, cls.conformance_kind)
        if not name:
            pytest.skip(f"no driver: say --{cls.conformance_kind}-driver NAME, or subclass and set driver_name")
        options = cls.driver_options if cls.driver_name else chosen_options(request.config)
        lab = Lab(cls.conformance_kind, name, options)
        yield lab
        lab.close()


def parametrize(checks: Checks, level: Level) -> Callable[..., None]:
    """Return a test method that runs the checks of one level, each as a test of its own."""

    @pytest.mark.parametrize("check", checks.names(level))
    def test(self: Conformance, check: str, lab: Lab) -> None:
        chosen = checks_of(self.conformance_kind)[check]
        outcome, message = lab.run(chosen)
        if outcome == "failed":
            pytest.fail(f"{chosen.statement}\n{message}", pytrace=False)
        if outcome == "not declared":
            pytest.skip(f"{NOT_DECLARED}{message}")
        if outcome == "not run":
            pytest.skip(message)

    test.__doc__ = f"Run a check of the level {level!r}."
    return _plain(test)


def _plain(function: Any) -> Callable[..., None]:
    result: Callable[..., None] = function
    return result
