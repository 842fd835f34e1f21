"""Programs that are run in containers beside their own. They are known for as long as the daemon lives."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from isthmus.containers import bundle
from isthmus.containers.model import ExecView, ExecWish
from isthmus.containers.monitor import Execution, Runtime
from isthmus.errors import InvalidRequest, NameTaken, NotFound

_REMEMBERED = 300.0  # for how long, in seconds, an exit code can be asked for


class Exec(msgspec.Struct):
    """A program that was, or is to be, run in a *container* (an ID), whose files are in *directory*."""

    id: str
    container: str
    directory: Path
    wish: ExecWish
    started: bool = False
    execution: Execution | None = None

    @property
    def code(self) -> int | None:
        """Its exit code; None as long as there is none."""
        return self.execution.code if self.execution else None

    @property
    def view(self) -> ExecView:
        """What there is to be told of it."""
        pid = self.execution.pid if self.execution and self.code is None else 0
        return ExecView(self.id, self.container, self.wish, self.started, self.code, pid)


class Execs:
    """All of them, by their IDs."""

    def __init__(self, runtime: Runtime, random: Callable[[int], bytes]) -> None:
        self._runtime = runtime
        self._random = random
        self._known: dict[str, Exec] = {}
        self._ends: set[asyncio.Task[None]] = set()

    def of(self, container: str) -> tuple[str, ...]:
        """The IDs of those in a container."""
        return tuple(one.id for one in self._known.values() if one.container == container)

    def create(self, container: str, directory: Path, wish: ExecWish) -> Exec:
        """Note a program that is to run."""
        if not wish.words:
            raise InvalidRequest("No exec command specified")
        made = Exec(self._random(32).hex(), container, directory, wish)
        self._known[made.id] = made
        return made

    def find(self, identity: str) -> Exec:
        """The program of this ID, or of the only one that begins so."""
        found = [one for key, one in self._known.items() if key.startswith(identity)] if identity else []
        if len(found) != 1:
            raise NotFound(f"No such exec instance: {identity}")
        return found[0]

    async def start(self, noted: Exec, ended: Callable[[int], None], *, quiet: bool = False) -> Execution:
        """Run it, which can be done once; *quiet* if nobody wants its output. *Ended* is told its exit code."""
        if noted.started:
            raise NameTaken(f"Error: Exec command {noted.id} has already run")
        noted.started = True
        wish, path = noted.wish, noted.directory / f"exec-{noted.id[:16]}.json"
        bundle.write_process(noted.directory, path, wish)
        noted.execution = execution = await self._runtime.execute(
            noted.container, path, tty=wish.tty, stdin=wish.stdin, quiet=quiet
        )

        async def end() -> None:
            ended(await execution.wait())
            asyncio.get_running_loop().call_later(_REMEMBERED, self._known.pop, noted.id, None)

        task = asyncio.create_task(end())
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        return execution

    def forget(self, container: str) -> None:
        """Know none of a container that is gone."""
        for identity in self.of(container):
            del self._known[identity]

    def close(self) -> None:
        """Wait for none of them any more."""
        for task in self._ends:
            task.cancel()
