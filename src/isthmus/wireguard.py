"""What hosts are to each other by WireGuard, and how its program `wg` is told that.

A key's inner address follows from the key, so nobody can take another's: whoever sends from an address has its key.
"""

import binascii
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network

import msgspec

from isthmus.model import IPAddress

PREFIX = IPv6Network("fd69:7374:686d::/48")
"""The inner addresses of all hosts. They are in a namespace in which there is nothing else."""

PORTS = range(51820, 51836)
"""The UDP ports of this host that are tried in turn: WireGuard's usual one, and others where that is taken."""

OVERHEAD = 80
"""How many bytes WireGuard, UDP and IPv6 put around a packet."""

KEEPALIVE = 25
"""How often, in seconds, a host is heard of: who is behind NAT is reached only while that remembers him."""

FRESH = 180
"""For how long, in seconds, a handshake tells that somebody is there: by then there has been another one."""


HEED = 1.0
"""For how long, in seconds, a host that another is to call first waits for him, before it calls him."""


class Device(msgspec.Struct, frozen=True):
    """A device with its *public* key and its UDP *port*; and by key, when each of the others last answered it.

    That is in seconds since the epoch, 0 for never. Those *called* are called by it every `KEEPALIVE` seconds.
    """

    public: str
    port: int
    others: Mapping[str, int] = msgspec.field(default_factory=dict)
    called: frozenset[str] = frozenset()


def is_key(text: str) -> bool:
    """Whether *text* is a key, as `wg` writes them.

    >>> is_key("eDIZn6BtkyPYjbh3sE+JS4Dg/49DYaf1KDq0naRHAmg="), is_key("endpoint")
    (True, False)
    """
    try:
        return len(text) == 44 and len(binascii.a2b_base64(text, strict_mode=True)) == 32
    except ValueError:
        return False


def address(public: str) -> IPv6Address:
    """The inner address of who has the key that belongs to *public*."""
    return PREFIX[int.from_bytes(sha256(public.encode()).digest()[:10], "big")]


def device(public: str) -> str:
    """The name of the device with that key."""
    return f"wg{sha256(public.encode()).hexdigest()[:12]}"


def lifetime(public: str, longest: float) -> float:
    """For how long that key is used, if none is for longer than *longest*, in the same unit.

    It is between a half of that and all of it, by chance, which lies in the key: hosts that got theirs at one time do
    not all replace them at one time, and a host that starts anew need not remember what it drew.
    """
    return longest * (1 + int(address(public)) % 65536 / 65536) / 2


def read(dump: str) -> Device:
    r"""What `wg show DEVICE dump` tells.

    >>> read("PRIVATE=\tPUBLIC=\t51820\toff\nOTHER=\t(none)\t192.0.2.7:51820\tfd69::1/128\t17\t0\t0\t25\n")
    Device(public='PUBLIC=', port=51820, others={'OTHER=': 17}, called=frozenset({'OTHER='}))
    """
    own, *others = (line.split("\t") for line in dump.splitlines())
    called = frozenset(one[0] for one in others if one[7] != "off")
    return Device(own[1], int(own[2]), {one[0]: int(one[4]) for one in others}, called)


def calls_first(public: str, other: str) -> bool:
    """Whether who has the key of *public* calls that *other* first.

    Of two who call each other at the same moment neither takes the other's answer, and they try again after 5 s; or one
    takes it when it has just given an answer itself, and both go by keys that the other has not, for 15 s. This was
    seen with wireguard-go 0.0.20210212.
    """
    return public < other


def words(
    there: Device,
    wanted: Mapping[str, str],
    told: Mapping[str, str],
    kept: Collection[IPAddress],
    heeded: Collection[str] = (),
) -> Iterator[str]:
    """What `wg set DEVICE` is to be told so that the device which is *there* has those keys that are *wanted*.

    These have endpoints, "" for none that is known. One is told only once (what was *told* before is known): from
    where a host is heard later, there it is reached, and to say the old again would undo that. Keys whose addresses are
    to be *kept* stay although nobody is known to want them. Those who are *heeded* are not called.

    >>> there = Device("OWN=", 51820, {"A=": 0, "B=": 0}, frozenset({"A=", "B="}))
    >>> " ".join(words(there, {"B=": "192.0.2.7:51820"}, {"B=": "192.0.2.6:51820"}, ()))
    'peer A= remove peer B= endpoint 192.0.2.7:51820'
    """
    for public in sorted(there.others.keys() - wanted.keys()):
        if address(public) not in kept:
            yield from ("peer", public, "remove")
    for public, endpoint in sorted(wanted.items()):
        change: tuple[str, ...] = ()
        if endpoint and (public not in there.others or told.get(public, endpoint) != endpoint):
            change += ("endpoint", endpoint)
        if public not in there.called and public not in heeded:
            change += ("persistent-keepalive", str(KEEPALIVE))
        if public not in there.others:
            change += ("allowed-ips", f"{address(public)}/128")
        if change:
            yield from ("peer", public, *change)
