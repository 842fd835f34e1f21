"""What people ask for: networks, endpoints, sandboxes, links made by hand, and addresses kept for who left.

These values are stored, so nothing here can be derived: no counters, no "ready" flags, no address bitmaps. A record
says only *wanted* or *removing*; whether it is done is asked of the kernel. `removing` is needed, because the half of
a link that lies in somebody else's namespace can be found only through the record that names it.

IDs are 64 hexadecimal digits, as Docker's are. Times are nanoseconds since the epoch. Mappings are stored as sorted
pairs, so that every value here can be compared and hashed.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import msgspec

from isthmus.addresses import IPNetwork, Subnet

Pairs = tuple[tuple[str, str], ...]
IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface

HOST = ""
"""The namespace name that stands for the daemon's own network namespace."""


def pairs(mapping: Mapping[str, str] | None) -> Pairs:
    """The items of *mapping*, sorted by key; none for None."""
    return tuple(sorted(mapping.items())) if mapping else ()


class Network(msgspec.Struct, frozen=True):
    """A network of one driver. `options` are as the user gave them (and are shown so); each driver parses its own."""

    id: str
    name: str
    driver: str
    created: int
    subnets: tuple[Subnet, ...] = ()
    options: Pairs = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    scope: str = "local"
    labels: Pairs = ()
    ipam_driver: str = "default"
    ipam_options: Pairs = ()
    config_only: bool = False
    config_from: str = ""
    predefined: bool = False
    removing: bool = False


Hop = tuple[IPNetwork, IPAddress | None]
"""A route of a lease: where to, and by which gateway; None if there is nobody between."""

FOREVER = 0xFFFF_FFFF
"""The seconds of a lease that does not end."""


