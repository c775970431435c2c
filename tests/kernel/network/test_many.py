"""Many at once: threads attach and detach, on one network and on several."""

import threading

from engine.network.model import PortRequest


def test_threads_do_not_disturb_each_other(host):
    host.warm()
    nets = ["bridge", *(host.networks.create(f"n{n}").name for n in range(2))]
    before = host.snapshot()
    failures, addresses = [], []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                network = nets[(number + turn) % len(nets)]
                ports = [PortRequest(target_port=80)]
                endpoint = host.container(f"c{number}-{turn}", network, ports=ports)
                addresses.append((network, endpoint.addresses, endpoint.ports[0].host_port))
                host.end(endpoint)
        except Exception as err:  # noqa: BLE001 - shown by the assertion
            failures.append(err)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(addresses) == 30
    assert host.reconciler.diff() == []
    assert host.snapshot() == before


def test_a_network_outlives_the_package_of_its_driver(host, tmp_path, monkeypatch, ping):
    """What is attached can be detached, and the network removed, when nobody knows the driver any more."""
    site = tmp_path / "site"
    (site / "gone-1.dist-info").mkdir(parents=True)
    (site / "gone.py").write_text(
        "from engine_sdk import *\n"
        "class Driver(NetworkDriver):\n"
        "    caps = NetworkCaps(host_gateway=True)\n"
        "    def network_plan(self, network):\n"
        "        return Plan.of(Bridge(name=network.ifname), Segment(link=network.ifname))\n"
        "    def endpoint_plan(self, network, endpoint):\n"
        "        return Plan.of(Veth(name=endpoint.host_ifname, master=network.ifname, peer=endpoint.ifname),\n"
        "            (Address(link=endpoint.ifname, address=a) for a in endpoint.addresses))\n"
    )
    (site / "gone-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1\n")
    (site / "gone-1.dist-info/entry_points.txt").write_text("[engine.network]\ngone = gone:Driver\n")
    host.warm()
    before = host.snapshot()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        net = host.networks.create("net", "gone")
        a, b = host.container("a", "net"), host.container("b", "net")
        assert ping(a, b.address(4))
    host.start()
    assert "gone" not in host.plugins.names("engine.network")
    host.networks.restore([a.container.id, b.container.id])
    assert host.networks.inspect(host.networks.get("net"))["Driver"] == "gone"
    assert len(host.networks.plan("net")) == 3
    assert ping(a, b.address(4))
    host.end(a)
    host.end(b)
    host.networks.remove(net.id)
    assert host.snapshot() == before
