"""Addresses on a LAN that is not ours alone: who has them is asked before, and heard of afterwards."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from isthmus.wire import packets
from tests.e2e.hosts import Host, World, until
from tests.e2e.lans import GATEWAY, ONE, OWN, PEER, RANGE, Lan, mac

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD


@pytest.fixture
def lan(world: World) -> Lan:
    """A LAN with a host on it, whose daemon runs."""
    made = Lan.of(world)
    made.host.start()
    return made


@contextmanager
def hearing(lan: Lan, kind: int = ETH_P_ARP) -> Iterator[socket.socket]:
    """All frames of this *kind* that come by the LAN's switch."""
    with lan.router.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind)) as heard:
        heard.bind(("lan0", kind))
        heard.settimeout(10)
        yield heard


def events(host: Host, action: str) -> list[dict[str, str]]:
    """The attributes of the events of this *action* so far."""
    said = host.isthmus("events --since 0 --until 0s --format json --filter type=network")
    found = [json.loads(line) for line in said.splitlines()]
    return [one["Actor"]["Attributes"] for one in found if one["Action"] == action]


def test_an_address_that_somebody_has_is_passed_over(lan: Lan) -> None:
    """A printer that got its address by hand stands in the middle of the range: nobody else may get it."""
    lan.peer.batch("address add 10.0.36.192/24 dev eth0")
    lan.host.network("mynet", RANGE)
    assert lan.host.sandbox("web", "--network mynet").address() == "10.0.36.193"
    assert lan.host.sandbox("db", "--network mynet").address() == "10.0.36.194"


def test_a_demanded_address_that_somebody_has_is_refused_by_his_mac(lan: Lan) -> None:
    """Whoever asks for it must learn which machine to look for; nothing is left of the attempt."""
    lan.host.network("mynet", RANGE)
    said = lan.host.refused(f"sandbox create --network mynet --ip {PEER} web")
    assert f"Address already in use: on the wire of ens34, {PEER} is at {mac(lan.peer)}" in said
    assert lan.host.isthmus("sandbox ls -q") == ""


def test_the_host_s_own_address_is_not_given_out(lan: Lan) -> None:
    """It would not answer, since a parent and its children are kept apart; it is known all the same."""
    lan.host.network("low", "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.4/30 -o parent=ens34")
    assert [lan.host.sandbox(name, "--network low").address() for name in ("a", "b")] == ["10.0.36.4", "10.0.36.6"]
    assert f"{OWN} is at this host" in lan.host.refused(f"sandbox create --network low --ip {OWN} c")


def test_a_range_that_others_have_used_up_says_so(lan: Lan) -> None:
    """The one address of the network is somebody else's: the refusal tells whose."""
    lan.peer.batch("address add 10.0.36.115/24 dev eth0")
    lan.host.network("xx", ONE)
    said = lan.host.refused("sandbox create --network xx web")
    assert "no available IPv4 addresses" in said
    assert f"10.0.36.115 is at {mac(lan.peer)}" in said


def test_ipv6_is_asked_for_too(lan: Lan) -> None:
    """Duplicate address detection finds the neighbour before the sandbox has his address."""
    lan.peer.batch("address add fd36::c0/64 dev eth0 nodad")
    lan.host.network("six", "-d macvlan --ipv4=false --ipv6 --subnet fd36::/64 --ip-range fd36::c0/123 -o parent=ens34")
    assert lan.host.sandbox("web", "--network six").address("eth0", 6) == "fd36::c1"


def test_who_turns_the_asking_off_is_not_protected(lan: Lan) -> None:
    """An option is an option: the address is given out unasked, and the conflict is the user's."""
    lan.peer.batch("address add 10.0.36.192/24 dev eth0")
    lan.host.network("mynet", f"{RANGE} -o isthmus.probe=off")
    assert lan.host.sandbox("web", "--network mynet").address() == "10.0.36.192"


def test_a_bridged_network_asks_its_uplink(lan: Lan) -> None:
    """A bridged network stands on the same kind of LAN, so the same holds there."""
    lan.host.batch("address flush dev ens34")
    lan.peer.batch("address add 10.0.36.64/24 dev eth0")
    lan.host.network(
        "flat", f"-o isthmus.uplink=ens34 --subnet 10.0.36.0/24 --ip-range 10.0.36.64/27 --gateway {GATEWAY}"
    )
    until(lambda: lan.host.attempt("ip -j link show dev ens34").stdout.count("LOWER_UP"), "the uplink is not up")
    assert lan.host.sandbox("web", "--network flat").address() == "10.0.36.65"


def test_an_attach_announces_its_address(lan: Lan) -> None:
    """Switches and neighbours may remember who had it before: a gratuitous ARP tells them (RFC 5227, 2.3)."""
    lan.host.network("mynet", RANGE)
    with hearing(lan) as heard:
        web = lan.host.sandbox("web", "--network mynet")
        address, own = socket.inet_aton(web.address()), bytes.fromhex(mac(web).replace(":", ""))
        while True:
            frame = heard.recv(128)
            if frame[22:28] == own and frame[28:32] == frame[38:42] == address:
                break


