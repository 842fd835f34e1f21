"""What the house has to know of a network besides the resources it is made of, as its driver reads its options."""

import msgspec

from isthmus.egress import Egress
from isthmus.firewall import Mode
from isthmus.model import IPAddress
from isthmus.options import Callers, Probe


class Traits(msgspec.Struct, frozen=True):
    """The ways of one network.

    *prefix* is how interfaces in sandboxes are named, without their number. With *gateway*, an address of each subnet
    is set aside for us where the user names no router. *macs* tells whether each endpoint has a MAC of its own, which
    a user may demand. With *host_address* the host has an address of its own in each subnet, beside the endpoints.

    *segment* is the link in the host's namespace by which the broadcast domain of the network is reached, and which
    stands for that; "" where the host is the router: then its subnets are apart from all that the host routes. It is
    *wired* if others than ours may be on it, and *probe* tells how they are asked for an address then. It is *switched*
    if it is a bridge, which does not hear what passes to an endpoint's MAC. *nic* is the link of the host's by which
    frames leave it. It is *guarded* if members are held to the MAC and the addresses that they have. *publishing* has,
    for each IP version in which ports of the host can lead there, in what mode; *binding* is the address of the host
    that is meant there if nobody names one, None for all. *callers* alone may use such ports; None if all may.
    *entrance* is the bridge by which what leaves comes to the host's rules; "" if it does not come there from here. It
    *polices* if members can be held to an egress policy, as all are to *egress* if there is one. It is *shapeable* if
    all that an endpoint receives and sends passes by a pair of veths. It is *spanning* if it is on several hosts at
    once, which know of it, and of who is on it, by the store that they share. It is *enclosed* if nothing leads out of
    it, though its members shall have a way out. It is *lazy* if a host is told only of those elsewhere whom somebody
    looks for.
    """

    prefix: str = "eth"
    gateway: bool = False
    macs: bool = True
    host_address: bool = False
    segment: str = ""
    wired: bool = False
    switched: bool = False
    nic: str = ""
    guarded: bool = False
    publishing: tuple[tuple[int, Mode], ...] = ()
    binding: IPAddress | None = None
    callers: Callers | None = None
    entrance: str = ""
    polices: bool = False
    egress: Egress | None = None
    shapeable: bool = False
    spanning: bool = False
    enclosed: bool = False
    lazy: bool = False
    probe: Probe = Probe.OFF
