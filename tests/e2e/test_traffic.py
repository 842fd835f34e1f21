"""Who reaches whom, with real packets: bridge in all its gateway modes, bridged, host, none, container:."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.e2e.hosts import (
    FAR,
    HOST_ADDRESS,
    HOST_ADDRESS6,
    NEIGHBOUR,
    OUTSIDE,
    OUTSIDE6,
    ROUTER,
    Flow,
    Host,
    Machine,
    Place,
    World,
    elements,
    pings,
    program,
    reaches,
    seen,
    shut,
    until,
    wire,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

MODE4 = "com.docker.network.bridge.gateway_mode_ipv4"
MODE6 = "com.docker.network.bridge.gateway_mode_ipv6"
ICC = "com.docker.network.bridge.enable_icc"
PROTOCOLS = ("icmp", "tcp", "udp")

# Isolation: every mode, seen by everybody.

FLAGS = {
    "nat": "",
    "nat-unprotected": f"-o {MODE4}=nat-unprotected -o {MODE6}=nat-unprotected",
    "routed": f"-o {MODE4}=routed -o {MODE6}=routed",
    "internal": "--internal",
    "isolated": f"--internal -o {MODE4}=isolated -o {MODE6}=isolated",
}
"""How a network of each mode is made; every one has IPv6 too."""

GETS_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "nat": {"same": PROTOCOLS, "host": PROTOCOLS, "other": (), "outside": ()},
    "nat-unprotected": {"same": PROTOCOLS, "host": PROTOCOLS, "other": PROTOCOLS, "outside": PROTOCOLS},
    "routed": {"same": PROTOCOLS, "host": PROTOCOLS, "other": ("icmp",), "outside": ("icmp",)},
    "internal": {"same": PROTOCOLS, "host": PROTOCOLS, "other": (), "outside": ()},
    "isolated": {"same": PROTOCOLS, "host": (), "other": (), "outside": ()},
}
"""What of whom a sandbox without published ports answers to, by its network's mode: Docker's rules."""

GETS_OUT: dict[str, tuple[str, str] | None] = {
    "nat": (HOST_ADDRESS, HOST_ADDRESS6),
    "nat-unprotected": (HOST_ADDRESS, HOST_ADDRESS6),
    "routed": ("", ""),
    "internal": None,
    "isolated": None,
}
"""As what the outside sees a sandbox, by its network's mode: "" for the sandbox's own address, None for not at all."""


@dataclass(frozen=True, slots=True)
class Quarter:
    """A host with a network of each mode, where somebody answers, and everybody who may ask."""

    outside: Machine
    targets: dict[str, Place]
    askers: dict[str, dict[str, Place]]


@pytest.fixture(scope="module")
def quarter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quarter]:
    """One world for all questions: nobody changes it."""
    with World(tmp_path_factory.mktemp("quarter")) as world:
        host, outside = world.internet()
        host.start()
        world.serve(outside)
        host.network("other", "--ipv6 --subnet 10.90.0.0/24 --subnet fd00:90::/64")
        other = host.sandbox("other1", "--network other")
        targets, askers = {}, {}
        for number, (mode, flags) in enumerate(FLAGS.items(), 1):
            host.network(mode, f"{flags} --ipv6 --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64")
            target = host.sandbox(f"{mode}-target", f"--network {mode}")
            same = host.sandbox(f"{mode}-same", f"--network {mode}")
            world.serve(target)
            targets[mode] = target
            askers[mode] = {"same": same, "host": host, "other": other, "outside": outside}
        yield Quarter(outside, targets, askers)


@pytest.mark.parametrize(
    ("mode", "asker", "version", "protocol"),
    list(product(FLAGS, ("same", "host", "other", "outside"), (4, 6), PROTOCOLS)),
)
def test_who_gets_into_a_network(quarter: Quarter, mode: str, asker: str, version: int, protocol: str) -> None:
    """Isolation is what users trust a network mode for, and it must let in what Docker lets in."""
    target = quarter.targets[mode].address("eth0", version)
    ask = reaches if protocol in GETS_IN[mode][asker] else shut
    assert ask(quarter.askers[mode][asker], target, protocol)


@pytest.mark.parametrize(("mode", "version", "protocol"), list(product(FLAGS, (4, 6), ("tcp", "udp"))))
def test_how_the_outside_sees_a_network(quarter: Quarter, mode: str, version: int, protocol: str) -> None:
    """NAT hides a sandbox behind its host, routing does not, and from an internal network nothing gets out."""
    sandbox = quarter.targets[mode]
    there = OUTSIDE if version == 4 else OUTSIDE6
    expected = GETS_OUT[mode]
    if expected is None:
        assert shut(sandbox, there, protocol)
    else:
        assert seen(sandbox, there, protocol) == (expected[version == 6] or sandbox.address("eth0", version))


@pytest.mark.parametrize(("mode", "version"), list(product(("internal", "isolated"), (4, 6))))
def test_an_internal_network_does_not_get_out_by_a_route_made_inside(world: World, mode: str, version: int) -> None:
    """Who is root inside adds a route in a second; --internal must hold all the same."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("quiet", f"{FLAGS[mode]} --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    host.network("open", f"{FLAGS['nat-unprotected']} --ipv6 --subnet 10.6.0.0/24 --subnet fd00:6::/64")
    sandbox = host.sandbox("web", "--network quiet")
    open_ = host.sandbox("open1", "--network open")
    world.serve(open_)
    bridge = host.bridge("quiet")
    (found,) = host.ip(f"link show {bridge}")
    # The bridge itself, by its MAC, whether it has an address or not.
    gateway = "10.5.0.77" if version == 4 else "fd00:5::77"
    sandbox.batch(
        f"neighbour add {gateway} lladdr {found['address']} dev eth0",
        f"route add {'0.0.0.0/0' if version == 4 else '::/0'} via {gateway} dev eth0",
    )
    assert shut(sandbox, OUTSIDE if version == 4 else OUTSIDE6, "tcp")
    assert shut(sandbox, open_.address("eth0", version), "udp")


