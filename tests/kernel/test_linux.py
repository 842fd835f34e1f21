"""Plans as Linux carries them out, and as iproute2, bridge, nft and ping see the result."""

import os
import resource
import socket
from errno import EEXIST, ENETUNREACH, ENODEV
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from isthmus import firewall
from isthmus.errors import Refused
from isthmus.firewall import Mode, Policy
from isthmus.kernel import Scope
from isthmus.kernel.linux import DYING, LinuxKernel
from isthmus.model import HOST, HostLink
from isthmus.naming import Owner, mark
from isthmus.plan import Change, Make, Operation, Plan, Remove, diff
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Child,
    Element,
    Forwarding,
    Namespace,
    Neighbour,
    Nickname,
    Port,
    Resource,
    Route,
    Sysctl,
    Table,
    Veth,
    Vlan,
    Vxlan,
)
from tests.kernel.realm import apart, pings, run, shown, silent, started

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

SHAPED = frozenset({(HOST, "veth11111111111"), (HOST, "ifb11111111111")})
ALL = Scope(ports=frozenset({"up0"}), everything=True, ruled=frozenset({"db", "web"}), shaped=SHAPED)
NETWORK = Owner("a" * 64)
WEB, DB = Owner("a" * 64, "1" * 64), Owner("a" * 64, "2" * 64)
BRIDGE = Bridge(HOST, "br-a", NETWORK, mtu=1500, ipv6=False)
GATEWAY = Address(HOST, "br-a", ip_interface("10.9.0.1/24"), NETWORK)


def endpoint(netns: str, owner: Owner, number: int, *, isolated: bool = False) -> tuple[Resource, ...]:
    """Return a namespace of this name with an end on the bridge, and the address 10.9.0.*number*."""
    host_end = f"veth{owner.endpoint[:11]}"
    mac = f"02:42:0a:09:00:{number:02x}"
    return (
        Namespace(netns),
        Veth(HOST, host_end, netns, "eth0", owner, mac, "br-a", 1500, isolated, ipv6=False, announce=False, told=False),
        Address(netns, "eth0", ip_interface(f"10.9.0.{number}/24"), owner),
        Route(netns, ip_network("0.0.0.0/0"), "eth0", owner, ip_address("10.9.0.1")),
    )


def stranger(name: str, *where: str) -> None:
    """Make a link that is not ours, up; it has another end, `far`, because every kernel has veths."""
    run("ip", *where, "link", "add", name, "mtu", "1450", "type", "veth", "peer", "name", "far")
    run("ip", *where, "link", "set", "far", "up")
    run("ip", *where, "link", "set", name, "up", "addrgenmode", "none")


NET: tuple[Resource, ...] = (BRIDGE, GATEWAY)
RULES: tuple[Resource, ...] = (firewall.table(), *firewall.elements(Policy("br-a", Mode.NAT)))


def settle(kernel: LinuxKernel, *wanted: Resource) -> Plan:
    """Bring *kernel* to hold *wanted* and nothing else of ours; return what that took. Then nothing is left to do."""
    plan = diff(wanted, kernel.observe(ALL))
    kernel.apply(plan)
    assert not len(diff(wanted, kernel.observe(ALL)))
    return plan


def only(*operations: Operation) -> Plan:
    """Return a plan of these, each in the phase where `diff` puts it if it is about links."""
    return Plan(
        remove=tuple(one for one in operations if isinstance(one, Remove)),
        make=tuple(one for one in operations if not isinstance(one, Remove)),
    )


@apart
def test_a_file_whose_namespace_is_gone_goes_at_the_start(tmp_path: Path) -> None:
    """A daemon that dies in the midst of a removal leaves it; others stay."""
    with started(tmp_path) as kernel:
        kernel.apply(Plan((), (), (Make(Namespace("stays")),), ()))
    (tmp_path / "netns" / "gone").touch()
    with started(tmp_path) as kernel:
        assert [place.name for place in (tmp_path / "netns").iterdir()] == ["stays"]
        assert Namespace("stays") in kernel.observe(Scope(everything=True))


@apart
def test_what_is_made_is_there_for_others_to_see_and_works(tmp_path: Path) -> None:
    """A container is attached for this."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *RULES, *endpoint("web", WEB, 2), *endpoint("db", DB, 3))
        assert pings("web", "10.9.0.3")
        assert pings("web", "10.9.0.1")
        (inside,) = [link for link in shown("ip", "-n", "web", "-j", "addr") if link["ifname"] == "eth0"]
        assert inside["address"] == "02:42:0a:09:00:02"
        assert [held["local"] for held in inside["addr_info"]] == ["10.9.0.2"]
        (default,) = [route for route in shown("ip", "-n", "web", "-j", "route") if route["dst"] == "default"]
        assert (default["gateway"], default["protocol"]) == ("10.9.0.1", "105")
        ports = {link["ifname"]: link for link in shown("bridge", "-j", "-d", "link")}
        assert ports["veth11111111111"]["master"] == "br-a"
        assert "1" * 64 in run("ip", "link", "show", "veth11111111111")


@apart
def test_without_ipv6_nothing_has_an_ipv6_address(tmp_path: Path) -> None:
    """Hundreds of ports that speak IPv6 flood each other; and a network without it must not have it by accident."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2))
        for where in ((), ("-n", "web")):
            links = shown("ip", *where, "-6", "-j", "addr")
            assert [link["ifname"] for link in links if link["addr_info"] and link["ifname"] != "lo"] == []
        assert run("ip", "netns", "exec", "web", "sysctl", "-n", "net.ipv6.conf.eth0.disable_ipv6") == "1\n"


