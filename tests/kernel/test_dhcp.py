"""DHCP clients against a real server: dnsmasq in a namespace, on the LAN behind a macvlan's parent or a bridge."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from isthmus.dhcp.dialect4 import Pace
from isthmus.dhcp.identity import Hears, client_id
from isthmus.dhcp.manager import Device, Key, Manager, Party
from isthmus.dhcp.status import BOUND, NO_ANSWER, NO_DEVICE, REBINDING, RENEWING, Status
from isthmus.kernel import namespaces
from isthmus.model import DhcpLease
from isthmus.wire.filters import datagrams
from isthmus.wire.port import Port
from tests.e2e.hosts import until
from tests.kernel.realm import apart, run

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq (Debian: dnsmasq-base)"),
]

SECONDS = 10
"""How long something that must happen may take."""

SECOND = 1_000_000_000
NETWORK = "ab" * 32
MAC = "02:11:22:33:44:55"
SERVER = "10.9.0.1"
PARENT, BRIDGE = Device("up0"), Device("br0")
WEB = Party(PARENT, MAC, "web")
KEY, KEY6 = (NETWORK, "web", 4), (NETWORK, "web", 6)
BRIDGED = replace(WEB, device=BRIDGE, hears=Hears.BROADCASTS)
QUICK = Pace(first=0.1, ceiling=0.4, renewal=0.1)


def listen(device: Device, port: int, hear: Callable[[bytes, int], None], gone: Callable[[], None]) -> Port:
    """A port as the daemon makes it."""
    with ExitStack() as stack:
        if device.netns:
            netns = namespaces.open_path(f"/run/netns/{device.netns}")
            stack.callback(os.close, netns)
            stack.enter_context(namespaces.inside(netns))
        return Port(device.name, datagrams(port), hear, gone)


def ip(command: str) -> None:
    """Run a command of iproute2, which must succeed."""
    run("ip", *command.split())


class Server:
    """A dnsmasq on the LAN, with its leases in a file. It gives out 10.9.0.50 to .59 and fd09::50 to ::59."""

    def __init__(self, directory: Path) -> None:
        self.leases = directory / "leases"
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Serve, with more *options*, from when this returns."""
        self._log.touch()
        before = self.log()
        command = (
            # Not a daemon: that would change its user, which a user namespace forbids.
            *("ip", "netns", "exec", "lan", "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0"),
            *("--interface=lan0", "--no-ping", "--dhcp-authoritative", "--log-dhcp"),
            *(f"--log-facility={self._log}", f"--dhcp-leasefile={self.leases}"),
            *("--dhcp-range=10.9.0.50,10.9.0.59,2m", "--dhcp-range=fd09::50,fd09::59,64,2m"),
            *options,
        )
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(lambda: "DHCPv6, IP range" in self.log()[len(before) :], "dnsmasq does not serve")

    def stop(self) -> None:
        """Answer no more."""
        if self._process:
            self._process.terminate()
            self._process.wait(SECONDS)
            self._process = None

    def log(self) -> str:
        """All that it told."""
        return self._log.read_text()


@contextmanager
def lan(directory: Path) -> Iterator[Server]:
    """A LAN with a server that is not started yet, on the other side of up0; br0 is there, too."""
    for line in (
        "netns add lan",
        "link add up0 type veth peer name lan0 netns lan",
        "link set up0 up",
        "link add br0 type bridge forward_delay 0",
        "link set br0 up",
        "-n lan address add 10.9.0.1/24 dev lan0",
        "-n lan address add fd09::1/64 dev lan0 nodad",
        "-n lan link set lan0 up",
    ):
        ip(line)
    server = Server(directory)
    try:
        yield server
    finally:
        server.stop()


