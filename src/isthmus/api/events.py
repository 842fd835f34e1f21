"""Events: the engine publishes them, clients listen, and late-comers get the last ones; all on the loop's thread."""

import asyncio
from collections import deque
from collections.abc import Callable

from isthmus.views import Event

KEPT = 256
"""How many past events can still be asked for; as many as Docker keeps."""

BACKLOG = 1024
"""How many events a listener may leave unread; one that is slower is cut off, rather than kept in memory for ever."""


class Listener:
    """One client's events: the past ones that it asked for, then the new ones as they come."""

    def __init__(self, past: tuple[Event, ...]) -> None:
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()
        for event in past:
            self._waiting.put_nowait(event)

    async def next(self) -> Event | None:
        """The next event; None when there are no more to come."""
        return await self._waiting.get()

    def tell(self, event: Event) -> bool:
        """Give *event* to the listener; False if it has too many already and was told that no more will come."""
        if self._waiting.qsize() < BACKLOG + KEPT:
            self._waiting.put_nowait(event)
            return True
        self.end()
        return False

    def end(self) -> None:
        """Tell the listener that no more events will come."""
        self._waiting.put_nowait(None)


class Events:
    """The last events, and those who listen for more."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()

    @property
    def listeners(self) -> int:
        """How many are listening."""
        return len(self._listeners)

    def publish(self, event: Event) -> None:
        """Tell *event* to all who listen; it never waits."""
        self._past.append(event)
        self._listeners = {listener for listener in self._listeners if listener.tell(event)}

    def listen(self, wanted: Callable[[Event], bool]) -> Listener:
        """A listener to all new events, after those past ones that are *wanted*."""
        listener = Listener(self.past(wanted))
        self._listeners.add(listener)
        return listener

    def past(self, wanted: Callable[[Event], bool]) -> tuple[Event, ...]:
        """Those of the last events that are *wanted*, the oldest first."""
        return tuple(event for event in self._past if wanted(event))

    def leave(self, listener: Listener) -> None:
        """Tell *listener* nothing more."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """End every listener's stream."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()