@apart
def test_with_ipv6_addresses_are_usable_at_once(tmp_path: Path) -> None:
    """We gave the address out: to ask the network for a second whether it is taken would delay every start."""
    with started(tmp_path) as kernel:
        six = (
            Bridge(HOST, "br-a", NETWORK, ipv6=True),
            Address(HOST, "br-a", ip_interface("fd00:9::1/64"), NETWORK),
            Namespace("web"),
            Veth(HOST, "veth1", "web", "eth0", WEB, master="br-a", ipv6=True),
            Address("web", "eth0", ip_interface("fd00:9::2/64"), WEB),
            Route("web", ip_network("::/0"), "eth0", WEB, ip_address("fd00:9::1")),
        )
        settle(kernel, *six)
        (held,) = [
            held
            for link in shown("ip", "-n", "web", "-6", "-j", "addr", "show", "dev", "eth0")
            for held in link["addr_info"]
            if held["scope"] == "global"
        ]
        assert held["local"] == "fd00:9::2"
        assert "tentative" not in held
        assert pings("web", "fd00:9::1")


LINKED = Veth(
    HOST,
    "veth1",
    "web",
    "eth0",
    WEB,
    "02:42:00:00:00:01",
    "br-a",
    1400,
    isolated=True,
    ipv6=True,
    announce=False,
    told=False,
)
TUNNEL = Vxlan("far", "vxlan4100", 4100, "br0", NETWORK, 4789, ip_address("192.0.2.1"), learning=False, mtu=1400)


@apart
def test_every_field_of_every_kind_is_observed_as_it_was_made(tmp_path: Path) -> None:
    """A field that reads differently than it was written would be made again for ever."""
    stranger("up0")
    with started(tmp_path) as kernel:
        wanted = (
            Bridge(HOST, "br-a", NETWORK, mtu=1400, ipv6=True, up=True),
            Address(HOST, "br-a", ip_interface("10.9.0.1/24"), NETWORK),
            Address(HOST, "br-a", ip_interface("fd00:9::1/64"), NETWORK),
            Port(HOST, "up0", "br-a", NETWORK),
            Namespace("web"),
            replace(LINKED, announce=True),
            replace(LINKED, name="veth2", peer="eth1", owner=DB, master=None, mtu=1300, isolated=False, ipv6=False),
            Address(HOST, "veth2", ip_interface("10.8.0.1/30"), DB),
            Address("web", "eth1", ip_interface("10.8.0.2/30"), DB),
            Address("web", "eth0", ip_interface("10.9.0.2/24"), WEB),
            Address("web", "eth0", ip_interface("fd00:9::2/64"), WEB),
            Route("web", ip_network("0.0.0.0/0"), "eth0", WEB, ip_address("10.9.0.1")),
            Route("web", ip_network("::/0"), "eth0", WEB, ip_address("fd00:9::1")),
            Route("web", ip_network("10.7.0.0/16"), "eth1", DB),
            Namespace("far"),
            Bridge("far", "br0", NETWORK, mtu=1400, ipv6=True, up=True),
            TUNNEL,
            Forwarding("far", "vxlan4100", "02:42:00:00:00:09", ip_address("192.0.2.9")),
            Neighbour("far", "vxlan4100", ip_address("10.6.0.9"), "02:42:00:00:00:09"),
            Neighbour("far", "vxlan4100", ip_address("fd00:6::9"), "02:42:00:00:00:09"),
            replace(TUNNEL, name="vxlan5", vni=5, port=8472, local=ip_address("2001:db8::1"), learning=True, mtu=1300),
            Forwarding("far", "vxlan5", NOBODY, ip_address("2001:db8::2")),
            Forwarding("far", "vxlan5", NOBODY, ip_address("2001:db8::3")),
            replace(LINKED, netns="far", name="veth3", peer="eth2", master="br0", isolated=False, told=True),
            Forwarding("far", "veth3", "02:42:00:00:00:01", master="br0"),
        )
        kernel.apply(diff(wanted, kernel.observe(ALL)))
        assert kernel.observe(ALL) == frozenset(wanted)
        links = frozenset({(HOST, "br-a"), (HOST, "veth1"), ("web", "eth0"), ("web", "eth1")})
        links |= {("far", name) for name in ("br0", "vxlan4100", "vxlan5", "veth3")}
        scope = Scope(frozenset({"web", "far"}), links, frozenset({"up0"}))
        assert kernel.observe(scope) == frozenset(wanted)


@apart
def test_what_is_asked_for_and_not_there_is_not_observed(tmp_path: Path) -> None:
    """The scope of something new names what is to come."""
    with started(tmp_path) as kernel:
        scope = Scope(
            frozenset({"web"}),
            frozenset({(HOST, "veth1"), ("web", "eth0"), (HOST, "lo")}),
            frozenset({"up0", "lo"}),
            frozenset({("web", "net.ipv4.ip_forward"), (HOST, "net.ipv4.no_such")}),
            firewall=True,
        )
        assert kernel.observe(scope) == frozenset()


@apart
def test_sysctls_are_seen_where_they_are_named(tmp_path: Path) -> None:
    """A setting that another program changed has to be set again."""
    with started(tmp_path) as kernel:
        settle(kernel, Namespace("web"))
        ranges = Sysctl("web", "net.ipv4.ip_local_port_range", "2000 3000")
        dotted = Sysctl("web", "net.ipv4.conf.lo.accept_local", "1")
        host = Sysctl(HOST, "net.ipv4.ip_forward", "1")
        kernel.apply(only(Make(ranges), Make(dotted), Make(host)))
        scope = Scope(sysctls=frozenset((one.netns, one.name) for one in (ranges, dotted, host)))
        assert kernel.observe(scope) == {ranges, dotted, host}
        with pytest.raises(Refused, match="sysctl -w net"):
            kernel.apply(only(Make(Sysctl("web", "net.ipv4.no_such", "1"))))