class Told:
    """What a manager told of changes."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[tuple[Key, DhcpLease | None, Status]] = asyncio.Queue()

    def changed(self, key: Key, lease: DhcpLease | None, status: Status) -> None:
        """Take what the manager tells."""
        self.news.put_nowait((key, lease, status))

    async def of(self, word: str) -> DhcpLease | None:
        """The lease that comes with a status of that *word*."""
        async with asyncio.timeout(SECONDS):
            while True:
                _, lease, status = await self.news.get()
                if status.word == word:
                    return lease


def managed(body: Callable[[Manager, Told], Awaitable[None]]) -> None:
    """Run *body* with a manager."""

    async def main() -> None:
        told = Told()
        manager = Manager(listen, told.changed, pace=QUICK)
        try:
            await body(manager, told)
        finally:
            manager.close()

    asyncio.run(main())


async def leased(manager: Manager, party: Party = WEB, key: Key = KEY, wanted: str = "") -> DhcpLease:
    """A lease, which must come in time."""
    lease = await manager.acquire(key, party, ip_address(wanted) if wanted else None, SECONDS)
    assert lease, manager.state(key)
    return lease


OPTIONS = (
    "--dhcp-option=option:router,10.9.0.254",
    "--dhcp-option=option:dns-server,10.9.0.2,10.9.0.3",
    "--dhcp-option=option:domain-name,lan.example",
    "--dhcp-option=option:domain-search,lan.example,example",
    "--dhcp-option=option:mtu,1400",
    "--dhcp-option=option:T1,30",
    "--dhcp-option=option:T2,90",
)


def older(lease: DhcpLease, seconds: int) -> DhcpLease:
    """The same lease, had so long before."""
    return replace(lease, obtained=lease.obtained - seconds * SECOND)


def place(party: Party) -> None:
    """Let the device of *party* be on the LAN."""
    if party.device == BRIDGE:
        ip("link set up0 master br0")


def child(party: Party, address: str = "") -> None:
    """Make the interface of *party*, as a driver would; its namespace is `web`."""
    ip("netns add web")
    if party.device == BRIDGE:
        ip(f"link add veth0 master br0 up type veth peer name eth0 netns web address {MAC}")
    else:
        ip(f"link add link up0 name eth0 netns web address {MAC} type macvlan mode bridge")
    if address:
        ip(f"-n web address add {address} dev eth0")
    ip("-n web link set eth0 up")


either = pytest.mark.parametrize("party", [WEB, BRIDGED], ids=["parent", "bridge"])


@either
@apart
def test_a_lease_comes_with_all_that_the_lan_says(tmp_path: Path, party: Party) -> None:
    """The endpoint is to be a machine of its LAN like any other; its interface is not there yet."""

    async def body(manager: Manager, _: Told) -> None:
        lease = await leased(manager, party)
        assert str(lease.address) in {f"10.9.0.{last}/24" for last in range(50, 60)}
        assert (lease.server, lease.seconds, lease.t2) == (SERVER, 120, 90)
        assert 28 <= lease.t1 <= 30
        assert lease.routers == (IPv4Address("10.9.0.254"),)
        assert lease.dns == (IPv4Address("10.9.0.2"), IPv4Address("10.9.0.3"))
        assert (lease.domain, lease.search, lease.mtu) == ("lan.example", ("lan.example", "example"), 1400)
        assert lease.hostname == "web"
        assert lease.broadcast == IPv4Address("10.9.0.255")
        assert f"{lease.address.ip} {MAC} web" in server.log()
        assert client_id(NETWORK, "web").hex(":") in server.leases.read_text()

    with lan(tmp_path) as server:
        place(party)
        server.start(*OPTIONS)
        managed(body)


@apart
def test_routes_take_the_place_of_the_router(tmp_path: Path) -> None:
    """RFC 3442: whoever knows option 121 must not use the router of option 3."""

    async def body(manager: Manager, _: Told) -> None:
        lease = await leased(manager)
        assert lease.routers == ()
        assert lease.routes == (
            (ip_network("0.0.0.0/0"), IPv4Address("10.9.0.253")),
            (ip_network("172.16.0.0/12"), IPv4Address("10.9.0.252")),
        )

    with lan(tmp_path) as server:
        server.start(*OPTIONS, "--dhcp-option=121,0.0.0.0/0,10.9.0.253,172.16.0.0/12,10.9.0.252")
        managed(body)


@apart
def test_the_wanted_address_is_asked_for(tmp_path: Path) -> None:
    """An endpoint that comes back gets its address again, if nobody has it."""

    async def body(manager: Manager, _: Told) -> None:
        assert (await leased(manager, wanted="10.9.0.57")).address == ip_interface("10.9.0.57/24")

    with lan(tmp_path) as server:
        server.start()
        managed(body)


@either
@apart
def test_a_lease_is_renewed_and_rebound(tmp_path: Path, party: Party) -> None:
    """The server answers to the address itself: that has to be heard, or asked for otherwise."""

    async def body(manager: Manager, told: Told) -> None:
        first = await leased(manager, party)
        child(party, str(first.address))
        for age, word in ((61, RENEWING), (100, REBINDING)):
            manager.adopt(KEY, party, older(first, age))
            assert await told.of(word) == older(first, age)
            renewed = await told.of(BOUND)
            assert renewed
            assert renewed.address == first.address
            assert renewed.obtained > first.obtained

    with lan(tmp_path) as server:
        place(party)
        server.start("--dhcp-option=option:T1,60", "--dhcp-option=option:T2,90")
        managed(body)


@apart
def test_an_address_that_the_server_refuses_is_lost_and_another_one_found(tmp_path: Path) -> None:
    """Somebody else may have it already."""

    async def body(manager: Manager, told: Told) -> None:
        first = await leased(manager)
        server.stop()
        server.leases.unlink()
        server.start("--dhcp-host=02:00:00:00:00:01," + str(first.address.ip))
        child(WEB, str(first.address))
        manager.adopt(KEY, WEB, older(first, 70))
        assert await told.of("refused (NAK)") is None
        second = await told.of(BOUND)
        assert second
        assert second.address != first.address

    with lan(tmp_path) as server:
        server.start()
        managed(body)


@either
@apart
def test_a_server_that_starts_late_is_found(tmp_path: Path, party: Party) -> None:
    """Whoever waits for an address is told what is wrong, and gets it as soon as that can be."""

    async def body(manager: Manager, told: Told) -> None:
        assert await manager.acquire(KEY, party, None, 0) is None
        assert await told.of(NO_ANSWER) is None
        status = manager.state(KEY)
        assert status
        assert party.device.name in status.advice
        server.start()
        assert await told.of(BOUND)

    with lan(tmp_path) as server:
        place(party)
        managed(body)


@apart
def test_what_is_released_is_free(tmp_path: Path) -> None:
    """A LAN has few addresses: none may stay with an endpoint that is gone."""

    async def body(manager: Manager, _: Told) -> None:
        lease = await leased(manager)
        assert MAC in server.leases.read_text()
        manager.release(KEY)
        assert manager.state(KEY) is None
        until(lambda: MAC not in server.leases.read_text(), "the lease is still there")
        assert f"DHCPRELEASE(lan0) {lease.address.ip} {MAC}" in server.log()

    with lan(tmp_path) as server:
        server.start()
        managed(body)


@either
@apart
def test_a_restart_of_the_daemon_or_the_host_keeps_the_address(tmp_path: Path, party: Party) -> None:
    """A daemon that stops gives nothing back; one that starts says nothing as long as nothing is due."""
    leases: list[DhcpLease] = []

    async def before(manager: Manager, _: Told) -> None:
        leases.append(await leased(manager, party))

    async def after(manager: Manager, told: Told) -> None:
        manager.adopt(KEY, party, leases[0])
        status = manager.state(KEY)
        assert status
        assert status.word == BOUND
        assert server.log().count("DHCPREQUEST") == 1
        # Had before the machine was started, by the looks of it.
        ages = replace(leases[0], obtained=1, seconds=2**32 - 2, t1=2**32 - 4, t2=2**32 - 3)
        manager.adopt(KEY, party, ages)
        assert await told.of(RENEWING) == ages
        again = await told.of(BOUND)
        assert again
        assert again.address == leases[0].address
        assert again.obtained > leases[0].obtained

    with lan(tmp_path) as server:
        place(party)
        server.start()
        managed(before)
        assert "DHCPRELEASE" not in server.log()
        managed(after)


@apart
def test_a_device_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    """A USB NIC may be plugged in later."""

    async def body(manager: Manager, told: Told) -> None:
        ip("link set up0 name away0")
        assert await manager.acquire(KEY, WEB, None, 0) is None
        status = manager.state(KEY)
        assert status
        assert status.word == NO_DEVICE
        ip("link set away0 name up0")
        ip("link set up0 up")
        manager.device_appeared(PARENT)
        assert await told.of(BOUND)

    with lan(tmp_path) as server:
        server.start()
        managed(body)


@apart
def test_an_address_in_use_is_declined(tmp_path: Path) -> None:
    """The server has to learn that it gives out what somebody has taken by himself."""

    async def body(manager: Manager, told: Told) -> None:
        lease = await leased(manager)
        manager.decline(KEY)
        assert await told.of("address in use") is None
        until(lambda: f"DHCPDECLINE(lan0) {lease.address.ip} {MAC}" in server.log(), "the server was not told")

    with lan(tmp_path) as server:
        server.start()
        managed(body)


@pytest.mark.parametrize(
    "party",
    [
        WEB,
        replace(WEB, device=Device("eth0", "web")),
        replace(BRIDGED, device=Device("eth0", "web")),
    ],
    ids=["parent", "within-macvlan", "within-bridged"],
)
@apart
def test_dhcpv6_gives_renews_and_frees_an_address(tmp_path: Path, party: Party) -> None:
    """The server looks for the link-local address that is asked from, which the kernel has to answer for."""

    async def body(manager: Manager, told: Told) -> None:
        first = await leased(manager, party, KEY6)
        assert str(first.address) in {f"fd09::{last}/128" for last in range(50, 60)}
        assert first.dns == (ip_address("fd09::2"),)
        assert first.search == ("lan.example",)
        for age, word in ((70, RENEWING), (110, REBINDING)):
            manager.adopt(KEY6, party, older(first, age))
            await told.of(word)
            renewed = await told.of(BOUND)
            assert renewed
            assert renewed.address == first.address
            assert renewed.obtained > first.obtained
        manager.adopt(KEY6, party, replace(first, obtained=1, seconds=2**32 - 2))
        await told.of(RENEWING)
        assert await told.of(BOUND)
        assert "DHCPCONFIRM" in server.log()
        manager.release(KEY6)
        until(lambda: "DHCPRELEASE" in server.log(), "the address was not released")

    with lan(tmp_path) as server:
        if party.hears is Hears.BROADCASTS:
            place(BRIDGED)
            child(BRIDGED)
        else:
            child(WEB)
        server.start("--dhcp-option=option6:dns-server,[fd09::2]", "--dhcp-option=option6:domain-search,lan.example")
        managed(body)
