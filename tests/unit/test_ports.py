"""Ports: how they are read, which clash, which are chosen, and what becomes of them with the engine."""

from ipaddress import ip_address

import pytest
from msgspec.structs import replace

from isthmus import ports
from isthmus.errors import InvalidRequest, NotFound, PortTaken, Refused
from isthmus.model import HOST, Binding, IPAddress, Place
from isthmus.ports import Wish
from isthmus.requests import EndpointRequest, SandboxRequest
from isthmus.resources import Element
from isthmus.store import records
from tests.unit.test_engine import World

MODE = "com.docker.network.bridge.gateway_mode_ipv4"


@pytest.mark.parametrize(("text", "read"), [("80/tcp", (80, "tcp")), ("53/UDP", (53, "udp")), ("9", (9, "tcp"))])
def test_a_port_is_read_as_docker_writes_it(text: str, read: tuple[int, str]) -> None:
    """Clients send it in all three forms."""
    assert ports.parse_port(text) == read


@pytest.mark.parametrize("text", ["", "0/tcp", "65536/tcp", "80/icmp", "-1", "8o", "٣", "80/tcp/udp"])
def test_what_is_no_port_is_refused(text: str) -> None:
    """It would become a rule for something else, or none."""
    with pytest.raises(InvalidRequest):
        ports.parse_port(text)


def test_ports_of_the_host_are_one_many_or_left_to_us() -> None:
    """Docker's HostPort is text of three kinds."""
    assert ports.parse_hosts("8080") == range(8080, 8081)
    assert ports.parse_hosts("9000-9002") == range(9000, 9003)
    assert not ports.parse_hosts("")
    assert not ports.parse_hosts("0")


@pytest.mark.parametrize("text", ["9002-9000", "70000", "1-70000", "a", "1-2-3", "-5", "0-5"])
def test_impossible_ports_of_the_host_are_refused(text: str) -> None:
    """Nothing may be half done."""
    with pytest.raises(InvalidRequest):
        ports.parse_hosts(text)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("", "10.0.0.1", True),
        ("", "::1", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "0.0.0.0", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "10.0.0.1", True),
    ],
)
def test_places_clash_where_their_addresses_meet(one: str, other: str, *, meet: bool) -> None:
    """As bind(2) has it: one address is within all of its IP version, and all within any."""
    first, second = (ports.parse_address(text) for text in (one, other))
    assert ports.overlap(first, second) is ports.overlap(second, first) is meet


@pytest.fixture
def world() -> World:
    """A host with a network."""
    made = World()
    made.network("front", "10.5.0.0/24", "10.5.0.1")
    return made


def wish(port: int, host: int = 0, last: int = 0, address: IPAddress | None = None) -> Wish:
    """A wish for TCP."""
    return Wish(port, "tcp", address, range(host, (last or host) + 1) if host else range(0), str(host or ""))


def published(world: World) -> dict[tuple[str, ...], str]:
    """Which places lead where, by the kernel."""
    return {one.match: one.value for one in world.seen(Element) if isinstance(one, Element) and one.set == "publish4"}


def own(world: World) -> set[tuple[str, ...]]:
    """The places that have callers of their own, by the kernel."""
    return {one.match for one in world.seen(Element) if isinstance(one, Element) and one.set == "own4"}


def create(world: World, name: str, *wishes: Wish, mode: str = "front") -> None:
    """Make a sandbox with ports."""
    world.engine.create_sandbox(SandboxRequest(name, mode=mode, ports=wishes))


def places(world: World, name: str) -> list[int]:
    """The ports of the host that are published for a sandbox."""
    return [view.binding.place.port for view in world.engine.sandbox(name).ports]


def test_a_port_is_one_element_and_goes_with_its_sandbox(world: World) -> None:
    """Nothing of it may be left, or it would lead to whoever gets the address."""
    create(world, "web", wish(80, 8080))
    assert published(world) == {("6", "8080"): "10.5.0.2 . 80"}
    world.engine.remove_sandbox("web")
    assert published(world) == {}
    world.engine.write_behind()
    assert not [key for key in world.store.read().items if key.startswith("port/")]
    world.kernel.bind(Place("tcp", 8080))


