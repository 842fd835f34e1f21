"""What is asked and heard on a real wire: hosts in namespaces of their own, on a LAN that is a bridge in another.

The daemon's machine is the test's own namespace; its place on the LAN is `lan0`.
"""

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from isthmus.errors import DeviceUnavailable
from isthmus.kernel import namespaces
from isthmus.model import IPAddress
from isthmus.wire import filters, packets
from isthmus.wire.advice import Verdict
from isthmus.wire.packets import ETH_P_ARP, ETH_P_IPV6, Packet, encode
from isthmus.wire.port import ETH_P_ALL as TAP
from isthmus.wire.port import PACKET_OUTGOING, Port
from isthmus.wire.prober import REPORTS, Prober, Schedule, fast
from tests.kernel.realm import apart, run, shown

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

SECONDS = 5.0
OURS, PRINTER, NAS, THIEF = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"
CHILD = "02:00:00:00:00:aa"
FOUR, FREE4 = IPv4Address("192.0.2.2"), IPv4Address("192.0.2.200")
SIX, FREE6 = IPv6Address("2001:db8::2"), IPv6Address("2001:db8::200")
SOON = Schedule((0.0,), 0.1)
PATIENT = Schedule((0.0, 0.1, *range(1, 60)), 60.0)
"""Until there is an answer: the kernel gets an IPv6 address ready for questions some time after it was given."""

Conflict = tuple[str, IPAddress, str]


def host(name: str) -> None:
    """Make a namespace whose links get no addresses of their own accord, and tell of those given when they go up."""
    run("ip", "netns", "add", name)
    quieten("ip", "netns", "exec", name)


def quieten(*enter: str) -> None:
    """Set that up."""
    run(*enter, "sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1", "net.ipv6.conf.default.accept_dad=0")
    run(*enter, "sysctl", "-qw", "net.ipv4.conf.default.arp_notify=1", "net.ipv6.conf.default.ndisc_notify=1")


