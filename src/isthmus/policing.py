"""Who is held to what he is, and to which egress policies.

A policy is kept where what its sandbox sends comes to the host's rules. From an overlay nothing comes there but by the
way out of who stands on it: there he is held to the policies of all his overlays. Each of these has to let a call
through, for whoever made one knew nothing of the others.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from isthmus import firewall, naming
from isthmus.drivers import BUILTIN
from isthmus.drivers.traits import Traits
from isthmus.egress import EGRESS, Egress, egress_of
from isthmus.firewall import Subject
from isthmus.model import Endpoint, IPAddress, Network
from isthmus.resources import Element

Standing = Iterable[tuple[Network, Endpoint]]
"""All endpoints in one namespace, each with its network."""


def subjects(standing: Standing) -> Iterator[Subject]:
    """Who of those *standing* in a namespace is held to egress policies: by himself, or with all on his network."""
    for one in _places(standing):
        if one.held:
            yield one.held
        elif one.traits.entrance and one.traits.egress:
            yield Subject(one.traits.entrance, None, (one.traits.egress,))


def elements(standing: Standing) -> Iterator[Element]:
    """The elements by which those *standing* in a namespace are held to what they are, and to policies by themselves.

    What all on a network are held to is that network's to say.
    """
    for one in _places(standing):
        # What a policy speaks of is an address, so nobody else's may be used.
        if one.held or one.traits.guarded:
            yield from firewall.senders(naming.veth(one.endpoint.id), one.endpoint.mac, one.sources)
        if one.held:
            yield from firewall.held(one.held)


def calls(network: Network, endpoint: Endpoint, source: IPAddress) -> bool:
    """Whether what comes to the host's rules from *source* comes from this *endpoint*."""
    has = any(address.ip == source for address in endpoint.addresses)
    return has and bool(BUILTIN[network.driver].traits(network).entrance)


class _Place(NamedTuple):
    """An endpoint on a network with these *traits*; *inner* are the policies of those that it is a way out for."""

    network: Network
    endpoint: Endpoint
    traits: Traits
    inner: tuple[Egress, ...] = ()

    @property
    def own(self) -> Egress | None:
        """The endpoint's own policy."""
        return egress_of(dict(self.endpoint.options).get(EGRESS, "")) if self.endpoint.options else None

    @property
    def policy(self) -> Egress | None:
        """The network's policy with the endpoint's behind it."""
        shared, own = self.traits.egress, self.own
        return shared + own if shared and own else shared or own

    @property
    def sources(self) -> tuple[IPAddress, ...]:
        """The addresses that the endpoint may send from."""
        local = (naming.link_local(self.endpoint.mac),) if self.network.ipv6 else ()
        return (*(address.ip for address in self.endpoint.addresses), *self.endpoint.link_local, *local)

    @property
    def held(self) -> Subject | None:
        """The endpoint as it is held to more than all on its network are; None if it is not."""
        if not self.traits.entrance or not (self.inner or self.own):
            return None
        policies = (*self.inner, *([self.policy] if self.policy else ()))
        # Who is held to one in earnest is not told besides what another would drop.
        strict = tuple(policy for policy in policies if not policy.dry_run)
        return Subject(self.traits.entrance, self.sources, strict or policies)


def _places(standing: Standing) -> Iterator[_Place]:
    """All of *standing*; the way out among them with the policies of the overlays that it is for."""
    places = [_Place(network, one, BUILTIN[network.driver].traits(network)) for network, one in standing]
    for place in places:
        if place.network.name == naming.GATEWAY_NETWORK:
            inside = sorted((one for one in places if one.traits.enclosed), key=lambda one: one.network.name)
            yield place._replace(inner=tuple(policy for one in inside if (policy := one.policy)))
        else:
            yield place
