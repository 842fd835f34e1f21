"""What hosts share, as one of them reads it: what a change in the store means, and in what portions it is learnt."""

from ipaddress import ip_address, ip_interface, ip_network

from msgspec.structs import replace

from isthmus.addresses import Subnet
from isthmus.cluster.member import LESSON, _lessons
from isthmus.cluster.registry import Registry, of_network, of_peer
from isthmus.drivers.overlay import VXLANS
from isthmus.model import Network, Peer, pairs

MULTI = Network(
    "b" * 64,
    "multi",
    "overlay",
    5,
    (Subnet(ip_network("10.9.0.0/16"), ip_address("10.9.0.1")),),
    pairs({VXLANS: "4096"}),
    scope="global",
)


def peer(number: int, *addresses: str) -> Peer:
    """Somebody on another host."""
    held = tuple(map(ip_interface, addresses or (f"10.9.{number // 250}.{number % 250 + 2}/16",)))
    mac = f"02:00:00:00:{number // 256:02x}:{number % 256:02x}"
    return Peer(f"{number:064x}", MULTI.id, "other", ip_address("192.0.2.2"), f"far{number}", mac, held)


def test_who_has_two_addresses_is_there_as_long_as_one_of_them() -> None:
    """The store tells of each by itself."""
    registry = Registry()
    both = peer(1, "10.9.0.2/16", "fd00::2/64")
    first, second = of_peer(both)
    assert registry.take(of_network(MULTI) | of_peer(both)).put == (MULTI, both)
    assert registry.take({first: None}).drop == ()
    assert registry.take({second: None}).drop == (both,)


def test_who_changes_does_not_go() -> None:
    """He is known anew, without being forgotten in between."""
    registry = Registry()
    registry.take(of_network(MULTI) | of_peer(peer(1)))
    moved = replace(peer(1), via=ip_address("192.0.2.3"))
    changed = registry.take(of_peer(moved))
    assert (changed.put, changed.drop) == ((moved,), ())


def test_what_is_at_another_key_than_it_says_means_nothing() -> None:
    """Else two could have one address."""
    (value,) = of_peer(peer(1)).values()
    registry = Registry()
    registry.take({f"addresses/{MULTI.id}/10.9.0.77": value})
    assert [*registry.peers()] == []


def test_many_are_learnt_a_part_at_a_time() -> None:
    """A network comes before who is on it, and who goes makes room for who comes."""
    gone, come = [peer(number) for number in range(LESSON + 1)], [peer(number) for number in range(LESSON + 1, 2000)]
    lessons = [*_lessons((*come, MULTI), (*gone, replace(MULTI, id="c" * 64)))]
    assert all(len(put) + len(drop) <= LESSON for put, drop in lessons)
    assert [one for _, drop in lessons for one in drop] == [*gone, replace(MULTI, id="c" * 64)]
    assert [one for put, _ in lessons for one in put] == [MULTI, *come]
    first = next(at for at, (put, _) in enumerate(lessons) if put)
    assert [one for _, drop in lessons[:first] for one in drop] == gone
    assert [*_lessons(come[:2], gone[:2])] == [(come[:2], gone[:2])]
    assert [*_lessons((), ())] == []
