"""Docker's JSON, in both directions: what bodies, filters and times mean, and which words a client gets to read."""

import re
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from isthmus.addresses import Subnet, SubnetRequest
from isthmus.api import body, translate
from isthmus.api.filters import instant, parse
from isthmus.errors import InvalidOption, InvalidRequest
from isthmus.model import Dns, HandRoute, Sandbox, pairs
from isthmus.views import EndpointView, Event, NatRule, NetworkView, SandboxView, SubnetStatus
from tests.worlds import endpoint, network, sandbox

T = TypeVar("T", bound=body.Body)

SECOND = 10**9
JSON = {"content-type": "application/json"}
FRONT = replace(
    network(),
    subnets=(
        Subnet(
            ip_network("10.5.0.0/24"),
            ip_address("10.5.0.1"),
            ip_network("10.5.0.128/25"),
            (("printer", ip_address("10.5.0.7")),),
        ),
    ),
    labels=(("tier", "one"),),
    created=1_700_000_000_120_000_000,
)
WEB = replace(sandbox(), hostname="www", labels=(("tier", "one"),))
AT = EndpointView(
    replace(endpoint(FRONT, WEB, "10.5.0.9/24"), asked=(ip_address("10.5.0.9"),), aliases=("w",)),
    FRONT,
    WEB,
    ip_interface("10.5.0.9/24"),
    None,
    ip_address("10.5.0.1"),
    None,
    ("web", "w"),
)
VIEW = NetworkView(FRONT, (AT,), (SubnetStatus("10.5.0.0/24", 5, 126),))


def decoded(kind: type[T], text: str) -> T:
    """What *text* says, as a *kind*."""
    return body.decode(kind, JSON, text.encode())


def refusal(text: str, content_type: str = "application/json") -> str:
    """The words with which the body *text* of a network's making is refused."""
    with pytest.raises(InvalidRequest) as caught:
        body.decode(body.NetworkCreate, {"content-type": content_type}, text.encode())
    return str(caught.value)


# Bodies.


def test_keys_match_in_any_case_and_unknown_ones_are_passed_over() -> None:
    """Go's decoder does so, and clients in other languages have come to rely on it."""
    create = decoded(
        body.NetworkCreate, '{"name": "a", "IPAM": {"config": [{"SUBNET": "10.0.0.0/8"}]}, "Nonsense": [1]}'
    )
    assert (create.name, create.ipam.config[0].subnet) == ("a", "10.0.0.0/8")


def test_nulls_leave_the_default_and_are_empty_within_lists() -> None:
    """The docker client sends null for every list and map that its user did not fill."""
    connect = decoded(
        body.NetworkConnect,
        '{"Container": null, "EndpointConfig": {"IPAMConfig": null, "Links": null, "Aliases": [null]}}',
    )
    assert connect == body.NetworkConnect(endpoint_config=body.EndpointConfig(aliases=[""]))
    assert decoded(body.NetworkCreate, "null") == body.NetworkCreate()


def test_of_a_key_that_comes_twice_the_last_one_counts() -> None:
    """Go's decoder does so, whatever the case of either."""
    assert decoded(body.NetworkCreate, '{"Name": "a", "name": "b"}').name == "b"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"Name": 1}', "Name"),
        ('{"Internal": "true"}', "Internal"),
        ('{"IPAM": {"Config": [{}, {"Subnet": 7}]}}', "IPAM.Config[1].Subnet"),
        ('{"Labels": {"a": 1}}', "Labels[...]"),
        ('{"IPAM": []}', "IPAM"),
        ('{"Options": "x"}', "Options"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_its_path(text: str, path: str) -> None:
    """A user with a long body needs to know which value it is."""
    message = refusal(text)
    assert message.startswith("invalid JSON: Expected ")
    assert message.endswith(f" in {path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{invalid json", "invalid JSON: invalid character 'i' looking for beginning of object key string"),
        ('{"a" 1}', "invalid JSON: invalid character '1' after object key"),
        ("nope", "invalid JSON: invalid character 'n' looking for beginning of value"),
        ('{"Name": "a', "invalid JSON: unexpected EOF"),
        ('{"Name": ', "invalid JSON: unexpected EOF"),
        ('{"Name": "a"} trailing', "unexpected content after JSON"),
        ("{}{}", "unexpected content after JSON"),
        ("", "invalid JSON: got EOF while reading request body"),
        ("[" * 100_000, "invalid JSON: it is nested too deep, or a number has too many digits"),
        ("[]", "invalid JSON: Expected object, got array"),
    ],
)
def test_what_is_no_json_is_refused_in_dockers_words(text: str, message: str) -> None:
    """Docker's own tests compare these sentences."""
    assert refusal(text) == message