# Bridge: what else it does.


def test_interfaces_are_named_in_the_order_of_joining(box: Host) -> None:
    """Configurations inside name eth0, eth1; a name that is given up is the next that is given out."""
    for name in ("one", "two", "three"):
        box.network(name)
    web = box.sandbox("web", "--network one")
    box.isthmus("network connect two web")
    box.isthmus("network connect three web")
    assert web.interfaces() == {"eth0", "eth1", "eth2"}
    box.isthmus("network disconnect two web")
    box.isthmus("network connect two web")
    assert web.interfaces() == {"eth0", "eth1", "eth2"}
    assert web.address("eth1") == box.inspect("two")["Containers"].popitem()[1]["IPv4Address"].split("/")[0]


def test_a_sandbox_on_two_networks_leaves_by_the_one_with_the_higher_priority(world: World) -> None:
    """A sandbox has one default route, and it must be known which."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    routed = f"-o {MODE4}=routed"
    host.network("aaa", f"{routed} --subnet 10.1.0.0/24")
    host.network("zzz", f"{routed} --subnet 10.2.0.0/24")
    web = host.sandbox("web", "--network aaa")
    assert seen(web, OUTSIDE) == "10.1.0.2"
    host.isthmus("network connect --gw-priority 5 zzz web")
    assert seen(web, OUTSIDE) == "10.2.0.2"
    host.isthmus("network disconnect zzz web")
    assert seen(web, OUTSIDE) == "10.1.0.2"


def test_icc_false_keeps_members_apart_in_every_way(world: World) -> None:
    """Neither Ethernet, nor the gateway as a detour, nor IPv6 may lead from one to the other; out they get."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("booths", f"-o {ICC}=false --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    one, two = host.sandbox("one", "--network booths"), host.sandbox("two", "--network booths")
    world.serve(two)
    assert seen(one, OUTSIDE) == HOST_ADDRESS
    assert pings(one, "10.5.0.1")
    for version in (4, 6):
        assert shut(one, two.address("eth0", version), "icmp")
        assert shut(one, two.address("eth0", version), "tcp")
    # By way of the gateway: as a route inside, and with the gateway's MAC for the other's address.
    one.batch("route add 10.5.0.3/32 via 10.5.0.1", "route add fd00:5::3/128 via fd00:5::1")
    for version in (4, 6):
        assert shut(one, two.address("eth0", version), "icmp")
        assert shut(one, two.address("eth0", version), "tcp")


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "open"])
@pytest.mark.parametrize("forged", ["mac", "address", "address6", "arp"])
def test_antispoof_holds_a_sandbox_to_its_mac_and_addresses(box: Host, forged: str, *, guarded: bool) -> None:
    """Who is root inside must not be able to speak for others, nor turn their traffic to himself."""
    box.network("front", f"-o isthmus.antispoof={guarded} --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    web, victim = box.sandbox("web", "--network front"), box.sandbox("victim", "--network front")
    for version in (4, 6):
        assert pings(web, victim.address(version=version))
    target = victim.address(version=6 if forged == "address6" else 4)
    if forged == "arp":
        (own,) = web.ip("link show eth0")
        mac = bytes.fromhex(own["address"].replace(":", ""))
        with web.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("eth0", 0))
            gateway = bytes((10, 5, 0, 1))
            head = b"\xff" * 6 + mac + bytes.fromhex("08060001080006040001")
            wire.send(head + mac + gateway + bytes(6) + bytes((10, 5, 0, 3)) + bytes(18))
        # Frames keep their order: when this is answered, the other has arrived or was dropped.
        assert pings(web, target)
        known = {one["dst"]: one.get("lladdr") for one in victim.ip("-4 neighbour show")}
        assert (known.get("10.5.0.1") == own["address"]) is not guarded
        return
    match forged:
        case "mac":
            web.batch("link set eth0 address 02:00:00:00:00:99")
        case "address":
            web.batch(f"address del {web.addresses('eth0')[0]} dev eth0", "address add 10.5.0.77/24 dev eth0")
        case _:
            web.batch(f"address del {web.addresses('eth0', 6)[0]} dev eth0", "address add fd00:5::77/64 dev eth0 nodad")
    assert shut(web, target, "icmp") if guarded else pings(web, target)


