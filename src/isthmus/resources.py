"""What a kernel can hold of ours: small frozen values, each of which prints as the command that makes it.

Every resource has a `key`, its identity; `needs`, the keys that must be there first and without which it cannot last;
and an `owner`, which is the mark that it bears. A field that is None is not ours to say: it is neither set nor
compared.

A driver says *what* (a bridge, a pair of veths, that a network is closed to others); `firewall` alone knows how the
last is said in nftables, and turns such meanings into the `Element` values below. `netns` is the name of a namespace
of ours, or `HOST`, the daemon's own.
"""

from ipaddress import IPv4Network, IPv6Network
from typing import Self

import msgspec

from isthmus import rates
from isthmus.model import HOST, IPAddress, IPInterface
from isthmus.naming import FILTER_PRIORITY, MAIN_TABLE, PROTOCOL, RULE_PRIORITY, TABLE, Owner

Key = tuple[str, ...]
IPNetwork = IPv4Network | IPv6Network


def namespace_key(netns: str) -> Key:
    """The key of the namespace of this name."""
    return ("namespace", netns)


def link_key(netns: str, name: str) -> Key:
    """The key of the link of this *name* in *netns*, whatever its kind, and whichever end of a pair it is."""
    return ("link", netns, name)


class Namespace(msgspec.Struct, frozen=True):
    """A network namespace that we hold, with its loopback up; iproute2 knows it by the same *name*."""

    name: str

    @property
    def key(self) -> Key:
        return namespace_key(self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    def make(self) -> str:
        return f"ip netns add {self.name} && ip -n {self.name} link set lo up"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"ip netns delete {self.name}"


class Nickname(msgspec.Struct, frozen=True):
    """One more *name* by which iproute2 knows the namespace *netns*."""

    name: str
    netns: str

    @property
    def key(self) -> Key:
        return ("nickname", self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return _inside(self.netns)

    def make(self) -> str:
        return f"ln -sfn {self.netns} /run/netns/{self.name}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"rm /run/netns/{self.name}"


class Bridge(msgspec.Struct, frozen=True):
    """A virtual switch, up, without spanning tree and without a delay before it forwards.

    Without *ipv6* it has no link-local address, and so sends nothing of its own in IPv6.
    """

    netns: str
    name: str
    owner: Owner
    mtu: int | None = None
    ipv6: bool | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return _inside(self.netns)

    def make(self) -> str:
        ip, mtu = _ip(self.netns), _mtu(self.mtu)
        return f"{ip} link add {self.name}{mtu} type bridge forward_delay 0 && {self.change()}"

    def change(self) -> str:
        return f"{_ip(self.netns)} link set {self.name}{_mtu(self.mtu)}{_addrgen(self.ipv6)} up"

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"


class Veth(msgspec.Struct, frozen=True):
    """A pair of Ethernet devices: one end, *name*, in *netns*; the other, *peer* with the MAC *mac*, in *peer_netns*.

    *isolated* keeps a bridge's port from its other isolated ports (Docker's `icc=false`). With *told* its bridge sends
    there only what is for those of whom it was told (`Forwarding`), or for all. Without *ipv6* neither end has an IPv6
    address of any kind. With *announce* the peer tells its neighbours of its IPv4 addresses when it goes up
    (`arp_notify`).
    """

    netns: str
    name: str
    peer_netns: str
    peer: str
    owner: Owner
    mac: str | None = None
    master: str | None = None
    mtu: int | None = None
    isolated: bool | None = None
    ipv6: bool | None = None
    announce: bool | None = None
    told: bool | None = None
    up: bool = True
    peer_up: bool = True

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        master = (link_key(self.netns, self.master),) if self.master else ()
        return (*_inside(self.netns), *_inside(self.peer_netns), *master)

    def make(self) -> str:
        master = f" master {self.master}" if self.master else ""
        mac = f" address {self.mac}" if self.mac else ""
        where = f" netns {self.peer_netns}" if self.peer_netns else ""
        mtu, mode = _mtu(self.mtu), _addrgen(self.ipv6)
        peer = f"{self.peer}{mac}{mtu}{where}"
        add = f"{_ip(self.netns)} link add {self.name}{mtu}{master} type veth peer name {peer}"
        isolate = self._isolate() if self.isolated or self.told else ""
        quiet = " addrgenmode none" if self.master else mode
        near = f"{_ip(self.netns)} link set {self.name}{quiet} up"
        return f"{add} && {isolate}{near} && {self._announce()}{_ip(self.peer_netns)} link set {self.peer}{mode} up"

    def change(self) -> str:
        master = f" master {self.master}" if self.master else ""
        mac = f" address {self.mac}" if self.mac else ""
        host = f"{_ip(self.netns)} link set {self.name}{_mtu(self.mtu)}{master} up"
        peer = f"{_ip(self.peer_netns)} link set {self.peer}{mac}{_mtu(self.mtu)} up"
        return f"{host} && {self._isolate()}{self._announce()}{peer}"

    def _announce(self) -> str:
        return _announce(self.peer_netns, self.peer, self.announce)

    def _isolate(self) -> str:
        isolated = "" if self.isolated is None else f" isolated {'on' if self.isolated else 'off'}"
        learning = "" if self.told is None else f" learning {_not(self.told)} flood {_not(self.told)}"
        return f"bridge{_n(self.netns)} link set dev {self.name}{isolated}{learning} && " if isolated + learning else ""

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"


class Vlan(msgspec.Struct, frozen=True):
    """The part of the traffic of *parent*, in the host's namespace, that bears the 802.1Q number *vid*; up."""

    netns: str
    name: str
    parent: str
    vid: int
    owner: Owner
    up: bool = True

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (*_inside(self.netns), link_key(self.netns, self.parent))

    def make(self) -> str:
        add = f"{_ip(self.netns)} link add link {self.parent} name {self.name} type vlan id {self.vid}"
        return f"{add} && {self.change()}"

    def change(self) -> str:
        return f"{_ip(self.netns)} link set {self.name} up"

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"


class Child(msgspec.Struct, frozen=True):
    """An interface in *netns* that stands on the wire of *parent*, a link in the host's namespace, which it needs.

    *kind* is "macvlan", with a MAC of its own, or "ipvlan", with that of its parent. *mode* says what it may say to the
    other children of that parent, in the words of ip-link(8); *flag* is ipvlan's second such word. Without *ipv6* it
    has no IPv6 address of any kind. With *announce* it tells its neighbours of its IPv4 addresses when it goes up
    (`arp_notify`).
    """

    netns: str
    name: str
    parent: str
    kind: str
    mode: str
    owner: Owner
    flag: str = ""
    mac: str | None = None
    mtu: int | None = None
    ipv6: bool | None = None
    announce: bool | None = None
    up: bool = True

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (*_inside(self.netns), link_key(HOST, self.parent))

    def make(self) -> str:
        where = f" netns {self.netns}" if self.netns else ""
        mode = f"{self.mode} {self.flag}".rstrip()
        add = f"ip link add link {self.parent} name {self.name}{self._mac()}{_mtu(self.mtu)}{where}"
        up = f"{_ip(self.netns)} link set {self.name}{_addrgen(self.ipv6)} up"
        return f"{add} type {self.kind} mode {mode} && {self._announce()}{up}"

    def change(self) -> str:
        up = f"{_ip(self.netns)} link set {self.name}{self._mac()}{_mtu(self.mtu)}{_addrgen(self.ipv6)} up"
        return f"{self._announce()}{up}"

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"

    def _mac(self) -> str:
        return f" address {self.mac}" if self.mac else ""

    def _announce(self) -> str:
        return _announce(self.netns, self.name, self.announce)


class Ifb(msgspec.Struct, frozen=True):
    """A link of its own for what comes in by another (`Redirect`), so that it can be shaped there; up.

    It gives back at once what it lets through, as if that had just come in by the other.
    """

    netns: str
    name: str
    owner: Owner
    up: bool = True

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return _inside(self.netns)

    def make(self) -> str:
        return f"{_ip(self.netns)} link add {self.name} type ifb && {self.change()}"

    def change(self) -> str:
        return f"{_ip(self.netns)} link set {self.name} addrgenmode none up"

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"


class Vxlan(msgspec.Struct, frozen=True):
    """A tunnel of the number *vni* (RFC 7348), up, and a port of the bridge *master* in *netns*.

    Its packets leave and come by the namespace *under*, by the UDP *port*, from the address *local* if that is given;
    in a namespace of ours they do so over IPv6. Either it is *learning* who is where by what comes, or it knows only
    what it is told (`Forwarding`), and answers itself for those whose addresses it is told (`Neighbour`). If it is
    *asking*, the kernel tells when somebody was looked for of whom it was not told.
    """

    netns: str
    name: str
    vni: int
    master: str
    owner: Owner
    port: int
    local: IPAddress | None = None
    learning: bool = False
    asking: bool = False
    mtu: int | None = None
    up: bool = True
    under: str = HOST

    @property
    def key(self) -> Key:
        return link_key(self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (*_inside(self.netns), *_inside(self.under), link_key(self.netns, self.master))

    def make(self) -> str:
        where = f" netns {self.netns}" if self.netns else ""
        local = f" local {self.local or '::'}" if self.local or self.under else ""
        ways = ("learning" if self.learning else "nolearning proxy") + (" l2miss l3miss" if self.asking else "")
        add = (
            f"{_ip(self.under)} link add {self.name}{_mtu(self.mtu)}{where} type vxlan "
            f"id {self.vni} dstport {self.port}{local} {ways}"
        )
        quiet = f"bridge{_n(self.netns)} link set dev {self.name} learning off"
        return f"{add} && {_ip(self.netns)} link set {self.name} master {self.master} addrgenmode none up && {quiet}"

    def change(self) -> str:
        return f"{_ip(self.netns)} link set {self.name}{_mtu(self.mtu)} master {self.master} up"

    def remove(self) -> str:
        return f"{_ip(self.netns)} link delete {self.name}"


class Forwarding(msgspec.Struct, frozen=True):
    """Where frames for *mac* go: to the port *link* of the bridge *master*, or through a tunnel to the host *remote*.

    For `NOBODY` there may be several, and what is for nobody known, or for all, is sent to each of them. What a bridge
    was told of a port, it forgets when that leaves.
    """

    netns: str
    link: str
    mac: str
    remote: IPAddress | None = None
    master: str | None = None

    @property
    def key(self) -> Key:
        return ("forwarding", self.netns, self.link, self.mac, str(self.remote) if self.mac == NOBODY else "")

    @property
    def needs(self) -> tuple[Key, ...]:
        master = (link_key(self.netns, self.master),) if self.master else ()
        return (link_key(self.netns, self.link), *master)

    def make(self) -> str:
        return self._say("append" if self.mac == NOBODY else "replace")

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return self._say("delete")

    def _say(self, verb: str) -> str:
        where = f"dst {self.remote} self permanent" if self.remote else "master static"
        return f"bridge{_n(self.netns)} fdb {verb} {self.mac} dev {self.link} {where}"


class Neighbour(msgspec.Struct, frozen=True):
    """Which *mac* has an *address* that is reached over a link of ours."""

    netns: str
    link: str
    address: IPAddress
    mac: str

    @property
    def key(self) -> Key:
        return ("neighbour", self.netns, self.link, str(self.address))

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(self.netns, self.link),)

    def make(self) -> str:
        return f"{_ip(self.netns)} neigh replace {self.address} lladdr {self.mac} dev {self.link} nud permanent"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"{_ip(self.netns)} neigh delete {self.address} dev {self.link}"


class Port(msgspec.Struct, frozen=True):
    """A link that is not ours (an uplink), up, and on a bridge that is. Removed, it leaves the bridge and stays."""

    netns: str
    name: str
    master: str
    owner: Owner

    @property
    def key(self) -> Key:
        return ("port", self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (*_inside(self.netns), link_key(self.netns, self.master))

    def make(self) -> str:
        return f"{_ip(self.netns)} link set {self.name} up master {self.master}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"{_ip(self.netns)} link set {self.name} nomaster"


class Shaper(msgspec.Struct, frozen=True):
    """A token bucket for what goes out by a link of ours (tc-tbf(8)): *rate* bits a second, and no more.

    It bears no mark: where it is wanted, it is the root of its link. What may pass at once, and what may wait, follows
    from the rate; where that is otherwise, the rate is told as 0.
    """

    netns: str
    link: str
    rate: int

    @property
    def key(self) -> Key:
        return ("shaper", self.netns, self.link)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(self.netns, self.link),)

    def make(self) -> str:
        bucket = f"rate {rates.written(self.rate)} burst {rates.burst(self.rate)} latency {rates.LATENCY}ms"
        return f"tc{_n(self.netns)} qdisc replace dev {self.link} root tbf {bucket}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"tc{_n(self.netns)} qdisc delete dev {self.link} root"


class Redirect(msgspec.Struct, frozen=True):
    """What comes in by *link*, of ours, goes out by *target* instead (tc-mirred(8)).

    The filter that says so has our priority among those of the link. It goes with *link*; where *target* goes, it
    stays, and drops all.
    """

    netns: str
    link: str
    target: str

    @property
    def key(self) -> Key:
        return ("redirect", self.netns, self.link)

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(self.netns, self.link), link_key(self.netns, self.target))

    def make(self) -> str:
        match = "u32 match u32 0 0"
        return (
            f"tc{_n(self.netns)} qdisc replace dev {self.link} clsact && tc{_n(self.netns)} filter add {self._place()} "
            f"{match} action mirred egress redirect dev {self.target}"
        )

    def change(self) -> str:
        return f"{self.remove()} ; {self.make()}"

    def remove(self) -> str:
        return f"tc{_n(self.netns)} filter delete {self._place()}"

    def _place(self) -> str:
        return f"dev {self.link} ingress pref {FILTER_PRIORITY}"


class Address(msgspec.Struct, frozen=True):
    """An address on a link of ours."""

    netns: str
    link: str
    interface: IPInterface
    owner: Owner

    @property
    def key(self) -> Key:
        return ("address", self.netns, self.link, str(self.interface))

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(self.netns, self.link),)

    def make(self) -> str:
        # Its protocol number is left out: iproute2 knows `proto` for addresses only since 6.2.
        nodad = " nodad" if self.interface.version == 6 else ""
        broadcast = " brd +" if self.interface.version == 4 and self.interface.network.prefixlen < 31 else ""
        return f"{_ip(self.netns)} address replace {self.interface}{broadcast} dev {self.link}{nodad}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"{_ip(self.netns)} address delete {self.interface} dev {self.link}"