def test_a_body_of_another_type_is_refused() -> None:
    """What a web page can make a browser send, a form or plain text, must never be taken for a request."""
    assert refusal("{}", "text/plain") == "unsupported Content-Type header (text/plain): must be 'application/json'"
    assert refusal("{}", "") == "malformed Content-Type header (): mime: no media type"
    assert body.decode(body.NetworkCreate, {"content-type": "Application/JSON; charset=utf-8"}, b"{}").name == ""


def test_no_body_at_all_is_an_empty_one() -> None:
    """Docker takes it so, with and without a content type."""
    assert body.decode(body.NetworkCreate, {}, None) == body.NetworkCreate()
    assert body.decode(body.NetworkCreate, JSON, None) == body.NetworkCreate()


def test_a_number_too_big_for_go_is_refused() -> None:
    """It could be stored by us, and then by nobody else."""
    with pytest.raises(InvalidRequest):
        decoded(body.NetworkConnect, f'{{"EndpointConfig": {{"GwPriority": {2**63}}}}}')


def test_a_network_request_has_all_that_was_asked_for() -> None:
    """One field forgotten is one flag of the docker client without effect."""
    create = decoded(
        body.NetworkCreate,
        """{"Name": "n", "Driver": "bridge", "Scope": "local", "Internal": true, "Attachable": true, "Ingress": true,
        "ConfigOnly": true, "ConfigFrom": {"Network": "c"}, "EnableIPv4": false, "EnableIPv6": true,
        "Options": {"o": "1"}, "Labels": {"l": "2"}, "IPAM": {"Driver": "default", "Options": {"i": "3"}, "Config":
        [{"Subnet": "s", "IPRange": "r", "Gateway": "g", "AuxiliaryAddresses": {"b": "y", "a": "x"}}]}}""",
    )
    request = translate.network_request(create, (1, 48))
    assert (request.name, request.driver, request.scope, request.config_from) == ("n", "bridge", "local", "c")
    assert all((request.internal, request.attachable, request.ingress, request.config_only, request.ipv6))
    assert request.ipv4 is False
    assert request.subnets == (SubnetRequest("s", "r", "g", (("a", "x"), ("b", "y"))),)
    assert (request.options, request.labels, request.ipam_options) == ((("o", "1"),), (("l", "2"),), (("i", "3"),))
    assert translate.network_request(create, (1, 47)).ipv4 is None


def test_an_endpoint_request_has_all_that_was_asked_for() -> None:
    """As above, for the flags of `docker network connect`."""
    connect = decoded(
        body.NetworkConnect,
        """{"Container": "web", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "4", "IPv6Address": "6",
        "LinkLocalIPs": ["l"]}, "Links": ["a:b"],
        "MacAddress": "m", "Aliases": ["x"], "DriverOpts": {"d": "1"}, "GwPriority": -7}}""",
    )
    request = translate.endpoint_request(connect.endpoint_config)
    assert (request.ipv4, request.ipv6, request.link_local, request.mac) == ("4", "6", ("l",), "m")
    assert (request.links, request.aliases, request.options) == (("a:b",), ("x",), (("d", "1"),))
    assert request.gateway_priority == -7


# Sandboxes.


def sandbox_body(**host: object) -> body.SandboxCreate:
    """A sandbox to be made with these fields of HostConfig."""
    return body.SandboxCreate(host_config=body.HostConfig(**host))  # type: ignore[arg-type] # checked by the struct's user


@pytest.mark.parametrize("name", ["../up", "a/b", "/", "-x", "a b", "..", "a\n", "a" * 256])
def test_a_sandbox_name_that_could_be_a_path_is_refused(name: str) -> None:
    """It becomes the name of a file that root makes."""
    with pytest.raises(InvalidRequest, match="Invalid container name"):
        translate.sandbox_request(name, sandbox_body())


