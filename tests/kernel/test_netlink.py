"""What we ask of the kernel as iproute2 and nft show it, each test in a thread with a namespace of its own."""

import ctypes
import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from isthmus import bpf
from isthmus.kernel import namespaces, netlink, nfnetlink, sysctl
from isthmus.kernel.netlink import AddrGenMode, NetlinkError, Socket

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

P = ParamSpec("P")
T = TypeVar("T")
DEFAULT = IPv4Network("0.0.0.0/0")
_CLONE_NEWNS, _CLONE_NEWNET, _MS_REC, _MS_PRIVATE = 0x20000, 0x40000000, 0x4000, 0x40000


def apart(body: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a thread of its own, in new network and mount namespaces, which die with the thread."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def enter() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            assert libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
            body(*args, **kwargs)

        before = here()
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(enter).result()
        assert here() == before

    return run


def here() -> Path:
    """Return the name of the namespace that the calling thread is in."""
    return Path("/proc/thread-self/ns/net").readlink()


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def shown(*command: str) -> Any:  # noqa: ANN401 (any JSON)
    """Return what a program prints as JSON, from where the calling thread is."""
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout or "[]")


def nft(text: str) -> None:
    """Load *text* with nft."""
    subprocess.run(["nft", "-f", "-"], input=text, check=True, text=True)


@contextmanager
def sandbox(**values: str) -> Iterator[int]:
    """Hold a namespace during the block."""
    netns = namespaces.create({f"net/ipv6/conf/default/{key}": value for key, value in values.items()})
    try:
        yield netns
    finally:
        os.close(netns)


def bridge(wire: Socket) -> None:
    """Make a bridge of index 50."""
    wire.request(netlink.newlink("bridge", "br0", index=50, up=True, data=netlink.bridge(forward_delay=0, stp=False)))


def port(name: str, index: int, peer: bytes) -> tuple[bytes, ...]:
    """Make a port of the bridge, with all that we set on one."""
    return (
        netlink.newlink("veth", name, index=index, master=50, group=77, mtu=1400, queues=1, data=peer),
        netlink.setlink(
            index, alias="mine", addr_gen_mode=AddrGenMode.NONE, announce=True, isolated=True, hairpin=True
        ),
        netlink.setlink(index, up=True),
    )


@apart
def test_an_attachment_is_two_sends() -> None:
    """The whole of what a container's connection takes, as `ip` and `bridge` see it."""
    with Socket() as host, sandbox() as netns:
        bridge(host)
        host.request(*port("v0", 60, netlink.veth("eth0", netns=netns, index=61, mac="02:00:00:00:00:61", mtu=1400)))
        with namespaces.inside(netns):
            inner = Socket()
        with inner:
            inner.request(
                netlink.newaddr(61, IPv4Interface("10.0.0.2/24"), broadcast=IPv4Address("10.0.0.255")),
                netlink.newaddr(61, IPv6Interface("fd00::2/64")),
                netlink.setlink(61, up=True),
                netlink.newroute(DEFAULT, gateway=IPv4Address("10.0.0.1")),
                netlink.newroute(IPv6Network("fd00:1::/64"), oif=61, metric=7),
            )
        (outer,) = shown("ip", "-j", "-d", "link", "show", "v0")
        assert (outer["ifindex"], outer["master"], outer["mtu"]) == (60, "br0", 1400)
        assert (outer["ifalias"], outer["group"], outer["inet6_addr_gen_mode"]) == ("mine", "77", "none")
        assert (outer["num_tx_queues"], outer["num_rx_queues"]) == (1, 1)
        assert "UP" in outer["flags"]
        assert shown("ip", "-j", "-6", "addr", "show", "v0") in ([], [{}])
        (option,) = shown("bridge", "-j", "-d", "link", "show", "dev", "v0")
        assert (option["isolated"], option["hairpin"]) == (True, True)
        with namespaces.inside(netns):
            (eth0,) = shown("ip", "-j", "addr", "show", "eth0")
            assert (eth0["ifindex"], eth0["address"], eth0["mtu"]) == (61, "02:00:00:00:00:61", 1400)
            given = {(item["local"], item["prefixlen"]): item for item in eth0["addr_info"]}
            assert given["10.0.0.2", 24]["broadcast"] == "10.0.0.255"
            assert not given["fd00::2", 64].get("tentative")
            (route,) = shown("ip", "-j", "route", "show", "default")
            assert (route["gateway"], route["dev"], route["protocol"]) == ("10.0.0.1", "eth0", "105")
            (route,) = shown("ip", "-j", "-6", "route", "show", "fd00:1::/64")
            assert (route["dev"], route["metric"]) == ("eth0", 7)


