"""The routes: one table from method and path to a function of the request, and one place where errors become answers.

Every route exists under `/v1.24` to `/v1.52` and without a version, which means the newest. Where Docker's answers
differ between versions, the function that makes the shape knows. Routes of Docker's that are not ours answer 501 with a
sentence, those of its swarm 503 as on a node without one, and all others 404, each in Docker's form.

A route that changes something takes `?dry-run=1`; then it does nothing and answers with the commands that would do it.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

import msgspec
from msgspec import json
from msgspec.structs import replace

import isthmus
from isthmus.api import about as telling
from isthmus.api import body, container_routes, filters, image_routes, translate
from isthmus.api.about import NEWEST, OLDEST, About, dotted
from isthmus.api.events import Events, Listener
from isthmus.api.message import Request, Response, Version, answer, refusal
from isthmus.containers.manager import Containers, Images
from isthmus.dns.lookup import HOST_DOMAIN
from isthmus.engine import Engine
from isthmus.errors import (
    Busy,
    Forbidden,
    InvalidRequest,
    IsthmusError,
    NetworkNotFound,
    NotFound,
    NotImplementedHere,
    StoreUnavailable,
    leaves,
)
from isthmus.images.store import Images as Store
from isthmus.lan import Call, Lan
from isthmus.model import Network, pairs
from isthmus.names import Written
from isthmus.views import Event, NodeView, SandboxView

log = logging.getLogger("isthmus.api")

_T = TypeVar("_T")


class Members(Protocol):
    """What is asked of the hosts that share a store; see `cluster.member.Member`."""

    def nodes(self) -> Iterable[NodeView]:
        """All that are known."""

    async def rekey(self) -> None:
        """Begin to have another key."""


class Api:
    """The whole API as one callable: a `Request` in, a `Response` out, never an exception."""

    def __init__(  # noqa: PLR0917 - all that there is to ask
        self,
        call: Call,
        lan: Lan,
        members: Members | None,
        written: Written,
        containers: Containers,
        images: Images,
        store: Store,
        events: Events,
        about: About,
        clock: Callable[[], int],
    ) -> None:
        self.call = call
        self.lan = lan
        self.members = members
        self.containers = containers
        self.images = images
        self.store = store
        self.written = written
        self.events = events
        self.about = about
        self.clock = clock
        self.pruning = False
        self._common = {
            "Api-Version": dotted(NEWEST),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"Isthmus/{isthmus.__version__} (linux)",
        }

    def tell(self, kind: str, action: str, identity: str, attributes: dict[str, str]) -> None:
        """Have it among the events that something happened to what is none of the engine's."""
        self.events.publish(Event(kind, action, identity, pairs(attributes), self.clock()))

    async def __call__(self, request: Request) -> Response:
        """The answer to *request*."""
        try:
            handler, routed = _route(request)
            response = await handler(self, routed)
        except IsthmusError as error:
            response = refusal(error.status, str(error))
        except ExceptionGroup as group:
            response = _refusal_of_all(request, group)
        except Exception as error:  # noqa: BLE001 - the edge: what nobody foresaw is logged, and the client is told so
            response = _internal(request, error)
        headers = {**self._common, **response.headers}
        return Response(response.status, response.body, headers, response.stream, response.takeover)


Handler = Callable[[Api, Request], Awaitable[Response]]


def _refusal_of_all(request: Request, group: ExceptionGroup[Exception]) -> Response:
    """What a removal that went on after errors has to say: all of it, with the status of the first."""
    ours, others = group.split(IsthmusError)
    if ours is None or others is not None:
        return _internal(request, group)
    errors = list(leaves(ours))
    return refusal(errors[0].status, "\n".join(str(error) for error in errors))


def _internal(request: Request, error: Exception) -> Response:
    """The answer to a mistake of ours, of which the log tells all and the client nothing but where to look."""
    log.error("%s %r failed", request.method, request.path, exc_info=error)
    return refusal(500, f"internal error: {request.method} {request.path} failed, see the daemon's log")


# Routing.