def test_an_attach_announces_its_ipv6_address_too(lan: Lan) -> None:
    """The same by an unsolicited neighbour advertisement (RFC 4861, 7.2.6)."""
    lan.host.network("six", "-d macvlan --ipv4=false --ipv6 --subnet fd36::/64 --ip-range fd36::c0/123 -o parent=ens34")
    with hearing(lan, ETH_P_IPV6) as heard:
        web = lan.host.sandbox("web", "--network six")
        while True:
            try:
                said = packets.decode(heard.recv(256))
            except packets.DecodeError:
                continue
            if isinstance(said, packets.Advertisement) and str(said.target) == web.address("eth0", 6):
                break
    assert said.source == mac(web)


def test_a_later_conflict_is_told_to_everybody(lan: Lan) -> None:
    """Somebody takes a sandbox's address while it runs: an event, inspect and check name him."""
    lan.host.network("mynet", RANGE)
    web = lan.host.sandbox("web", "--network mynet")
    lan.peer.sysctl("net.ipv4.conf.eth0.arp_notify", "1")
    lan.peer.batch(f"address add {web.address()}/24 dev eth0", "link set eth0 down", "link set eth0 up")
    until(lambda: events(lan.host, "conflict"), "no event")
    (told,) = events(lan.host, "conflict")
    assert (told["address"], told["mac"]) == (web.address(), mac(lan.peer))
    (container,) = lan.host.inspect("mynet")["Containers"].values()
    assert mac(lan.peer) in container["Trouble"][0]
    assert f"claims {web.address()}" in lan.host.complains("network check mynet")


def test_a_check_tells_that_a_second_mac_is_answered(lan: Lan) -> None:
    """On a switch that takes all MACs, everything is as it should be."""
    lan.host.network("mynet", RANGE)
    said = lan.host.isthmus("network check mynet")
    assert f"{GATEWAY} (" in said
    assert "answers to a second MAC on ens34" in said
    assert "trouble" not in said


def test_a_switch_that_knows_one_mac_is_found_out(lan: Lan) -> None:
    """As a hypervisor does, it drops frames from other MACs: creating warns, and check tells which settings help."""
    own = mac(lan.host, "ens34")
    lan.router.run("nft add table netdev guard")
    lan.router.run("nft add chain netdev guard in '{ type filter hook ingress device port1 priority 0; }'")
    lan.router.run(f"nft add rule netdev guard in ether saddr != {own} drop")
    body = {
        "Name": "mynet",
        "Driver": "macvlan",
        "IPAM": {"Config": [{"Subnet": "10.0.36.0/24", "Gateway": GATEWAY}]},
        "Options": {"parent": "ens34"},
    }
    made = lan.host.api().ask("POST", "/networks/create", body)
    assert "answers to the MAC of ens34 but not to a second one" in made["Warning"]
    said = lan.host.complains("network check mynet")
    assert "answers to the MAC of ens34 but not to a second one" in said
    assert "VMware" in said
    assert "promiscuous" in said


def test_a_check_tells_when_nobody_is_there(lan: Lan) -> None:
    """A gateway that does not exist answers to no MAC: that says nothing about the switch."""
    lan.host.network("mynet", RANGE.replace("--gateway 10.0.36.254", "--gateway 10.0.36.250"))
    assert "nobody answered on ens34" in lan.host.complains("network check mynet")


def test_a_sandbox_of_the_same_name_has_the_same_address_and_mac(lan: Lan) -> None:
    """Neighbours, firewalls and DNS know it by these; others do not get them meanwhile."""
    lan.host.network("mynet", RANGE)
    web = lan.host.sandbox("web", "--network mynet")
    before = web.address(), mac(web)
    lan.host.isthmus("sandbox rm web")
    assert lan.host.sandbox("other", "--network mynet").address() != before[0]
    lan.host.restart()
    web = lan.host.sandbox("web", "--network mynet")
    assert (web.address(), mac(web)) == before


def test_a_route_over_one_of_our_subnets_is_told(world: World) -> None:
    """A VPN comes up and claims what a network of ours has: an event and check say so, before users wonder."""
    host = world.host().start()
    host.network("front", "--subnet 10.5.0.0/24")
    host.batch("link add tun9 type veth peer name far9", "link set tun9 up", "link set far9 up")
    host.batch("address add 10.99.0.1/24 dev tun9", "route add 10.5.0.0/25 dev tun9")
    until(lambda: events(host, "clash"), "no event")
    (told,) = events(host, "clash")
    assert (told["name"], told["route"]) == ("front", "10.5.0.0/25")
    assert "the host routes 10.5.0.0/25 elsewhere" in host.complains("network check front")
