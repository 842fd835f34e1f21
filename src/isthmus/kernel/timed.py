"""Elements of our table that end by themselves, kept beside the plans: nobody wants them for good.

They are put while somebody waits for an answer, by a socket of their own and on another thread than plans are applied
on; the kernel carries out one transaction after the other.
"""

from collections.abc import Iterable, Iterator
from errno import ENOENT
from itertools import groupby
from operator import attrgetter

from isthmus.errors import IsthmusError
from isthmus.firewall import LEARNED
from isthmus.kernel import nfnetlink
from isthmus.kernel.netlink import NETLINK_NETFILTER, NetlinkError, Socket
from isthmus.kernel.nft import SETS, Set
from isthmus.naming import TABLE
from isthmus.resources import Element


class Timed:
    """The timed sets of our table in the namespace of the thread that makes this."""

    def __init__(self) -> None:
        self._socket = Socket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Give the descriptor back. What was put ends by itself."""
        self._socket.close()

    def put(self, elements: Iterable[Element], seconds: int) -> None:
        """Have *elements* for so many *seconds* from now, however long they were to last.

        Raises:
            IsthmusError: there is no such set, or another element is in the way.
        """
        for kind, ones in _by_set(elements):
            # The kernel before 6.12 gives no more time to what is there.
            self._take_out(kind, ones)
            encoded = (kind.encode(one)._replace(timeout=seconds * 1000) for one in ones)
            requests = nfnetlink.newelements(TABLE, kind.name, encoded, family=kind.family, intervals=kind.intervals)
            try:
                nfnetlink.commit(self._socket, *requests)
            except NetlinkError as error:
                raise IsthmusError(f"nftables takes no elements for {kind.name}: {error.strerror}") from error

    def drop(self, elements: Iterable[Element]) -> None:
        """Have *elements* no more; those that have ended already are no matter."""
        for kind, ones in _by_set(elements):
            self._take_out(kind, ones)

    def read(self) -> Iterator[tuple[Element, int]]:
        """Yield all there are, each with the seconds that it has left."""
        for kind in map(SETS.__getitem__, sorted(LEARNED)):
            try:
                answers = self._socket.dump(nfnetlink.getelements(TABLE, kind.name, family=kind.family))
            except NetlinkError as error:
                if error.errno == ENOENT:
                    continue
                raise
            for found in (one for answer in answers for one in nfnetlink.elements(answer)):
                yield kind.decode(found), found.expiration // 1000

    def _take_out(self, kind: Set, elements: Iterable[Element]) -> None:
        for one in elements:
            requests = nfnetlink.delelements(
                TABLE, kind.name, (kind.key(one),), family=kind.family, intervals=kind.intervals
            )
            try:
                nfnetlink.commit(self._socket, *requests)
            except NetlinkError as error:
                if error.errno != ENOENT:
                    raise


def _by_set(elements: Iterable[Element]) -> Iterator[tuple[Set, list[Element]]]:
    for name, ones in groupby(sorted(elements, key=attrgetter("set")), attrgetter("set")):
        yield SETS[name], list(ones)
