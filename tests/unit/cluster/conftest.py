"""A driver of networks that span hosts, in a package beside ours; and hosts without a kernel."""

import pytest
from tests.unit.cluster.worlds import DRIVER, Host

from engine.cluster.memory import MemoryStore


@pytest.fixture
def driver(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "acme_routes-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-routes\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[engine.network]\nroutes = acme_routes:Routes\n")
    (site / "acme_routes.py").write_text(DRIVER)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("engine.network.hostnet.routed_prefixes", lambda: ("172.17.0.0/16",))
    monkeypatch.setattr("engine.network.hostnet.link_names", lambda: ["eth0"])
    monkeypatch.setattr("engine.network.hostnet.carrier", lambda address: None)


@pytest.fixture
def hosts(driver, tmp_path):
    """Three hosts on one store."""
    store = MemoryStore()
    found = [Host(tmp_path, store, n) for n in (1, 2, 3)]
    yield found
    for host in found:
        host.close()