@apart
def test_dumps_tell_what_was_made_and_only_what_was_asked_for() -> None:
    """What is observed is compared with what is wanted: a field that reads back otherwise differs for ever."""
    with Socket() as wire:
        bridge(wire)
        peer = netlink.veth("p0", index=61, mac="02:00:00:00:00:61", mtu=1400, queues=1)
        macvlan = netlink.newlink(
            "macvlan", "m0", index=70, parent=61, data=netlink.macvlan(netlink.MacvlanMode.BRIDGE)
        )
        wire.request(*port("v0", 60, peer), netlink.setlink(61, up=True), macvlan)
        links = {link.name: link for link in map(netlink.link, wire.dump(netlink.dumplinks()))}
        assert set(links) == {"lo", "br0", "v0", "p0", "m0"}
        v0, br0, m0 = links["v0"], links["br0"], links["m0"]
        assert (v0.ifindex, v0.kind, v0.master, v0.mtu, v0.alias, v0.group) == (60, "veth", 50, 1400, "mine", 77)
        assert (v0.up, v0.isolated, v0.hairpin, v0.addr_gen_mode, v0.link) == (True, True, True, AddrGenMode.NONE, 61)
        assert (v0.announce, br0.announce) == (True, False)
        assert (br0.kind, br0.forward_delay, br0.stp, br0.isolated) == ("bridge", 0, False, None)
        assert (m0.kind, m0.link, m0.macvlan_mode, links["p0"].mac) == (
            "macvlan",
            61,
            netlink.MacvlanMode.BRIDGE,
            "02:00:00:00:00:61",
        )
        assert [netlink.link(item).name for item in wire.dump(netlink.dumplinks(master=50))] == ["v0"]
        assert [netlink.link(item).name for item in wire.dump(netlink.dumplinks(kind="macvlan"))] == ["m0"]
        assert netlink.link(wire.ask(netlink.getlink("v0"))).ifindex == 60

        ours = IPv4Interface("10.0.0.2/24")
        far = IPv4Network("10.9.0.0/16")
        wire.request(netlink.newaddr(61, ours), netlink.newroute(far, gateway=IPv4Address("10.0.0.1")))
        subprocess.run(["ip", "addr", "add", "10.1.0.1/24", "dev", "br0"], check=True)
        subprocess.run(["ip", "route", "add", "10.8.0.0/16", "via", "10.1.0.9"], check=True)
        found = [netlink.address(item) for item in wire.dump(netlink.dumpaddrs(index=61, family=netlink.AF_INET))]
        assert [(item.ifindex, item.address, item.protocol) for item in found] == [(61, ours, 105)]
        routes = [netlink.route(item) for item in wire.dump(netlink.dumproutes(protocol=105))]
        assert [(item.destination, item.gateway, item.oif) for item in routes] == [(far, IPv4Address("10.0.0.1"), 61)]
        assert all(
            netlink.route(item).oif == 50
            for item in wire.dump(netlink.dumproutes(family=netlink.AF_INET, table=254, oif=50))
        )
        assert netlink.route(wire.ask(netlink.getroute(IPv4Address("10.9.1.1")))).gateway == IPv4Address("10.0.0.1")

        mac = "02:00:00:00:00:99"
        wire.request(netlink.newneigh(61, IPv4Address("10.0.0.9"), mac), netlink.newfdb(60, mac))
        (known,) = [netlink.neighbour(item) for item in wire.dump(netlink.dumpneighs(index=61, family=netlink.AF_INET))]
        assert (known.address, known.mac, known.state) == (IPv4Address("10.0.0.9"), mac, netlink.NUD_PERMANENT)
        forwarding = [netlink.neighbour(item) for item in wire.dump(netlink.dumpfdb(index=60))]
        assert (60, mac, 50) in {(item.ifindex, item.mac, item.master) for item in forwarding}
        assert any(item["mac"] == mac for item in shown("bridge", "-j", "fdb", "show", "dev", "v0"))

        wire.request(
            netlink.delneigh(61, IPv4Address("10.0.0.9")),
            netlink.delfdb(60, mac),
            netlink.delroute(far, oif=61),
            netlink.deladdr(61, ours),
            netlink.dellink_group(77),
            netlink.dellink("br0"),
        )
        assert [netlink.link(item).name for item in wire.dump(netlink.dumplinks())] == ["lo"]


