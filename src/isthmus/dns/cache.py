"""Answers of others, kept for as long as they say (RFC 1035, RFC 2308), and a while longer for bad times (RFC 8767)."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import msgspec

from isthmus.dns.message import Reply

ENTRIES, OCTETS = 4096, 4 * 2**20
"""How many answers are kept at most, and how many octets they may have together."""

LONGEST, LONGEST_DENIAL = 86_400, 10_800
"""For how many seconds an answer is good at most, and for how many one that there is no such name."""

STALE = 86_400
"""For how many seconds after its end an answer is still better than none."""

STALE_TTL = 30
"""The TTL, in seconds, of such an answer."""

_OVERHEAD = 512
"""What an entry takes besides its octets, about."""


class Entry(msgspec.Struct, frozen=True):
    """An answer, since when it is known, and until when it is good; in seconds of the cache's clock."""

    reply: Reply
    since: float
    until: float


class Cache:
    """Answers by what was asked; *clock* gives seconds. Those that nobody has asked for the longest go first."""

    def __init__(self, clock: Callable[[], float], entries: int = ENTRIES, octets: int = OCTETS) -> None:
        self._clock = clock
        self._entries = entries
        self._octets = octets
        self._size = 0
        self._known: OrderedDict[Hashable, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def size(self) -> int:
        """How many octets it takes, about."""
        return self._size

    def put(self, key: Hashable, reply: Reply) -> None:
        """Keep *reply* as the answer to *key*, if it may be kept."""
        if not reply.lifetime:
            return
        longest = LONGEST_DENIAL if reply.denies else LONGEST
        self._drop(key)
        now = self._clock()
        self._known[key] = Entry(reply, now, now + min(reply.lifetime, longest))
        self._size += len(reply.data) + _OVERHEAD
        while len(self._known) > self._entries or self._size > self._octets:
            self._drop(next(iter(self._known)))

    def fresh(self, key: Hashable) -> tuple[Reply, int] | None:
        """The answer to *key*, and its age in seconds, if it is still good."""
        entry = self._known.get(key)
        now = self._clock()
        if entry is None or now >= entry.until:
            return None
        self._known.move_to_end(key)
        return entry.reply, int(now - entry.since)

    def stale(self, key: Hashable) -> Reply | None:
        """The answer to *key*, even if it has been good only until lately."""
        entry = self._known.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.until + STALE:
            self._drop(key)
            return None
        return entry.reply

    def _drop(self, key: Hashable) -> None:
        entry = self._known.pop(key, None)
        if entry:
            self._size -= len(entry.reply.data) + _OVERHEAD
