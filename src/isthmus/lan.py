"""The LANs that ours stand on: asked before an address is used, heard afterwards, and asked for addresses by DHCP.

The engine decides what has to be asked and what an answer means; here it is asked, on the daemon's loop, so that
nothing else waits for the wire. What is guarded and who is a client follows from a snapshot of what stands
(`Engine.standing`), taken whenever that may have changed: a missed event cannot matter.
"""

import asyncio
import fcntl
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from struct import Struct
from typing import Protocol, TypeVar

from msgspec.structs import replace

from isthmus.dhcp.identity import Hears
from isthmus.dhcp.manager import Device, Key, Party
from isthmus.dhcp.status import Status
from isthmus.engine import Engine
from isthmus.errors import DeviceUnavailable, Forbidden, IsthmusError, NetworkInUse, StoreUnavailable
from isthmus.model import DhcpLease, IPAddress, Network
from isthmus.options import Probe
from isthmus.questions import Evidence, Question, Reserve, Unanswered, WhichLease, WhoHas
from isthmus.requests import EndpointRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.tasks import together
from isthmus.views import Checked, Created, Event, Finding, LanClient, Standing
from isthmus.wire.advice import Finding as Trial
from isthmus.wire.advice import Verdict, advice
from isthmus.wire.prober import Schedule, fast, strict

log = logging.getLogger("isthmus.lan")

TRIES = 256
"""How many addresses in a row may turn out to be somebody else's before an attach gives up."""

SERVER_WAIT = 10.0
"""For how long, in seconds, an attach waits for a DHCP server."""

HERE = "this host"
"""Stands for the MAC where it is the host itself that has an address."""

CREATE_WAIT = 0.3
"""For how long, in seconds, the making of a network waits for answers to a second MAC."""

_T = TypeVar("_T")
_IFREQ = Struct("16si12x")
_SIOCGIFMTU = 0x8921
_ATF_COM = 2  # linux/if_arp.h: the entry is whole


class Call(Protocol):
    """The way to the engine: lets *work* be done with it and brings back what that returns or raises."""

    def __call__(self, work: Callable[[Engine], _T], /, *, brief: bool = False) -> Awaitable[_T]:
        """What *work* returns; awaiting it raises what *work* raises. *Brief* work may hold up the loop."""


class Wire(Protocol):
    """What is asked of the wire; see `wire.prober.Prober`."""

    async def probe(
        self, device: str, holders: Mapping[IPAddress, str], schedule: Schedule, *, ours: Container[str] = ()
    ) -> dict[IPAddress, str]:
        """Who else has each address."""

    def guard(self, device: str, holders: Mapping[IPAddress, str], *, ours: Container[str] = ()) -> None:
        """Listen for who claims one of the addresses."""

    async def check(self, device: str, targets: Collection[IPAddress], wait: float = 2.0) -> Trial:
        """Whether a second MAC is answered."""

    def close(self) -> None:
        """Ask and hear nothing more."""


class Servers(Protocol):
    """What is asked of DHCP servers; see `dhcp.manager.Manager`."""

    async def acquire(self, key: Key, party: Party, wanted: IPAddress | None, wait: float) -> DhcpLease | None:
        """A lease for a new endpoint."""

    def adopt(self, key: Key, party: Party, lease: DhcpLease) -> None:
        """Go on with a lease."""

    def decline(self, key: Key) -> None:
        """Tell that somebody else has the address."""

    def release(self, key: Key) -> None:
        """Give a lease back."""

    def lease(self, key: Key) -> DhcpLease | None:
        """What a client has."""

    def state(self, key: Key) -> Status | None:
        """How a client stands."""

    def device_appeared(self, device: Device) -> None:
        """Ask again on a device."""

    def close(self) -> None:
        """Stop; nothing is given back."""


