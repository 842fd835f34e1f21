"""The API without a socket, on a real engine: every route, its statuses, its words, and what it leaves behind."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from isthmus.api.events import BACKLOG, KEPT
from isthmus.api.message import Request, Response
from isthmus.api.routes import ROUTES, Route
from isthmus.engine import Engine
from isthmus.errors import Busy, NetworkNotFound
from isthmus.model import pairs
from isthmus.views import Event
from tests.wire.api_world import START, World, filters, request

T = TypeVar("T")

SECOND = 10**9


@pytest.fixture
def world() -> Iterator[World]:
    """An engine with nothing but the predefined networks."""
    with World() as one:
        yield one


def create(world: World, name: str = "front", subnet: str = "10.5.0.0/24", **fields: object) -> str:
    """Make a network; its ID."""
    body = {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}} | fields
    return str(world.ask("POST", "/networks/create", body, expect=201)["Id"])


def sandbox(world: World, name: str = "web", mode: str = "none", **fields: object) -> str:
    """Make a sandbox; its ID."""
    body = {"HostConfig": {"NetworkMode": mode}} | fields
    return str(world.ask("POST", "/sandboxes/create", body, expect=201, name=name)["Id"])


def names(shapes: list[dict[str, object]]) -> list[object]:
    """The names in a list."""
    return [shape["Name"] for shape in shapes]


# Versions and routing.


def test_ping_tells_what_clients_negotiate_with(world: World) -> None:
    """The docker client decides by these headers how it talks to us."""
    response = world.answer(request("GET", "/_ping"))
    assert (response.status, response.body) == (200, b"OK")
    assert response.headers["Api-Version"] == "1.52"
    assert response.headers["Ostype"] == "linux"
    assert response.headers["Docker-Experimental"] == "false"
    assert response.headers["Swarm"] == "inactive"
    assert response.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert response.headers["Server"].startswith("Isthmus/")
    assert world.answer(request("HEAD", "/_ping")).body == b""


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.52"])
def test_every_version_from_1_24_to_1_52_is_spoken(world: World, version: str) -> None:
    """Old clients name the only version they know."""
    assert names(world.ask("GET", f"/v{version}/networks")) == ["host", "none", "bridge"]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1.53", "client version 1.53 is too new. Maximum supported API version is 1.52"),
        ("2", "client version 2 is too new. Maximum supported API version is 1.52"),
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, "),
    ],
)
def test_other_versions_are_refused_in_dockers_words(world: World, version: str, message: str) -> None:
    """The user reads them in the client's error and knows what to upgrade."""
    assert world.refused(400, "GET", f"/v{version}/networks").startswith(message)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/nonsense"), ("PUT", "/networks/x"), ("GET", "/v1.x/networks"), ("HEAD", "/networks")],
)
def test_what_is_nobodys_route_is_not_found(world: World, method: str, path: str) -> None:
    """Docker answers the same to an unknown path and to an unknown method."""
    assert world.refused(404, method, path) == "page not found"


def test_dockers_other_routes_say_what_to_use_instead(world: World) -> None:
    """Someone who runs `docker build` against us should learn why it cannot work."""
    assert "neither builds images nor keeps volumes" in world.refused(501, "POST", "/v1.50/build")
    assert "not part of Isthmus" in world.refused(501, "GET", "/containers/web/archive")


def test_swarms_routes_answer_as_on_a_node_without_one(world: World) -> None:
    """Clients take exactly this for "no swarm" and go on."""
    for path in ("/swarm", "/services", "/nodes/self"):
        assert world.refused(503, "GET", path) == "This node is not part of a swarm"


def test_version_and_info_have_what_clients_print(world: World) -> None:
    """`docker version` and `docker info` fall over what is missing."""
    version = world.ask("GET", "/version")
    assert version["ApiVersion"] == "1.52"
    assert version["MinAPIVersion"] == "1.24"
    assert version["Components"][0]["Name"] == "Engine"
    info = world.ask("GET", "/info")
    assert info["Plugins"]["Network"] == ["bridge", "host", "null"]
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert info["DefaultAddressPools"][0] == {"Base": "172.17.0.0/16", "Size": 16}
    assert info["FirewallBackend"] == {"Driver": "nftables"}
    assert "FirewallBackend" not in world.ask("GET", "/v1.48/info")