@pytest.mark.parametrize(
    ("conflict", "host"),
    [
        ("dns", {"dns": ["192.0.2.1"]}),
        ("dns", {"dns_search": ["a.example"]}),
        ("extra-hosts", {"extra_hosts": ["a:192.0.2.1"]}),
        ("links", {"links": ["a"]}),
    ],
)
def test_what_does_not_go_with_the_namespace_of_another_is_left_to_the_engine(
    conflict: str, host: dict[str, object]
) -> None:
    """It refuses it in Docker's words."""
    request, _ = translate.sandbox_request("web", sandbox_body(network_mode="container:x", **host))
    assert request.conflicts == {conflict}


def test_what_a_user_says_of_names_is_in_the_request() -> None:
    """One field forgotten is one flag of `docker run` without effect."""
    given = sandbox_body(
        dns=["192.0.2.1", "2001:db8::1"],
        dns_options=["ndots:1"],
        dns_search=["corp.example", "."],
        extra_hosts=["a:192.0.2.2", "b:[2001:db8::2]", "c:host-gateway"],
    )
    request, _ = translate.sandbox_request("web", given)
    assert request.dns == Dns(
        (ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        ("ndots:1",),
        ("corp.example", "."),
        (("a", "192.0.2.2"), ("b", "2001:db8::2"), ("c", "host-gateway")),
    )
    assert translate.sandbox_request("web", sandbox_body(dns=["none"]))[0].dns == Dns(off=True)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"dns": ["dns.example"]}, "failed to parse HostConfig.Dns value: dns.example"),
        ({"dns": ["none", "192.0.2.1"]}, "failed to parse HostConfig.Dns value: none"),
        ({"dns": ["none"], "dns_search": ["a.example"]}, "none goes with no option"),
        ({"dns_search": ["a\nnameserver 192.0.2.1"]}, "failed to parse HostConfig.DnsSearch"),
        ({"dns_options": ["ndots:1 rotate"]}, "failed to parse HostConfig.DnsOptions"),
        ({"extra_hosts": ["a"]}, 'bad format for add-host: "a"'),
        ({"extra_hosts": ["a b:192.0.2.1"]}, 'bad format for add-host: "a b:192.0.2.1"'),
        ({"extra_hosts": ["a:b"]}, 'invalid IP address in add-host: "b"'),
    ],
)
def test_what_cannot_be_a_line_of_a_file_is_refused(host: dict[str, object], words: str) -> None:
    """It becomes lines of files that every program in the sandbox reads."""
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        translate.sandbox_request("web", sandbox_body(**host))


def test_a_hostname_of_several_lines_is_refused() -> None:
    """It becomes a line of `hosts`, too."""
    with pytest.raises(InvalidRequest, match="invalid hostname format"):
        translate.sandbox_request("web", body.SandboxCreate(hostname="a\n192.0.2.1 bank.example"))


def test_links_are_those_of_the_main_endpoint() -> None:
    """Docker's client gives them in both places for a user-defined network; they are meant once."""
    create = body.SandboxCreate(
        host_config=body.HostConfig(network_mode="front", links=["db:store"]),
        networking_config=body.NetworkingConfig({"front": body.EndpointConfig(links=["db:store", "x"])}),
    )
    request, _ = translate.sandbox_request("web", create)
    assert [(name, one.links) for name, one in request.endpoints] == [("front", ("db:store", "x"))]
    create = body.SandboxCreate(host_config=body.HostConfig(links=["db"]))
    request, _ = translate.sandbox_request("web", create)
    assert [(name, one.links) for name, one in request.endpoints] == [("bridge", ("db",))]


def test_published_ports_are_discarded_in_host_mode_with_a_warning() -> None:
    """In the host's own namespace there is nothing to publish; Docker says so and goes on."""
    _, warnings = translate.sandbox_request("web", sandbox_body(network_mode="host", publish_all_ports=True))
    assert warnings == ("Published ports are discarded when using host network mode",)


