"""Published ports with real packets: who reaches them, as whom, from where; what happens when they change."""

import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest

from tests.e2e.hosts import (
    HOST_ADDRESS,
    HOST_ADDRESS6,
    OUTSIDE,
    OUTSIDE6,
    Host,
    Machine,
    Place,
    World,
    elements,
    seen,
    until,
    wire,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

DOCS = Path(__file__).parents[2] / "docs/ports.md"
MODE4 = "com.docker.network.bridge.gateway_mode_ipv4"
MODE6 = "com.docker.network.bridge.gateway_mode_ipv6"
GATEWAYS = {4: "10.5.0.1", 6: "fd00:5::1"}
HOST_ADDRESSES = {4: HOST_ADDRESS, 6: HOST_ADDRESS6}
LOOPBACKS = {4: "127.0.0.1", 6: "::1"}

# The table.


def _table() -> list[list[str]]:
    """The cells of the table in the documentation, with its first row."""
    text = DOCS.read_text().partition("## Who reaches it")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)
    ]


HEAD, _, *ROWS = _table()
CELLS = [
    (row[0], column, version, protocol, cell)
    for row in ROWS
    for column, cell in zip(HEAD[1:], row[1:], strict=True)
    for version, protocol in product((4, 6), ("tcp", "udp"))
    if cell and column not in {"127.0.0.1", "::1"} - {LOOPBACKS[version]}
]


@dataclass(frozen=True, slots=True)
class Street:
    """A sandbox with published ports, and everybody who may ask."""

    askers: dict[str, Place]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    """One world for all questions: nobody changes it."""
    with World(tmp_path_factory.mktemp("street")) as world:
        host, outside = world.internet()
        host.start()
        for name, number, flags in (("front", 5, ""), ("other", 6, ""), ("inner", 7, "--internal")):
            host.network(name, f"{flags} --ipv6 --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64")
        web = host.sandbox("web", "--network front -p 8080:80 -p 8080:80/udp")
        world.serve(web)
        askers: dict[str, Place] = {"somebody outside": outside, "the host itself": host, "the sandbox itself": web}
        askers["a neighbour on its bridge"] = host.sandbox("neighbour", "--network front")
        askers["a sandbox on another network"] = host.sandbox("stranger", "--network other")
        inmate = askers["a sandbox on an internal network"] = host.sandbox("inmate", "--network inner")
        # Who is root inside makes himself a way out.
        inmate.batch("route add default via 10.7.0.1", "route add ::/0 via fd00:7::1")
        yield Street(askers)


def _own(asker: Place, version: int, address: str) -> str:
    """As whom *asker* goes out, if nobody translates him."""
    if isinstance(asker, Host):
        return address
    return asker.address("eth0", version)


