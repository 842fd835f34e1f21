"""A LAN with a router and a peer, and a host of ours on it: what the tests of macvlan and of addresses arrange with."""

from dataclasses import dataclass
from typing import Self

from tests.e2e.hosts import Host, Machine, Place, World, reaches, wire

GATEWAY, PEER, OWN = "10.0.36.254", "10.0.36.9", "10.0.36.5"
GATEWAY6, OWN6 = "fd36::fe", "fd36::5"

ONE = "-d macvlan --subnet=10.0.36.0/24 --ip-range=10.0.36.115/32 --gateway=10.0.36.254 -o parent=ens34"
RANGE = (
    "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.192/27 --aux-address host=10.0.36.223 "
    "--gateway 10.0.36.254 -o parent=ens34"
)
"""Two networks as their users write them."""


@dataclass(frozen=True, slots=True)
class Lan:
    """A host with a daemon, plugged by ens34 into the LAN 10.0.36.0/24; the LAN's router; and a peer of the host's."""

    host: Host
    router: Machine
    peer: Machine

    @classmethod
    def of(cls, world: World) -> Self:
        """The LAN, with nothing on it yet."""
        host, router, peer = world.host(), world.machine("router"), world.machine("peer")
        router.batch("link add lan0 type bridge", "link set lan0 up", f"address add {GATEWAY}/24 dev lan0")
        router.batch(f"address add {GATEWAY6}/64 dev lan0 nodad")
        wire(peer, "eth0", router, "port2")
        router.batch("link set port2 master lan0")
        peer.batch(f"address add {PEER}/24 dev eth0")
        lan = cls(host, router, peer)
        lan.plug()
        return lan

    def plug(self) -> None:
        """Wire the host's ens34."""
        wire(self.host, "ens34", self.router, "port1")
        self.router.batch("link set port1 master lan0")
        self.host.batch(f"address add {OWN}/24 dev ens34", f"address add {OWN6}/64 dev ens34 nodad")


def mac(place: Place, interface: str = "eth0") -> str:
    """The MAC of a place's interface."""
    (link,) = place.ip(f"link show dev {interface}")
    return str(link["address"])


def known_as(place: Place, address: str, interface: str) -> str:
    """The MAC that *place* has in mind for a neighbour."""
    return next((str(one.get("lladdr")) for one in place.ip(f"neigh show {address} dev {interface}")), "")


def both_ways(one: Place, address: str, other: Place, address_there: str) -> bool:
    """Whether two places reach each other."""
    return reaches(one, address_there, "icmp") and reaches(other, address, "icmp")
