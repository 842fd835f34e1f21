"""What the engine tells the edges: records joined with what follows from them. Each edge words it in its own way."""

from collections.abc import Mapping

import msgspec

from isthmus.model import (
    ETHERNET_MTU,
    Binding,
    Block,
    DhcpLease,
    Endpoint,
    IPAddress,
    IPInterface,
    Network,
    Pairs,
    Peer,
    Sandbox,
)
from isthmus.questions import WhichLease


class SubnetStatus(msgspec.Struct, frozen=True):
    """How full a subnet is: addresses that cannot be given out any more, and those that can (both at most 2^64 - 1)."""

    subnet: str
    in_use: int
    available: int


class EndpointView(msgspec.Struct, frozen=True):
    """An endpoint with its network, its sandbox's name, the network's gateways, and the names it answers to.

    *Trouble* says what the wire told of it that is not as it should be, and what to do.
    """

    endpoint: Endpoint
    network: Network
    sandbox: Sandbox
    ipv4: IPInterface | None
    ipv6: IPInterface | None
    gateway4: IPAddress | None
    gateway6: IPAddress | None
    dns_names: tuple[str, ...]
    trouble: tuple[str, ...] = ()


class NetworkView(msgspec.Struct, frozen=True):
    """A network with all its endpoints, and *peers*, those on other hosts.

    *Trouble* is as in `EndpointView`, of the host's own place on it.
    """

    network: Network
    endpoints: tuple[EndpointView, ...]
    status: tuple[SubnetStatus, ...]
    trouble: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()


class PortView(msgspec.Struct, frozen=True):
    """A published port. *Targets* are where it leads, one for each IP version; none where nobody can serve it.

    A target is *routed* if it is reached at its own address, whatever the place on the host. *Callers* says for an IP
    version who may use the port, in the words of the network's option; nothing where all may and nobody said so.
    """

    binding: Binding
    targets: tuple[IPAddress, ...]
    routed: tuple[IPAddress, ...] = ()
    callers: Mapping[int, str] = msgspec.field(default_factory=dict)


class SandboxView(msgspec.Struct, frozen=True):
    """A sandbox with its endpoints, ordered by network name, its ports, and the path of its namespace's file."""

    sandbox: Sandbox
    endpoints: tuple[EndpointView, ...]
    netns_path: str
    ports: tuple[PortView, ...] = ()
    trouble: tuple[str, ...] = ()


class Files(msgspec.Struct, frozen=True):
    """The paths of the files that programs in a sandbox read about names; "" where it has none of ours."""

    resolv_conf: str = ""
    hosts: str = ""
    hostname: str = ""


class LinkView(msgspec.Struct, frozen=True):
    """A link that was made by hand: its name in the sandbox, and that of its other end, if it has one."""

    name: str
    peer: str
    type: str
    addresses: tuple[IPInterface, ...]


class LanClient(msgspec.Struct, frozen=True):
    """An endpoint that has an address of one IP version from a server: what it asks, and the *lease* that it has.

    *Netns* is the path of the namespace that its interface, *ifname*, is in.
    """

    question: WhichLease
    lease: DhcpLease | None
    netns: str
    ifname: str


class NodeView(msgspec.Struct, frozen=True):
    """A host that shares a store with this one; *held* is how many endpoints it has on shared networks.

    *Status* is "ready"; "down" if its session ended, *since* when it is not known then; "unknown" while the store is
    away. *Since* is in nanoseconds since the epoch, *here* tells whether it is this host.
    """

    id: str
    name: str
    address: str
    status: str
    since: int
    held: int
    here: bool = False


class Offers(msgspec.Struct, frozen=True):
    """What a host has of the *networks* that it shares with others: its endpoints, as those are to see them.

    Its *blocks* are the parts of pools that are its alone. Which host those *offered* are on is filled in by who tells
    of them. Others reach the host at its *address*, with packets of at most *mtu* bytes.
    """

    networks: tuple[Network, ...]
    offered: tuple[Peer, ...]
    blocks: tuple[Block, ...] = ()
    address: IPAddress | None = None
    mtu: int = ETHERNET_MTU


class Standing(msgspec.Struct, frozen=True):
    """What of ours stands on segments that others are on, too.

    *Networks* are the IDs of those that reach there. *Holders* has, by segment, the MAC of each address of ours there;
    "" stands for that of the segment's own link. *Clients* are the endpoints whose addresses come from a server.
    """

    networks: frozenset[str]
    holders: Mapping[str, Mapping[IPAddress, str]]
    clients: tuple[LanClient, ...]


class Finding(msgspec.Struct, frozen=True):
    """What a look at one *subject* of a network told, and whether it is as it should be."""

    subject: str
    ok: bool
    text: str


class Checked(msgspec.Struct, frozen=True):
    """What the engine found of a network, and what is left to ask of the wire.

    That is whether a second MAC is answered on *nic*, by one of *targets* or by any neighbour; a *nic* of "" leaves
    nothing to ask. *Wireless* tells a Wi-Fi card.
    """

    findings: tuple[Finding, ...] = ()
    nic: str = ""
    targets: tuple[IPAddress, ...] = ()
    wireless: bool = False


class Created(msgspec.Struct, frozen=True):
    """The ID of what was made, and what its user should know about it ("" if nothing)."""

    id: str
    warning: str = ""


class NatRule(msgspec.Struct, frozen=True):
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


class Call(msgspec.Struct, frozen=True):
    """A packet that was judged, and as what: "denied", or "dry-run". *Port* is None if its *protocol* has none."""

    verdict: str
    source: str
    target: str
    protocol: int
    port: int | None


class Event(msgspec.Struct, frozen=True):
    """Something happened to the *kind* ("network", "container", ...) of thing with this *id*, at *time* nanoseconds."""

    kind: str
    action: str
    id: str
    attributes: Pairs
    time: int
    scope: str = "local"