@pytest.mark.parametrize(("who", "column", "version", "protocol", "cell"), CELLS)
def test_each_cell_of_the_table_is_true(  # noqa: PLR0917 - a cell
    street: Street, who: str, column: str, version: int, protocol: str, cell: str
) -> None:
    """The client's address is what servers log, limit and trust."""
    addresses = {"an address of the host": HOST_ADDRESSES, "the network's gateway address": GATEWAYS}
    address = addresses.get(column, LOOPBACKS)[version]
    asker = street.askers[who]
    if cell in {"own", "gateway"}:
        expected = _own(asker, version, address) if cell == "own" else GATEWAYS[version]
        assert seen(asker, address, protocol, port=8080) == expected
    elif cell == "refused" and protocol == "tcp":
        with asker.socket(socket.AF_INET6, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
            client.connect((address, 8080))
    else:
        assert cell in {"refused", "nothing"}
        assert seen(asker, address, protocol, patience=0.25, port=8080) is None


def test_the_table_has_a_row_for_everybody() -> None:
    """A table that nobody reads, or that lost a row, would be true in vain."""
    assert len(ROWS) == 6
    assert len(CELLS) == 6 * 2 * 4 + 4


# Isolation: published ports of every mode, seen by everybody.

MODES = {
    "nat": "",
    "icc=false": "-o com.docker.network.bridge.enable_icc=false",
    "nat-unprotected": f"-o {MODE4}=nat-unprotected -o {MODE6}=nat-unprotected",
    "routed": f"-o {MODE4}=routed -o {MODE6}=routed",
    "internal": "--internal",
    "isolated": f"--internal -o {MODE4}=isolated -o {MODE6}=isolated",
}
"""How a network of each mode is made; every one has IPv6 too."""

ASKERS = ("host", "outside", "other", "inmate", "same", "itself")
ALL_BUT_INMATES = frozenset(ASKERS) - {"inmate"}

AT_THE_HOST: dict[str, frozenset[str]] = {
    "nat": ALL_BUT_INMATES,
    "icc=false": ALL_BUT_INMATES,
    "nat-unprotected": ALL_BUT_INMATES,
    "routed": frozenset(),
    "internal": frozenset(),
    "isolated": frozenset(),
}
"""Who reaches a published port at the host's address, by the network's mode."""

AT_THE_SANDBOX: dict[str, frozenset[str]] = {
    "nat": frozenset({"host", "same", "itself"}),
    "icc=false": frozenset({"host", "itself"}),
    "nat-unprotected": ALL_BUT_INMATES,
    "routed": ALL_BUT_INMATES,
    "internal": frozenset({"host", "same", "itself"}),
    "isolated": frozenset({"same", "itself"}),
}
"""Who reaches it at the sandbox's own address and port."""


@dataclass(frozen=True, slots=True)
class City:
    """For each mode the sandbox that serves, the port of the host that leads to it, and who may ask."""

    targets: dict[str, Place]
    ports: dict[str, int]
    askers: dict[str, dict[str, Place]]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    """One world for all questions: nobody changes it."""
    with World(tmp_path_factory.mktemp("city")) as world:
        host, outside = world.internet()
        host.start()
        host.network("other", "--ipv6 --subnet 10.90.0.0/24 --subnet fd00:90::/64")
        host.network("inner", "--internal --ipv6 --subnet 10.91.0.0/24 --subnet fd00:91::/64")
        other, inmate = host.sandbox("other1", "--network other"), host.sandbox("inmate", "--network inner")
        inmate.batch("route add default via 10.91.0.1", "route add ::/0 via fd00:91::1")
        made = City({}, {}, {})
        for number, (mode, flags) in enumerate(MODES.items(), 1):
            port = made.ports[mode] = 8080 + number
            name = mode.replace("=", "-")
            host.network(name, f"{flags} --ipv6 --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64")
            target = host.sandbox(f"{name}1", f"--network {name} -p {port}:80 -p {port}:80/udp")
            world.serve(target)
            same = host.sandbox(f"{name}2", f"--network {name}")
            made.targets[mode] = target
            made.askers[mode] = dict(zip(ASKERS, (host, outside, other, inmate, same, target), strict=True))
        yield made


@pytest.mark.parametrize(("mode", "asker", "version", "protocol"), list(product(MODES, ASKERS, (4, 6), ("tcp", "udp"))))
def test_who_reaches_a_published_port(city: City, mode: str, asker: str, version: int, protocol: str) -> None:
    """A port opens its own way in, of its own mode, and no other."""
    who, own = city.askers[mode][asker], city.targets[mode].address("eth0", version)
    host, port = HOST_ADDRESSES[version], city.ports[mode]
    assert reached(who, host, protocol, port, expected=asker in AT_THE_HOST[mode])
    assert reached(who, own, protocol, 80, expected=asker in AT_THE_SANDBOX[mode])


def reached(place: Place, address: str, protocol: str, port: int, *, expected: bool) -> bool:
    """Whether it is as *expected* that somebody answers *place*."""
    try:
        answer = seen(place, address, protocol, 10 if expected else 0.25, port)
    except AssertionError:
        answer = None  # it was told at once that nobody listens there
    return (answer is not None) is expected


# Forms of publishing.


@dataclass(frozen=True, slots=True)
class Site:
    """A host with a network, and somebody outside."""

    world: World
    host: Host
    outside: Machine

    def serve(self, name: str, flags: str, port: int = 80) -> Place:
        """A sandbox on `front`, in which somebody answers."""
        place = self.host.sandbox(name, f"--network front {flags}")
        self.world.serve(place, port)
        return place


@pytest.fixture
def site(world: World) -> Site:
    """A host with a network of both families."""
    host, outside = world.internet()
    host.start()
    host.network("front", "--ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    return Site(world, host, outside)


def refused(place: Place, address: str, port: int) -> bool:
    """Whether *place* is told at once that nobody listens there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        try:
            client.connect((address, port))
        except ConnectionRefusedError:
            return True
    return False


def test_a_port_at_one_address_is_at_no_other(site: Site) -> None:
    """`-p 127.0.0.1:...` is how databases are kept from the world."""
    site.serve("web", "-p 127.0.0.1:8080:80 -p [2001:db8:113::2]:8081:80")
    assert seen(site.host, "127.0.0.1", port=8080) == "10.5.0.1"
    assert refused(site.outside, HOST_ADDRESS, 8080)
    assert refused(site.host, HOST_ADDRESS, 8080)
    assert seen(site.outside, HOST_ADDRESS6, port=8081) == "2001:db8:113::1"
    assert refused(site.outside, HOST_ADDRESS, 8081)


@pytest.mark.parametrize("mode", ["nat", "routed"])
@pytest.mark.parametrize(
    ("callers", "admitted"),
    [
        ("open", {"outside", "elsewhere"}),
        ("localhost", set()),
        ("from 203.0.113.1,2001:db8:113::/64", {"outside"}),
        ("from 192.0.2.0/24,2001:db8:2::2", {"elsewhere"}),
        ("on eth0", {"outside"}),
        ("on eth2,eth3", {"elsewhere"}),
    ],
)
def test_a_network_says_who_may_call(world: World, mode: str, callers: str, admitted: set[str]) -> None:
    """By address or by interface; the host always may, and a neighbour on the bridge needs no port of the host."""
    host, outside = world.internet()
    elsewhere = world.machine("elsewhere")
    wire(host, "eth2", elsewhere, "eth0")
    host.batch("address add 192.0.2.1/24 dev eth2", "address add 2001:db8:2::1/64 dev eth2 nodad")
    elsewhere.batch("address add 192.0.2.2/24 dev eth0", "address add 2001:db8:2::2/64 dev eth0 nodad")
    elsewhere.batch("route add default via 192.0.2.1", "route add ::/0 via 2001:db8:2::1")
    host.start()
    modes = f"-o {MODE4}={mode} -o {MODE6}={mode}"
    host.network("front", f"{modes} --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64 -o 'isthmus.publish={callers}'")
    web = host.sandbox("web", "--network front -p 8080:80 -p 8080:80/udp")
    neighbour = host.sandbox("neighbour", "--network front")
    world.serve(web)
    port = 8080 if mode == "nat" else 80
    for version, protocol in product((4, 6), ("tcp", "udp")):
        own = web.address("eth0", version)
        target = HOST_ADDRESSES[version] if mode == "nat" else own
        for name, who in (("outside", outside), ("elsewhere", elsewhere)):
            assert reached(who, target, protocol, port, expected=name in admitted)
        assert reached(host, target, protocol, port, expected=True)
        assert reached(neighbour, own, protocol, 80, expected=True)


def test_who_may_call_changes_while_sandboxes_run(site: Site) -> None:
    """Nobody is disconnected, a restart plans nothing, and without the option all may again."""
    site.serve("web", "-p 8080:80")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    site.host.isthmus("network update front --publish-from 192.0.2.0/24")
    assert reached(site.outside, HOST_ADDRESS, "tcp", 8080, expected=False)
    site.host.isthmus("network update front --publish-from 203.0.113.0/24 --publish-from 2001:db8::/32")
    assert seen(site.outside, HOST_ADDRESS6, port=8080) == "2001:db8:113::1"
    site.host.restart()
    assert site.host.planned_nothing
    site.host.run("nft delete table inet isthmus")
    until(lambda: "203.0.113.0/24" in site.host.rules(), "the table never came back")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    site.host.isthmus("network update front --publish-on eth7")
    assert site.host.isthmus("port web 80") == "0.0.0.0:8080 (on eth7)\n[::]:8080 (on eth7)"
    assert json.loads(site.host.isthmus("sandbox inspect web"))[0]["Ports"]["80/tcp"][0] == {
        "HostIp": "0.0.0.0",
        "HostPort": "8080",
        "Callers": "on eth7",
    }
    assert reached(site.outside, HOST_ADDRESS, "tcp", 8080, expected=False)
    site.host.isthmus("network update front --opt-rm isthmus.publish")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    assert not elements(site.host, "entrances")
    assert "isthmus.publish" in site.host.refused("network update front --publish-from 10.0.0.1/8")


def test_a_network_can_keep_its_ports_to_the_loopback_unless_told_otherwise(site: Site) -> None:
    """A safe default, with Docker's option: what is open to the world is so by a word."""
    option = "-o com.docker.network.bridge.host_binding_ipv4=127.0.0.1"
    site.host.network("safe", f"{option} --ipv6 --subnet 10.6.0.0/24 --subnet fd00:6::/64")
    web = site.host.sandbox("web", "--network safe -p 8080:80 -p 0.0.0.0:8081:80")
    site.world.serve(web)
    assert seen(site.host, "127.0.0.1", port=8080) == "10.6.0.1"
    assert refused(site.outside, HOST_ADDRESS, 8080)
    assert refused(site.outside, HOST_ADDRESS6, 8080)
    assert seen(site.outside, HOST_ADDRESS, port=8081) == OUTSIDE


def test_ranges_and_ports_that_we_choose(site: Site) -> None:
    """As `docker run -p`: each to its own, one of many, any, and all that is exposed."""
    site.serve("web", "-p 9000-9002:80-82 -p 9000-9009:80 -p 81 -P --expose 83/udp")
    lines = site.host.isthmus("port web").splitlines()
    places = {tuple(line.split(" -> ")) for line in lines if "0.0.0.0" in line}
    assert {("80/tcp", "0.0.0.0:9000"), ("81/tcp", "0.0.0.0:9001"), ("82/tcp", "0.0.0.0:9002")} <= places
    assert ("80/tcp", "0.0.0.0:9003") in places
    low, high = map(int, site.host.sysctl("net.ipv4.ip_local_port_range").split())
    chosen = [int(place.rpartition(":")[2]) for port, place in places if port in {"81/tcp", "83/udp"}]
    assert len([port for port in chosen if low <= port <= high]) == 2
    assert seen(site.outside, HOST_ADDRESS, port=9003) == OUTSIDE


def test_docker_clients_see_the_ports_as_docker_shows_them(site: Site) -> None:
    """Compose, Traefik and docker-py read these shapes."""
    site.serve("web", "-p 8080:80 --expose 90")
    client = site.host.api()
    shape = client.ask("GET", "/containers/web/json")
    both = [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    assert shape["NetworkSettings"]["Ports"] == {"80/tcp": both, "90/tcp": None}
    assert shape["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert shape["Config"]["ExposedPorts"] == {"80/tcp": {}, "90/tcp": {}}
    (summary,) = client.ask("GET", "/containers/json")
    assert {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"} in summary["Ports"]
    assert {"PrivatePort": 90, "Type": "tcp"} in summary["Ports"]


def test_ports_change_while_the_sandbox_runs(site: Site) -> None:
    """No other engine can; a port must come and go with its answer, and others must not notice."""
    site.serve("web", "-p 8080:80")
    assert "80/tcp -> 0.0.0.0:8081" in site.host.isthmus("publish web 8081:80")
    assert seen(site.outside, HOST_ADDRESS, port=8081) == OUTSIDE
    site.host.isthmus("unpublish web 8081:80")
    assert refused(site.outside, HOST_ADDRESS, 8081)
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    assert "no such port" in site.host.refused("unpublish web 8081:80")


@pytest.mark.parametrize("version", [4, 6])
def test_a_routed_network_opens_the_port_at_the_sandboxs_own_address(world: World, version: int) -> None:
    """Where nothing is translated, `-p` says what may come in, and only that."""
    host, outside = world.internet()
    host.start()
    flags = f"-o {MODE4}=routed -o {MODE6}=routed --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64"
    host.network("front", flags)
    web = host.sandbox("web", "--network front -p 8080:80")
    world.serve(web)
    world.serve(web, 81)
    address = web.address("eth0", version)
    assert seen(outside, address) == (OUTSIDE if version == 4 else "2001:db8:113::1")
    assert seen(outside, address, patience=0.25, port=81) is None
    assert refused(outside, HOST_ADDRESSES[version], 8080)


def test_the_documented_rules_restrict_who_reaches_a_port(site: Site) -> None:
    """The host's administrator has the last word, by a rule of his own that nothing of ours passes."""
    site.serve("web", "-p 8080:80 -p 8081:80")
    rules = [line.strip() for line in DOCS.read_text().splitlines() if line.strip().startswith("nft add rule")]
    assert len(rules) == 2
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    site.host.run(rules[0])
    assert seen(site.outside, HOST_ADDRESS, patience=0.25, port=8080) is None
    assert seen(site.outside, HOST_ADDRESS, port=8081) == OUTSIDE
    site.host.run(rules[1])
    assert seen(site.outside, HOST_ADDRESS, patience=0.25, port=8081) is None
    for port in (8080, 8081):
        assert seen(site.host, HOST_ADDRESS, port=port) == HOST_ADDRESS
    site.host.run("nft flush chain inet isthmus user-forward")
    site.host.run(rules[0].replace("192.0.2.0/24", OUTSIDE))
    site.host.run(rules[1].replace("eth1", "eth0"))
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE


# Taken.


def test_a_port_of_another_sandbox_is_refused_with_its_name(site: Site) -> None:
    """That it is allocated already sends its reader searching; by whom does not."""
    site.host.isthmus("sandbox create db --network front -p 8080:80")
    complaint = site.host.refused("sandbox create web --network front -p 127.0.0.1:8080:80")
    assert "Bind for 127.0.0.1:8080 failed: port is already allocated (by sandbox db)" in complaint
    assert "No such container" in site.host.refused("sandbox inspect web")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_of_a_process_is_refused_with_its_name(site: Site, kind: str) -> None:
    """The port of the host's own sshd must not be taken from it, and who has it must be found without tools."""
    what = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with site.host.socket(socket.AF_INET, what) as mine:
        mine.bind((HOST_ADDRESS, 8080))
        complaint = site.host.refused(f"sandbox create web --network front -p 8080:80/{kind}")
    name = Path("/proc/self/comm").read_text().strip()
    assert f"address already in use (by {name}, process {os.getpid()})" in complaint
    assert site.host.isthmus("sandbox ls -q") == ""
    site.host.isthmus(f"sandbox create web --network front -p 8080:80/{kind}")


def test_one_of_many_passes_over_what_processes_have(site: Site) -> None:
    """Who asks for any port wants one that works."""
    with site.host.socket(socket.AF_INET, socket.SOCK_STREAM) as mine:
        mine.bind(("127.0.0.1", 9000))
        site.host.isthmus("sandbox create web --network front -p 9000-9001:80")
    assert "0.0.0.0:9001" in site.host.isthmus("port web")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_no_process_gets_a_published_port(site: Site, kind: str) -> None:
    """It would listen where nothing arrives; when the port is free again, it is free at once."""
    site.host.isthmus(f"sandbox create web --network front -p 8080:80/{kind}")
    what = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with site.host.socket(socket.AF_INET, what) as mine:
        with pytest.raises(OSError, match="in use"):
            mine.bind(("127.0.0.1", 8080))
        site.host.isthmus("sandbox rm web")
        mine.bind(("127.0.0.1", 8080))


def test_an_address_that_the_host_lacks_is_refused(site: Site) -> None:
    """A typing mistake in the address would else publish nothing, silently."""
    assert "annot assign requested address" in site.host.refused(
        "sandbox create web --network front -p 192.0.2.99:8080:80"
    )


# Deaths, and changes elsewhere.


@pytest.mark.parametrize("port", [80, 81])
def test_ports_serve_while_the_daemon_is_dead_and_stand_after_its_return(site: Site, port: int) -> None:
    """A daemon's death is nobody's outage, and its return withdraws nothing."""
    site.serve("web", f"-p 8080:{port}", port)
    site.host.kill()
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    site.host.start()
    assert site.host.planned_nothing
    assert seen(site.outside, HOST_ADDRESS6, port=8080) == "2001:db8:113::1"
    assert "0.0.0.0:8080" in site.host.isthmus("port web")
    assert "already allocated" in site.host.refused("sandbox create two --network front -p 8080:80")


def test_who_took_a_port_while_the_daemon_was_away_is_named(site: Site) -> None:
    """It listens in vain, and its user must be able to find out why."""
    site.serve("web", "-p 8080:80")
    site.host.kill()
    with site.host.socket(socket.AF_INET, socket.SOCK_STREAM) as mine:
        mine.bind(("127.0.0.1", 8080))
        site.host.start()
        (shape,) = json.loads(site.host.isthmus("sandbox inspect web"))
        assert f"process {os.getpid()}" in " ".join(shape["Trouble"])
        assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE


def test_flushed_rules_come_back_with_their_ports(site: Site) -> None:
    """`nft flush ruleset` is a habit; an outage until the next restart is not its price."""
    site.serve("web", "-p 8080:80")
    site.host.run("nft flush ruleset")
    until(lambda: elements(site.host, "publish4"), "the port stays away")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE


def test_what_somebody_took_out_of_the_rules_goes_all_the_same(site: Site) -> None:
    """Ports are taken back without a look at what is there, and that they are gone already is no error."""
    site.serve("web", "-p 8080:80 -p 8081:80 -p 8082:80")
    site.host.run("nft delete element inet isthmus publish4 '{ tcp . 8080, tcp . 8081 }'")
    site.host.isthmus("unpublish web 8080:80")
    site.host.run("nft flush ruleset")
    site.host.isthmus("sandbox rm web")
    until(lambda: "isthmus" in site.host.run("nft list tables"), "the rules stay away")
    assert elements(site.host, "publish4") == []


def test_a_port_follows_the_default_route(site: Site) -> None:
    """Answers leave by the default route: published elsewhere, they would never come back."""
    web = site.serve("web", "-p 8080:80")
    site.host.network("back", "--subnet 10.6.0.0/24")
    site.host.isthmus("network connect --gw-priority 5 back web")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    (element,) = elements(site.host, "publish4")
    assert web.address("eth1") in json.dumps(element)
    site.host.isthmus("network disconnect back web")
    assert seen(site.outside, HOST_ADDRESS, port=8080) == OUTSIDE
    site.host.isthmus("network disconnect front web")
    assert elements(site.host, "publish4") == []


def test_a_flow_of_datagrams_moves_to_the_new_sandbox_at_once(site: Site) -> None:
    """Connection tracking keeps a flow that never pauses; DNS and telemetry went to dead containers for hours."""
    old, new = site.host.sandbox("old", "--network front -p 53:5353/udp"), site.host.sandbox("new", "--network front")
    with (
        old.socket(socket.AF_INET, socket.SOCK_DGRAM) as before,
        new.socket(socket.AF_INET, socket.SOCK_DGRAM) as after,
        site.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for server in (before, after):
            server.bind(("", 5353))
            server.settimeout(5)
        client.connect((HOST_ADDRESS, 53))
        client.send(b"one")
        assert before.recv(64) == b"one"
        site.host.isthmus("unpublish old 5353/udp")
        client.send(b"lost")
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # which is that nobody was there
        site.host.isthmus("publish new 53:5353/udp")
        client.send(b"two")
        assert after.recv(64) == b"two"
        before.settimeout(0)
        with pytest.raises(BlockingIOError):
            before.recv(64)


def test_connections_through_an_unpublished_port_are_forgotten(site: Site) -> None:
    """Both ways: the server's words do not reach the client any more, either."""
    web = site.host.sandbox("web", "--network front -p 8080:80")
    with (
        web.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        site.outside.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        server.bind(("", 80))
        server.listen()
        client.connect((HOST_ADDRESS, 8080))
        connection, _ = server.accept()
        site.host.isthmus("unpublish web 80")
        # It is done when nobody asks for anything.
        until(lambda: _cut(connection, client), "the connection goes on")
        connection.close()


def _cut(server: socket.socket, client: socket.socket) -> bool:
    client.settimeout(0.02)
    try:
        server.send(b"x")
        client.recv(64)
    except TimeoutError:
        return True
    except OSError:
        return True
    return False


# The loopback's guard.


def test_a_sandbox_does_not_reach_the_hosts_loopback(site: Site) -> None:
    """What listens on 127.0.0.1 trusts all who come; `route_localnet` must not let them in (CVE-2020-8558)."""
    web = site.serve("web", "-p 8080:80")
    site.world.serve(site.host, 90)
    web.batch("route add 127.0.0.9/32 via 10.5.0.1 table 9", "rule add to 127.0.0.9 table 9 pref 0")
    web.run("sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
    # Local delivery comes first by default: it has to come after the rule.
    web.batch("rule add pref 100 lookup local", "rule del pref 0 lookup local")
    assert seen(web, "127.0.0.9", patience=0.25, port=90) is None
    dropped = re.search(r"daddr 127.0.0.0/8 .* packets (\d+)", site.host.run("nft list chain inet isthmus guard"))
    assert dropped is not None
    assert int(dropped[1]) > 0


def test_nobody_speaks_for_the_hosts_loopback(site: Site) -> None:
    """Not to the host, not to others, and not in the middle of what the host has with a sandbox by a published port."""
    host, outside = site.host, site.outside
    web = host.sandbox("web", "--network front -p 5005:5005/udp")
    evil = host.sandbox("evil", "--network front")
    mac = json.loads(host.run(f"ip -j link show {host.bridge('front')}"))[0]["address"]
    kind = socket.AF_INET, socket.SOCK_DGRAM
    with (
        host.socket(*kind) as caller,
        web.socket(*kind) as server,
        host.socket(*kind) as local,
        outside.socket(*kind) as far,
        evil.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire_,
    ):
        server.bind(("0.0.0.0", 5005))
        local.bind(("0.0.0.0", 5006))
        far.bind(("0.0.0.0", 5006))
        caller.bind(("127.0.0.1", 0))
        caller.connect(("127.0.0.1", 5005))
        caller.send(b"first")
        server.settimeout(10)
        data, peer = server.recvfrom(64)
        server.sendto(b"answer", peer)
        assert (data, caller.recv(64)) == (b"first", b"answer")
        wire_.bind(("eth0", 0))
        number = caller.getsockname()[1]
        for source, target, ports in (
            ("127.0.0.1", "127.0.0.1", (number, 5005)),
            ("127.0.0.1", "127.0.0.1", (4000, 5005)),
            ("127.0.0.1", "127.0.0.1", (4000, 5006)),
            ("127.0.0.1", HOST_ADDRESS, (4000, 5006)),
            ("127.0.0.1", OUTSIDE, (4000, 5006)),
            (evil.address(), "127.0.0.1", (4000, 5005)),
            (evil.address(), "127.0.0.1", (4000, 5006)),
        ):
            wire_.send(_frame(mac, source, target, ports, b"forged"))
        # What is sent by right comes behind them, and alone.
        caller.send(b"second")
        assert server.recv(64) == b"second"
        for one, address in ((local, HOST_ADDRESS), (far, OUTSIDE)):
            wire_.send(_frame(mac, evil.address(), address, (4000, 5006), b"by right"))
            one.settimeout(10)
            assert one.recv(64) == b"by right"


def _frame(mac: str, source: str, target: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A datagram in IPv4 in Ethernet, from nobody's MAC (RFC 791, RFC 768; without a checksum for the data)."""
    udp = struct.pack(">HHHH", *ports, 8 + len(data), 0) + data
    addresses = ip_address(source).packed + ip_address(target).packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    total = sum(struct.unpack(">10H", header + addresses))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack(">H", ~total & 0xFFFF)
    return bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\0" + header + addresses + udp


def test_ports_hold_for_programs_of_the_host_with_any_loopback_address(site: Site) -> None:
    """127.0.0.2 is the loopback as well."""
    site.serve("web", "-p 8080:80")
    assert seen(site.host, "127.0.0.2", port=8080) == "10.5.0.1"


# Who may use one port.


@dataclass(frozen=True, slots=True)
class Crossing:
    """A host with two ways in, and somebody on each."""

    host: Host
    callers: dict[str, Place]

    def introduced(self, port: int, version: int, protocol: str, *names: str) -> None:
        """Have callers, all of them if no *names* are given, call for the first time."""
        for name in names or self.callers:
            assert seen(self.callers[name], HOST_ADDRESSES[version], protocol, port=port)

    def reached_by(self, port: int, version: int = 4, protocol: str = "tcp") -> set[str]:
        """Which callers, and the host itself, come through by this port of the host."""
        found = {name for name, who in self.callers.items() if seen(who, HOST_ADDRESSES[version], protocol, 0.25, port)}
        return found | {"host"} if seen(self.host, HOST_ADDRESSES[version], protocol, port=port) else found


@pytest.fixture
def crossing(world: World) -> Crossing:
    """With a daemon and the network `front`."""
    host, outside = world.internet()
    elsewhere = world.machine("elsewhere")
    wire(host, "eth2", elsewhere, "eth0")
    host.batch("address add 192.0.2.1/24 dev eth2", "address add 2001:db8:2::1/64 dev eth2 nodad")
    elsewhere.batch("address add 192.0.2.2/24 dev eth0", "address add 2001:db8:2::2/64 dev eth0 nodad")
    elsewhere.batch("route add default via 192.0.2.1", "route add ::/0 via 2001:db8:2::1")
    host.start()
    host.network("front", "--ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    return Crossing(host, {"outside": outside, "elsewhere": elsewhere})


BOTH = frozenset({"outside", "elsewhere"})
OWN = {
    8081: ("open", BOTH),
    8082: ("localhost", frozenset()),
    8083: ("from 192.0.2.0/24,2001:db8:2::/48", frozenset({"elsewhere"})),
    8084: ("on eth0", frozenset({"outside"})),
    8085: ("follow", BOTH),
}


@pytest.mark.parametrize("usual", ["open", "localhost", "on eth0", "follow"])
def test_a_port_has_a_policy_of_its_own_in_place_of_its_networks(world: World, crossing: Crossing, usual: str) -> None:
    """Whatever the network says; other places that lead to the same port are as they say themselves."""
    host = crossing.host
    host.isthmus(f"network update front -o 'isthmus.publish={usual}'")
    flags = " ".join(f"-p '{port}:80 {policy}' -p '{port}:80/udp {policy}'" for port, (policy, _) in OWN.items())
    world.serve(host.sandbox("web", f"--network front {flags}"))
    for port, (policy, admitted) in OWN.items():
        for version, protocol in ((4, "tcp"), (6, "udp")):
            if policy == "follow":
                crossing.introduced(port, version, protocol)
            assert crossing.reached_by(port, version, protocol) == {"host", *admitted}


def test_a_ports_own_policy_changes_while_the_sandbox_runs(world: World, crossing: Crossing) -> None:
    """By publishing it again; it is shown, it comes back with the table, and a restart has nothing to do."""
    host = crossing.host
    web = host.sandbox("web", "--network front -p 8080:80 -p '8081:80 on eth7'")
    world.serve(web)
    assert crossing.reached_by(8080) == {"outside", "elsewhere", "host"}
    assert host.isthmus("publish web '8080:80 from 192.0.2.0/24'").splitlines()[0] == (
        "80/tcp -> 0.0.0.0:8080 (from 192.0.2.0/24)"
    )
    assert crossing.reached_by(8080) == {"elsewhere", "host"}
    host.isthmus("publish web '8080:80 localhost'")
    assert crossing.reached_by(8080) == {"host"}
    assert crossing.reached_by(8080, 6) == {"host"}
    host.restart()
    assert host.planned_nothing
    assert json.loads(host.isthmus("sandbox inspect web"))[0]["Ports"]["80/tcp"][0]["Callers"] == "localhost"
    host.isthmus("publish web '8080:80 on eth0'")
    host.run("nft delete table inet isthmus")
    until(lambda: elements(host, "own-entrances6"), "the table never came back")
    assert crossing.reached_by(8080, 6) == {"outside", "host"}
    host.isthmus("publish web 8080:80")
    assert host.isthmus("port web 80").splitlines()[0] == "0.0.0.0:8080"
    assert crossing.reached_by(8080) == {"outside", "elsewhere", "host"}
    assert "already allocated" in host.refused("publish web 8080:80")
    assert "CIDR" in host.refused("publish web '8080:80 form 192.0.2.0/24'")
    host.isthmus("unpublish web 8081:80")
    assert not [one for name in ("own4", "own6", "own-entrances4", "own-entrances6") for one in elements(host, name)]


@pytest.mark.parametrize("mode", ["routed", "nat-unprotected"])
def test_where_no_place_on_the_host_is_called_no_port_has_a_policy(crossing: Crossing, mode: str) -> None:
    """It could not hold there; and where the mode becomes such a one, the port leads nowhere rather than to all."""
    host = crossing.host
    host.sandbox("web", "--network front -p '8080:80 from 192.0.2.0/24'")
    host.isthmus(f"network update front -o {MODE4}={mode}")
    assert host.isthmus("port web") == "80/tcp -> [::]:8080 (from 192.0.2.0/24)"
    assert not [*elements(host, "open4"), *elements(host, "publish4"), *elements(host, "own4")]
    assert mode in host.refused("publish web '8081:80 localhost'")
    assert mode in host.refused("network update front -o isthmus.publish=follow")


# Ports that follow the host's own rules.

INPUT = """
table inet mine {
  chain input {
    type filter hook input priority 10; policy drop;
    iifname lo accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
  }
}
"""


def test_a_port_that_follows_is_reached_by_whom_the_hosts_own_rules_let_in(world: World, crossing: Crossing) -> None:
    """A rule for `input`, as it would be for a process of the host, opens it, for the caller that it names."""
    host, outside = crossing.host, crossing.callers["outside"]
    rules = host.directory / "mine.nft"
    rules.write_text(INPUT)
    host.run(f"nft -f {rules}")
    world.serve(host.sandbox("web", "--network front -p '8080:80 follow' -p '8080:80/udp follow' -p 8081:80"))
    for version, protocol in product((4, 6), ("tcp", "udp")):
        assert crossing.reached_by(8080, version, protocol) == {"host"}
    assert seen(outside, HOST_ADDRESS, port=8081) == OUTSIDE
    host.run("nft add rule inet mine input iifname eth0 tcp dport 8080 ct state new accept")
    host.run("nft add rule inet mine input iifname eth0 udp dport 8080 accept")
    for version, protocol in product((4, 6), ("tcp", "udp")):
        crossing.introduced(8080, version, protocol, "outside")
        assert crossing.reached_by(8080, version, protocol) == {"host", "outside"}
    assert seen(outside, HOST_ADDRESS, port=8080) == OUTSIDE


def test_what_the_hosts_own_rules_refuse_is_refused_in_their_way(crossing: Crossing) -> None:
    """The packet meets them as if a process of the host were meant."""
    host = crossing.host
    host.sandbox("web", "--network front -p '8080:80 follow'")
    host.run("nft add table inet mine")
    host.run("nft add chain inet mine input { type filter hook input priority 0; }")
    host.run("nft add rule inet mine input tcp dport 8080 reject with tcp reset")
    assert refused(crossing.callers["outside"], HOST_ADDRESS, 8080)
    assert not elements(host, "admitted4")


def test_who_is_admitted_is_remembered_for_a_time_and_is_no_difference(world: World, crossing: Crossing) -> None:
    """The kernel fills the set, so the daemon neither mends it nor loses it."""
    host, outside = crossing.host, crossing.callers["outside"]
    world.serve(host.sandbox("web", "--network front -p '8080:80 follow'"))
    assert seen(outside, HOST_ADDRESS, port=8080) == OUTSIDE
    (known,) = elements(host, "admitted4")
    assert known["elem"]["val"]["concat"] == ["eth0", OUTSIDE, HOST_ADDRESS, "tcp", 8080]
    assert 0 < known["elem"]["expires"] <= 300
    host.restart()
    assert host.planned_nothing
    assert len(elements(host, "admitted4")) == 1


def test_the_chain_in_the_way_of_the_hosts_own_packets_is_there_only_if_a_port_follows(crossing: Crossing) -> None:
    """All that is for the host would pay for it."""
    host = crossing.host

    def asks() -> bool:
        there = "chain ask {" in host.rules()
        host.restart()
        assert host.planned_nothing
        return there

    host.sandbox("web", "--network front -p 8080:80")
    assert not asks()
    host.isthmus("publish web '8080:80 follow'")
    assert asks()
    host.isthmus("publish web 8080:80")
    assert not asks()
    host.sandbox("db", "--network front -p '8081:80 follow'")
    assert asks()
    host.isthmus("sandbox rm db")
    assert not asks()
    host.isthmus("network update front -o isthmus.publish=follow")
    assert asks()
    assert host.isthmus("port web 80").splitlines() == ["0.0.0.0:8080 (follow)", "[::]:8080 (follow)"]
    assert len(elements(host, "follow4")) == len(elements(host, "follow6")) == 1
    host.network("back", "--subnet 10.6.0.0/24")
    host.isthmus("network connect back web --gw-priority 1")
    assert not elements(host, "follow4")
    assert len(elements(host, "follow6")) == 1
    host.isthmus("network disconnect back web")
    assert len(elements(host, "follow4")) == 1
    host.isthmus("network update front --opt-rm isthmus.publish")
    assert not asks()
    assert not elements(host, "follow4")


@pytest.mark.parametrize("version", [4, 6])
def test_an_association_of_sctp_comes_in_by_its_port(world: World, version: int) -> None:
    """Its first chunk arrives at the port inside, whole, from who sent it; more takes a kernel with SCTP."""
    host, outside = world.internet()
    host.start()
    host.network("front", "--subnet 10.5.0.0/24 --ipv6 --subnet fd00:5::/64")
    web = host.sandbox("web", "--network front -p 5000:6000/sctp")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        web.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP) as inside,
        outside.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP) as caller,
    ):
        inside.settimeout(10)
        caller.sendto(_init(7000, 5000), (HOST_ADDRESSES[version], 0))
        arrived, (address, *_) = inside.recvfrom(2048)
    assert arrived[-32:] == _init(7000, 6000)
    assert address == (OUTSIDE if version == 4 else OUTSIDE6)


def _init(source: int, target: int) -> bytes:
    """A packet of SCTP that asks for an association (RFC 9260, section 3.3.2), with its checksum (appendix A)."""
    ports, chunk = struct.pack(">HHI", source, target, 0), struct.pack(">BBHIIHHI", 1, 0, 20, 0x1234, 65535, 1, 1, 1)
    remainder = 0xFFFFFFFF
    for octet in ports + bytes(4) + chunk:
        remainder ^= octet
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return ports + struct.pack("<I", remainder ^ 0xFFFFFFFF) + chunk
