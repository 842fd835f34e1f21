"""Containers from their making to their end: what is wanted of each is kept, and what is there is asked of the kernel.

A container's directory holds its record, its bundle, its log and what it wrote; while it runs it has a sandbox of its
own ID at the engine. Every change is recorded before it is made, and `start` looks at what a dead daemon left: what
runs is adopted, what ended is settled, what was half made is taken away, and what is to run again does. All methods
are for the loop's thread.
"""

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from isthmus import disk
from isthmus.containers import groups, logs, policy, reading
from isthmus.containers import spec as oci
from isthmus.containers.bundle import Bundles
from isthmus.containers.execs import Exec, Execs
from isthmus.containers.model import Asked, ExecWish, Found, Record, View, Wish
from isthmus.containers.monitor import Attachment, Execution, Process, Runtime, code_of, held, resize, stray
from isthmus.containers.rootfs import Rootfs
from isthmus.engine import Engine
from isthmus.errors import Busy, Forbidden, InvalidRequest, IsthmusError, NameTaken, NotFound, SandboxNotFound
from isthmus.inotify import MOVED_IN, Watch
from isthmus.lan import Call
from isthmus.model import pairs
from isthmus.names import Written
from isthmus.requests import EndpointRequest, SandboxRequest
from isthmus.views import Created, Event, SandboxView

log = logging.getLogger("isthmus.containers")

_GRACE = 1.0  # for how long, in seconds, a monitor may take to tell how its container ended
_encoder = msgspec.json.Encoder()
_T = TypeVar("_T")


class Lan(Protocol):
    """What is asked of `lan.Lan`."""

    async def create_sandbox(self, request: SandboxRequest) -> Created:
        """Make a sandbox."""

    async def connect(self, network: str, sandbox: str, request: EndpointRequest) -> None:
        """Put a sandbox on one more network."""


class Images(Protocol):
    """Where images are found."""

    def find(self, name: str) -> Found:
        """The image of this name or ID; `NotFound` if there is none."""


class _Container:
    """One container, as long as it is known: its record, and what is held of it while it runs."""

    def __init__(self, record: Record, asked: Asked, directory: Path) -> None:
        self.record = record
        self.asked = asked
        self.directory = directory
        self.rootfs = Rootfs(directory)
        self.lock = asyncio.Lock()
        self.process: Process | None = None
        self.paused = False
        self.moving: asyncio.Future[None] | None = None
        self.again: asyncio.TimerHandle | None = None
        self.ended: set[asyncio.Future[None]] = set()
        self.gone: set[asyncio.Future[None]] = set()
        self.attaching: set[asyncio.Future[Attachment]] = set()

    @property
    def wish(self) -> Wish:
        return self.asked.wish

    @property
    def running(self) -> bool:
        return self.record.running

    @property
    def state(self) -> str:
        """Docker's word for how it is."""
        if self.record.removing:
            return "removing"
        if self.running:
            return "paused" if self.paused else "running"
        if self.record.ended and (self.again or self.record.wanted):
            return "restarting"
        return "exited" if self.record.ended else "created"