class Route(msgspec.Struct, frozen=True):
    """A route to *destination* over a link of ours; `0.0.0.0/0` and `::/0` are the default routes.

    It is in the routing table of the number *table*.
    """

    netns: str
    destination: IPNetwork
    link: str
    owner: Owner
    via: IPAddress | None = None
    table: int = MAIN_TABLE

    @property
    def key(self) -> Key:
        return ("route", self.netns, str(self.destination), str(self.table))

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(self.netns, self.link),)

    def make(self) -> str:
        return self._say("replace")

    def change(self) -> str:
        return self._say("replace")

    def remove(self) -> str:
        return self._say("delete")

    def _say(self, verb: str) -> str:
        family = " -6" if self.destination.version == 6 else ""
        where = "default" if self.destination.prefixlen == 0 else str(self.destination)
        via = f" via {self.via}" if self.via else ""
        table = f" table {self.table}" if self.table != MAIN_TABLE else ""
        return f"{_ip(self.netns)}{family} route {verb} {where}{via} dev {self.link} proto {PROTOCOL}{table}"


class Rule(msgspec.Struct, frozen=True):
    """What is sent from *source* is routed by the table of the number *table* before all others."""

    netns: str
    source: IPAddress
    table: int

    @property
    def key(self) -> Key:
        return ("rule", self.netns, str(self.source))

    @property
    def needs(self) -> tuple[Key, ...]:
        return _inside(self.netns)

    def make(self) -> str:
        return self._say("add")

    def change(self) -> str:
        return self._say("add")

    def remove(self) -> str:
        return self._say("delete")

    def _say(self, verb: str) -> str:
        family = " -6" if self.source.version == 6 else ""
        what = f"from {self.source} lookup {self.table} priority {RULE_PRIORITY} protocol {PROTOCOL}"
        return f"{_ip(self.netns)}{family} rule {verb} {what}"