def test_what_we_never_have_is_an_empty_list(world: World) -> None:
    """`docker images`, `docker volume ls` and `docker inspect` look there."""
    assert world.ask("GET", "/images/json") == []
    assert world.ask("GET", "/volumes") == {"Volumes": [], "Warnings": None}
    assert world.refused(404, "GET", "/images/web/json") == "No such image: web:latest"


# Networks.


def test_a_network_is_created_listed_inspected_and_removed(world: World) -> None:
    """The life of a network, as any client walks through it."""
    identity = create(world)
    assert names(world.ask("GET", "/networks/")) == ["host", "none", "bridge", "front"]
    shape = world.ask("GET", "/networks/front")
    assert (shape["Id"], shape["Containers"]) == (identity, {})
    assert world.ask("GET", f"/networks/{identity[:12]}")["Name"] == "front"
    assert world.ask("DELETE", "/networks/front", expect=204) is None
    assert world.refused(404, "DELETE", "/networks/front") == "network front not found"


def test_creating_answers_the_id_and_a_warning(world: World) -> None:
    """docker-py reads `Warning`, and an absent one is not an empty one."""
    answer = world.ask("POST", "/networks/create", {"Name": "n"}, expect=201)
    assert set(answer) == {"Id", "Warning"}
    assert answer["Warning"] == ""


def test_a_network_is_updated(world: World) -> None:
    """A route of ours: it says what shall be set, and what shall go; the rest stays."""
    create(world, Labels={"tier": "one", "old": "yes"})
    body = {"Labels": {"tier": "two"}, "RemoveLabels": ["old"], "Options": {"isthmus.probe": "off"}}
    assert world.ask("POST", "/networks/front/update", body, expect=204) is None
    shown = world.ask("GET", "/networks/front")
    assert (shown["Labels"], shown["Options"]) == ({"tier": "two"}, {"isthmus.probe": "off"})
    assert "of a bridge network that exists" in world.refused(
        400, "POST", "/networks/front/update", {"Options": {"isthmus.uplink": "eth9"}}
    )
    assert world.refused(404, "POST", "/networks/nothing/update", {}) == "network nothing not found"


def test_a_list_has_containers_only_before_1_28(world: World) -> None:
    """Since then clients inspect a network to learn who is on it."""
    create(world)
    sandbox(world, mode="front")
    assert "Containers" not in world.ask("GET", "/v1.28/networks")[-1]
    (container,) = world.ask("GET", "/v1.27/networks")[-1]["Containers"].values()
    assert container["Name"] == "web"


def test_status_is_told_from_1_52_on(world: World) -> None:
    """Older clients do not know the field."""
    create(world)
    status = world.ask("GET", "/v1.52/networks/front")["Status"]
    assert status == {"IPAM": {"Subnets": {"10.5.0.0/24": {"IPsInUse": 3, "DynamicIPsAvailable": 253}}}}
    assert "Status" not in world.ask("GET", "/v1.51/networks/front")


def test_ipv4_can_be_switched_off_from_1_48_on(world: World) -> None:
    """Before, the key had no meaning and was passed over."""
    body = {"Name": "n", "EnableIPv4": False, "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd00:1::/64"}]}}
    world.ask("POST", "/v1.48/networks/create", body, expect=201)
    world.ask("POST", "/v1.47/networks/create", body | {"Name": "m", "EnableIPv6": False}, expect=201)
    assert [world.ask("GET", f"/networks/{name}")["EnableIPv4"] for name in "nm"] == [False, True]


def test_a_slash_in_a_name_is_part_of_it(world: World) -> None:
    """Docker's routes take it so, and names with slashes are about."""
    create(world, "team/front")
    sandbox(world)
    assert world.ask("GET", "/networks/team/front")["Name"] == "team/front"
    assert world.refused(500, "POST", "/networks/team/front/disconnect", {"Container": "web"}).startswith("container ")
    world.ask("DELETE", "/networks/team/front", expect=204)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"Name": ""}, "invalid name: name is empty"),
        (403, {"Name": "bridge"}, "operation is not permitted on predefined bridge network "),
        (409, {"Name": "front"}, "network with name front already exists"),
        (
            400,
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.9.0.1/24"}]}},
            "invalid network config:\ninvalid subnet 10.9.0.1/24: it should be 10.9.0.0/24",
        ),
        (
            403,
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.5.0.0/16"}]}},
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
    ],
)
def test_what_docker_refuses_is_refused_in_its_words(
    world: World, status: int, body: dict[str, object], message: str
) -> None:
    """Tools compare statuses, people search for the words."""
    create(world)
    assert world.refused(status, "POST", "/networks/create", body) == message


