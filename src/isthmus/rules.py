"""What the daemon's configuration says to the engine."""

from collections.abc import Mapping

import msgspec

from isthmus.addresses import IPNetwork, Pool, SubnetRequest
from isthmus.model import Pairs
from isthmus.ports import AUTOMATIC

LEASE = 24 * 3600 * 10**9
"""For how long an address is kept for a sandbox that left, if nobody says otherwise, in nanoseconds."""


class DefaultBridge(msgspec.Struct, frozen=True):
    """What the network `bridge` shall be."""

    options: Pairs
    subnets: tuple[SubnetRequest, ...] = ()
    ipv6: bool = False


class Rules(msgspec.Struct, frozen=True):
    """What the daemon's configuration says to the engine.

    *pools* give subnets to networks whose user names none, but nothing that overlaps one of *denied*. An address is
    kept for *lease* nanoseconds for a sandbox that left, if its network has no time of its own. *driver_options* are
    those of new networks by driver. In the IP versions of *forward* the host is made to forward where a network needs
    it; *closing* keeps it, then, from forwarding between interfaces of others. Without *default_bridge* there is no
    network `bridge`. Our rules are made for the IP versions of *firewall*; packets that bear one of *marks* may enter
    every network. Ports of the host are chosen from *automatic* where nobody names one. With *shared* there is a store
    that other hosts have, too; they reach this one by the address that it *advertises*, or the one of that link.
    """

    pools: tuple[Pool, ...]
    denied: tuple[IPNetwork, ...] = ()
    lease: int = LEASE
    driver_options: Mapping[str, Pairs] = msgspec.field(default_factory=dict)
    forward: frozenset[int] = frozenset({4, 6})
    closing: bool = True
    firewall: frozenset[int] = frozenset({4, 6})
    marks: tuple[int, ...] = ()
    default_bridge: DefaultBridge | None = None
    boot_id: str = ""
    automatic: range = AUTOMATIC
    shared: bool = False
    advertise: str = ""