class DhcpLease(msgspec.Struct, frozen=True):
    """What a DHCP server granted at the time *obtained*. *t1* (renew), *t2* (rebind) and *seconds* (end) count from it.

    *server* is the server's identifier: an IPv4 address, or a DUID in hexadecimal. Where there are *routes*, they hold
    the default route, too, and *routers* is empty (RFC 3442).
    """

    address: IPInterface
    server: str
    server_mac: str
    obtained: int
    seconds: int
    t1: int
    t2: int
    routers: tuple[IPAddress, ...] = ()
    routes: tuple[Hop, ...] = ()
    dns: tuple[IPAddress, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    hostname: str = ""
    mtu: int = 0
    broadcast: IPAddress | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """A sandbox's place on a network: one interface, with its MAC and at most one address of each family.

    `asked` holds the addresses that the user demanded (shown in inspect as `IPAMConfig`); the others were chosen by us,
    or came with the `leases` of DHCP servers.
    """

    id: str
    network: str
    sandbox: str
    created: int
    ifname: str
    mac: str
    addresses: tuple[IPInterface, ...] = ()
    asked: tuple[IPAddress, ...] = ()
    link_local: tuple[IPAddress, ...] = ()
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    options: Pairs = ()
    gateway_priority: int = 0
    leases: tuple[DhcpLease, ...] = ()
    removing: bool = False

    @property
    def mtu(self) -> int | None:
        """The MTU that a server gave it; None if none did."""
        return min((lease.mtu for lease in self.leases if lease.mtu), default=None)


class Peer(msgspec.Struct, frozen=True):
    """An endpoint on another host, the *node*, whose frames for it go to the address *via*.

    *Name* is its sandbox's, whose ID is *sandbox*; *names* are all that it answers to on the network.
    """

    id: str
    network: str
    node: str
    via: IPAddress
    name: str
    mac: str
    addresses: tuple[IPInterface, ...]
    names: tuple[str, ...] = ()
    sandbox: str = ""
    created: int = 0


class Block(msgspec.Struct, frozen=True):
    """A part of a shared *network*'s pool that is this host's alone: here it gives out addresses without asking."""

    network: str
    cidr: IPNetwork


HOST_GATEWAY = "host-gateway"
"""What stands for the host's address among further names."""


class Dns(msgspec.Struct, frozen=True):
    """How names are to be looked up in a sandbox, as far as its user said: `docker run`'s `--dns` and its like.

    *Hosts* are further names, each with an address or `HOST_GATEWAY`, in the order given. *Off* means that there is to
    be no resolver, and no `resolv.conf` of ours.
    """

    servers: tuple[IPAddress, ...] = ()
    options: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    hosts: Pairs = ()
    off: bool = False


UNSAID = Dns()
"""Where a user says nothing of it."""


class Sandbox(msgspec.Struct, frozen=True):
    """Something that has a network namespace; to Docker's clients, a container.

    `netns` is the name of the namespace: `HOST`, its own (then it bears the sandbox's name, or a container's short
    ID), or that of the sandbox which it joined. Several sandboxes may share one; it lasts until the last of them is
    gone, so that those who joined keep it while its first owner is made anew. `mode` is Docker's NetworkMode: a
    network's name, "host", "none", or "container:NAME". `exposed` are ports as Docker writes them ("80/tcp"), which
    `publish_all` published. `container` tells that it is there for a container of ours, with which it comes and
    goes.
    """

    id: str
    name: str
    created: int
    netns: str
    mode: str
    hostname: str = ""
    labels: Pairs = ()
    sysctls: Pairs = ()
    exposed: tuple[str, ...] = ()
    publish_all: bool = False
    domainname: str = ""
    dns: Dns = UNSAID
    container: bool = False
    removing: bool = False


# `gc=False` as in `resources.Element`: of these, too, there may be thousands.
class Place(msgspec.Struct, frozen=True, gc=False):
    """A port of the host, on one *address* of it; None stands for all, 0.0.0.0 and :: for all of their IP version.

    *Protocol* is "tcp", "udp" or "sctp".
    """

    protocol: str
    port: int
    address: IPAddress | None = None

    def __str__(self) -> str:
        address = self.address or IPv4Address(0)
        return f"[{address}]:{self.port}" if address.version == 6 else f"{address}:{self.port}"


class Binding(msgspec.Struct, frozen=True, gc=False):
    """A place on the host that leads to the *port* of a sandbox (an ID); the commit that writes it takes the place.

    *Asked* is what the user wrote for the host's port (a number, a range, or ""), and None where `publish_all` made it.
    *Callers* says who may use it, in the words of `options.PUBLISH`; "" leaves that to the network.
    """

    sandbox: str
    port: int
    place: Place
    asked: str | None = ""
    callers: str = ""
    removing: bool = False


class HandRoute(msgspec.Struct, frozen=True):
    """A route as its user wrote it: to *destination* (a prefix; 0.0.0.0/0 and ::/0 are `default`) via *gateway*."""

    destination: str
    gateway: IPAddress | None


class HandLink(msgspec.Struct, frozen=True):
    """An interface that its user put into a sandbox by hand, with `isthmus link add`.

    A veth has its other end, *peer*, in the host's namespace, on *master* if that is given; a macvlan has a *parent*.
    """

    id: str
    sandbox: str
    created: int
    type: str
    ifname: str
    mac: str = ""
    mtu: int = 0
    addresses: tuple[IPInterface, ...] = ()
    routes: tuple[HandRoute, ...] = ()
    peer: str = ""
    peer_addresses: tuple[IPInterface, ...] = ()
    master: str = ""
    parent: str = ""
    mode: str = ""
    removing: bool = False


class Setting(msgspec.Struct, frozen=True):
    """A fact about this daemon that must outlive it, under a *key* of its own."""

    id: str
    value: str


class Lease(msgspec.Struct, frozen=True):
    """What a sandbox of that *name* had on a *network* when it left, kept for it *until* a time.

    `addresses` are its addresses there. `mac` is that which it had all the same, whatever its addresses were; "" if it
    followed from them.
    """

    network: str
    name: str
    addresses: tuple[IPAddress, ...]
    mac: str
    until: int


Record = Network | Endpoint | Sandbox | Binding | HandLink | Setting | Lease | Peer | Block


ETHERNET_MTU = 1500


class HostLink(msgspec.Struct, frozen=True):
    """A link in the host's namespace that is not ours."""

    name: str
    kind: str
    mtu: int
    addresses: tuple[IPInterface, ...] = ()
    mac: str = ""
    up: bool = True
    wireless: bool = False


class Host(msgspec.Struct, frozen=True):
    """What drivers may know of the machine: links that bear no mark of ours, and prefixes routed by others than us.

    *frames_filtered* tells whether frames between ports of a bridge have to pass the packet filter (`br_netfilter`):
    None if this kernel knows no such thing, True if others have rules that may count on it. *mtu* is that of the link
    by which its default routes leave that are not ours, the least if they leave by several; Ethernet's if it has none.
    *advertised* is the address by which other hosts reach it, if that is set and the host has it now.
    """

    links: tuple[HostLink, ...] = ()
    routes: tuple[str, ...] = ()
    frames_filtered: bool | None = None
    mtu: int = ETHERNET_MTU
    advertised: IPAddress | None = None

    @property
    def outward(self) -> int:
        """The MTU of the way to other hosts: that of the link with the address by which they reach this one."""
        own = (one.mtu for one in self.links if any(address.ip == self.advertised for address in one.addresses))
        # The loopback's MTU is one more than others can have.
        return min(next(own, self.mtu), 65535)

    def link(self, name: str) -> HostLink | None:
        """The foreign link of that *name*, if there is one."""
        return next((link for link in self.links if link.name == name), None)
