"""What the engine tells the edges: records joined with what follows from them. Each edge words it in its own way."""

from dataclasses import dataclass

from isthmus.model import Endpoint, IPAddress, IPInterface, Network, Pairs, Sandbox


@dataclass(frozen=True, slots=True)
class SubnetStatus:
    """How full a subnet is: addresses that cannot be given out any more, and those that can (both at most 2^64 - 1)."""

    subnet: str
    in_use: int
    available: int


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint with its network, its sandbox's name, the network's gateways, and the names it answers to."""

    endpoint: Endpoint
    network: Network
    sandbox: Sandbox
    ipv4: IPInterface | None
    ipv6: IPInterface | None
    gateway4: IPAddress | None
    gateway6: IPAddress | None
    dns_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkView:
    """A network with all its endpoints."""

    network: Network
    endpoints: tuple[EndpointView, ...]
    status: tuple[SubnetStatus, ...]


@dataclass(frozen=True, slots=True)
class SandboxView:
    """A sandbox with its endpoints, ordered by network name, and the path of its namespace's file."""

    sandbox: Sandbox
    endpoints: tuple[EndpointView, ...]
    netns_path: str


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link that was made by hand: its name in the sandbox, and that of its other end, if it has one."""

    name: str
    peer: str
    type: str
    addresses: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True)
class Created:
    """The ID of what was made, and what its user should know about it ("" if nothing)."""

    id: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class NatRule:
    """A rule of ours that rewrites addresses, with how many packets and bytes met it; fields as iptables shows them."""

    chain: str
    packets: int
    bytes: int
    target: str
    source: str
    destination: str
    incoming: str = "*"
    outgoing: str = "*"
    protocol: str = "all"
    extra: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to the *kind* ("network", "container", ...) of thing with this *id*, at *time* nanoseconds."""

    kind: str
    action: str
    id: str
    attributes: Pairs
    time: int
    scope: str = "local"
