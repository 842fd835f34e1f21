"""Many clients on one loop: they share ports, wait for nobody but their own server, and outlive the daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from isthmus.dhcp.dialect4 import Pace
from isthmus.dhcp.manager import Device, Key, Manager, Party
from isthmus.dhcp.status import BOUND, EXPIRED, NO_ANSWER, NO_DEVICE, RENEWING, Status
from isthmus.errors import DeviceUnavailable
from isthmus.model import DhcpLease
from tests.dhcp_servers import Server4

SECONDS = 10
QUICK = Pace(first=0.02, ceiling=0.02, renewal=0.02)
ETH0, ETH1 = Device("eth0"), Device("eth1")


def party(number: int, device: Device = ETH0) -> Party:
    """One of many endpoints."""
    mac = (0x02_00_00_00_00_00 + number).to_bytes(6).hex(":")
    return Party(device, mac, f"h{number}")


def key(name: object) -> Key:
    """Whose lease it is."""
    return "n", str(name), 4


WEB = key("web")


@dataclass
class Wire:
    """Devices with a server behind each of them, or with none, and the ports that are open there."""

    servers: dict[Device, Server4]
    silent: set[Device] = field(default_factory=set)
    ports: list["Port"] = field(default_factory=list)
    sent: int = 0

    def listen(
        self, device: Device, _port: int, hear: Callable[[bytes, int], None], gone: Callable[[], None]
    ) -> "Port":
        """Open a port."""
        if device not in self.servers:
            raise DeviceUnavailable(device.name, "there is no such interface")
        port = Port(self, device, hear, gone)
        self.ports.append(port)
        return port


@dataclass
class Port:
    """A port, whose server answers in the loop's next round, to all that are open then."""

    wire: Wire
    device: Device
    hear: Callable[[bytes, int], None]
    gone: Callable[[], None]

    def send(self, frame: bytes) -> None:
        """Let the server hear it."""
        self.wire.sent += 1
        if self.device not in self.wire.silent:
            for answer in self.wire.servers[self.device].answer(frame, 0):
                asyncio.get_running_loop().call_soon(self.give, answer)

    def give(self, frame: bytes) -> None:
        """Let the client hear it."""
        for port in tuple(self.wire.ports):
            if port.device == self.device:
                port.hear(frame, 0)

    def close(self) -> None:
        """Be open no more."""
        self.wire.ports.remove(self)


@dataclass
class World:
    """A manager on a wire, and what it told."""

    wire: Wire
    manager: Manager
    told: asyncio.Queue[tuple[Key, DhcpLease | None, Status]]

    async def news(self, word: str) -> tuple[Key, DhcpLease | None]:
        """The next that was told with that *word*."""
        async with asyncio.timeout(SECONDS):
            while True:
                whose, lease, status = await self.told.get()
                if status.word == word:
                    return whose, lease


def world(wire: Wire, body: Callable[[World], Awaitable[None]], pace: Pace = QUICK) -> None:
    """Run *body*, with clients that soon ask again."""

    async def main() -> None:
        told: asyncio.Queue[tuple[Key, DhcpLease | None, Status]] = asyncio.Queue()
        manager = Manager(wire.listen, lambda *news: told.put_nowait(news), pace=pace)
        try:
            await body(World(wire, manager, told))
        finally:
            manager.close()
        assert wire.ports == []

    asyncio.run(main())


def test_many_endpoints_share_a_port_and_leave_it_when_all_have_a_lease() -> None:
    """A tap makes each frame of its device a little dearer."""

    async def body(world: World) -> None:
        acquired = [world.manager.acquire(key(one), party(one), None, SECONDS) for one in range(200)]
        leases = await asyncio.gather(*acquired)
        assert len({lease.address for lease in leases if lease}) == 200
        assert world.wire.ports == []
        assert world.told.empty()

    world(Wire({ETH0: Server4(size=200)}), body, Pace(first=SECONDS))


def test_a_silent_server_delays_nobody_but_its_own_endpoints() -> None:
    """One LAN's trouble is not that of the others."""

    async def body(world: World) -> None:
        waiting = asyncio.create_task(world.manager.acquire(key("dead"), party(1, ETH1), None, SECONDS))
        assert await world.manager.acquire(key("alive"), party(2), None, SECONDS)
        assert not waiting.done()
        status = world.manager.state(key("dead"))
        assert status
        assert status.word in {"searching", NO_ANSWER}
        world.manager.forget(key("dead"))
        assert await waiting is None

    world(Wire({ETH0: Server4(), ETH1: Server4()}, silent={ETH1}), body)