@apart
def test_a_link_with_a_dot_in_its_name_has_sysctls(tmp_path: Path) -> None:
    """VLANs are called eth0.5: a path with dots for slashes would name another file."""
    with started(tmp_path) as kernel:
        stranger("up0.5")
        kernel.apply(only(Make(Sysctl(HOST, "net.ipv4.conf.up0/5.proxy_arp", "1"))))
        assert Path("/proc/thread-self/net/dev").exists()
        assert run("cat", "/proc/sys/net/ipv4/conf/up0.5/proxy_arp") == "1\n"


@apart
def test_making_what_is_there_and_removing_what_is_gone_is_success(tmp_path: Path) -> None:
    """After a crash nobody knows how far the last plan came."""
    with started(tmp_path) as kernel:
        wanted = (*NET, *RULES, *endpoint("web", WEB, 2))
        whole = diff(wanted, ())
        kernel.apply(whole)
        kernel.apply(whole)
        assert kernel.observe(ALL) >= set(wanted)
        back = diff((), kernel.observe(ALL))
        kernel.apply(back)
        kernel.apply(back)
        assert kernel.observe(ALL) == frozenset()


@apart
def test_each_operation_can_stand_alone(tmp_path: Path) -> None:
    """A plan may be cut off after any operation, and the next begins there."""
    with started(tmp_path) as kernel:
        wanted = (*NET, *RULES, *endpoint("web", WEB, 2))
        for step in diff(wanted, ()).steps():
            kernel.apply(step)
        assert pings("web", "10.9.0.1")
        for step in diff((), kernel.observe(ALL)).steps():
            kernel.apply(step)
        assert kernel.observe(ALL) == frozenset()


@pytest.mark.parametrize(
    "damage",
    [
        ("ip link set veth11111111111 down",),
        ("ip link set veth11111111111 nomaster",),
        ("ip link set veth11111111111 mtu 1300",),
        ("ip link del veth11111111111",),
        ("ip link set veth11111111111 name other",),
        ("bridge link set dev veth11111111111 isolated on",),
        ("ip link set veth11111111111 addrgenmode eui64",),
        ("ip -n web link set eth0 down",),
        ("ip -n web link set eth0 name eth7",),
        ("ip -n web link set eth0 address 02:42:00:00:00:99",),
        ("ip -n web link set eth0 mtu 1300",),
        ("ip -n web link set eth0 netns elsewhere",),
        ("ip -n web address flush dev eth0",),
        ("ip -n web route del default",),
        ("ip -n web route replace default dev eth0 proto 105",),
        ("ip link del br-a",),
        ("ip link set br-a down",),
        ("ip address flush dev br-a",),
        ("ip link set br-a mtu 1400",),
        ("ip netns del web",),
        ("nft flush ruleset",),
        ("nft flush chain inet isthmus forward",),
        ("nft delete element inet isthmus enter4 { br-a }",),
        ("nft flush set inet isthmus neighbours",),
        (
            "nft delete element inet isthmus enter4 { br-a }",
            "nft add element inet isthmus enter4 { br-a : accept }",
        ),
        ("nft flush chain inet isthmus postrouting", "nft delete set inet isthmus masquerade4"),
        ("nft add chain inet isthmus forward { policy drop; }",),
    ],
    ids="; ".join,
)
@apart
def test_any_damage_is_seen_and_made_good_in_one_round(tmp_path: Path, damage: tuple[str, ...]) -> None:
    """Others change what is ours; a container must not stay cut off, nor open."""
    with started(tmp_path) as kernel:
        run("ip", "netns", "add", "elsewhere")
        wanted = (*NET, *RULES, *endpoint("web", WEB, 2), *endpoint("db", DB, 3))
        settle(kernel, *wanted)
        for command in damage:
            run(*command.split())
        assert len(settle(kernel, *wanted))
        assert pings("web", "10.9.0.1")
        assert pings("web", "10.9.0.3")
        run("ip", "netns", "del", "elsewhere")


@apart
def test_what_bears_no_mark_is_neither_seen_nor_taken(tmp_path: Path) -> None:
    """The host belongs to its administrator."""
    with started(tmp_path) as kernel:
        run("ip", "link", "add", "br-a", "type", "bridge")
        stranger("veth11111111111")
        assert kernel.observe(Scope(links=frozenset({(HOST, "br-a")}), everything=True)) == frozenset()
        with pytest.raises(Refused, match="not ours") as caught:
            kernel.apply(only(Make(BRIDGE)))
        assert caught.value.errno == EEXIST
        with pytest.raises(Refused, match="not ours"):
            kernel.apply(only(*map(Make, endpoint("web", WEB, 2)[:2])))
        kernel.apply(only(Remove(endpoint("web", WEB, 2)[1]), Remove(BRIDGE)))
        assert {link["ifname"] for link in shown("ip", "-j", "link")} == {"lo", "br-a", "veth11111111111", "far"}


@apart
def test_a_namespace_name_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    """`ip netns exec web` would lead into a namespace of another program."""
    with started(tmp_path) as kernel:
        run("ip", "netns", "add", "web")
        with pytest.raises(Refused, match="/run/netns/web is not ours") as caught:
            kernel.apply(only(Make(Namespace("web"))))
        assert caught.value.errno == EEXIST
        assert kernel.observe(Scope(frozenset({"web"}))) == frozenset()
        run("ip", "netns", "del", "web")
        kernel.apply(only(Make(Namespace("web"))))
        assert kernel.observe(Scope(frozenset({"web"}))) == {Namespace("web")}


@apart
def test_an_interface_that_the_user_made_inside_is_not_overwritten(tmp_path: Path) -> None:
    """A sandbox is its user's as well as ours."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, Namespace("web"))
        stranger("eth0", "-n", "web")
        with pytest.raises(Refused, match="eth0") as caught:
            kernel.apply(only(Make(endpoint("web", WEB, 2)[1])))
        assert caught.value.errno == EEXIST


@apart
def test_refusals_say_what_linux_said(tmp_path: Path) -> None:
    """A bare errno sends people to a search engine."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2))
        astray = Route("web", ip_network("10.1.0.0/16"), "eth0", WEB, ip_address("192.168.1.1"))
        with pytest.raises(Refused, match=r"10\.1\.0\.0/16 via .*: Nexthop has invalid gateway") as caught:
            kernel.apply(only(Make(astray)))
        assert caught.value.errno == ENETUNREACH
        with pytest.raises(Refused, match="there is no link eth9 in the namespace web") as caught:
            kernel.apply(only(Make(Address("web", "eth9", ip_interface("10.1.0.1/24"), WEB))))
        assert caught.value.errno == ENODEV


