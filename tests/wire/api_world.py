"""The API on a real engine, whose kernel and store are in memory: what all tests of the API arrange with."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import msgspec

from isthmus.addresses import DEFAULT_POOLS
from isthmus.api.about import About
from isthmus.api.containers import meaning
from isthmus.api.events import Events
from isthmus.api.message import Request, Response
from isthmus.api.routes import Api
from isthmus.containers.manager import Containers
from isthmus.containers.sources import Sources
from isthmus.dhcp.fake import FakeServers
from isthmus.dns.lookup import Directory
from isthmus.engine import Engine
from isthmus.images.store import Images
from isthmus.kernel.fake import FakeKernel
from isthmus.lan import Lan
from isthmus.model import HOST, pairs
from isthmus.names import Written
from isthmus.rules import DefaultBridge, Rules
from isthmus.store.memory import MemoryStore
from isthmus.wire.fake import FakeWire

T = TypeVar("T")

ABOUT = About(
    id="f2e8cbd0-0000-4000-8000-000000000000",
    root="/var/lib/isthmus",
    hostname="box",
    kernel="6.1.0",
    system="Debian GNU/Linux 12",
    system_version="12",
    architecture="x86_64",
    cpus=2,
    memory=2**32,
    pools=DEFAULT_POOLS,
    drivers=("bridge", "host", "null"),
)

START = 1_700_000_000 * 10**9
"""The time at which the clock of a world begins; each look at it is a second later."""

CREATED = "2023-11-14T22:13:20Z"


class World:
    """An `Api` with its engine. `loop` runs what is asynchronous; `close` it in the end, or use `with`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.kernel = FakeKernel()
        self.store = MemoryStore()
        self.now = START
        self.events = Events()
        self.directory = Directory()
        self.root = TemporaryDirectory()
        self.written = Written(self.directory, Path(self.root.name), Path(self.root.name, "resolv.conf"))
        self.engine = Engine(
            self.store,
            self.kernel,
            Rules(
                pools=DEFAULT_POOLS,
                boot_id="one",
                default_bridge=DefaultBridge(options=pairs({"com.docker.network.bridge.name": "isthmus0"})),
            ),
            clock=self.clock,
            random=Random(1).randbytes,
            publish=self.events.publish,
            paths={HOST: "/proc/1/ns/net", "*": "/run/isthmus/netns"},
            recorded=self.directory.learn,
        )
        self.engine.start()
        self.wire = FakeWire()
        self.servers = FakeServers()
        self.lan = Lan(self.call, lambda _conflict: self.wire, lambda _leased: self.servers)
        self.image_store = Images(Path(self.root.name, "images"), self.in_use, lambda: CREATED)
        self.image_store.start()
        self.images = Sources(self.image_store)
        self.containers = Containers(
            self.call,
            self.lan,
            self.written,
            self.images,
            self.events.publish,
            self.clock,
            Random(2).randbytes,
            meaning,
            Path(self.root.name, "data"),
            Path(self.root.name, "exec"),
        )
        self.api = Api(
            self.call,
            self.lan,
            None,
            self.written,
            self.containers,
            self.images,
            self.image_store,
            self.events,
            ABOUT,
            self.clock,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self.root.cleanup()

    def in_use(self) -> Mapping[str, tuple[str, bool]]:
        """Which images containers are of."""
        return self.containers.using()

    def clock(self) -> int:
        """The time, in nanoseconds."""
        self.now += 10**9
        return self.now

    async def call(self, work: Callable[[Engine], T], /, *, brief: bool = False) -> T:  # noqa: ARG002 - all of it is
        """Do *work* at once; the real daemon does what is not *brief* on a thread of its own."""
        return work(self.engine)

    def run(self, work: Coroutine[object, object, T]) -> T:
        """What *work* gives."""
        return self.loop.run_until_complete(work)

    def answer(self, request: Request) -> Response:
        """The answer to *request*."""
        return self.run(self.api(request))

    def ask(self, method: str, path: str, body: object = None, *, expect: int = 200, **query: str) -> Any:  # noqa: ANN401
        """The decoded answer, which must have the status *expect*; None if it has no body. JSON may be anything."""
        response = self.answer(request(method, path, body, **query))
        assert response.status == expect, response.body
        return msgspec.json.decode(response.body) if response.body else None

    def refused(self, expect: int, method: str, path: str, body: object = None, **query: str) -> str:
        """The message of a refusal with the status *expect*."""
        shape = self.ask(method, path, body, expect=expect, **query)
        assert set(shape) == {"message"}
        return str(shape["message"])


def request(method: str, path: str, body: object = None, **query: str) -> Request:
    """A request as a client would send it; *body* is encoded, a query key's `_` stands for `-`."""
    encoded = None if body is None else msgspec.json.encode(body)
    headers = {} if encoded is None else {"content-type": "application/json"}
    return Request(method, path, {key.replace("_", "-"): value for key, value in query.items()}, headers, encoded)


def filters(**wanted: str) -> str:
    """The `filters` of a query that ask for these values; a key's `_not` stands for Docker's `!`."""
    return msgspec.json.encode({key.replace("_not", "!"): {value: True} for key, value in wanted.items()}).decode()