class Sysctl(msgspec.Struct, frozen=True):
    """A setting of the kernel, *name* written with dots; a name's slash stands for a dot in a link's name.

    It has no owner and is never taken back: what it was before is not known.
    """

    netns: str
    name: str
    value: str

    @property
    def key(self) -> Key:
        return ("sysctl", self.netns, self.name)

    @property
    def needs(self) -> tuple[Key, ...]:
        return _inside(self.netns)

    def make(self) -> str:
        return f"{_enter(self.netns)}sysctl -w {self.name}={self.value}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"# {self.name} stays {self.value}"


class Table(msgspec.Struct, frozen=True):
    """Our nftables table with all its chains and empty sets, in the version that *digest* stands for.

    *Needed* are those of its optional parts that it has, sorted: these come and go while all else stands.
    """

    digest: str
    needed: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return ("table",)

    @property
    def needs(self) -> tuple[Key, ...]:
        return ()

    @property
    def version(self) -> str:
        """All of that in one word, which `of` understands."""
        return "-".join((self.digest, *self.needed))

    @classmethod
    def of(cls, version: str) -> Self:
        """The table of this *version*."""
        digest, *needed = version.split("-")
        return cls(digest, tuple(needed))

    def make(self) -> str:
        return f"nft -f {TABLE}.nft  # {self.version}"

    def change(self) -> str:
        return self.make()

    def remove(self) -> str:
        return f"nft delete table inet {TABLE} && nft delete table bridge {TABLE}"


