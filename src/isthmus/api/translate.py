"""Between Docker's JSON and our values: bodies become requests, views become shapes. Pure.

The shapes are those of moby's `api/types`, with its nulls and its empty strings: clients tell them apart. What a body
asks for and we cannot give is refused here by its key, never passed over.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface, ip_network

from msgspec.structs import replace

from isthmus.addresses import SubnetRequest
from isthmus.api import body
from isthmus.api.filters import Filters
from isthmus.api.message import Version
from isthmus.egress import EGRESS
from isthmus.errors import InvalidOption, InvalidRequest
from isthmus.model import (
    FOREVER,
    HOST_GATEWAY,
    DhcpLease,
    Dns,
    Endpoint,
    HandRoute,
    IPAddress,
    IPInterface,
    Network,
    Peer,
    pairs,
)
from isthmus.options import callers_of
from isthmus.ports import Wish, parse_address, parse_hosts, parse_port
from isthmus.rates import OFF, RATE
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.spans import lasting
from isthmus.views import (
    EndpointView,
    Event,
    Files,
    Finding,
    LinkView,
    NatRule,
    NetworkView,
    NodeView,
    PortView,
    SandboxView,
)

Shape = dict[str, object]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_SECOND = 10**9
_NO_DNS = "none"


# From bodies to requests.


def network_request(create: body.NetworkCreate, version: Version) -> NetworkRequest:
    """The network that *create* asks for."""
    return NetworkRequest(
        name=create.name,
        driver=create.driver or "bridge",
        subnets=_subnets(create.ipam.config),
        options=pairs(create.options),
        ipv4=create.enable_ipv4 if version >= (1, 48) else None,
        ipv6=create.enable_ipv6,
        internal=create.internal,
        attachable=create.attachable,
        ingress=create.ingress,
        scope=create.scope,
        labels=pairs(create.labels),
        ipam_driver=create.ipam.driver or "default",
        ipam_options=pairs(create.ipam.options),
        config_only=create.config_only,
        config_from=create.config_from.network,
    )


def _subnets(configs: Iterable[body.IpamConfig]) -> tuple[SubnetRequest, ...]:
    """The subnets that *configs* ask for."""
    return tuple(
        SubnetRequest(one.subnet, one.ip_range, one.gateway, pairs(one.auxiliary_addresses)) for one in configs
    )


def network_update(update: body.NetworkUpdate) -> NetworkUpdate:
    """What *update* wants to be another."""
    return NetworkUpdate(
        labels=pairs(update.labels),
        options=pairs(update.options),
        subnets=_subnets(update.subnets),
        ranges=tuple(update.ip_ranges),
        aux=pairs(update.auxiliary_addresses),
        gone_labels=tuple(update.remove_labels),
        gone_options=tuple(update.remove_options),
        gone_aux=tuple(update.remove_auxiliary_addresses),
    )


def endpoint_request(config: body.EndpointConfig) -> EndpointRequest:
    """The place on a network that *config* asks for. A MAC address counts in every version of the API."""
    return EndpointRequest(
        ipv4=config.ipam_config.ipv4_address,
        ipv6=config.ipam_config.ipv6_address,
        link_local=tuple(config.ipam_config.link_local_ips),
        mac=config.mac_address,
        aliases=tuple(config.aliases),
        links=tuple(config.links),
        options=pairs(config.driver_opts),
        gateway_priority=config.gw_priority,
    )


def egress_request(wish: body.NetworkEgress) -> tuple[str, str, str]:
    """Of which sandbox the option of its endpoint is to be another that has its egress policy, and what."""
    if not wish.rules:
        raise InvalidOption("Rules", "", "there must be rules such as deny, allow 10.0.0.0/8, or off")
    return named(wish.container), EGRESS, wish.rules


def rate_request(wish: body.NetworkRate) -> tuple[str, str, str]:
    """Of which sandbox the option of its endpoint is to be another that has its rate, and what."""
    if not wish.rate:
        raise InvalidOption("Rate", "", "it must be a rate such as 100mbit, or off")
    return named(wish.container), RATE, wish.rate


def named(name: str) -> str:
    """*name* as that of a network or a sandbox, which cannot be empty; in Docker's words."""
    if not name:
        raise InvalidRequest('invalid name or ID supplied: ""')
    return name


