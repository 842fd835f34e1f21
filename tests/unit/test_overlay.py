"""The overlay driver: which networks there can be, and what they are like."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from isthmus.addresses import DEFAULT_POOLS, Subnet
from isthmus.drivers import overlay
from isthmus.errors import Forbidden, InvalidOption
from isthmus.model import Host, HostLink, Network, Peer, pairs
from isthmus.resources import Forwarding, Neighbour, Resource, Sysctl, Vxlan
from isthmus.rules import Rules
from tests.unit.test_engine import World
from tests.worlds import network

PEERS = "isthmus.peers"
MTU = "com.docker.network.driver.mtu"
HERE = ip_address("192.0.2.1")
HOST = Host((HostLink("eth0", "veth", 9000, (ip_interface("192.0.2.1/24"),)),), advertised=HERE)
FOUR, FOUR_TOO = (Subnet(ip_network(f"10.{n}.0.0/24"), ip_address(f"10.{n}.0.1")) for n in (6, 7))
SIX, SIX_TOO = (Subnet(ip_network(f"fd00:{n}::/64"), ip_address(f"fd00:{n}::1")) for n in (6, 7))


def shared(*subnets: Subnet, number: int = 1, **fields: object) -> Network:
    """A network that several hosts share."""
    made = replace(network("shared", "overlay", number), scope="global", subnets=subnets or (FOUR,))
    return replace(made, **fields)


def with_options(options: Mapping[str, str], *subnets: Subnet, number: int = 1, **fields: object) -> Network:
    """A network with these *options*."""
    return shared(*subnets, number=number, options=pairs(options), **fields)


def refusal(made: Network, *others: Network) -> str:
    """What is said against a network, which cannot be."""
    with pytest.raises((InvalidOption, Forbidden)) as refused:
        overlay.check(made, HOST, others)
    return str(refused.value)


def tunnels(made: Network, host: Host = HOST) -> list[Vxlan]:
    """The tunnels that a network is made of."""
    return [one for one in overlay.network(made, host) if isinstance(one, Vxlan)]


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("encrypted", "perhaps", "it must be true or false"),
        (overlay.VXLANS, "0", "a VXLAN number is from 1 to 16777215"),
        (overlay.VXLANS, "16777216", "a VXLAN number is from 1 to 16777215"),
        (overlay.VXLANS, "4096,x", "a VXLAN number is from 1 to 16777215"),
        (overlay.VXLANS, "-5", "a VXLAN number is from 1 to 16777215"),
        (PEERS, "host-two", "it must be addresses of other hosts, with commas between"),
        (PEERS, "192.0.2.2,0.0.0.0", "it must be addresses of other hosts, with commas between"),
        (PEERS, "127.0.0.1", "it must be addresses of other hosts, with commas between"),
        (PEERS, "239.1.1.1", "it must be addresses of other hosts, with commas between"),
        (PEERS, "192.0.2.0/24", "it must be addresses of other hosts, with commas between"),
        ("vxlan.port", "0", "it must be a whole number from 1 to 65535"),
        ("vxlan.port", "65536", "it must be a whole number from 1 to 65535"),
        (MTU, "67", "it must be a whole number from 68 to 65535"),
        ("isthmus.uplink", "eth1", "there is no such option; there are isthmus.egress, isthmus.lazy, isthmus.lease"),
        ("com.docker.network.container_iface_prefix", "a/b", "an interface name has 1 to 15 bytes"),
    ],
)
def test_an_option_that_cannot_be_is_refused(key: str, value: str, hint: str) -> None:
    """With its key, and what it can be."""
    said = refusal(with_options({overlay.VXLANS: "4096"} | {key: value}))
    assert said.startswith(f"failed to parse {key} value: ")
    assert hint in said


def test_an_mtu_below_what_ipv6_needs_is_refused() -> None:
    """The kernel would have no IPv6 on it."""
    options = {overlay.VXLANS: "4096", MTU: "1279"}
    assert "IPv6 needs at least 1280" in refusal(with_options(options, FOUR, SIX, ipv6=True))
    overlay.check(with_options(options), HOST, ())


def test_a_network_of_which_nobody_tells_who_is_where_is_refused() -> None:
    """It would be on this host alone."""
    said = refusal(with_options({overlay.VXLANS: "4096"}, scope="local"))
    assert "start the daemon with --cluster-store, or name the other hosts with -o isthmus.peers=ADDRESS,..." in said
    overlay.check(with_options({overlay.VXLANS: "4096", PEERS: "192.0.2.2"}, scope="local"), HOST, ())


@pytest.mark.parametrize(
    ("numbers", "subnets", "hint"),
    [
        ("", (FOUR,), "shared has 1 subnets, and each has a VXLAN number of its own, the same on all hosts"),
        ("5,6", (FOUR, SIX), "shared has 1 subnets"),
        ("5", (FOUR, FOUR_TOO, SIX), "shared has 2 subnets"),
        ("5,5", (FOUR, FOUR_TOO), "one number stands there twice"),
    ],
)
def test_numbers_that_are_not_one_for_each_subnet_are_refused(
    numbers: str, subnets: tuple[Subnet, ...], hint: str
) -> None:
    """IPv6 goes with IPv4."""
    options = {overlay.VXLANS: numbers, PEERS: "192.0.2.2"}
    assert hint in refusal(with_options(options, *subnets, scope="local"))


def test_a_number_that_another_network_has_is_refused() -> None:
    """A host has each once."""
    other = with_options({overlay.VXLANS: "5,6"}, FOUR, FOUR_TOO, number=2, name="other")
    mine = with_options({overlay.VXLANS: "6"})
    assert refusal(mine, other).endswith("6 (network other has that number)")
    overlay.check(mine, HOST, (mine, replace(other, driver="bridge")))


def test_numbers_are_chosen_that_no_other_network_has() -> None:
    """One for each subnet of IPv4, or of IPv6 where there is none of IPv4."""
    taken = with_options({overlay.VXLANS: "4096,4098"}, FOUR, FOUR_TOO, number=2)
    for subnets, numbers in (
        ((FOUR,), "4097"),
        ((FOUR, FOUR_TOO, SIX, SIX_TOO), "4097,4099"),
        ((SIX, SIX_TOO), "4097,4099"),
    ):
        assert dict(overlay.completed(shared(*subnets), (taken,)).options)[overlay.VXLANS] == numbers


def test_numbers_that_somebody_chose_stay() -> None:
    """And who names hosts himself has to choose them, for these know of no choice of ours."""
    for options in ({overlay.VXLANS: "9"}, {PEERS: "192.0.2.2"}):
        made = with_options(options)
        assert overlay.completed(made, ()) == made


@pytest.mark.parametrize(
    ("options", "host", "version", "size"),
    [
        ({}, HOST, 4, 8950),
        ({}, Host(), 4, 1450),
        ({}, Host(mtu=1400), 4, 1350),
        ({}, Host(mtu=1300), 6, 1280),
        ({PEERS: "2001:db8::2"}, Host(), 4, 1430),
        ({PEERS: "192.0.2.2"}, Host(mtu=65536), 4, 65485),
        ({MTU: "1400"}, HOST, 6, 1400),
    ],
)
def test_the_mtu_leaves_room_for_what_is_around_each_frame(
    options: dict[str, str],
    host: Host,
    version: int,
    size: int,
) -> None:
    """It is that of the link with the address by which others reach this host, or of the way out."""
    assert overlay.mtu(with_options(options, ipv6=version == 6), host) == size


def test_a_tunnel_is_sent_from_the_address_that_others_know() -> None:
    """A host may have several."""
    [tunnel] = tunnels(with_options({overlay.VXLANS: "5", "vxlan.port": "8472"}))
    assert (tunnel.vni, tunnel.local, tunnel.port, tunnel.learning) == (5, HERE, 8472, False)
    assert [one.local for one in tunnels(with_options({overlay.VXLANS: "5"}), Host())] == [None]


def test_a_network_that_names_its_hosts_learns_who_is_there() -> None:
    """Each once."""
    made = with_options({overlay.VXLANS: "5", PEERS: "192.0.2.2, 2001:db8::2,192.0.2.2"})
    entries = [one.remote for one in overlay.network(made, HOST) if isinstance(one, Forwarding)]
    assert [str(one) for one in entries] == ["192.0.2.2", "2001:db8::2"]
    assert [one.learning for one in tunnels(made)] == [True]
    assert not overlay.traits(made).spanning


def test_only_what_has_several_subnets_routes() -> None:
    """In its own namespace, where nothing else is."""
    two = with_options({overlay.VXLANS: "5,6"}, FOUR, FOUR_TOO, SIX, ipv6=True)
    assert _settings(overlay.network(shared(FOUR), HOST)) == set()
    assert _settings(overlay.network(two, HOST)) == {"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}
    assert _settings(overlay.network(shared(FOUR), replace(HOST, frames_filtered=False))) == {
        "net.bridge.bridge-nf-call-iptables",
        "net.bridge.bridge-nf-call-ip6tables",
    }


def _settings(made: Iterable[Resource]) -> set[str]:
    return {one.name for one in made if isinstance(one, Sysctl)}


@pytest.mark.parametrize("subnets", [(FOUR, FOUR_TOO, SIX, SIX_TOO), (SIX, FOUR, SIX_TOO, FOUR_TOO)])
def test_a_peer_is_behind_the_tunnel_of_its_subnet(subnets: tuple[Subnet, ...]) -> None:
    """With all its addresses."""
    made = with_options({overlay.VXLANS: "5,6"}, *subnets, ipv6=True)
    addresses = (ip_interface("10.7.0.9/24"), ip_interface("fd00:7::9/64"))
    peer = Peer("9" * 64, made.id, "two", ip_address("192.0.2.2"), "db", "02:42:0a:07:00:09", addresses)
    netns = "_ov-" + made.id[:12]
    expected: list[Resource] = [
        Forwarding(netns, "vxlan6", peer.mac, peer.via),
        *(Neighbour(netns, "vxlan6", address.ip, peer.mac) for address in addresses),
    ]
    assert [*overlay.peers(made, (peer,))] == expected


@pytest.fixture
def world() -> World:
    """A host that shares networks with others, and has learned of one."""
    world = World(HOST, Rules(pools=DEFAULT_POOLS, boot_id="one", shared=True, advertise="eth0"))
    world.engine.learn((with_options({overlay.VXLANS: "5"}),), ())
    return world


def told(world: World) -> set[Resource]:
    """What the host's tunnels are told."""
    return world.seen(Forwarding, Neighbour)


def test_peers_are_known_from_what_is_learned(world: World) -> None:
    """Until they are learned to be gone; each is a matter of its own."""
    made = shared()
    db, mail = peer(made, 8), peer(made, 9)
    world.engine.learn((db, mail), ())
    assert told(world) == {*overlay.peers(with_options({overlay.VXLANS: "5"}), (db, mail))}
    world.engine.learn((), (db,))
    assert told(world) == {*overlay.peers(with_options({overlay.VXLANS: "5"}), (mail,))}


def test_of_a_peer_that_is_another_now_nothing_old_is_known(world: World) -> None:
    """Its old MAC and addresses may be somebody else's."""
    before = peer(shared(), 8)
    after = replace(peer(shared(), 9), id=before.id)
    world.engine.learn((before,), ())
    world.engine.learn((after,), ())
    assert told(world) == {*overlay.peers(with_options({overlay.VXLANS: "5"}), (after,))}


def peer(made: Network, number: int) -> Peer:
    """Somebody on another host."""
    address = ip_interface(f"10.6.0.{number}/24")
    return Peer(
        f"{number}" * 64, made.id, "two", ip_address("192.0.2.2"), "db", f"02:42:0a:06:00:0{number}", (address,)
    )