def test_the_mac_address_of_a_sandbox_is_that_of_its_main_endpoint() -> None:
    """It is an old field of the container's, and old clients still send it."""
    create = body.SandboxCreate(
        mac_address="02:00:00:00:00:01",
        host_config=body.HostConfig(network_mode="front"),
        networking_config=body.NetworkingConfig(
            {"back": body.EndpointConfig(), "front": body.EndpointConfig(aliases=["w"])}
        ),
    )
    request, _ = translate.sandbox_request("web", create)
    assert [(name, one.mac, one.aliases) for name, one in request.endpoints] == [
        ("front", "02:00:00:00:00:01", ("w",)),
        ("back", "", ()),
    ]


def test_a_route_to_default_is_of_its_gateways_family() -> None:
    """`default` is a word of both families, and only the gateway tells which."""
    create = body.LinkCreate(
        type="veth",
        addresses=["10.9.0.2/24"],
        routes=[
            body.LinkRoute("default", "10.9.0.1"),
            body.LinkRoute("default", "fd00::1"),
            body.LinkRoute("10.1.0.0/16"),
        ],
    )
    assert translate.link_request(create).routes == (
        HandRoute("0.0.0.0/0", ip_address("10.9.0.1")),
        HandRoute("::/0", ip_address("fd00::1")),
        HandRoute("10.1.0.0/16", None),
    )


@pytest.mark.parametrize(
    "create",
    [
        body.LinkCreate(addresses=["10.9.0.2"]),
        body.LinkCreate(addresses=["10.9.0.2/33"]),
        body.LinkCreate(peer=body.LinkPeer(addresses=["x/24"])),
        body.LinkCreate(routes=[body.LinkRoute("10.1.0.1/16", "")]),
        body.LinkCreate(routes=[body.LinkRoute("10.1.0.0/16", "fd00::1")]),
        body.LinkCreate(routes=[body.LinkRoute("default", "fe80::1%eth0")]),
        body.LinkCreate(mtu=-1),
    ],
)
def test_a_link_that_cannot_be_is_refused(create: body.LinkCreate) -> None:
    """The kernel would refuse it too, but in the middle of a plan and with a number."""
    with pytest.raises(InvalidOption):
        translate.link_request(create)


# Shapes.


def test_a_network_in_a_list_has_dockers_fields_and_no_containers() -> None:
    """docker-py and compose read these by name; a null and an empty object are not the same to them."""
    assert translate.network_summary(VIEW) == {
        "Name": "front",
        "Id": FRONT.id,
        "Created": "2023-11-14T22:13:20.12Z",
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [
                {
                    "Subnet": "10.5.0.0/24",
                    "IPRange": "10.5.0.128/25",
                    "Gateway": "10.5.0.1",
                    "AuxiliaryAddresses": {"printer": "10.5.0.7"},
                }
            ],
        },
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Options": {},
        "Labels": {"tier": "one"},
    }


def test_what_a_subnet_lacks_is_left_out_and_no_subnets_are_null() -> None:
    """As Go's `omitempty` and its nil slices come out."""
    bare = replace(VIEW, network=replace(FRONT, subnets=(Subnet(ip_network("10.5.0.0/24")),)))
    assert translate.network_summary(bare)["IPAM"] == {
        "Driver": "default",
        "Options": None,
        "Config": [{"Subnet": "10.5.0.0/24"}],
    }
    none = replace(VIEW, network=replace(FRONT, subnets=()))
    assert translate.network_summary(none)["IPAM"] == {"Driver": "default", "Options": None, "Config": None}


def test_inspect_tells_who_is_there_and_from_1_52_on_how_full_it_is() -> None:
    """`docker network inspect` is where people look for an address."""
    shape = translate.network_inspect(VIEW, (1, 52))
    assert shape["Containers"] == {
        WEB.id: {
            "Name": "web",
            "EndpointID": AT.endpoint.id,
            "MacAddress": AT.endpoint.mac,
            "IPv4Address": "10.5.0.9/24",
            "IPv6Address": "",
        }
    }
    assert shape["Status"] == {"IPAM": {"Subnets": {"10.5.0.0/24": {"IPsInUse": 5, "DynamicIPsAvailable": 126}}}}
    assert "Status" not in translate.network_inspect(VIEW, (1, 51))