class Route(msgspec.Struct, frozen=True):
    """One line of the table. A word in braces stands for one part of the path, `{name*}` for one or more."""

    method: str
    pattern: str
    handler: Handler
    since: Version = OLDEST

    @property
    def compiled(self) -> re.Pattern[str]:
        """The pattern as a regular expression with one group for each word in braces."""
        escaped = re.sub(r"\{\w+\*\}", "(.+)", re.sub(r"\{\w+\}", "([^/]+)", self.pattern))
        return re.compile(escaped, re.DOTALL)


_VERSIONED = re.compile(r"/v([0-9]{1,6}(?:\.[0-9]{1,6})*)(/.*)", re.DOTALL)


def _route(request: Request) -> tuple[Handler, Request]:
    """The handler for *request*, which then knows its version and the words of its path."""
    version, path = NEWEST, request.path
    if versioned := _VERSIONED.fullmatch(path):
        path = versioned[2]
        version = _supported(versioned[1])
    for pattern, route in _TABLE.get((request.method, _first_part(path)), ()):
        if (found := pattern.fullmatch(path)) and version >= route.since:
            return route.handler, replace(request, version=version, names=found.groups())
    return _not_found, request


def _first_part(path: str) -> str:
    return path[1:].partition("/")[0]


def _supported(text: str) -> Version:
    """The *text* of a version, if we speak it; Docker's refusals otherwise."""
    major, minor = (*(int(part) for part in text.split(".")), 0)[:2]
    if (major, minor) < OLDEST:
        raise InvalidRequest(
            f"client version {text} is too old. Minimum supported API version is {dotted(OLDEST)}, please upgrade your "
            "client to a newer version"
        )
    if (major, minor) > NEWEST:
        raise InvalidRequest(f"client version {text} is too new. Maximum supported API version is {dotted(NEWEST)}")
    return major, minor


async def _not_found(_api: Api, _request: Request) -> Response:
    return refusal(404, "page not found")


async def _change(
    api: Api,
    request: Request,
    work: Callable[[Engine], _T],
    then: Callable[[_T], Response],
    *,
    brief: bool = False,
    act: Callable[[], Awaitable[_T]] | None = None,
) -> Response:
    """Let the engine do *work* and answer as *then* says; or, if the client asks for that, tell what it would do.

    Where the wire has to be asked first, *act* does it all.
    """
    if request.flag("dry-run"):
        return answer(200, {"Plan": await api.call(lambda engine: engine.rehearse(work))})
    return then(await (act() if act else api.call(work, brief=brief)))


def _filters(request: Request, known: frozenset[str]) -> filters.Filters:
    return filters.parse(request.query.get("filters", ""), known)


# Of ourselves.


async def _ping(_api: Api, request: Request) -> Response:
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Builder-Version": "1",
        "Swarm": "inactive",
    }
    return Response(200, b"" if request.method == "HEAD" else b"OK", headers)


async def _version(api: Api, _request: Request) -> Response:
    return answer(200, telling.version(api.about))


async def _info(api: Api, request: Request) -> Response:
    sandboxes = await api.call(lambda engine: [one for one in engine.sandboxes() if not one.sandbox.container])
    running, paused, stopped = api.containers.counts()
    shape = telling.info(
        api.about,
        request.version,
        containers=(running + len(sandboxes), paused, stopped),
        images=len(await asyncio.to_thread(api.store.all)),
        runtime=api.containers.runtime,
        listeners=api.events.listeners,
        now=api.clock(),
    )
    return answer(200, shape)


async def _events(api: Api, request: Request) -> Response:
    """The events, as a stream that ends at *until*, or when the client goes away, or never."""
    now = api.clock()
    since, until = (
        filters.instant(key, request.query[key], now) if request.query.get(key) else None for key in ("since", "until")
    )
    if since is not None and until is not None and until < since:
        raise InvalidRequest(
            f"`since` time ({request.query['since']}) cannot be after `until` time ({request.query['until']})"
        )
    wanted = translate.wanted_event(_filters(request, translate.EVENT_FILTERS))
    from_past = since is not None or until is not None

    def past(event: Event) -> bool:
        return from_past and event.time >= (since or 0) and (until is None or event.time <= until)

    listener = api.events.listen(past)
    if until is not None and until <= now:
        listener.end()
    lasts = None if until is None else (until - now) / 10**9
    kinds = request.headers.get("accept", "")
    lines = "ndjson" in kinds or "*/*" in kinds
    stream = _EventStream(api.events, listener, wanted, lasts, request.version)
    headers = {"Content-Type": "application/x-ndjson" if lines else "application/json"}
    return Response(200, headers=headers, stream=stream)


