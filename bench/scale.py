"""What many hosts cost that share a store: `python -m bench.scale --store etcd --hosts 1000 --endpoints 50000`.

A few hosts are whole (see `scaled`), each a process in a network namespace of its own. The others are light: each has a
session, which is renewed; a key that goes with it; its endpoints, as a member writes them; and a watch on connections
of its own, of which the bytes are counted, and no more is read than what to ask for next. What they write, renew and
ask in between (`beat`) goes over a few connections that they share. The light ones do not read everything when they
come; what that takes is told by a whole one that does. With *watches*, only so many of the light ones watch, and what
the store would send is extrapolated.

Bytes are those on the store's wire, with the heads of TCP and IP. The store is one server, on the same
machine, with its data in memory: its disk would be the one that others use meanwhile.
"""

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

from bench.scaled import NETWORK, TIMES
from bench.stores import STORES, Server
from bench.world import World, add_host, enter, ip, on, run
from isthmus.addresses import Subnet
from isthmus.cluster.registry import Node, chunks, of_network, of_node, of_peer, opened
from isthmus.drivers.overlay import VXLANS
from isthmus.errors import StoreUnavailable
from isthmus.kv import PATIENCE, Guards, SharedStore
from isthmus.kv.opening import open_store
from isthmus.model import Network, Peer, pairs

STORE = "10.255.255.254"
ROOT = "isthmus"
BEAT = 2.5
"""How often, in seconds, one who watches asks whether it is still heard."""

MANY = Network(
    "b" * 64,
    NETWORK,
    "overlay",
    1,
    (Subnet(ip_network("10.64.0.0/15"), ip_address("10.64.0.1")),),
    pairs({VXLANS: "4096"}),
    internal=True,
    scope="global",
)

_AT_ONCE = 32
"""How many commits are under way at a time."""

_PATIENCE = 120.0

_LITTLE = 50_000
"""How many bytes in two seconds are no more than those of beats."""


class _Watch(asyncio.Protocol):
    """A connection on which a light host waits for news, as its member's store would: it counts what comes."""

    def __init__(self, since: int) -> None:
        self.bytes, self.heard = 0, 0.0
        self._since = since
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        self.heard = time.monotonic()

    def close(self) -> None:
        """Watch no more."""
        if self._wire:
            self._wire.abort()
            self._wire = None

    def _begin(self) -> None:
        """Ask for the first time."""

    def _ask(self, what: str, body: str = "") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        if self._wire:
            self._wire.write(f"{what} HTTP/1.1\r\nHost: store\r\n{length}\r\n{body}".encode())


class _EtcdWatch(_Watch):
    """Events come one after the other on an answer that does not end."""

    def _begin(self) -> None:
        first, end = (base64.b64encode(one).decode() for one in (f"{ROOT}/".encode(), f"{ROOT}0".encode()))
        wish = {"create_request": {"key": first, "range_end": end, "start_revision": self._since + 1}}
        self._ask("POST /v3/watch", json.dumps(wish))


class _ConsulWatch(_Watch):
    """A *tree* of entries is listed, and what they name is read (see `isthmus.kv.consul`)."""

    def __init__(self, since: int, tree: str) -> None:
        super().__init__(since)
        self._tree, self._known = tree, frozenset[str]()
        self._answer, self._listing, self._asked = b"", True, 0.0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._answer += data
        head, _, body = self._answer.partition(b"\r\n\r\n")
        head = head.lower() + b"\r\n"
        length = self._header(head, b"content-length")
        if len(body) < int(length) if length else not body.endswith(b"0\r\n\r\n"):
            return
        self._answer = b""
        places: list[str] = []
        if self._listing:
            self._since = int(self._header(head, b"x-consul-index"))
            places = self._news(body)
        if places:
            self._listing, self._asked = False, time.monotonic()
            paths = ("head", *(f"items/{place}" for place in places[:63]))
            self._ask(
                "PUT /v1/txn?consistent",
                json.dumps([{"KV": {"Verb": "get-tree", "Key": f"{ROOT}/{path}"}} for path in paths]),
            )
        elif self._listing:
            self._begin()
        else:
            pause = min(max(0.1, 4 * (time.monotonic() - self._asked)), PATIENCE / 2)
            asyncio.get_running_loop().call_later(pause, self._begin)

    def _news(self, body: bytes) -> list[str]:
        """The places that have to be read."""
        entries = _entries(body)
        news, quiet = entries - self._known, entries == self._known
        self._known = entries
        if self._tree == "live":
            return [f"{self._since % 256:02x}"] if quiet else []
        return sorted(
            {text[at : at + 5] for text in (name.rpartition(".")[2] for name in news) for at in range(0, len(text), 5)}
        )

    def _begin(self) -> None:
        self._listing = True
        self._ask(f"GET /v1/kv/{ROOT}/{self._tree}/?keys&consistent&index={self._since}&wait=60s")

    @staticmethod
    def _header(head: bytes, name: bytes) -> bytes:
        return head.partition(name + b": ")[2].partition(b"\r\n")[0]