def test_an_endpoint_has_dockers_fields_with_their_zeros() -> None:
    """The shape that `docker inspect` templates reach into."""
    assert translate.endpoint(AT) == {
        "IPAMConfig": {"IPv4Address": "10.5.0.9"},
        "Links": None,
        "Aliases": ["w"],
        "MacAddress": AT.endpoint.mac,
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": FRONT.id,
        "EndpointID": AT.endpoint.id,
        "Gateway": "10.5.0.1",
        "IPAddress": "10.5.0.9",
        "IPPrefixLen": 24,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": ["web", "w"],
    }


def test_the_old_network_settings_are_of_the_default_bridge_and_end_with_1_51() -> None:
    """Scripts of ten years read `.NetworkSettings.IPAddress`, which never told of other networks."""
    view = SandboxView(WEB, (replace(AT, network=replace(FRONT, name="bridge")),), "/run/isthmus/netns/web")
    settings = translate.container_inspect(view, (1, 51))["NetworkSettings"]
    assert isinstance(settings, dict)
    assert (settings["IPAddress"], settings["IPPrefixLen"], settings["SandboxKey"]) == ("10.5.0.9", 24, view.netns_path)
    modern = translate.container_inspect(view, (1, 52))["NetworkSettings"]
    assert isinstance(modern, dict)
    assert set(modern) == {"SandboxID", "SandboxKey", "Ports", "Networks"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3540, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_how_long_a_sandbox_is_up_is_told_in_dockers_words(seconds: int, text: str) -> None:
    """It is the STATUS column of `docker ps`."""
    view = SandboxView(replace(WEB, created=0), (), "")
    assert translate.container_summary(view, seconds * SECOND)["Status"] == f"Up {text}"


def test_nat_rules_are_grouped_by_chain() -> None:
    """The CLI prints one table for each chain, with its sums."""
    rules = [
        NatRule("POSTROUTING", n, 10 * n, "MASQUERADE", "10.5.0.0/24", "0.0.0.0/0", outgoing="!br") for n in (1, 2)
    ]
    (chain,) = msgspec.convert(translate.nat(rules)["Chains"], list[dict[str, Any]])
    assert (chain["Name"], chain["Policy"], chain["Packets"], chain["Bytes"]) == ("POSTROUTING", "ACCEPT", 3, 30)
    assert chain["Rules"][0] == {
        "Packets": 1,
        "Bytes": 10,
        "Target": "MASQUERADE",
        "Protocol": "all",
        "Options": "--",
        "In": "*",
        "Out": "!br",
        "Source": "10.5.0.0/24",
        "Destination": "0.0.0.0/0",
        "Extra": "",
        "Network": "",
    }


# Filters and times.


@pytest.mark.parametrize("text", ['{"name": {"a": true, "b": true}}', '{"name": ["a", "b"]}'])
def test_filters_are_read_in_both_forms(text: str) -> None:
    """docker-py and old clients send lists."""
    assert parse(text, frozenset({"name"})).values == {"name": ("a", "b")}


@pytest.mark.parametrize("text", ["x", "[]", '{"name": 1}', '{"name": {"a": 1}}', "[" * 100_000])
def test_filters_that_are_none_are_refused(text: str) -> None:
    """Docker's whole sentence for it."""
    with pytest.raises(InvalidRequest, match=r"^invalid filter$"):
        parse(text, frozenset({"name"}))


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ('{"name": {"ron": true}}', True),
        ('{"name": {"^front$": true}}', True),
        ('{"name": {"^ron": true}}', False),
        ('{"name": {"f.*t": true}}', False),
        ('{"id": {"000000000001": true}}', True),
        ('{"driver": {"brid": true}}', False),
        ('{"label": {"tier": true}}', True),
        ('{"label": {"tier=two": true}}', False),
        ('{"label": ["tier=one", "other"]}', False),
        ('{"scope": ["swarm"]}', False),
        ('{"type": ["custom"]}', True),
        ('{"dangling": ["true"]}', False),
        ('{"dangling": ["0"]}', True),
        ('{"driver": ["host", "bridge"], "name": ["front"]}', True),
    ],
)
def test_networks_are_filtered_as_docker_does(given: str, *, fits: bool) -> None:
    """Values of one key are alternatives, keys must all hold, and labels must all be there."""
    assert translate.wanted_network(parse(given, translate.NETWORK_FILTERS))(VIEW) is fits


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ('{"network": ["front"]}', True),
        ('{"network": ["fron"]}', False),
        ('{"network": ["000000000001"]}', True),
        ('{"name": ["^/web$"]}', True),
        ('{"name": ["we"]}', True),
        ('{"status": ["exited"]}', False),
        ('{"label": ["tier=one"]}', True),
    ],
)
def test_sandboxes_are_filtered_as_containers_are(given: str, *, fits: bool) -> None:
    """`docker ps --filter` is how scripts find them."""
    view = SandboxView(WEB, (AT,), "")
    assert translate.wanted_sandbox(parse(given, translate.SANDBOX_FILTERS))(view) is fits


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ("{}", True),
        ('{"until": ["1h"]}', True),
        ('{"until": ["50h"]}', False),
        ('{"label": ["tier"]}', True),
        ('{"label!": ["tier"]}', False),
        ('{"label!": ["tier=two"]}', True),
    ],
)
def test_pruning_spares_what_the_filters_spare(given: str, *, fits: bool) -> None:
    """What is pruned by mistake is gone."""
    may_go = translate.prunable(parse(given, translate.PRUNE_FILTERS), 48 * 3600 * SECOND)
    assert may_go(0, {"tier": "one"}) is fits


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ('{"type": ["network"]}', True),
        ('{"type": ["container"]}', False),
        ('{"event": ["connect"]}', True),
        ('{"network": ["fro"]}', True),
        ('{"network": ["back"]}', False),
        ('{"container": ["web"]}', False),
        ('{"label": ["type=bridge"]}', True),
        ('{"image": ["alpine"]}', False),
    ],
)
def test_events_are_filtered_as_docker_does(given: str, *, fits: bool) -> None:
    """Tools that wait for one event ask for just that."""
    event = Event("network", "connect", FRONT.id, pairs({"name": "front", "type": "bridge"}), 1)
    assert translate.wanted_event(parse(given, translate.EVENT_FILTERS))(event) is fits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", 90 * SECOND),
        ("1m30.5s", int(9.5 * SECOND)),
        ("-10s", 110 * SECOND),
        ("42", 42 * SECOND),
        ("42.000000001", 42 * SECOND + 1),
        ("1970-01-01T00:01:00Z", 60 * SECOND),
        ("1970-01-01T01:01:00.5+01:00", 60 * SECOND + SECOND // 2),
    ],
)
def test_a_time_is_a_span_unix_seconds_or_rfc_3339(text: str, expected: int) -> None:
    """All that `docker events --since` and `--filter until=` take."""
    assert instant("until", text, 100 * SECOND) == expected


