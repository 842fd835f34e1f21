"""Shared stores for tests: real servers, each in a network namespace of its own, and one in memory; all can fail."""

import asyncio
import base64
import json
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from isthmus.kernel import namespaces
from isthmus.kv import SharedStore
from isthmus.kv.consul import LEAST, Consul
from isthmus.kv.etcd import Etcd
from isthmus.kv.memory import Cluster, Memory
from isthmus.kv.servers import Pace
from tests.e2e.hosts import Machine, until

UNPACKED = Path(sys.executable).parent.parent
STARTING = 30.0
"""How long, in seconds, a server may take to be there."""

PATIENCE = 2.0
"""That of the clients here, in seconds."""

T = TypeVar("T")


def program(name: str) -> str | None:
    """Where the server *name* is: where `bootstrap` put it, or installed."""
    unpacked = UNPACKED / name / "usr/bin" / name
    return str(unpacked) if unpacked.exists() else shutil.which(name)


class Servers(ABC):
    """A store that tests start, stop and damage. What they do with it, they do in `run`."""

    least: ClassVar[float]
    """The shortest time to live that sessions can have."""

    ends: ClassVar[float]
    """The longest that a session of that time lasts."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work* where the store can be reached, on a loop like that of a daemon."""
        import uvloop

        return uvloop.run(work)

    @abstractmethod
    def client(self, root: str = "isthmus") -> SharedStore:
        """A new client, whose keys are below *root*."""

    @abstractmethod
    def start(self, *, wiped: bool = False) -> None:
        """Start it, with its data or without."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, as SIGKILL does."""

    @abstractmethod
    def pause(self) -> None:
        """Have it say nothing, but keep its connections, as SIGSTOP does."""

    @abstractmethod
    def resume(self) -> None:
        """End the pause."""

    @abstractmethod
    def forget(self) -> None:
        """Have it forget its history, if it has one."""

    async def elapse(self, seconds: float, news: asyncio.Future[Any]) -> None:
        """Have *seconds* pass, or less if there are *news*."""
        await asyncio.wait({news}, timeout=seconds)

    @abstractmethod
    def close(self) -> None:
        """End it for good."""


class InMemory(Servers):
    """The store in memory, with a clock that only `elapse` moves."""

    least = ends = 10.0

    def __init__(self) -> None:
        self._now = 0.0
        self._clusters: dict[str, Cluster] = {}

    def client(self, root: str = "isthmus") -> SharedStore:
        """A new client."""
        return Memory(self._clusters.setdefault(root, Cluster(lambda: self._now)))

    def start(self, *, wiped: bool = False) -> None:
        """Start it."""
        for one in self._clusters.values():
            one.start(wiped=wiped)

    def kill(self) -> None:
        """End it at once."""
        for one in self._clusters.values():
            one.stop()

    def pause(self) -> None:
        """Have it say nothing."""
        self.kill()

    def resume(self) -> None:
        """End the pause."""
        self.start()

    def forget(self) -> None:
        """It has no history."""

    async def elapse(self, seconds: float, news: asyncio.Future[Any]) -> None:  # noqa: ARG002 - its clock is moved
        """Move its clock by *seconds*."""
        self._now += seconds
        for one in self._clusters.values():
            one.tick()

    def close(self) -> None:
        """End it for good."""


class Real(Servers):
    """A program that keeps its data in *directory* and listens on the loopback of a namespace.

    It is alone, or the *number*th of *three* that are one store, which share a *machine*.
    """

    name: ClassVar[str]
    port: ClassVar[int]

    def __init__(self, directory: Path, number: int = 1, machine: Machine | None = None) -> None:
        self.directory, self.number = directory, number
        self.members = range(1, 4) if machine else range(1, 2)
        directory.mkdir(parents=True)
        self._held = ExitStack()
        self.machine = machine or self._held.enter_context(closing(Machine(self.name)))
        self._log = self._held.enter_context((directory / "log").open("ab"))
        self._process: subprocess.Popen[bytes] | None = None
        self.pace = Pace(PATIENCE)
        self.scheme = "http"
        self.tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.{self.number}:{self.port}"

    @abstractmethod
    def flags(self) -> list[str]:
        """What follows the program's name."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it can do its work."""

    @abstractmethod
    def leads(self) -> bool:
        """Whether it is the one that decides."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work* in its namespace, on a loop like that of a daemon."""
        with namespaces.inside(self.machine.netns):
            return super().run(work)

    def start(self, *, wiped: bool = False) -> None:
        """Start it, and wait until it is ready."""
        self.launch(wiped=wiped)
        until(self.ready, f"{self.name} does not start: see {self.directory}/log", STARTING)

    def launch(self, *, wiped: bool = False) -> None:
        """Start it."""
        assert self._process is None
        if wiped:
            shutil.rmtree(self.directory / "data")
        command = [*self.machine.within(program(self.name) or self.name), *self.flags()]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        """Have it say nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End the pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """It has no history."""

    def close(self) -> None:
        """End it for good."""
        if self._process is not None:
            self.kill()
        self._held.close()

    def call(self, method: str, path: str, wish: object = None, headers: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - any JSON
        """What the server answers to a request that is none of the client's under test; None if it refuses."""
        data = None if wish is None else json.dumps(wish).encode()
        url = f"{self.scheme}://{self.address}{path}"
        request = urllib.request.Request(url, data, dict(headers or {}), method=method)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls)
        )
        try:
            with namespaces.inside(self.machine.netns), opener.open(request, timeout=5) as response:
                return json.loads(response.read() or b"null")
        except OSError:
            return None