class _EventStream:
    """Events as lines of JSON. It listens from the moment it is made, so a client misses nothing after our answer."""

    def __init__(
        self,
        events: Events,
        listener: Listener,
        wanted: Callable[[Event], bool],
        lasts: float | None,
        version: Version,
    ) -> None:
        self._events = events
        self._listener = listener
        self._wanted = wanted
        self._lasts = lasts
        self._version = version

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        ending = None if self._lasts is None else loop.call_later(max(0, self._lasts), self._listener.end)
        try:
            while (event := await self._listener.next()) is not None:
                if self._wanted(event):
                    yield json.encode(translate.event(event, self._version)) + b"\n"
        finally:
            if ending:
                ending.cancel()

    async def aclose(self) -> None:
        """Stop listening."""
        self._events.leave(self._listener)


# Networks, as Docker has them.


async def _networks(api: Api, request: Request) -> Response:
    wanted = translate.wanted_network(_filters(request, translate.NETWORK_FILTERS))
    views = filter(wanted, await api.call(lambda engine: engine.networks()))
    if request.version < (1, 28):
        return answer(200, [translate.network_inspect(view, request.version) for view in views])
    return answer(200, [translate.network_summary(view) for view in views])


async def _network(api: Api, request: Request) -> Response:
    (name,) = request.names
    verbose = request.query.get("verbose", "")
    if verbose not in {"", "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"}:
        raise InvalidRequest(
            f'invalid value for verbose: {verbose}: strconv.ParseBool: parsing "{verbose}": invalid syntax'
        )
    view = await api.call(lambda engine: engine.network(name), brief=True)
    if request.query.get("scope", view.network.scope) not in {"", view.network.scope}:
        raise NetworkNotFound(name)
    nodes = api.members.nodes() if api.members and request.flag("verbose") else ()
    return answer(200, translate.network_inspect(view, request.version, nodes))


async def _create_network(api: Api, request: Request) -> Response:
    create = body.decode(body.NetworkCreate, request.headers, request.body)
    wish = translate.network_request(create, request.version)
    return await _change(
        api,
        request,
        lambda engine: engine.create_network(wish),
        lambda made: answer(201, {"Id": made.id, "Warning": made.warning}),
        act=lambda: api.lan.create_network(wish),
    )


async def _check_network(api: Api, request: Request) -> Response:
    (name,) = request.names
    return answer(200, {"Findings": [translate.finding(found) for found in await api.lan.check(name)]})


async def _update_network(api: Api, request: Request) -> Response:
    (name,) = request.names
    update = translate.network_update(body.decode(body.NetworkUpdate, request.headers, request.body))
    return await _change(
        api,
        request,
        lambda engine: engine.update_network(name, update),
        lambda _: Response(204),
        act=lambda: api.lan.update_network(name, update),
    )


async def _remove_network(api: Api, request: Request) -> Response:
    (name,) = request.names
    return await _change(
        api,
        request,
        lambda engine: engine.remove_network(name),
        lambda _: Response(204),
        act=lambda: api.lan.remove_network(name),
    )


async def _connect(api: Api, request: Request) -> Response:
    (name,) = request.names
    connect = body.decode(body.NetworkConnect, request.headers, request.body)
    sandbox, wish = translate.named(connect.container), translate.endpoint_request(connect.endpoint_config)
    return await _change(
        api,
        request,
        lambda engine: engine.connect(name, sandbox, wish),
        lambda _: Response(200),
        act=lambda: container_routes.connect(
            api, name, sandbox, connect.endpoint_config, lambda: api.lan.connect(name, sandbox, wish)
        ),
    )


async def _disconnect(api: Api, request: Request) -> Response:
    (name,) = request.names
    disconnect = body.decode(body.NetworkDisconnect, request.headers, request.body)
    sandbox = translate.named(disconnect.container)

    # `Force` is for endpoints that outlived their container, which cannot be here.
    def work(engine: Engine) -> None:
        engine.disconnect(name, sandbox)

    return await _change(
        api,
        request,
        work,
        lambda _: Response(200),
        act=lambda: container_routes.disconnect(api, name, sandbox, lambda: api.call(work, brief=True)),
    )