def test_the_pickiest_wish_is_served_first(world: World) -> None:
    """`-p 81 -p 9000-9001:80 -p 9000:80` can be had, in whatever order it is said."""
    world.engine.create_sandbox(
        SandboxRequest("web", mode="front", ports=(wish(81), wish(80, 9000, 9001), wish(80, 9000)))
    )
    assert places(world, "web") == [9000, 9001, 49153]


def test_a_port_of_another_is_refused_and_leaves_no_trace(world: World) -> None:
    """Docker's words, and who it is."""
    create(world, "db", wish(80, 8080))
    before = str(world.kernel)
    with pytest.raises(PortTaken, match=r"Bind for 0.0.0.0:8080 failed: port is already allocated \(by sandbox db\)"):
        create(world, "web", wish(80, 8081), wish(80, 8080))
    assert str(world.kernel) == before
    world.kernel.bind(Place("tcp", 8081))


def test_the_same_port_twice_in_one_request_is_refused(world: World) -> None:
    """Which of the two it led to would be chance."""
    with pytest.raises(PortTaken, match="by sandbox web"):
        create(world, "web", wish(80, 8080), wish(81, 8080))


def test_a_port_that_is_published_again_has_other_callers(world: World) -> None:
    """It is the same place, kept all the time; what is not said anew is as it was."""
    create(world, "web", wish(80, 8080), wish(80, 8081))
    (view,) = world.engine.publish("web", [replace(wish(80, 8080), callers="localhost")])
    assert view.callers == {4: "localhost"}
    assert places(world, "web") == [8080, 8081]
    assert own(world) == {("0.0.0.0/0", "6", "8080")}
    with pytest.raises(OSError, match="in use"):
        world.kernel.bind(Place("tcp", 8080))
    with pytest.raises(PortTaken, match="by sandbox web"):
        world.engine.publish("web", [replace(wish(80, 8080), callers="localhost")])
    with pytest.raises(PortTaken, match="by sandbox web"):
        world.engine.publish("web", [replace(wish(80, 8081), callers=text) for text in ("follow", "on eth0")])
    with pytest.raises(PortTaken, match="by sandbox web"):
        world.engine.publish("web", [replace(wish(81, 8081), callers="localhost")])
    world.engine.publish("web", [wish(80, 8080)])
    assert own(world) == set()


def test_one_refused_port_leaves_those_that_were_to_change(world: World) -> None:
    """All or nothing; and no place is given up that was held before."""
    create(world, "web", wish(80, 8080))
    world.kernel.bind(Place("tcp", 22), "sshd, process 7")
    with pytest.raises(PortTaken, match="sshd"):
        world.engine.publish("web", [replace(wish(80, 8080), callers="localhost"), wish(22, 22)])
    assert own(world) == set()
    with pytest.raises(OSError, match="in use"):
        world.kernel.bind(Place("tcp", 8080))


def test_a_record_from_before_ports_had_callers_is_read() -> None:
    """Its port has those of its network."""
    data = b'{"format":1,"record":{"sandbox":"a","port":80,"place":{"protocol":"tcp","port":8080,"address":null}}}'
    assert records.decode("port/a/tcp/8080/*", data) == Binding("a", 80, Place("tcp", 8080))


def test_a_port_of_a_process_is_refused_with_its_name(world: World) -> None:
    """It was there first."""
    world.kernel.bind(Place("tcp", 22, ip_address("0.0.0.0")), "sshd, process 7")
    with pytest.raises(PortTaken, match=r"address already in use \(by sshd, process 7\)"):
        create(world, "web", wish(22, 22))
    create(world, "web", wish(22, 22, 23))
    assert places(world, "web") == [23]