TABLES: tuple[Key, ...] = (("table",),)
"""What elements need: our tables, which come and go as one."""


# The collector does not look at what says `gc=False`: it cannot be a part of a cycle, and there may be thousands.
class Element(msgspec.Struct, frozen=True, gc=False):
    """One element of a set or map of our table. *permits* tells whether it lets packets through or keeps them out."""

    set: str
    match: tuple[str, ...]
    permits: bool
    value: str = ""
    family: str = "inet"

    @property
    def key(self) -> Key:
        return ("element", self.set, *self.match)

    @property
    def needs(self) -> tuple[Key, ...]:
        return TABLES

    def make(self) -> str:
        return self._say("add")

    def change(self) -> str:
        return f"{self._say('delete')} ; {self._say('add')}"

    def remove(self) -> str:
        return self._say("delete")

    def _say(self, verb: str) -> str:
        # An address or a number needs no quotes; no link has a colon in its name.
        match = " . ".join(part if part[:1].isdigit() or ":" in part else f'"{part}"' for part in self.match)
        value = f" : {self.value}" if self.value else ""
        return f"nft {verb} element {self.family} {TABLE} {self.set} '{{ {match}{value} }}'"


NOBODY = "00:00:00:00:00:00"
"""Stands for all those of whom a tunnel was not told (`Forwarding`)."""