async def _limit(api: Api, request: Request) -> Response:
    return await _change_endpoint(
        api, request, translate.rate_request(body.decode(body.NetworkRate, request.headers, request.body))
    )


async def _police(api: Api, request: Request) -> Response:
    return await _change_endpoint(
        api, request, translate.egress_request(body.decode(body.NetworkEgress, request.headers, request.body))
    )


async def _change_endpoint(api: Api, request: Request, wish: tuple[str, str, str]) -> Response:
    """Give an endpoint what is wished: of which sandbox, which option, and its value."""
    (name,) = request.names
    return await _change(api, request, lambda engine: engine.change(name, *wish), lambda _: Response(204), brief=True)


async def _prune_networks(api: Api, request: Request) -> Response:
    may_go = translate.prunable(_filters(request, translate.PRUNE_FILTERS), api.clock())

    def keep(network: Network) -> bool:
        return not may_go(network.created, dict(network.labels))

    return await _prune(
        api,
        request,
        lambda engine: engine.prune_networks(keep),
        "NetworksDeleted",
        act=lambda: api.lan.prune_networks(keep),
    )


async def _prune(
    api: Api,
    request: Request,
    work: Callable[[Engine], tuple[str, ...]],
    key: str,
    *,
    act: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
) -> Response:
    """Let *work*, or *act*, remove things, unless another pruning is under way; answer their names under *key*."""
    if api.pruning:
        raise Busy("a prune operation is already running")
    api.pruning = True
    try:
        return await _change(api, request, work, lambda names: answer(200, {key: names or None}), act=act)
    finally:
        api.pruning = False


# Sandboxes, as Docker's clients see them: as containers.


async def _volumes(_api: Api, _request: Request) -> Response:
    return answer(200, {"Volumes": [], "Warnings": None})


def _none_such(message: str) -> Handler:
    """A handler that has nothing of the name asked for: `docker inspect` asks for each kind of thing in turn."""

    async def handler(_api: Api, request: Request) -> Response:
        raise NotFound(message.format(*request.names))

    return handler


# Sandboxes, as they are.


async def _sandboxes(api: Api, request: Request) -> Response:
    wanted = translate.wanted_sandbox(_filters(request, translate.SANDBOX_FILTERS))
    views = await api.call(lambda engine: engine.sandboxes())
    return answer(200, [translate.sandbox(view) for view in views if wanted(view)])


async def _sandbox(api: Api, request: Request) -> Response:
    (name,) = request.names
    return answer(200, translate.sandbox(await api.call(lambda engine: engine.sandbox(name), brief=True)))


async def _create_sandbox(api: Api, request: Request) -> Response:
    create = body.decode(body.SandboxCreate, request.headers, request.body)
    wish, warnings = translate.sandbox_request(request.query.get("name", ""), create)
    container_routes.refuse_taken(api, wish.name)
    return await _change(
        api,
        request,
        lambda engine: engine.create_sandbox(wish),
        lambda made: answer(201, {"Id": made.id, "Warnings": [*warnings, *filter(None, [made.warning])]}),
        act=lambda: api.lan.create_sandbox(wish),
    )


async def _remove_sandbox(api: Api, request: Request) -> Response:
    (name,) = request.names
    container_routes.refuse_container(api, name)
    return await _change(api, request, lambda engine: engine.remove_sandbox(name), lambda _: Response(204), brief=True)


async def _write_files(api: Api, request: Request) -> Response:
    (name,) = request.names
    view = await api.call(lambda engine: engine.sandbox(name), brief=True)
    return answer(200, translate.files(api.written.files(view.sandbox.netns)))


async def _prune_sandboxes(api: Api, request: Request) -> Response:
    """Remove the sandboxes that serve nobody: in a namespace that no other one shares, and with nothing in it."""
    may_go = translate.prunable(_filters(request, translate.PRUNE_FILTERS), api.clock())

    def work(engine: Engine) -> tuple[str, ...]:
        views = engine.sandboxes()
        shared = [view.sandbox.netns for view in views]
        gone = []
        for view in views:
            idle = shared.count(view.sandbox.netns) == 1 and _is_empty(engine, view)
            if idle and not view.sandbox.container and may_go(view.sandbox.created, dict(view.sandbox.labels)):
                engine.remove_sandbox(view.sandbox.id)
                gone.append(view.sandbox.name)
        return tuple(gone)

    return await _prune(api, request, work, "SandboxesDeleted")


