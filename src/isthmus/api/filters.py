"""`?filters=`: which things a client wants to see, and the times that it may name.

The value is JSON, `{"key": {"value": true}}` or, from old clients, `{"key": ["value"]}`. Rules and words are moby's
(`daemon/internal/filters`, `daemon/network/filter.go`, `daemon/internal/timestamp`), with one exception: Docker reads
values for names and IDs as regular expressions of Go's, which cannot blow up; Python's can. So here they are plain
text, in which only `^` at the start and `$` at the end mean what they mean there.
"""

import re
from collections.abc import Mapping
from datetime import datetime

import msgspec

from isthmus.errors import InvalidOption, InvalidRequest
from isthmus.options import SPAN, nanoseconds

_SECOND = 10**9
_UNIX = re.compile(r"(-?\d{1,11})(?:\.(\d{1,9}))?")


class Filters(msgspec.Struct, frozen=True):
    """The values asked for, by key. A key that was not given lets everything pass."""

    values: Mapping[str, tuple[str, ...]]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def exact(self, key: str, *found: str) -> bool:
        """Whether one of *found* is a value of *key*."""
        return key not in self.values or not set(found).isdisjoint(self.values[key])

    def prefix(self, key: str, *found: str) -> bool:
        """Whether one of *found* begins with a value of *key*."""
        return key not in self.values or any(one.startswith(self.values[key]) for one in found)

    def part(self, key: str, found: str) -> bool:
        """Whether *found* contains a value of *key*; `^` and `$` stand for its ends."""
        return key not in self.values or any(_contains(found, value) for value in self.values[key])

    def labels(self, key: str, found: Mapping[str, str]) -> bool:
        """Whether *found* has all labels of *key*, each given as `name` or `name=value`."""
        wanted = [value.partition("=") for value in self.values.get(key, ())]
        return all(name in found and (not equals or found[name] == value) for name, equals, value in wanted)

    def boolean(self, key: str) -> bool | None:
        """What *key* says, true or false; None if it was not given."""
        values = self.values.get(key)
        if values is None:
            return None
        if len(values) != 1:
            raise InvalidRequest(f'got more than one value for filter key "{key}"')
        if values[0] not in {"0", "1", "false", "true"}:
            raise InvalidRequest(f'invalid value for filter \'{key}\', must be "true" (or "1"), or "false" (or "0")')
        return values[0] in {"1", "true"}

    def before(self, key: str, now: int) -> int | None:
        """The one time that *key* names; None if it was not given."""
        values = self.values.get(key)
        if values is None:
            return None
        if len(values) != 1:
            raise InvalidRequest(f'got more than one value for filter key "{key}"')
        return instant(key, values[0], now)


def parse(text: str, known: frozenset[str]) -> Filters:
    """The filters that *text* spells, of which all keys must be *known*."""
    if not text:
        return Filters({})
    try:
        given = msgspec.json.decode(text.encode("utf-8", "replace"), type=dict[str, dict[str, bool] | list[str] | None])
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("invalid filter") from None
    for key in given:
        if key not in known:
            raise InvalidRequest(f"invalid filter '{key}'")
    return Filters({key: tuple(values) for key, values in given.items() if values})


def instant(key: str, text: str, now: int) -> int:
    """The time that *text* names, in nanoseconds: a span before *now* (`1h30m`), Unix seconds, or RFC 3339.

    A date or time without a zone is local. `InvalidOption`, with *key*, if it names none.
    """
    length = text.removeprefix("-")
    if length != "0" and SPAN.fullmatch(length):
        return now + nanoseconds(length) if text.startswith("-") else now - nanoseconds(length)
    if unix := _UNIX.fullmatch(text):
        return int(unix[1]) * _SECOND + int((unix[2] or "0").ljust(9, "0"))
    try:
        return int(datetime.fromisoformat(text).timestamp() * 10**6) * 10**3
    except (ValueError, OverflowError, OSError):
        hint = "it must be Unix seconds, a time such as 2006-01-02T15:04:05Z, or a span such as 1h30m"
        raise InvalidOption(key, text, hint) from None


def _contains(found: str, value: str) -> bool:
    inner = value.removeprefix("^").removesuffix("$")
    match value.startswith("^"), value.endswith("$"):
        case True, True:
            return found == inner
        case True, False:
            return found.startswith(inner)
        case False, True:
            return found.endswith(inner)
        case _:
            return inner in found
