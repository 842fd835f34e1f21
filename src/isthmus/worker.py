"""What changes the kernel or the store is done one piece after another: at once where that is brief, else on a thread.

To hand work to a thread and its result back wakes somebody twice, which takes longer than most of the work. So brief
work is done where it is asked for, on the loop's thread, if the worker's thread is idle; all else is handed over, and
what is asked for meanwhile waits behind it, while the loop goes on. Whose turn it is needs no lock: the thread has the
subject from a hand-over to the answer, and both of these happen on the loop's thread. So nothing in the engine needs
one either.

Chores (taking dead links apart) are done on the thread, when nobody has asked for anything for a moment, or when they
have waited for too long.
"""

import asyncio
import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Generic, Protocol, TypeVar

log = logging.getLogger("isthmus")

QUIET = 0.1
"""For how long, in seconds, nobody may have asked for anything before chores are done."""

OVERDUE = 0.5
"""For how long, in seconds, chores may wait."""


class Subject(Protocol):
    """What a worker owns. It is used from two threads, but never from both at once."""

    def chores(self) -> None:
        """Do what can wait."""

    def close(self) -> None:
        """Let go of everything."""


_S = TypeVar("_S", bound=Subject)
_T = TypeVar("_T")
_R = TypeVar("_R")


class Worker(Generic[_S]):
    """A *subject* that only `call`ed functions see, one at a time, in order; `start` makes one with its thread.

    All methods are to be called on the loop's thread.
    """

    def __init__(self, subject: _S, thread: "_Thread", before: Callable[[], None]) -> None:
        self._subject = subject
        self._thread = thread
        self._before = before
        self._loop = asyncio.get_running_loop()
        self._asked = self._waiting_since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(QUIET, self._rest)
        self._chores: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, make: Callable[[], _S], before: Callable[[], None] = lambda: None) -> "Worker[_S]":
        """A worker whose subject *make* makes, on the thread; raises what that raises.

        *Before* is called, on the loop's thread, before each answer is given.
        """
        thread = _Thread(asyncio.get_running_loop())
        try:
            return cls(await thread.do(make), thread, before)
        except BaseException:
            await thread.stop()
            raise

    async def call(self, work: Callable[[_S], _T], /, *, brief: bool = False) -> _T:
        """What *work* returns when it is done with the subject; raises what it raises.

        *Brief* work may be done on the loop's thread: it waits for nothing but the kernel. Work that nobody waits for
        any more is done all the same.
        """
        self._asked = self._loop.time()
        if self._timer is None:
            self._waiting_since = self._asked
            self._timer = self._loop.call_later(QUIET, self._rest)
        try:
            if brief and self._thread.idle:
                return work(self._subject)
            return await self._thread.do(lambda: work(self._subject))
        finally:
            self._before()

    async def stop(self) -> None:
        """Let what was asked for be done, then let go of the subject and end the thread."""
        closed = self._thread.do(self._subject.close)
        await self._thread.stop()
        await closed

    def _rest(self) -> None:
        """Have chores done, if it is time for them."""
        early = min(self._asked + QUIET, self._waiting_since + OVERDUE) - self._loop.time()
        if early > 0:
            self._timer = self._loop.call_later(early, self._rest)
        else:
            self._timer = None
            self._chores = self._thread.do(self._do_chores)

    def _do_chores(self) -> None:
        try:
            self._subject.chores()
        except Exception:
            log.exception("what could wait failed, and is left for the next time")


class _Thread:
    """A thread that does what it is given, one piece after another; all methods are for the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._given = 0
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether all that was given is done and answered."""
        return not self._given

    def do(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Have *work* done; the answer is what it returns or raises."""
        answer: asyncio.Future[_T] = self._loop.create_future()

        def job() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                self._loop.call_soon_threadsafe(self._answer, answer, answer.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(self._answer, answer, answer.set_result, result)

        self._given += 1
        self._queue.put(job)
        return answer

    async def stop(self) -> None:
        """End the thread when all that it was given is done; what comes later is not."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while job := self._queue.get():
            job()

    def _answer(self, answer: "asyncio.Future[_T]", give: Callable[[_R], None], what: _R) -> None:
        self._given -= 1
        if not answer.done():
            give(what)