def test_the_query_of_inspect_is_checked(world: World) -> None:
    """`?verbose=` takes what Go takes for a boolean; `?scope=` narrows the search."""
    world.ask("GET", "/networks/bridge", verbose="true", scope="local")
    assert world.refused(400, "GET", "/networks/bridge", verbose="maybe").startswith("invalid value for verbose: maybe")
    assert world.refused(404, "GET", "/networks/bridge", scope="swarm") == "network bridge not found"


def test_lists_are_filtered(world: World) -> None:
    """`docker network ls --filter`."""
    create(world, Labels={"tier": "one"})
    create(world, "back", "10.6.0.0/24")
    sandbox(world, mode="back")
    assert names(world.ask("GET", "/networks", filters=filters(type="custom"))) == ["front", "back"]
    assert names(world.ask("GET", "/networks", filters=filters(label="tier=one"))) == ["front"]
    assert names(world.ask("GET", "/networks", filters=filters(dangling="true"))) == ["front"]
    assert world.refused(400, "GET", "/networks", filters=filters(nonsense="x")) == "invalid filter 'nonsense'"
    assert world.refused(400, "GET", "/networks", filters=filters(type="x")) == "invalid filter: 'type'='x'"
    assert world.refused(400, "GET", "/networks", filters="{") == "invalid filter"


def test_pruning_removes_idle_networks_that_the_filters_let_go(world: World) -> None:
    """And never a predefined one, nor one in use; without anything to remove the list is null."""
    create(world, Labels={"keep": ""})
    create(world, "back", "10.6.0.0/24")
    create(world, "used", "10.7.0.0/24")
    sandbox(world, mode="used")
    assert world.ask("POST", "/networks/prune", filters=filters(label_not="keep")) == {"NetworksDeleted": ["back"]}
    assert world.ask("POST", "/networks/prune", filters=filters(until="100h")) == {"NetworksDeleted": None}
    assert world.refused(400, "POST", "/networks/prune", filters=filters(name="x")) == "invalid filter 'name'"
    assert world.refused(404, "POST", "/v1.24/networks/prune") == "page not found"
    assert names(world.ask("GET", "/networks", filters=filters(type="custom"))) == ["front", "used"]


def test_one_pruning_at_a_time(world: World) -> None:
    """Docker refuses the second; here it would find nothing, and its client would believe that."""
    world.api.pruning = True
    assert world.refused(409, "POST", "/networks/prune") == str(Busy("a prune operation is already running"))
    world.api.pruning = False
    world.ask("POST", "/networks/prune")


def test_a_sandbox_is_connected_and_disconnected(world: World) -> None:
    """With all that a client may ask of the place; the answers have no body."""
    create(world)
    sandbox(world, mode="bridge")
    config = {
        "IPAMConfig": {"IPv4Address": "10.5.0.9"},
        "Aliases": ["w"],
        "MacAddress": "02:00:00:00:00:07",
        "GwPriority": 5,
    }
    body = {"Container": "web", "EndpointConfig": config}
    assert world.answer(request("POST", "/networks/front/connect", body)).body == b""
    place = world.ask("GET", "/containers/web/json")["NetworkSettings"]["Networks"]["front"]
    assert (place["IPAddress"], place["MacAddress"], place["GwPriority"]) == ("10.5.0.9", "02:00:00:00:00:07", 5)
    assert place["DNSNames"][:2] == ["web", "w"]
    assert world.refused(403, "POST", "/networks/front/connect", body) == (
        "endpoint with name web already exists in network front"
    )
    assert world.answer(request("POST", "/networks/front/disconnect", {"Container": "web", "Force": True})).body == b""
    assert set(world.ask("GET", "/sandboxes/web")["Networks"]) == {"bridge"}
    assert world.refused(404, "POST", "/networks/front/connect", {"Container": "nobody"}) == "No such container: nobody"
    assert world.refused(400, "POST", "/networks/front/connect", {}) == 'invalid name or ID supplied: ""'