def test_antispoof_comes_and_goes_with_the_network_and_the_sandbox(box: Host) -> None:
    """Others pay nothing for it, and a rule that stayed would hold whoever gets the same name next."""
    box.network("front", "-o isthmus.antispoof=true --subnet 10.5.0.0/24")
    assert "arriving" in box.rules()
    box.sandbox("web", "--network front")
    box.restart()
    assert box.planned_nothing
    assert "10.5.0.2" in box.run("nft list set bridge isthmus sender4")
    box.isthmus("sandbox rm web")
    assert "elements" not in box.run("nft list table bridge isthmus")
    box.isthmus("network rm front")
    assert "arriving" not in box.rules()


def test_masquerading_can_be_left_out(world: World) -> None:
    """A NAT network with enable_ip_masquerade=false sends its own addresses out."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("plain", "-o com.docker.network.bridge.enable_ip_masquerade=false --subnet 10.5.0.0/24")
    assert seen(host.sandbox("web", "--network plain"), OUTSIDE) == "10.5.0.2"


def test_what_leaves_can_bear_an_address_of_the_users_choice(world: World) -> None:
    """host_ipv4 and host_ipv6 are how a host with many addresses keeps its tenants apart."""
    host, outside = world.internet()
    host.batch("address add 203.0.113.77/24 dev eth0", "address add 2001:db8:113::77/64 dev eth0 nodad")
    host.start()
    world.serve(outside)
    sources = "-o com.docker.network.host_ipv4=203.0.113.77 -o com.docker.network.host_ipv6=2001:db8:113::77"
    host.network("front", f"{sources} --ipv6 --subnet 10.5.0.0/24 --subnet fd00:5::/64")
    web = host.sandbox("web", "--network front")
    assert (seen(web, OUTSIDE), seen(web, OUTSIDE6)) == ("203.0.113.77", "2001:db8:113::77")


def test_a_trusted_interface_gets_in(world: World) -> None:
    """trusted_host_interfaces opens a NAT network to those who come by them, and to nobody else."""
    host, outside = world.internet()
    friend = world.machine("friend")
    wire(host, "eth2", friend, "eth0")
    host.batch("address add 192.0.2.1/24 dev eth2")
    friend.batch("address add 192.0.2.2/24 dev eth0", "route add 10.0.0.0/8 via 192.0.2.1")
    host.start()
    host.network("front", "-o com.docker.network.bridge.trusted_host_interfaces=eth2:eth3 --subnet 10.5.0.0/24")
    web = host.sandbox("web", "--network front")
    world.serve(web)
    assert seen(friend, "10.5.0.2") == "192.0.2.2"
    assert shut(outside, "10.5.0.2")


def test_nobody_is_refused_while_rules_come_and_go_that_few_need(world: World) -> None:
    """The first network with a rare option, and the last one, are no business of who calls another."""
    host, outside = world.internet()
    host.start()
    world.serve(host.sandbox("web", "-p 8080:80"))
    client = host.api()
    named = {"com.docker.network.bridge.trusted_host_interfaces": "eth2", "com.docker.network.host_ipv4": HOST_ADDRESS}
    done = threading.Event()

    def calls() -> int:
        count = 0
        while not done.is_set():
            assert seen(outside, HOST_ADDRESS, port=8080)
            count += 1
        return count

    with ThreadPoolExecutor() as pool:
        calling = pool.submit(calls)
        try:
            for _ in range(20):
                client.ask("POST", "/networks/create", {"Name": "rare", "Options": named})
                client.ask("DELETE", "/networks/rare")
        finally:
            done.set()
        assert calling.result() > 0
    counted = host.run("nft list map inet isthmus publish4")
    assert f"counter packets {calling.result()} " in counted


@pytest.mark.parametrize("mtu", [576, 1300, 9000])
def test_the_mtu_of_a_network_is_that_of_all_its_parts(box: Host, mtu: int) -> None:
    """A tunnel below needs smaller packets, storage wants larger ones; below 1280 a link has no IPv6."""
    box.network("small", f"-o com.docker.network.driver.mtu={mtu} --subnet 10.5.0.0/24")
    web, db = box.sandbox("web", "--network small"), box.sandbox("db", "--network small")
    for place, link in ((web, "eth0"), (box, box.port(web)), (box, box.bridge("small"))):
        assert place.ip(f"link show {link}")[0]["mtu"] == mtu
    assert pings(web, db.address(), size=mtu - 28)
    assert not pings(web, db.address(), size=mtu - 27, patience=1)


def test_ipv6_beside_ipv4_reaches_members_and_the_outside(quarter: Quarter) -> None:
    """Both families are there at once, each with its own default route."""
    web = quarter.targets["nat"]
    assert len(web.addresses("eth0", 4)) == len(web.addresses("eth0", 6)) == 1
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    assert seen(web, OUTSIDE6) == HOST_ADDRESS6


def test_a_network_can_do_without_ipv4(world: World) -> None:
    """--ipv4=false is the future that some live in already."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("six", "--ipv4=false --ipv6 --subnet fd00:5::/64")
    web, db = host.sandbox("web", "--network six"), host.sandbox("db", "--network six --ip6 fd00:5::99")
    assert web.addresses("eth0", 4) == []
    assert pings(web, "fd00:5::99")
    assert seen(db, OUTSIDE6) == HOST_ADDRESS6


