"""The index of names, kept in step change by change, says what one says that was made of the records at once."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.dns.lookup import Directory
from isthmus.model import Binding, Block, Endpoint, Lease, Record, Sandbox
from tests.worlds import endpoint, network, sandbox

NETWORKS = (network("front"), network("back", number=2), replace(network("bridge", number=3), predefined=True))
SANDBOXES = (sandbox("web"), sandbox("db", number=101), replace(sandbox("guest", number=102), netns="web"))
ALIASES = st.lists(st.sampled_from(["pool", "*.app", "WEB", "db", "x.y"]), max_size=2, unique=True).map(tuple)


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[list[Record], list[Record]]]:
    """What the engine may record, one commit after the other: each with what it puts and what it drops."""
    made: list[tuple[list[Record], list[Record]]] = [(list(NETWORKS), [])]
    users: dict[str, Sandbox] = {}
    places: dict[tuple[str, str], Endpoint] = {}
    for number in range(draw(st.integers(1, 25))):
        user = draw(st.sampled_from(SANDBOXES))
        net = draw(st.sampled_from(NETWORKS))
        place = places.get((net.id, user.id))
        if user.id not in users:
            users[user.id] = replace(user, hostname=draw(st.sampled_from(["", "www", "db"])))
            made.append(([users[user.id]], []))
        elif place is None:
            new = replace(endpoint(net, user, f"10.0.0.{number}/24", number=200 + number), aliases=draw(ALIASES))
            places[net.id, user.id] = new
            made.append(([new], []))
        elif draw(st.booleans()):
            moved = replace(place, addresses=endpoint(net, user, f"10.0.1.{number}/24").addresses)
            places[net.id, user.id] = moved
            made.append(([moved], []))
        elif draw(st.booleans()):
            leaving = replace(place, removing=True)
            del places[net.id, user.id]
            made += [([leaving], []), ([], [leaving])]
        else:
            leaving_user = replace(users.pop(user.id), removing=True)
            theirs = [places.pop(key) for key in tuple(places) if key[1] == user.id]
            made += [([leaving_user], []), ([], [*theirs, leaving_user])]
    return made


@settings(deadline=None)
@given(stories())
def test_an_index_that_learns_is_one_that_was_made_anew(story: list[tuple[list[Record], list[Record]]]) -> None:
    """Else a daemon would tell something else after a restart, and names would leak over the years."""
    learning = Directory()
    known: dict[str, Record] = {}
    for put, drop in story:
        before = learning.version
        learning.learn(put, drop)
        assert learning.version > before
        for record in drop:
            assert isinstance(record, Endpoint | Sandbox)
            known.pop(record.id, None)
        known.update((record.id, record) for record in put if not isinstance(record, Lease | Binding | Block))
        fresh = Directory()
        fresh.learn(known.values())
        for netns in ("web", "db"):
            assert learning.served(netns) == fresh.served(netns)
            for name in ("web", "db", "www", "pool", "a.app", "x.y", "db.front", "pool.back", "web.bridge"):
                ours, theirs = learning.find(netns, name), fresh.find(netns, name)
                assert (ours is None) == (theirs is None), name
                assert set(ours or ()) == set(theirs or ()), name
            for octets in ("0.0", "0.1"):
                for number in range(25):
                    address = endpoint(NETWORKS[0], SANDBOXES[0], f"10.{octets}.{number}/24").addresses[0].ip
                    assert learning.name_of(netns, address) == fresh.name_of(netns, address)
    for record in tuple(known.values()):
        if isinstance(record, Endpoint):
            learning.learn([], [known.pop(record.id)])
    learning.learn([], [record for record in known.values() if isinstance(record, Sandbox)])
    learning.learn([], NETWORKS)
    assert vars(learning) == vars(Directory()) | {"version": learning.version}
