"""What the watch hears of what others do to our things, and that it does not hear us."""

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from isthmus.kernel import Appeared, FirewallTouched, Lost, Missed, News, PathChanged, Retold, Routed, Shaken
from isthmus.kernel.linux import LinuxKernel
from isthmus.kernel.watch import Watch
from isthmus.model import HOST
from isthmus.plan import Make, Plan, Remove
from isthmus.resources import (
    NOBODY,
    Address,
    Bridge,
    Child,
    Forwarding,
    Ifb,
    Namespace,
    Neighbour,
    Port,
    Redirect,
    Resource,
    Route,
    Rule,
    Shaper,
    Veth,
    Vxlan,
)
from isthmus.wire.packets import announcement, encode
from tests.kernel.realm import apart, needs_shaping, run, started
from tests.kernel.test_linux import DB, NET, NETWORK, RULES, WEB, endpoint, settle, stranger

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

SECONDS = 5


@contextmanager
def watching(directory: Path, kernel: LinuxKernel) -> Iterator[Watch]:
    """Hold a watch during the block, which has heard nothing yet."""
    watch = Watch(directory / "netns", kernel.firewall_port)
    try:
        yield watch
    finally:
        watch.close()


def heard(watch: Watch, awaited: News) -> set[News]:
    """Return all news up to the *awaited* one, which must come in time."""
    news: set[News] = set()
    end = time.monotonic() + SECONDS
    while awaited not in news:
        ready, _, _ = select.select([watch], (), (), max(0, end - time.monotonic()))
        assert ready, f"only {news} was heard of, not {awaited}"
        news.update(watch.read())
    return news


def heard_by_now(watch: Watch) -> set[News]:
    """Return all that was heard. The kernel tells before the system call of who did it returns."""
    return set(watch.read())


@pytest.mark.parametrize(
    ("command", "news"),
    [
        ("ip -n web route del default", Shaken("web")),
        ("ip -n web route flush table 1073741824", Shaken("web")),
        ("ip -n web rule del from 10.5.0.2", Shaken("web")),
        ("ip -n web -6 rule del from fd00::2", Shaken("web")),
        ("ip -n web addr flush dev eth0", Shaken("web")),
        ("ip -n web link set eth0 down", Lost(WEB)),
        ("ip -n web link del eth0", Lost(WEB)),
        ("ip netns delete web", Shaken("web")),
        ("ip link set br-a down", Lost(NETWORK)),
        ("ip link del br-a", Lost(NETWORK)),
        ("ip addr flush dev br-a", Shaken(HOST)),
        ("ip link set veth11111111111 down", Lost(WEB)),
        ("ip link set veth11111111111 nomaster", Lost(WEB)),
        ("ip link del veth11111111111", Lost(WEB)),
        ("ip link set up0 nomaster", Lost(NETWORK)),
        ("ip link set up0 down", Lost(NETWORK)),
        ("ip link del up0", Lost(NETWORK)),
        ("nft flush ruleset", FirewallTouched()),
        ("nft delete table inet isthmus", FirewallTouched()),
        ("nft flush chain inet isthmus forward", FirewallTouched()),
        ("nft insert rule inet isthmus forward accept", FirewallTouched()),
        ("nft delete element inet isthmus enter4 { br-a }", FirewallTouched()),
        ("nft add element inet isthmus trusted { lo . br-a }", FirewallTouched()),
    ],
)
@apart
def test_what_others_do_to_ours_is_heard(tmp_path: Path, command: str, news: News) -> None:
    """What nobody hears of stays broken until the next start."""
    with started(tmp_path) as kernel:
        stranger("up0")
        uplink = Port(HOST, "up0", "br-a", NETWORK)
        table = 1 << 30
        back = Route("web", ip_network("10.5.0.0/24"), "eth0", WEB, table=table)
        rules = (Rule("web", ip_address("10.5.0.2"), table), Rule("web", ip_address("fd00::2"), table))
        settle(kernel, *NET, *RULES, uplink, *endpoint("web", WEB, 2), back, *rules, *endpoint("db", DB, 3))
        with watching(tmp_path, kernel) as watch:
            run(*command.split())
            assert news in heard(watch, news)


