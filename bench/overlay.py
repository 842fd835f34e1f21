"""What a network on several hosts takes: until others reach who was attached, the attach itself, and traffic.

Two hosts have a wire, a daemon each, and a store that they share. Traffic is held against the same tunnel made by hand:
on each of two hosts a namespace with a bridge, a VXLAN device and a pair of veths, told who is where.

How long it takes until others reach who was attached is counted from the answer to the attach to the first answer to
an echo request, sent in turn with requests for the MAC, as fast as one processor does. All that may happen before the
attach is answered: then it took nothing. Beside it stands what one commit takes, asked of the store in the same turns.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import count
from signal import SIGTERM
from statistics import median

from bench.path import HANDS, PathPace, Way, compare, cpu
from bench.report import Goal, Report
from bench.stores import STORES, Server, program
from bench.world import Daemon, World, add_host, ip, on, process, wait_for
from isthmus.kernel import namespaces
from isthmus.kv import Guards, SharedStore
from isthmus.kv.opening import open_store

ATTACH = "make a sandbox on an overlay network, store {}"
REACHED = "until another host reaches who was attached, store {}"
TARGET = 20.0
"""After how many milliseconds, besides a commit, another host has to reach who was attached."""

_VALUE = b"x" * 400  # as much as is kept of an endpoint
_PATIENCE = 10.0


def measure(world: World, report: Report, pace: PathPace, rounds: int) -> None:
    """Measure with each store that there is; traffic, which no store has a part in, with the first."""
    for number, kind in enumerate(name for name in STORES if program(name)):
        with ExitStack() as held:
            one, other, store = _pair(world, held, kind, number)
            with namespaces.entered(f"/run/netns/{one.host}"), asyncio.Runner() as runner:
                client = open_store(store.url, {"kv.path": "bench"})
                _attach(one, runner, client, report, kind, rounds)
                _reach(one, other, runner, client, report, kind, rounds)
                runner.run(client.close())
            if number == 0:
                _traffic(world, one, other, report, pace)
    for kind in STORES:
        if not program(kind):
            report.notes.append(f"Overlay networks with {kind} are not measured: it is not here.")


def _pair(world: World, held: ExitStack, kind: str, number: int) -> tuple[Daemon, Daemon, Server]:
    """Two hosts with a wire between them, and with a wire each to the host of a store, where that runs."""
    place = add_host(f"{kind}-store")
    ip(place, f"link add br0 type bridge\naddress add 10.90.{number}.3/24 dev br0\nlink set br0 up\n")
    daemons = []
    for nth in (1, 2):
        flags = (f"--cluster-store={kind}://10.90.{number}.3:{STORES[kind]}", f"--cluster-advertise=192.0.2.{nth}")
        one = Daemon(world, f"{kind}-{nth}", *flags, several=True)
        ip(place, f"link add port{nth} type veth peer name store0 netns {one.host}\nlink set port{nth} master br0 up\n")
        ip(one.host, f"address add 10.90.{number}.{nth}/24 dev store0\nlink set store0 up\n")
        daemons.append(one)
    one, other = daemons
    _wire(one.host, other.host)
    store = Server(world.directory, kind, place, f"10.90.{number}.3")
    held.callback(store.end)
    for each in daemons:
        each.start()
        held.callback(each.end, SIGTERM)
    for each in daemons:
        wait_for(lambda: len(each.api.do("GET", "/nodes").json()) == 2, "the hosts to know each other", 0.05)  # noqa: B023
    for name, internal in (("open", False), ("shut", True)):
        one.add_network(name, f"10.{91 + internal}.0.0/16", "overlay", internal=internal)
        wait_for(lambda: other.api.send("GET", f"/networks/{name}").status == 200, "the network to be on both", 0.05)  # noqa: B023
    return one, other, store


def _wire(one: str, other: str) -> None:
    """A wire between two hosts, which are 192.0.2.1 and 192.0.2.2 on it."""
    ip(one, f"link add wire0 type veth peer name wire0 netns {other}\n")
    for number, host in enumerate((one, other), 1):
        ip(host, f"address add 192.0.2.{number}/24 dev wire0\nlink set wire0 up\n")


# What an attach takes.


def _attach(  # noqa: PLR0917
    daemon: Daemon, runner: asyncio.Runner, client: SharedStore, report: Report, kind: str, rounds: int
) -> None:
    daemon.add_network("local", "10.93.0.0/16")
    names = {
        "local": "on a bridge network",
        "shut": "on an overlay, --internal",
        "open": "on an overlay, with its way out",
    }
    took: dict[str, list[float]] = {network: [] for network in names}
    commits: list[float] = []
    for network in names:  # what comes with the first is not what is asked
        daemon.add_sandbox(f"first-{network}", network)
    for turn in range(rounds):
        order = [*names][turn % 3 :] + [*names][: turn % 3]
        for network in order:
            took[network].append(daemon.add_sandbox(f"a-{network}", network))
        commits.append(runner.run(_commit(client, f"attach/{turn}")))
        for network in names:
            daemon.remove_sandbox(f"a-{network}")
        daemon.settle()
    question = ATTACH.format(kind)
    for network, name in names.items():
        report.add(question, name, "ms", took[network])
    report.add(question, "a commit alone", "ms", commits)


async def _commit(client: SharedStore, key: str) -> float:
    """How many milliseconds it takes to make a key of its own, as an attach does."""
    began = time.perf_counter_ns()
    await client.commit({key: _VALUE}, Guards(absent=(key,)))
    return (time.perf_counter_ns() - began) / 1e6


# How soon others know.


def _reach(  # noqa: PLR0917
    one: Daemon, other: Daemon, runner: asyncio.Runner, client: SharedStore, report: Report, kind: str, rounds: int
) -> None:
    one.add_sandbox("goes", "local")
    other.add_sandbox("stays", "shut")
    place, _ = other.place("shut", "stays")
    commits, delays = [], []
    with namespaces.entered(place):
        asking = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with asking:
        asking.bind(("eth0", 0x0003))
        for turn in range(rounds):
            commits.append(runner.run(_commit(client, f"reach/{turn}")))
            address = f"10.92.200.{turn + 1}"
            with _asker(asking, other.place("shut", "stays")[1], address) as answered:
                one.connect("shut", "goes", address)
                done = time.perf_counter_ns()
                delays.append(max(0.0, (answered() - done) / 1e6))
            one.disconnect("shut", "goes")
            time.sleep(0.1)
    question = REACHED.format(kind)
    report.add(question, "a commit alone", "ms", commits)
    goal = Goal(round(TARGET + median(commits), 1), of_ratio=False)
    report.add(question, "isthmus", "ms", delays, goal)


@contextmanager
def _asker(wire: socket.socket, own: str, address: str) -> "Iterator[_Answered]":
    """Have somebody ask for *address* all the time, from a thread, until there is an answer or the block ends."""
    answered = _Answered()
    thread = threading.Thread(target=_ask, args=(wire, own, address, answered))
    thread.start()
    try:
        yield answered
    finally:
        answered.ended.set()
        thread.join()


class _Answered:
    """When the answer came, on the clock of `perf_counter_ns`."""

    def __init__(self) -> None:
        self.at, self.ended, self.came = 0, threading.Event(), threading.Event()

    def __call__(self) -> int:
        if not self.came.wait(_PATIENCE):
            raise RuntimeError("another host never reached who was attached")
        return self.at


def _ask(wire: socket.socket, own: str, address: str, answered: _Answered) -> None:
    """Ask whose *address* is, and then send an echo request there, again and again until it is answered."""
    mac = bytes(wire.getsockname()[4])
    source, target = ip_address(own).packed, ip_address(address).packed
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, source, bytes(6), target)
    question, numbers = b"\xff" * 6 + mac + b"\x08\x06" + arp, count()
    wire.settimeout(0.0005)
    while not answered.ended.is_set():
        wire.send(question)
        try:
            while frame := wire.recv(2048):
                if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == target:
                    question = frame[6:12] + mac + b"\x08\x00" + _echo(source, target, next(numbers) & 0xFFFF)
                if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[26:30] == target and frame[34] == 0:
                    answered.at = time.perf_counter_ns()
                    answered.came.set()
                    return
        except TimeoutError:
            continue


def _echo(source: bytes, target: bytes, number: int) -> bytes:
    """An echo request, with all that IP has around it."""
    message = struct.pack("!BBHHH", 8, 0, 0, 7, number) + bytes(16)
    message = message[:2] + struct.pack("!H", _sum(message)) + message[4:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(message), number, 0, 64, 1, 0, source, target)
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + message


def _sum(data: bytes) -> int:
    """The checksum of IP (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


# Traffic.


def _traffic(world: World, one: Daemon, other: Daemon, report: Report, pace: PathPace) -> None:
    load = str(world.build("load", "-static"))
    one.add_sandbox("near", "shut")
    other.add_sandbox("far", "shut")
    ours, _ = one.place("shut", "near")
    server, address = other.place("shut", "far")
    ways = [Way(party, _by_hand(f"tunnel-{host}"), "10.94.0.2") for host, party in HANDS.items()]
    ways.append(Way("isthmus", ours, address))
    with ExitStack() as held:
        for place in (*(f"tunnel-{host}2-in" for host in HANDS), server):
            held.enter_context(process(*on(place), load, "serve", "5000", environment=cpu(1)))
        compare(load, ways, "across an overlay", 0.97, report, pace)


def _by_hand(name: str) -> str:
    """Two hosts with a tunnel between bridges in namespaces, and one who stands on each; the first of these."""
    hosts = [add_host(f"{name}{number}") for number in (1, 2)]
    _wire(*hosts)
    macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
    for number, host in enumerate(hosts, 1):
        hub, inner, far = add_host(f"{host}-hub"), add_host(f"{host}-in"), 3 - number
        ip(hub, "link add br0 mtu 1450 type bridge\nlink set br0 up\n")
        ip(
            host,
            f"link add tunnel0 mtu 1450 type vxlan id 7 local 192.0.2.{number} remote 192.0.2.{far} dstport 4789\n"
            f"link set tunnel0 netns {hub}\n",
        )
        ip(
            hub,
            "link set tunnel0 master br0 up\n"
            f"link add port0 mtu 1450 type veth peer name eth0 address {macs[number - 1]} mtu 1450 netns {inner}\n"
            "link set port0 master br0 up\n",
        )
        ip(inner, f"address add 10.94.0.{number}/16 dev eth0\nlink set eth0 up\n")
    return f"{hosts[0]}-in"
