"""A daemon without a cluster pays nothing for clusters."""

import subprocess
import sys

SCRIPT = """
import sys, engine.daemon, engine.cluster.static, engine.cluster.memory
print([m for m in ("grpc", "aetcd", "google.protobuf") if m in sys.modules])
"""
WITHOUT = """
import sys
sys.modules["aetcd"] = None
from pathlib import Path
from engine.cluster.access import open_cluster
from engine.cluster.membership import Memory
from engine.cluster.options import ClusterOptions
try:
    open_cluster(ClusterOptions("etcd://192.0.2.1:1", "192.0.2.2", "n"), "id", "1", Memory(), Path("/nonexistent"))
except Exception as err:
    print(type(err).__name__, err)
"""


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout


def test_nothing_of_etcd_is_imported():
    assert run(SCRIPT).strip() == "[]"


def test_where_the_package_is_missing_it_is_named():
    assert "pip install 'pluggable-engine[cluster]'" in run(WITHOUT)
    assert run(WITHOUT).startswith("Unsupported")
