"""The registry against really installed (small) distributions: entry points on sys.path."""

import sys
import threading
import time

import pytest

from engine.plugins import Plugins, describe
from engine.spec.errors import Conflict, DeadlineExceeded, DriverFault, Forbidden, InvalidParameter, NotFound
from engine.spec.network import Endpoint, Network
from engine.spec.options import NetworkOptions
from engine.spec.plugin import Event
from engine.spec.resource import Plan

NET = "engine.network"
NETWORK = Network(
    id="ab" * 32, name="n", driver="x", options=NetworkOptions(), mac="02:42:00:00:00:01", ifname="br-abababab"
)
ENDPOINT = Endpoint(id="cd" * 32, ifname="eth0", host_ifname="v1", mac="02:42:00:00:00:02")
DUMMY = """
    from engine_sdk import *

    class Driver(NetworkDriver):
        '''Makes a dummy.'''

        def endpoint_plan(self, network, endpoint):
            return Plan.of(Dummy(name=endpoint.ifname, ns="sandbox"))
"""


def plan(plugins, name):
    return plugins.call(NET, name, "endpoint_plan", network=NETWORK, endpoint=ENDPOINT)


def status(plugins, name):
    return [(row.status, row.reason) for row in plugins.info(NET) if row.name == name]


def test_names_import_nothing_and_the_driver_is_imported_when_needed(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    site.install("acme-boom", f"{NET} boom Driver", "raise SystemExit('imported')")
    plugins = Plugins()
    assert {"acme", "boom"} <= set(plugins.names(NET))
    assert status(plugins, "acme") == [("not loaded", "")]
    assert "acme_dummy" not in sys.modules
    assert [r.name for r in plan(plugins, "acme").resources] == ["eth0"]
    row = next(row for row in plugins.info(NET) if row.name == "acme")
    assert (row.status, row.distribution, row.version, row.spec) == ("ok", "acme-dummy", "1.2", "1.0")
    assert "acme_boom" not in sys.modules


def test_what_was_installed_after_the_start_is_found(site):
    plugins = Plugins()
    with pytest.raises(NotFound, match="no network driver 'acme-late'"):
        plugins.get(NET, "acme-late")
    site.install("acme-late", f"{NET} acme-late Driver", DUMMY)
    assert isinstance(plan(plugins, "acme-late"), Plan)


def test_an_unknown_name_gets_a_suggestion(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    with pytest.raises(NotFound, match="Did you mean 'acme'"):
        Plugins().get(NET, "acmee")


def test_what_a_driver_lacks_is_an_extra_with_its_name(site):
    missing = "import no_such_client\n"
    site.install("acme-net", f"{NET} vxlan Driver", missing, extras=("vxlan",))
    site.install("acme-odd", f"{NET} odd Driver", missing)
    plugins = Plugins()
    for _ in range(2):
        with pytest.raises(DriverFault, match=r"no_such_client.*-m pip install 'acme-net\[vxlan\]'"):
            plugins.get(NET, "vxlan")
    with pytest.raises(DriverFault, match="Tell the authors of acme-odd"):
        plugins.get(NET, "odd")


def test_a_broken_import_is_isolated_and_listed_with_its_reason(site):
    site.install("acme-bad", f"{NET} bad Driver", "import no_such_module_at_all")
    site.install("acme-exit", f"{NET} exit Driver", "raise SystemExit(3)")
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    plugins = Plugins()
    for _ in range(2):
        with pytest.raises(DriverFault, match=r"'bad' of acme-bad 1.2 cannot be used.*ModuleNotFoundError") as caught:
            plan(plugins, "bad")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    with pytest.raises(DriverFault, match="SystemExit: 3"):
        plan(plugins, "exit")
    assert status(plugins, "bad")[0][0] == "broken"
    assert "no_such_module_at_all" in status(plugins, "bad")[0][1]
    assert len(plan(plugins, "acme")) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("Driver = 3", "no subclass of NetworkDriver"),
        ("from engine_sdk import *\nclass Driver(VolumeDriver): pass", "no subclass of NetworkDriver"),
        ("from engine_sdk import *\nclass Driver(NetworkDriver): pass", "does not define endpoint_plan"),
        (DUMMY + "        needs = SpecVersion(2, 0)", r"needs version 2\.0 .* this engine has 1\.\d"),
        (DUMMY + "        needs = SpecVersion(1, 99)", r"needs version 1\.99"),
        (DUMMY + "        needs = 'new'", "no version"),
        (DUMMY + "        def netwrok_plan(self, network): ...", "did you mean 'network_plan'"),
        (DUMMY + "        def network_plan(self, net): ...", "net"),
        (DUMMY.replace("def endpoint", "async def endpoint"), "asynchronous"),
        (DUMMY + "        def __init__(self): raise OSError('no license')", "no license"),
    ],
)
def test_a_class_that_is_no_driver_is_refused_with_the_reason(site, code, reason):
    site.install("acme-odd", f"{NET} odd Driver", code)
    plugins = Plugins()
    with pytest.raises(DriverFault, match=reason):
        plugins.get(NET, "odd")
    assert status(plugins, "odd")[0][0] == "broken"


