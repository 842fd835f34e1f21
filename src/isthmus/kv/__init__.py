"""A key-value store that several hosts share: the verbs that Consul and etcd both have.

Keys are paths like `nodes/<id>`; values are bytes. A commit is one transaction, with guards: all of it is done, or
nothing. What hosts put under a session goes when that ends, because they left or did not renew it in time.

Two things speak this protocol over the network, `consul.Consul` and `etcd.Etcd`, and one in memory, `memory.Memory`;
one suite of tests holds all three to it. They are used on an event loop's thread, and tell of every failure by
`StoreUnavailable`: at the latest when servers have said nothing for `PATIENCE`.
"""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from typing import Protocol

import msgspec

PATIENCE = 5.0
"""For how long, in seconds, a store may be silent before it is taken to be away."""

LIMIT = 30
"""How many keys one commit may name, each guard counted, too.

Consul takes 64 operations a transaction: two set a key anew, and three tell others (etcd takes 128).
"""

SIZE = 256 * 1024
"""How many bytes all values of a commit may have together; Consul takes 512 KiB a transaction, as base64."""


class Snapshot(msgspec.Struct, frozen=True):
    """What the store held below a prefix at one *revision*.

    Revisions grow, as long as it is the same store. Consul's may stand still, or fall back, where all that happened
    below the prefix were deletions, a quarter of an hour ago (it forgets them then).
    """

    revision: int
    items: Mapping[str, bytes]


class Delta(msgspec.Struct, frozen=True):
    """What changed below a prefix up to a *revision*: the new value of each key, None where it is gone."""

    revision: int
    changes: Mapping[str, bytes | None]


class Guards(msgspec.Struct, frozen=True):
    """Without what a commit is not done: some keys *absent*, some *present*, and some *equal* to a value."""

    absent: Collection[str] = ()
    present: Collection[str] = ()
    equal: Mapping[str, bytes] = msgspec.field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each, in this order."""
        return (*self.absent, *self.present, *self.equal)

    def broken(self, held: Mapping[str, bytes]) -> set[str]:
        """The keys of those that do not hold where these values are *held*.

        >>> sorted(Guards(["a", "c"], ["b", "d"], {"b": b"2"}).broken({"a": b"1", "b": b"1"}))
        ['a', 'b', 'd']
        """
        wrong = {key for key in self.absent if key in held} | {key for key in self.present if key not in held}
        return wrong | {key for key, value in self.equal.items() if held.get(key) != value}


UNGUARDED = Guards()


class Conflict(Exception):
    """Guards of a commit do not hold, those of these *keys* at least; nothing was changed."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = frozenset(keys)
        super().__init__(f"these keys are not as they should be: {', '.join(sorted(self.keys))}")


class SessionLost(Exception):
    """A *session* has ended, and with it what was put under it has gone."""

    def __init__(self, session: str) -> None:
        self.session = session
        super().__init__(f"the session {session} has ended")


class SharedStore(Protocol):
    """What is asked of a shared store. Each method raises `StoreUnavailable` if that cannot be had."""

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*, as the majority of the store's servers know them."""

    async def commit(
        self, changes: Mapping[str, bytes | None], guards: Guards = UNGUARDED, *, session: str = ""
    ) -> int:
        """Set each key to its value, or forget it where that is None, in one transaction; return its revision.

        It is done only if all *guards* hold. With a *session*, what is put goes when that ends; what is put again
        without it, or under another one, does not. Guards are looked at first, and the session only if something is
        put.

        Raises:
            Conflict: a guard does not hold; nothing was changed. In Consul one of `equal` is also held to have failed
                if its key was written at the same moment, whatever with.
            SessionLost: the *session* has ended; nothing was changed.
            StoreUnavailable: whether it was done is not known.
            ValueError: it is larger than `LIMIT` or `SIZE` allow, which is a mistake of the caller's.
        """

    def watch(self, prefix: str, since: Snapshot) -> AsyncGenerator[Delta, None]:
        """What changes below *prefix* after the snapshot *since*, which `read` gave for it; it does not end by itself.

        What happened since then comes as one delta, found by reading again; so do changes that the store no longer
        remembers. A store that lost its data, and so went back, is no failure: what is not there any more is told as
        gone. What came and went between two deltas is in neither.

        Raises:
            StoreUnavailable: the store was lost; a new watch, since the same snapshot and with the deltas that were
                given added to it, tells what changed meanwhile.
        """

    async def join(self, ttl: float) -> str:
        """A new session, which ends some time after it was not renewed for *ttl* seconds.

        Each store has its own least and most for *ttl* and takes what is nearest. Consul has 10 s to a day, and may
        wait for twice as long; etcd goes from about 2 s.
        """

    async def renew(self, session: str) -> None:
        """Have a *session* last for its time to live from now.

        Raises:
            SessionLost: it has ended.
        """

    async def leave(self, session: str) -> None:
        """End a *session*; one that has ended is success."""

    async def close(self) -> None:
        """Let go of all connections; sessions go on until their time is over."""


def differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, bytes | None]:
    """What has to be changed in *before* to have *after*.

    >>> differences({"a": b"1", "b": b"1", "c": b"1"}, {"b": b"1", "c": b"2", "d": b"2"})
    {'a': None, 'c': b'2', 'd': b'2'}
    """
    gone: dict[str, bytes | None] = {key: None for key in before if key not in after}
    return gone | {key: value for key, value in after.items() if before.get(key) != value}


def check_size(changes: Mapping[str, bytes | None], guards: Guards) -> None:
    """Refuse a commit of *changes* with *guards* that some store would not take."""
    if len(changes) + len(guards.keys) > LIMIT:
        raise ValueError(
            f"a commit names {len(changes)} keys and {len(guards.keys)} guards, of {LIMIT} that it may: make it smaller"
        )
    size = sum(len(value) for value in changes.values() if value is not None)
    if size > SIZE:
        raise ValueError(f"the values of a commit have {size} bytes, of {SIZE} that they may: make it smaller")
