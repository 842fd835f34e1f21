"""What a container wrote, as its monitor keeps it: `TIME STREAM TAG text`, a line each (the format of Kubernetes' CRI).

The tag F ends a line of the program's, P means that it goes on in the next one. Pure.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

_STREAMS = {b"stdout": 1, b"stderr": 2}
_SECOND = 10**9


class Line(NamedTuple):
    """A piece of output: *time* in nanoseconds since the epoch, *stream* 1 or 2, *text* with its line's end, if any."""

    time: int
    stream: int
    text: bytes


def parse(line: bytes) -> Line | None:
    """A *line* of the file, without its end; None if it is none of a monitor's, such as one that was cut off."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS or parts[2] not in {b"F", b"P"}:
        return None
    time = instant(parts[0].decode("latin-1"))
    return None if time is None else Line(time, _STREAMS[parts[1]], parts[3] + (b"\n" if parts[2] == b"F" else b""))


def instant(text: str) -> int | None:
    """A time as RFC 3339 writes it, with up to nine digits behind the second.

    >>> instant("2026-11-27T16:32:47.394111535+00:00")
    1795797167394111535
    """
    head, point, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if point else ""
    zone = rest[len(digits) :] if point else ""
    try:
        moment = datetime.fromisoformat(head + zone)
    except ValueError:
        return None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * _SECOND + int(f"{digits:0<9}"[:9] or 0)


def last(lines: Iterable[Line], count: int) -> list[Line]:
    """The pieces of the last *count* lines of the program's, whatever stream each came from."""
    pieces = list(lines)
    ends = 0
    for index in range(len(pieces) - 1, -1, -1):
        if pieces[index].text.endswith(b"\n") or index == len(pieces) - 1:
            ends += 1
            if ends > count:
                return pieces[index + 1 :]
    return pieces if count else []


class Cutter:
    """Cuts what is read of a file into the lines that are whole."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Line]:
        """The pieces of output that *data* completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for text in whole:
            if line := parse(text):
                yield line