def test_two_packages_with_one_name_are_refused_until_one_is_pinned(site):
    site.install("acme-one", f"{NET} twin Driver", DUMMY)
    site.install("acme-two", f"{NET} twin Driver", DUMMY)
    plugins = Plugins()
    with pytest.raises(Conflict, match=r"acme-(one|two) 1\.2 and acme-(one|two) 1\.2"):
        plan(plugins, "twin")
    assert {s for s, _ in status(plugins, "twin")} == {"clash"}
    pinned = Plugins(pins={"network/twin": "acme-two"})
    assert len(plan(pinned, "twin")) == 1
    assert sorted(status(pinned, "twin")) == [("blocked", "pinned to acme-two"), ("ok", "")]


def test_a_call_reaches_exactly_one_driver(site):
    for number in (1, 2):
        site.install(f"acme-{number}", f"{NET} a{number} Driver", DUMMY.replace("endpoint.ifname", f"'x{number}'"))
    plugins = Plugins()
    assert [plan(plugins, f"a{n}").resources[0].name for n in (1, 2, 1)] == ["x1", "x2", "x1"]
    assert plugins.call(NET, "a1", "network_plan", network=NETWORK) is None


OWN_NAME = """
    from engine_sdk import *

    class Driver(NetworkDriver):
        def endpoint_plan(self, network, endpoint):
            return Plan.of(Dummy(name=__name__[-4:], ns="sandbox"))
"""


def test_a_driver_loaded_after_the_caller_was_made_does_not_answer_in_its_place(site):
    site.install("acme-one1", f"{NET} one1 Driver", OWN_NAME)
    site.install("acme-two2", f"{NET} two2 Driver", OWN_NAME)
    plugins = Plugins()
    _, held, _ = plugins._caller(NET, "one1", "endpoint_plan")  # as a thread that goes on later holds it
    plugins.get(NET, "two2")
    answer = held(network=NETWORK, endpoint=ENDPOINT)
    assert [r.name for r in answer.resources] == ["one1"]


def test_a_driver_whose_package_is_gone_answers_no_more(site):
    site.install("acme-one1", f"{NET} one1 Driver", OWN_NAME)
    site.install("acme-two2", f"{NET} two2 Driver", OWN_NAME)
    plugins = Plugins()
    plugins.get(NET, "two2")
    (site.path / "acme_two2-1.2.dist-info" / "entry_points.txt").unlink()
    plugins.rescan()
    assert [r.name for r in plan(plugins, "one1").resources] == ["one1"]


