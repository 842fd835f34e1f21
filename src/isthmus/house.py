"""The house: the object graph of a daemon, which brings the kernel to what is wanted, and mends."""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from isthmus import config, firewall, logs
from isthmus.addresses import ula_pool
from isthmus.api.events import Events
from isthmus.api.listening import listen
from isthmus.config import NO_BRIDGE, Settings
from isthmus.dhcp.manager import Device, Manager
from isthmus.dns.lookup import Directory
from isthmus.engine import Engine
from isthmus.errors import DeviceUnavailable, IsthmusError, StoreUnavailable, leaves
from isthmus.kernel import Appeared, FirewallTouched, News, Overrun, PathChanged, namespaces
from isthmus.kernel.linux import LinuxKernel
from isthmus.kernel.nflog import PacketLog
from isthmus.kernel.timed import Timed
from isthmus.kernel.watch import Watch
from isthmus.kv.url import parse as kv_url
from isthmus.lan import Call, Lan
from isthmus.learning import Learning
from isthmus.model import HOST, Dns, Record
from isthmus.names import Names
from isthmus.naming import ENCRYPTED
from isthmus.plan import NOTHING, Plan
from isthmus.ports import AUTOMATIC
from isthmus.rules import Rules
from isthmus.store.local import LocalStore
from isthmus.views import Event
from isthmus.wire import filters
from isthmus.wire.port import Port
from isthmus.wire.prober import Prober
from isthmus.worker import Worker

if TYPE_CHECKING:
    from isthmus.cluster.member import Member

log = logging.getLogger("isthmus")

_T = TypeVar("_T")

SETTLE = 0.02
"""For how long, in seconds, news gather with the kernel before they are read and looked into."""

RETRY = 1.0
"""After how long, in seconds, what could not be mended is tried again; then after twice that, and so on."""

PATIENCE = 60.0
"""The longest time, in seconds, between two tries."""


class House(msgspec.Struct, frozen=True):
    """What the worker owns."""

    store: LocalStore
    kernel: LinuxKernel
    engine: Engine

    def chores(self) -> None:
        """Take dead links apart, have namespaces made ahead of need, and have the store forget what is gone."""
        self.kernel.reap()
        self.kernel.prepare()
        self._tell_store()

    def close(self) -> None:
        """Let go of everything; what was made stays."""
        self._tell_store()
        self.kernel.close()
        self.store.close()

    def _tell_store(self) -> None:
        """Have the store forget what is gone; if it does not answer, the next change or the next start does."""
        try:
            self.engine.write_behind()
        except StoreUnavailable as error:
            log.warning("what is gone will be forgotten later: %s", error)


async def run(settings: Settings, stopping: asyncio.Event) -> None:
    """Bring the kernel to what is wanted, serve and mend, until *stopping* is set; the garbage collector is on then."""
    for warning in settings.warnings:
        log.warning("%s", warning)
    events = Events()
    # What the engine records and announces travels with its answer: to wake the loop for it costs more than it does.
    recorded: deque[tuple[Iterable[Record], Iterable[Record]]] = deque()
    announced: deque[Event] = deque()

    def publish() -> None:
        while recorded:
            names.learn(*recorded.popleft())
        while announced:
            event = announced.popleft()
            events.publish(event)
            lan.heard(event)

    async with contextlib.AsyncExitStack() as held:
        identity = _identity(Path(settings.data_root))
        sockets = [listen(address, os.environ, settings.group) for address in settings.hosts]
        held.callback(_close_all, sockets)
        names = _names(settings)
        held.callback(names.close)
        worker = await Worker.start(
            lambda: _build(settings, identity, announced.append, lambda put, drop: recorded.append((put, drop))),
            publish,
        )
        held.push_async_callback(worker.stop)
        watch = Watch(Path(settings.exec_root) / "netns", await worker.call(lambda house: house.kernel.firewall_port))
        held.callback(watch.close)

        def call(work: Callable[[Engine], _T], /, *, brief: bool = False) -> Awaitable[_T]:
            return worker.call(lambda house: work(house.engine), brief=brief)

        lan = Lan(call, Prober, partial(Manager, _listen))
        held.push_async_callback(lan.close)
        member = _member(settings, identity, call)
        if member:
            lan.share(member)
        mender = Mender(worker, watch, lan, names)
        held.callback(mender.stop)
        mender.listen()
        began = time.monotonic()
        try:
            plan = await worker.call(lambda house: house.engine.start())
        except ExceptionGroup as refusals:
            mender.try_again((Overrun(),), refusals)
            plan = NOTHING
        held.callback(_start(names, settings))
        log.info("ready after %.3f s, with %d operations done", time.monotonic() - began, len(plan))
        # What is there now stays; it need not be looked through again and again for what is not needed. Nor now: what
        # little of it is garbage is not worth the time.
        gc.freeze()
        # A request makes thousands of things, and what they leave is seldom such as only the collector finds.
        gc.set_threshold(10_000)
        gc.enable()

        # It was loaded meanwhile (`daemon`).
        from isthmus.serving import serve

        await serve(held, settings, identity, call, lan, member, names, events, sockets)
        held.enter_context(_pidfile(Path(settings.pidfile)))
        _notify("READY=1")
        await stopping.wait()
        _notify("STOPPING=1")
        log.info("stopping; what runs goes on")


