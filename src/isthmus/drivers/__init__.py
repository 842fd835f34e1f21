"""Network drivers: each a module of pure functions that say what a network and an endpoint are made of.

A driver sees values only: no socket, no store, no other driver. To add one, write such a module and put it into
`BUILTIN`, with golden plans; nothing else in the house has to know.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from isthmus.drivers import bridge, children, overlay, shared
from isthmus.drivers.traits import Traits
from isthmus.model import Endpoint, Host, IPAddress, Network, Peer
from isthmus.resources import Resource


class Driver(Protocol):
    """What the engine asks of a driver."""

    @property
    def addressed(self) -> bool:
        """Whether its networks have subnets, and its endpoints addresses and an interface."""

    @property
    def many_subnets(self) -> bool:
        """Whether a network may have several subnets of one family."""

    @property
    def singular(self) -> bool:
        """Whether there is exactly one network of this driver, which is there from the start."""

    @property
    def changeable(self) -> frozenset[str]:
        """The options of a network that may be others while sandboxes stand on it."""

    def check(self, network: Network, host: Host, others: Iterable[Network]) -> None:
        """Refuse a *network* that cannot be made beside the *others*, of all drivers, on this *host*.

        Raises:
            InvalidOption: an option is not what it must be.
            Forbidden: it collides with another network.
        """

    def completed(self, network: Network, others: Iterable[Network]) -> Network:
        """*network* with what its user left to us to choose beside the *others*, and what has to last."""

    def traits(self, network: Network) -> Traits:
        """The ways of the *network*."""

    def waits_for(self, network: Network, host: Host) -> str:
        """The link that this *host* lacks, or that is down, and without which nothing of the network can be made.

        It is "" if there is none: then all that `network` and `endpoint` say can be made.
        """

    def mtu(self, network: Network, host: Host) -> int | None:
        """The MTU of interfaces on the network, unless a DHCP server gave another; None if the kernel chooses it."""

    def network(self, network: Network, host: Host) -> Iterator[Resource]:
        """What the network itself is made of, on this host."""

    def reach(self, network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
        """The host's own place on the network, whose form follows from the *endpoints* that stand there, all of them.

        What does not need to know them leaves them unread.
        """

    def peers(self, network: Network, known: Iterable[Peer]) -> Iterator[Resource]:
        """What this host has to know of those who are on the network on other hosts."""

    def endpoint(self, network: Network, endpoint: Endpoint, netns: str, host: Host) -> Iterator[Resource]:
        """What joins a sandbox with the namespace *netns* to the network; without default routes."""

    def routers(self, network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
        """By IP version, the router to which *endpoint* may send what leaves the network.

        None stands for no router but the link itself. A version that is not there has no way out.
        """


BUILTIN: Mapping[str, Driver] = {
    "bridge": bridge,
    "host": shared.HOST,
    "ipvlan": children.IPVLAN,
    "macvlan": children.MACVLAN,
    "null": shared.NULL,
    "overlay": overlay,
}
"""The drivers by name."""
