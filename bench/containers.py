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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Self

from bench.attach import US
from bench.client import Client
from bench.peers import Docker, Peer
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
_NO_MORE: Mapping[str, object] = MappingProxyType({})


def measure(world: World, daemon: Daemon, others: Sequence[Peer], report: Report, times: int) -> None:
    """Measure *times* starts of each kind, by Docker, too, if it is among *others*; many one by one, and at once."""
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
    docker = next((one for one in others if isinstance(one, Docker)), None)
    theirs: dict[str, list[float]] = {"none": [], _NETWORK: []}
    with _Signal(world.directory / "signal") as signal:
        floor, none, front, sandboxes = [], [], [], []
        for number in range(times):
            floor.append(_run(world, runtime, tree, signal, number))
            none.append(_start(daemon.api, str(tree), signal, "none"))
            front.append(_start(daemon.api, str(tree), signal, _NETWORK))
            if docker:
                for network, name in (("none", "none"), (_NETWORK, docker.network)):
                    theirs[network].append(_start(docker.api, docker.image, signal, name, docker.host))
            sandboxes.append(daemon.add_sandbox("plain", _NETWORK))
            daemon.remove_sandbox("plain")
            daemon.settle()
    for name, ours in (("none", none), (_NETWORK, front)):
        report.add(START.format(name), "runc run", "ms", floor)
        report.add(START.format(name), US, "ms", ours, Goal(1.5))
        if docker:
            report.add(START.format(name), docker.name, "ms", theirs[name])
    added = [one - other for one, other in zip(front, none, strict=True)]
    report.add(SHARE, "isthmus, a sandbox", "ms", sandboxes)
    report.add(SHARE, US, "ms", [median(added)], Goal(1.3))
    _many(daemon, report, tree)


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


def _create(api: Client, image: str, command: list[str], network: str, host: Mapping[str, object] = _NO_MORE) -> str:
    body = {"Image": image, "Cmd": command, "HostConfig": {"NetworkMode": network, **host}}
    return str(api.do("POST", "/containers/create", body).json()["Id"])


def _start(api: Client, image: str, signal: _Signal, network: str, host: Mapping[str, object] = _NO_MORE) -> float:
    """The milliseconds until a program runs that the engine at *api* was asked to start."""
    identity = _create(api, image, _COMMAND, network, {"Binds": [f"{signal.directory}:/signal"], **host})
    with signal.timed() as took:
        api.do("POST", f"/containers/{identity}/start")
    api.do("DELETE", f"/containers/{identity}?force=1")
    return took[0]


def _many(daemon: Daemon, report: Report, tree: Path, count: int = 100) -> None:
    """Containers one after another, then as many at once; and what they take of memory."""
    sleep = ["/bin/busybox", "sleep", "1000"]
    before = daemon.resident()
    began = time.perf_counter_ns()
    made = []
    for _ in range(count):
        made.append(_create(daemon.api, str(tree), sleep, _NETWORK))
        daemon.api.do("POST", f"/containers/{made[-1]}/start")
    one_by_one = (time.perf_counter_ns() - began) / 1e6
    report.add(MEMORY, "isthmus, of the daemon", "KiB", [(daemon.resident() - before) * 1024 / count])
    report.add(MEMORY, "conmon", "KiB", [_monitors(made) / count])
    _remove(daemon, made)
    began = time.perf_counter_ns()
    with ThreadPoolExecutor(16) as pool:

        def one(_number: int) -> str:
            api = Client(daemon.socket)
            identity = _create(api, str(tree), sleep, _NETWORK)
            api.do("POST", f"/containers/{identity}/start")
            api.close()
            return identity

        at_once = list(pool.map(one, range(count)))
    together = (time.perf_counter_ns() - began) / 1e6
    _remove(daemon, at_once)
    report.add(MANY.format(count), "isthmus, one after another", "ms", [one_by_one])
    report.add(MANY.format(count), "isthmus, 16 at a time", "ms", [together])


def _remove(daemon: Daemon, identities: list[str]) -> None:
    for identity in identities:
        daemon.api.do("DELETE", f"/containers/{identity}?force=1")


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
