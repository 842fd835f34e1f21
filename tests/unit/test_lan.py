"""What is asked of a LAN before an address is used, and what follows from what it tells; all of it in memory."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address, ip_interface
from itertools import count
from typing import TypeVar

import pytest
from msgspec.structs import replace

from isthmus.addresses import SubnetRequest
from isthmus.decisions import CLAIM
from isthmus.dhcp.fake import FakeServers
from isthmus.dhcp.manager import Key
from isthmus.dhcp.status import BOUND, EXPIRED, Status
from isthmus.engine import Engine
from isthmus.errors import AddressElsewhere, AlreadyConnected, Forbidden, PoolExhausted
from isthmus.kernel import Appeared
from isthmus.lan import TRIES, Lan
from isthmus.model import DhcpLease, Endpoint, Host, HostLink, IPAddress, pairs
from isthmus.questions import Evidence, Unanswered
from isthmus.requests import EndpointRequest, NetworkRequest, SandboxRequest
from isthmus.views import Finding
from isthmus.wire.advice import WIRELESS
from isthmus.wire.fake import FakeWire
from isthmus.wire.prober import fast
from tests.unit.test_engine import World as EngineWorld

T = TypeVar("T")

PRINTER, THIEF = "02:00:00:00:00:02", "02:00:00:00:00:04"
GATEWAY = ip_address("10.0.36.254")
FIRST, SECOND = (ip_address(f"10.0.36.{number}") for number in (1, 2))
ETH0 = HostLink("eth0", "veth", 1500)
HOME = Host((ETH0,))


def lease(address: str = "10.0.36.50/24", server: str = "10.0.36.254") -> DhcpLease:
    """What a server gives out."""
    return DhcpLease(ip_interface(address), server, PRINTER, obtained=1, seconds=3600, t1=1800, t2=3150)


async def until(done: Callable[[], bool]) -> None:
    """Let the loop go on until something is so, which it soon is: nothing here waits for time."""
    while not done():  # noqa: ASYNC110 - what is in memory has no events
        await asyncio.sleep(0)


class World:
    """A daemon on a LAN: an engine, whose kernel and store are in memory, with a wire and servers in memory, too.

    On the wire of eth0 are the machines that `on_wire` says.
    """

    def __init__(self, *leases: DhcpLease, host: Host = HOME) -> None:
        self.engine_world = EngineWorld(host)
        self.wire = FakeWire({"eth0": {}})
        self.servers = FakeServers(*leases)
        self.told = len(self.engine_world.events)
        self.runner = asyncio.Runner()
        self.failure: Exception | None = None
        self.lan = self.alive()

    @property
    def engine(self) -> Engine:
        """The engine of this life."""
        return self.engine_world.engine

    @property
    def on_wire(self) -> dict[IPAddress, str]:
        """The machines on the wire of eth0, by address."""
        return self.wire.machines["eth0"]

    def alive(self) -> Lan:
        """What the daemon has in this life."""
        return Lan(self.call, lambda _conflict: self.wire, lambda _leased: self.servers)

    def restart(self) -> None:
        """Be the daemon's next life; its servers know no clients."""
        self.wire.guarded.clear()
        self.servers = FakeServers(*self.servers.leases)
        self.engine_world.restart()
        self.lan = self.alive()
        self.does(self.lan.look)

    async def call(self, work: Callable[[Engine], T], /, *, brief: bool = False) -> T:  # noqa: ARG002 - all of it is
        """Do *work* at once, and have heard what the engine announces, as the daemon does before an answer is given."""
        if self.failure:
            raise self.failure
        try:
            return work(self.engine)
        finally:
            events = self.engine_world.events
            for event in events[self.told :]:
                self.lan.heard(event)
            self.told = len(events)

    def run(self, work: Coroutine[object, object, T]) -> T:
        """What *work* gives, when all that follows from it is done."""

        async def main() -> T:
            try:
                return await work
            finally:
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)

        return self.runner.run(main())

    def does(self, act: Callable[[], object]) -> None:
        """Do something on the loop, and all that follows from it."""

        async def main() -> None:
            act()

        self.run(main())

    def network(self, name: str = "lan", subnet: str = "10.0.36.0/24", **options: str) -> str:
        """Make a macvlan network on eth0, with `isthmus.`*options*; what its user is warned of."""
        own = {f"isthmus.{key}": value for key, value in options.items()}
        subnets = (
            (SubnetRequest(subnet, gateway=str(GATEWAY)),) if subnet == "10.0.36.0/24" else (SubnetRequest(subnet),)
        )
        request = NetworkRequest(name, "macvlan", subnets=subnets, options=pairs({"parent": "eth0"} | own))
        return self.run(self.lan.create_network(request)).warning

    def dhcp(self) -> None:
        """Make a macvlan network on eth0 whose addresses come from the servers."""
        options = pairs({"parent": "eth0"})
        self.run(self.lan.create_network(NetworkRequest("lan", "macvlan", options=options, ipam_driver="dhcp")))

    def sandbox(self, name: str = "web", network: str = "lan", ipv4: str = "") -> Endpoint:
        """Make a sandbox on a network; its endpoint there."""
        self.run(self.making(name, network, ipv4))
        return self.endpoint(name)

    def making(self, name: str, network: str = "lan", ipv4: str = "") -> Coroutine[object, object, object]:
        """The making of a sandbox."""
        endpoints = ((network, EndpointRequest(ipv4=ipv4)),)
        return self.lan.create_sandbox(SandboxRequest(name, network, endpoints=endpoints))

    def endpoint(self, name: str = "web") -> Endpoint:
        """The endpoint of a sandbox on its one network."""
        [view] = self.engine.sandbox(name).endpoints
        return view.endpoint

    def address(self, name: str = "web") -> str:
        """The addresses of a sandbox."""
        return " ".join(str(one.ip) for one in self.endpoint(name).addresses)

    def remove(self, name: str = "web") -> None:
        """Remove a sandbox, as a request does."""
        self.run(self.call(lambda engine: engine.remove_sandbox(name)))

    def trouble(self, name: str = "web") -> str:
        """What is not as it should be with a sandbox."""
        [view] = self.engine.sandbox(name).endpoints
        return "; ".join(view.trouble)

    def key(self, name: str = "web") -> Key:
        """Whose lease that of a sandbox is."""
        return self.engine.network("lan").network.id, name, 4

    @property
    def guarded(self) -> dict[str, str]:
        """The addresses that are guarded on eth0, with their holders' MACs."""
        return {str(address): mac for address, mac in self.wire.guarded.get("eth0", {}).items()}

    def sees(self, name: str = "lan") -> list[Finding]:
        """What a check of a network tells of the wire."""
        return [one for one in self.run(self.lan.check(name)) if one.subject == "wire"]