def test_a_lease_that_comes_late_is_told() -> None:
    """Nobody waits any more, but the endpoint needs it all the same."""

    async def body(world: World) -> None:
        assert await world.manager.acquire(WEB, party(1), None, 0.05) is None
        status = world.manager.state(WEB)
        assert status
        assert status.word == NO_ANSWER
        assert "eth0" in status.advice
        world.wire.silent.clear()
        whose, lease = await world.news(BOUND)
        assert whose == WEB
        assert lease
        status = world.manager.state(WEB)
        assert status
        assert status.advice == ""

    world(Wire({ETH0: Server4()}, silent={ETH0}), body)


def test_stopping_gives_nothing_back_and_the_next_run_goes_on() -> None:
    """The sandboxes, and what they talk to, know nothing of the daemon."""
    wire = Wire({ETH0: Server4()})
    leases: list[DhcpLease] = []

    async def first(world: World) -> None:
        lease = await world.manager.acquire(WEB, party(1), None, SECONDS)
        assert lease
        leases.append(lease)

    async def second(world: World) -> None:
        said = world.wire.sent
        world.manager.adopt(WEB, party(1), leases[0])
        assert world.wire.sent == said
        assert world.told.empty()
        # Had before the machine was started, by the looks of it: that is asked about.
        old = replace(leases[0], obtained=1, seconds=2**32 - 2, t1=2**32 - 4, t2=2**32 - 3)
        world.manager.adopt(WEB, party(1), old)
        assert await world.news(RENEWING) == (WEB, old)
        _, lease = await world.news(BOUND)
        assert lease
        assert lease.address == leases[0].address

    world(wire, first)
    assert wire.servers[ETH0].book.leases
    world(wire, second)


def test_a_lease_from_the_future_is_asked_about() -> None:
    """The machine's clock was set back: by it the lease would last far too long."""

    async def body(world: World) -> None:
        lease = await world.manager.acquire(WEB, party(1), None, SECONDS)
        assert lease
        world.manager.adopt(WEB, party(1), replace(lease, obtained=lease.obtained + 10**15))
        _, again = await world.news(BOUND)
        assert again
        assert again.obtained < lease.obtained + 10**15

    world(Wire({ETH0: Server4()}), body)


def test_a_lease_that_ended_while_the_daemon_was_away_is_lost_and_asked_for_again() -> None:
    """Its address may be somebody else's; if not, it is the same one."""

    async def body(world: World) -> None:
        lease = await world.manager.acquire(WEB, party(1), None, SECONDS)
        assert lease
        world.manager.adopt(WEB, party(1), replace(lease, obtained=lease.obtained - 121 * 10**9))
        assert await world.news(EXPIRED) == (WEB, None)
        _, again = await world.news(BOUND)
        assert again
        assert again.address == lease.address

    world(Wire({ETH0: Server4()}), body)


def test_a_device_that_comes_or_goes_is_noticed() -> None:
    """What cannot be sent is asked again; when the device is back, at once."""
    server = Server4()

    async def body(world: World) -> None:
        assert await world.manager.acquire(WEB, party(1), None, 0) is None
        status = world.manager.state(WEB)
        assert status
        assert (status.word, "eth0" in status.advice) == (NO_DEVICE, True)
        world.wire.silent.add(ETH0)
        world.wire.servers[ETH0] = server
        world.manager.device_appeared(ETH0)
        assert await world.news(NO_ANSWER) == (WEB, None)
        del world.wire.servers[ETH0]
        world.wire.ports[0].gone()
        assert await world.news(NO_DEVICE) == (WEB, None)
        world.wire.silent.clear()
        world.wire.servers[ETH0] = server
        world.manager.device_appeared(ETH0)
        _, lease = await world.news(BOUND)
        assert lease

    world(Wire({}), body)


def test_who_is_released_is_forgotten_and_its_address_free() -> None:
    """To release what is not there is success."""

    async def body(world: World) -> None:
        await world.manager.acquire(WEB, party(1), None, SECONDS)
        world.manager.release(WEB)
        assert world.manager.state(WEB) is None
        assert world.wire.servers[ETH0].book.leases == {}
        assert world.wire.ports == []
        world.manager.release(WEB)

    world(Wire({ETH0: Server4()}), body)


def test_a_caller_that_gives_up_leaves_nothing_behind() -> None:
    """Its endpoint will not come to be."""

    async def body(world: World) -> None:
        waiting = asyncio.create_task(world.manager.acquire(WEB, party(1), None, SECONDS))
        await asyncio.sleep(0)
        assert world.wire.ports
        waiting.cancel()
        await asyncio.wait([waiting])
        assert world.manager.state(WEB) is None
        assert world.wire.ports == []

    world(Wire({ETH0: Server4()}, silent={ETH0}), body)


def test_a_declined_address_is_told_as_lost() -> None:
    """Whoever found out that it is in use gets the news like any other."""

    async def body(world: World) -> None:
        await world.manager.acquire(WEB, party(1), None, SECONDS)
        world.manager.decline(WEB)
        assert await world.news("address in use") == (WEB, None)
        assert len(world.wire.servers[ETH0].book.declined) == 1

    world(Wire({ETH0: Server4()}), body)
