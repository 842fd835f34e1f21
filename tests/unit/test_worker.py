"""The worker: one piece of work at a time, wherever it is done, and chores when there is nothing else."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from isthmus.worker import Worker


class Desk:
    """A subject that notes on which thread things are done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.threads: list[int] = [threading.get_ident()]
        self.tidied = threading.Event()

    def do(self, what: str) -> str:
        """Note *what*, and the thread."""
        self.done.append(what)
        self.threads.append(threading.get_ident())
        return what

    def chores(self) -> None:
        """Note that there was time for them."""
        self.do("chores")
        self.tidied.set()

    def close(self) -> None:
        """Note the end."""
        self.do("close")


def with_worker(use: Callable[[Worker[Desk]], Awaitable[None]]) -> Desk:
    """Have a worker of a desk *use*d and stopped; return the desk."""
    desks: list[Desk] = []

    async def main() -> None:
        worker = await Worker.start(Desk)
        desks.append(await worker.call(lambda desk: desk))
        await use(worker)
        await worker.stop()

    asyncio.run(main())
    return desks[0]


def test_brief_work_is_done_where_it_is_asked_for() -> None:
    """To wake another thread, and to be woken by it, takes longer than the work."""

    async def use(worker: Worker[Desk]) -> None:
        assert await worker.call(lambda desk: desk.do("brief"), brief=True) == "brief"
        assert await worker.call(lambda desk: desk.do("long")) == "long"

    made, brief, long, closed = with_worker(use).threads
    assert brief == threading.get_ident()
    assert made == long == closed != brief


def test_brief_work_waits_behind_what_takes_long_and_the_loop_goes_on() -> None:
    """Two threads with the subject at once would be the end of an engine without locks."""
    hold = threading.Event()

    async def use(worker: Worker[Desk]) -> None:
        long = asyncio.ensure_future(worker.call(lambda desk: (hold.wait(60), desk.do("long"))))
        await asyncio.sleep(0)
        brief = asyncio.ensure_future(worker.call(lambda desk: desk.do("brief"), brief=True))
        await asyncio.sleep(0)
        assert not brief.done()
        hold.set()
        await asyncio.gather(long, brief)

    assert with_worker(use).done == ["long", "brief", "close"]


@pytest.mark.parametrize("brief", [True, False])
def test_what_work_raises_is_raised_to_who_asked(brief: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """And the worker goes on."""

    def fail(_desk: Desk) -> None:
        raise LookupError("no such thing")

    async def use(worker: Worker[Desk]) -> None:
        with pytest.raises(LookupError, match="no such thing"):
            await worker.call(fail, brief=brief)
        await worker.call(lambda desk: desk.do("next"), brief=brief)

    assert with_worker(use).done == ["next", "close"]


def test_what_the_making_raises_is_raised_to_the_starter() -> None:
    """A daemon that cannot open its store must say so, and end."""

    def make() -> Desk:
        raise LookupError("no store")

    with pytest.raises(LookupError, match="no store"):
        asyncio.run(Worker.start(make))


def test_work_that_nobody_waits_for_any_more_is_done_all_the_same() -> None:
    """A client that goes away in the middle of a change must not leave half of it."""
    hold = threading.Event()

    async def use(worker: Worker[Desk]) -> None:
        gone = asyncio.ensure_future(worker.call(lambda desk: (hold.wait(60), desk.do("wanted once"))))
        await asyncio.sleep(0)
        gone.cancel()
        hold.set()

    assert with_worker(use).done == ["wanted once", "close"]


def test_chores_are_done_on_the_thread_after_the_start_and_after_work() -> None:
    """They hold the kernel's lock for long, and the loop must not wait for that."""

    async def use(worker: Worker[Desk]) -> None:
        desk = await worker.call(lambda desk: desk, brief=True)
        await asyncio.to_thread(desk.tidied.wait, 60)
        desk.tidied.clear()
        await worker.call(lambda desk: desk.do("work"))
        await asyncio.to_thread(desk.tidied.wait, 60)

    desk = with_worker(use)
    assert desk.done == ["chores", "work", "chores", "close"]
    assert threading.get_ident() not in desk.threads


def test_something_is_called_on_the_loop_before_each_answer() -> None:
    """What the engine announced on the way is told before the client may act on the answer."""
    told: list[int] = []

    async def main() -> None:
        worker = await Worker.start(Desk, lambda: told.append(threading.get_ident()))
        for brief in (True, False):
            await worker.call(lambda desk: desk.do("work"), brief=brief)
        await worker.stop()

    asyncio.run(main())
    assert told == [threading.get_ident()] * 2