@pytest.fixture
def world() -> Iterator[World]:
    """A host with one NIC and a daemon that has just started."""
    made = World()
    yield made
    made.run(made.lan.close())
    made.runner.close()


# Who has an address.


def test_an_address_that_somebody_has_is_passed_over(world: World) -> None:
    """A printer that got its address by hand keeps it."""
    world.on_wire[FIRST] = PRINTER
    world.network()
    assert world.sandbox().addresses == (ip_interface("10.0.36.2/24"),)
    assert [address for _, address in world.wire.probed] == [FIRST, SECOND]


def test_a_demanded_address_that_somebody_has_is_refused_each_time(world: World) -> None:
    """The refusal names the machine to look for; nothing is left of the attempt, and the next one is told the same."""
    world.on_wire[SECOND] = PRINTER
    world.network()
    for _ in range(2):
        with pytest.raises(AddressElsewhere, match=f"on the wire of eth0, 10.0.36.2 is at {PRINTER}"):
            world.sandbox(ipv4="10.0.36.2")
    assert world.engine.sandboxes() == ()


def test_both_families_are_asked_for_at_once(world: World) -> None:
    """An attach waits once, not twice."""
    six = ip_address("fd36::1")
    world.on_wire.update({FIRST: PRINTER, six: PRINTER})
    subnets = SubnetRequest("10.0.36.0/24", gateway=str(GATEWAY)), SubnetRequest("fd36::/64", gateway="fd36::fe")
    options = pairs({"parent": "eth0"})
    world.run(world.lan.create_network(NetworkRequest("lan", "macvlan", subnets=subnets, options=options, ipv6=True)))
    world.sandbox()
    assert world.address() == "10.0.36.2 fd36::2"
    assert len(world.wire.schedules) == 2
    assert {address for _, address in world.wire.probed} == {FIRST, six, SECOND, six + 1}