def _is_empty(engine: Engine, view: SandboxView) -> bool:
    """Whether nothing is in the namespace that we put there; to be on `none` is to have nothing."""
    return all(one.network.driver == "null" for one in view.endpoints) and not engine.links(view.sandbox.id)


async def _ports(api: Api, request: Request) -> Response:
    (name,) = request.names
    view = await api.call(lambda engine: engine.sandbox(name), brief=True)
    return answer(200, translate.ports(view.ports))


async def _publish(api: Api, request: Request) -> Response:
    (name,) = request.names
    wishes = translate.publish_request(body.decode(body.Ports, request.headers, request.body))
    return await _change(
        api,
        request,
        lambda engine: engine.publish(name, wishes),
        lambda views: answer(200, translate.ports(views)),
        brief=len(wishes) <= _BRIEF,
    )


async def _unpublish(api: Api, request: Request) -> Response:
    (name,) = request.names
    wishes = translate.publish_request(body.decode(body.Ports, request.headers, request.body))
    return await _change(
        api,
        request,
        lambda engine: engine.unpublish(name, wishes),
        lambda _: Response(204),
        brief=len(wishes) <= _BRIEF,
    )


_BRIEF = 8
"""Up to how many ports can be changed while the loop waits."""


async def _links(api: Api, request: Request) -> Response:
    (name,) = request.names
    return answer(200, [translate.link(view) for view in await api.call(lambda engine: engine.links(name), brief=True)])


async def _add_link(api: Api, request: Request) -> Response:
    (name,) = request.names
    wish = translate.link_request(body.decode(body.LinkCreate, request.headers, request.body))
    return await _change(
        api,
        request,
        lambda engine: engine.add_link(name, wish),
        lambda view: answer(201, {"Name": view.name, "PeerName": view.peer}),
    )


async def _remove_link(api: Api, request: Request) -> Response:
    name, link = request.names
    return await _change(api, request, lambda engine: engine.remove_link(name, link), lambda _: Response(204))


async def _nodes(api: Api, request: Request) -> Response:
    """The hosts that share a store, as Docker shows the nodes of a swarm."""
    if api.members is None:
        return await _no_swarm(api, request)
    return answer(200, [translate.node(one) for one in api.members.nodes()])


async def _rekey(api: Api, _request: Request) -> Response:
    """Have this host get another key; it is in use when the others know it."""
    if api.members is None:
        raise Forbidden("this host shares no store with others, so it has no key to replace")
    await api.members.rekey()
    return Response(204)


async def _names(api: Api, _request: Request) -> Response:
    return answer(200, translate.names(api.written.directory.all_names()))


async def _name(api: Api, request: Request) -> Response:
    """What a name stands for: NAME.NETWORK, with or without `.isthmus` behind it."""
    (name,) = request.names
    asked = name.lower().removesuffix(".").removesuffix(f".{HOST_DOMAIN}")
    found = api.written.directory.find_on_host(asked)
    if found is None:
        raise NotFound(f"no such name: {name}; ask for NAME.NETWORK, of which `isthmus dns` shows all")
    return answer(200, {"Name": f"{asked}.{HOST_DOMAIN}", "Addresses": list(map(str, found))})


async def _nat(api: Api, _request: Request) -> Response:
    return answer(200, translate.nat(await api.call(lambda engine: engine.nat())))


# Docker's, and not ours.


async def _not_ours(_api: Api, request: Request) -> Response:
    raise NotImplementedHere(
        f"{request.method} {request.path} is not part of Isthmus, which runs containers on networks, and neither "
        "builds images nor keeps volumes: use a container engine beside it for that"
    )


async def _no_swarm(_api: Api, _request: Request) -> Response:
    raise StoreUnavailable("This node is not part of a swarm")


