"""The reference of the contract is made from the source: it is current, and nothing in it is without a word."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import engine_sdk
from engine.spec import resource
from engine.spec.ipam import IpamDriver
from engine.spec.network import NetworkDriver
from engine.spec.storage import StorageDriver
from engine.spec.volume import VolumeDriver

SCRIPT = Path(__file__).parents[2] / "docs" / "generate_reference.py"
SPECIFICATIONS = (NetworkDriver, IpamDriver, VolumeDriver, StorageDriver)


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_reference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def entries(generator):
    return {entry.name: entry for name in generator.MODULES for entry in generator.entries(generator.module_of(name))}


def test_the_page_is_current(generator):
    assert generator.PAGE.read_text() == generator.page(), "run: python docs/generate_reference.py"


def test_everything_is_explained(entries):
    silent = [
        f"{entry.name}.{member.name}" if member else entry.name
        for entry in entries.values()
        for member in (None, *entry.fields, *entry.methods)
        if not (member or entry).text
    ]
    assert silent == []


@pytest.mark.parametrize("specification", SPECIFICATIONS, ids=lambda s: s.__name__)
def test_every_hook_is_there_with_its_signature(specification, entries):
    hooks = {m.name: m.signature for m in entries[specification.__name__].methods if m.is_hook}
    assert tuple(hooks) == specification.OPERATIONS
    assert all("->" in signature for signature in hooks.values())


def test_every_kind_of_resource_is_there_with_its_fields(entries):
    shipped = {k: cls for k, cls in resource._registry.items() if cls.__module__.startswith("engine.spec")}
    assert shipped
    for kind, cls in shipped.items():
        if cls.__module__ == "engine.spec.wireguard":
            continue  # the core's own: no plan of a driver may have it
        entry = entries[cls.__name__]
        assert f"kind `{kind}`" in entry.facts
        assert {m.name for m in entry.fields} == set(cls.model_fields) - {"kind", "v"}


def test_all_that_the_sdk_offers_is_there(entries):
    pydantics = {"Field", "field_validator", "model_validator"}
    assert set(engine_sdk.__all__) - pydantics - set(entries) <= {"hookimpl", "ABSENT", "PROBES", "SCRUB_PART"}