@apart
def test_a_refusal_tells_which_message_and_why_and_the_rest_is_done() -> None:
    """The error names one operation of many; the ones behind it have been carried out by then."""
    with Socket() as wire:
        requests = (
            netlink.setlink(1, up=True),
            netlink.newlink("nonsense", "x"),
            netlink.newlink("bridge", "br0"),
            netlink.newlink("bridge", "br0"),
            netlink.newroute(IPv4Network("10.8.0.0/16"), gateway=IPv4Address("192.0.2.1")),
            netlink.setlink("br0", up=True),
        )
        errors = wire.attempt(*requests)
        assert [(error.index, error.errno) for error in errors] == [
            (1, errno.EOPNOTSUPP),
            (3, errno.EEXIST),
            (4, errno.ENETUNREACH),
        ]
        assert "Unknown device type" in str(errors[0])
        with pytest.raises(NetlinkError) as caught:
            wire.request(*requests[1:3])
        assert caught.value.index == 0
        with pytest.raises(NetlinkError) as caught:
            wire.ask(netlink.getlink("nope"))
        assert caught.value.errno == errno.ENODEV
        assert netlink.link(wire.ask(netlink.getlink("br0"))).up


@apart
def test_a_thousand_messages_come_back_with_a_thousand_errors() -> None:
    """More refusals than fit into a socket's buffer must not be lost: the last one is what is waited for."""
    with Socket() as wire:
        errors = wire.attempt(*[netlink.setlink(f"nope{number}", mtu=1000) for number in range(1000)])
        assert [error.index for error in errors] == list(range(1000))
        assert wire.attempt() == ()


@apart
def test_a_dump_larger_than_one_datagram_is_whole() -> None:
    """A restart reads thousands of links; the kernel sends them in pieces."""
    with Socket() as wire:
        wire.request(*[netlink.newlink("bridge", f"b{number}") for number in range(300)])
        names = {netlink.link(item).name for item in wire.dump(netlink.dumplinks(kind="bridge"))}
        assert names == {f"b{number}" for number in range(300)}


@apart
def test_a_dump_is_of_one_moment_while_links_come_and_go() -> None:
    """A dump that the kernel interrupted may lack a link that was there all the time: it must be asked for again."""
    stop = threading.Event()
    with Socket() as wire, Socket() as other:
        wire.request(*[netlink.newlink("bridge", f"b{number}") for number in range(200)])

        def disturb() -> None:
            while not stop.is_set():
                other.attempt(
                    netlink.newlink("macvlan", "m", parent=2, data=netlink.macvlan(netlink.MacvlanMode.BRIDGE))
                )
                other.attempt(netlink.dellink("m"))

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            for _ in range(20):
                names = {netlink.link(item).name for item in wire.dump(netlink.dumplinks())}
                assert {f"b{number}" for number in range(200)} < names
        finally:
            stop.set()
            disturber.join()