def test_a_range_without_a_free_port_is_refused(world: World) -> None:
    """It ends, rather than trying for ever."""
    create(world, "one", wish(80, 9000))
    world.kernel.bind(Place("tcp", 9001))
    with pytest.raises(PortTaken, match=r"0\.0\.0\.0:9000-9001 failed: all ports are allocated"):
        create(world, "two", wish(80, 9000, 9001))


def test_ports_come_and_go_while_the_sandbox_stays(world: World) -> None:
    """Each change is about its own element only."""
    create(world, "web", wish(80, 8080))
    world.engine.publish("web", (wish(81, 8081),))
    assert set(published(world)) == {("6", "8080"), ("6", "8081")}
    world.engine.unpublish("web", (Wish(80, "tcp"),))
    assert set(published(world)) == {("6", "8081")}
    with pytest.raises(NotFound, match="no such port is published for web"):
        world.engine.unpublish("web", (Wish(80, "tcp"),))


@pytest.mark.parametrize(
    ("named", "gone"),
    [
        (Wish(80, "tcp"), {8080, 8081, 8082}),
        (Wish(80, "tcp", hosts=range(8081, 8082)), {8081}),
        (Wish(80, "tcp", hosts=range(8081, 9000)), {8081, 8082}),
        (Wish(80, "tcp", ip_address("127.0.0.1")), {8082}),
        (Wish(80, "tcp", ip_address("127.0.0.1"), range(8082, 8083)), {8082}),
    ],
)
def test_what_is_said_of_a_port_names_those_that_are_published_no_more(
    world: World, named: Wish, gone: set[int]
) -> None:
    """By the sandbox's port alone, or by the host's port and address, too; another's ports are left alone."""
    create(world, "other", Wish(80, "tcp", ip_address("127.0.0.1"), range(8081, 8082)))
    local = Wish(80, "tcp", ip_address("127.0.0.1"), range(8082, 8083))
    several = (wish(80, 8080), Wish(80, "tcp", ip_address("127.0.0.2"), range(8081, 8082)), local, wish(81, 8083))
    create(world, "web", *several)
    world.engine.unpublish("web", (named, named))
    assert set(places(world, "web")) == {8080, 8081, 8082, 8083} - gone
    assert places(world, "other") == [8081]
    for port, protocol, hosts in ((80, "udp", range(0)), (81, "tcp", range(8080, 8081)), (82, "tcp", range(0))):
        with pytest.raises(NotFound, match="no such port"):
            world.engine.unpublish("web", (Wish(port, protocol, hosts=hosts),))


def test_a_port_that_the_kernel_refuses_is_free_again(world: World) -> None:
    """A failed publication that kept its port would be a leak until the next start."""
    create(world, "web")
    world.kernel.forbid(("element", "publish4", "6", "8080"), 12)
    with pytest.raises(Refused):
        world.engine.publish("web", (wish(79, 8079), wish(80, 8080)))
    world.kernel.permit()
    assert published(world) == {}
    world.engine.publish("web", (wish(80, 8080),))
    assert set(published(world)) == {("6", "8080")}


def test_a_policy_that_the_kernel_refuses_leaves_the_port_as_it_was(world: World) -> None:
    """A port that nobody can reach any more would be worse than one that did not change."""
    create(world, "web", replace(wish(80, 8080), callers="on eth0"))
    before = str(world.kernel)
    world.kernel.forbid(("element", "own-callers4", "0.0.0.0/0", "6", "8080", "192.0.2.0/24"), 12)
    with pytest.raises(Refused):
        world.engine.publish("web", [replace(wish(80, 8080), callers="from 192.0.2.0/24"), wish(81, 8081)])
    assert str(world.kernel) == before
    assert world.engine.sandbox("web").ports[0].callers == {4: "on eth0"}
    world.restart()
    assert str(world.kernel) == before
    assert places(world, "web") == [8080]