@apart
def test_of_what_others_do_to_their_own_only_what_may_concern_us_is_heard(tmp_path: Path) -> None:
    """A busy host would have the engine look all the time."""
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *RULES, *endpoint("web", WEB, 2))
        with watching(tmp_path, kernel) as watch:
            stranger("lan0")
            assert heard_by_now(watch) == {Appeared("lan0"), Appeared("far")}
            run("ip", "address", "add", "192.168.7.5/24", "dev", "lan0")
            run("ip", "route", "add", "10.50.0.0/16", "via", "192.168.7.1")
            assert heard_by_now(watch) == {
                Routed("192.168.7.0/24"),
                Routed("10.50.0.0/16"),
                PathChanged(),
            }
            run("ip", "link", "set", "lan0", "alias", "their own")
            run("ip", "link", "set", "lan0", "mtu", "1450")  # as it is
            run("ip", "route", "add", "default", "via", "192.168.7.1", "table", "1000")
            run("ip", "route", "add", "unreachable", "10.51.0.0/16")
            run("ip", "route", "add", "local", "10.52.0.0/16", "dev", "lan0")
            run("ip", "route", "del", "10.50.0.0/16")
            assert heard_by_now(watch) == set()
            run("ip", "address", "flush", "dev", "lan0")
            assert heard_by_now(watch) == {PathChanged()}
            run("ip", "-n", "web", "address", "add", "192.168.7.5/24", "dev", "lo")
            run("ip", "-n", "web", "address", "del", "192.168.7.5/24", "dev", "lo")
            run("nft", "add", "table", "inet", "other")
            run("nft", "delete", "table", "inet", "other")
            run("nft", "add", "rule", "inet", "isthmus", "user-forward", "accept")
            run("nft", "flush", "chain", "inet", "isthmus", "user-forward")
            assert heard_by_now(watch) == set()


@apart
def test_our_own_doing_is_not_heard(tmp_path: Path) -> None:
    """Each attach and detach would be followed by a look at what was just done."""
    with started(tmp_path) as kernel:
        wanted = (*NET, *RULES, *endpoint("web", WEB, 2))
        settle(kernel, *wanted)
        with watching(tmp_path, kernel) as watch:
            settle(kernel, *wanted, *endpoint("db", DB, 3))
            assert heard_by_now(watch) == set()
            assert select.select([watch], (), (), 0)[0] == []
            settle(kernel, *wanted)
            kernel.reap()
            assert heard_by_now(watch) == set()
            kernel.apply(Plan(remove=(Remove(endpoint("web", WEB, 2)[1]),)))
            assert heard_by_now(watch) == set()
            kernel.reap()
            assert heard_by_now(watch) == set()


@apart
def test_a_namespace_made_later_is_heard_by_its_own_name(tmp_path: Path) -> None:
    """The kernel gives the number of a dead namespace to the next: the engine would look into the wrong one."""
    with started(tmp_path) as kernel, watching(tmp_path, kernel) as watch:
        for netns, owner in (("web", WEB), ("db", DB), ("web", WEB)):
            settle(kernel, *NET, *endpoint(netns, owner, 2))
            run("ip", "-n", netns, "route", "del", "default")
            assert {news for news in heard(watch, Shaken(netns)) if isinstance(news, Shaken)} == {Shaken(netns)}
            settle(kernel, *NET)
            kernel.reap()
            watch.read()


@apart
def test_ipv6_is_heard_like_ipv4(tmp_path: Path) -> None:
    """Its routes and addresses go by other ways in the kernel."""
    with started(tmp_path) as kernel:
        namespace = Namespace("web")
        veth = Veth(HOST, "veth1", "web", "eth0", WEB, master="br-a", ipv6=True)
        address = Address("web", "eth0", ip_interface("fd00:9::2/64"), WEB)
        route = Route("web", ip_network("::/0"), "eth0", WEB, ip_interface("fd00:9::1/64").ip)
        six = (namespace, veth, address, route)
        settle(kernel, *NET, *six)
        with watching(tmp_path, kernel) as watch:
            run("ip", "-n", "web", "-6", "route", "del", "default")
            assert Shaken("web") in heard(watch, Shaken("web"))
            run("ip", "-n", "web", "address", "del", "fd00:9::2/64", "dev", "eth0")
            assert Shaken("web") in heard(watch, Shaken("web"))