@apart
def test_a_removed_veth_is_silent_and_out_of_the_way_before_it_is_deleted(tmp_path: Path) -> None:
    """Deleting takes 25 ms: whoever disconnects shall not wait for it, and may connect again at once."""
    with started(tmp_path) as kernel:
        web = endpoint("web", WEB, 2)
        settle(kernel, *NET, *web)
        kernel.apply(only(Remove(web[1])))
        assert kernel.observe(ALL) == {*NET, Namespace("web")}
        assert kernel.dying
        assert silent(HOST, "10.9.0.2")
        assert "eth0" not in run("ip", "-n", "web", "link")
        settle(kernel, *NET, *web)
        assert pings("web", "10.9.0.1")
        kernel.reap()
        assert pings("web", "10.9.0.1")
        assert kernel.observe(ALL) == {*NET, *web}
        assert not any(link.get("group") == str(DYING) for link in shown("ip", "-j", "link"))


@apart
def test_who_gets_the_address_of_one_who_left_is_reached_at_once(tmp_path: Path) -> None:
    """With the address goes the MAC, which the bridge knew behind the port of the one who left."""
    with started(tmp_path) as kernel:
        wanted = {*NET, Namespace("web"), Namespace("db"), *endpoint("cache", Owner("a" * 64, "3" * 64), 3)}
        for netns, owner in (("web", WEB), ("db", DB)) * 3:
            settle(kernel, *wanted, *endpoint(netns, owner, 2)[1:])
            assert pings(HOST, "10.9.0.2")
        assert kernel.dying


@apart
def test_a_pair_leaves_a_bridge_that_runs_the_spanning_tree(tmp_path: Path) -> None:
    """There no port can be shut by hand; what leaves has to be silent all the same."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2))
        run("ip", "link", "set", "br-a", "type", "bridge", "stp_state", "1")
        kernel.apply(only(Remove(endpoint("web", WEB, 2)[1])))
        assert silent(HOST, "10.9.0.2")
        assert kernel.observe(ALL) == {*NET, Namespace("web")}


@apart
def test_a_link_that_was_dying_when_the_daemon_died_is_deleted_by_the_next(tmp_path: Path) -> None:
    """Nothing may be left behind that nobody knows of."""
    web = endpoint("web", WEB, 2)
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *web)
        kernel.apply(only(Remove(web[1])))
    with started(tmp_path) as kernel:
        assert [link["ifname"] for link in shown("ip", "-j", "link")] == ["lo", "br-a"]


@apart
def test_the_next_daemon_finds_everything(tmp_path: Path) -> None:
    """Containers run on without us; a restart must not touch them."""
    wanted = (*NET, *RULES, *endpoint("web", WEB, 2), *endpoint("db", DB, 3))
    with started(tmp_path) as kernel:
        settle(kernel, *wanted)
    with started(tmp_path) as kernel:
        assert not len(diff(wanted, kernel.observe(ALL)))
        assert pings("web", "10.9.0.3")


@apart
def test_a_file_without_a_namespace_is_no_namespace(tmp_path: Path) -> None:
    """A reboot takes mounts away and leaves the files where the directory is on a disk."""
    with started(tmp_path) as kernel:
        settle(kernel, Namespace("web"))
        run("umount", str(tmp_path / "netns" / "web"))
        assert kernel.observe(ALL) == frozenset()
        settle(kernel, Namespace("web"))
        assert pings("web", "127.0.0.1")


@apart
def test_namespaces_made_ahead_are_like_those_made_on_demand(tmp_path: Path) -> None:
    """Who comes when the pool is empty must not get another world."""
    with started(tmp_path) as kernel:
        kernel.prepare()
        while kernel.prepared < 4:
            os.sched_yield()
        names = [f"n{number}" for number in range(6)]
        settle(kernel, *map(Namespace, names))
        for name in names:
            assert pings(name, "127.0.0.1")
            assert run("ip", "netns", "exec", name, "sysctl", "-n", "net.ipv6.conf.default.disable_ipv6") == "1\n"
        assert len({(tmp_path / "netns" / name).stat().st_ino for name in names}) == len(names)


@apart
def test_there_may_be_more_namespaces_than_files_may_be_open(tmp_path: Path) -> None:
    """A login's limit is 1,024 files; a host may have more sandboxes than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with started(tmp_path) as kernel:
            many = [
                one
                for number in range(2, 150)
                for one in endpoint(f"n{number}", Owner("a" * 64, f"{number:04d}" * 16), number)
            ]
            settle(kernel, *NET, *many)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@apart
def test_isolated_ports_cannot_talk(tmp_path: Path) -> None:
    """`icc=false` promises it."""
    with started(tmp_path) as kernel:
        apart_from = (*endpoint("web", WEB, 2, isolated=True), *endpoint("db", DB, 3, isolated=True))
        settle(kernel, *NET, *apart_from)
        assert pings("web", "10.9.0.1")
        assert silent("web", "10.9.0.3")
        settle(kernel, *NET, *endpoint("web", WEB, 2), *endpoint("db", DB, 3))
        assert pings("web", "10.9.0.3")