Link = Bridge | Vlan | Veth | Child | Ifb | Vxlan
Resource = (
    Namespace
    | Nickname
    | Link
    | Port
    | Shaper
    | Redirect
    | Forwarding
    | Neighbour
    | Address
    | Route
    | Rule
    | Sysctl
    | Table
    | Element
)

ORDER: tuple[type, ...] = (
    Namespace,
    Nickname,
    Bridge,
    Vlan,
    Port,
    Ifb,
    Vxlan,
    Veth,
    Child,
    Shaper,
    Redirect,
    Forwarding,
    Neighbour,
    Sysctl,
    Address,
    Route,
    Rule,
)
"""What is made first stands first; removing reads it backwards. `Table` and `Element` have phases of their own."""


def announcing(link: str) -> str:
    """The name of the sysctl that is the `announce` of the link of this name."""
    return setting_of(link, 4, "arp_notify")


def setting_of(link: str, version: int, name: str) -> str:
    """The sysctl that is the setting *name* of a link, for that IP version; a dot in a link's name is written `/`.

    >>> setting_of("eth0.5", 6, "ndisc_notify")
    'net.ipv6.conf.eth0/5.ndisc_notify'
    """
    return f"net.ipv{version}.conf.{link.replace('.', '/')}.{name}"


def provided(resource: Resource) -> tuple[Key, ...]:
    """The keys that exist through *resource*: its own, and that of the other end of a pair."""
    if isinstance(resource, Veth):
        return (resource.key, link_key(resource.peer_netns, resource.peer))
    return (resource.key,)


def satisfied(desired: Resource, actual: Resource) -> bool:
    """Whether *actual* is all that *desired* says; a field that is None says nothing."""
    if desired is actual or desired == actual:
        return True
    if type(desired) is not type(actual):
        return False
    return all(
        (wanted := getattr(desired, name)) is None or wanted == getattr(actual, name)
        for name in desired.__struct_fields__
    )


def _inside(netns: str) -> tuple[Key, ...]:
    return (namespace_key(netns),) if netns != HOST else ()


def _n(netns: str) -> str:
    return f" -n {netns}" if netns else ""


def _enter(netns: str) -> str:
    return f"ip netns exec {netns} " if netns else ""


def _announce(netns: str, link: str, announce: bool | None) -> str:  # noqa: FBT001 - a value, not a mode
    """What sets `arp_notify`, and the word that goes on; "" if it is not ours to say."""
    if announce is None:
        return ""
    return f"{Sysctl(netns, announcing(link), str(int(announce))).make()} && "


def _ip(netns: str) -> str:
    return f"ip{_n(netns)}"


def _mtu(mtu: int | None) -> str:
    return f" mtu {mtu}" if mtu else ""


def _not(value: bool) -> str:  # noqa: FBT001 - a value, not a mode
    return "off" if value else "on"


def _addrgen(ipv6: bool | None) -> str:  # noqa: FBT001 - a value, not a mode
    return "" if ipv6 is None else f" addrgenmode {'eui64' if ipv6 else 'none'}"