@pytest.mark.parametrize(
    ("commands", "news"),
    [
        (("ip link add lan0 type bridge",), {Appeared("lan0")}),
        (("ip link set up0 down", "ip link set up0 up"), {Appeared("up0"), PathChanged()}),
        (
            ("ip link set up0 down", "ip link set up0 name lan0", "ip link set lan0 up"),
            {Appeared("lan0"), PathChanged()},
        ),
        (("ip link set up0 mtu 1400",), {PathChanged()}),
        (("ip link set up0 mtu 1400", "ip link set up0 mtu 1450"), {PathChanged()}),
        (("ip route add default dev up0",), {PathChanged()}),
        (("ip route add default dev up0", "ip route del default"), {PathChanged()}),
        (("ip -6 route add default dev up0",), {PathChanged()}),
        (("ip link del up0",), {PathChanged()}),
        (("ip link add vethabcdef type veth peer name vp0",), {Appeared("vethabcdef"), Appeared("vp0")}),
        (("ip -6 route add fd09::/64 dev up0",), {Routed("fd09::/64")}),
        (("ip route add 10.7.0.0/16 dev up0 table 1000",), {Routed("10.7.0.0/16")}),
        (("ip route add 10.7.0.0/16 dev up0 proto 105",), set()),
        (("ip route add 10.7.0.0/16 dev br-a",), set()),
        (("ip address add 10.7.0.1/16 dev br-a",), set()),
        (("ip address add 10.7.0.1/32 dev up0",), {PathChanged()}),
        (("ip address add 10.7.0.1/32 dev up0", "ip address del 10.7.0.1/32 dev up0"), {PathChanged()}),
        (("ip address add 10.7.0.1/32 dev up0 scope link",), set()),
    ],
    ids=str,
)
@apart
def test_what_others_bring_is_heard(tmp_path: Path, commands: tuple[str, ...], news: set[News]) -> None:
    """A network waits for its parent, and a new route may lie over a subnet of ours."""
    with started(tmp_path) as kernel:
        stranger("up0")
        settle(kernel, *NET)
        with watching(tmp_path, kernel) as watch:
            for command in commands:
                run(*command.split())
            assert heard_by_now(watch) == news


CHILD = Child("web", "eth0", "up0", "macvlan", "bridge", WEB, mac="02:42:0a:09:00:02", ipv6=False)
SHIM = Child(HOST, "shim0", "up0", "macvlan", "bridge", NETWORK, mac="02:42:0a:09:00:09", ipv6=False)
LAN = (
    Namespace("web"),
    CHILD,
    Address("web", "eth0", ip_interface("10.9.0.2/24"), WEB),
    Route("web", ip_network("0.0.0.0/0"), "eth0", WEB, ip_address("10.9.0.1")),
    SHIM,
    Route(HOST, ip_network("10.9.0.2/32"), "shim0", NETWORK),
)


@pytest.mark.parametrize(
    ("command", "news"),
    [
        ("ip -n web link del eth0", {Lost(WEB)}),
        ("ip -n web link set eth0 down", {Lost(WEB)}),
        ("ip -n web route del default", {Shaken("web")}),
        ("ip -n web addr flush dev eth0", {Shaken("web")}),
        ("ip link del shim0", {Lost(NETWORK)}),
        ("ip link del up0", {Lost(WEB), Lost(NETWORK)}),
    ],
)
@apart
def test_what_others_do_to_our_children_is_heard(tmp_path: Path, command: str, news: set[News]) -> None:
    """A macvlan goes with its parent, and the kernel ties its namespace to ours only if told to."""
    with started(tmp_path) as kernel:
        stranger("up0")
        settle(kernel, *LAN)
        with watching(tmp_path, kernel) as watch:
            run(*command.split())
            assert news <= heard_by_now(watch)


@apart
def test_our_own_doing_to_children_is_not_heard(tmp_path: Path) -> None:
    """Nobody is even woken when one is attached."""
    with started(tmp_path) as kernel:
        stranger("up0")
        with watching(tmp_path, kernel) as watch:
            settle(kernel, *LAN[:4])
            assert select.select([watch], (), (), 0)[0] == []
            settle(kernel, *LAN)
            assert heard_by_now(watch) == set()
            settle(kernel, LAN[0])
            assert heard_by_now(watch) == set()


LIMITS: tuple[Resource, ...] = (
    Shaper(HOST, "veth11111111111", 10**8),
    Ifb(HOST, "ifb11111111111", WEB),
    Shaper(HOST, "ifb11111111111", 10**7),
    Redirect(HOST, "veth11111111111", "ifb11111111111"),
)