def test_without_ipv6_an_interface_has_no_ipv6_address_of_any_kind(box: Host) -> None:
    """The documented promise: no link-local chatter on networks of IPv4."""
    box.network("front")
    web = box.sandbox("web", "--network front")
    assert web.ip("-6 address show dev eth0") in ([], [{}])
    assert box.ip(f"-6 address show dev {box.bridge('front')}") in ([], [{}])


def test_link_local_addresses_are_put_on_the_interface(box: Host) -> None:
    """--link-local-ip gives what cloud metadata services and their clients need."""
    box.network("front", "--subnet 10.5.0.0/24")
    web = box.sandbox("web", "--network front --link-local-ip 169.254.7.7")
    db = box.sandbox("db", "--network front --link-local-ip 169.254.7.8")
    assert {one["local"] for one in web.ip("-4 address show dev eth0")[0]["addr_info"]} == {"10.5.0.2", "169.254.7.7"}
    db.batch("route add 169.254.7.7/32 dev eth0")
    assert pings(db, "169.254.7.7")


def test_endpoint_options_name_the_interface_and_set_its_sysctls(box: Host) -> None:
    """`--driver-opt` is how a router in a sandbox gets the interface names and settings that it expects."""
    box.network("front")
    options = "driver-opt=com.docker.network.endpoint.ifname=wan0"
    sysctl = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    web = box.sandbox("web", f"--network name=front,{options},{sysctl}")
    assert web.interfaces() == {"wan0"}
    assert web.run("sysctl -n net.ipv4.conf.wan0.log_martians").strip() == "1"


