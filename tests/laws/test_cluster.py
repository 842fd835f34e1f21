"""Hosts that share a store agree in the end, whatever happened to the store, to them, and between them."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from isthmus.errors import IsthmusError
from isthmus.store import records
from tests.unit.test_cluster import TIMES, Hosts, Machine, labelled, recorded, until

STEPS = 60
QUICK = replace(TIMES, ttl=0.3)

ANCHOR = "anchor"
"""Who never leaves: a network whose key is lost while nobody stands on it is as good as removed."""


class Story:
    """What happens to *hosts*, by *chance*."""

    def __init__(self, hosts: Hosts, chance: Random) -> None:
        self.hosts, self.chance = hosts, chance
        self._under_way: list[asyncio.Task[None]] = []

    async def step(self, number: int) -> None:
        """Let one thing happen to one host, or to the store; it may go on meanwhile."""
        host, chance, cluster = self.chance.choice(self.hosts.hosts), self.chance, self.hosts.cluster
        match chance.choice(
            ("attach", "attach", "demand", "update", "update", "leave", "stop", "start", "wipe", "die", "lose", "end")
        ):
            case "attach":
                self._go_on(host.sandbox(f"s{number}"))
            case "demand":
                self._go_on(host.sandbox(f"s{number}", f"10.0.9.{chance.randrange(2, 15)}"))
            case "update":
                self._go_on(host.lan.update_network("multi", labelled(str(number))))
            case "leave":
                await leave(host, *chance.sample(names(host), k=min(1, len(names(host)))))
            case "stop":
                cluster.stop()
            case "start" | "wipe" as how:
                cluster.start(wiped=how == "wipe")
            case "die":
                await self.settle()
                await host.die()
                host.live()
            case "lose":
                cluster.change(dict.fromkeys(chance.sample(sorted(cluster.items), k=min(1, len(cluster.items)))), "")
            case "end":
                for session in chance.sample(sorted(cluster.sessions), k=min(1, len(cluster.sessions))):
                    cluster.end(session)
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Wait until nobody attaches or changes anything any more."""
        await asyncio.gather(*self._under_way)

    def _go_on(self, work: Coroutine[object, object, object]) -> None:
        async def go_on() -> None:
            with suppress(IsthmusError):
                await work

        self._under_way.append(asyncio.ensure_future(go_on()))


async def leave(host: Machine, *leaving: str) -> None:
    """Have sandboxes removed."""
    for name in leaving:
        await host.remove(name)


def names(host: Machine) -> list[str]:
    """Who stands on a host, and may leave."""
    return [one.name for one in host.engine.offers().offered if one.name != ANCHOR]


def lost(host: Machine) -> list[str]:
    """Who on a host is told that somebody else has his address by now."""
    views = (view for view in host.engine.networks() if view.network.name == "multi")
    return [one.sandbox.name for view in views for one in view.endpoints if one.trouble]


def agree(hosts: Hosts) -> bool:
    """Whether all know just what all have, and nobody has another's address."""
    given = [one.addresses for host in hosts.hosts for one in host.engine.offers().offered]
    return hosts.agree and len(given) == len({*given})


@pytest.mark.parametrize("seed", range(20))
def test_hosts_agree_in_the_end(tmp_path: Path, seed: int) -> None:
    """Nothing that stood is lost, nobody has another's address, and nothing is left of who went."""
    hosts = Hosts(tmp_path, QUICK)

    async def test(*machines: Machine) -> None:
        network = await machines[0].network("multi", "10.0.9.0/28", **({"lease": "/30"} if seed % 3 == 2 else {}))
        await machines[0].sandbox(ANCHOR)
        await until(lambda: all(host.engine.offers().networks for host in machines))
        story = Story(hosts, Random(seed))
        for number in range(STEPS):
            await story.step(number)
        await story.settle()
        hosts.cluster.start()
        standing = {name for host in machines for name in names(host)}
        await hosts.there()
        # Who was away for long may find that another has his address; he keeps it until he is connected anew.
        while not agree(hosts):
            await until(lambda: agree(hosts) or any(map(lost, machines)))
            for host in machines:
                standing -= {*lost(host)}
                await leave(host, *lost(host))
        assert {name for host in machines for name in names(host)} == standing
        await until(lambda: len({recorded(host, network) for host in machines}) == 1)
        assert hosts.cluster.items[f"networks/{network}"][0] == records.encode(recorded(machines[0], network))

    hosts.run(test)