@pytest.mark.parametrize(
    "command",
    [
        "tc qdisc del dev veth11111111111 root",
        "tc qdisc replace dev veth11111111111 root pfifo",
        "tc qdisc del dev ifb11111111111 root",
        "tc qdisc del dev veth11111111111 clsact",
        "tc filter del dev veth11111111111 ingress",
        "ip link del ifb11111111111",
        "ip link set ifb11111111111 down",
    ],
)
@apart
def test_what_others_do_to_limits_is_heard(tmp_path: Path, command: str) -> None:
    """A sandbox that is let loose takes all there is from the others."""
    needs_shaping()
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2), *LIMITS)
        with watching(tmp_path, kernel) as watch:
            run(*command.split())
            assert heard_by_now(watch) == {Lost(WEB)}


@apart
def test_our_own_doing_to_limits_is_not_heard(tmp_path: Path) -> None:
    """Nor what others do to qdiscs of their own."""
    needs_shaping()
    with started(tmp_path) as kernel:
        stranger("up0")
        run("tc", "qdisc", "replace", "dev", "up0", "root", "pfifo")
        settle(kernel, *NET)
        with watching(tmp_path, kernel) as watch:
            settle(kernel, *NET, *endpoint("web", WEB, 2), *LIMITS)
            settle(kernel, *NET, *endpoint("web", WEB, 2), Shaper(HOST, "veth11111111111", 10**6), *LIMITS[1:])
            run("tc", "qdisc", "del", "dev", "up0", "root")
            assert heard_by_now(watch) == set()
            settle(kernel, *NET)
            kernel.reap()
            assert heard_by_now(watch) == set()


HOME, FAR, NEAR = "_ov-1", "02:00:00:00:00:09", "02:00:00:00:00:02"
PORT = Veth(HOME, "veth1", "web", "eth0", WEB, NEAR, "br0", told=True, ipv6=False)
OVERLAY: tuple[Resource, ...] = (
    Namespace(HOME),
    Namespace("web"),
    Bridge(HOME, "br0", NETWORK),
    Vxlan(HOME, "vxlan7", 7, "br0", NETWORK, 4789, asking=True),
    PORT,
    Forwarding(HOME, "veth1", NEAR, master="br0"),
    Address("web", "eth0", ip_interface("10.0.9.2/24"), WEB),
)


@apart
def test_whom_a_tunnel_was_not_told_of_is_heard_when_somebody_looks_for_him(tmp_path: Path) -> None:
    """And from then on not any more: a host that holds only whom it talks to must learn of whom it would talk to."""
    with started(tmp_path) as kernel:
        settle(kernel, *OVERLAY)
        with watching(tmp_path, kernel) as watch:
            asked = Missed(HOME, ip_address("10.0.9.9"))
            pinging = Popen(
                ("ip", "netns", "exec", "web", "ping", "-c", "100", "-i", "0.1", "10.0.9.9"), stdout=DEVNULL
            )
            try:
                heard(watch, asked)
                kernel.apply(Plan(make=(Make(Neighbour(HOME, "vxlan7", ip_address("10.0.9.9"), FAR)),)))
                kernel.send(HOME, "br0", [encode(announcement(FAR, ip_address("10.0.9.9")))])
                # Now it is known who he is, but not where.
                heard(watch, Missed(HOME, FAR))
            finally:
                pinging.terminate()
                pinging.wait()


def peers(count: int, first: int = 9, via: str = "192.0.2.2") -> tuple[Forwarding | Neighbour, ...]:
    """What the tunnel is told of so many endpoints elsewhere, from `FAR` on."""
    told: list[Forwarding | Neighbour] = []
    for number in range(first, first + count):
        mac = (0x0200_0000_0000 + number).to_bytes(6, "big").hex(":")
        addresses = (ip_address("10.0.0.0") + number, ip_address("fd09::") + number)
        told.append(Forwarding(HOME, "vxlan7", mac, ip_address(via)))
        told.extend(Neighbour(HOME, "vxlan7", address, mac) for address in addresses)
    return tuple(told)


NINE, NINE6, OTHER = ip_address("10.0.0.9"), ip_address("fd09::9"), "02:00:00:00:00:77"