def test_nat_counts_connections_and_isthmus_nat_shows_them(world: World) -> None:
    """The columns are those of iptables; what was counted is what was sent."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("front", "--subnet 10.5.0.0/24")
    web = host.sandbox("web", "--network front")
    for _ in range(3):
        assert seen(web, OUTSIDE) == HOST_ADDRESS
    (line,) = [line for line in host.isthmus("nat").splitlines() if "10.5.0.0/24" in line]
    assert line.split()[0] == "3"
    assert "MASQUERADE" in line


# Bridged: on the LAN.

LAN = "-o isthmus.uplink=eth1 --subnet 192.168.1.0/24 --ip-range 192.168.1.48/28"


@dataclass(frozen=True, slots=True)
class Premises:
    """A host on a LAN, with a daemon."""

    host: Host
    router: Machine
    neighbour: Machine
    far: Machine


@pytest.fixture
def premises(world: World) -> Premises:
    """A host with a LAN on eth1."""
    host = world.host()
    router, neighbour, far = world.lan(host)
    for place in (neighbour, far):
        world.serve(place)
    return Premises(host.start(), router, neighbour, far)


def test_bridged_sandboxes_stand_on_the_lan(world: World, premises: Premises) -> None:
    """The LAN sees a machine of its own, with its own address and MAC, in both directions."""
    premises.host.network("lan", f"{LAN} --gateway {ROUTER}")
    lab = premises.host.sandbox("lab", "--network lan --ip 192.168.1.50")
    world.serve(lab)
    assert seen(lab, NEIGHBOUR) == "192.168.1.50"
    assert seen(premises.neighbour, "192.168.1.50") == NEIGHBOUR
    (mac,) = [one["lladdr"] for one in premises.neighbour.ip("neighbour") if one["dst"] == "192.168.1.50"]
    assert mac == lab.ip("link show eth0")[0]["address"]


def test_bridged_with_a_gateway_reaches_other_subnets_through_the_lans_router(world: World, premises: Premises) -> None:
    """The router that --gateway names forwards for the sandbox as for every other machine, without our NAT."""
    premises.host.network("lan", f"{LAN} --gateway {ROUTER}")
    lab = premises.host.sandbox("lab", "--network lan --ip 192.168.1.50")
    world.serve(lab)
    assert seen(lab, FAR) == "192.168.1.50"
    assert seen(premises.far, "192.168.1.50") == FAR


def test_bridged_without_a_gateway_reaches_its_own_subnet_only(premises: Premises) -> None:
    """The documented difference to NAT: no router named, no way out."""
    premises.host.network("lan", LAN)
    lab = premises.host.sandbox("lab", "--network lan")
    assert lab.routes() == ["192.168.1.0/24 dev eth0"]
    assert seen(lab, NEIGHBOUR) == lab.address()
    assert shut(lab, FAR)


def test_bridged_never_takes_the_routers_address(premises: Premises) -> None:
    """Two machines with the router's address would cut off a whole LAN."""
    premises.host.network("lan", f"{LAN} --gateway {ROUTER}")
    premises.host.sandbox("lab", "--network lan")
    assert premises.host.addresses(premises.host.bridge("lan")) == []
    assert "Address already in use" in premises.host.refused(f"sandbox create two --network lan --ip {ROUTER}")


def test_an_uplink_is_given_back_when_its_network_goes(premises: Premises) -> None:
    """The NIC is the user's: it is taken off the bridge, stays up and is there for the next network."""
    premises.host.network("lan", LAN)
    premises.host.isthmus("network rm lan")
    (eth1,) = premises.host.ip("-d link show eth1")
    assert "master" not in eth1
    assert "UP" in eth1["flags"]
    assert not eth1.get("ifalias")
    premises.host.network("lan", LAN)
    assert pings(premises.host.sandbox("lab", "--network lan"), NEIGHBOUR)


def test_an_uplink_with_an_address_is_refused(box: Host) -> None:
    """A port of a bridge does not use its address: taking it would cut the host off."""
    before = box.ip("address")
    assert HOST_ADDRESS in box.refused("network create -o isthmus.uplink=eth0 --subnet 192.168.1.0/24 lan")
    after = box.ip("address")
    assert [link["addr_info"] for link in after] == [link["addr_info"] for link in before]


