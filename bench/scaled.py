"""One whole host among many, without a kernel: `python -m bench.scaled URL NAME ADDRESS DIRECTORY`.

It is the engine on a kernel and a local store in memory, on a worker's thread, with a real member over a real store.
On its standard input it is told what to do, a JSON list a line, and on its output it tells what came of it:

    ["start"]           find the store: after how many seconds it knew all, and what it used (see `_Host.used`)
    ["make", NAME]      make a sandbox on the network: the endpoint's ID, when that began, and when it was done
    ["used"]            what it uses
    ["learned", [ID]]   when, on the monotonic clock, it had each endpoint in its kernel; null where it has not
    ["profile"]         have everything from now on profiled
    ["profiled"]        what that gave

What is refused gives `{"error": WHY}`.
"""

import asyncio
import cProfile
import io
import json
import pstats
import resource
import secrets
import sys
import time
from collections.abc import Iterable
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from isthmus.addresses import DEFAULT_POOLS
from isthmus.cluster.encryption import Encryption
from isthmus.cluster.member import Member, Times
from isthmus.engine import Engine
from isthmus.errors import IsthmusError
from isthmus.kernel.fake import FakeKernel
from isthmus.kernel.wireguard import Ways
from isthmus.kv.opening import open_store
from isthmus.model import HOST, Host, HostLink, Network, Peer, pairs
from isthmus.questions import Evidence, Question, Reserve, Unanswered
from isthmus.requests import SandboxRequest
from isthmus.rules import DefaultBridge, Rules
from isthmus.store.memory import MemoryStore
from isthmus.worker import Worker

NETWORK = "many"
"""The network on which all stand."""

TIMES = Times(20, 60, 60)
"""How often a host shows itself, and when it is held to be gone: as by default."""


class _Engine(Engine):
    """An engine that notes when it knew whom."""

    def __init__(self, address: str) -> None:
        link = HostLink("eth0", "veth", 1500, (ip_interface(f"{address}/8"),))
        super().__init__(
            MemoryStore(),
            FakeKernel(host=Host((link,))),
            Rules(
                pools=DEFAULT_POOLS,
                default_bridge=DefaultBridge(options=pairs({"com.docker.network.bridge.name": "isthmus0"})),
                shared=True,
                advertise="eth0",
            ),
            clock=time.time_ns,
            random=secrets.token_bytes,
            publish=lambda _event: None,
            paths={HOST: "/proc/1/ns/net", "*": "/run/isthmus/netns"},
        )
        self.learned: dict[str, float] = {}
        self.start()

    def learn(self, put: Iterable[Network | Peer], drop: Iterable[Network | Peer]) -> tuple[str, ...]:
        put = tuple(put)
        unfit = super().learn(put, drop)
        self.learned.update(dict.fromkeys((one.id for one in put), time.monotonic()))
        return unfit

    def chores(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


class _Host:
    def __init__(self, worker: Worker[_Engine], member: Member) -> None:
        self._worker, self._member = worker, member
        self._profile = cProfile.Profile()

    async def do(self, what: str, *arguments: object) -> object:
        """Do what a line says."""
        match what, *arguments:
            case "start", *_:
                began = time.monotonic()
                self._member.start()
                while self._member.away:  # noqa: ASYNC110 - a member tells nobody
                    await asyncio.sleep(0.01)
                return {"seconds": time.monotonic() - began} | await self._used()
            case "make", str(name):
                return await self._make(name)
            case "used", *_:
                return await self._used()
            case "learned", list(wanted):
                return await self._worker.call(lambda engine: [engine.learned.get(one) for one in wanted])
            case "profile", *_:
                self._profile.enable()
                return None
            case _:
                self._profile.disable()
                text = io.StringIO()
                pstats.Stats(self._profile, stream=text).sort_stats("tottime").print_stats(30)
                return text.getvalue()

    async def _make(self, name: str) -> object:
        began, evidence, asked = time.monotonic(), Evidence(), list[Question]()
        request = SandboxRequest(name, mode=NETWORK)
        while True:
            try:
                await self._worker.call(partial(_Engine.create_sandbox, request=request, evidence=evidence))
                break
            except Unanswered as unanswered:
                asked += unanswered.questions
                wanted = [one for one in unanswered.questions if isinstance(one, Reserve)]
                evidence |= await self._member.reserve(wanted)
        answered = time.monotonic()
        self._member.settled(asked)
        return (
            [one.record.id for one in asked if isinstance(one, Reserve) and isinstance(one.record, Peer)][-1],
            began,
            answered,
        )

    async def _used(self) -> dict[str, float]:
        """Seconds of a processor, MiB of memory, and how many endpoints of others are known."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        memory = _resident()
        peers = await self._worker.call(lambda engine: len(engine.others()))
        return {"cpu": usage.ru_utime + usage.ru_stime, "memory": memory, "peers": peers}


def _resident() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


async def main(url: str, name: str, address: str, directory: str) -> None:
    """Be a host until standard input ends."""
    worker = await Worker.start(lambda: _Engine(address))
    store = open_store(url, {})
    there = Path(directory) / name
    # There is no encrypted network, so there is nothing at that place.
    encryption = Encryption(Ways(there.with_suffix(".netns")), name, there.with_suffix(".key"), 0.0)
    member = Member(worker.call, store, name, name, there, TIMES, time.time_ns, encryption)
    host = _Host(worker, member)
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        try:
            answer = await host.do(*json.loads(line))
        except IsthmusError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await member.close()
    await worker.stop()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:5]))
