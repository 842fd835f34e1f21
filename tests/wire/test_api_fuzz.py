"""The API under fire: random methods, paths, queries, headers and bodies, made from the routes and the shapes.

Whatever comes, the answer is a documented one: never an error of ours for bad input, never a traceback, and a request
that is refused leaves the kernel and the store as they were. Requests come to one engine in small groups, so that they
meet what earlier ones made.
"""

import json
from typing import TypeVar, get_args, get_origin

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.api import body as bodies
from isthmus.api.message import Request, Response
from isthmus.api.routes import ROUTES
from tests.wire.api_world import World

T = TypeVar("T")

NAMES = ("front", "back", "web", "side", "bridge")
SUBNETS = ("10.5.0.0/24", "10.6.0.0/30", "10.7.0.0/24", "fd00:5::/64", "0.0.0.0/24", "10.5.0.128/25")
ADDRESSES = ("10.5.0.1", "10.5.0.9", "10.6.0.2", "fd00:5::9", "")
FIELDS = {
    "Name": (*NAMES, "new", "eth7"),
    "Container": ("web", "side"),
    "Driver": ("bridge", "", "default"),
    "Scope": ("local", ""),
    "Network": ("", "front"),
    "Subnet": SUBNETS,
    "IPRange": ("", *SUBNETS),
    "Gateway": ADDRESSES,
    "IPv4Address": ADDRESSES,
    "IPv6Address": ("", "fd00:5::9"),
    "MacAddress": ("", "02:00:00:00:00:01"),
    "NetworkMode": (*NAMES, "host", "none", "default", "container:web"),
    "Type": ("veth", "veth", "macvlan"),
    "Destination": ("default", "10.20.0.0/16"),
    "Hostname": ("", "www"),
    "Domainname": ("",),
    "Master": ("", "front"),
}
"""What a sensible client would say in a field: such requests come through, and later ones meet their work."""

PLAUSIBLE = (
    *(*NAMES, *SUBNETS, *ADDRESSES, "host", "none", "default", "container:web", "10.9.0.2/24", "x", "veth", "eth0"),
    *("02:00:00:00:00:01", "true", "false", "nat", "routed", "isolated", "65536", "-1", "null"),
)
OPTIONS = (
    "com.docker.network.bridge.name",
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.enable_icc",
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.driver.mtu",
    "com.docker.network.endpoint.ifname",
    "com.docker.network.endpoint.sysctls",
    "com.docker.network.nonsense",
    "net.ipv4.conf.all.forwarding",
)
HOSTILE = (
    "\0",
    "../../etc",
    "a/b",
    "\ud800",
    "x" * 300,
    "%s%n",
    "'; drop",
    "\n",
    "é",
    "0" * 5000,
    "::ffff:1.2.3.4",
    "{{}}",
)
SENTENCES = {
    500: ("no available IP", "is not connected to the network", "the kernel refused"),
    501: ("is not part of Isthmus", "not supported", "is a sandbox"),
    503: ("This node is not part of a swarm",),
}
"""The beginnings, or parts, of all that may be answered with such a status."""

texts = st.sampled_from(PLAUSIBLE) | st.sampled_from(HOSTILE) | st.text(max_size=8)
keys = st.sampled_from(OPTIONS) | texts
junk: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def values(kind: object, name: str = "") -> st.SearchStrategy[object]:
    """JSON for the field *name* of a *kind*: mostly right, now and then null or something else."""
    right: st.SearchStrategy[object]
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        right = shapes(origin)
    elif origin is list:
        right = st.lists(values(get_args(kind)[0], name), max_size=2)
    elif origin is dict:
        wanted = st.sampled_from(NAMES) if name == "EndpointsConfig" else keys
        right = st.dictionaries(wanted, values(get_args(kind)[1]), max_size=2)
    elif origin is str:
        right = often(st.sampled_from(FIELDS.get(name, PLAUSIBLE)), texts)
    elif origin is bool:
        right = often(st.sampled_from((False,)), st.booleans())
    elif bool in get_args(kind):
        right = st.none() | st.booleans()
    else:
        right = often(st.integers(0, 9000), st.integers(-(2**70), 2**70))
    return often(right, st.none() | junk)


def often(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """*usual*, and in one of a dozen cases *other*."""
    return st.integers(0, 11).flatmap(lambda number: other if number == 11 else usual)


def shapes(struct: type[msgspec.Struct]) -> st.SearchStrategy[object]:
    """JSON with the names and some of the other fields of *struct*."""
    fields = {one.encode_name: values(one.type, one.encode_name) for one in msgspec.structs.fields(struct)}
    needed = {key: fields.pop(key) for key in ("Name", "Container", "Type") if key in fields}
    return (
        st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True).flatmap(
            lambda chosen: st.fixed_dictionaries(needed | {key: fields[key] for key in chosen})
        )
        if fields
        else st.fixed_dictionaries(needed)
    )


def encoded(value: object) -> bytes:
    """*value* as JSON, in which even half of a surrogate pair can be said."""
    return json.dumps(value).encode()