def test_a_bridge_of_the_users_own_is_used_as_it_is(premises: Premises) -> None:
    """br0 with the host's address and the NIC on it is how most hosts stand on a LAN; we add ports and nothing else."""
    host = premises.host
    host.batch(
        "link add br0 type bridge", "link set br0 up", "link set eth1 master br0", "address add 192.168.1.5/24 dev br0"
    )
    before = host.run("ip -d address show br0").split("valid_lft")[0]
    host.network(
        "lan",
        f"-o com.docker.network.bridge.name=br0 -o isthmus.bridged=true --subnet 192.168.1.0/24 --gateway {ROUTER}",
    )
    lab = host.sandbox("lab", "--network lan --ip 192.168.1.50")
    assert seen(lab, FAR) == "192.168.1.50"
    assert pings(lab, "192.168.1.5")
    host.isthmus("sandbox rm lab")
    host.isthmus("network rm lan")
    until(lambda: not [link for link in host.ip("link show master br0") if link["ifname"] != "eth1"], "ports stay")
    after = host.run("ip -d address show br0").split("valid_lft")[0]
    assert _settings(after) == _settings(before)


def _settings(text: str) -> list[str]:
    """What is shown of a bridge, without what changes by itself."""
    words = text.split()
    passing = ("_timer", "topology_change", "topology_change_detected")
    return [word for at, word in enumerate(words) if not words[at - 1].endswith(passing) and not word.endswith(passing)]


# host, none, container:.


def test_host_mode_is_the_hosts_own_namespace(internet: tuple[Host, Machine]) -> None:
    """`sandbox exec` on it sees the host's interfaces, and nothing was made."""
    host, _ = internet
    before = host.interfaces()
    host.isthmus("sandbox create mon --network host")
    shown = json.loads(host.isthmus("sandbox exec mon -- ip -j link"))
    assert {link["ifname"] for link in shown} - {"lo"} == before == host.interfaces()
    assert "host" in host.refused("network connect bridge mon")


def test_none_has_a_loopback_and_nothing_else(box: Host) -> None:
    """Who asks for none wants no wire to anybody, and a loopback that works."""
    bare = box.sandbox("bare", "--network none")
    assert bare.interfaces() == set()
    assert bare.routes() == []
    assert pings(bare, "127.0.0.1")
    assert "private (none) mode" in box.refused("network connect bridge bare")


def test_a_link_by_hand_leads_out_of_none(internet: tuple[Host, Machine]) -> None:
    """`link add` with an address, a route and a peer address is a wire that works at once, and goes whole."""
    host, _ = internet
    bare = host.sandbox("bare", "--network none")
    host.isthmus(
        "link add bare --type veth --ip 10.9.0.2/24 --route default,10.9.0.1 --peer wire0 --peer-ip 10.9.0.1/24"
    )
    assert bare.routes() == ["default via 10.9.0.1 dev eth0", "10.9.0.0/24 dev eth0"]
    assert pings(bare, "10.9.0.1")
    assert pings(bare, HOST_ADDRESS)
    host.isthmus("link rm bare eth0")
    assert bare.interfaces() == set()
    until(lambda: "wire0" not in host.interfaces(), "the peer stays")


def test_a_link_by_hand_can_stand_on_a_bridge_of_the_users(box: Host) -> None:
    """--master puts the host's end on a bridge, where others are."""
    box.batch("link add br0 type bridge", "link set br0 up", "address add 10.9.0.1/24 dev br0")
    one, two = box.sandbox("one", "--network none"), box.sandbox("two", "--network none")
    box.isthmus("link add one --type veth --ip 10.9.0.2/24 --master br0")
    box.isthmus("link add two --type veth --ip 10.9.0.3/24 --master br0 --name lan0")
    assert two.interfaces() == {"lan0"}
    assert pings(one, "10.9.0.3")


def test_container_mode_shares_interfaces_and_the_loopback(world: World, box: Host) -> None:
    """A sidecar talks to its owner by localhost and is seen under its owner's address."""
    web = box.sandbox("web", "")
    side = box.sandbox("side", "--network container:web")
    world.serve(web, 8080)
    assert seen(side, "127.0.0.1", port=8080) == "127.0.0.1"
    assert side.address() == web.address()