@apart
def test_a_veth_changes_without_being_cut(tmp_path: Path) -> None:
    """A new MTU or bridge is no reason to lose connections."""
    with started(tmp_path) as kernel:
        other = Bridge(HOST, "br-b", Owner("b" * 64), mtu=1400, ipv6=False)
        namespace, veth, address, route = endpoint("web", WEB, 2)
        settle(kernel, *NET, other, namespace, veth, address, route)
        index = socket.if_nametoindex("veth11111111111")
        assert isinstance(veth, Veth)
        moved = replace(veth, mac="02:42:00:00:00:07", master="br-b", mtu=1400, isolated=True, announce=True)
        plan = settle(kernel, *NET, other, namespace, moved, address, route)
        assert tuple(plan) == (Change(moved, veth),)
        assert socket.if_nametoindex("veth11111111111") == index


@apart
def test_a_route_changes_its_gateway_in_one_step(tmp_path: Path) -> None:
    """Joining a second network may move the default route; there is no moment without one."""
    with started(tmp_path) as kernel:
        *rest, route = (*NET, *endpoint("web", WEB, 2))
        settle(kernel, *rest, route)
        moved = Route("web", ip_network("0.0.0.0/0"), "eth0", WEB, ip_address("10.9.0.254"))
        assert tuple(settle(kernel, *rest, moved)) == (Change(moved, route),)
        (default,) = [route for route in shown("ip", "-n", "web", "-j", "route") if route["dst"] == "default"]
        assert default["gateway"] == "10.9.0.254"


@apart
def test_a_route_of_the_hosts_is_not_replaced(tmp_path: Path) -> None:
    """Inside a sandbox ours wins; on the host, its administrator's does."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2))
        run("ip", "route", "add", "10.1.0.0/16", "via", "10.9.0.7")
        run("ip", "-n", "web", "route", "add", "10.1.0.0/16", "via", "10.9.0.7")
        prefix, via = ip_network("10.1.0.0/16"), ip_address("10.9.0.2")
        with pytest.raises(Refused, match="that is not ours"):
            kernel.apply(only(Make(Route(HOST, prefix, "br-a", NETWORK, via))))
        inner = Route("web", prefix, "eth0", WEB, ip_address("10.9.0.1"))
        kernel.apply(only(Make(inner)))
        assert inner in kernel.observe(ALL)


@apart
def test_a_route_may_lean_on_one_that_has_to_be_moved_first(tmp_path: Path) -> None:
    """Both travel in one batch, of which the kernel carries out the second though it refused the first."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2)[:3])
        gateway = ip_address("192.0.2.1")
        run("ip", "-n", "web", "route", "add", "192.0.2.1", "dev", "lo")
        direct = Route("web", ip_network("192.0.2.1/32"), "eth0", WEB)
        default = Route("web", ip_network("0.0.0.0/0"), "eth0", WEB, gateway)
        kernel.apply(only(Make(direct), Make(default)))
        assert {direct, default} <= kernel.observe(ALL)


@apart
def test_an_address_that_the_user_gave_becomes_ours(tmp_path: Path) -> None:
    """Without our mark on it, it would be made again for ever."""
    with started(tmp_path) as kernel:
        web = endpoint("web", WEB, 2)
        settle(kernel, *NET, *web[:2])
        run("ip", "-n", "web", "address", "add", "10.9.0.2/24", "dev", "eth0")
        settle(kernel, *NET, *web)


@apart
def test_a_retired_port_makes_room_on_a_full_bridge(tmp_path: Path) -> None:
    """A bridge has 1,023 ports, and one that was left a moment ago is free."""
    with started(tmp_path) as kernel:
        settle(kernel, BRIDGE, Namespace("web"))
        pairs = [
            Veth(HOST, f"veth{number}", "web", f"eth{number}", WEB, master="br-a", ipv6=False, up=False, peer_up=False)
            for number in range(1024)
        ]
        kernel.apply(only(*map(Make, pairs[:1023])))
        with pytest.raises(Refused, match="1,023 ports"):
            kernel.apply(only(Make(pairs[1023])))
        kernel.apply(only(Remove(pairs[0])))
        kernel.apply(only(Make(pairs[1023])))
        assert pairs[1023].key in {resource.key for resource in kernel.observe(ALL)}


@apart
def test_removing_gathers_what_is_refused_and_goes_on(tmp_path: Path) -> None:
    """One thing that will not go must not keep the others alive."""
    with started(tmp_path) as kernel:
        web = endpoint("web", WEB, 2)
        settle(kernel, *NET, *web)
        (tmp_path / "netns" / "bad").mkdir()
        with pytest.raises(ExceptionGroup) as caught:
            kernel.apply(only(Remove(Namespace("bad")), Remove(web[1]), Remove(BRIDGE)))
        (refused,) = caught.value.exceptions
        assert isinstance(refused, Refused)
        assert "ip netns delete bad" in str(refused)
        assert kernel.observe(ALL) == {Namespace("web")}


@apart
def test_a_port_keeps_what_it_had_when_it_leaves(tmp_path: Path) -> None:
    """The uplink is the administrator's."""
    with started(tmp_path) as kernel:
        stranger("up0")
        port = Port(HOST, "up0", "br-a", NETWORK)
        settle(kernel, BRIDGE, port)
        assert [link["ifname"] for link in shown("bridge", "-j", "link")] == ["up0"]
        mac = shown("ip", "-j", "link", "show", "up0")[0]["address"]
        assert kernel.host().link("up0") == HostLink("up0", "veth", 1450, mac=mac)
        settle(kernel, BRIDGE)
        assert shown("bridge", "-j", "link") == []
        assert "UP" in shown("ip", "-j", "link", "show", "up0")[0]["flags"]