class Pool(Protocol):
    """What is asked of the store that several hosts share; see `cluster.member.Member`."""

    async def reserve(self, questions: Iterable[Reserve]) -> Evidence:
        """Which of *questions* are answered with yes."""

    def settled(self, questions: Iterable[Question]) -> None:
        """Know that nothing more comes of *questions*."""

    async def update_network(self, before: Network, after: Network) -> None:
        """Have a network be another, for all."""

    async def remove_network(self, network: Network) -> None:
        """Have a network be there no more, for nobody."""

    async def check(self, network: Network) -> tuple[Finding, ...]:
        """Whether the store, this host and the ways to others agree about a network."""

    def heard(self, event: Event) -> None:
        """Take notice of what the engine announced."""

    def moved(self) -> None:
        """Know that the ways between other hosts and this one may be others."""

    async def close(self) -> None:
        """Let go of the store."""


HearConflict = Callable[[str, IPAddress, str], None]
HearLease = Callable[[Key, DhcpLease | None, Status], None]


class Lan:
    """What the engine is asked for when the wire has a say in it. It is used on the loop's thread."""

    def __init__(
        self, call: Call, wire: Callable[[HearConflict], Wire], servers: Callable[[HearLease], Servers]
    ) -> None:
        """*Wire* and *servers* make what is asked, given whom it tells what it hears of its own accord."""
        self._call = call
        self._wire, self._servers = wire(self.conflict), servers(self.leased)
        self._networks: frozenset[str] = frozenset()
        self._segments: frozenset[str] = frozenset()
        self._clients: dict[Key, LanClient] = {}
        # How many ask for a lease by this key now: none, if its asking is over and what came of it is yet to be seen.
        self._asking: Counter[Key] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking = self._outdated = False
        self._pool: Pool | None = None

    def share(self, pool: Pool) -> None:
        """Ask *pool* for what hosts share, from now on."""
        self._pool = pool

    # What users ask for.

    async def connect(self, network: str, sandbox: str, request: EndpointRequest) -> None:
        """As `Engine.connect`, when all that has to be asked was asked."""
        await self._answered(lambda engine, evidence: engine.connect(network, sandbox, request, evidence))

    async def create_sandbox(self, request: SandboxRequest) -> Created:
        """As `Engine.create_sandbox`, when all that has to be asked was asked."""
        return await self._answered(lambda engine, evidence: engine.create_sandbox(request, evidence))

    async def create_network(self, request: NetworkRequest) -> Created:
        """As `Engine.create_network`, with a warning if endpoints with MACs of their own will reach nobody there."""
        created, checked = await self._answered(partial(_create, request))
        findings = await self._try_second_mac(checked, CREATE_WAIT, {Verdict.PARENT_ONLY})
        return replace(created, warning="; ".join(finding.text for finding in findings if not finding.ok))

    async def update_network(self, name: str, request: NetworkUpdate) -> None:
        """As `Engine.update_network`, for all hosts if it is shared."""
        record = (await self._call(lambda engine: engine.network(name))).network
        if self._pool and record.scope == "global":
            # By this the engine hears of it, like every host's.
            await self._pool.update_network(*await self._call(lambda engine: engine.updated(record.id, request)))
        else:
            await self._call(lambda engine: engine.update_network(record.id, request))

    async def prune_networks(self, keep: Callable[[Network], bool]) -> tuple[str, ...]:
        """As `Engine.prune_networks`; what is shared goes for all hosts, if nobody is on it anywhere."""
        gone = []
        for network in await self._call(lambda engine: engine.idle_networks(keep)):
            if self._pool and network.scope == "global":
                with suppress(NetworkInUse, StoreUnavailable):
                    await self._pool.remove_network(network)
                    gone.append(network.name)
        rest = await self._call(lambda engine: engine.prune_networks(lambda one: one.scope == "global" or keep(one)))
        return (*gone, *rest)

    async def remove_network(self, name: str) -> None:
        """As `Engine.remove_network`, for all hosts if it is shared."""
        record = (await self._call(lambda engine: engine.network(name))).network
        if self._pool and record.scope == "global":
            await self._pool.remove_network(record)  # by which the engine hears that it is gone, like every host's
        else:
            await self._call(lambda engine: engine.remove_network(record.id))

    async def check(self, name: str) -> tuple[Finding, ...]:
        """What there is to tell of a network, the wire included."""
        record = (await self._call(lambda engine: engine.network(name))).network
        told = await self._pool.check(record) if self._pool and record.scope == "global" else ()
        checked = await self._call(lambda engine: engine.check(name))
        return (*told, *checked.findings, *await self._try_second_mac(checked, 1.0, set(Verdict)))

    async def _answered(self, decide: Callable[[Engine, Evidence], _T]) -> _T:
        """What *decide* says when it has the evidence that it wants."""
        asked: list[Question] = []
        try:
            return await self._ask_until_answered(decide, asked)
        except BaseException:
            if asked:
                self._spawn(self._tell(lambda engine: engine.withdraw(asked)))
            raise
        finally:
            if keys := _keys(asked):
                self._asking.subtract(keys)
                self.look()
            if self._pool:
                self._pool.settled(asked)

    async def _ask_until_answered(self, decide: Callable[[Engine, Evidence], _T], asked: list[Question]) -> _T:
        """What *decide* says in the end; *asked* grows by the questions that lead there."""
        evidence = Evidence()
        for _ in range(TRIES):
            try:
                return await self._call(partial(_decide, decide, evidence), brief=True)
            except Unanswered as unanswered:
                questions = unanswered.questions
            asked += questions
            self._asking.update(_keys(questions))
            evidence |= await self._ask(questions)
        raise Forbidden(f"{TRIES} addresses in a row are other machines' on the wire; choose another range")

    async def _ask(self, questions: Iterable[Question]) -> Evidence:
        """The answers to all *questions*, which are asked at once."""
        addresses: dict[tuple[str, Probe], dict[IPAddress, str]] = {}
        leases, reserved = [], []
        for question in questions:
            match question:
                case WhoHas(segment, address, mac, probe):
                    addresses.setdefault((segment, probe), {})[address] = mac
                case WhichLease():
                    leases.append(question)
                case Reserve():
                    reserved.append(question)
        holders: dict[tuple[str, IPAddress], str] = {}
        granted: dict[tuple[str, str, int], DhcpLease | None] = {}

        async def look(segment: str, probe: Probe, asked: Mapping[IPAddress, str]) -> None:
            found = await self._probe(segment, probe, asked)
            holders.update({(segment, address): mac for address, mac in found.items()})

        async def acquire(question: WhichLease) -> None:
            granted[question.key] = await self._acquire(question)

        await together(*(look(*where, asked) for where, asked in addresses.items()), *map(acquire, leases))
        evidence = Evidence(holders, granted)
        return evidence | await self._pool.reserve(reserved) if self._pool and reserved else evidence

    async def _probe(self, segment: str, probe: Probe, asked: Mapping[IPAddress, str]) -> Mapping[IPAddress, str]:
        """Who has the addresses; nobody, where nobody can be asked.

        What the host itself has is known, and would not be heard: a parent and its children are kept apart.
        """
        own = {address: HERE for address in asked if _is_own(address)}
        asked = {address: mac for address, mac in asked.items() if address not in own}
        schedule = strict(secrets.SystemRandom().random) if probe is Probe.STRICT else fast()
        try:
            return own | await self._wire.probe(segment, asked, schedule)
        except DeviceUnavailable as error:
            log.warning("addresses are given out unasked: %s", error)
            return own | dict.fromkeys(asked, "")

    async def _acquire(self, question: WhichLease) -> DhcpLease | None:
        """The lease that a server gives; none if somebody has the address all the same (RFC 2131, 4.4.1)."""
        party = Party(Device(question.segment), question.mac, question.hostname, _hears(question))
        lease = await self._servers.acquire(question.key, party, question.wanted, SERVER_WAIT)
        if lease and question.probe is not Probe.OFF:
            address = lease.address.ip
            if (await self._probe(question.segment, question.probe, {address: question.mac}))[address]:
                self._servers.decline(question.key)
                return None
        return _fitting(lease, question.segment)

    async def _try_second_mac(self, checked: Checked, wait: float, telling: Iterable[Verdict]) -> tuple[Finding, ...]:
        """What came of asking from a second MAC, if that is one of *telling* or the card a Wi-Fi card."""
        if not checked.nic:
            return ()
        try:
            found = await self._wire.check(checked.nic, checked.targets or _neighbours(checked.nic), wait)
        except DeviceUnavailable as error:
            return (Finding("wire", ok=False, text=str(error)),)
        if found.verdict is Verdict.BOTH:
            took = f"{found.neighbour} ({found.mac}) answers to a second MAC on {checked.nic}"
            return (Finding("wire", ok=True, text=f"{took}, after {found.took * 1000:.1f} ms"),)
        if found.verdict not in telling and not checked.wireless:
            return ()
        told = advice(found, checked.nic, *map(_dmi, ("sys_vendor", "product_name")), wireless=checked.wireless)
        return tuple(Finding("wire", ok=False, text=line) for line in told)

    # What stands.

    def heard(self, event: Event) -> None:
        """Take notice of what the engine announced."""
        if event.kind != "network":
            return
        if self._pool:
            self._pool.heard(event)
        # What a look that is under way has not seen yet may be one of those that it is about.
        known = event.id in self._networks or self._looking
        if event.action in {"create", "destroy"} or (known and event.action in {"connect", "disconnect"}):
            self.look()

    def appeared(self, device: str) -> None:
        """Know that a link of this name is there again, or up; what stands on it may be, too."""
        self._servers.device_appeared(Device(device))
        if self._networks:
            self.look()

    def moved(self) -> None:
        """Know that the ways between other hosts and this one may be others."""
        if self._pool:
            self._pool.moved()

    def look(self) -> None:
        """See what stands, soon, and act on it."""
        self._outdated = True
        if not self._looking:
            self._looking = True
            self._spawn(self._look())

    async def _look(self) -> None:
        try:
            while self._outdated:
                self._outdated = False
                standing = await self._call(lambda engine: engine.standing())
                # Acting on what was, we might give back a lease that was got meanwhile.
                if not self._outdated:
                    self._guard(standing)
                    self._serve(standing)
        finally:
            self._looking = False

    def _serve(self, standing: Standing) -> None:
        """Have a client for each endpoint that stands, and none for others but those that are being made."""
        clients = {client.question.key: client for client in standing.clients}
        asked, unchanged = self._asking.keys(), self._clients.keys() - self._asking.keys()
        busy = {key for key, number in self._asking.items() if number}
        for key in (self._clients.keys() | asked) - clients.keys() - busy:
            self._servers.release(key)
        self._clients, self._asking = clients, Counter({key: self._asking[key] for key in busy})
        for key in clients.keys() - unchanged - busy:
            self._attend(clients[key])

    def _guard(self, standing: Standing) -> None:
        """Have the addresses guarded that stand."""
        self._networks = standing.networks
        ours = frozenset(mac for holders in standing.holders.values() for mac in holders.values())
        for segment in self._segments | standing.holders.keys():
            with suppress(DeviceUnavailable):  # `appeared` comes when it is back
                self._wire.guard(segment, standing.holders.get(segment, {}), ours=ours)
        self._segments = frozenset(standing.holders)

    def _attend(self, client: LanClient) -> None:
        """Have a client for an endpoint that stands, and its lease used."""
        key = client.question.key
        if state := self._servers.state(key):
            # It may have heard something while the endpoint was made.
            self.leased(key, self._servers.lease(key), state)
        elif client.lease:
            self._servers.adopt(key, _party(client), client.lease)
        else:
            self._spawn(self._acquire_late(client))

    async def _acquire_late(self, client: LanClient) -> None:
        """Get a lease for an endpoint that stands without one."""
        key = client.question.key
        lease = await self._servers.acquire(key, _party(client), None, SERVER_WAIT)
        self.leased(key, lease, self._servers.state(key))

    # What the wire says of its own accord.

    def conflict(self, segment: str, address: IPAddress, mac: str) -> None:
        """Have everybody know that somebody else claims an address of ours."""
        log.warning("on %s, %s claims %s, which is one of ours", segment, mac, address)
        self._spawn(self._tell(lambda engine: engine.conflict(segment, address, mac)))
        for key, client in self._clients.items():
            lease = self._servers.lease(key) if client.question.segment == segment else None
            if lease and lease.address.ip == address:
                self._servers.decline(key)

    def leased(self, key: Key, lease: DhcpLease | None, status: Status | None) -> None:
        """Have an endpoint use the lease that its client has now; one that is not seen yet will be when it is."""
        if client := self._clients.get(key):
            fitting = _fitting(lease, client.question.segment)
            trouble = f"{status.word}: {status.advice}" if status and status.advice else ""
            self._spawn(self._use(key, fitting, trouble))

    async def _use(self, key: Key, lease: DhcpLease | None, trouble: str) -> None:
        """Have an endpoint use a lease, and its address guarded."""
        await self._tell(lambda engine: engine.leased(key, lease, trouble))
        self.look()

    async def _tell(self, work: Callable[[Engine], None]) -> None:
        try:
            await self._call(work)
        except (IsthmusError, ExceptionGroup) as error:
            log.error("what the wire told could not be followed: %s", error)  # noqa: TRY400 - it is told whole

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("what concerns the wire was given up, until something happens there again", exc_info=error)

    async def close(self) -> None:
        """Ask and hear nothing more. Leases go on: the next run adopts them."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._servers.close()
        self._wire.close()
        if self._pool:
            await self._pool.close()


def _decide(decide: Callable[[Engine, Evidence], _T], evidence: Evidence, engine: Engine) -> _T:
    return decide(engine, evidence)


def _create(request: NetworkRequest, engine: Engine, evidence: Evidence) -> tuple[Created, Checked]:
    """Make a network; tell what of it only the wire can tell."""
    created = engine.create_network(request, evidence)
    return created, engine.to_ask(created.id)


def _keys(questions: Iterable[Question]) -> list[Key]:
    """Whose leases are asked for."""
    return [question.key for question in questions if isinstance(question, WhichLease)]


def _party(client: LanClient) -> Party:
    """An endpoint as a client: on its segment's link, or inside, where that does not hear what is for the endpoint."""
    question = client.question
    if question.switched and question.version == 6:
        return Party(Device(client.ifname, client.netns), question.mac, question.hostname)
    return Party(Device(question.segment), question.mac, question.hostname, _hears(question))