def test_nobody_is_asked_where_the_user_wants_no_asking(world: World) -> None:
    """An option is an option: the address is given out at once."""
    world.on_wire[FIRST] = PRINTER
    world.network(probe="off")
    assert world.sandbox().addresses == (ip_interface("10.0.36.1/24"),)
    assert world.wire.probed == []


@pytest.mark.parametrize("probe", ["fast", "strict"])
def test_who_wants_it_strict_has_the_standards_own_pace(world: World, probe: str) -> None:
    """RFC 5227 asks three times, within 4 to 7 seconds; most users would not wait for that."""
    world.network(probe=probe)
    world.sandbox()
    [schedule] = world.wire.schedules
    assert (schedule == fast()) is (probe == "fast")
    assert (4 <= schedule.wait <= 7) is (probe == "strict")


def test_many_at_once_get_different_addresses_and_ask_for_each_once(world: World) -> None:
    """A host boots fifty sandboxes: if all asked for the lowest free address, all but one would have to ask again."""
    world.on_wire[SECOND] = PRINTER
    world.network()

    async def all_of_them() -> None:
        await asyncio.gather(*(world.making(f"web{number}") for number in range(20)))

    world.run(all_of_them())
    assert len({world.address(f"web{number}") for number in range(20)}) == 20
    assert len(world.wire.probed) == len(set(world.wire.probed)) == 21


def test_an_address_is_not_held_for_long_for_who_does_not_come_back(world: World) -> None:
    """Whoever asked may have died: the address is nobody's."""
    world.network()
    with pytest.raises(Unanswered):
        world.engine.create_sandbox(SandboxRequest("dead", "lan"), Evidence())
    assert world.sandbox("web").addresses == (ip_interface("10.0.36.2/24"),)
    world.engine_world.numbers = count(next(world.engine_world.numbers) + CLAIM)
    assert world.sandbox("db").addresses == (ip_interface("10.0.36.1/24"),)


def test_a_request_that_is_given_up_holds_nothing(world: World) -> None:
    """A user who presses Ctrl-C and tries again must not be told that his own address is in use."""
    world.network()

    async def given_up() -> None:
        making = asyncio.ensure_future(world.making("web", ipv4="10.0.36.2"))
        await until(lambda: bool(world.wire.probed))
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making

    world.run(given_up())
    assert world.sandbox("web", ipv4="10.0.36.2").addresses == (ip_interface("10.0.36.2/24"),)