BODIES = {
    "/networks/create": shapes(bodies.NetworkCreate),
    "/networks/{name*}/connect": shapes(bodies.NetworkConnect),
    "/networks/{name*}/update": shapes(bodies.NetworkUpdate),
    "/networks/{name*}/disconnect": shapes(bodies.NetworkDisconnect),
    "/sandboxes/create": shapes(bodies.SandboxCreate),
    "/sandboxes/{name}/links": shapes(bodies.LinkCreate),
}
FILTERS = (
    st.sampled_from(('{"type":["custom"]}', '{"label":{"a=b":true}}', '{"until":["1h"]}', "{", "[]"))
    | st.dictionaries(st.sampled_from(("name", "label!", "until", "dangling", "network", "x")), junk).map(json.dumps)
    | st.dictionaries(st.sampled_from(("id", "label", "until", "type", "status")), st.lists(texts)).map(json.dumps)
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "filters": FILTERS,
        "dry-run": st.sampled_from(("1", "0", "x")),
        "verbose": texts,
        "scope": texts,
        "limit": texts,
        "since": st.sampled_from(("0", "1h", "-5")) | texts,
        "force": texts,
    },
)
CHANGES = tuple(route for route in ROUTES if route.method in {"POST", "DELETE"})
VERSIONS = st.sampled_from(
    ("",) * 30 + ("/v1.24", "/v1.44", "/v1.52", "/v1.53", "/v0", "/v1." + "9" * 40, "/v.", "/v1.2.3")
)
HEADERS = st.sampled_from(
    ({"content-type": "application/json"},) * 40
    + ({}, {"content-type": "text/plain"}, {"content-type": "\udcff"}, {"content-type": "application/json; charset=x"})
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request to one of our routes, or now and then to nobody's."""
    route = draw(st.sampled_from(ROUTES) | st.sampled_from(CHANGES))
    method = draw(st.sampled_from((route.method,) * 12 + ("GET", "POST", "DELETE", "HEAD", "PATCH", "")))
    path = route.pattern
    for word, plausible in (("{name*}", NAMES), ("{name}", ("web", "side")), ("{link}", ("eth7", "eth1"))):
        path = path.replace(word, str(draw(often(st.sampled_from(plausible), texts))))
    path = draw(VERSIONS) + draw(st.sampled_from((path,) * 20 + ("/" + path, path + "/", path[1:], path.upper())))
    # A stream of events that nothing ends would have to be waited for.
    query = {"until": "1", "name": str(draw(often(st.sampled_from(("side", "new", "web")), texts)))}
    query |= draw(often(st.just({}), QUERIES)) if route in CHANGES else draw(QUERIES)
    spoilt = st.none() | st.binary(max_size=9)
    body = draw(often(BODIES[route.pattern].map(encoded), spoilt) if route.pattern in BODIES else spoilt)
    return Request(method, path, query, draw(HEADERS), body)


def state(world: World) -> tuple[str, dict[str, bytes]]:
    """All that the kernel holds and all that is recorded."""
    return str(world.kernel), dict(world.store.read().items)


def check(asked: Request, response: Response) -> None:
    """Whether *response* is one of those that are documented."""
    if response.status >= 400:
        shape = msgspec.json.decode(response.body)
        assert set(shape) == {"message"}
        message = shape["message"]
        assert isinstance(message, str)
        assert "Traceback" not in message
        assert "internal error" not in message, asked
        if response.status >= 500:
            assert any(part in message for part in SENTENCES[response.status]), message
    elif response.stream is None and response.body and asked.path != "/_ping":
        msgspec.json.decode(response.body) if response.headers["Content-Type"] == "application/json" else None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(requests(), min_size=1, max_size=8))
def test_whatever_is_asked_the_answer_is_a_documented_one(asked: list[Request]) -> None:
    """A refused request leaves the world as it was, and so do reading and rehearsing."""
    with World() as world:
        world.ask(
            "POST", "/networks/create", {"Name": "front", "IPAM": {"Config": [{"Subnet": "10.5.0.0/24"}]}}, expect=201
        )
        world.ask("POST", "/sandboxes/create", {"HostConfig": {"NetworkMode": "front"}}, expect=201, name="web")
        for one in asked:
            before = state(world)
            response = world.answer(one)
            check(one, response)
            if response.stream is not None:
                world.run(response.stream.aclose())
            if response.status >= 400 or one.method not in {"POST", "DELETE"} or one.flag("dry-run"):
                assert state(world) == before, one


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(BODIES)), junk)
def test_any_json_at_all_is_answered_with_a_sentence(pattern: str, body: object) -> None:
    """Bodies that have nothing in common with what a route wants."""
    with World() as world:
        before = state(world)
        path = pattern.replace("{name*}", "bridge").replace("{name}", "web")
        asked = Request("POST", path, {}, {"content-type": "application/json"}, encoded(body))
        response = world.answer(asked)
        check(asked, response)
        assert response.status < 400 or state(world) == before