@pytest.mark.parametrize("text", ["soon", "10 s", "1h2", "9" * 30, "0000-00-00", "1..5s"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    """It must not be taken for the beginning of time."""
    with pytest.raises(InvalidOption, match="until"):
        instant("until", text, 0)


def test_an_event_is_a_line_in_dockers_shape() -> None:
    """The fields that Go's client decodes, and those that old clients cannot do without."""
    event = Event("container", "create", WEB.id, (("name", "web"),), 1_500_000_000)
    new = translate.event(event, (1, 52))
    assert new == {
        "Type": "container",
        "Action": "create",
        "Actor": {"ID": WEB.id, "Attributes": {"name": "web"}},
        "scope": "local",
        "time": 1,
        "timeNano": 1_500_000_000,
    }
    assert translate.event(event, (1, 51)) == {"status": "create", "id": WEB.id, "from": ""} | new


def test_a_sandbox_shape_is_what_its_own_routes_promise() -> None:
    """The command line prints from it."""
    shape = translate.sandbox(SandboxView(Sandbox(WEB.id, "web", 0, "web", "front"), (AT,), "/run/isthmus/netns/web"))
    assert set(shape) == {
        *("Id", "Name", "Created", "NetworkMode", "NetnsPath", "Labels", "Hostname", "Domainname", "Networks", "Ports"),
        *("Dns", "DnsOptions", "DnsSearch", "ExtraHosts"),
    }
    assert shape["Created"] == "1970-01-01T00:00:00Z"