def test_a_device_that_cannot_be_heard_stops_no_attach(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A parent that is down will come up; its sandboxes may be made before, and the log tells what was not asked."""
    world.network()
    del world.wire.machines["eth0"]
    assert world.sandbox().addresses == (ip_interface("10.0.36.1/24"),)
    assert "addresses are given out unasked: cannot use the interface eth0" in caplog.text


def test_who_finds_no_free_address_gives_up_in_the_end(world: World) -> None:
    """A range full of others' machines would else be asked through for minutes."""
    world.network(subnet="10.0.0.0/16")
    world.on_wire.update((ip_address("10.0.0.1") + number, PRINTER) for number in range(TRIES + 10))
    with pytest.raises(Forbidden, match=f"{TRIES} addresses in a row are other machines'"):
        world.sandbox()


def test_a_range_that_others_have_used_up_says_whose_it_is(world: World) -> None:
    """The only address is somebody else's."""
    world.on_wire[FIRST] = PRINTER
    world.network(subnet="10.0.36.1/32")
    with pytest.raises(PoolExhausted, match=f"on the wire, 10.0.36.1 is at {PRINTER}"):
        world.sandbox()


# Whether a second MAC passes.


def test_the_maker_of_a_network_is_warned_if_only_the_parents_own_mac_is_answered(world: World) -> None:
    """As on a hypervisor's switch: nobody would reach the sandboxes, and nothing would say why."""
    world.on_wire[GATEWAY], world.wire.one_mac = PRINTER, True
    assert "10.0.36.254 answers to the MAC of eth0 but not to a second one" in world.network()


@pytest.mark.parametrize("machines", [{}, {GATEWAY: PRINTER}], ids=["nobody is there", "all is well"])
def test_the_maker_of_a_network_is_not_warned_without_cause(world: World, machines: dict[IPAddress, str]) -> None:
    """A gateway that does not answer yet proves nothing."""
    world.on_wire.update(machines)
    assert world.network() == ""


@pytest.mark.parametrize("machines", [{}, {GATEWAY: PRINTER}], ids=["nobody answers", "one MAC is answered"])
def test_the_maker_of_a_network_on_wifi_is_warned(machines: dict[IPAddress, str]) -> None:
    """A station can send with its own MAC only, whether or not anybody answers to that now."""
    world = World(host=Host((replace(ETH0, wireless=True),)))
    world.on_wire.update(machines)
    world.wire.one_mac = True
    assert WIRELESS.format(parent="eth0") in world.network()
    world.runner.close()


def test_a_check_tells_what_the_wire_says(world: World) -> None:
    """Whoever asks is told in each case, with what to do about it."""
    world.network()
    [nobody] = world.sees()
    assert (nobody.ok, "nobody answered on eth0" in nobody.text) == (False, True)
    world.on_wire[GATEWAY] = PRINTER
    [well] = world.sees()
    assert well.ok
    assert well.text.startswith(f"10.0.36.254 ({PRINTER}) answers to a second MAC on eth0")
    world.wire.one_mac = True
    assert not any(one.ok for one in world.sees())
    del world.wire.machines["eth0"]
    assert [(one.ok, one.text) for one in world.sees()] == [
        (False, "cannot use the interface eth0: there is no such interface")
    ]


# What is guarded.


def test_who_stands_is_guarded_and_who_left_is_not(world: World) -> None:
    """A conflict over an address that is nobody's any more concerns nobody."""
    world.network()
    assert world.guarded == {}
    web, db = world.sandbox("web"), world.sandbox("db", "none")
    assert world.guarded == {"10.0.36.1": web.mac}
    world.run(world.call(lambda engine: engine.disconnect("none", "db")))
    world.run(world.lan.connect("lan", "db", EndpointRequest()))
    db = world.endpoint("db")
    assert world.guarded == {"10.0.36.1": web.mac, "10.0.36.2": db.mac}
    world.restart()
    assert world.guarded == {"10.0.36.1": web.mac, "10.0.36.2": db.mac}
    world.run(world.call(lambda engine: engine.disconnect("lan", "db")))
    assert world.guarded == {"10.0.36.1": web.mac}
    world.remove()
    assert world.guarded == {}


def test_a_network_that_does_not_ask_does_not_guard_either(world: World) -> None:
    """Its user knows of others with the same addresses."""
    world.network(probe="off")
    world.sandbox()
    assert world.guarded == {}


def test_a_conflict_is_shown_with_the_endpoint_and_announced(world: World) -> None:
    """Whoever looks why a service is unreachable sees it, and whoever listens hears it."""
    world.network()
    web = world.sandbox()
    world.does(lambda: world.lan.conflict("eth0", FIRST, THIEF))
    assert f"{THIEF}" in world.trouble()
    [event] = [one for one in world.engine_world.events if one.action == "conflict"]
    assert dict(event.attributes) == {
        "name": "lan",
        "type": "macvlan",
        "address": "10.0.36.1",
        "mac": THIEF,
        "container": web.sandbox,
    }


def test_a_link_that_comes_back_is_guarded_again(world: World) -> None:
    """What was guarded ended with it."""
    world.network()
    world.sandbox()
    machines = world.wire.machines.pop("eth0")
    world.wire.guarded.clear()
    world.does(world.lan.look)
    assert world.guarded == {}
    world.wire.machines["eth0"] = machines
    world.does(lambda: world.lan.appeared("eth0"))
    assert [*world.guarded] == ["10.0.36.1"]


def test_a_link_that_comes_after_the_daemon_is_guarded(world: World) -> None:
    """At boot a USB card or a bond may be the last thing to come."""
    world.network()
    world.sandbox()
    machines = world.wire.machines.pop("eth0")
    world.engine_world.kernel.delete_link("eth0")
    world.restart()
    assert world.guarded == {}
    world.engine_world.kernel.add_link(ETH0)
    world.wire.machines["eth0"] = machines
    world.run(world.call(lambda engine: engine.mend([Appeared("eth0")])))
    world.does(lambda: world.lan.appeared("eth0"))
    assert [*world.guarded] == ["10.0.36.1"]


# Addresses from servers.


@pytest.fixture
def served() -> Iterator[World]:
    """A host on a LAN with a server that has two addresses to give."""
    made = World(lease(), lease("10.0.36.51/24"))
    made.dhcp()
    yield made
    made.run(made.lan.close())
    made.runner.close()


def test_an_endpoint_has_the_address_that_the_server_gives(served: World) -> None:
    """The wire is asked for it all the same (RFC 2131, 4.4.1), and it is guarded like any other."""
    web = served.sandbox()
    assert web.leases == (lease(),)
    assert served.address() == "10.0.36.50"
    assert served.wire.probed == [("eth0", ip_address("10.0.36.50"))]
    assert served.guarded == {"10.0.36.50": web.mac}
    assert served.servers.released == []


def test_an_address_of_a_server_that_somebody_has_is_declined(served: World) -> None:
    """A printer that got its address by hand is in the middle of the server's range: the server has to know."""
    served.on_wire[ip_address("10.0.36.50")] = PRINTER
    web = served.sandbox()
    assert web.addresses == ()
    assert served.servers.lease(served.key()) is None
    assert served.servers.released == []


def test_without_a_server_there_is_an_endpoint_without_an_address(served: World) -> None:
    """It gets one when a server answers; until then it says what is wrong, and what to do."""
    served.servers.leases.clear()
    web = served.sandbox()
    assert web.addresses == ()
    assert f"no DHCP server answers {web.mac} on eth0" in served.trouble()


def test_a_lease_that_comes_late_is_used_and_guarded(served: World) -> None:
    """The trouble is over then."""
    served.servers.leases.clear()
    web = served.sandbox()
    served.does(lambda: served.lan.leased(served.key(), lease(), Status(BOUND, 1)))
    assert served.address() == "10.0.36.50"
    assert served.trouble() == ""
    assert served.guarded == {"10.0.36.50": web.mac}


def test_a_lease_that_comes_while_the_endpoint_is_made_is_used(served: World) -> None:
    """Its client tells it when nobody waits any more, and nobody stands there yet."""
    leases, served.servers.leases = served.servers.leases, []

    async def late() -> None:
        making = asyncio.ensure_future(served.making("web"))
        await until(lambda: bool(served.servers.held))
        served.servers.held[served.key()] = leases[0]
        served.lan.leased(served.key(), leases[0], Status(BOUND, 1))
        await making

    served.run(late())
    assert served.address() == "10.0.36.50"


def test_a_lost_lease_is_not_used_any_more(served: World) -> None:
    """The server may have given the address to somebody else (RFC 2131, 4.4.5)."""
    served.sandbox()
    served.does(lambda: served.lan.leased(served.key(), None, Status(EXPIRED, 1, "see why")))
    assert served.address() == ""
    assert "see why" in served.trouble()
    assert served.guarded == {}


def test_an_address_that_somebody_else_claims_is_declined(served: World) -> None:
    """Then the server gives another one. Also if it is not the one that the endpoint had at first."""
    served.sandbox()
    served.does(lambda: served.lan.conflict("eth0", ip_address("10.0.36.51"), THIEF))
    assert served.servers.held == {served.key(): lease()}
    served.servers.held[served.key()] = lease("10.0.36.51/24")
    served.does(lambda: served.lan.conflict("eth0", ip_address("10.0.36.51"), THIEF))
    assert served.servers.held == {served.key(): None}


def test_who_leaves_gives_his_lease_back(served: World) -> None:
    """A server's range is soon used up by sandboxes that come and go."""
    served.sandbox("web")
    served.sandbox("db")
    served.remove("web")
    assert (served.servers.released, [*served.servers.held]) == ([served.key("web")], [served.key("db")])
    served.run(served.call(lambda engine: engine.disconnect("lan", "db")))
    assert served.servers.held == {}


def test_an_attach_that_fails_gives_its_lease_back(served: World) -> None:
    """Here because the other network that was asked for refuses."""
    served.network("fixed", probe="fast")
    served.on_wire[FIRST] = PRINTER
    wishes = (("lan", EndpointRequest()), ("fixed", EndpointRequest(ipv4=str(FIRST))))
    with pytest.raises(AddressElsewhere):
        served.run(served.lan.create_sandbox(SandboxRequest("web", "lan", endpoints=wishes)))
    assert (served.servers.released, served.servers.held) == ([served.key()], {})


def test_two_who_attach_the_same_take_nothing_from_each_other(served: World) -> None:
    """One of them is refused, which must not cost the other its lease."""
    served.sandbox("web", "none")
    served.run(served.call(lambda engine: engine.disconnect("none", "web")))

    async def both() -> list[object]:
        connects = (served.lan.connect("lan", "web", EndpointRequest()) for _ in range(2))
        return list(await asyncio.gather(*connects, return_exceptions=True))

    assert {type(said) for said in served.run(both())} == {type(None), AlreadyConnected}
    assert served.servers.released == []
    assert served.endpoint().leases == (served.servers.held[served.key()],)


def test_who_comes_again_at_once_keeps_his_new_lease(served: World) -> None:
    """What is done about his leaving comes late, when he is half back already."""
    served.sandbox()

    async def again() -> None:
        await served.call(lambda engine: engine.remove_sandbox("web"))
        await served.making("web")

    served.run(again())
    assert served.servers.released == []
    assert served.endpoint().leases == (served.servers.held[served.key()],)


def test_leases_are_gone_on_with_by_the_next_run(served: World) -> None:
    """Nobody notices that the daemon was away."""
    web = served.sandbox()
    served.restart()
    assert served.servers.held == {served.key(): lease()}
    assert served.endpoint() == web


def test_who_has_no_lease_when_the_daemon_starts_gets_one(served: World) -> None:
    """The server was away, and is back since."""
    leases, served.servers.leases = served.servers.leases, []
    served.sandbox()
    served.servers.leases = leases
    served.restart()
    assert served.address() == "10.0.36.50"


def test_what_fails_unforeseen_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, so nobody else would tell; and it is tried again when something happens next."""
    world.network()
    world.failure = RuntimeError("the store is on fire")
    with caplog.at_level(logging.ERROR, "isthmus.lan"):
        world.does(world.lan.look)
    [told] = caplog.records
    assert (told.name, "the store is on fire" in str(told.exc_info)) == ("isthmus.lan", True)
    world.failure = None
    world.sandbox()
    assert [*world.guarded] == ["10.0.36.1"]
