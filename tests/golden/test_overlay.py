"""Plans of networks that are on several hosts, as text."""

from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_interface, ip_network

from msgspec.structs import replace

from isthmus.addresses import Subnet
from isthmus.drivers import overlay
from isthmus.model import Endpoint, Host, HostLink, Network, Peer, pairs
from isthmus.plan import diff
from isthmus.resources import Resource

Golden = Callable[[str, str], None]

HOST = Host(
    (HostLink("eth0", "veth", 1500, (ip_interface("192.0.2.1/24"),)),),
    frames_filtered=False,
    advertised=ip_address("192.0.2.1"),
)
STATIC = Network(
    "5" * 64,
    "static",
    "overlay",
    1,
    subnets=(Subnet(ip_network("10.7.0.0/24"), ip_address("10.7.0.1")),),
    options=pairs({overlay.VXLANS: "7", "isthmus.peers": "192.0.2.2,192.0.2.3"}),
)
SHARED = Network(
    "6" * 64,
    "shared",
    "overlay",
    1,
    subnets=tuple(
        Subnet(ip_network(cidr), ip_address(gateway))
        for cidr, gateway in (
            ("10.6.0.0/24", "10.6.0.1"),
            ("10.6.1.0/24", "10.6.1.1"),
            ("fd00:6::/64", "fd00:6::1"),
            ("fd00:6:1::/64", "fd00:6:1::1"),
        )
    ),
    options=pairs({overlay.VXLANS: "4096,4097"}),
    ipv6=True,
    scope="global",
)
WEB = Endpoint(
    "1" * 64,
    SHARED.id,
    "2" * 64,
    1,
    "eth0",
    "02:42:0a:06:00:02",
    (ip_interface("10.6.0.2/24"), ip_interface("fd00:6::2/64")),
)
DB = Peer(
    "3" * 64,
    SHARED.id,
    "two",
    ip_address("192.0.2.2"),
    "db",
    "02:42:0a:06:00:03",
    (ip_interface("10.6.0.3/24"), ip_interface("fd00:6::3/64")),
)
MAIL = Peer(
    "4" * 64,
    SHARED.id,
    "three",
    ip_address("192.0.2.3"),
    "mail",
    "02:42:0a:06:01:04",
    (ip_interface("10.6.1.4/24"), ip_interface("fd00:6:1::4/64")),
)


def network(*known: Peer) -> tuple[Resource, ...]:
    """The shared network, with what is known of who is elsewhere."""
    return (*overlay.network(SHARED, HOST), *overlay.peers(SHARED, known))


def plan(desired: Iterable[Resource], actual: Iterable[Resource]) -> str:
    """What leads from one to the other, as text."""
    return str(diff(desired, actual)) + "\n"


JOINED = (*network(DB, MAIL), *overlay.endpoint(SHARED, WEB, "web", HOST))


def test_a_network_names_its_hosts(golden: Golden) -> None:
    """What is for all is sent to each of them."""
    golden("overlay-static.plan", plan(overlay.network(STATIC, HOST), ()))


def test_a_shared_network_is_made_where_others_have_it(golden: Golden) -> None:
    """Each pair of subnets has its tunnel, and what is behind it is told."""
    golden("overlay-create.plan", plan(network(DB, MAIL), ()))


def test_a_sandbox_joins_it(golden: Golden) -> None:
    """It finds its way to the other subnets, too."""
    golden("overlay-connect.plan", plan(JOINED, network(DB, MAIL)))


def test_a_sandbox_leaves_it(golden: Golden) -> None:
    """What a bridge was told of a port goes with that."""
    golden("overlay-disconnect.plan", plan(network(DB, MAIL), JOINED))


def test_a_peer_comes(golden: Golden) -> None:
    """Nothing else is touched."""
    golden("overlay-peer-comes.plan", plan(network(DB, MAIL), network(DB)))


def test_a_peer_moves_to_another_host(golden: Golden) -> None:
    """It has the same MAC and addresses there."""
    golden("overlay-peer-moves.plan", plan(network(replace(DB, via=MAIL.via), MAIL), network(DB, MAIL)))


def test_a_peer_leaves(golden: Golden) -> None:
    """Nobody is asked for its addresses any more."""
    golden("overlay-peer-leaves.plan", plan(network(MAIL), network(DB, MAIL)))


def test_the_host_has_another_address(golden: Golden) -> None:
    """Its tunnels are made anew, and told all again."""
    moved = replace(HOST, advertised=ip_address("198.51.100.1"))
    wanted = (*overlay.network(SHARED, moved), *overlay.peers(SHARED, (DB, MAIL)))
    golden("overlay-moves.plan", plan(wanted, network(DB, MAIL)))


def test_a_shared_network_is_removed(golden: Golden) -> None:
    """With its namespace all that is in it goes."""
    golden("overlay-remove.plan", plan((), network(DB, MAIL)))