def test_a_namespace_outlives_its_owner_and_is_taken_up_again(world: World) -> None:
    """What runs in a sidecar keeps its sockets when web is made anew, and has a network again."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("front", "--subnet 10.5.0.0/24")
    host.sandbox("web", "--network front --ip 10.5.0.9")
    side = host.sandbox("side", "--network container:web")
    world.serve(side)
    with program(side, "sleep 1000") as inside:
        host.isthmus("sandbox rm web")
        assert side.interfaces() == set()
        assert pings(side, "127.0.0.1")
        web = host.sandbox("web", "--network front --ip 10.5.0.9")
        assert seen(side, OUTSIDE) == HOST_ADDRESS
        assert seen(host, "10.5.0.9") is not None
        assert Path(f"/proc/{inside.pid}/ns/net").stat().st_ino == os.fstat(web.netns).st_ino
    host.isthmus("sandbox rm web")
    host.isthmus("sandbox rm side")
    assert host.run("ls /run/netns /run/isthmus/netns").split() == ["/run/isthmus/netns:", "/run/netns:"]


# Leaving.


@pytest.mark.parametrize("inwards", [False, True], ids=["out", "in"])
def test_traffic_has_stopped_when_disconnect_answers(world: World, box: Host, *, inwards: bool) -> None:
    """Who was told that a sandbox is off the network must be able to rely on it, in both directions."""
    box.network("front", "--subnet 10.5.0.0/24")
    web, db = box.sandbox("web", "--network front"), box.sandbox("db", "--network front")
    flow = world.hold(Flow(db, web, "10.5.0.2") if inwards else Flow(web, db, "10.5.0.3"))
    flow.arrives()
    client = box.api()
    client.ask("POST", "/networks/front/disconnect", {"Container": "web"})
    last = flow.sent
    flow.more(100)
    flow.lost()
    assert max(flow.received) <= last


def test_traffic_through_nat_has_stopped_when_a_sandbox_is_removed(world: World) -> None:
    """Connection tracking lets nothing of a removed sandbox linger."""
    host, outside = world.internet()
    host.start()
    web = host.sandbox("web", "")
    flow = world.hold(Flow(web, outside, OUTSIDE))
    flow.arrives()
    client = host.api()
    client.ask("DELETE", "/sandboxes/web")
    last = flow.sent
    flow.more(100)
    flow.lost()
    assert max(flow.received) <= last


def test_what_a_sandbox_left_is_free_at_once(box: Host) -> None:
    """Interface name, address and MAC can be used by the next request, whatever the kernel still has to take apart."""
    box.network("front", "--subnet 10.5.0.0/24")
    box.network("back", "--subnet 10.6.0.0/24")
    web = box.sandbox("web", "--network front --ip 10.5.0.9 --mac-address 02:00:00:00:00:09")
    client = box.api()
    client.ask("POST", "/networks/front/disconnect", {"Container": "web"})
    assert web.interfaces() == set()
    wish = {"IPAMConfig": {"IPv4Address": "10.5.0.9"}, "MacAddress": "02:00:00:00:00:09"}
    client.ask("POST", "/networks/back/connect", {"Container": "web"})
    client.ask("POST", "/networks/front/connect", {"Container": "web", "EndpointConfig": wish})
    assert web.interfaces() == {"eth0", "eth1"}
    assert (web.address("eth0"), web.address("eth1")) == ("10.6.0.2", "10.5.0.9")
    assert pings(web, "10.5.0.1")


def test_hundreds_of_joins_and_leaves_leak_nothing(world: World) -> None:
    """A daemon lives for months: links, addresses, neighbours, elements, records and descriptors are as before."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    host.network("front", "--subnet 10.5.0.0/24")
    web = host.sandbox("web", "")
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    client = host.api()

    def cycle() -> None:
        client.ask("POST", "/networks/front/connect", {"Container": "web"})
        client.ask("POST", "/networks/front/disconnect", {"Container": "web"})

    def shape() -> tuple[object, ...]:
        assert host.daemon is not None
        return (
            host.interfaces(),
            web.interfaces(),
            host.routes(),
            host.run(f"bridge fdb show br {host.bridge('front')}"),
            {name: len(elements(host, name)) for name in ("switched", "neighbours", "enter4", "masquerade4")},
            host.inspect("front")["Containers"],
        )

    def descriptors() -> int:
        assert host.daemon is not None
        return len(list(Path(f"/proc/{host.daemon.pid}/fd").iterdir()))

    cycle()
    host.settled(web)
    before, held = shape(), descriptors()
    for _ in range(200):
        cycle()
    host.settled(web)
    assert shape() == before
    # One left open in each cycle would make two hundred; a few come and go (a namespace being made ahead).
    assert descriptors() < held + 20
    assert seen(web, OUTSIDE) == HOST_ADDRESS