@pytest.mark.parametrize("path", ["/networks/create", "/networks/bridge/connect", "/networks/bridge/disconnect"])
def test_the_hygiene_of_requests_is_dockers(world: World, path: str) -> None:
    """The cases of moby's own test of these routes."""
    json = {"content-type": "application/json"}

    def message(headers: dict[str, str], body: bytes | None) -> tuple[int, str]:
        response = world.answer(Request("POST", path, {}, headers, body))
        return response.status, msgspec.json.decode(response.body)["message"]

    assert message({"content-type": "text/plain"}, b"{}") == (
        400,
        "unsupported Content-Type header (text/plain): must be 'application/json'",
    )
    assert message(json, b"{invalid json") == (
        400,
        "invalid JSON: invalid character 'i' looking for beginning of object key string",
    )
    assert message(json, b"{} trailing content") == (400, "unexpected content after JSON")
    assert message(json, None)[0] == 400


# Sandboxes.


def test_sandboxes_are_containers_to_dockers_clients(world: World) -> None:
    """`docker ps` and `docker inspect` show them, the newest first."""
    create(world)
    first = sandbox(world, mode="front", Labels={"tier": "one"})
    sandbox(world, "side", "container:web")
    listed = world.ask("GET", "/containers/json", all="1")
    assert [shape["Names"] for shape in listed] == [["/side"], ["/web"]]
    assert listed[1]["NetworkSettings"]["Networks"]["front"]["IPAddress"] == "10.5.0.2"
    assert [one["Id"] for one in world.ask("GET", "/containers/json", filters=filters(network="front"))] == [first]
    assert [one["Id"] for one in world.ask("GET", "/containers/json", filters=filters(label="tier"))] == [first]
    assert len(world.ask("GET", "/containers/json", limit="1")) == 1
    assert world.ask("GET", "/containers/json", filters=filters(status="exited")) == []
    assert world.refused(400, "GET", "/containers/json", filters=filters(status="x")) == "invalid filter 'status=[x]'"
    shape = world.ask("GET", f"/containers/{first[:12]}/json")
    assert (shape["Name"], shape["State"]["Status"], shape["HostConfig"]["NetworkMode"]) == ("/web", "running", "front")
    assert world.refused(404, "GET", "/containers/nobody/json") == "No such container: nobody"


def test_what_was_said_of_names_is_shown_and_in_the_files(world: World) -> None:
    """By Docker's keys for Docker's clients; whoever runs something in the sandbox mounts the files."""
    said = {
        "Dns": ["192.0.2.1"],
        "DnsOptions": ["ndots:1"],
        "DnsSearch": ["a.example"],
        "ExtraHosts": ["far:192.0.2.7"],
    }
    body = {"Hostname": "www", "Domainname": "a.example", "HostConfig": said}
    world.ask("POST", "/sandboxes/create", body, expect=201, name="web")
    shown = world.ask("GET", "/containers/web/json")
    assert {key: shown["HostConfig"][key] for key in said} == said
    assert shown["Config"]["Domainname"] == "a.example"
    assert {key: world.ask("GET", "/sandboxes/web")[key] for key in said} == said
    files = world.ask("POST", "/sandboxes/web/files")
    assert "nameserver 192.0.2.1\nsearch a.example\noptions ndots:1\n" in Path(files["ResolvConfPath"]).read_text()
    assert "192.0.2.7\tfar\n172.17.0.2\twww.a.example www\n" in Path(files["HostsPath"]).read_text()
    assert Path(files["HostnamePath"]).read_text() == "www\n"
    assert "No such container" in world.refused(404, "POST", "/sandboxes/nobody/files")


