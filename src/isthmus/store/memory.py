"""A store that lasts as long as its object: for tests, rehearsals, and daemons that shall leave nothing on disk."""

from collections.abc import Mapping

from isthmus.store import Snapshot


class MemoryStore:
    """A `Store` in memory. It never fails and forgets everything with the program."""

    def __init__(self) -> None:
        self._items: dict[str, bytes] = {}
        self._revision = 0

    def read(self, prefix: str = "") -> Snapshot:
        """All items whose key begins with *prefix*, sorted by key; later commits do not change the answer."""
        return Snapshot(
            self._revision, {key: self._items[key] for key in sorted(self._items) if key.startswith(prefix)}
        )

    def commit(self, changes: Mapping[str, bytes | None]) -> int:
        """Set or forget each key; return the new revision, or the old one if there is nothing to do."""
        for key, value in changes.items():
            if value is None:
                self._items.pop(key, None)
            else:
                self._items[key] = value
        self._revision += bool(changes)
        return self._revision
