"""The world of a run: network, mount and process namespaces of its own, in which all of it happens and ends.

Each party (our daemon, the floor, a plain bridge, other engines) is a host: a network namespace with a name. When the
first process of the run ends, the kernel ends the others and takes the namespaces apart.
"""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bench.client import Client
from isthmus.containers import groups
from isthmus.kernel.linux import DYING

ROOT = Path(__file__).parents[1]
PATIENCE = 60
"""How long to wait for anything to become ready, in seconds."""

_NAME = "bench"
CGROUP = groups.path(_NAME)
"""Below which control group the containers of other engines are, so that it can be removed."""

_READY = re.compile(r"ready after ([0-9.]+) s, with (\d+) operations")
_PREPARE = 'mount -t tmpfs none /run && ip link set lo up && exec "$@"'
_APART = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
_INSIDE = "ISTHMUS_BENCH"


def enter(arguments: Sequence[str], module: str = "bench") -> int | None:
    """Run this program (*module*) again in a world of its own, and return its exit status; None if it is there."""
    if _INSIDE in os.environ:
        return None
    if os.geteuid() != 0:
        print("bench: needs root: it makes network namespaces", file=sys.stderr)
        return 1
    unshare = ["unshare", "--net", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    program = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-", ignore_cleanup_errors=True) as directory:
        environment = os.environ | {_INSIDE: directory, "PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run([*unshare, "sh", "-c", _PREPARE, "sh", *program], env=environment, check=False)
        except KeyboardInterrupt:
            return 130
        finally:
            groups.remove(_NAME)
    return done.returncode


@dataclass(frozen=True, slots=True)
class World:
    """Where a run keeps its files."""

    directory: Path

    @classmethod
    def here(cls) -> "World":
        """The world that `enter` made."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return cls(Path(os.environ[_INSIDE]))

    def build(self, name: str, *flags: str) -> Path:
        """The program made of `bench/NAME.c`."""
        made = self.directory / name
        if not made.exists():
            run("gcc", "-O2", "-Wall", "-Wextra", *flags, "-o", str(made), f"{ROOT}/bench/{name}.c")
        return made


def run(*command: str, given: str | None = None, environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """What *command* prints; it has to succeed."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def ip(host: str, lines: str) -> None:
    """Have `ip` do each of *lines* on a host."""
    run("ip", "-n", host, "-batch", "-", given=lines)


def add_host(name: str) -> str:
    """Make a host of this name, with its loopback up."""
    run("ip", "netns", "add", name)
    ip(name, "link set lo up")
    return name


def on(host: str) -> list[str]:
    """What stands before a command that is to run on a host, or in the namespace at a path."""
    return ["nsenter", f"--net={where(host)}"]


def where(host: str) -> str:
    """The path of a host's network namespace, or the path that is given instead of its name."""
    return host if host.startswith("/") else f"/run/netns/{host}"


def wait_for(condition: Callable[[], bool], what: str, pause: float = 0.005) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(pause)


@contextlib.contextmanager
def process(*command: str, environment: dict[str, str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    """A program that runs during the block, from its first line of output on, and is then told to end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    ) as running:
        try:
            if running.stdout and not running.stdout.readline():
                raise RuntimeError(f"{' '.join(command)} ended at once")
            yield running
        finally:
            if running.poll() is None:
                running.terminate()


@contextlib.contextmanager
def pinned(process: int, processor: int) -> Iterator[None]:
    """Keep all threads of a *process* on one processor during the block."""
    threads = [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]
    everywhere = os.sched_getaffinity(process)
    for thread in threads:
        os.sched_setaffinity(thread, {processor})
    try:
        yield
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, everywhere)


class Floor:
    """The kernel's own cost (`floor.c`), on a host of its own. All times are in milliseconds."""

    def __init__(self, world: World) -> None:
        program = world.build("floor")
        self._process = subprocess.Popen(
            [*on(add_host("floor")), str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.do("bridge")

    def do(self, command: str) -> float:
        """Have it do a *command*; `floor.c` lists them."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the floor has no pipes")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the floor could not do: {command}")
        return float(answer) / 1000

    def settle(self) -> None:
        """Wait until the kernel has taken apart all namespaces that ended before; that work slows what is measured."""
        self.do("settle")


class Daemon:
    """Our daemon, on a host of its own, as it is by default but for *flags*.

    One of several has a /run of its own, for the names of namespaces there are those of one daemon.
    """

    def __init__(self, world: World, host: str = "isthmus", *flags: str, several: bool = False) -> None:
        self.host, self._flags, self._several = host, flags, several
        self._directory = world.directory / host
        self._directory.mkdir()
        (self._directory / "daemon.json").write_text("{}")
        self.socket = self._directory / "api.sock"
        self.log = self._directory / "log"
        add_host(self.host)
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    @property
    def api(self) -> Client:
        """A kept connection."""
        if self._client is None:
            self._client = Client(self.socket)
        return self._client

    @property
    def address(self) -> str:
        """What `-H` takes."""
        return f"unix://{self.socket}"

    def start(self, *program: str) -> float:
        """Start it (or *program*, which takes the same flags); return after how many milliseconds it was ready."""
        files = {"data-root": "data", "exec-root": "exec", "config-file": "daemon.json", "pidfile": "pid"}
        flags = {"-H": self.address} | {f"--{flag}": f"{self._directory}/{name}" for flag, name in files.items()}
        command = (*(_APART if self._several else ()), *(program or (sys.executable, "-m", "isthmus.daemon")))
        notified_at = self._directory / "notify"
        notified_at.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self.log.open("a") as log:
            notified.bind(str(notified_at))
            notified.settimeout(1)
            began = time.perf_counter_ns()
            self._process = subprocess.Popen(
                [*on(self.host), *command, *(word for pair in flags.items() for word in pair), *self._flags],
                env=os.environ | {"NOTIFY_SOCKET": str(notified_at)},
                stdout=log,
                stderr=log,
            )
            wait_for(lambda: self._is_ready(notified), "the daemon", 0)
            took = (time.perf_counter_ns() - began) / 1e6
        if self._client:
            self._client.renew()
        return took

    def _is_ready(self, notified: socket.socket) -> bool:
        try:
            return b"READY=1" in notified.recv(4096)
        except TimeoutError:
            if self._process and self._process.poll() is not None:
                raise RuntimeError(f"the daemon ended: {self.log.read_text()[-2000:]}") from None
            return False

    def end(self, number: signal.Signals) -> None:
        """End it by a signal, and wait for that."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(PATIENCE)

    def pinned(self, processor: int) -> contextlib.AbstractContextManager[None]:
        """Keep all its threads on one processor during the block, where there are several."""
        if self._process is None:
            raise RuntimeError("the daemon does not run")
        return pinned(self._process.pid, processor)

    def resident(self) -> float:
        """How much memory it has, in MiB."""
        if self._process is None:
            raise RuntimeError("the daemon does not run")
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def readiness(self) -> tuple[float, int]:
        """What it logged when it became ready: the seconds that its first look took, and the operations done then."""
        found: list[tuple[str, str]] = []

        def logged() -> bool:
            found[:] = _READY.findall(self.log.read_text())[-1:]
            return bool(found)

        wait_for(logged, "the daemon's word that it is ready")
        seconds, operations = found[0]
        return float(seconds), int(operations)

    def forget_log(self) -> None:
        """Empty the log, so that it tells of what comes."""
        self.log.write_text("")

    # What is asked of it.

    def add_network(
        self,
        name: str,
        subnet: str,
        driver: str = "bridge",
        options: Mapping[str, str] = MappingProxyType({}),
        *,
        internal: bool = False,
    ) -> None:
        """Make a network."""
        body = {
            "Name": name,
            "Driver": driver,
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Options": dict(options),
            "Internal": internal,
        }
        self.api.do("POST", "/networks/create", body)

    def add_sandbox(self, name: str, network: str) -> float:
        """Make a sandbox on a network; return the milliseconds that took."""
        return self.api.do("POST", f"/sandboxes/create?name={name}", {"HostConfig": {"NetworkMode": network}}).took

    def remove_sandbox(self, name: str) -> float:
        """Remove a sandbox; return the milliseconds that took."""
        return self.api.do("DELETE", f"/sandboxes/{name}").took

    def connect(self, network: str, sandbox: str, address: str = "") -> float:
        """Connect, with the *address* if one is given; return the milliseconds that took."""
        wish: dict[str, object] = {"Container": sandbox}
        if address:
            wish["EndpointConfig"] = {"IPAMConfig": {"IPv4Address": address}}
        return self.api.do("POST", f"/networks/{network}/connect", wish).took

    def disconnect(self, network: str, sandbox: str) -> float:
        """Disconnect; return the milliseconds that took."""
        return self.api.do("POST", f"/networks/{network}/disconnect", {"Container": sandbox}).took

    def place(self, network: str, sandbox: str) -> tuple[str, str]:
        """The path of a sandbox's namespace, and its address on a network."""
        shown = self.api.do("GET", f"/sandboxes/{sandbox}").json()
        return self.path(shown["NetnsPath"]), shown["Networks"][network]["IPAddress"]

    def path(self, path: str) -> str:
        """Where a *path* of the daemon's is for others."""
        return f"/proc/{self._process.pid}/root{path}" if self._several and self._process else path

    def settle(self) -> None:
        """Wait until it has reaped what was detached: until no link of its host is in the group of those that go."""

        def reaped() -> bool:
            links = json.loads(run("ip", "-n", self.host, "-j", "link", "show", "type", "veth") or "[]")
            return not any(link.get("group") == str(DYING) for link in links)

        wait_for(reaped, "the daemon to reap", 0.05)
