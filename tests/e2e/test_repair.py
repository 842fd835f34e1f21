"""What others take away or change is put back while the daemon runs; what is theirs is left alone."""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.hosts import (
    HOST_ADDRESS,
    OUTSIDE,
    OUTSIDE6,
    Host,
    Machine,
    Place,
    World,
    elements,
    pings,
    seen,
    shut,
    until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

WORKS = "what was taken away is not put back"


class Village:
    """A host with a NAT network of both families and two sandboxes on it, and somebody outside who answers."""

    def __init__(self, host: Host, outside: Machine) -> None:
        self.host = host
        self.outside = outside
        host.start()
        # A device with a name that commands can be written with.
        self.network = "-o com.docker.network.bridge.name=front0 --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64 front"
        host.isthmus(f"network create {self.network}")
        self.web = host.sandbox("web", "--network front")
        self.db = host.sandbox("db", "--network front")
        self.ready()

    def ready(self) -> None:
        """Wait until everything works."""
        until(self.works, WORKS)

    def works(self) -> bool:
        """Whether web reaches its neighbour and the outside in both families, in the ways that it should."""
        return (
            pings(self.web, self.db.address(), 0.3)
            and seen(self.web, OUTSIDE, patience=0.3) == HOST_ADDRESS
            and seen(self.web, OUTSIDE6, patience=0.3) == "2001:db8:113::2"
        )

    def shape(self) -> tuple[object, ...]:
        """All of ours that can be broken: links, addresses, routes and rules."""
        host, web = self.host, self.web
        return (
            sorted(host.attempt("nft -s list table inet isthmus").stdout.split()),
            *(_address(host, "front0"), _address(web, "eth0")),
            sorted(web.routes() + web.routes(6)),
            sorted(route for route in host.routes() + host.routes(6) if "front0" in route),
            sorted((link["ifname"], link.get("master"), link["flags"]) for link in host.ip("link") if "master" in link),
        )

    def breaks(self, place: Place, command: str) -> None:
        """Do *command* in *place*, and wait until the daemon has put everything back and packets flow."""
        before = self.shape()
        place.run(command)
        until(lambda: self.shape() == before, f"{WORKS} after {command}")
        self.ready()


def _address(place: Place, name: str) -> list[object]:
    """The addresses that an interface has, with its MAC; none while it is gone or down."""
    return [
        (link["address"], link["mtu"], one["local"], one["prefixlen"])
        for link in place.ip("address")
        if link["ifname"] == name and "UP" in link["flags"]
        for one in link["addr_info"]
        if one["scope"] == "global"
    ]


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    """A host with something to break. It is shared: whatever is broken is whole again, or the test has failed."""
    with World(tmp_path_factory.mktemp("village")) as world:
        host, outside = world.internet()
        world.serve(outside)
        yield Village(host, outside)


@pytest.fixture
def own(world: World) -> Village:
    """As `village`, for a test that leaves something behind."""
    host, outside = world.internet()
    world.serve(outside)
    return Village(host, outside)


@pytest.mark.parametrize(
    "command",
    [
        "ip link del {port}",
        "ip link set {port} down",
        "ip link set {port} nomaster",
        "ip link del front0",
        "ip link set front0 down",
        "ip address del 10.5.0.1/24 dev front0",
        "ip address flush dev front0",
        "ip -6 address del fd00:5::1/64 dev front0",
        "nft flush ruleset",
        "nft delete table inet isthmus",
        "nft flush chain inet isthmus forward",
        "nft flush chain inet isthmus postrouting",
        "nft delete chain inet isthmus postrouting",
        "nft flush set inet isthmus masquerade4",
        "nft flush map inet isthmus enter4",
        'nft delete element inet isthmus masquerade4 {{ "front0" }}',
        'nft delete element inet isthmus enter4 {{ "front0" }}',
    ],
)
def test_what_the_host_loses_is_put_back(village: Village, command: str) -> None:
    """The demand: notices it and puts it back, so that traffic flows again in both families."""
    village.breaks(village.host, command.format(port=village.host.port(village.web)))
    assert village.host.addresses("front0") == ["10.5.0.1/24"]
    assert village.host.addresses("front0", 6) == ["fd00:5::1/64"]
    assert [one for one in elements(village.host, "enter4") if one[0] == "front0"]


@pytest.mark.parametrize(
    "command",
    [
        "ip link del eth0",
        "ip link set eth0 down",
        "ip address del 10.5.0.2/24 dev eth0",
        "ip address flush dev eth0",
        "ip -6 address del fd00:5::2/64 dev eth0",
        "ip route del default",
        "ip -6 route del default",
        "ip -6 route flush proto 105",
    ],
)
def test_what_a_sandbox_loses_is_put_back(village: Village, command: str) -> None:
    """Inside, too, somebody may slip: the sandbox has what its records say."""
    village.breaks(village.web, command)
    assert village.web.addresses("eth0") == ["10.5.0.2/24"]
    assert village.web.addresses("eth0", 6) == ["fd00:5::2/64"]


def test_all_routes_of_a_sandbox_are_put_back(own: Village) -> None:
    """A subnet's own route came with an address and bears no mark, but without it ours cannot be put back."""
    own.web.batch("route flush table main")
    own.ready()


@pytest.mark.parametrize(
    "commands",
    [
        ("route flush table main",),
        ("link del eth0", "link add eth0 type bridge"),
        ("link set eth0 down", "link set eth0 name mine0"),
    ],
)
def test_nobody_inside_a_sandbox_keeps_the_daemon_from_its_work(own: Village, commands: tuple[str, ...]) -> None:
    """Root inside can break his own sandbox, even for good; the daemon serves everybody else all the same."""
    own.host.stop()
    own.web.batch(*commands)
    own.host.start()
    own.host.isthmus("sandbox create late --network front")
    late = own.host.sandbox("late")
    assert seen(late, OUTSIDE) == HOST_ADDRESS
    own.host.run("nft flush ruleset")
    until(lambda: seen(late, OUTSIDE, patience=0.3) == HOST_ADDRESS, WORKS)
    own.host.isthmus("sandbox rm web")
    assert own.host.isthmus("sandbox ls -q --filter name=web") == ""


def test_a_network_that_is_shut_stays_shut_while_its_rules_are_put_back(world: World) -> None:
    """After somebody's flush the isolation is there again, not only what lets through."""
    host, outside = world.internet()
    host.start()
    host.network("front", "--subnet 10.5.0.0/24")
    web = host.sandbox("web", "--network front")
    world.serve(web)
    assert shut(outside, "10.5.0.2")
    host.run("nft flush ruleset")
    until(lambda: elements(host, "enter4"), WORKS)
    assert shut(outside, "10.5.0.2")


def test_a_namespace_that_is_taken_away_is_made_again(own: Village) -> None:
    """`ip netns delete` takes the name and the mount; the sandbox is a record, and gets a namespace again."""
    village = own
    village.host.run("ip netns delete web")
    until((village.host.root / "run/netns/web").is_symlink, WORKS)
    village.web = village.host.sandbox("web")
    village.ready()


def test_a_link_by_hand_is_put_back(box: Host) -> None:
    """What `link add` made is remembered like everything else."""
    bare = box.sandbox("bare", "--network none")
    box.isthmus(
        "link add bare --type veth --ip 10.9.0.2/24 --route default,10.9.0.1 --peer wire0 --peer-ip 10.9.0.1/24"
    )
    for place, command in (
        (box, "link del wire0"),
        (box, "address flush dev wire0"),
        (bare, "route del default"),
        (bare, "link set eth0 down"),
    ):
        place.batch(command)
        until(lambda: pings(bare, HOST_ADDRESS, 0.3), WORKS)


def test_the_default_network_is_put_back(world: World) -> None:
    """isthmus0 is a network like any other here."""
    host, outside = world.internet()
    world.serve(outside)
    host.start()
    web = host.sandbox("web", "")
    host.batch("link del isthmus0")
    until(lambda: seen(web, OUTSIDE, patience=0.3) == HOST_ADDRESS, WORKS)


def test_many_things_at_once_are_put_back(own: Village) -> None:
    """A careless script takes more than one thing away; news that overtake each other are no excuse."""
    village = own
    places = [village.host.sandbox(f"s{number}", "--network front") for number in range(8)]
    for place in places:
        place.batch("link del eth0")
    village.host.run("nft flush ruleset")
    village.host.batch("link del front0", "link del isthmus0")
    for place in (*places, village.web):
        until(lambda place=place: seen(place, OUTSIDE, patience=0.3) == HOST_ADDRESS, WORKS)  # type: ignore[misc]
    village.ready()


def test_an_uplink_is_put_back_on_its_bridge(world: World) -> None:
    """Who takes the NIC off the bridge cuts the LAN's sandboxes off."""
    host = world.host()
    world.lan(host)
    host.sysctl("net.ipv6.conf.eth1.disable_ipv6", "1")
    host.start()
    host.network("lan", "-o isthmus.uplink=eth1 --subnet 192.168.1.0/24")
    lab = host.sandbox("lab", "--network lan --ip 192.168.1.50")
    assert pings(lab, "192.168.1.1")
    host.batch("link set eth1 nomaster")
    until(lambda: pings(lab, "192.168.1.1", 0.3), WORKS)


def test_what_has_no_mark_of_ours_is_left_alone(own: Village) -> None:
    """A link, an address, a route and a rule of somebody else's are not ours to mend or to remove."""
    village, host, web = own, own.host, own.web
    host.batch("link add other0 type bridge", "link set other0 up", "address add 10.99.0.1/24 dev other0")
    host.batch("route add 10.98.0.0/24 via 10.99.0.9", "address add 10.5.0.77/24 dev front0")
    host.run("nft add table ip theirs")
    web.batch("address add 10.5.0.200/24 dev eth0", "route add 10.97.0.0/24 via 10.5.0.1", "link add br9 type bridge")
    host.batch("link del front0")
    village.ready()
    host.restart()
    assert "10.98.0.0/24 via 10.99.0.9 dev other0" in host.routes()
    assert host.addresses("other0") == ["10.99.0.1/24"]
    assert host.run("nft list tables").splitlines().count("table ip theirs") == 1
    assert "br9" in web.interfaces()
    host.batch("link del other0")
    web.batch("link del br9")
    assert {"front0", "isthmus0"} <= host.interfaces()


def test_the_users_chain_survives_all_that_we_do(village: Village) -> None:
    """user-forward is documented to survive reloads and restarts; its rules hold all the while."""
    host = village.host
    host.run("nft add rule inet isthmus user-forward udp dport 80 drop")
    assert shut(village.web, OUTSIDE, "udp")
    for trouble in ("nft flush chain inet isthmus forward", "nft flush set inet isthmus masquerade4"):
        village.breaks(host, trouble)
        assert shut(village.web, OUTSIDE, "udp")
    host.restart()
    host.network("more")
    assert shut(village.web, OUTSIDE, "udp")
    host.run("nft flush chain inet isthmus user-forward")
    assert seen(village.web, OUTSIDE, "udp") == HOST_ADDRESS


def test_the_users_chain_can_be_there_before_us(world: World) -> None:
    """A firewall's own file may make the table, as the documentation shows."""
    host, outside = world.internet()
    world.serve(outside)
    host.run("nft add table inet isthmus")
    host.run("nft add chain inet isthmus user-forward")
    host.run("nft add rule inet isthmus user-forward tcp dport 80 drop")
    host.start()
    web = host.sandbox("web", "")
    assert shut(web, OUTSIDE)
    assert seen(web, OUTSIDE, "udp") == HOST_ADDRESS


def test_repair_does_not_go_round_in_circles(village: Village) -> None:
    """Somebody insists: the daemon goes on putting it back, and is quiet as soon as he is."""
    host = village.host
    for _ in range(20):
        host.batch("link set front0 down")
    village.ready()

    def come_and_go(name: str) -> None:
        """Make a network and remove it; the log is written by a thread of its own, so wait until it says so."""
        host.network(name)
        village.ready()
        host.isthmus(f"network rm {name}")
        until(lambda: f"/networks/{name} " in host.log, "the log does not tell of the removal")

    come_and_go("one")
    before = len(host.log)
    come_and_go("another")
    assert [line for line in host.log[before:].splitlines() if " info " not in line] == []


def test_what_was_found_and_what_is_new_are_watched_alike(village: Village) -> None:
    """After a restart the daemon knows of sandboxes that it found, and of one made since."""
    village.host.restart()
    late = village.host.sandbox("late", "--network front")
    for place in (late, village.web):
        place.batch("route del default")
        until(lambda place=place: pings(place, OUTSIDE, 0.3), WORKS)  # type: ignore[misc]