def test_a_sandbox_is_created_listed_inspected_and_removed(world: World) -> None:
    """The life of a sandbox, through the routes of its own."""
    create(world)
    body = {
        "Hostname": "www",
        "HostConfig": {"NetworkMode": "front"},
        "NetworkingConfig": {"EndpointsConfig": {"front": {"IPAMConfig": {"IPv4Address": "10.5.0.9"}}}},
    }
    made = world.ask("POST", "/v1.50/sandboxes/create", body, expect=201, name="web")
    assert made == {"Id": made["Id"], "Warnings": []}
    (listed,) = world.ask("GET", "/sandboxes", filters=filters(name="we"))
    assert listed == world.ask("GET", "/sandboxes/web")
    assert (listed["Name"], listed["Hostname"], listed["NetworkMode"]) == ("web", "www", "front")
    assert listed["Networks"]["front"]["IPAddress"] == "10.5.0.9"
    world.ask("DELETE", "/sandboxes/web", expect=204, force="1")
    assert world.ask("GET", "/sandboxes") == []
    assert world.refused(404, "DELETE", "/sandboxes/web") == "No such container: web"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Hostname": "x"}, "conflicting options: hostname and the network mode"),
        ({"MacAddress": "02:00:00:00:00:01"}, "conflicting options: mac-address and the network mode"),
        (
            {"ExposedPorts": {"80/tcp": {}}},
            "conflicting options: port exposing and the container type network mode",
        ),
    ],
)
def test_what_cannot_go_with_anothers_namespace_is_refused(
    world: World, fields: dict[str, object], message: str
) -> None:
    """The conflict is told before that something is not supported yet: it would stay."""
    sandbox(world)
    body = {"HostConfig": {"NetworkMode": "container:web"}} | fields
    assert world.refused(400, "POST", "/sandboxes/create", body, name="side") == message


def test_ports_conflict_with_anothers_namespace(world: World) -> None:
    """It is the owner of the namespace whose ports can be published."""
    sandbox(world)
    ports = {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}
    body = {"HostConfig": {"NetworkMode": "container:web"} | ports}
    assert world.refused(400, "POST", "/sandboxes/create", body, name="side") == (
        "conflicting options: port publishing and the container type network mode"
    )


def test_pruning_sandboxes_spares_all_that_serve_somebody(world: World) -> None:
    """On a network, sharing a namespace, with a link made by hand, in the host: each of these is in use."""
    create(world)
    for name, mode in (
        ("idle", "none"),
        ("busy", "front"),
        ("owner", "none"),
        ("side", "container:owner"),
        ("h", "host"),
    ):
        sandbox(world, name, mode)
    sandbox(world, "linked")
    world.ask("POST", "/sandboxes/linked/links", {"Type": "veth"}, expect=201)
    assert world.ask("POST", "/sandboxes/prune", dry_run="1")["Plan"]
    assert world.ask("POST", "/sandboxes/prune") == {"SandboxesDeleted": ["idle"]}
    assert world.ask("POST", "/sandboxes/prune") == {"SandboxesDeleted": None}


def test_a_rate_is_given_with_dockers_option_shown_and_changed(world: World) -> None:
    """`docker network connect --driver-opt isthmus.rate=100mbit` does the same as our own flag."""
    create(world)
    sandbox(world)
    world.ask("POST", "/networks/none/disconnect", {"Container": "web"})
    body = {"Container": "web", "EndpointConfig": {"DriverOpts": {"isthmus.rate": "100mbit"}}}
    world.ask("POST", "/networks/front/connect", body)

    def shown() -> tuple[object, object]:
        [member] = world.ask("GET", "/networks/front")["Containers"].values()
        options = world.ask("GET", "/sandboxes/web")["Networks"]["front"]["DriverOpts"]
        return member.get("Rate"), options["isthmus.rate"]

    assert shown() == ("100mbit", "100mbit")
    change = {"Container": "web", "Rate": "50mbit/off"}
    plan = world.ask("POST", "/networks/front/rate", change, dry_run="1")["Plan"]
    assert any("rate 50mbit" in line for line in plan)
    assert shown() == ("100mbit", "100mbit")
    world.ask("POST", "/networks/front/rate", change, expect=204)
    assert shown() == ("50mbit/off", "50mbit/off")
    world.ask("POST", "/networks/front/rate", {"Container": "web", "Rate": "off"}, expect=204)
    assert shown() == (None, "off")


def test_a_rate_that_cannot_be_is_refused(world: World) -> None:
    """By its key, with what would do."""
    create(world)
    sandbox(world)
    sandbox(world, "db", "front")
    for body, status, sentence in (
        ({"Container": "db", "Rate": "fast"}, 400, "failed to parse isthmus.rate value: fast"),
        ({"Container": "web"}, 400, "failed to parse Rate value"),
        ({"Rate": "1mbit"}, 400, "invalid name or ID supplied"),
        ({"Container": "web", "Rate": "1mbit"}, 500, "is not connected to"),
        ({"Container": "nobody", "Rate": "1mbit"}, 404, "No such container: nobody"),
    ):
        assert sentence in world.refused(status, "POST", "/networks/front/rate", body)