ROUTES = (
    Route("GET", "/_ping", _ping),
    Route("HEAD", "/_ping", _ping),
    Route("GET", "/version", _version),
    Route("GET", "/info", _info),
    Route("GET", "/events", _events),
    Route("GET", "/networks", _networks),
    Route("GET", "/networks/", _networks),
    Route("GET", "/networks/{name}/check", _check_network),
    Route("GET", "/networks/{name*}", _network),
    Route("POST", "/networks/create", _create_network),
    Route("POST", "/networks/prune", _prune_networks, since=(1, 25)),
    Route("POST", "/networks/{name*}/connect", _connect),
    Route("POST", "/networks/{name*}/disconnect", _disconnect),
    Route("POST", "/networks/{name*}/egress", _police),
    Route("POST", "/networks/{name*}/rate", _limit),
    Route("POST", "/networks/{name*}/update", _update_network),
    Route("DELETE", "/networks/{name*}", _remove_network),
    *(Route(*row) for row in container_routes.ROWS),
    *(Route(*row) for row in image_routes.ROWS),
    Route("GET", "/volumes", _volumes),
    Route("GET", "/volumes/{name}", _none_such("get {}: no such volume")),
    Route("GET", "/plugins/{name*}/json", _none_such('plugin "{}" not found')),
    Route("GET", "/sandboxes", _sandboxes),
    Route("GET", "/sandboxes/{name}", _sandbox),
    Route("POST", "/sandboxes/create", _create_sandbox),
    Route("POST", "/sandboxes/prune", _prune_sandboxes),
    Route("DELETE", "/sandboxes/{name}", _remove_sandbox),
    Route("GET", "/sandboxes/{name}/ports", _ports),
    Route("POST", "/sandboxes/{name}/ports", _publish),
    Route("POST", "/sandboxes/{name}/ports/remove", _unpublish),
    Route("POST", "/sandboxes/{name}/files", _write_files),
    Route("GET", "/sandboxes/{name}/links", _links),
    Route("POST", "/sandboxes/{name}/links", _add_link),
    Route("DELETE", "/sandboxes/{name}/links/{link}", _remove_link),
    Route("GET", "/nat", _nat),
    Route("GET", "/nodes", _nodes),
    Route("POST", "/nodes/rekey", _rekey),
    Route("GET", "/names", _names),
    Route("GET", "/names/{name}", _name),
)
"""What we do; the first line that fits is taken."""

SWARM = """
/swarm GET; /swarm/unlockkey GET; /swarm/init POST; /swarm/join POST; /swarm/leave POST; /swarm/update POST
/swarm/unlock POST; /nodes/{id} GET DELETE; /nodes/{id}/update POST; /services GET; /services/create POST
/services/{id} GET DELETE; /services/{id}/update POST; /services/{id}/logs GET; /tasks GET; /tasks/{id} GET
/tasks/{id}/logs GET; /secrets GET; /secrets/create POST; /secrets/{id} GET DELETE; /secrets/{id}/update POST
/configs GET; /configs/create POST; /configs/{id} GET DELETE; /configs/{id}/update POST
"""
"""What needs a swarm: each path with its methods."""

OTHERS = """
/auth POST; /build POST; /build/prune POST; /build/cancel POST; /session POST; /grpc POST; /commit POST
/system/df GET; /distribution/{name*}/json GET
/containers/{id}/archive HEAD GET PUT; /containers/{id}/export GET; /containers/{id}/changes GET
/containers/{id}/stats GET; /containers/{id}/attach/ws GET
/images/search GET; /images/get GET; /images/{name*}/get GET
/volumes/create POST; /volumes/prune POST; /volumes/{name} PUT DELETE
/plugins GET; /plugins/privileges GET; /plugins/pull POST; /plugins/create POST; /plugins/{name*} DELETE
/plugins/{name*}/enable POST; /plugins/{name*}/disable POST; /plugins/{name*}/push POST
/plugins/{name*}/upgrade POST; /plugins/{name*}/set POST
"""
"""The rest of Docker's API."""


def _foreign(paths: str, handler: Handler) -> Iterable[Route]:
    for entry in paths.replace("\n", ";").split(";"):
        path, *methods = entry.split() or [""]
        for method in methods:
            yield Route(method, path, handler)


def _table(routes: Iterable[Route]) -> dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]]:
    """The *routes* by method and first part of the path, so that finding one takes a few comparisons."""
    table: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
    for route in routes:
        table.setdefault((route.method, _first_part(route.pattern)), []).append((route.compiled, route))
    return table


_TABLE = _table((*ROUTES, *_foreign(SWARM, _no_swarm), *_foreign(OTHERS, _not_ours)))