def monitor(*, tied: bool) -> netlink.Monitor[netlink.LinkMessage]:
    """Hear of all links."""
    everything = ((bpf.RETURN, 0, 0, bpf.EVERYTHING),)
    return netlink.Monitor(netlink.NETLINK_ROUTE, netlink.RTMGRP_LINK, everything, netlink.link, tied=tied)


@apart
def test_a_monitor_hears_of_a_sandbox_if_it_is_tied_and_the_sandbox_has_a_number() -> None:
    """A macvlan's namespace has none unless we give it one, and then its end is not heard of."""
    with Socket() as host, sandbox() as netns, monitor(tied=True) as tied, monitor(tied=False) as own:
        with namespaces.inside(netns), Socket() as inner:
            inner.request(netlink.setlink(1, mtu=1300))
            assert tied.read() == netlink.News([], complete=True)
            host.request(netlink.newnsid(netns))
            inner.request(netlink.setlink(1, mtu=1400))
        number = netlink.nsid(host.ask(netlink.getnsid(netns)))
        assert number is not None
        assert {(event.nsid, event.message.mtu) for event in tied.read().events} == {(number, 1400)}
        assert own.read() == netlink.News([], complete=True)
        host.request(netlink.setlink(1, mtu=1500))
        assert {(event.nsid, event.message.mtu) for event in tied.read().events} == {(None, 1500)}
        assert {event.message.mtu for event in own.read().events} == {1500}


@apart
def test_news_that_were_lost_are_told_as_such() -> None:
    """Who missed something has to look at everything; silence would leave the difference for good."""
    with Socket() as wire, monitor(tied=False) as own:
        for mtu in range(1000, 9000):
            wire.request(netlink.setlink(1, mtu=mtu))
        assert not own.read().complete
        assert own.read() == netlink.News([], complete=True)


TABLE = """
table inet isthmus {
    set guarded { type ifname; counter; }
    map ports { type inet_proto . inet_service : ipv4_addr . inet_service; counter; }
    map dispatch { type ifname : verdict; }
    chain front {
        counter comment "in front"
    }
    chain forward {
        type filter hook forward priority 5; policy drop;
        iifname vmap @dispatch
    }
}
"""
PORT = nfnetlink.concat(nfnetlink.inet_proto(6), nfnetlink.inet_service(80))
TARGET = nfnetlink.concat(IPv4Address("10.0.0.2").packed, nfnetlink.inet_service(8080))


def listed(wire: Socket, name: str) -> list[nfnetlink.Element]:
    """Return the elements of one set or map."""
    dump = wire.dump(nfnetlink.getelements("isthmus", name))
    return [element for message in dump for element in nfnetlink.elements(message)]


@apart
def test_elements_are_added_and_removed_as_nft_shows_them() -> None:
    """A published port is one element; nft must show it as if it had been written there."""
    nft(TABLE)
    jump = nfnetlink.Verdict(nfnetlink.NFT_JUMP, "front")
    with Socket(netlink.NETLINK_NETFILTER) as wire:
        nfnetlink.commit(
            wire,
            *nfnetlink.newelements("isthmus", "ports", [nfnetlink.Element(PORT, TARGET)]),
            *nfnetlink.newelements("isthmus", "guarded", [nfnetlink.Element(nfnetlink.ifname("br0"))]),
            *nfnetlink.newelements(
                "isthmus",
                "dispatch",
                [
                    nfnetlink.Element(nfnetlink.ifname("br0"), jump),
                    nfnetlink.Element(nfnetlink.ifname("br1"), nfnetlink.DROP),
                ],
            ),
        )
        assert listed(wire, "ports") == [nfnetlink.Element(PORT, TARGET, packets=0, bytes=0)]
        assert listed(wire, "guarded") == [nfnetlink.Element(nfnetlink.ifname("br0"), packets=0, bytes=0)]
        assert {element.value for element in listed(wire, "dispatch")} == {jump, nfnetlink.DROP}
        # By number: without /etc/protocols nft knows no names.
        show = ["nft", "--numeric-protocol", "list", "table", "inet", "isthmus"]
        text = subprocess.run(show, check=True, capture_output=True, text=True)
        assert "6 . 80 counter packets 0 bytes 0 : 10.0.0.2 . 8080" in text.stdout
        assert '"br0" : jump front' in text.stdout
        assert '"br1" : drop' in text.stdout
        nfnetlink.commit(
            wire, *nfnetlink.delelements("isthmus", "ports", [PORT]), nfnetlink.clear("isthmus", "dispatch")
        )
        assert listed(wire, "ports") == listed(wire, "dispatch") == []