def test_a_restart_keeps_ports_and_plans_nothing_for_them(world: World) -> None:
    """The elements were never away, and the places are kept again."""
    create(world, "web", wish(80, 8080))
    before = str(world.kernel)
    world.restart()
    assert str(world.kernel) == before
    with pytest.raises(OSError, match="in use"):
        world.kernel.bind(Place("tcp", 8080))
    with pytest.raises(PortTaken):
        create(world, "db", wish(80, 8080))


def test_a_process_that_came_while_the_daemon_was_away_is_named(world: World) -> None:
    """The port goes on; who listens in vain is to be found."""
    create(world, "web", wish(80, 8080))
    world.kernel.release([Place("tcp", 8080)])
    world.kernel.bind(Place("tcp", 8080), "nginx, process 9")
    world.restart()
    [trouble] = world.engine.sandbox("web").trouble
    assert "0.0.0.0:8080/tcp" in trouble
    assert "nginx, process 9" in trouble
    assert set(published(world)) == {("6", "8080")}


def test_ports_follow_the_default_route_and_rest_where_nobody_serves(world: World) -> None:
    """They stay the sandbox's, wherever that goes."""
    create(world, "web", wish(80, 8080))
    world.network("back", "10.6.0.0/24", "10.6.0.1")
    world.engine.connect("back", "web", EndpointRequest(gateway_priority=1))
    assert published(world) == {("6", "8080"): "10.6.0.2 . 80"}
    world.engine.disconnect("back", "web")
    assert published(world) == {("6", "8080"): "10.5.0.2 . 80"}
    world.engine.disconnect("front", "web")
    assert published(world) == {}
    with pytest.raises(PortTaken):
        create(world, "db", wish(80, 8080))


def test_a_routed_network_opens_the_port_and_translates_nothing(world: World) -> None:
    """There the sandbox's own address is what others use."""
    world.network("routed", "10.7.0.0/24", "10.7.0.1", options=((MODE, "routed"),))
    create(world, "web", wish(80, 8080), mode="routed")
    opened = [one.match for one in world.seen(Element) if isinstance(one, Element) and one.set == "open4"]
    assert opened == [("10.7.0.2", "6", "80")]
    assert published(world) == {}
    world.engine.remove_sandbox("web")
    assert not [one for one in world.seen(Element) if isinstance(one, Element) and one.set == "open4"]


def test_an_internal_network_publishes_nothing_and_says_so(world: World) -> None:
    """A port that silently leads nowhere costs its user an evening."""
    world.network("inner", "10.8.0.0/24", internal=True)
    made = world.engine.create_sandbox(SandboxRequest("web", mode="inner", ports=(wish(80, 8080),)))
    assert "no port of web is published" in made.warning
    assert published(world) == {}


def test_the_hosts_own_namespace_and_a_guest_have_nothing_to_publish(world: World) -> None:
    """What listens on the host is there already; a guest's ports are its owner's."""
    create(world, "mon", mode="host")
    create(world, "web")
    create(world, "side", mode="container:web")
    for name in ("mon", "side"):
        with pytest.raises(InvalidRequest):
            world.engine.publish(name, (wish(80, 8080),))
    assert world.engine.sandbox("mon").sandbox.netns == HOST


def test_nat_shows_published_ports_with_their_connections(world: World) -> None:
    """`isthmus nat` is where people look whether anything arrives."""
    create(world, "web", wish(80, 8080))
    world.kernel.count("publish4", ("6", "8080"), 3, 180)
    [rule] = [one for one in world.engine.nat() if one.target == "DNAT"]
    assert (rule.chain, rule.packets, rule.extra) == ("PREROUTING", 3, "tcp dpt:8080 to:10.5.0.2:80")


def test_a_rehearsal_takes_no_port(world: World) -> None:
    """`--dry-run` shows the element, and does nothing."""
    create(world, "web")
    lines = world.engine.rehearse(lambda engine: engine.publish("web", (wish(80, 8080),)))
    assert any("publish4" in line for line in lines)
    world.kernel.bind(Place("tcp", 8080))