class Containers:
    """All containers. *Read* makes of a name and of what was asked for what that means.

    *Runtime* is the name or the path of an OCI runtime; "" leaves that to us.
    """

    def __init__(  # noqa: PLR0917 - all that a container needs
        self,
        call: Call,
        lan: Lan,
        written: Written,
        images: Images,
        publish: Callable[[Event], None],
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        read: Callable[[str, str], Asked],
        data_root: Path,
        exec_root: Path,
        *,
        runtime: str = "",
    ) -> None:
        self._call = call
        self._lan = lan
        self._images = images
        self._publish = publish
        self._clock = clock
        self._random = random
        self._read = read
        self._root = data_root / "containers"
        self._exits = data_root / "exits"
        self._runtime = Runtime(exec_root / "runtime", self._exits, runtime)
        self._states = exec_root / "runtime"
        self._bundles = Bundles(written, (data_root, exec_root))
        self.execs = Execs(self._runtime, random)
        self._known: dict[str, _Container] = {}
        self._by_name: dict[str, str] = {}
        self._watch: Watch | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._stopping = False

    # The beginning and the end of the daemon.

    async def start(self) -> None:
        """Go on with the containers of before; those that are to start again do so while others are served."""
        for place in (self._root, self._exits, self._states):
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._watch = watch = Watch(str(self._exits), MOVED_IN)
        asyncio.get_running_loop().add_reader(watch.fileno(), self._hear)
        for place in sorted(self._root.iterdir()):
            self._load(place)
        for place in self._exits.iterdir():
            if place.name not in self._known:
                place.unlink()
        live = [one for one in self._known.values() if self._adopt(one)]
        await self._remove_strays(one.record.id for one in live)
        dead = [one for one in self._known.values() if one not in live]
        for one in dead:
            await self._recover(one)
        again = [one for one in dead if one.record.id in self._known and self._is_due(one)]
        if again:
            # Namespaces' owners come before those who join them.
            again.sort(key=lambda one: (one.asked.sandbox.mode.startswith("container:"), one.record.created))
            self._spawn(self._start_all(again))

    def _load(self, place: Path) -> None:
        """Know the container of this directory; one without a record was never made, and is taken away."""
        try:
            record = record_in(place)
            container = _Container(record, self._read(record.name, record.asked), place)
        except FileNotFoundError:
            Rootfs(place).unmount()
            shutil.rmtree(place, ignore_errors=True)
        except (OSError, msgspec.MsgspecError, IsthmusError) as error:
            log.error("the container in %s cannot be read, and is left alone: %s", place, error)  # noqa: TRY400 - it is told whole
        else:
            self._known[record.id] = container
            self._by_name[record.name] = record.id

    def _adopt(self, one: _Container) -> bool:
        """Hold the process of a container that runs; whether it does."""
        if not one.record.running or (self._exits / one.record.id).exists():
            return False
        process = held(one.directory / "pid", one.record.id)
        if process is None:
            return False
        self._hold(one, process)
        one.paused = groups.is_frozen(one.record.id)
        return True

    async def _remove_strays(self, live: Iterable[str]) -> None:
        """Remove the sandboxes of containers that do not run."""
        running = set(live)
        for view in await self._call(lambda engine: engine.sandboxes()):
            if view.sandbox.container and view.sandbox.id not in running:
                with suppress(NotFound):
                    await self._call(lambda engine, name=view.sandbox.id: engine.remove_sandbox(name))  # type: ignore[misc]

    async def _recover(self, one: _Container) -> None:
        """Bring one that does not run to an end, whatever its daemon was doing when it died."""
        record = one.record
        if record.wanted and not record.running:
            # It was being started. Its monitor may not have come to make anything yet.
            for pid in stray(record.id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if record.wanted:
            why = "" if record.running else "the daemon died while it started"
            self._note_end(one, self._exit_code(record.id), why)
        try:
            await self._tear_down(one)
            if one.record.removing or (one.wish.remove and one.record.ended):
                await self._remove(one)
        except (IsthmusError, ExceptionGroup) as error:
            log.error("container %s is not taken apart: %s", record.name, error)  # noqa: TRY400 - it is told whole

    def _is_due(self, one: _Container) -> bool:
        """Whether it is to run now that the daemon does."""
        return bool(one.record.ended) and policy.restarts(one.wish.restart, one.record, booted=True)

    async def _start_all(self, some: Iterable[_Container]) -> None:
        for one in some:
            try:
                await self._start(one, fresh=False)
            except (IsthmusError, ExceptionGroup) as error:
                log.error("container %s does not start: %s", one.record.name, error)  # noqa: TRY400 - it is told whole

    async def close(self) -> None:
        """Let go of everything; what runs goes on."""
        self._stopping = True
        for one in self._known.values():
            if one.again:
                one.again.cancel()
        self.execs.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
        for one in self._known.values():
            if one.process:
                one.process.close()
                one.process = None

    # What is asked.

    @property
    def runtime(self) -> str:
        """The name of the OCI runtime; "" if there is none."""
        return self._runtime.name

    def counts(self) -> tuple[int, int, int]:
        """How many run, are paused, and do not run."""
        states = [one.state for one in self._known.values()]
        running, paused = states.count("running"), states.count("paused")
        return running, paused, len(states) - running - paused

    def id_of(self, name: str) -> str | None:
        """The ID of the container that *name* (a name, an ID or its beginning) stands for; None if there is none."""
        name = name.removeprefix("/")
        if name in self._known:
            return name
        if name in self._by_name:
            return self._by_name[name]
        found = [identity for identity in self._known if name and identity.startswith(name)]
        return found[0] if len(found) == 1 else None

    def _named(self, name: str) -> _Container:
        identity = self.id_of(name)
        if identity is None:
            raise SandboxNotFound(name)
        return self._known[identity]

    def is_taken(self, name: str) -> str | None:
        """The ID of the container that has exactly this name."""
        return self._by_name.get(name)

    def using(self) -> Mapping[str, tuple[str, bool]]:
        """Which images are used: by their IDs, the ID of a container of each, and whether one of them runs."""
        used: dict[str, tuple[str, bool]] = {}
        for one in tuple(self._known.values()):  # as they are now: threads ask this, too
            _, runs = used.get(one.record.image, ("", False))
            if not runs:
                used[one.record.image] = one.record.id, one.running
        return used

    async def view(self, name: str) -> View:
        """The container that *name* stands for."""
        one = self._named(name)
        sandbox = None
        if one.running:
            with suppress(NotFound):
                sandbox = await self._call(lambda engine: engine.sandbox(one.record.id), brief=True)
        return self._view(one, sandbox)

    async def views(self) -> tuple[View, ...]:
        """All containers, in the order of their making."""
        sandboxes = {one.sandbox.id: one for one in await self._call(lambda engine: engine.sandboxes())}
        known = sorted(self._known.values(), key=lambda one: one.record.created)
        return tuple(self._view(one, sandboxes.get(one.record.id) if one.running else None) for one in known)

    def _view(self, one: _Container, sandbox: SandboxView | None) -> View:
        return View(
            record=one.record,
            asked=one.asked,
            state=one.state,
            pid=one.process.pid if one.process and one.running else 0,
            sandbox=sandbox,
            executions=self.execs.of(one.record.id),
            directory=str(one.directory),
            files=self._bundles.files(one.directory, sandbox) if sandbox else (),
        )

    # A container's life.

    async def whole(self, work: Awaitable[_T]) -> _T:
        """What *work* gives, which is done to its end, be there somebody to wait for it or not."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def create(self, name: str, asked: str) -> tuple[str, tuple[str, ...]]:
        """Make a container, which does not run yet; return its ID.

        *Name* is "" where it is ours to choose.
        """
        identity = self._random(32).hex()
        name = name or policy.free_name(self._by_name, self._random)
        meant = self._read(name, asked)
        image = self._images.find(meant.wish.image)
        oci.arguments(meant.wish)
        oci.capabilities(meant.wish, self._bundles.available)
        self._runtime.programs()
        taken = self._by_name.setdefault(name, identity)
        if taken != identity:
            raise name_taken(name, taken)
        record = Record(identity, name, self._clock(), asked, image.id)
        one = _Container(record, meant, self._root / identity)
        try:
            await self._call(lambda engine: _check_name(engine, name), brief=True)
            one.directory.mkdir(mode=0o711)
            self._keep(one, record)
        except BaseException:
            del self._by_name[name]
            shutil.rmtree(one.directory, ignore_errors=True)
            raise
        self._known[identity] = one
        self._tell(one, "create")
        return identity, ()

    async def start_container(self, name: str) -> bool:
        """Have a container run; False if it does already."""
        one = self._named(name)
        if one.running:
            return False
        await self._start(one, fresh=True)
        return True

    async def _start(self, one: _Container, *, fresh: bool) -> None:
        """Have it run; *fresh* if it is its user who wants that."""
        self._cancel_restart(one)
        async with one.lock:
            if one.running or one.record.id not in self._known:
                return
            if one.record.removing:
                raise Busy("container is marked for removal and cannot be started")
            record = replace(one.record, wanted=True, error="")
            if fresh:
                record = replace(record, stopped=False, restarts=0)
            else:
                record = replace(record, restarts=record.restarts + 1)
            if record.ended == 0 or record.started > record.ended:
                record = replace(record, started=0, ended=0)
            self._save(one, record)
            try:
                await self._make(one)
                self._let_attach(one)
                await self._runtime.start(record.id)
            except BaseException as error:
                await asyncio.shield(self._undo_start(one, error))
                raise
            self._save(one, replace(record, started=max(self._clock(), record.ended + 1)))
            self._tell(one, "start")
            self._let_attach(one)
            if process := held(one.directory / "pid", record.id):
                self._hold(one, process)
            else:
                self._settle_soon(one)

    def _let_attach(self, one: _Container) -> None:
        """Give their streams to those who wait for them, before the program begins, so that they miss nothing."""
        for waiting in tuple(one.attaching):
            if not waiting.done():
                try:
                    waiting.set_result(Attachment(one.directory))
                except IsthmusError as gone:
                    waiting.set_exception(gone)
        one.attaching.clear()

    def _hold(self, one: _Container, process: Process) -> None:
        """Hold the process of a container that runs, and hear when it ends, be there a monitor to tell or not."""
        one.process = process
        process.hear(lambda: self._settle_soon(one, process))

    def _settle_soon(self, one: _Container, process: Process | None = None) -> None:
        """Note the end of a container whose process has ended, when its monitor had the time to tell how."""
        asyncio.get_running_loop().call_later(_GRACE, lambda: self._spawn(self._settle(one, process)))

    async def _make(self, one: _Container) -> None:
        """Make the sandbox, the root file system, and the container in them; its program waits."""
        record, wish, request = one.record, one.wish, one.asked.sandbox
        image = self._images.find(record.image)
        if request.mode.startswith("container:"):
            await self._await_owner(request.mode.removeprefix("container:"))
        await self._lan.create_sandbox(replace(request, container=record.id, name=record.name))
        sandbox = await self._call(lambda engine: engine.sandbox(record.id), brief=True)
        # Where there is no overlayfs, it is copied, which takes its time.
        await asyncio.to_thread(self._bundles.mount, one.directory, image)
        self._bundles.write(record.id, one.directory, wish, image, sandbox, self._namespace_of)
        await self._runtime.create(
            record.id,
            one.directory,
            stdin=wish.stdin,
            once=wish.stdin_once,
            tty=wish.tty,
            log=f"k8s-file:{one.directory / 'log'}" if wish.logged else "none",
            log_size=wish.log_size,
        )

    async def _await_owner(self, name: str) -> None:
        """Wait while the container whose namespace is to be joined is on its way back; refuse if it does not run."""
        identity = self.id_of(name)
        if identity is None:
            return  # it may be a sandbox
        owner = self._known[identity]
        if owner.moving:
            await asyncio.wait([owner.moving], timeout=policy.STOP_TIMEOUT)
        if not owner.running:
            raise Forbidden(f"cannot join network of a non running container: {identity}")

    def _namespace_of(self, mode: str, kind: str) -> str:
        """The path of the namespace of a *kind* of the container that *mode* names; "" if it names none."""
        if not mode.startswith("container:"):
            return ""
        other = self._named(mode.removeprefix("container:"))
        if not (other.process and other.running):
            raise Forbidden(f"cannot join {kind.upper()} namespace of a non running container: {other.record.id}")
        return f"/proc/{other.process.pid}/ns/{kind}"

    async def _undo_start(self, one: _Container, error: BaseException) -> None:
        """Take away what a start that failed made, and note why it did."""
        try:
            await self._tear_down(one)
        except (IsthmusError, ExceptionGroup) as trouble:
            log.error("container %s is not taken apart: %s", one.record.name, trouble)  # noqa: TRY400 - it is told whole
        words = str(error) or type(error).__name__
        code = code_of(words)
        self._save(one, replace(one.record, wanted=False, code=code, error=words))
        for waiting in one.attaching:
            waiting.cancel()
        one.attaching.clear()
        if one.wish.remove:
            self._spawn(self._remove_after_failure(one))

    async def _remove_after_failure(self, one: _Container) -> None:
        async with one.lock:
            await self._remove(one)

    async def _tear_down(self, one: _Container) -> None:
        """Leave nothing of a container that ran: no process, mount, control group or sandbox."""
        identity = one.record.id
        if one.process:
            one.process.close()
            one.process = None
        one.paused = False
        if (self._states / identity).exists():
            await self._runtime.delete(identity)
        groups.remove(identity)
        one.rootfs.unmount()
        with suppress(NotFound):
            await self._call(lambda engine: engine.remove_sandbox(identity))

    # How it ends.

    def _hear(self) -> None:
        """Containers ended: their monitors left how."""
        for name in self._watch.read() if self._watch else ():
            if (one := self._known.get(name)) is not None:
                self._spawn(self._settle(one))

    async def _settle(self, one: _Container, process: Process | None = None) -> None:
        """Note how a container ended, and do what is to be done then; where *process* is given, only if it was that."""
        async with one.lock:
            if not one.record.running or (process is not None and one.process is not process):
                return
            began = one.record.started
            self._note_end(one, self._exit_code(one.record.id))
            self._tell(one, "die", exitCode=str(one.record.code), execDuration=str((self._clock() - began) // 10**9))
            proven = self._clock() - began > policy.PROVEN * 10**9
            try:
                await self._tear_down(one)
            except (IsthmusError, ExceptionGroup) as trouble:
                log.error("container %s is not taken apart: %s", one.record.name, trouble)  # noqa: TRY400 - it is told whole
            if one.record.removing:
                pass
            elif policy.restarts(one.wish.restart, one.record) and not self._stopping:
                if proven:
                    self._save(one, replace(one.record, restarts=0))
                self._restart_soon(one)
            elif one.wish.remove:
                await self._remove(one)
            self._wake(one)

    def _exit_code(self, identity: str) -> int:
        try:
            return int((self._exits / identity).read_text())
        except (OSError, ValueError):
            return policy.UNKNOWN

    def _note_end(self, one: _Container, code: int, error: str = "") -> None:
        ended = max(self._clock(), one.record.started)
        self._save(one, replace(one.record, wanted=False, ended=ended, code=code, error=error))

    def _wake(self, one: _Container) -> None:
        for waiting in one.ended:
            if not waiting.done():
                waiting.set_result(None)
        one.ended.clear()

    def _restart_soon(self, one: _Container) -> None:
        def begin() -> None:
            one.again = None
            self._spawn(self._start_all([one]))

        one.again = asyncio.get_running_loop().call_later(policy.pause_before(one.record.restarts), begin)

    def _cancel_restart(self, one: _Container) -> None:
        if one.again:
            one.again.cancel()
            one.again = None

    # What its user does to it.

    async def stop(self, name: str, patience: float | None = None, signal_name: str = "") -> bool:
        """Have a container end: by its signal, and after *patience* seconds by force; False if it does not run."""
        one = self._named(name)
        async with one.lock:
            waits_to_start = one.again is not None
            self._cancel_restart(one)
            if one.running or waits_to_start:
                self._save(one, replace(one.record, stopped=True))
            if not one.running:
                return waits_to_start
            over = self._when_over(one)
            if one.paused:
                await self._let_go_on(one)
        self._signal(one, policy.signal_number(signal_name or one.wish.stop_signal or "SIGTERM"))
        if patience is None:
            patience = policy.STOP_TIMEOUT if one.wish.stop_timeout is None else one.wish.stop_timeout
        done, _ = await asyncio.wait([over], timeout=None if patience < 0 else patience)
        if not done:
            self._signal(one, signal.SIGKILL)
            await over
        self._tell(one, "stop")
        return True

    def _when_over(self, one: _Container) -> "asyncio.Future[None]":
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        one.ended.add(waiting)
        return waiting

    def _signal(self, one: _Container, number: int) -> None:
        if one.process:
            one.process.signal(number)
        self._tell(one, "kill", signal=str(int(number)))

    async def kill(self, name: str, signal_name: str = "SIGKILL") -> None:
        """Send a container's program a signal.

        Raises:
            NameTaken: it does not run (409, in Docker's words).
        """
        one = self._running(name, "kill")
        number = policy.signal_number(signal_name or "SIGKILL")
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self._save(one, replace(one.record, stopped=True))
        if number != signal.SIGKILL:
            self._signal(one, number)
            return
        over = self._when_over(one)
        if one.paused:
            await self._let_go_on(one)
        self._signal(one, number)
        await over

    def _running(self, name: str, verb: str) -> _Container:
        one = self._named(name)
        if not one.running:
            raise NameTaken(f"cannot {verb} container: {name}: container {one.record.id} is not running")
        return one

    async def restart(self, name: str, patience: float | None = None, signal_name: str = "") -> None:
        """Have a container end and start again; start it if it does not run."""
        one = self._named(name)
        one.moving = moving = asyncio.get_running_loop().create_future()
        try:
            await self._restart(one, name, patience, signal_name)
        finally:
            moving.set_result(None)
            one.moving = None
        self._tell(one, "restart")

    async def _restart(self, one: _Container, name: str, patience: float | None, signal_name: str) -> None:
        remove, one.asked = one.wish.remove, replace(one.asked, wish=replace(one.wish, remove=False))
        try:
            await self.stop(name, patience, signal_name)
        finally:
            one.asked = replace(one.asked, wish=replace(one.wish, remove=remove))
        await self._start(one, fresh=True)

    async def pause(self, name: str, *, on: bool) -> None:
        """Have all of a container stand still, or go on."""
        one = self._running(name, "pause" if on else "unpause")
        if one.paused is on:
            raise NameTaken(f"Container {one.record.id} is {'already' if on else 'not'} paused")
        await self._runtime.pause(one.record.id, on=on)
        one.paused = on
        self._tell(one, "pause" if on else "unpause")

    async def _let_go_on(self, one: _Container) -> None:
        """Have what stands still go on, as it could not end otherwise."""
        await self._runtime.pause(one.record.id, on=False)
        one.paused = False

    async def rename(self, name: str, new: str) -> None:
        """Give a container another name."""
        one = self._named(name)
        old = one.record.name
        if new == old:
            raise InvalidRequest("Renaming a container with the same name as its current name")
        taken = self._by_name.setdefault(new, one.record.id)
        if taken != one.record.id:
            raise name_taken(new, taken)
        try:
            async with one.lock:
                if one.running:
                    await self._call(lambda engine: engine.rename_sandbox(one.record.id, new))
                else:
                    await self._call(lambda engine: _check_name(engine, new), brief=True)
                one.asked = self._read(new, one.record.asked)
                self._save(one, replace(one.record, name=new))
        except BaseException:
            del self._by_name[new]
            raise
        del self._by_name[old]
        self._tell(one, "rename", oldName=f"/{old}")

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a container; one that runs only by *force*.

        Raises:
            NameTaken: it runs (409, in Docker's words).
        """
        one = self._named(name)
        if one.record.removing and one.lock.locked():
            raise NameTaken(f"removal of container {name} is already in progress")
        async with one.lock:
            if (one.running or one.again) and not force:
                how = "paused and must be unpaused first" if one.paused else f"{one.state}: stop the container before "
                raise NameTaken(
                    f'cannot remove container "/{one.record.name}": container is {how}'
                    + ("" if one.paused else "removing or force remove")
                )
            self._cancel_restart(one)
            over = self._when_over(one) if one.running else None
            self._save(one, replace(one.record, stopped=True, removing=True))
            if one.paused:
                await self._let_go_on(one)
        if over:
            self._signal(one, signal.SIGKILL)
            await over
        async with one.lock:
            if one.record.id in self._known:
                await self._remove(one)

    async def _remove(self, one: _Container) -> None:
        """Forget a container that does not run, with all that it wrote."""
        self._cancel_restart(one)
        identity = one.record.id
        self._save(one, replace(one.record, removing=True))
        await self._tear_down(one)
        # Its record goes first, and the rest of a directory without one is taken away at the next start.
        (one.directory / "container.json").unlink(missing_ok=True)
        await asyncio.to_thread(one.rootfs.remove)
        (self._exits / identity).unlink(missing_ok=True)
        del self._known[identity]
        if self._by_name.get(one.record.name) == identity:
            del self._by_name[one.record.name]
        self.execs.forget(identity)
        self._tell(one, "destroy")
        self._wake(one)
        for waiting in one.gone:
            if not waiting.done():
                waiting.set_result(None)
        one.gone.clear()

    async def prune(self, may_go: Callable[[int, Mapping[str, str]], bool]) -> tuple[str, ...]:
        """Remove all that do not run and that *may_go*; return their IDs."""
        gone = []
        for one in tuple(self._known.values()):
            if not one.running and not one.again and may_go(one.record.created, dict(one.asked.sandbox.labels)):
                with suppress(IsthmusError):
                    await self.remove(one.record.id)
                    gone.append(one.record.id)
        return tuple(gone)

    def when_over(self, name: str, condition: str = "not-running") -> "asyncio.Future[tuple[int, str]]":
        """The exit code of a container and what went wrong, when it has ended.

        *Condition* is Docker's: "next-exit" waits for one that comes, and "removed" until nothing is left.
        """
        one = self._named(name)
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if condition == "removed":
            one.gone.add(waiting)
        elif condition == "next-exit" or one.running or one.again:
            one.ended.add(waiting)
        else:
            waiting.set_result(None)

        async def result() -> tuple[int, str]:
            try:
                await waiting
            finally:
                one.ended.discard(waiting)
                one.gone.discard(waiting)
            return one.record.code, one.record.error if condition == "not-running" else ""

        return asyncio.ensure_future(result())

    # Networks.

    async def connect(self, network: str, name: str, request: EndpointRequest, asked: str) -> None:
        """Put a container on one more network; *asked* is what its user asked for with that added."""
        one = self._named(name)
        async with one.lock:
            if one.running:
                await self._lan.connect(network, one.record.id, request)
            else:
                await self._call(lambda engine: engine.network(network), brief=True)
            one.asked = self._read(one.record.name, asked)
            self._save(one, replace(one.record, asked=asked))

    async def disconnect(self, network: str, name: str, asked: str) -> None:
        """Take a container off a network; *asked* is what its user asked for without that."""
        one = self._named(name)
        async with one.lock:
            if one.running:
                await self._call(lambda engine: engine.disconnect(network, one.record.id))
            one.asked = self._read(one.record.name, asked)
            self._save(one, replace(one.record, asked=asked))

    # Streams.

    async def attach(self, name: str) -> "asyncio.Future[Attachment]":
        """The streams of a container; of one that does not run yet, when it does."""
        one = self._named(name)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Attachment] = loop.create_future()
        if one.paused:
            raise NameTaken(f"container {one.record.id} is paused, unpause the container before attach")
        if one.running:
            waiting.set_result(Attachment(one.directory))
        else:
            one.attaching.add(waiting)
            waiting.add_done_callback(one.attaching.discard)
        self._tell(one, "attach")
        return waiting

    def wish(self, name: str) -> Wish:
        """How the program of a container is to run."""
        return self._named(name).wish

    def resize(self, name: str, rows: int, columns: int) -> None:
        """Give the terminal of a container another size."""
        one = self._running(name, "resize")
        resize(one.directory, rows, columns)
        self._tell(one, "resize", height=str(rows), width=str(columns))

    async def lines(
        self, name: str, *, since: int = 0, until: int | None = None, tail: int | None = None, follow: bool = False
    ) -> AsyncIterator[logs.Line]:
        """What a container wrote, from the last *tail* lines on if given; to *follow* is to go on until it ends.

        *Since* and *until* are nanoseconds since the epoch.
        """
        one = self._named(name)
        over = self._when_over(one) if follow and (one.running or one.again) else None
        try:
            async for line in reading.lines(one.directory / "log", since=since, until=until, tail=tail, over=over):
                yield line
        finally:
            if over:
                one.ended.discard(over)

    # Programs beside its own.

    def create_exec(self, name: str, wish: ExecWish) -> str:
        """Note a program that is to run in a container; return its ID."""
        one = self._running(name, "exec in")
        if one.paused:
            raise NameTaken(f"container {one.record.id} is paused, unpause the container before exec")
        made = self.execs.create(one.record.id, one.directory, wish)
        self._tell(one, f"exec_create: {' '.join(wish.words)}", execID=made.id)
        return made.id

    async def start_exec(self, noted: Exec, *, quiet: bool = False) -> Execution:
        """Run a program in its container; *quiet* if nobody wants its output."""
        one = self._running(noted.container, "exec in")

        def ended(code: int) -> None:
            self._tell(one, "exec_die", execID=noted.id, exitCode=str(code))

        execution = await self.execs.start(noted, ended, quiet=quiet)
        self._tell(one, f"exec_start: {' '.join(noted.wish.words)}", execID=noted.id)
        return execution

    async def processes(self, name: str) -> list[int]:
        """The process IDs of a container, in the host's numbers."""
        one = self._running(name, "top")
        return await self._runtime.processes(one.record.id)

    # Small things.

    def _save(self, one: _Container, record: Record) -> None:
        """Keep *record*, which outlives the daemon; see `record_in` for what a power failure may take of it."""
        if one.record is record:
            return
        if (record.name, record.asked) != (one.record.name, one.record.asked):
            self._keep(one, record)
        fresh = one.directory / "state.json.new"
        fresh.write_bytes(_encoder.encode(record))
        fresh.replace(one.directory / "state.json")
        one.record = record

    def _keep(self, one: _Container, record: Record) -> None:
        """Keep, also over a power failure, that there is this container."""
        disk.replace(one.directory / "container.json", _encoder.encode(record), one.directory / "container.json.new")
        disk.settle(self._root)

    def _tell(self, one: _Container, action: str, **attributes: str) -> None:
        told = {"image": one.wish.image, "name": one.record.name, **dict(one.asked.sandbox.labels), **attributes}
        self._publish(Event("container", action, one.record.id, pairs(told), self._clock()))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Future[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a container was not looked after: %s", error, exc_info=error)


def record_in(place: Path) -> Record:
    """The record of the container in this directory.

    What was asked for is on the disk (`container.json`). How it is (`state.json`) is not waited for: a power failure
    ends what runs, and may take that file's content, and then the container counts as one that ran.

    Raises:
        OSError, MsgspecError: there is none, or it cannot be read.
    """
    asked = msgspec.json.decode((place / "container.json").read_bytes(), type=Record)
    try:
        record = msgspec.json.decode((place / "state.json").read_bytes(), type=Record)
    except FileNotFoundError:
        return asked
    except msgspec.MsgspecError:
        return replace(asked, wanted=True, started=asked.created)
    return replace(record, name=asked.name, asked=asked.asked)


def name_taken(name: str, identity: str) -> NameTaken:
    """The refusal of a name that the container of this ID has."""
    return NameTaken(
        f'Conflict. The container name "/{name}" is already in use by container "{identity}". You have to remove (or '
        "rename) that container to be able to reuse that name."
    )


def _check_name(engine: Engine, name: str) -> None:
    for view in engine.sandboxes():
        if view.sandbox.name == name:
            raise name_taken(name, view.sandbox.id)