class ConsulServer(Real):
    """Consul. *Settings* are added to its configuration."""

    name, port = "consul", 8500
    least, ends = float(LEAST), 2.0 * LEAST + 5

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, object] | None = None,
        number: int = 1,
        machine: Machine | None = None,
    ) -> None:
        super().__init__(directory, number, machine)
        self.manager: dict[str, str] = {}
        self._settings = directory / "settings.json"
        self._settings.write_text(json.dumps({"performance": {"raft_multiplier": 1}, **(settings or {})}))

    def client(self, root: str = "isthmus") -> SharedStore:
        """A new client."""
        return Consul([self.address], root, pace=self.pace)

    def flags(self) -> list[str]:
        """How it finds the others, and nothing but those."""
        own = f"127.0.0.{self.number}"
        return [
            *f"agent -server -bootstrap-expect={len(self.members)} -node=n{self.number}".split(),
            *f"-bind={own} -client={own} -data-dir={self.directory}/data -config-file={self._settings}".split(),
            *(f"-retry-join=127.0.0.{other}" for other in self.members if other != self.number),
            "-retry-interval=1s",
        ]

    def ready(self) -> bool:
        """Whether it has a leader that knows it; only then it makes sessions."""
        return bool(self.call("GET", f"/v1/catalog/node/n{self.number}", headers=self.manager))

    def leads(self) -> bool:
        """Whether it is the one that decides."""
        return str(self.call("GET", "/v1/status/leader")).startswith(f"127.0.0.{self.number}:")


class EtcdServer(Real):
    """etcd. *Flags* are added to its command line."""

    name, port = "etcd", 2379
    least, ends = 1.0, 10.0

    def __init__(self, directory: Path, flags: str = "", number: int = 1, machine: Machine | None = None) -> None:
        super().__init__(directory, number, machine)
        self._flags = flags

    def client(self, root: str = "isthmus") -> SharedStore:
        """A new client."""
        return Etcd([self.address], root, pace=self.pace)

    def flags(self) -> list[str]:
        """How it finds the others, and nothing but those; it notices soon when they are gone."""
        url, peer = f"{self.scheme}://{self.address}", f"http://127.0.0.{self.number}:2380"
        members = ",".join(f"n{one}=http://127.0.0.{one}:2380" for one in self.members)
        return [
            *f"--name=n{self.number} --data-dir={self.directory}/data --initial-cluster={members}".split(),
            *f"--listen-client-urls={url} --advertise-client-urls={url}".split(),
            *f"--listen-peer-urls={peer} --initial-advertise-peer-urls={peer}".split(),
            *f"--heartbeat-interval=20 --election-timeout=200 {self._flags}".split(),
        ]

    def ready(self) -> bool:
        """Whether it knows its leader."""
        return bool(self.call("POST", "/v3/kv/range", {"key": _text(b"isthmus")}))

    def leads(self) -> bool:
        """Whether it is the one that decides."""
        status = self.call("POST", "/v3/maintenance/status", {})
        return bool(status and status["leader"] == status["header"]["member_id"])

    def forget(self) -> None:
        """Compact its whole history."""
        now = self.call("POST", "/v3/kv/range", {"key": _text(b"isthmus")})["header"]["revision"]
        assert self.call("POST", "/v3/kv/compaction", {"revision": now, "physical": True})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
