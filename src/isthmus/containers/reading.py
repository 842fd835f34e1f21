"""Reading the output of a container from the file of its monitor, and waiting for more of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from isthmus.containers import logs
from isthmus.containers.logs import Line
from isthmus.inotify import MODIFIED, Watch

_CHUNK = 64 << 10


async def lines(
    path: Path,
    *,
    since: int = 0,
    until: int | None = None,
    tail: int | None = None,
    over: "asyncio.Future[None] | None" = None,
) -> AsyncIterator[Line]:
    """What is in the file at *path*, from the last *tail* lines on if given.

    With *over*, what is written from then on comes, too, until that is done. *Since* and *until* are nanoseconds since
    the epoch.
    """
    if over:
        path.touch(mode=0o600)  # noqa: ASYNC240 - of the file system, which is here, and takes microseconds
    elif not path.exists():  # noqa: ASYNC240
        return
    with path.open("rb") as file:
        # It is watched before it is read, so nothing is written unseen in between.
        watch = Watch(str(path), MODIFIED) if over else None
        try:
            cutter = logs.Cutter()
            for line in _past(file, cutter, lambda line: line.time >= since and _before(line, until), tail):
                yield line
            while over and watch:
                ended = over.done()
                watch.read()
                for line in _rest(file, cutter):
                    if not _before(line, until):
                        return
                    if line.time >= since:
                        yield line
                if ended:
                    return
                await _either(watch.fileno(), over)
        finally:
            if watch:
                watch.close()


def _before(line: Line, until: int | None) -> bool:
    return until is None or line.time <= until


def _past(file: BinaryIO, cutter: logs.Cutter, wanted: Callable[[Line], bool], tail: int | None) -> Iterator[Line]:
    """What is *wanted* of what is there; the file is then at its end."""
    if tail is None:
        yield from filter(wanted, _rest(file, cutter))
    elif tail:
        yield from logs.last(filter(wanted, cutter.feed(_end(file, tail))), tail)
    else:
        file.seek(0, os.SEEK_END)


def _rest(file: BinaryIO, cutter: logs.Cutter) -> Iterator[Line]:
    while data := file.read(_CHUNK):
        yield from cutter.feed(data)


def _end(file: BinaryIO, count: int) -> bytes:
    """Whole lines of the file's that hold at least the last *count* of the program's; the file is then at its end."""
    end = position = file.seek(0, os.SEEK_END)
    data = b""
    while position > 0 and data.count(b" F ") <= count:
        size = min(_CHUNK, position)
        position -= size
        file.seek(position)
        data = file.read(size) + data
    file.seek(end)
    return data if position == 0 else data.partition(b"\n")[2]


async def _either(descriptor: int, over: "asyncio.Future[None]") -> None:
    """Wait until there is something to read at *descriptor*, or until *over* is done."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await asyncio.wait([told, over], return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(descriptor)
