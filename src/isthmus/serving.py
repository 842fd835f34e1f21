"""What a daemon does for clients: it answers them, and has containers and images.

It is loaded while the engine looks at the kernel, so nothing that is needed for that may be here.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.api.about import this_machine
from isthmus.api.containers import meaning
from isthmus.api.events import Events
from isthmus.api.routes import Api
from isthmus.api.server import Server
from isthmus.api.translate import rfc3339
from isthmus.config import Settings
from isthmus.containers.manager import Containers
from isthmus.containers.sources import Sources
from isthmus.drivers import BUILTIN
from isthmus.images.store import Images
from isthmus.lan import Call, Lan
from isthmus.names import Names

if TYPE_CHECKING:
    from isthmus.cluster.member import Member


async def serve(  # noqa: PLR0917 - all that has to do with clients
    held: contextlib.AsyncExitStack,
    settings: Settings,
    identity: str,
    call: Call,
    lan: Lan,
    member: "Member | None",
    names: Names,
    events: Events,
    sockets: Iterable[socket.socket],
) -> None:
    """Go on with the containers of before, and serve clients at *sockets*, until *held* is let go.

    This daemon's ID is its *identity*.
    """

    def in_use() -> Mapping[str, tuple[str, bool]]:
        return containers.using()

    store = Images(Path(settings.data_root) / "images", in_use, lambda: rfc3339(time.time_ns()))
    store.start()
    images = Sources(store)
    containers = Containers(
        call,
        lan,
        names.written,
        images,
        events.publish,
        time.time_ns,
        secrets.token_bytes,
        meaning,
        Path(settings.data_root),
        Path(settings.exec_root),
        runtime=settings.default_runtime,
    )
    await containers.start()
    held.push_async_callback(containers.close)
    lan.look()
    if member:
        member.start()
    about = this_machine(
        identity=identity,
        root=str(settings.data_root),
        pools=settings.default_address_pools,
        drivers=BUILTIN,
        warnings=settings.warnings,
    )
    server = Server(Api(call, lan, member, names.written, containers, images, store, events, about, time.time_ns))
    await server.start(*sockets)
    held.push_async_callback(server.close)
    held.callback(events.close)