@apart
def test_the_host_is_what_is_not_ours(tmp_path: Path) -> None:
    """Subnets are chosen so that they meet no route of others; our own must not count."""
    with started(tmp_path) as kernel:
        stranger("lan0")
        run("ip", "address", "add", "192.168.7.5/24", "dev", "lan0")
        run("ip", "route", "add", "default", "via", "192.168.7.1")
        run("ip", "route", "add", "10.50.0.0/16", "via", "192.168.7.1")
        settle(kernel, *NET, *endpoint("web", WEB, 2))
        host = kernel.host()
        lan = host.link("lan0")
        assert lan is not None
        assert (lan.kind, lan.mtu) == ("veth", 1450)
        assert ip_interface("192.168.7.5/24") in lan.addresses
        assert {link.name for link in host.links} == {"lo", "lan0", "far"}
        assert set(host.routes) == {"192.168.7.0/24", "10.50.0.0/16"}


@apart
def test_counters_are_read_by_what_they_count(tmp_path: Path) -> None:
    """`isthmus network inspect` shows what was masqueraded."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *RULES)
        assert [(one.set, one.match, one.packets) for one in kernel.counts()] == [("masquerade4", ("br-a",), 0)]


@apart
def test_elements_of_all_kinds_come_back_as_firewall_makes_them(tmp_path: Path) -> None:
    """An element that reads differently than it was written would be withdrawn and given again for ever."""
    policies = (
        Policy("br-a", Mode.NAT, Mode.ROUTED, trusted=("lo", "0eth")),
        Policy("br-b", Mode.UNPROTECTED, Mode.NAT, source4=IPv4Address("192.0.2.1"), source6=IPv6Address("fd00::1")),
        Policy("br-c", Mode.ISOLATED, None, internal=True, icc=False),
    )
    elements = {element for policy in policies for element in firewall.elements(policy)}
    elements |= {*firewall.closed(4, ("lan0", "lan1")), *firewall.closed(6, ("lan0",))}
    with started(tmp_path) as kernel:
        # Once by messages, and once by the program.
        kernel.apply(diff((firewall.table(),), ()))
        kernel.apply(diff((firewall.table(), *elements), (firewall.table(),)))
        assert kernel.observe(ALL) == {firewall.table(), *elements}
        run("nft", "delete", "table", "inet", "isthmus")
        kernel.apply(diff((firewall.table(), *elements), ()))
        assert kernel.observe(Scope(firewall=True)) == {firewall.table(), *elements}


@apart
def test_a_refused_batch_of_elements_is_done_all_the_same(tmp_path: Path) -> None:
    """Somebody took one of two elements away: that must not keep the other in place."""
    with started(tmp_path) as kernel:
        settle(kernel, *RULES)
        one, other = (element for element in RULES if isinstance(element, Element) and element.set.startswith("enter"))
        run("nft", "delete", "element", "inet", "isthmus", "enter4", "{ br-a }")
        kernel.apply(Plan(loosen=(Remove(one), Remove(other))))
        assert not {one, other} & kernel.observe(ALL)


@apart
def test_removing_elements_of_a_table_that_is_gone_is_success(tmp_path: Path) -> None:
    """To make the table anew for that, without the elements of other networks, would be worse than nothing."""
    with started(tmp_path) as kernel:
        settle(kernel, *RULES)
        run("nft", "flush", "ruleset")
        kernel.apply(Plan(loosen=tuple(Remove(one) for one in RULES if isinstance(one, Element))))
        assert kernel.observe(ALL) == frozenset()


@apart
def test_elements_for_a_damaged_table_come_with_a_new_one(tmp_path: Path) -> None:
    """The engine knows only of its own network; the rules of the others are brought back with it."""
    with started(tmp_path) as kernel:
        settle(kernel, *RULES)
        run("nft", "flush", "chain", "inet", "isthmus", "forward")
        run("nft", "delete", "set", "inet", "isthmus", "trusted")
        trusted = Element("trusted", ("lo", "br-a"), permits=True)
        kernel.apply(Plan(loosen=(Make(trusted),)))
        assert kernel.observe(ALL) == {*RULES, trusted}


@apart
def test_a_newer_version_of_the_table_keeps_the_users_chain(tmp_path: Path) -> None:
    """An upgrade must not open a host that its administrator closed."""
    with started(tmp_path) as kernel:
        settle(kernel, *RULES)
        run("nft", "add", "rule", "inet", "isthmus", "user-forward", "tcp", "dport", "25", "drop")
        digest = firewall.DIGEST
        run("nft", "rename", "chain", "inet", "isthmus", f"version-{digest}", "version-0")
        assert Table("0") in kernel.observe(ALL)
        settle(kernel, *RULES)
        assert "tcp dport 25 drop" in run("nft", "list", "chain", "inet", "isthmus", "user-forward")


@apart
def test_two_networks_may_have_the_same_link_names_in_turn(tmp_path: Path) -> None:
    """A link that was ours is replaced, not adopted, when it belongs to another endpoint."""
    with started(tmp_path) as kernel:
        namespace, veth, *_ = endpoint("web", WEB, 2)
        settle(kernel, *NET, namespace, veth)
        other = Veth(HOST, "veth11111111111", "web", "eth0", DB, master="br-a", ipv6=False)
        settle(kernel, *NET, namespace, other)
        assert mark(DB) in run("ip", "link", "show", "veth11111111111")


@apart
def test_who_shares_a_namespace_is_known_by_a_name_of_his_own(tmp_path: Path) -> None:
    """`ip netns exec side` goes where `side` is; the name of somebody else's is refused, and left alone."""
    with started(tmp_path) as kernel:
        web, side = Namespace("web"), Nickname("side", "web")
        both = Scope(namespaces=frozenset({"web"}), nicknames=frozenset({"side"}))
        kernel.apply(diff((web, side), ()))
        assert kernel.observe(both) == {web, side}
        assert kernel.observe(ALL) >= {web, side}
        assert run("ip", "netns", "exec", "side", "ip", "-o", "link") == run("ip", "-n", "web", "-o", "link")
        run("ip", "netns", "add", "taken")
        with pytest.raises(Refused, match="taken is not ours") as refused:
            kernel.apply(diff((web, Nickname("taken", "web")), (web,)))
        assert refused.value.errno == EEXIST
        kernel.apply(diff((), (web, side)))
        assert not kernel.observe(both)
        assert {path.name for path in Path("/run/netns").iterdir()} == {"taken"}
        run("ip", "netns", "delete", "taken")