def plug(netns: str, device: str, mac: str, *addresses: str) -> None:
    """Give the host *netns* ("" is our own) a place on the LAN."""
    where = ("-n", netns) if netns else ()
    port = f"port{mac[-2:]}"
    run("ip", *where, "link", "add", device, "address", mac, "type", "veth", "peer", "name", port, "netns", "lan")
    run("ip", "-n", "lan", "link", "set", port, "master", "br0", "up")
    for address in addresses:
        # Without a check of its own: it would take a question that comes early for a rival, and give the address up.
        run("ip", *where, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
    run("ip", *where, "link", "set", device, "up")


def lan() -> None:
    """Make the wire, our place on it, and a printer that has an address of each family."""
    host("lan")
    host("printer")
    quieten()
    run("ip", "-n", "lan", "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0")
    plug("", "lan0", OURS, "192.0.2.1/24", "2001:db8::1/64")
    plug("printer", "eth0", PRINTER, "192.0.2.2/24", "2001:db8::2/64")


def child(name: str, mac: str, *addresses: str) -> None:
    """Make a host that stands on our own device, as a macvlan."""
    host(name)
    run(
        "ip",
        "link",
        "add",
        "link",
        "lan0",
        "name",
        "eth0",
        "address",
        mac,
        "netns",
        name,
        "type",
        "macvlan",
        "mode",
        "bridge",
    )
    for address in addresses:
        run("ip", "-n", name, "address", "add", address, "dev", "eth0")
    run("ip", "-n", name, "link", "set", "eth0", "up")


@contextmanager
def within(netns: str) -> Iterator[None]:
    """Be in the host *netns*: what is opened there stays there."""
    descriptor = namespaces.open_path(f"/run/netns/{netns}")
    try:
        with namespaces.inside(descriptor):
            yield
    finally:
        os.close(descriptor)


def say(netns: str, *frames: bytes) -> None:
    """Have a host put *frames* on the wire as they are."""
    with within(netns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind(("eth0", 0))
        for frame in frames:
            raw.send(frame)


class Ear:
    """Remembers what a prober tells."""

    def __init__(self) -> None:
        self.conflicts: asyncio.Queue[Conflict] = asyncio.Queue()

    def conflict(self, device: str, address: IPAddress, mac: str) -> None:
        """Take a conflict down."""
        self.conflicts.put_nowait((device, address, mac))

    async def next(self) -> Conflict:
        """Return the next conflict, which must come in time."""
        return await asyncio.wait_for(self.conflicts.get(), SECONDS)


@contextmanager
def probing(linger: float = 0.0) -> Iterator[tuple[Prober, Ear]]:
    """Hold a prober during the block."""
    ear = Ear()
    with closing(Prober(ear.conflict, linger)) as prober:
        yield prober, ear


def sockets() -> list[int]:
    """Return the protocols of the packet sockets in our namespace."""
    lines = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
    return sorted(int(line.split()[3], 16) for line in lines)


async def all_closed(*but: int) -> None:
    """Return when there are none, but for those of these protocols, which must be in time."""
    async with asyncio.timeout(SECONDS):
        while await asyncio.to_thread(sockets) != [*but]:
            pass


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
@apart
def test_who_has_an_address_is_found(library: str) -> None:
    """On both loops: the daemon runs on the second. It is known long before the wait is over."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            found = await prober.probe("lan0", {FOUR: "", SIX: ""}, PATIENT)
        assert found == {FOUR: PRINTER, SIX: PRINTER}

    import_module(library).run(test())


@apart
def test_a_free_address_is_free() -> None:
    """Also beside one that is not; and the device's own address is nobody's else."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            assert await prober.probe("lan0", {FREE4: "", FREE6: ""}, SOON) == {FREE4: "", FREE6: ""}
            assert await prober.probe("lan0", {FREE4: "", FOUR: ""}, fast(1)) == {FREE4: "", FOUR: PRINTER}
            assert await prober.probe("lan0", {}, SOON) == {}

    asyncio.run(test())


@apart
def test_nobody_learns_anything_from_a_question() -> None:
    """A neighbour that believed it would send the traffic of others to us."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            await prober.probe("lan0", {FOUR: "", SIX: ""}, PATIENT)
            await prober.check("lan0", [FOUR], SECONDS)

    asyncio.run(test())
    assert shown("ip", "-j", "-n", "printer", "neigh", "show") == []


@apart
def test_its_own_holder_is_no_answer() -> None:
    """A sandbox that is brought back may be there already, and so may others of ours."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            assert await prober.probe("lan0", {FOUR: PRINTER, SIX: PRINTER}, SOON) == {FOUR: "", SIX: ""}
            assert await prober.probe("lan0", {FOUR: ""}, SOON, ours={PRINTER}) == {FOUR: ""}

    asyncio.run(test())


@apart
def test_two_hosts_that_want_the_same_address_both_learn_it() -> None:
    """RFC 5227, 2.1.1: neither has it, so neither would answer, and both would take it."""
    lan()
    host("nas")
    plug("nas", "eth0", NAS)

    async def test() -> None:
        with probing() as (prober, _), probing() as (other, _):
            wanted: dict[IPAddress, str] = {FREE4: "", FREE6: ""}
            with within("nas"):
                theirs = asyncio.create_task(other.probe("eth0", wanted, PATIENT))
                await asyncio.sleep(0)  # it has begun now, and its socket is there
            assert await prober.probe("lan0", wanted, PATIENT) == {FREE4: NAS, FREE6: NAS}
            assert await theirs == {FREE4: OURS, FREE6: OURS}

    asyncio.run(test())


@apart
def test_questions_at_the_same_time_share_one_socket() -> None:
    """And it is closed when nobody asks any more."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            both = asyncio.gather(prober.probe("lan0", {FOUR: ""}, PATIENT), prober.probe("lan0", {SIX: ""}, PATIENT))
            assert [*await both] == [{FOUR: PRINTER}, {SIX: PRINTER}]
            await all_closed()
            # Nobody answers for a free address, so these questions are there until they are cancelled.
            first = asyncio.create_task(prober.probe("lan0", {FREE4: ""}, PATIENT))
            second = asyncio.create_task(prober.probe("lan0", {FREE6: ""}, PATIENT))
            await asyncio.sleep(0)  # both have asked now
            assert await asyncio.to_thread(sockets) == [TAP]
            for cancelled in (first, second):
                assert await prober.probe("lan0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
                assert await asyncio.to_thread(sockets) == [TAP]
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            await all_closed()

    asyncio.run(test())


@apart
def test_a_guard_at_rest_has_no_tap() -> None:
    """Each frame that leaves by the device would be cloned for it; and what has no address to guard is not heard."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            assert await prober.probe("lan0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
            await all_closed(ETH_P_ARP, ETH_P_IPV6)
            prober.guard("lan0", {FREE6: CHILD})
            assert sockets() == [ETH_P_IPV6]
            prober.guard("lan0", {FREE4: CHILD})
            assert sockets() == [ETH_P_ARP]
            prober.guard("lan0", {})
            assert sockets() == []

    asyncio.run(test())


@apart
def test_who_answers_late_is_told_as_a_conflict() -> None:
    """The attach was not kept waiting for it; by then the address is in use."""
    lan()

    async def test() -> None:
        with probing() as (prober, ear):
            assert await prober.probe("lan0", {FOUR: "", SIX: ""}, Schedule((0.1,), 0.0)) == {FOUR: "", SIX: ""}
            assert {await ear.next(), await ear.next()} == {("lan0", FOUR, PRINTER), ("lan0", SIX, PRINTER)}

    asyncio.run(test())


def announcements(mac: str, four: IPv4Address = FREE4, six: IPv6Address = FREE6) -> tuple[bytes, ...]:
    """Return how *mac* tells everybody that it has the addresses."""
    said: tuple[Packet, ...] = (packets.arp_announcement(mac, four), packets.unsolicited_advertisement(mac, six))
    return tuple(map(encode, said))


@pytest.mark.parametrize("linger", [0.0, 60.0], ids=["at rest", "just used"])
@apart
def test_a_stolen_address_is_told_once(linger: float) -> None:
    """Whoever on the LAN takes it, but not our own child on the same device, when it announces itself."""
    lan()
    host("nas")
    plug("nas", "eth0", THIEF)

    async def test() -> None:
        with probing(linger) as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            assert await prober.probe("lan0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
            await asyncio.to_thread(child, "web", CHILD, "192.0.2.200/24", "2001:db8::200/64")
            say("nas", *announcements(THIEF), *announcements(THIEF), *announcements(NAS))
            told = {await ear.next() for _ in range(4)}
        assert told == {("lan0", address, mac) for mac in (THIEF, NAS) for address in (FREE4, FREE6)}

    asyncio.run(test())


@apart
def test_a_real_thief_is_told() -> None:
    """One whose kernel takes the address and begins to use it."""
    lan()
    host("nas")

    async def test() -> None:
        with probing() as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            await asyncio.to_thread(plug, "nas", "eth0", THIEF, "192.0.2.200/24")
            await asyncio.to_thread(run, "ip", "netns", "exec", "nas", "ping", "-nc1", "-W10", "192.0.2.2")
            assert await ear.next() == ("lan0", FREE4, THIEF)
            await asyncio.to_thread(run, "ip", "-n", "nas", "address", "add", "2001:db8::200/64", "dev", "eth0")
            assert await ear.next() == ("lan0", FREE6, THIEF)

    asyncio.run(test())


@apart
def test_a_child_of_others_on_our_device_is_heard_while_its_address_is_asked_for() -> None:
    """It answers no question, but tells its address when it goes up; only a tap hears what leaves by the device."""
    lan()

    async def test() -> None:
        with probing() as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD})
            asked = asyncio.create_task(prober.probe("lan0", {FREE4: CHILD}, PATIENT))
            await asyncio.to_thread(child, "docker", NAS, "192.0.2.200/24")
            assert await asked == {FREE4: NAS}
            assert ear.conflicts.empty()

    asyncio.run(test())


@apart
def test_a_bridge_is_a_wire_like_any_other() -> None:
    """A bridged network's wire is a bridge of ours: its endpoints and the LAN are ports of it."""
    lan()

    async def test() -> None:
        with probing() as (prober, ear), within("lan"):
            prober.guard("br0", {FREE4: PRINTER, FREE6: PRINTER})
            assert await prober.probe("br0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
            say("printer", *announcements(PRINTER), *announcements(THIEF))
            assert {await ear.next(), await ear.next()} == {("br0", FREE4, THIEF), ("br0", FREE6, THIEF)}

    asyncio.run(test())


@apart
def test_what_is_guarded_is_what_was_said_last() -> None:
    """Else a sandbox that left would be heard of for ever."""
    lan()
    other4, other6 = FREE4 + 1, FREE6 + 1

    async def test() -> None:
        with probing() as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            await asyncio.to_thread(say, "printer", *announcements(THIEF, other4, other6))
            prober.guard("lan0", {other4: CHILD, other6: CHILD}, ours={NAS})
            say("printer", *announcements(THIEF), *announcements(NAS, other4, other6))
            say("printer", *announcements(THIEF, other4, other6))
            assert {await ear.next(), await ear.next()} == {("lan0", other4, THIEF), ("lan0", other6, THIEF)}

    asyncio.run(test())


def tagged(frame: bytes, vlan: int) -> bytes:
    """Return *frame* as it travels in a VLAN."""
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


@apart
def test_another_vlan_is_another_wire() -> None:
    """Its frames come without their tags: the same address there is no conflict, and no answer."""
    lan()

    async def test() -> None:
        with probing() as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            asked = asyncio.create_task(prober.probe("lan0", {FREE4: "", FREE6: ""}, PATIENT))
            await asyncio.to_thread(say, "printer", *(tagged(frame, 50) for frame in announcements(NAS)))
            say("printer", *(tagged(frame, 0) for frame in announcements(THIEF)))
            assert {await ear.next(), await ear.next()} == {("lan0", FREE4, THIEF), ("lan0", FREE6, THIEF)}
            assert await asked == {FREE4: THIEF, FREE6: THIEF}

    asyncio.run(test())


@apart
def test_no_frame_stops_it() -> None:
    """Anybody on the LAN can send anything."""
    lan()
    dice = random.Random(5227)
    kinds = [announcement[:14] for announcement in announcements(THIEF)]
    garbage = [dice.choice(kinds) + dice.randbytes(dice.randrange(80)) for _ in range(50)]
    for frame in map(bytearray, announcements(THIEF) * 25):
        frame[dice.randrange(14, len(frame))] ^= 0xFF
        garbage.append(bytes(frame[: dice.randrange(14, len(frame))]))

    async def test() -> None:
        with probing(60.0) as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD, FREE6: CHILD})
            asked = asyncio.create_task(prober.probe("lan0", {FOUR: "", SIX: ""}, PATIENT))
            await asyncio.to_thread(say, "printer", *garbage)
            assert await asked == {FOUR: PRINTER, SIX: PRINTER}
            say("printer", *announcements(THIEF))
            assert {await ear.next(), await ear.next()} == {("lan0", FREE4, THIEF), ("lan0", FREE6, THIEF)}

    asyncio.run(test())