def test_links_are_added_listed_and_removed(world: World) -> None:
    """What `isthmus link` does."""
    sandbox(world)
    body = {
        "Type": "veth",
        "Name": "lan0",
        "Addresses": ["10.9.0.2/24"],
        "Routes": [{"Destination": "default", "Gateway": "10.9.0.1"}],
        "Peer": {"Name": "to-web", "Addresses": ["10.9.0.1/24"]},
    }
    assert world.ask("POST", "/sandboxes/web/links", body, expect=201) == {"Name": "lan0", "PeerName": "to-web"}
    assert world.ask("GET", "/sandboxes/web/links") == [
        {"Name": "lan0", "PeerName": "to-web", "Type": "veth", "Addresses": ["10.9.0.2/24"]}
    ]
    world.ask("DELETE", "/sandboxes/web/links/lan0", expect=204)
    assert world.ask("GET", "/sandboxes/web/links") == []
    assert world.refused(404, "DELETE", "/sandboxes/web/links/lan0")


def test_nat_shows_the_rules_by_chain(world: World) -> None:
    """In the columns of `iptables -t nat -vnL`."""
    create(world)
    (chain,) = world.ask("GET", "/nat")["Chains"]
    assert (chain["Name"], chain["Policy"]) == ("POSTROUTING", "ACCEPT")
    assert [rule["Source"] for rule in chain["Rules"] if rule["Network"] == "front"] == ["10.5.0.0/24"]


# Rehearsal.


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/networks/create", {"Name": "n"}),
        ("POST", "/networks/front/connect", {"Container": "free"}),
        ("POST", "/networks/front/disconnect", {"Container": "web"}),
        ("DELETE", "/networks/back", None),
        ("POST", "/networks/prune", None),
        ("POST", "/sandboxes/create?name=new", {}),
        ("DELETE", "/sandboxes/web", None),
        ("POST", "/sandboxes/prune", None),
        ("POST", "/sandboxes/free/links", {"Type": "veth"}),
    ],
)
def test_every_change_can_be_rehearsed(world: World, method: str, path: str, body: object) -> None:
    """The plan is told, and neither the kernel nor the store nor a listener notices."""
    create(world)
    create(world, "back", "10.6.0.0/24")
    sandbox(world, mode="front")
    sandbox(world, "free", "bridge")
    sandbox(world, "idle")
    before = (str(world.kernel), dict(world.store.read().items))
    path, _, name = path.partition("?name=")
    plan = world.ask(method, path, body, dry_run="1", name=name)["Plan"]
    assert plan
    assert all(isinstance(line, str) for line in plan)
    assert (str(world.kernel), dict(world.store.read().items)) == before


def test_a_rehearsal_is_refused_as_the_change_would_be(world: World) -> None:
    """Or it would be of no use."""
    assert world.refused(404, "DELETE", "/networks/nope", dry_run="1") == "network nope not found"


# Events.


async def lines(response: Response) -> list[dict[str, object]]:
    """All events of a stream that ends."""
    assert response.stream is not None
    try:
        return [msgspec.json.decode(line) async for line in response.stream]
    finally:
        await response.stream.aclose()


def actions(world: World, **query: str) -> list[object]:
    """The actions of those past events that a query asks for."""
    response = world.answer(request("GET", "/events", **query))
    assert response.status == 200
    return [line["Action"] for line in world.run(lines(response))]