def _member(settings: Settings, identity: str, call: Call) -> "Member | None":
    """What this host is among those that share a store, if it is told of one."""
    if not settings.cluster_store:
        return None
    # It is heavy, and most daemons have none.
    from isthmus.cluster.encryption import Encryption
    from isthmus.cluster.member import Member, Times
    from isthmus.kernel.wireguard import Ways
    from isthmus.kv.opening import open_store

    options = dict(settings.cluster_store_opts)
    address = kv_url(settings.cluster_store, options)
    ways = Ways(Path(settings.exec_root) / "netns" / ENCRYPTED)
    kept = Path(settings.data_root) / "wireguard.key"
    return Member(
        call,
        open_store(settings.cluster_store, options),
        identity,
        socket.gethostname(),
        Path(settings.data_root) / "cluster",
        Times(address.heartbeat, address.ttl, address.ttl),
        time.time_ns,
        Encryption(ways, identity, kept, address.ttl, longest=settings.encryption_rekey / 1e9),
    )


def _automatic_ports() -> range:
    """The ports that the kernel takes for itself, which are those that we choose from, as Docker does."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        return AUTOMATIC
    return range(first, last + 1)


def _names(settings: Settings) -> Names:
    """Who tells names; to be made on the loop."""
    exec_root = Path(settings.exec_root)
    defaults = Dns(settings.dns, settings.dns_opts, settings.dns_search)
    directory = Directory(settings.host_gateway_ips, defaults)
    learning = Learning(directory, Timed(), time.monotonic)
    return Names(directory, lambda name: namespaces.entered(str(exec_root / "netns" / name)), exec_root, learning)


def _start(names: Names, settings: Settings) -> Callable[[], None]:
    """Serve *names*, and tell what egress policies stop; return what ends the latter."""
    names.start(settings.dns_stub)
    try:
        heard = PacketLog(firewall.EGRESS_LOG)
    except OSError as error:
        log.warning("what egress policies drop is not told here: netfilter's log cannot be had: %s", error.strerror)
        return lambda: None
    loop = asyncio.get_running_loop()
    loop.add_reader(heard, lambda: names.judged(heard.read()))

    def end() -> None:
        loop.remove_reader(heard)
        heard.close()

    return end


def _build(
    settings: Settings,
    identity: str,
    publish: Callable[[Event], None],
    recorded: Callable[[Iterable[Record], Iterable[Record]], None],
) -> House:
    """The object graph; called on a thread of the worker's, in whose namespace the kernel is looked at."""
    exec_root, data_root = Path(settings.exec_root), Path(settings.data_root)
    kernel = LinuxKernel(exec_root)
    store = LocalStore(data_root / "store")
    pools = settings.default_address_pools
    if not any(pool.base.version == 6 for pool in pools):
        pools = (*pools, ula_pool(identity))
    foreign = kernel.host().link(settings.bridge) if settings.bridge not in {"", NO_BRIDGE} else None
    rules = Rules(
        pools=pools,
        denied=settings.denied_address_pools,
        lease=settings.address_lease,
        driver_options=dict(settings.default_network_opts),
        forward=frozenset({4, 6}) if settings.ip_forward else frozenset(),
        closing=not settings.ip_forward_no_drop,
        firewall=frozenset(v for v, on in ((4, settings.iptables), (6, settings.ip6tables)) if on),
        marks=(settings.bridge_accept_fwmark.mark,) if settings.bridge_accept_fwmark else (),
        default_bridge=config.default_network(settings, foreign.addresses if foreign else ()),
        automatic=_automatic_ports(),
        shared=bool(settings.cluster_store),
        advertise=settings.cluster_advertise,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    )
    engine = Engine(
        store,
        logs.Journal(kernel),
        rules,
        clock=time.time_ns,
        random=secrets.token_bytes,
        publish=publish,
        paths={HOST: f"/proc/{os.getpid()}/ns/net", "*": str(exec_root / "netns")},
        recorded=recorded,
    )
    return House(store, kernel, engine)


