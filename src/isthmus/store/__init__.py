"""Where the records of what is wanted are kept: the verbs that SQLite, Consul and etcd all have.

Keys are paths like `network/<id>` and `endpoint/<network>/<id>`; values are bytes (see `records`). A commit is all or
nothing.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Snapshot(msgspec.Struct, frozen=True):
    """What a store held at one *revision*."""

    revision: int
    items: Mapping[str, bytes]


class Store(Protocol):
    """What the engine asks of a store."""

    def read(self, prefix: str = "") -> Snapshot:
        """All items whose key begins with *prefix*.

        Raises:
            StoreUnavailable: it cannot be read.
        """

    def commit(self, changes: Mapping[str, bytes | None]) -> int:
        """Set each key to its value, or forget it where that is None; return the new revision.

        When this returns, the changes outlive the death of this program; those to networks and settings also outlive
        a power failure.

        Raises:
            StoreUnavailable: nothing was changed.
        """
