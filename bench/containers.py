"""What starting a container takes, beside the OCI runtime's own `run` of the same bundle.

A start is over with the program's first instruction: it writes to a pipe that is bound into the container. The
runtime's `run` has the same root file system, namespaces, mounts, capabilities and filter; it lacks the monitor, the
log, the overlay and the network. What a network adds is held against the making of a sandbox on it.
"""

import json
import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Self

from bench.attach import US
from bench.client import Client
from bench.peers import Runner
from bench.report import Goal, Report
from bench.world import Daemon, World, run
from isthmus.containers.model import Mount, Wish
from isthmus.containers.spec import Place, User, spec

START = "start a container, to its first instruction, network {}"
SHARE = "what a network adds to that, beside a sandbox on it"
MANY = "start {} containers"
MEMORY = "memory for each container"
_COMMAND = ["/bin/busybox", "sh", "-c", "echo > /signal/pipe; exec /bin/busybox sleep 1000"]
_NETWORK = "boxes"


def measure(world: World, daemon: Daemon, others: Iterable[Runner], report: Report, times: int) -> None:
    """Measure *times* starts of each kind, also by *others*; and many containers, one by one and at once."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    runtime, busybox = shutil.which("runc", path=path), shutil.which("busybox", path=path)
    if not (runtime and busybox and shutil.which("conmon", path=path)):
        report.notes.append("Containers were not measured: runc, conmon or busybox is not installed.")
        return
    tree = world.directory / "tree"
    for name in ("bin", "signal", "proc", "sys", "dev", "etc"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin" / "busybox")
    daemon.add_network(_NETWORK, "10.83.0.0/16")
    ours = _Isthmus(daemon, tree)
    runners = (ours, *others)
    with _Signal(world.directory / "signal") as signal:
        floor, sandboxes = [], []
        alone: dict[str, list[float]] = {one.name: [] for one in runners}
        joined: dict[str, list[float]] = {one.name: [] for one in runners}
        for number in range(times):
            floor.append(_run(world, runtime, tree, signal, number))
            for one in runners:
                alone[one.name].append(_start(one, signal, "none"))
                joined[one.name].append(_start(one, signal, one.network))
            sandboxes.append(daemon.add_sandbox("beside", _NETWORK))
            daemon.remove_sandbox("beside")
            daemon.settle()
    for kind, took in (("none", alone), ("bridge", joined)):
        report.add(START.format(kind), "runc run", "ms", floor)
        for one in runners:
            report.add(START.format(kind), one.name, "ms", took[one.name], Goal(1.5) if one is ours else None)
    added = [one - other for one, other in zip(joined[ours.name], alone[ours.name], strict=True)]
    report.add(SHARE, "isthmus, a sandbox", "ms", sandboxes)
    report.add(SHARE, US, "ms", [median(added)], Goal(1.3))
    _many(daemon, ours, report)


class _Isthmus:
    """Ours, with a directory as the image."""

    name = US
    network = _NETWORK

    def __init__(self, daemon: Daemon, tree: Path, api: Client | None = None) -> None:
        self._daemon, self._tree = daemon, tree
        self._api = api or daemon.api

    @contextmanager
    def beside(self) -> Iterator["_Isthmus"]:
        """The same, by a connection of its own."""
        api = Client(self._daemon.socket)
        yield _Isthmus(self._daemon, self._tree, api)
        api.close()

    def create(self, command: Sequence[str], network: str, bind: str = "") -> str:
        """Make a container; its ID."""
        host = {"NetworkMode": network, "Binds": [bind] if bind else []}
        body = {"Image": str(self._tree), "Cmd": [*command], "HostConfig": host}
        return str(self._api.do("POST", "/containers/create", body).json()["Id"])

    def start(self, identity: str) -> None:
        """Start it."""
        self._api.do("POST", f"/containers/{identity}/start")

    def remove(self, identity: str) -> None:
        """Kill and remove it."""
        self._api.do("DELETE", f"/containers/{identity}?force=1")


class _Signal:
    """A pipe with a name, in a directory that containers see; it tells when something was written to it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        os.mkfifo(directory / "pipe")
        self._reading = os.open(directory / "pipe", os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        os.close(self._reading)

    @contextmanager
    def timed(self) -> Iterator[list[float]]:
        """Has, after the block, the milliseconds from its begin to the next write."""
        took: list[float] = []
        began = time.perf_counter_ns()

        def wait() -> None:
            os.read(self._reading, 16)
            took.append((time.perf_counter_ns() - began) / 1e6)

        thread = threading.Thread(target=wait)
        thread.start()
        yield took
        thread.join(60)


def _run(world: World, runtime: str, tree: Path, signal: _Signal, number: int) -> float:
    """The milliseconds until a program runs that the runtime alone was told to run."""
    name, bundle = f"bench-{os.getpid()}-{number}", world.directory / f"bundle{number}"
    (bundle / "root").mkdir(parents=True)
    wish = Wish("tree", command=tuple(_COMMAND), mounts=(Mount("bind", str(signal.directory), "/signal", ("bind",)),))
    shape = json.loads(json.dumps(spec(wish, Place(name, str(bundle / "root"), platform.machine()), User())))
    shape["linux"]["namespaces"].append({"type": "network"})
    (bundle / "config.json").write_text(json.dumps(shape))
    run("mount", "--bind", str(tree), str(bundle / "root"))
    words = [runtime, "--root", str(world.directory / "runc")]
    try:
        with signal.timed() as took:
            process = subprocess.Popen([*words, "run", "--bundle", str(bundle), name], stdin=subprocess.DEVNULL)
        run(*words, "delete", "--force", name)
        process.wait(10)
    finally:
        run("umount", str(bundle / "root"))
    return took[0]


def _start(runner: Runner, signal: _Signal, network: str) -> float:
    """The milliseconds until a program runs that *runner* was asked to start."""
    identity = runner.create(_COMMAND, network, f"{signal.directory}:/signal")
    with signal.timed() as took:
        runner.start(identity)
    runner.remove(identity)
    return took[0]


def _many(daemon: Daemon, ours: _Isthmus, report: Report, count: int = 100) -> None:
    """Containers one after another, then as many at once; and what they take of memory."""
    sleep = ["/bin/busybox", "sleep", "1000"]

    def begun(by: _Isthmus) -> str:
        identity = by.create(sleep, _NETWORK)
        by.start(identity)
        return identity

    def one(_number: int) -> str:
        with ours.beside() as by:
            return begun(by)

    before, began = daemon.resident(), time.perf_counter_ns()
    made = [begun(ours) for _ in range(count)]
    one_by_one = (time.perf_counter_ns() - began) / 1e6
    report.add(MEMORY, "isthmus, of the daemon", "KiB", [(daemon.resident() - before) * 1024 / count])
    report.add(MEMORY, "conmon", "KiB", [_monitors(made) / count])
    for identity in made:
        ours.remove(identity)
    began = time.perf_counter_ns()
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(one, range(count)))
    together = (time.perf_counter_ns() - began) / 1e6
    for identity in made:
        ours.remove(identity)
    report.add(MANY.format(count), "isthmus, one after another", "ms", [one_by_one])
    report.add(MANY.format(count), "isthmus, 16 at a time", "ms", [together])


def _monitors(identities: list[str]) -> float:
    """The KiB of memory that the monitors of these containers have to themselves."""
    wanted = {identity.encode() for identity in identities}
    total = 0
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal():
            continue
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"conmon") and not wanted.isdisjoint(words):
                lines = (place / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        except OSError:
            continue
    return total