@lru_cache(64)  # most are told the same
def _entries(body: bytes) -> frozenset[str]:
    """The names in a list, which may come in chunks."""
    parts = []
    while not body.startswith((b"[", b"0\r\n")):
        size, _, body = body.partition(b"\r\n")
        parts.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    names: list[str] = json.loads(b"".join(parts) or body)
    return frozenset(names)


class _Whole:
    """A whole host."""

    def __init__(self, world: World, url: str, number: int) -> None:
        self.name = f"whole{number}"
        add_host(self.name)
        address = _wire(self.name, self.name, number + 1)
        command = [sys.executable, "-m", "bench.scaled", url, self.name, address, str(world.directory)]
        self._process = subprocess.Popen([*on(self.name), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    async def do(self, *words: object) -> Any:  # noqa: ANN401 - any JSON
        """Have it do something."""
        return await asyncio.to_thread(self._do, json.dumps(words))

    def _do(self, line: str) -> Any:  # noqa: ANN401
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a host has no pipes")
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class _Used:
    """What the store has used up to now: bytes it sent and got, and seconds of a processor; its memory in MiB."""

    def __init__(self, server: Server) -> None:
        ports = json.loads(run("ip", "-n", "store", "-s", "-j", "link", "show", "type", "veth"))
        self.sent: int = sum(one["stats64"]["tx"]["bytes"] for one in ports)
        self.got: int = sum(one["stats64"]["rx"]["bytes"] for one in ports)
        self.by_port = {one["ifname"]: one["stats64"]["tx"]["bytes"] for one in ports}
        words = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        self.memory = int(Path(f"/proc/{server.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
        self.at = time.monotonic()


class Simulation:
    """A run with *options* (see `main`)."""

    def __init__(self, world: World, options: argparse.Namespace, held: ExitStack) -> None:
        self._options, self._kind = options, options.store
        self._random = Random(1)
        add_host("store")
        ip("store", f"link add br0 type bridge\naddress add {STORE}/8 dev br0\nlink set br0 up\n")
        _wire("light", "", 1)
        self._server = Server(Path("/run"), self._kind, "store", STORE)
        held.callback(self._server.end)
        self._url = f"{self._server.url}/{ROOT}"
        self._wholes = [_Whole(world, self._url, number) for number in range(1, options.whole + 1)]
        for one in self._wholes:
            held.callback(one.end)
        self._light: int = options.hosts - options.whole
        self._watching: int = min(options.watches or self._light, self._light)
        self._peers = {one.id: one for one in _peers(self._light, options.endpoints)}
        self._watches: list[_Watch] = []
        self._besides: list[_Watch] = []
        self._sessions: list[str] = []
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[StoreUnavailable] = []
        self._client: SharedStore = open_store(self._url, {})

    async def run(self) -> None:
        """Fill the store, and measure one thing after another."""
        await self._fill()
        await self._listen()
        self._tell(
            "hosts, whole of them, light ones that watch", self._options.hosts, len(self._wholes), self._watching
        )
        self._tell("endpoints", len(self._peers))
        await self._cold()
        await self._idle(self._options.seconds)
        await self._attach()
        await self._churn(self._options.seconds)
        self._tell("requests to which the store gave no answer", len(self._failures))
        if self._failures:
            print(self._failures[0], self._server.log()[-1000:], sep="\n")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in (*self._watches, *self._besides):
            watch.close()
        await self._client.close()

    async def _fill(self) -> None:
        began = time.monotonic()
        await self._client.commit(of_network(MANY))
        await self._client.commit({"cluster": b"c" * 32})
        items = {key: value for peer in self._peers.values() for key, value in of_peer(peer).items()}
        await self._all(self._client.commit(part) for part in chunks(items))
        self._sessions = [await self._client.join(TIMES.ttl) for _ in range(self._light)]
        nodes = (Node(f"light{one}", f"light{one}", _via(one), self._sessions[one], 1) for one in range(self._light))
        await self._all(self._client.commit(of_node(one), session=self._sessions[at]) for at, one in enumerate(nodes))
        self._tell("filled, s", time.monotonic() - began)
        if self._kind == "consul":
            # Those who commit forget old entries of the log, as many at a time as fit; so long after it was filled.
            await asyncio.sleep(2 * PATIENCE + 1)
            for _ in range(2 + len(self._peers) // 500):
                await self._client.commit({})

    async def _listen(self) -> None:
        """Have the light hosts watch, beat, and renew their sessions."""
        since = (await self._client.read("cluster")).revision
        port = STORES[self._kind]
        loop = asyncio.get_running_loop()

        async def connect(watch: _Watch) -> _Watch:
            await loop.create_connection(lambda: watch, STORE, port)
            return watch

        for _ in range(self._watching):
            if self._kind == "etcd":
                self._watches.append(await connect(_EtcdWatch(since)))
            else:
                self._watches.append(await connect(_ConsulWatch(since, "log")))
                self._besides.append(await connect(_ConsulWatch(since, "live")))
        for every, what in ((BEAT, self._beat), (TIMES.heartbeat, self._renew)):
            task = loop.create_task(self._repeat(every, what))
            self._tasks.add(task)
        await self._quiet()

    async def _repeat(self, every: float, what: Callable[[int], Any]) -> None:
        """Do *what* for each light host *every* so many seconds, evenly."""
        number, began = 0, time.monotonic()
        while True:
            try:
                await what(number % self._light)
            except StoreUnavailable as error:
                self._failures.append(error)
            number += 1
            await asyncio.sleep(max(0.0, began + number * every / self._light - time.monotonic()))

    async def _beat(self, _number: int) -> None:
        if self._kind == "etcd":
            await self._client.read("none")
        else:
            await self._client._ask("GET", "/v1/status/leader")  # type: ignore[attr-defined]  # noqa: SLF001

    async def _renew(self, number: int) -> None:
        await self._client.renew(self._sessions[number])

    # What is measured.

    async def _cold(self) -> None:
        """One host after another comes, and learns all; the last one is told of."""
        *others, last = self._wholes
        for one in others:
            await one.do("start")
            await self._settled(one)
        empty, before = await last.do("used"), _Used(self._server)
        if self._options.profile:
            await last.do("profile")
        started = await last.do("start")
        if self._options.profile:
            print(await last.do("profiled"))
        after, later = await self._settled(last)
        read = after.by_port[f"to-{last.name}"] - before.by_port[f"to-{last.name}"]
        self._tell("cold start: until it knows all, s", started["seconds"])
        self._tell("cold start: read by it, MB", read / 1e6)
        self._tell(
            "cold start: processor of the host, of the store, s", later["cpu"] - empty["cpu"], after.cpu - before.cpu
        )
        self._tell("memory of the host before, after, MiB", empty["memory"], later["memory"])
        self._tell("memory of the store, MiB", after.memory)
        if later["peers"] < len(self._peers):
            raise RuntimeError(f"a host knows {later['peers']} of {len(self._peers)}")

    async def _settled(self, host: _Whole) -> tuple[_Used, Any]:
        """What the store and a host used, once that has read all that it wants: its watch begins by reading, too."""
        port, read = f"to-{host.name}", -1
        while (now := _Used(self._server)).by_port[port] > read + _LITTLE:
            read = now.by_port[port]
            await asyncio.sleep(2)
        return now, await host.do("used")

    async def _idle(self, seconds: float) -> None:
        hosts = [await one.do("used") for one in self._wholes]
        before = _Used(self._server)
        await asyncio.sleep(seconds)
        after = _Used(self._server)
        later = [await one.do("used") for one in self._wholes]
        passed = after.at - before.at
        self._tell("at rest: processor of the store, of a host, %", *self._share(before, after, hosts, later))
        self._tell(
            "at rest: sent, got by the store, kB/s",
            (after.sent - before.sent) / passed / 1e3,
            (after.got - before.got) / passed / 1e3,
        )

    async def _attach(self) -> None:
        """A whole host attaches one; all others hear of it."""
        first, *others = self._wholes
        answers, wholes, lights, sent, got, store, host = [], [], [], [], [], [], []
        for turn in range(self._options.turns):
            hosts = [await one.do("used") for one in others]
            before, marks = _Used(self._server), [watch.bytes for watch in self._watches]
            identity, began, answered = await first.do("make", f"made{turn}")
            heard = [await self._heard(one, identity) for one in others]
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline and not self._all_heard(marks):  # noqa: ASYNC110 - a flag for each would cost
                await asyncio.sleep(0.01)
            await self._quiet()
            after, later = _Used(self._server), [await one.do("used") for one in others]
            answers.append((answered - began) * 1e3)
            wholes.append((max(heard) - began) * 1e3)
            lights.append((max((w.heard for w in self._watches), default=began) - began) * 1e3)
            sent.append(self._extrapolated(before, after, marks) / 1e6)
            got.append((after.got - before.got) / 1e6)
            store.append((after.cpu - before.cpu) * 1e3)
            host.append(median(b["cpu"] - a["cpu"] for a, b in zip(hosts, later, strict=True)) * 1e3)
        self._tell("one attach: until it is answered, ms", median(answers))
        self._tell("one attach: until the whole ones, the light ones know, ms", median(wholes), median(lights))
        self._tell("one attach: sent to all, got by the store, MB", median(sent), median(got))
        self._tell("one attach: processor of the store, of a host, ms", median(store), median(host))

    def _all_heard(self, marks: list[int]) -> bool:
        return all(watch.bytes > mark for watch, mark in zip(self._watches, marks, strict=True))

    def _extrapolated(self, before: _Used, after: _Used, marks: list[int]) -> float:
        """What the store would have sent if all light ones had watched."""
        by_watches: int = sum(w.bytes - m for w, m in zip(self._watches, marks, strict=True))
        return after.sent - before.sent + by_watches * (self._light - self._watching) / max(self._watching, 1)

    @staticmethod
    async def _heard(host: _Whole, identity: str) -> float:
        deadline = time.monotonic() + _PATIENCE
        while True:
            at: float | None = (await host.do("learned", [identity]))[0]
            if at is not None or time.monotonic() > deadline:
                return at or time.monotonic()
            await asyncio.sleep(0.02)

    async def _churn(self, seconds: float) -> None:
        """Each second one in a hundred endpoints goes, and another comes."""
        rate, number = len(self._peers) / 100, len(self._peers) + self._options.turns
        others = self._wholes[1:]
        hosts, before, marks = (
            [await one.do("used") for one in others],
            _Used(self._server),
            [w.bytes for w in self._watches],
        )
        done: dict[str, float] = {}
        tasks: list[asyncio.Task[None]] = []
        old = self._random.sample([*self._peers.values()], min(len(self._peers), int(rate * seconds) + 1))

        async def replace(before: Peer, after: Peer) -> None:
            async with self._gate:
                gone, come = of_peer(before), of_peer(after)
                try:
                    await self._client.commit(dict.fromkeys(gone), Guards(equal=gone))
                    await self._client.commit(come, Guards(absent=come, present=(opened(MANY.id),)))
                    done[after.id] = time.monotonic()
                except StoreUnavailable as error:
                    self._failures.append(error)

        began = time.monotonic()
        for count, peer in enumerate(old):
            number += 1
            tasks.append(asyncio.create_task(replace(peer, _peer(number, self._light))))
            await asyncio.sleep(max(0.0, began + count / rate - time.monotonic()))
        offered = time.monotonic() - began
        await asyncio.wait(tasks, timeout=3 * seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        passed = time.monotonic() - began
        last = max(done, key=lambda one: done[one])
        caught_up = [await self._heard(one, last) - done[last] for one in others]
        after, later = _Used(self._server), [await one.do("used") for one in others]
        known = [await host.do("learned", [*done]) for host in others]
        lags = sorted(at - done[one] for times in known for one, at in zip(done, times, strict=True) if at)
        self._tell("churn: wished, reached, 1/s", len(old) / offered, len(done) / passed)
        self._tell(
            "churn: delay until a host knows, median, p99, after the last, s",
            median(lags),
            lags[int(len(lags) * 0.99)],
            max(caught_up),
        )
        self._tell("churn: known to a host, of those that came", len(lags) / len(others), len(done))
        self._tell("churn: processor of the store, of a host, %", *self._share(before, after, hosts, later))
        took = after.at - before.at
        self._tell(
            "churn: sent to all, got by the store, MB/s",
            self._extrapolated(before, after, marks) / took / 1e6,
            (after.got - before.got) / took / 1e6,
        )
        self._tell("memory of a host, of the store after it, MiB", median(one["memory"] for one in later), after.memory)

    @staticmethod
    def _share(before: _Used, after: _Used, hosts: list[Any], later: list[Any]) -> tuple[float, float]:
        """What part of a processor the store and a host had, in percent."""
        passed = after.at - before.at
        host = median(b["cpu"] - a["cpu"] for a, b in zip(hosts, later, strict=True))
        return 100 * (after.cpu - before.cpu) / passed, 100 * host / passed

    # Small things.

    async def _all(self, works: Iterable[Any]) -> None:
        """Do all of *works*, some at a time."""
        waiting = iter(works)
        while some := [*islice(waiting, _AT_ONCE)]:
            await asyncio.gather(*some)

    async def _quiet(self) -> None:
        """Wait until the watches have heard nothing for a while."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if max((watch.heard for watch in self._watches), default=0.0) < time.monotonic() - 1:
                await asyncio.sleep(0.2)
                return
            await asyncio.sleep(0.1)

    def _tell(self, what: str, *values: float) -> None:
        shown = ", ".join(
            f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}" for value in values
        )
        print(f"| {what} | {shown} |", flush=True)


def _wire(name: str, host: str, number: int) -> str:
    """Connect a host, or this process, with the store; its address."""
    ip(
        "store",
        f"link add to-{name} type veth peer name eth0 netns {host or os.getpid()}\nlink set to-{name} master br0 up\n",
    )
    address = f"10.255.0.{number}"
    for words in (f"address add {address}/8 dev eth0", "link set eth0 up"):
        run("ip", *(("-n", host) if host else ()), *words.split())
    return address


def _via(host: int) -> str:
    return str(ip_address("10.254.0.0") + host + 1)


def _peer(number: int, hosts: int) -> Peer:
    """The endpoint of this *number* in all; hosts take turns."""
    host, address = number % hosts, ip_address("10.64.0.2") + number
    name, mac = f"service-{number}", f"02:42:{(1 << 24 | number).to_bytes(4, 'big').hex(':')}"
    identity = Random(number).randbytes(32).hex()
    interface = ip_interface(f"{address}/15")
    return Peer(
        identity, MANY.id, f"light{host}", ip_address(_via(host)), name, mac, (interface,), (name, identity[:12])
    )


def _peers(hosts: int, endpoints: int) -> Iterator[Peer]:
    return (_peer(number, hosts) for number in range(endpoints))


def main(arguments: Collection[str]) -> int:
    """Simulate as *arguments* say."""
    parser = argparse.ArgumentParser("python -m bench.scale", description="What many hosts cost that share a store.")
    parser.add_argument("--store", choices=STORES, default="etcd")
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--endpoints", type=int, default=500, help="in all")
    parser.add_argument("--whole", type=int, default=3, help="how many of the hosts are whole")
    parser.add_argument("--watches", type=int, default=0, help="how many of the light ones watch; all if left out")
    parser.add_argument("--seconds", type=float, default=10, help="how long rest and churn last")
    parser.add_argument("--turns", type=int, default=5, help="how many attaches")
    parser.add_argument("--profile", action="store_true", help="show where a whole host's time goes in a cold start")
    options = parser.parse_args([*arguments])
    status = enter([*arguments], "bench.scale")
    if status is not None:
        return status
    import uvloop

    async def simulate() -> None:
        with ExitStack() as held:
            await Simulation(World.here(), options, held).run()

    try:
        uvloop.run(simulate())
    except RuntimeError as error:
        print(f"That is too much: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
