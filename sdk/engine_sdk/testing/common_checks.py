"""Checks that are the same for every kind of driver: loading, options, purity."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from engine_sdk import InvalidParameter, parse_options, store_options_field
from engine_sdk.testing.checks import PURE_SECONDS, Checks, NotDeclared, explain
from engine_sdk.testing.purity import Watch
from engine_sdk.testing.subject import Subject, subject_of

ANSWER_SECONDS = 1.0
"""A plan is asked for while a container starts. Shipped drivers take 0.1 ms; this allows for a loaded machine."""


def requests_of(kind: str) -> Any:
    """Return the module that makes requests for one kind of driver."""
    return importlib.import_module(f"engine_sdk.testing.{kind}_requests")


def add_common_checks(checks: Checks) -> None:
    """Register the checks of this module."""
    for body in (
        is_found_and_loads,
        options_are_documented,
        unknown_option_is_refused,
        same_answer_twice,
        same_answer_in_another_interpreter,
        looks_at_nothing_but_its_arguments,
        answers_at_once,
    ):
        checks.pure(body)


def is_found_and_loads(subject: Subject) -> None:
    """The driver is found by its entry point, imports, and works with this version of its specification."""
    driver = subject.driver
    if not isinstance(driver, subject.specification):
        raise AssertionError(f"{type(driver).__name__} is no {subject.specification.__name__}")


def options_are_documented(subject: Subject) -> None:
    """The driver and each of its options say in words what they are for; options are frozen and closed."""
    model = subject.driver.options_model
    fields = model.model_fields.items()
    undocumented = [f"option {name!r} has no description" for name, f in fields if not f.description]
    if not type(subject.driver).__doc__:
        undocumented.append(f"class {type(subject.driver).__name__} has no docstring")
    explain("`engine driver show` would be silent about", undocumented)
    if model.model_config.get("extra") != "forbid" or not model.model_config.get("frozen"):
        raise AssertionError(f"{model.__name__} changes its base's model_config: options must stay frozen and closed")


def unknown_option_is_refused(subject: Subject) -> None:
    """An option that does not exist is refused, and a near miss gets a suggestion."""
    model = subject.driver.options_model
    if store_options_field(model):
        raise NotDeclared("options that the driver does not know are the store's, which refuses them at create")
    nonsense = {**subject.given, "no-such-option-at-all": "1"}
    try:
        parse_options(model, nonsense, driver=subject.name)
    except InvalidParameter:
        pass
    else:
        raise AssertionError("the option 'no-such-option-at-all' was accepted")
    for field in model.model_fields:
        name = field.replace("_", "-")
        try:
            parse_options(model, {**subject.given, f"{name}x": "1"}, driver=subject.name)
        except InvalidParameter as err:
            if repr(name) not in err.hint and repr(field) not in err.hint and "Did you mean" not in err.hint:
                raise AssertionError(f"a misspelt {name!r} gets no suggestion, only: {err}") from err
        else:
            raise AssertionError(f"the misspelt option '{name}x' was accepted")


def settling_twice_changes_nothing(subject: Subject, settle: Callable[[Any], Any]) -> None:
    """Settle options, and settle the answer again."""
    once = settle(subject.options())
    twice = settle(once)
    if once != twice:
        raise AssertionError(f"settled options change when they are settled again:\n  {once!r}\n  {twice!r}")
    again = type(once).model_validate_json(once.model_dump_json())
    if again != once:
        raise AssertionError(f"settled options do not survive JSON:\n  {once!r}\n  {again!r}")


def _compare(first: Mapping[str, str], second: Mapping[str, str]) -> None:
    explain(
        "the same request got another answer",
        [f"{name}:\n    {text}\n    {second.get(name)}" for name, text in first.items() if text != second.get(name)],
    )


def same_answer_twice(subject: Subject) -> None:
    """The same request gets an equal answer, however often it is asked."""
    answers = requests_of(subject.kind).answers
    _compare(answers(subject), answers(subject))


def same_answer_in_another_interpreter(subject: Subject) -> None:
    """The same request gets an equal answer after a restart: hash seed, order of sets and identities do not matter."""
    argument = json.dumps({"kind": subject.kind, "driver": subject.name, "options": subject.given})
    child = subprocess.run(
        [sys.executable, "-m", "engine_sdk.testing.common_checks", argument],
        capture_output=True,
        text=True,
        timeout=PURE_SECONDS,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    if child.returncode:
        raise AssertionError(f"another interpreter gave no answer:\n{child.stderr}")
    _compare(requests_of(subject.kind).answers(subject), json.loads(child.stdout.splitlines()[-1]))


class _Observed:
    """A driver whose operations are watched, one by one; arguments and times are kept."""

    def __init__(self, driver: Any, operations: tuple[str, ...]) -> None:
        self._driver = driver
        self._operations = operations
        self._watch = Watch()
        self.touched: list[str] = []
        self.changed: list[str] = []
        self.slow: list[str] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._driver, name)
        return self._observed(name, value) if name in self._operations else value

    def _observed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            before = {key: _text(value) for key, value in arguments.items()}
            start = time.perf_counter()
            try:
                with self._watch:
                    return operation(**arguments)
            finally:
                seconds = time.perf_counter() - start
                self.touched += [f"{name}: {t}" for t in self._watch.touched]
                self.changed += [f"{name}: {key}" for key, value in arguments.items() if _text(value) != before[key]]
                if seconds > ANSWER_SECONDS:
                    self.slow.append(f"{name}: {seconds:.1f} s")

        return call


def _text(value: object) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else repr(value)


def _observe(subject: Subject) -> _Observed:
    observed = _Observed(subject.driver, type(subject.driver).OPERATIONS)
    subject.__dict__["driver"] = observed
    requests_of(subject.kind).answers(subject)
    return observed


def looks_at_nothing_but_its_arguments(subject: Subject) -> None:
    """A driver opens no file or socket, starts nothing, asks no clock, chance or environment, changes no argument."""
    observed = _observe(subject)
    explain("a driver is a function of its arguments, but this one touched", observed.touched)
    explain("a driver must leave its arguments alone, but this one changed", observed.changed)


def answers_at_once(subject: Subject) -> None:
    """Each answer takes no noticeable time."""
    explain(f"an answer may take {ANSWER_SECONDS:g} s", _observe(subject).slow)


def main() -> None:
    """Print all answers of a driver as one JSON object."""
    given = json.loads(sys.argv[1])
    subject = subject_of(given["kind"], given["driver"], given["options"])
    print(json.dumps(requests_of(given["kind"]).answers(subject)))


if __name__ == "__main__":
    main()