def _hears(question: WhichLease) -> Hears:
    return Hears.BROADCASTS if question.switched else Hears.ALL


def _fitting(lease: DhcpLease | None, segment: str) -> DhcpLease | None:
    """*lease* with an MTU that is not larger than the one of the link that it is used over."""
    if lease is None or not lease.mtu:
        return lease
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, _IFREQ.pack(segment.encode(), 0))
        except OSError:
            return lease
    return replace(lease, mtu=min(lease.mtu, _IFREQ.unpack(answer)[1]))


def _is_own(address: IPAddress) -> bool:
    """Whether the host has *address*, on whatever interface: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            any_socket.bind((str(address), 0))
        except OSError:
            return False
    return True


def _neighbours(nic: str) -> tuple[IPAddress, ...]:
    """Whom the host knows on the wire of *nic*, over IPv4: who may answer where no gateway is named."""
    lines = Path("/proc/thread-self/net/arp").read_text(encoding="ascii").splitlines()[1:]
    known = (line.split() for line in lines)
    return tuple(IPv4Address(words[0]) for words in known if words[5] == nic and int(words[2], 16) & _ATF_COM)


def _dmi(name: str) -> str:
    """What the firmware says of this machine; "" if it says nothing."""
    with suppress(OSError):
        return Path("/sys/class/dmi/id", name).read_text(encoding="utf-8", errors="replace")
    return ""
