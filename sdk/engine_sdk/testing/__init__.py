"""The conformance kit: what every driver must do, as tests that run on any driver by its name.

    pytest --network-driver NAME          (also --volume-driver, --ipam-driver, --storage-driver)
    pytest --pyargs engine_sdk.testing.conformance_network --network-driver NAME

or, in a driver's own test suite:

    from engine_sdk.testing.conformance_network import NetworkConformance

    class TestMine(NetworkConformance):
        driver_name = "mine"
        driver_options = {"colour": "blue"}   # only what it cannot run without

Each check runs in a process of its own (`lab`). Checks of the level "pure" need no privilege: plans are values. Checks
of the level "kernel" apply the plans, in network and mount namespaces that exist for one check only; without root they
are skipped, and the verdict says so. Checks of the level "live" write to a store.

For tests of your own there is the fixture `leak_guard`.
"""