def test_past_events_are_told_until_now(world: World) -> None:
    """`docker events --since --until` is how scripts look back."""
    create(world)
    sandbox(world, mode="front")
    world.ask("DELETE", "/sandboxes/web", expect=204)
    world.ask("DELETE", "/networks/front", expect=204)
    world.run(asyncio.sleep(0))  # events reach the loop in a round of their own
    start, now = str(START // SECOND), str(world.now // SECOND)
    told = actions(world, since=start, until=now)
    assert told == ["create", "create", "connect", "disconnect", "destroy", "destroy"]
    assert actions(world, since=start, until=now, filters=filters(type="network", event="connect")) == ["connect"]
    assert actions(world, until=start) == []


def test_new_events_are_told_as_they_come(world: World) -> None:
    """A client that got our answer misses nothing that happens after it."""

    async def scene() -> dict[str, object]:
        response = await world.api(request("GET", "/v1.51/events"))
        await world.api(request("POST", "/networks/create", {"Name": "n"}))
        assert response.stream is not None
        line = await asyncio.wait_for(anext(aiter(response.stream)), 10)
        assert world.events.listeners == 1
        await response.stream.aclose()
        return dict(msgspec.json.decode(line))

    event = world.run(scene())
    assert (event["Type"], event["Action"]) == ("network", "create")
    assert event["Actor"]["Attributes"] == {"name": "n", "type": "bridge"}  # type: ignore[index] # JSON
    assert world.events.listeners == 0


def test_a_stream_ends_at_until(world: World) -> None:
    """Its client would wait for ever."""
    response = world.answer(request("GET", "/events", until=f"{world.now // SECOND + 1}.01"))
    assert world.run(asyncio.wait_for(lines(response), 10)) == []


def test_a_listener_that_does_not_read_is_cut_off(world: World) -> None:
    """Its events would pile up in memory."""

    async def scene() -> int:
        listener = world.events.listen(lambda _event: False)
        for number in range(2 * (BACKLOG + KEPT)):
            world.events.publish(Event("network", "create", str(number), pairs({}), number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        told = 0
        while await listener.next() is not None:
            told += 1
        return told

    assert world.run(scene()) == BACKLOG + KEPT
    assert world.events.listeners == 0
    assert len(world.events.past(lambda _event: True)) == KEPT


def test_the_content_type_of_events_is_negotiated(world: World) -> None:
    """Docker's newer clients ask for lines by their name."""
    for accept, expected in (("", "application/json"), ("application/x-ndjson", "application/x-ndjson")):
        response = world.answer(Request("GET", "/events", {"until": "0"}, {"accept": accept}))
        assert response.headers["Content-Type"] == expected
        assert world.run(lines(response)) == []


def test_times_of_events_are_checked(world: World) -> None:
    """A slip of the pen would make a client wait for nothing."""
    assert world.refused(400, "GET", "/events", since="soon").startswith("failed to parse since value: soon")
    assert world.refused(400, "GET", "/events", since="5", until="4") == (
        "`since` time (5) cannot be after `until` time (4)"
    )


# Errors.


def failing(world: World, error: Exception) -> Response:
    """The answer when the engine fails with *error*."""

    def call(_work: object, /) -> asyncio.Future[None]:
        future: asyncio.Future[None] = world.loop.create_future()
        future.set_exception(error)
        return future

    world.api.call = call  # type: ignore[assignment] # an engine that can do nothing
    return world.answer(request("GET", "/networks"))


def test_several_errors_are_told_together(world: World) -> None:
    """A removal goes on after an error, so it may have more than one to tell."""
    group = ExceptionGroup("", [NetworkNotFound("a"), ExceptionGroup("", [Busy("b")])])
    response = failing(world, group)
    assert response.status == 404
    assert msgspec.json.decode(response.body) == {"message": "network a not found\nb"}


@pytest.mark.parametrize("error", [KeyError("secret"), ExceptionGroup("", [NetworkNotFound("a"), KeyError("secret")])])
def test_a_mistake_of_ours_is_logged_and_not_shown(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A traceback helps only us, and may tell a client what it should not know."""
    response = failing(world, error)
    assert response.status == 500
    assert msgspec.json.decode(response.body) == {
        "message": "internal error: GET /networks failed, see the daemon's log"
    }
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.pattern}")
def test_no_route_is_hidden_by_an_earlier_one(route: Route) -> None:
    """It would be dead, and nobody would see."""
    path = route.pattern.replace("{name*}", "x").replace("{name}", "x").replace("{link}", "y")
    first = next(one for one in ROUTES if one.method == route.method and one.compiled.fullmatch(path))
    assert first is route


def test_pruning_is_one_piece_of_work_for_the_engine(world: World) -> None:
    """Between two pieces another client could join a sandbox that was found idle."""
    sandbox(world)
    pieces: list[object] = []

    async def call(work: Callable[[Engine], T], /, *, brief: bool = False) -> T:  # noqa: ARG001 - all of it is
        pieces.append(work)
        return work(world.engine)

    world.api.call = call
    world.ask("POST", "/sandboxes/prune")
    assert len(pieces) == 1