class Mender:
    """Has the engine look again when the kernel tells that something of ours went."""

    def __init__(self, worker: Worker[House], watch: Watch, lan: Lan, names: Names) -> None:
        self._worker = worker
        self._watch = watch
        self._lan = lan
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.TimerHandle | None = None
        self._news: dict[News, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._pause = RETRY

    def listen(self) -> None:
        """Begin to hear what the kernel tells."""
        self._reading = None
        self._loop.add_reader(self._watch.fileno(), self._hear)

    def stop(self) -> None:
        """Hear nothing any more."""
        self._loop.remove_reader(self._watch.fileno())
        if self._reading:
            self._reading.cancel()

    def _hear(self) -> None:
        """Let news gather with the kernel: what our own work makes it say is read once for many requests."""
        self._loop.remove_reader(self._watch.fileno())
        self._reading = self._loop.call_later(SETTLE, self._read)

    def _read(self) -> None:
        self._look_into(self._watch.read())
        self.listen()

    def try_again(self, news: Iterable[News], refusals: ExceptionGroup[Exception]) -> None:
        """Say why *news* could not be mended, and look into them once more, later and later."""
        log.error(
            "not as it should be, to be tried again in %.0f s: %s", self._pause, "; ".join(map(str, leaves(refusals)))
        )
        self._loop.call_later(self._pause, self._look_into, tuple(news))
        self._pause = min(2 * self._pause, PATIENCE)

    def _look_into(self, news: Iterable[News]) -> None:
        self._news.update(dict.fromkeys(news))
        if self._news and self._task is None:
            self._task = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        """Look into the news until there are none."""
        try:
            while self._news:
                news = tuple(self._news)
                self._news.clear()
                try:
                    plan = await self._worker.call(partial(_mend, news))
                except ExceptionGroup as refusals:
                    self.try_again(news, refusals)
                except (IsthmusError, OSError) as error:
                    self.try_again(news, ExceptionGroup("", [error]))
                else:
                    self._pause = RETRY
                    if len(plan):
                        self._names.look_again()
                        log.warning("put back what others had taken: %d operations", len(plan))
                        self._lan.look()
                        self._lan.moved()
                for one in news:
                    match one:
                        case Appeared():
                            self._lan.appeared(one.name)
                        case FirewallTouched() | Overrun():
                            self._names.teach_again()
                        case PathChanged():
                            self._lan.moved()
                        case _:
                            pass
        finally:
            self._task = None


def _listen(device: Device, port: int, hear: Callable[[bytes, int], None], gone: Callable[[], None]) -> Port:
    """A port that hears datagrams to a UDP *port* on a device, be it in the host's namespace or in a sandbox's."""
    if device.netns == HOST:
        return Port(device.name, filters.datagrams(port), hear, gone)
    with contextlib.ExitStack() as there:
        try:
            there.enter_context(namespaces.entered(device.netns))
        except OSError as error:
            raise DeviceUnavailable(device.name, "its sandbox is gone") from error
        return Port(device.name, filters.datagrams(port), hear, gone)


def _mend(news: tuple[News, ...], house: House) -> Plan:
    return house.engine.mend(news)


def _identity(data_root: Path) -> str:
    """The ID of this daemon: made once, then kept beside its records."""
    path = data_root / "id"
    with contextlib.suppress(FileNotFoundError):
        if found := path.read_text().strip():
            return found
    made = secrets.token_hex(16)
    fresh = path.with_suffix(".new")
    fresh.write_text(made + "\n")
    fresh.replace(path)
    return made


@contextlib.contextmanager
def _pidfile(path: Path) -> Iterator[None]:
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _notify(state: str) -> None:
    """Tell systemd how we are, if it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect("\0" + address[1:] if address.startswith("@") else address)
            told.send(state.encode())


def _close_all(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        one.close()