@apart
def test_a_transaction_is_done_whole_or_not_at_all() -> None:
    """Half a change of the firewall is a hole in it."""
    nft(TABLE)
    with Socket(netlink.NETLINK_NETFILTER) as wire:
        before = nfnetlink.generation(wire.ask(nfnetlink.getgeneration()))
        good = nfnetlink.newelements("isthmus", "ports", [nfnetlink.Element(PORT, TARGET)])
        for bad in (
            nfnetlink.delelements("isthmus", "guarded", [nfnetlink.ifname("none")]),
            nfnetlink.newelements("elsewhere", "guarded", [nfnetlink.Element(b"x")]),
        ):
            with pytest.raises(NetlinkError) as caught:
                nfnetlink.commit(wire, *good, *bad)
            assert (caught.value.index, caught.value.errno) == (1, errno.ENOENT)
        assert listed(wire, "ports") == []
        assert nfnetlink.generation(wire.ask(nfnetlink.getgeneration())) == before
        nfnetlink.commit(wire, *good)
        assert nfnetlink.generation(wire.ask(nfnetlink.getgeneration())) == before + 1
        nfnetlink.commit(wire, *good)
        assert listed(wire, "ports") == [nfnetlink.Element(PORT, TARGET, packets=0, bytes=0)]


@apart
def test_ten_thousand_elements_are_one_transaction() -> None:
    """A restart with thousands of ports loads them at once."""
    nft(TABLE)
    keys = [nfnetlink.concat(nfnetlink.inet_proto(17), nfnetlink.inet_service(port)) for port in range(10_000)]
    with Socket(netlink.NETLINK_NETFILTER) as wire:
        nfnetlink.commit(
            wire, *nfnetlink.newelements("isthmus", "ports", [nfnetlink.Element(key, TARGET) for key in keys])
        )
        # While the kernel makes room for so many it may pass some over in a listing.
        deadline = time.monotonic() + 10
        while (seen := {element.key for element in listed(wire, "ports")}) != set(keys) and time.monotonic() < deadline:
            pass
        assert seen == set(keys)


@apart
def test_tables_chains_and_rules_are_told() -> None:
    """By these a daemon that starts knows whether its rules still stand."""
    nft(TABLE)
    with Socket(netlink.NETLINK_NETFILTER) as wire:
        (table,) = [nfnetlink.table(item) for item in wire.dump(nfnetlink.gettables(family=nfnetlink.NFPROTO_INET))]
        assert (table.name, table.use) == ("isthmus", 5)
        chains = {item.name: item for item in map(nfnetlink.chain, wire.dump(nfnetlink.getchains()))}
        forward, front = chains["forward"], chains["front"]
        assert (forward.kind, forward.hook, forward.priority, forward.policy) == ("filter", 2, 5, nfnetlink.NF_DROP)
        assert (forward.use, front.use, front.hook, front.priority) == (1, 1, None, None)
        (rule,) = [nfnetlink.rule(item) for item in wire.dump(nfnetlink.getrules(table="isthmus", chain="front"))]
        assert (rule.comment, rule.packets, rule.bytes) == ("in front", 0, 0)
        nfnetlink.commit(wire, nfnetlink.deltable("isthmus"))
        assert wire.dump(nfnetlink.gettables()) == []