def sandbox_request(name: str, create: body.SandboxCreate) -> tuple[SandboxRequest, tuple[str, ...]]:
    """The sandbox of this *name* that *create* asks for, and what its user should know about it.

    With `container:NAME` the things that another sandbox's namespace does not take are left to the engine to refuse,
    all in Docker's words; otherwise those that we cannot give are refused here.
    """
    if not name:
        raise InvalidRequest("invalid name: name is empty; give one as ?name=")
    name = name.removeprefix("/")
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, and 255 characters at most"
        )
    for what, text in (("hostname", create.hostname), ("domainname", create.domainname)):
        if text and not _is_word(text):
            raise InvalidRequest(f"invalid {what} format: {text}")
    host = create.host_config
    mode = host.network_mode or "default"
    given = {
        "hostname": bool(create.hostname),
        "dns": bool(host.dns or host.dns_options or host.dns_search),
        "links": bool(host.links),
        "extra-hosts": bool(host.extra_hosts),
        "ports": bool(host.port_bindings or host.publish_all_ports),
        "exposed-ports": bool(create.exposed_ports),
        "mac-address": bool(create.mac_address),
    }
    request = SandboxRequest(
        name=name,
        mode=mode,
        hostname=create.hostname,
        domainname=create.domainname,
        labels=pairs(create.labels),
        dns=_dns(host),
        sysctls=pairs(host.sysctls),
        endpoints=_endpoints(mode, create),
        conflicts=frozenset(word for word, is_given in given.items() if is_given),
    )
    if mode.startswith("container:"):
        return request, ()
    if mode == "host":
        return request, ("Published ports are discarded when using host network mode",) if given["ports"] else ()
    wishes = tuple(_wishes(host.port_bindings))
    exposed = dict.fromkeys(_port_key(*parse_port(text)) for text in (*create.exposed_ports, *host.port_bindings))
    if host.publish_all_ports:
        published = {(wish.port, wish.protocol) for wish in wishes}
        left = (parse_port(text) for text in exposed)
        wishes += tuple(Wish(*port, asked=None) for port in left if port not in published)
    return replace(request, ports=wishes, exposed=tuple(exposed), publish_all=host.publish_all_ports), ()


def _wishes(bindings: Mapping[str, list[body.PortBinding]]) -> Iterator[Wish]:
    """The ports that `PortBindings` asks to publish; an empty list leaves address and port to us."""
    for text, places in bindings.items():
        port, protocol = parse_port(text)
        for place in places or (body.PortBinding(),):
            hosts = parse_hosts(place.host_port)
            callers = str(callers_of("Callers", place.callers) or "open") if place.callers else ""
            yield Wish(port, protocol, parse_address(place.host_ip), hosts, place.host_port, callers)


def publish_request(ports: body.Ports) -> tuple[Wish, ...]:
    """Which ports are to be published of a sandbox that there is, or published no more."""
    wishes = tuple(_wishes(ports.port_bindings))
    if not wishes:
        raise InvalidRequest("no port is named: name some in PortBindings")
    return wishes


def _port_key(port: int, protocol: str) -> str:
    return f"{port}/{protocol}"


def _endpoints(mode: str, create: body.SandboxCreate) -> tuple[tuple[str, EndpointRequest], ...]:
    """The places on networks that *create* asks for; its own MAC address and links are for that on *mode*'s network."""
    configs = dict(create.networking_config.endpoints_config)
    mac, links = create.mac_address, create.host_config.links
    if (mac or links) and mode not in {"host", "none"} and not mode.startswith("container:"):
        main = "bridge" if mode == "default" and mode not in configs else mode
        config = configs.pop(main, body.EndpointConfig())
        if mac and config.mac_address not in {"", mac}:
            raise InvalidRequest(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
                "or be left empty"
            )
        wish = endpoint_request(config)
        # Docker's client gives links twice.
        wish = replace(wish, mac=mac or wish.mac, links=tuple(dict.fromkeys((*wish.links, *links))))
        return ((main, wish), *((name, endpoint_request(one)) for name, one in configs.items()))
    return tuple((name, endpoint_request(config)) for name, config in configs.items())


