"""Network drivers: each a module of pure functions that say what a network and an endpoint are made of.

A driver sees values only: no socket, no store, no other driver. To add one, write such a module and put it into
`BUILTIN`, with golden plans; nothing else in the house has to know.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from isthmus.drivers import bridge, shared
from isthmus.model import Endpoint, Host, IPAddress, Network
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

    def check(self, network: Network, host: Host, others: Iterable[Network]) -> None:
        """Refuse a *network* that cannot be made beside the *others* of this driver on this *host*.

        Raises:
            InvalidOption: an option is not what it must be.
            Forbidden: it collides with another network.
        """

    def needs_gateway(self, network: Network) -> bool:
        """Whether an address of each subnet is set aside for a gateway where the user names none."""

    def parent(self, network: Network) -> str:
        """The link of the host's that its endpoints stand on, as a user named it; "" where they need none of others.

        While the host lacks it, the network waits.
        """

    def segment(self, network: Network) -> str:
        """The link in the host's namespace by which its broadcast domain is reached, and which stands for that.

        It is "" where the host is the router: then its subnets have to be apart from all others that the host routes.
        """

    def network(self, network: Network, host: Host) -> Iterator[Resource]:
        """What the network itself is made of, on this host."""

    def reach(self, network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
        """What the host has because these *endpoints*, all that there are, stand on the network."""

    def endpoint(self, network: Network, endpoint: Endpoint, netns: str) -> Iterator[Resource]:
        """What joins a sandbox with the namespace *netns* to the network; without default routes."""

    def routers(self, network: Network) -> tuple[IPAddress, ...]:
        """Where an endpoint may send what leaves the network: at most one address of each family."""

    def interface_prefix(self, network: Network) -> str:
        """How interfaces in sandboxes are named, without their number."""


BUILTIN: Mapping[str, Driver] = {"bridge": bridge, "host": shared.HOST, "null": shared.NULL}
"""The drivers by name."""
