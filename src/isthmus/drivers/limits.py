"""What limits the rates of an endpoint that is a pair of veths, whichever driver it is of."""

from collections.abc import Iterator

from isthmus import naming
from isthmus.model import Endpoint
from isthmus.naming import Owner
from isthmus.rates import RATE, parse
from isthmus.resources import Ifb, Redirect, Resource, Shaper


def limits(endpoint: Endpoint, netns: str) -> Iterator[Resource]:
    """What limits an endpoint whose outer end is in *netns*.

    What goes to it goes out by that end. What comes from it comes in there, where there is no queue, and so has to go
    out by a link of its own first.
    """
    rates, mine = parse(dict(endpoint.options).get(RATE, "")), Owner(endpoint.network, endpoint.id)
    veth, ifb = naming.veth(endpoint.id), naming.ifb(endpoint.id)
    if rates.down:
        yield Shaper(netns, veth, rates.down)
    if rates.up:
        yield Ifb(netns, ifb, mine)
        yield Shaper(netns, ifb, rates.up)
        yield Redirect(netns, veth, ifb)
