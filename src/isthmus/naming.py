"""The names that our things have in the kernel, and the mark by which we know them again.

A link's name has at most 15 bytes, so names are cut from IDs; the mark (a link's alias) holds the IDs whole and is
matched by exact key, never by prefix. Addresses and routes carry a protocol number instead.
"""

from collections.abc import Hashable
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address
from typing import NamedTuple

from isthmus.model import Endpoint, Sandbox

PROTOCOL = 105
"""Our number in `IFA_PROTO` and `RTA_PROTOCOL`: none of those that iproute2's `rt_protos` gives away."""

DEFAULT_BRIDGE = "isthmus0"
"""The device of the network `bridge`."""

GATEWAY_NETWORK, GATEWAY_BRIDGE = "docker_gwbridge", "isthmus-gw"
"""The network by which those go out whose own networks have no way out (Docker's name for it), and its device."""

TABLE = "isthmus"
"""Our nftables table, of the family inet. All in it is ours, but for the chains named `user-...`."""

MAIN_TABLE = 254
"""The routing table that all lookups come to which no rule sends elsewhere (`RT_TABLE_MAIN`)."""

RULE_PRIORITY = 10_500
"""Where our rules stand in a sandbox: a rule without a priority of its own, as users write them, comes before them."""

FILTER_PRIORITY = 105
"""Where our filter stands among those of a link of ours, which bear no mark: one of a user's may come before it."""

PARENT = "parent"
"""Stands for the network in the mark of a link that several networks stand on: it goes with the last of them."""

_MARK = "isthmus:"


class Owner(NamedTuple):
    """Whose a resource is: of a network, or of one endpoint on it. A hand-made link has no network."""

    network: str
    endpoint: str = ""


def mark(owner: Owner) -> str:
    """The alias of a link of *owner*'s."""
    return f"{_MARK}{owner.network}:{owner.endpoint}"


def owner(alias: str) -> Owner | None:
    """Whose link bears this *alias*; None if it is no mark of ours."""
    if not alias.startswith(_MARK):
        return None
    network, colon, endpoint = alias[len(_MARK) :].partition(":")
    return Owner(network, endpoint) if colon else None


def bridge(network_id: str) -> str:
    """The device of a bridge network whose user named none (Docker's form)."""
    return f"br-{network_id[:12]}"


def veth(endpoint_id: str) -> str:
    """The host's end of an endpoint's veth pair."""
    return f"veth{endpoint_id[:11]}"


def ifb(endpoint_id: str) -> str:
    """The link by which what comes from an endpoint passes, so that it can be shaped."""
    return f"ifb{endpoint_id[:11]}"


def table(endpoint_id: str) -> int:
    """The routing table of an endpoint in its sandbox: beyond those numbers that people give away."""
    return 0x4000_0000 | int(endpoint_id[:7], 16)


def dummy(network_id: str) -> tuple[str, str]:
    """The parent that we make for a network whose user named none (Docker's form), and its end that leads nowhere."""
    return f"dm-{network_id[:12]}", f"dn-{network_id[:12]}"


def hidden(network_id: str) -> str:
    """The namespace of an overlay network; no sandbox can have that name."""
    return f"_ov-{network_id[:12]}"


def is_hidden(netns: str) -> bool:
    """Whether a namespace of this name is that of a network."""
    return netns.startswith("_ov-")


ENCRYPTED = "_ov-encrypted"
"""The namespace in which all that there is are ways by WireGuard: what leaves it is encrypted."""


def tunnel(vni: int) -> str:
    """The tunnel of this number in the namespace of its network."""
    return f"vxlan{vni}"


def shim(network_id: str) -> str:
    """The interface by which the host itself stands on a network of children of a link of its own."""
    return f"mv-{network_id[:12]}"


@lru_cache(maxsize=4096)
def mac(network_id: str, address: Hashable) -> str:
    """The MAC of whoever has this *address* on the network, whose user demanded no other: 02:..., locally administered.

    With the address goes the MAC: when another sandbox gets it, nobody's neighbour table is out of date. Networks of
    other hosts on the same wire have other IDs, and so other MACs.
    """
    return (b"\x02" + sha256(f"{network_id} {address}".encode()).digest()[:5]).hex(":")


def octets(mac: str) -> bytes:
    """The six bytes of a *mac* as it is on the wire.

    >>> octets("02:42:0a:05:00:02").hex()
    '02420a050002'
    """
    return bytes.fromhex(mac.replace(":", ""))


def link_local(mac: str) -> IPv6Address:
    """The link-local address that the kernel gives an interface with this *mac* (RFC 4291, appendix A).

    >>> link_local("02:42:0a:05:00:02")
    IPv6Address('fe80::42:aff:fe05:2')
    """
    first, *rest = octets(mac)
    return IPv6Address(bytes((0xFE, 0x80, *bytes(6), first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:])))


def dns_names(user: Sandbox, endpoint: Endpoint) -> tuple[str, ...]:
    """The names that *user* answers to by its *endpoint*, in Docker's order: name, aliases, short ID, hostname."""
    names = (user.name, *endpoint.aliases, user.id[:12], user.hostname)
    return tuple(dict.fromkeys(name for name in names if name))