@apart
def test_who_else_filters_what_is_forwarded_is_seen(tmp_path: Path) -> None:
    """Only then do frames on our bridges have to take the way through the packet filter."""
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        pytest.skip("this kernel has no br_netfilter")
    with started(tmp_path) as kernel:
        settle(kernel, Table(firewall.DIGEST))
        assert kernel.host().frames_filtered is False
        run("nft", "add", "table", "ip", "theirs")
        run("nft", "add", "chain", "ip", "theirs", "in", "{ type filter hook input priority 0; }")
        assert kernel.host().frames_filtered is False
        run("nft", "add", "chain", "ip", "theirs", "through", "{ type filter hook forward priority 0; }")
        assert kernel.host().frames_filtered is True


@apart
def test_the_chain_for_detoured_frames_comes_and_goes(tmp_path: Path) -> None:
    """Who need not make the detour does not pay for it; the user's chain stays through both changes."""
    with started(tmp_path) as kernel:
        plain, detoured = firewall.table(), firewall.table((firewall.DETOUR,))
        settle(kernel, plain, *RULES[1:])
        run("nft", "add", "rule", "inet", "isthmus", "user-forward", "tcp", "dport", "25", "drop")
        assert "chain before" not in run("nft", "list", "table", "inet", "isthmus")
        settle(kernel, detoured, *RULES[1:])
        assert "chain before" in run("nft", "list", "table", "inet", "isthmus")
        run("nft", "delete", "chain", "inet", "isthmus", "before")
        settle(kernel, detoured, *RULES[1:])
        assert "chain before" in run("nft", "list", "table", "inet", "isthmus")
        settle(kernel, plain, *RULES[1:])
        text = run("nft", "list", "table", "inet", "isthmus")
        assert "chain before" not in text
        assert "tcp dport 25 drop" in text


@apart
def test_what_stands_in_the_table_stays_while_what_is_optional_comes_and_goes(tmp_path: Path) -> None:
    """Another network's option is no reason to refuse a connection, or to forget who may call what."""
    element = "tcp . 8080 counter packets 5 bytes 300 : 10.5.0.2 . 80"
    granted = "br-a . 10.5.0.2 . tcp . 443 . 203.0.113.9 timeout 1h"
    with started(tmp_path) as kernel:
        port = Element("publish4", ("6", "8080"), permits=True, value="10.5.0.2 . 80")
        settle(kernel, *RULES)
        run("nft", f"add element inet isthmus publish4 {{ {element} }}")
        run("nft", f"add element inet isthmus granted4 {{ {granted} }}")
        version = firewall.DIGEST
        for needed in (("egress", "trusted"), ("called", "trusted"), firewall.OPTIONAL, ("source6",), ()):
            settle(kernel, firewall.table(needed), port, *RULES[1:])
            text = run("nft", "list", "ruleset")
            assert ("packets 5 bytes 300 : 10.5.0.2 . 80" in text, "203.0.113.9 timeout 1h" in text) == (True, True)
            assert text.count(f"chain version-{version}") == 1
            assert ("jump called" in text, "@trusted" in text) == ("called" in needed, "trusted" in needed)


@apart
def test_a_table_that_is_not_as_it_was_thought_to_be_is_loaded_anew(tmp_path: Path) -> None:
    """What somebody took out of it meanwhile is back, with all elements."""
    with started(tmp_path) as kernel:
        settle(kernel, *RULES)
        trusted = firewall.table(("trusted",))
        run("nft", "delete", "chain", "inet", "isthmus", f"version-{firewall.DIGEST}")
        kernel.apply(diff((trusted, *RULES[1:]), RULES))
        assert kernel.observe(ALL) == {trusted, *RULES[1:]}
        run("nft", "flush", "ruleset")
        kernel.apply(diff(RULES, (trusted, *RULES[1:])))
        assert kernel.observe(Scope(firewall=True)) == {firewall.table()}


def child(netns: str, owner: Owner, number: int) -> tuple[Resource, ...]:
    """Return a namespace of this name with a macvlan on lan0, and the address 10.8.0.*number*."""
    return (
        Namespace(netns),
        Child(netns, "eth0", "lan0", "macvlan", "bridge", owner, mac=f"02:42:0a:08:00:{number:02x}", ipv6=False),
        Address(netns, "eth0", ip_interface(f"10.8.0.{number}/24"), owner),
        Route(netns, ip_network("0.0.0.0/0"), "eth0", owner, ip_address("10.8.0.1")),
    )


def unmarked(name: str, mode: str) -> None:
    """Leave what a death between the birth of a child and its mark leaves."""
    add = f"ip link add link lan0 name {name} group {DYING} netns web type macvlan mode {mode}"
    run(*add.split())


@apart
def test_children_of_one_parent_reach_each_other_and_the_hosts_shim(tmp_path: Path) -> None:
    """A network on the LAN is made for this."""
    stranger("lan0")
    shim: tuple[Resource, ...] = (
        Child(HOST, "shim0", "lan0", "macvlan", "bridge", NETWORK, mac="02:42:0a:08:00:fe", ipv6=False),
        Address(HOST, "shim0", ip_interface("10.8.0.254/24"), NETWORK),
        Route(HOST, ip_network("10.8.0.2/32"), "shim0", NETWORK),
    )
    with started(tmp_path) as kernel:
        settle(kernel, *child("web", WEB, 2), *child("db", DB, 3), *shim)
        assert pings("web", "10.8.0.3")
        assert pings("web", "10.8.0.254")
        assert pings(HOST, "10.8.0.2")
        (link,) = shown("ip", "-n", "web", "-j", "-d", "link", "show", "eth0")
        assert (link["linkinfo"]["info_data"]["mode"], link["group"]) == ("bridge", "default")
        assert shown("ip", "-n", "web", "-6", "-j", "addr", "show", "eth0") in ([], [{}])


