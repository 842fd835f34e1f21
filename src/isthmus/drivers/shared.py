"""host and none: networks without a network of their own.

A sandbox on `host` shares the namespace of the host; one on `none` has a namespace with nothing but a loopback, which
its user fills by hand. Either way there is nothing to make and no address to give: an endpoint only says who is
there. (The third way of sharing, `container:NAME`, is no network: there the sandbox's record names the other's
namespace.)
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from isthmus.drivers.traits import Traits
from isthmus.errors import Forbidden
from isthmus.model import Endpoint, Host, IPAddress, Network, Peer
from isthmus.resources import Resource


class Shared(msgspec.Struct, frozen=True):
    """A driver that makes nothing."""

    name: str
    addressed: bool = False
    many_subnets: bool = False
    singular: bool = True
    changeable: frozenset[str] = frozenset()

    def check(self, network: Network, host: Host, others: Iterable[Network]) -> None:
        """Refuse a second network (moby, drivers/host and drivers/null)."""
        if any(other.driver == self.name and other.id != network.id for other in others):
            raise Forbidden(f'only one instance of "{self.name}" network is allowed')

    def completed(self, network: Network, others: Iterable[Network]) -> Network:
        """As it is: nothing is left to us."""
        return network

    def traits(self, network: Network) -> Traits:
        """There are no interfaces of ours."""
        return Traits(prefix="", macs=False)

    def waits_for(self, network: Network, host: Host) -> str:
        """For nothing."""
        return ""

    def mtu(self, network: Network, host: Host) -> int | None:
        """There are no interfaces of ours."""
        return None

    def network(self, network: Network, host: Host) -> Iterator[Resource]:
        """Nothing."""
        yield from ()

    def reach(self, network: Network, endpoints: Iterable[Endpoint]) -> Iterator[Resource]:
        """Nothing."""
        yield from ()

    def peers(self, network: Network, known: Iterable[Peer]) -> Iterator[Resource]:
        """Nothing: nobody is elsewhere."""
        yield from ()

    def endpoint(self, network: Network, endpoint: Endpoint, netns: str, host: Host) -> Iterator[Resource]:
        """Nothing."""
        yield from ()

    def routers(self, network: Network, endpoint: Endpoint) -> Mapping[int, IPAddress | None]:
        """None: what leads out of here is not ours to say."""
        return {}


HOST = Shared("host")
NULL = Shared("null")