def test_two_threads_that_load_and_call_reach_their_own_driver(site):
    names = [f"d{number:03}" for number in range(40)]
    for name in names:
        site.install(f"acme-{name}", f"{NET} {name} Driver", OWN_NAME)
    plugins, wrong = Plugins(), []

    def ask(mine):
        for number in range(len(mine)):
            wrong.extend(n for n in mine[: number + 1] for r in plan(plugins, n).resources if r.name != n)

    threads = [threading.Thread(target=ask, args=(names[half::2],)) for half in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_names_that_are_not_allowed_are_blocked_and_never_imported(site):
    site.install("acme-boom", f"{NET} boom Driver", "raise SystemExit('imported')")
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    plugins = Plugins(allow=["acme"])
    assert plugins.names(NET) == ["acme"]
    assert len(plan(plugins, "acme")) == 1
    with pytest.raises(Forbidden, match="not in the list of allowed"):
        plugins.get(NET, "boom")


def test_autoload_off_leaves_only_the_shipped_drivers(site, monkeypatch):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    monkeypatch.setenv("ENGINE_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = Plugins()
    assert "bridge" in plugins.names(NET)
    with pytest.raises(Forbidden, match="ENGINE_DISABLE_PLUGIN_AUTOLOAD"):
        plugins.get(NET, "acme")


def test_an_error_of_the_driver_names_everything_that_helps(site):
    site.install("acme-raise", f"{NET} raise Driver", DUMMY.replace("return Plan", "raise KeyError('vlan') #"))
    site.install(
        "acme-refuse", f"{NET} refuse Driver", DUMMY.replace("return Plan", "raise InvalidParameter('no vlan') #")
    )
    plugins = Plugins()
    with pytest.raises(DriverFault, match=r"endpoint_plan of network driver 'raise' \(acme-raise 1.2\).*'vlan'") as e:
        plan(plugins, "raise")
    assert e.value.driver == "raise"
    assert isinstance(e.value.__cause__, KeyError)
    with pytest.raises(InvalidParameter, match="no vlan") as refused:
        plan(plugins, "refuse")
    assert refused.value.driver == "refuse"
    assert status(plugins, "raise")[0][0] == "ok"


def test_nonsense_is_no_answer(site):
    site.install("acme-odd", f"{NET} odd Driver", DUMMY.replace("return Plan", "return ['eth0'] #"))
    with pytest.raises(DriverFault, match=r"acme-odd 1.2 returned list instead of Plan"):
        plan(Plugins(), "odd")


def test_a_hung_driver_is_given_up_and_the_others_go_on(site):
    site.install("acme-hung", f"{NET} hung Driver", DUMMY.replace("return Plan", "import time; time.sleep(8) #"))
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    plugins = Plugins(deadline=1.0)
    plan(plugins, "acme")
    began = time.monotonic()
    with pytest.raises(
        DeadlineExceeded, match=r"endpoint_plan of network driver 'hung' \(acme-hung 1.2\) did not end.*1(\.0)? s"
    ):
        plan(plugins, "hung")
    assert time.monotonic() - began < 6
    began = time.monotonic()
    with pytest.raises(DriverFault, match=r"hung in endpoint_plan, acme_hung.py line 8"):
        plan(plugins, "hung")
    assert time.monotonic() - began < 0.9
    assert len(plan(plugins, "acme")) == 1


def test_calls_from_many_threads(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    plugins = Plugins()
    answers = []
    ask = lambda: answers.extend(plan(plugins, "acme") for _ in range(25))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 100
    assert len({p.to_json() for p in answers}) == 1


AUDIT = """
    from engine_sdk import hookimpl, Plan, Dummy, Forbidden
    seen = []

    class Audit:
        @hookimpl(wrapper=True)
        def endpoint_plan(self, network, endpoint):
            if network.name == "secret":
                raise Forbidden("not this network")
            plan = yield
            seen.append(endpoint.ifname)
            return plan + Plan.of(Dummy(name="audited", ns="sandbox"))

        @hookimpl
        def engine_event(self, event):
            seen.append(event.action)

        @hookimpl
        def edit_oci_spec(self, spec, container):
            spec["hostname"] = container["Name"]
"""
EVENT = Event(type="network", action="create", id="x", time_ns=1)


def test_a_plugin_wraps_operations_hears_events_and_edits_specs(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    site.install("acme-audit", "engine.plugins audit Audit", AUDIT)
    site.install("acme-broken", "engine.plugins broken Audit", "1/0")
    site.install(
        "acme-answer",
        "engine.plugins answer -",
        "from engine_sdk import hookimpl\n@hookimpl\ndef endpoint_plan(network): return 1",
    )
    site.install(
        "acme-deaf",
        "engine.plugins deaf -",
        "from engine_sdk import hookimpl\n@hookimpl\ndef engine_event(event): raise OSError('deaf')",
    )
    plugins = Plugins()
    plugins.load_plugins()
    rows = {row.name: row for row in plugins.info("engine.plugins")}
    assert {name: row.status for name, row in rows.items()} == {
        "audit": "ok", "broken": "broken", "answer": "broken", "deaf": "ok",
    }  # fmt: skip
    assert "ZeroDivisionError" in rows["broken"].reason
    assert "must be a wrapper" in rows["answer"].reason
    assert [r.name for r in plan(plugins, "acme").resources] == ["eth0", "audited"]
    plugins.emit(EVENT)
    assert sys.modules["acme_audit"].seen == ["eth0", "create"]
    spec = {}
    plugins.edit_oci_spec(spec, {"Name": "c"})
    assert spec == {"hostname": "c"}
    with pytest.raises(Forbidden, match="not this network"):
        secret = NETWORK.model_copy(update={"name": "secret"})
        plugins.call(NET, "acme", "endpoint_plan", network=secret, endpoint=ENDPOINT)


def test_the_plugin_is_blamed_when_its_wrapper_fails(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    site.install(
        "acme-wrap", "engine.plugins wrap Audit", AUDIT.replace('raise Forbidden("not this network")', "").replace(
            'if network.name == "secret":', "raise ValueError('mine')")
    )  # fmt: skip
    plugins = Plugins()
    plugins.load_plugins()
    with pytest.raises(DriverFault, match=r"plugin 'wrap' \(acme-wrap 1.2\) failed.*mine"):
        plan(plugins, "acme")


def test_a_plugin_that_hangs_is_taken_out_and_the_driver_goes_on(site):
    site.install("acme-dummy", f"{NET} acme Driver", DUMMY)
    site.install(
        "acme-wrap",
        "engine.plugins wrap Audit",
        AUDIT.replace("if network.name", "__import__('time').sleep(1)\n            if network.name"),
    )
    plugins = Plugins(deadline=0.2)
    plugins.load_plugins()
    with pytest.raises(DeadlineExceeded, match=r"plugin 'wrap' \(acme-wrap 1.2\) did not end"):
        plan(plugins, "acme")
    assert len(plan(plugins, "acme")) == 1
    assert [row.status for row in plugins.info("engine.plugins")] == ["broken"]


def test_a_description_of_a_driver(site):
    code = """
    from typing import Literal
    from engine_sdk import *
    class Opt(NetworkOptions):
        parent: ParentLink = Field(default="default-route", description="Host link")
        mode: Literal["a", "b"] = Field(default="a", validation_alias="acme_mode", description="How")
        size: int = Field(description="How much")
    class Driver(NetworkDriver[Opt]):
        '''Makes a thing.'''
        caps = NetworkCaps(shares_wire=True)
        def endpoint_plan(self, network, endpoint): return Plan()
    """
    site.install("acme-opt", f"{NET} opt Driver", code)
    text = describe(Plugins(), NET, "opt")
    assert text.summary == "Makes a thing."
    assert text.caps["shares_wire"] is True
    rows = {row.name: row for row in text.options}
    assert rows["parent"].type == "host link"
    assert (rows["mode"].type, rows["mode"].default, rows["mode"].aliases) == ("a | b", "a", ("acme_mode",))
    assert rows["size"].required
    assert rows["mtu"].type == "integer"
    assert set(text.schema["properties"]) == {*NetworkOptions.model_fields, "parent", "mode", "size"}