@apart
def test_a_child_announces_its_address_when_it_goes_up(tmp_path: Path) -> None:
    """Somebody on the LAN may know another MAC for it; so it goes up after it has its addresses."""
    stranger("lan0")
    run("ip", "address", "add", "10.8.0.1/24", "dev", "far")
    run("ip", "neighbour", "replace", "10.8.0.2", "lladdr", "02:42:0a:08:00:99", "dev", "far", "nud", "stale")
    namespace, link, *rest = child("web", WEB, 2)
    assert isinstance(link, Child)
    with started(tmp_path) as kernel:
        settle(kernel, namespace, replace(link, announce=True), *rest)
        (known,) = shown("ip", "-j", "neighbour", "show", "10.8.0.2", "dev", "far")
        assert known["lladdr"] == "02:42:0a:08:00:02"


@apart
def test_the_next_daemon_finds_what_stands_on_a_wire(tmp_path: Path) -> None:
    """Containers run on without us; a restart must not touch them."""
    stranger("lan0")
    wanted = (*child("web", WEB, 2), *child("db", DB, 3))
    with started(tmp_path) as kernel:
        settle(kernel, *wanted)
    with started(tmp_path) as kernel:
        assert not len(diff(wanted, kernel.observe(ALL)))
        assert pings("web", "10.8.0.3")


@apart
def test_a_child_that_was_born_and_not_marked_is_reaped(tmp_path: Path) -> None:
    """We may die between the two messages: what is left must neither stay nor be in the way."""
    stranger("lan0")
    web = child("web", WEB, 2)
    with started(tmp_path) as kernel:
        settle(kernel, web[0])
        unmarked("eth0", "bridge")
        settle(kernel, *web)
        settle(kernel, web[0])
        unmarked("eth1", "passthru")
    with started(tmp_path) as kernel:
        settle(kernel, *web)
        kernel.reap()
        assert [link["ifname"] for link in shown("ip", "-n", "web", "-j", "link")] == ["lo", "eth0"]


@apart
def test_what_is_refused_leaves_nothing_without_a_mark_behind(tmp_path: Path) -> None:
    """What was born before another operation was refused waits for nobody."""
    stranger("lan0")
    astray = Route("web", ip_network("10.1.0.0/16"), "eth0", WEB, ip_address("192.168.1.1"))
    with started(tmp_path) as kernel:
        settle(kernel, Namespace("web"), Namespace("db"))
        with pytest.raises(Refused):
            kernel.apply(only(Make(child("web", WEB, 2)[1]), Make(child("db", DB, 3)[1]), Make(astray)))
        kernel.reap()
        born = {name: [link["ifname"] for link in shown("ip", "-n", name, "-j", "link")] for name in ("web", "db")}
        assert born == {"web": ["lo", "eth0"], "db": ["lo"]}


@apart
def test_a_parent_that_went_elsewhere_is_no_parent(tmp_path: Path) -> None:
    """Its children live on, but the network that they were on is gone; here, another link may have its index."""
    stranger("lan0")
    web = child("web", WEB, 2)
    with started(tmp_path) as kernel:
        run("ip", "netns", "add", "elsewhere")
        settle(kernel, *web)
        index = socket.if_nametoindex("lan0")
        run("ip", "link", "set", "lan0", "netns", "elsewhere")
        run("ip", "link", "add", "lan0", "index", str(index), "type", "bridge")
        assert len(settle(kernel, *web))
        assert socket.if_nametoindex("lan0") == index
        run("ip", "netns", "del", "elsewhere")


ASTRAY = Child("web", "eth1", "lan0", "macvlan", "bridge", DB, mac="02:42:0a:08:00:03")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (replace(ASTRAY, parent="nope"), "there is no link nope in the host's namespace"),
        (replace(ASTRAY, parent="lo"), "lo leads nowhere"),
        (replace(ASTRAY, mtu=1451), "its MTU cannot be above that of lan0, 1450"),
        (
            replace(ASTRAY, mode="passthru"),
            "in passthru mode a macvlan is the only one on its parent, and lan0 would have two",
        ),
        (replace(ASTRAY, mac="02:42:0a:08:00:02"), "lan0, or another link on it, has the MAC 02:42:0a:08:00:02"),
        (replace(ASTRAY, parent="up0"), "up0 is a port of a bridge; take another parent, or that bridge"),
        (replace(ASTRAY, name="lo"), "a link named lo is in the namespace web already, and is not ours"),
    ],
    ids=repr,
)
@apart
def test_a_refused_child_is_told_why(tmp_path: Path, wrong: Child, reason: str) -> None:
    """Linux has one errno for all of them, and no words."""
    stranger("lan0")
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
    with started(tmp_path) as kernel:
        settle(kernel, BRIDGE, *child("web", WEB, 2))
        run("ip", "link", "set", "up0", "master", "br-a")
        with pytest.raises(Refused) as refused:
            kernel.apply(only(Make(wrong)))
        assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("resource", "module"),
    [
        (Child("web", "eth0", "lan0", "ipvlan", "l2", WEB), "ipvlan"),
        (Vlan(HOST, "lan0.5", "lan0", 5, NETWORK), "8021q"),
    ],
    ids=["ipvlan", "vlan"],
)
@apart
def test_a_kernel_without_a_kind_of_link_says_which_module_it_lacks(
    tmp_path: Path, resource: Resource, module: str
) -> None:
    """`Operation not supported` sends people to a search engine."""
    stranger("lan0")
    with started(tmp_path) as kernel:
        settle(kernel, Namespace("web"))
        try:
            kernel.apply(only(Make(resource)))
        except Refused as refused:
            assert f"load its module (modprobe {module})" in refused.reason  # noqa: PT017
        else:
            pytest.skip("this kernel has all modules")
