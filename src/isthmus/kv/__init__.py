"""A key-value store that several hosts share: the verbs that Consul and etcd both have.

Keys are paths like `nodes/<id>`; values are bytes. A commit is one transaction, with guards: all of it is done, or
nothing. What hosts put under a session goes when that ends, because they left or did not renew it in time.

Two things speak this protocol over the network, `consul.Consul` and `etcd.Etcd`, and one in memory, `memory.Memory`;
one suite of tests holds all three to it. They are used on an event loop's thread, and tell of every failure by
`StoreUnavailable`, at the latest after `PATIENCE`.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

PATIENCE = 5.0
"""For how long, in seconds, a store may be silent before it is taken to be away."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the store held below a prefix at one *revision*. Revisions only grow, as long as it is the same store."""

    revision: int
    items: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed below a prefix up to a *revision*: the new value of each key, None where it is gone."""

    revision: int
    changes: Mapping[str, bytes | None]


class Conflict(Exception):
    """Guards of a commit do not hold, those of these *keys*; nothing was changed."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = frozenset(keys)
        super().__init__(f"these keys are not as they should be: {', '.join(sorted(self.keys))}")


class SessionLost(Exception):
    """A session has ended, and with it what was put under it has gone."""


class SharedStore(Protocol):
    """What is asked of a shared store. Each method raises `StoreUnavailable` if that cannot be had."""

    async def read(self, prefix: str) -> Snapshot:
        """All items whose key begins with *prefix*, as the majority of the store's servers know them."""

    async def commit(
        self,
        changes: Mapping[str, bytes | None],
        *,
        absent: Collection[str] = (),
        present: Collection[str] = (),
        equal: Mapping[str, bytes] | None = None,
        session: str = "",
    ) -> int:
        """Set each key to its value, or forget it where that is None, in one transaction; return its revision.

        It is done only if the keys *absent* are not there, the keys *present* are, and the keys of *equal* have these
        values. With a *session*, what is put goes when that ends.

        Raises:
            Conflict: a guard does not hold; nothing was changed.
            SessionLost: the *session* has ended; nothing was changed.
            StoreUnavailable: whether it was done is not known.
        """

    def watch(self, prefix: str, since: Snapshot) -> AsyncIterator[Delta]:
        """What changes below *prefix* after the snapshot *since*, which `read` gave for it; it does not end by itself.

        Nothing is left out: changes that the store no longer remembers are found by reading again. A store that lost
        its data, and so went back, is no failure: what is not there any more is told as gone.

        Raises:
            StoreUnavailable: the store was lost; reading anew tells what changed meanwhile.
        """

    async def join(self, ttl: float) -> str:
        """A new session, which ends if it is not renewed for *ttl* seconds."""

    async def renew(self, session: str) -> None:
        """Have a *session* last for its time to live from now.

        Raises:
            SessionLost: it has ended.
        """

    async def leave(self, session: str) -> None:
        """End a *session*; one that has ended is success."""

    async def close(self) -> None:
        """Let go of all connections; sessions go on until their time is over."""