@apart
def test_a_flood_of_thieves_is_told_in_part() -> None:
    """Whoever makes up MACs must not fill the daemon's memory, nor the user's event log."""
    lan()
    flood = [
        encode(packets.arp_announcement(f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}", FREE4)) for n in range(REPORTS + 9)
    ]

    async def test() -> None:
        with probing() as (prober, ear):
            prober.guard("lan0", {FREE4: CHILD})
            for start in range(0, len(flood), 50):
                say("printer", *flood[start : start + 50])
                assert await prober.probe("lan0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
            assert ear.conflicts.qsize() == REPORTS

    asyncio.run(test())


@apart
def test_a_device_that_goes_is_told() -> None:
    """Who waits for an answer must not wait for ever; when it is back, the addresses must be guarded anew."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            prober.guard("lan0", {FREE4: CHILD})
            asked = asyncio.create_task(prober.probe("lan0", {FREE6: ""}, PATIENT))
            checked = asyncio.create_task(prober.check("lan0", [FREE4], 60))
            await asyncio.sleep(0)  # both have begun to ask
            await asyncio.to_thread(run, "ip", "link", "set", "lan0", "down")
            for task in (asked, checked):
                with pytest.raises(DeviceUnavailable, match="cannot use the interface lan0: it went down or away"):
                    await task
            await all_closed()
            with pytest.raises(DeviceUnavailable, match="it is down"):
                prober.guard("lan0", {FREE4: CHILD})
            await asyncio.to_thread(run, "ip", "link", "set", "lan0", "up")
            assert await prober.probe("lan0", {FOUR: ""}, PATIENT) == {FOUR: PRINTER}
            prober.guard("lan0", {FREE4: CHILD})
            await asyncio.to_thread(run, "ip", "link", "del", "lan0")
            await all_closed()
            with pytest.raises(DeviceUnavailable, match="there is no such interface"):
                await prober.probe("lan0", {FREE4: ""}, SOON)
            run("ip", "link", "set", "lo", "up")
            with pytest.raises(DeviceUnavailable, match="no Ethernet"):
                await prober.check("lo", [FREE4], SECONDS)
            assert sockets() == []

    asyncio.run(test())


@pytest.mark.parametrize("target", [FOUR, SIX], ids=["IPv4", "IPv6"])
@apart
def test_a_second_mac_is_answered_where_the_switch_lets_it_pass(target: IPAddress) -> None:
    """As on most wires: macvlan works there."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            await prober.probe("lan0", {target: ""}, PATIENT)
            finding = await prober.check("lan0", [target], 60)
        assert (finding.verdict, finding.neighbour, finding.mac) == (Verdict.BOTH, target, PRINTER)

    asyncio.run(test())


@pytest.mark.parametrize("target", [FOUR, SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("hook", "rule"),
    [
        pytest.param("ingress", f"ether saddr != {OURS} drop", id="forged transmits rejected"),
        pytest.param(
            "egress", f"ether daddr & 01:00:00:00:00:00 == 0 ether daddr != {OURS} drop", id="not promiscuous"
        ),
    ],
)
@apart
def test_a_switch_that_lets_one_mac_pass_is_told_from_silence(hook: str, rule: str, target: IPAddress) -> None:
    """Of the two ways to refuse a second MAC, each alone is enough to break macvlan."""
    lan()
    chain = f"chain c {{ type filter hook {hook} device port01 priority 0; {rule}; }}"
    run("ip", "netns", "exec", "lan", "nft", f"table netdev switch {{ {chain}; }}")

    async def test() -> None:
        with probing() as (prober, _):
            await prober.probe("lan0", {target: ""}, PATIENT)
            finding = await prober.check("lan0", [target, FREE4], 1)
        assert (finding.verdict, finding.neighbour, finding.mac) == (Verdict.PARENT_ONLY, target, PRINTER)

    asyncio.run(test())


@apart
def test_silence_is_silence() -> None:
    """Nobody there proves nothing about the switch."""
    lan()

    async def test() -> None:
        with probing() as (prober, _):
            finding = await prober.check("lan0", [FREE4, FREE6], 0.1)
        assert (finding.verdict, finding.neighbour) == (Verdict.NOBODY, None)

    asyncio.run(test())


@apart
def test_a_port_hears_children_but_not_itself() -> None:
    """Who asks must not take his own question for an answer."""
    lan()

    async def test() -> None:
        heard: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        with closing(Port("lan0", filters.NEIGHBOURS, lambda *frame: heard.put_nowait(frame))) as port:
            assert port.mac == OURS
            port.send(encode(packets.arp_announcement(port.mac, FREE4)))
            await asyncio.to_thread(child, "web", CHILD, "192.0.2.200/24")
            frame, kind = await asyncio.wait_for(heard.get(), SECONDS)
        assert (packets.decode(frame), kind) == (packets.arp_announcement(CHILD, FREE4), PACKET_OUTGOING)
        with pytest.raises(DeviceUnavailable):
            port.send(b"")

    asyncio.run(test())
