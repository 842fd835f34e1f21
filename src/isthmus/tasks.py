"""Several things at once, of which one that fails ends the others."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

_T = TypeVar("_T")


async def together(*works: Coroutine[object, object, _T]) -> list[_T]:
    """What all of *works* give, in their order; where one fails, the others are cancelled, and its error is raised.

    When a task of `asyncio.TaskGroup` fails, Python 3.11.2 (Debian 12's) goes on counting the caller as cancelled, and
    takes each timeout of his for a cancellation from then on, which ends him without a word.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