def _dns(host: body.HostConfig) -> Dns:
    """How names are to be looked up; a server `none` (Podman's word) means that there is to be no resolver."""
    off = host.dns == [_NO_DNS]
    if off and (host.dns_options or host.dns_search):
        raise InvalidRequest("invalid argument for dns: none goes with no option and no domain to search")
    for domain in host.dns_search:
        if not _is_word(domain):
            raise InvalidOption("HostConfig.DnsSearch", domain, "it must be a domain such as corp.example, or .")
    for option in host.dns_options:
        if not _is_word(option):
            raise InvalidOption("HostConfig.DnsOptions", option, "it must be one word, such as ndots:1")
    return Dns(
        servers=() if off else tuple(_server(text) for text in host.dns),
        options=tuple(host.dns_options),
        search=tuple(host.dns_search),
        hosts=tuple(map(_extra_host, host.extra_hosts)),
        off=off,
    )


def _is_word(text: str) -> bool:
    """Whether *text* can stand for itself in a line of a file."""
    return bool(text) and text.isprintable() and " " not in text


def _server(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidOption("HostConfig.Dns", text, "it must be an IP address; or none, alone") from None


def _extra_host(text: str) -> tuple[str, str]:
    """A further name, and its address as text: NAME:ADDRESS or NAME:host-gateway."""
    name, colon, address = text.partition(":")
    if not (colon and _is_word(name)):
        raise InvalidRequest(f'bad format for add-host: "{text}"')
    if address == HOST_GATEWAY:
        return name, address
    try:
        return name, str(ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise InvalidRequest(f'invalid IP address in add-host: "{address}"') from None


def link_request(create: body.LinkCreate) -> LinkRequest:
    """The link that *create* asks to put into a sandbox by hand."""
    return LinkRequest(
        type=create.type,
        ifname=create.name,
        mac=create.mac_address,
        mtu=_within("Mtu", create.mtu, 0, 2**32 - 1),
        addresses=tuple(_interface("Addresses", text) for text in create.addresses),
        routes=tuple(_route(one.destination, one.gateway) for one in create.routes),
        peer=create.peer.name,
        peer_addresses=tuple(_interface("Peer.Addresses", text) for text in create.peer.addresses),
        master=create.peer.master,
        parent=create.parent,
        mode=create.mode,
    )


def _within(key: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidOption(key, value, f"it must be a whole number from {low} to {high}")
    return value


def _interface(key: str, text: str) -> IPInterface:
    try:
        if "/" in text and "%" not in text:
            return ip_interface(text)
    except ValueError:
        pass
    raise InvalidOption(key, text, "it must be an address with its prefix length, such as 10.9.0.2/24")


def _route(destination: str, gateway: str) -> HandRoute:
    """The route to *destination*, a prefix or `default` (then of the family that *gateway* has)."""
    try:
        via = ip_address(gateway.replace("%", "no zone")) if gateway else None
    except ValueError:
        raise InvalidOption("Routes.Gateway", gateway, "it must be an IP address") from None
    if destination == "default":
        destination = "::/0" if via and via.version == 6 else "0.0.0.0/0"
    try:
        prefix = ip_network(destination)
    except ValueError:
        hint = "it must be `default`, or a prefix such as 10.20.0.0/16 without bits behind its length"
        raise InvalidOption("Routes.Destination", destination, hint) from None
    if via and via.version != prefix.version:
        raise InvalidOption(
            "Routes.Gateway", gateway, f"it must be an IPv{prefix.version} address, as the destination is"
        )
    return HandRoute(str(prefix), via)


# From views to shapes.


def rfc3339(nanoseconds: int) -> str:
    """A time as Go writes it in JSON: UTC, with as many digits behind the second as are needed.

    >>> rfc3339(1_700_000_000_120_000_000)
    '2023-11-14T22:13:20.12Z'
    """
    seconds, rest = divmod(nanoseconds, _SECOND)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def rfc3339_nano(nanoseconds: int) -> str:
    """A time as Docker stamps lines of a log with it: nine digits behind the second, so that all are equally long."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def network_summary(view: NetworkView) -> Shape:
    """An item of `GET /networks`."""
    network = view.network
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created),
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": dict(network.ipam_options) or None,
            "Config": [_subnet(network, index) for index in range(len(network.subnets))] or None,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _subnet(network: Network, index: int) -> Shape:
    subnet = network.subnets[index]
    shape: Shape = {
        "Subnet": str(subnet.cidr),
        "IPRange": str(subnet.ip_range or ""),
        "Gateway": str(subnet.gateway or ""),
        "AuxiliaryAddresses": {name: str(address) for name, address in subnet.aux},
    }
    return {key: value for key, value in shape.items() if value}


def network_inspect(view: NetworkView, version: Version, nodes: Iterable[NodeView] = ()) -> Shape:
    """`GET /networks/{id}`; before 1.28 also an item of `GET /networks`.

    With *nodes* it is `verbose`: who is on it on other hosts, by which host, and since when.
    """
    shape = network_summary(view) | {
        "Containers": {endpoint.sandbox.id: _container_on_network(endpoint) for endpoint in view.endpoints}
    }
    if version >= (1, 52):
        subnets = {one.subnet: {"IPsInUse": one.in_use, "DynamicIPsAvailable": one.available} for one in view.status}
        shape["Status"] = {"IPAM": {"Subnets": subnets}}
    if known := {one.id: one for one in nodes}:
        there = {peer.node: str(peer.via) for peer in view.peers}
        shape["Peers"] = [
            {"Name": known[key].name if key in known else key[:12], "IP": via} for key, via in there.items()
        ]
        shape["Elsewhere"] = {peer.id: _elsewhere(peer, known.get(peer.node)) for peer in view.peers}
    return shape | _trouble(view.trouble)


def _elsewhere(peer: Peer, node: NodeView | None) -> Shape:
    by_version = {address.version: str(address) for address in peer.addresses}
    return {
        "Name": peer.name,
        "Names": list(peer.names),
        "Container": peer.sandbox,
        "MacAddress": peer.mac,
        "IPv4Address": by_version.get(4, ""),
        "IPv6Address": by_version.get(6, ""),
        "Node": peer.node,
        "Hostname": node.name if node else "",
        "Status": node.status if node else "down",
        "Via": str(peer.via),
        "Since": rfc3339(peer.created),
    }


def _trouble(sentences: Iterable[str]) -> Shape:
    """What is not as it should be, under a key that Docker does not have; without any, its shapes are as they are."""
    told = list(sentences)
    return {"Trouble": told} if told else {}


def finding(view: Finding) -> Shape:
    """An item of `GET /networks/{id}/check`."""
    return {"Subject": view.subject, "Ok": view.ok, "Text": view.text}


def node(view: NodeView) -> Shape:
    """An item of `GET /nodes`, in the shape of a swarm's (`docker node ls` shows it), with what we know besides."""
    since = rfc3339(view.since) if view.since else ""
    return {
        "ID": view.id,
        "CreatedAt": since,
        "UpdatedAt": since,
        "Spec": {"Role": "worker", "Availability": "active", "Labels": {}},
        "Description": {"Hostname": view.name, "Engine": {}},
        "Status": {"State": view.status, "Addr": view.address},
        "Self": view.here,
        "Endpoints": view.held,
    }


def _container_on_network(view: EndpointView) -> Shape:
    return {
        "Name": view.sandbox.name,
        "EndpointID": view.endpoint.id,
        "MacAddress": view.endpoint.mac,
        "IPv4Address": _text(view.ipv4),
        "IPv6Address": _text(view.ipv6),
        **_limits(view.endpoint),
        **_trouble(view.trouble),
    }


def _limits(record: Endpoint) -> Shape:
    """The rate and the egress policy of an endpoint, if it has them; `NetworkSettings` shows them among the options."""
    options = dict(record.options)
    there = {word: options.get(key, OFF) for word, key in (("Rate", RATE), ("Egress", EGRESS))}
    return {word: value for word, value in there.items() if value not in {"", OFF}}


def endpoint(view: EndpointView) -> Shape:
    """A network's entry in `NetworkSettings.Networks`."""
    record = view.endpoint
    return {
        "IPAMConfig": _asked(record.asked, record.link_local),
        "Links": list(record.links) or None,
        "Aliases": list(record.aliases) or None,
        "MacAddress": record.mac,
        "DriverOpts": dict(record.options) or None,
        "GwPriority": record.gateway_priority,
        "NetworkID": view.network.id,
        "EndpointID": record.id,
        "Gateway": _text(view.gateway4),
        "IPAddress": str(view.ipv4.ip) if view.ipv4 else "",
        "IPPrefixLen": view.ipv4.network.prefixlen if view.ipv4 else 0,
        "IPv6Gateway": _text(view.gateway6),
        "GlobalIPv6Address": str(view.ipv6.ip) if view.ipv6 else "",
        "GlobalIPv6PrefixLen": view.ipv6.network.prefixlen if view.ipv6 else 0,
        "DNSNames": list(view.dns_names) or None,
        **({"Leases": list(map(_lease, record.leases))} if record.leases else {}),
        **_trouble(view.trouble),
    }


def _lease(lease: DhcpLease) -> Shape:
    """What a DHCP server granted."""
    ends = None if lease.seconds == FOREVER else rfc3339(lease.obtained + lease.seconds * _SECOND)
    return {
        "Address": str(lease.address),
        "Server": lease.server,
        "Obtained": rfc3339(lease.obtained),
        "Ends": ends,
        "Routers": list(map(str, lease.routers)),
        "Routes": [{"Destination": str(to), "Gateway": _text(via)} for to, via in lease.routes],
        "DNS": list(map(str, lease.dns)),
        "Domain": lease.domain,
        "Search": list(lease.search),
        "Hostname": lease.hostname,
        "Mtu": lease.mtu,
    }


def _asked(addresses: Iterable[IPAddress], link_local: Iterable[IPAddress]) -> Shape | None:
    shape: Shape = {f"IPv{address.version}Address": str(address) for address in addresses}
    if local := [str(address) for address in link_local]:
        shape["LinkLocalIPs"] = local
    return shape or None


def _text(value: object) -> str:
    return str(value or "")


def container_summary(view: SandboxView, now: int) -> Shape:
    """An item of `GET /containers/json`, at the time *now*."""
    sandbox = view.sandbox
    return {
        "Id": sandbox.id,
        "Names": [f"/{sandbox.name}"],
        "Image": "",
        "ImageID": "",
        "Command": "",
        "Created": sandbox.created // _SECOND,
        "Ports": summary_ports(view),
        "Labels": dict(sandbox.labels),
        "State": "running",
        "Status": f"Up {lasting((now - sandbox.created) // _SECOND)}",
        "HostConfig": {"NetworkMode": sandbox.mode},
        "NetworkSettings": {"Networks": networks(view)},
        "Mounts": [],
    }


def container_inspect(view: SandboxView, version: Version) -> Shape:
    """`GET /containers/{id}/json`."""
    sandbox = view.sandbox
    started = rfc3339(sandbox.created)
    return {
        "Id": sandbox.id,
        "Created": started,
        "Path": "",
        "Args": [],
        "State": {
            "Status": "running",
            "Running": True,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": 0,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": started,
            "FinishedAt": "0001-01-01T00:00:00Z",
        },
        "Image": "",
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "",
        "Name": f"/{sandbox.name}",
        "RestartCount": 0,
        "Driver": "",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": {
            "NetworkMode": sandbox.mode,
            "PortBindings": _asked_ports(view),
            "PublishAllPorts": sandbox.publish_all,
            "Dns": [_NO_DNS] if sandbox.dns.off else list(map(str, sandbox.dns.servers)),
            "DnsOptions": list(sandbox.dns.options),
            "DnsSearch": list(sandbox.dns.search),
            "ExtraHosts": [":".join(host) for host in sandbox.dns.hosts] or None,
            "Links": None,
            "Sysctls": dict(sandbox.sysctls) or None,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
        "Mounts": [],
        "Config": {
            "Hostname": sandbox.hostname,
            "Domainname": sandbox.domainname,
            "User": "",
            "Env": [],
            "Cmd": None,
            "Image": "",
            "Volumes": None,
            "WorkingDir": "",
            "Entrypoint": None,
            "Labels": dict(sandbox.labels),
            **({"ExposedPorts": {port: {} for port in sandbox.exposed}} if sandbox.exposed else {}),
        },
        "NetworkSettings": network_settings(view, version),
    }


def network_settings(view: SandboxView, version: Version) -> Shape:
    """`NetworkSettings` of what stands."""
    settings: Shape = {"SandboxID": view.sandbox.id, "SandboxKey": view.netns_path, "Ports": _all_ports(view)}
    if version < (1, 52):
        # Those of an address tell of the default bridge only.
        legacy = next((endpoint(one) for one in view.endpoints if one.network.name == "bridge"), {})
        settings |= {key: legacy.get(key, value) for key, value in no_legacy_address().items()}
    return settings | {"Networks": networks(view)}


def no_legacy_address() -> Shape:
    """The fields of `NetworkSettings` from before there were networks, where there is nothing to say in them."""
    words = ("EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress")
    return {
        "Bridge": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **dict.fromkeys(words, ""),
        "GlobalIPv6PrefixLen": 0,
        "IPPrefixLen": 0,
    }


def idle_endpoint(wish: EndpointRequest) -> Shape:
    """A network's entry in `NetworkSettings.Networks` of a container that does not run."""
    asked: Shape = {f"IPv{version}Address": value for version, value in ((4, wish.ipv4), (6, wish.ipv6)) if value}
    if wish.link_local:
        asked["LinkLocalIPs"] = list(wish.link_local)
    return {
        "IPAMConfig": asked or None,
        "Links": list(wish.links) or None,
        "Aliases": list(wish.aliases) or None,
        "MacAddress": wish.mac,
        "DriverOpts": dict(wish.options) or None,
        "GwPriority": wish.gateway_priority,
        **dict.fromkeys(("NetworkID", "EndpointID", "Gateway", "IPAddress"), ""),
        "IPPrefixLen": 0,
        **dict.fromkeys(("IPv6Gateway", "GlobalIPv6Address"), ""),
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def _all_ports(view: SandboxView) -> Shape:
    """`NetworkSettings.Ports`: where each port is published; null for those that are exposed only."""
    return dict.fromkeys(view.sandbox.exposed) | ports(view.ports)


def ports(views: Iterable[PortView]) -> Shape:
    """Where ports are published, by the sandbox's own; null for those that lead nowhere.

    Where not all may call, `Callers` says who may; Docker has no such thing.
    """
    shape: dict[str, list[Shape]] = {}
    for view in views:
        binding = view.binding
        places = shape.setdefault(_port_key(binding.port, binding.place.protocol), [])
        for address, port in _places(view):
            callers = view.callers.get(6 if ":" in address else 4)
            places.append({"HostIp": address, "HostPort": port, **({"Callers": callers} if callers else {})})
    return {port: places or None for port, places in shape.items()}


def _places(view: PortView) -> Iterator[tuple[str, str]]:
    """Addresses and ports of the host where a port is published: one of each IP version, if it is on all addresses.

    Where it is routed, the port on the host has no meaning.
    """
    place = view.binding.place
    for target in (*view.targets, *view.routed):
        anywhere = "0.0.0.0" if target.version == 4 else "::"  # noqa: S104 - nothing is bound
        yield str(place.address or anywhere), "" if target in view.routed else str(place.port)


def _asked_ports(view: SandboxView) -> Shape:
    """`HostConfig.PortBindings`: what the user asked for."""
    shape: dict[str, list[Shape]] = {}
    for one in view.ports:
        binding = one.binding
        if binding.asked is not None:
            places = shape.setdefault(_port_key(binding.port, binding.place.protocol), [])
            places.append({"HostIp": _text(binding.place.address), "HostPort": binding.asked})
    return dict(shape)


def summary_ports(view: SandboxView) -> list[Shape]:
    """`Ports` in `GET /containers/json`."""
    published: list[Shape] = [
        {"IP": address, "PrivatePort": one.binding.port, "PublicPort": int(port), "Type": one.binding.place.protocol}
        for one in view.ports
        for address, port in _places(one)
        if port
    ]
    known = {(shape["PrivatePort"], shape["Type"]) for shape in published}
    exposed = (parse_port(text) for text in view.sandbox.exposed)
    return published + [
        {"PrivatePort": port, "Type": protocol} for port, protocol in exposed if (port, protocol) not in known
    ]


def networks(view: SandboxView) -> Shape:
    """`NetworkSettings.Networks` of what stands."""
    return {one.network.name: endpoint(one) for one in view.endpoints}


def sandbox(view: SandboxView) -> Shape:
    """`GET /sandboxes/{id}`, and an item of `GET /sandboxes`."""
    record = view.sandbox
    return {
        "Id": record.id,
        "Name": record.name,
        "Created": rfc3339(record.created),
        "NetworkMode": record.mode,
        "NetnsPath": view.netns_path,
        "Labels": dict(record.labels),
        "Hostname": record.hostname,
        "Domainname": record.domainname,
        "Dns": [_NO_DNS] if record.dns.off else list(map(str, record.dns.servers)),
        "DnsOptions": list(record.dns.options),
        "DnsSearch": list(record.dns.search),
        "ExtraHosts": [":".join(host) for host in record.dns.hosts],
        "Networks": networks(view),
        "Ports": _all_ports(view),
        **_trouble(view.trouble),
    }


def files(paths: Files) -> Shape:
    """`POST /sandboxes/{id}/files`: where the files are that programs in a sandbox read about names."""
    return {"ResolvConfPath": paths.resolv_conf, "HostsPath": paths.hosts, "HostnamePath": paths.hostname}


def link(view: LinkView) -> Shape:
    """An item of `GET /sandboxes/{id}/links`."""
    return {
        "Name": view.name,
        "PeerName": view.peer,
        "Type": view.type,
        "Addresses": [str(address) for address in view.addresses],
    }


def names(known: Iterable[tuple[str, str, Iterable[IPAddress]]]) -> list[Shape]:
    """`GET /names`: every name, with its network and its addresses."""
    return [
        {"Name": name, "Network": network, "Addresses": list(map(str, addresses))} for name, network, addresses in known
    ]


def nat(rules: Iterable[NatRule]) -> Shape:
    """`GET /nat`: the rules by chain, in iptables' columns; a chain's own counts are the sums of its rules'."""
    chains: dict[str, list[NatRule]] = {}
    for rule in rules:
        chains.setdefault(rule.chain, []).append(rule)
    return {
        "Chains": [
            {
                "Name": name,
                "Policy": "ACCEPT",
                "Packets": sum(rule.packets for rule in members),
                "Bytes": sum(rule.bytes for rule in members),
                "Rules": [_nat_rule(rule) for rule in members],
            }
            for name, members in chains.items()
        ]
    }


def _nat_rule(rule: NatRule) -> Shape:
    return {
        "Packets": rule.packets,
        "Bytes": rule.bytes,
        "Target": rule.target,
        "Protocol": rule.protocol,
        "Options": "--",
        "In": rule.incoming,
        "Out": rule.outgoing,
        "Source": rule.source,
        "Destination": rule.destination,
        "Extra": rule.extra,
        "Network": rule.network,
    }


def event(one: Event, version: Version) -> Shape:
    """A line of `GET /events`; before 1.52 those of containers have fields that old clients fall over without."""
    attributes = dict(one.attributes)
    old = version < (1, 52) and one.kind == "container"
    return ({"status": one.action, "id": one.id, "from": attributes.get("image", "")} if old else {}) | {
        "Type": one.kind,
        "Action": one.action,
        "Actor": {"ID": one.id, "Attributes": attributes},
        "scope": one.scope,
        "time": one.time // _SECOND,
        "timeNano": one.time,
    }


# What filters mean for each kind of thing.

NETWORK_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
SANDBOX_FILTERS = frozenset({"id", "label", "name", "network", "status"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_EVENT_OBJECTS = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")
EVENT_FILTERS = frozenset({*_EVENT_OBJECTS, "event", "image", "label", "scope", "type"})
_STATES = frozenset({"created", "dead", "exited", "paused", "removing", "restarting", "running"})


def wanted_network(filters: Filters) -> Callable[[NetworkView], bool]:
    """Whether a network is among those that *filters* of `GET /networks` ask for."""
    dangling = filters.boolean("dangling")
    for value in filters.values.get("type", ()):
        if value not in {"builtin", "custom"}:
            raise InvalidRequest(f"invalid filter: 'type'='{value}'")

    def wanted(view: NetworkView) -> bool:
        network = view.network
        idle = not network.predefined and not view.endpoints
        return (
            filters.exact("driver", network.driver)
            and filters.part("name", network.name)
            and filters.part("id", network.id)
            and filters.labels("label", dict(network.labels))
            and filters.exact("scope", network.scope)
            and filters.exact("type", "builtin" if network.predefined else "custom")
            and dangling in {None, idle}
        )

    return wanted


def wanted_sandbox(filters: Filters) -> Callable[[SandboxView], bool]:
    """Whether a sandbox is among those that *filters* of `GET /containers/json` or `GET /sandboxes` ask for."""
    for value in filters.values.get("status", ()):
        if value not in _STATES:
            raise InvalidRequest(f"invalid filter 'status=[{value}]'")

    def wanted(view: SandboxView) -> bool:
        record = view.sandbox
        return (
            filters.prefix("id", record.id)
            and (filters.part("name", record.name) or filters.part("name", f"/{record.name}"))
            and filters.labels("label", dict(record.labels))
            and filters.exact("status", "running")
            and _on_network(filters, view.endpoints)
        )

    return wanted


def _on_network(filters: Filters, endpoints: Iterable[EndpointView]) -> bool:
    networks = [one.network for one in endpoints]
    return filters.exact("network", *(one.name for one in networks)) or filters.prefix(
        "network", *(one.id for one in networks)
    )


def prunable(filters: Filters, now: int) -> Callable[[int, Mapping[str, str]], bool]:
    """Whether a thing with this time of making and these labels may be pruned, as *filters* say."""
    until = filters.before("until", now)

    def may_go(created: int, labels: Mapping[str, str]) -> bool:
        spared = "label!" in filters and filters.labels("label!", labels)
        return filters.labels("label", labels) and not spared and (until is None or created < until)

    return may_go


def wanted_event(filters: Filters) -> Callable[[Event], bool]:
    """Whether an event is among those that *filters* of `GET /events` ask for.

    As in Docker, `network=front` lets everything pass whose ID or name begins with that, of whatever kind it is.
    """

    def wanted(one: Event) -> bool:
        attributes = dict(one.attributes)
        return (
            filters.exact("event", one.action)
            and filters.exact("type", one.kind)
            and filters.exact("scope", one.scope)
            and filters.exact("image", one.id, attributes.get("image", ""))
            and filters.labels("label", attributes)
            and all(filters.prefix(kind, one.id, attributes.get("name", "")) for kind in _EVENT_OBJECTS)
        )

    return wanted
