"""The engine's thread: work comes in one by one from the loop, results go back, and what can wait is done in between.

Everything that changes the kernel or the store happens here, so nothing in the engine needs a lock. Chores (taking
dead links apart, making namespaces ahead of need) are done when nobody has asked for anything for a moment, or when
they have waited for too long.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Generic, Protocol, TypeVar

log = logging.getLogger("isthmus")

QUIET = 0.1
"""For how long, in seconds, nobody may have asked for anything before chores are done."""

OVERDUE = 0.5
"""For how long, in seconds, chores may wait."""


class Subject(Protocol):
    """What a worker owns."""

    def chores(self) -> bool:
        """Do a piece of what can wait; tell whether more of it is left."""

    def close(self) -> None:
        """Let go of everything."""


_S = TypeVar("_S", bound=Subject)
_T = TypeVar("_T")
_R = TypeVar("_R")


class Worker(Generic[_S]):
    """A thread with a subject that only `call`ed functions see, one at a time, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, before: Callable[[], None] = lambda: None) -> None:
        """*before* is called on the loop's thread before each answer is given."""
        self._loop = loop
        self._before = before
        self._queue: SimpleQueue[Callable[[_S], None] | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def start(self, make: Callable[[], _S]) -> None:
        """Start the thread, which makes its subject itself; raises what *make* raises."""
        made: asyncio.Future[None] = self._loop.create_future()
        self._thread = Thread(target=self._run, args=(make, made), name="engine", daemon=True)
        self._thread.start()
        await made

    def call(self, work: Callable[[_S], _T], /) -> Awaitable[_T]:
        """Have *work* done with the subject; awaiting the answer gives what it returns, or raises what it raises.

        To be called on the loop's thread. Work that nobody waits for any more is done all the same.
        """
        answer: asyncio.Future[_T] = self._loop.create_future()

        def job(subject: _S) -> None:
            try:
                result = work(subject)
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                self._loop.call_soon_threadsafe(self._answer, _fail, answer, error)
            else:
                self._loop.call_soon_threadsafe(self._answer, _succeed, answer, result)

        self._queue.put(job)
        return answer

    async def stop(self) -> None:
        """Let what was asked for be done, then end the thread."""
        if self._thread:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    def _answer(self, give: Callable[["asyncio.Future[_T]", _R], None], answer: "asyncio.Future[_T]", what: _R) -> None:
        self._before()
        give(answer, what)

    def _run(self, make: Callable[[], _S], made: "asyncio.Future[None]") -> None:
        try:
            subject = make()
        except BaseException as error:  # noqa: BLE001 - it is the starter's, whatever it is
            self._loop.call_soon_threadsafe(_fail, made, error)
            return
        self._loop.call_soon_threadsafe(_succeed, made, None)
        try:
            self._serve(subject)
        finally:
            subject.close()

    def _serve(self, subject: _S) -> None:
        due: float | None = monotonic()
        while True:
            try:
                job = self._queue.get(timeout=None if due is None else QUIET)
            except Empty:
                due = monotonic() if _do_chores(subject) else None
                continue
            if job is None:
                return
            job(subject)
            if due is None:
                due = monotonic()
            elif monotonic() - due > OVERDUE:
                _do_chores(subject)
                due = monotonic()


def _do_chores(subject: Subject) -> bool:
    try:
        return subject.chores()
    except Exception:
        log.exception("what could wait failed, and is left for the next time")
        return False


def _succeed(answer: "asyncio.Future[_T]", result: _T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: "asyncio.Future[_T]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
