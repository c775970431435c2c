"""Drivers in packages of their own take the same path as shipped ones: the same commands, the same answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGES = {("network", "ptp"): "engine-net-ptp", ("volume", "attic"): "engine-vol-attic"}
LIST = """
from engine.plugins import Plugins
for row in Plugins().info():
    print(row.group, row.name, row.distribution, row.version, row.status)
"""
ROOT = os.geteuid() == 0


@pytest.mark.parametrize(("kind", "name"), PACKAGES)
def test_a_package_is_found_and_conformant(kind, name, site):
    site.install(HERE / PACKAGES[kind, name])
    listed = site.run(sys.executable, "-c", LIST).stdout.splitlines()
    assert f"engine.{kind} {name} {PACKAGES[kind, name]} 0.1.0 not loaded" in listed
    verdict = site.run("pytest", f"--{kind}-driver", name).stdout
    word = "conformant" if ROOT else "partly conformant"
    assert f"{kind} driver {name}: {word} to {kind} spec 1." in verdict
    assert ", 0 failed" in verdict


@pytest.mark.parametrize(("kind", "name"), [("network", "bridge"), ("volume", "local")])
def test_a_shipped_driver_is_checked_by_the_same_command(kind, name, site):
    verdict = site.run("pytest", f"--{kind}-driver", name).stdout
    assert f"{kind} driver {name}: {'conformant' if ROOT else 'partly conformant'} to {kind} spec 1." in verdict


def test_a_part_of_the_checks_gives_a_partial_verdict(site):
    verdict = site.run("pytest", "--network-driver", "none", "-k", "documented").stdout
    assert "network driver none: partly conformant to network spec 1.1: 1 passed" in verdict
    assert "(some were deselected)" in verdict


def test_the_modules_work_by_their_name_too(site):
    module = "engine_sdk.testing.conformance_ipam"
    verdict = site.run("pytest", "--pyargs", module, "--ipam-driver", "range").stdout
    assert "ipam driver range: conformant to ipam spec 1." in verdict


def test_without_a_driver_the_modules_say_what_to_do(site):
    done = site.run("pytest", "--pyargs", "engine_sdk.testing.conformance_ipam", "-rs", "-k", "loads")
    assert "say --ipam-driver NAME" in done.stdout


def test_an_unknown_driver_fails_with_a_suggestion(site):
    done = site.run("pytest", "--network-driver", "brigde", "-k", "loads", check=False)
    assert done.returncode == 1
    assert "Did you mean 'bridge'?" in done.stdout


def test_a_malformed_option_is_refused(site):
    done = site.run("pytest", "--network-driver", "bridge", "--driver-option", "mtu", check=False)
    assert "--driver-option mtu: say KEY=VALUE" in done.stderr


def test_options_reach_the_driver(site):
    done = site.run("pytest", "--network-driver", "bridge", "--driver-option", "mtu=7", "-k", "ipv4", check=False)
    assert "greater than or equal to 68" in done.stdout


def test_without_its_options_the_plugin_does_nothing(site):
    (site.work / "test_mine.py").write_text("def test_mine():\n    pass\n")
    done = site.run("pytest")
    assert "1 passed" in done.stdout
    assert "conformance" not in done.stdout


def test_the_plugin_imports_little(site):
    script = "import sys, engine_sdk.testing.plugin; print('pydantic' in sys.modules, 'pytest' in sys.modules)"
    assert site.run(sys.executable, "-c", script).stdout.split() == ["False", "False"]
