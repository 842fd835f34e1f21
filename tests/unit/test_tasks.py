"""Several things at once."""

import asyncio

import pytest

from isthmus.tasks import together


async def give(value: int, turns: int) -> int:
    """The *value*, after so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fail() -> int:
    """Fail at once."""
    raise ValueError("no")


def test_all_is_given_in_order() -> None:
    """Whoever is done first."""
    assert asyncio.run(together(give(1, 3), give(2, 1))) == [1, 2]


def test_one_that_fails_ends_the_others_and_no_timeout_of_the_callers() -> None:
    """The error is its own, and the caller can go on."""

    async def test() -> None:
        ended = asyncio.Event()

        async def wait() -> int:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return 0

        with pytest.raises(ValueError, match="no"):
            await together(wait(), fail())
        assert ended.is_set()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()

    asyncio.run(test())


def test_who_is_cancelled_cancels_all() -> None:
    """None goes on by itself."""

    async def test() -> None:
        there = asyncio.ensure_future(together(give(1, 10**6), give(2, 10**6)))
        await asyncio.sleep(0)
        there.cancel()
        with pytest.raises(asyncio.CancelledError):
            await there
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(test())