@apart
def test_a_change_by_others_is_heard_and_ours_is_not() -> None:
    """A flush of the ruleset is put right within a second; our own work must not wake us."""
    nft(TABLE)
    with Socket(netlink.NETLINK_NETFILTER) as wire:
        wire.ask(nfnetlink.getgeneration())
        with nfnetlink.changes([wire.port]) as monitor:
            nfnetlink.commit(wire, *nfnetlink.newelements("isthmus", "ports", [nfnetlink.Element(PORT, TARGET)]))
            assert monitor.read() == netlink.News([], complete=True)
            nft("add rule inet isthmus front counter\nadd table ip other")
            seen = {(event.message.event, event.message.table, event.message.name) for event in monitor.read().events}
            assert seen == {(nfnetlink.NFT_MSG_NEWRULE, "isthmus", "front"), (nfnetlink.NFT_MSG_NEWTABLE, "other", "")}
            nft("flush ruleset")
            seen = {(event.message.event, event.message.table, event.message.name) for event in monitor.read().events}
            assert (nfnetlink.NFT_MSG_DELTABLE, "isthmus", "") in seen
            assert (nfnetlink.NFT_MSG_DELCHAIN, "isthmus", "front") in seen


@apart
def test_a_thread_comes_back_from_a_namespace_whatever_happens() -> None:
    """A thread left in a sandbox would build the next container's links there."""
    home = here()
    with sandbox() as netns:
        with suppress(ZeroDivisionError), namespaces.inside(netns):
            assert here() != home
            raise ZeroDivisionError
        assert here() == home
    with Path(os.devnull).open(encoding="ascii") as other:
        with pytest.raises(OSError, match="Invalid argument"), namespaces.inside(other.fileno()):
            pass
        assert here() == home
    with pytest.raises(FileNotFoundError):
        namespaces.create({"net/nonsense": "1"})
    assert here() == home


@apart
def test_a_namespace_is_born_ready() -> None:
    """Its loopback is up, and its sysctls stand before the first link comes."""
    with sandbox(disable_ipv6="1") as netns, namespaces.inside(netns):
        (lo,) = shown("ip", "-j", "link")
        assert "UP" in lo["flags"]
        assert sysctl.read("net/ipv6/conf/default/disable_ipv6") == "1"
        sysctl.write("net/ipv4/ip_forward", "1")
        assert sysctl.read("net/ipv4/ip_forward") == "1"
    assert sysctl.read("net/ipv4/ip_forward") == "0"


@apart
def test_nothing_is_left_open_by_making_and_entering_namespaces() -> None:
    """A descriptor that leaks keeps a namespace, with its links, alive for good."""
    before = descriptors()
    for _ in range(3):
        netns = namespaces.create()
        with namespaces.inside(netns), Socket() as wire:
            wire.dump(netlink.dumplinks())
        os.close(netns)
        with pytest.raises(FileNotFoundError):
            namespaces.create({"net/nonsense": "1"})
    assert descriptors() == before


@apart
def test_a_namespace_is_kept_by_a_path_and_let_go(tmp_path: Path) -> None:
    """A sandbox outlives the daemon that made it; a crash half-way must not be in the way of the next try."""
    directory = tmp_path / "netns"
    namespaces.share(str(directory))
    namespaces.share(str(directory))
    mounts = Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8").splitlines()
    assert ["shared:" in mount for mount in mounts if f" {directory} " in mount] == [True]
    path = str(directory / "web")
    with sandbox() as netns:
        namespaces.bind(netns, path)
        with pytest.raises(FileExistsError):
            namespaces.bind(netns, path)
        again = namespaces.open_path(path)
        assert namespaces.same(netns, again)
        os.close(again)
        here = namespaces.current()
        assert not namespaces.same(netns, here)
        os.close(here)
    os.close(namespaces.open_path(path))
    namespaces.unbind(path)
    assert not Path(path).exists()
    namespaces.unbind(path)
    Path(path).touch()
    with pytest.raises(OSError, match="not a network namespace"):
        namespaces.open_path(path)
    namespaces.unbind(path)
    assert not Path(path).exists()