@pytest.mark.parametrize(
    ("command", "news"),
    [
        (f"bridge fdb del {FAR} dev vxlan7 dst 192.0.2.2", Retold(HOME, FAR, gone=True)),
        (f"bridge fdb replace {FAR} dev vxlan7 dst 192.0.2.3", Retold(HOME, FAR, gone=False)),
        (f"bridge fdb replace {FAR} dev vxlan7 dst 192.0.2.3 self static", Retold(HOME, FAR, gone=False)),
        (f"bridge fdb add {OTHER} dev vxlan7 dst 192.0.2.3", Retold(HOME, OTHER, gone=False)),
        (f"bridge fdb append {NOBODY} dev vxlan7 dst 192.0.2.3", Retold(HOME, NOBODY, gone=False)),
        (f"bridge fdb del {NEAR} dev veth1 master", Retold(HOME, NEAR, gone=True)),
        ("ip neigh del 10.0.0.9 dev vxlan7", Retold(HOME, NINE, gone=True)),
        ("ip neigh flush dev vxlan7 nud permanent", Retold(HOME, NINE, gone=True)),
        (f"ip neigh replace 10.0.0.9 lladdr {OTHER} dev vxlan7", Retold(HOME, NINE, gone=False)),
        (f"ip neigh replace 10.0.0.9 lladdr {FAR} dev vxlan7 nud stale", Retold(HOME, NINE, gone=False)),
        ("ip neigh del fd09::9 dev vxlan7", Retold(HOME, NINE6, gone=True)),
        (f"ip neigh replace fd09::9 lladdr {OTHER} dev vxlan7", Retold(HOME, NINE6, gone=False)),
    ],
)
@apart
def test_what_others_say_to_a_tunnel_or_a_port_of_who_is_where_is_heard_until_it_is_mended(
    tmp_path: Path, command: str, news: Retold
) -> None:
    """Else packets go astray until the next look at all. To put it back does not go on for ever."""
    with started(tmp_path) as kernel:
        wanted = (*OVERLAY, *peers(1))
        settle(kernel, *wanted)
        with watching(tmp_path, kernel) as watch:
            run("ip", "netns", "exec", HOME, *command.split())
            assert heard_by_now(watch) >= {news}
            assert len(settle(kernel, *wanted))
            # What somebody else has made or replaced stays without our flag, so of mending it is heard once.
            assert {one.where for one in heard_by_now(watch) if isinstance(one, Retold)} <= {news.where}
            assert not len(settle(kernel, *wanted))
            assert heard_by_now(watch) == set()


@apart
def test_an_entry_that_others_let_age_is_led_back_and_heard_of_when_it_goes(tmp_path: Path) -> None:
    """The kernel lets nobody make it last who says that he learned it elsewhere, as we do."""
    with started(tmp_path) as kernel:
        wanted = (*OVERLAY, *peers(1))
        settle(kernel, *wanted)
        with watching(tmp_path, kernel) as watch:
            run("bridge", "-n", HOME, "fdb", "replace", FAR, "dev", "vxlan7", "dst", "192.0.2.3", "self", "dynamic")
            assert len(settle(kernel, *wanted)) == 1
            assert heard_by_now(watch) == set()
            run("bridge", "-n", HOME, "fdb", "del", FAR, "dev", "vxlan7", "dst", "192.0.2.2")
            assert heard_by_now(watch) == {Retold(HOME, FAR, gone=True)}


@apart
def test_a_tunnel_is_told_of_many_and_nobody_is_woken(tmp_path: Path) -> None:
    """A host may learn of tens of thousands at once, and of each that moves: more than could be read in time."""
    with started(tmp_path) as kernel:
        settle(kernel, *OVERLAY)
        with watching(tmp_path, kernel) as watch:
            settle(kernel, *OVERLAY, *peers(3000))
            settle(kernel, *OVERLAY, *peers(3000, via="192.0.2.3"))
            assert select.select([watch], (), (), 0)[0] == []
            # Of each that goes is heard what the engine compares with what it wants.
            settle(kernel, *OVERLAY, *peers(2999))
            gone = {
                Retold(HOME, one.mac if isinstance(one, Forwarding) else one.address, gone=True)
                for one in peers(1, 3008)
            }
            assert heard_by_now(watch) == gone


@apart
def test_of_entries_that_go_with_a_port_or_a_network_of_ours_nothing_is_heard(tmp_path: Path) -> None:
    """Nobody has to look after a detach, or go through all whom a network had elsewhere."""
    with started(tmp_path) as kernel:
        settle(kernel, *OVERLAY, *peers(9))
        with watching(tmp_path, kernel) as watch:
            settle(kernel, *OVERLAY[:4], *peers(9))
            kernel.reap()
            assert heard_by_now(watch) == set()
            settle(kernel)
            kernel.reap()
            assert not [one for one in heard_by_now(watch) if isinstance(one, Retold)]
