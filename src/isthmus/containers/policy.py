"""What is decided about containers: when they start again, what stops them, and what they are called. Pure."""

import signal
from collections.abc import Callable, Container

from isthmus.containers.model import Record, Restart
from isthmus.errors import InvalidRequest

STOP_TIMEOUT = 10
"""How long, in seconds, a program has from its stop signal to its end, unless its user says otherwise."""

UNKNOWN = 255
"""The exit code of what ended while nobody was there to see it."""

FIRST_PAUSE, LONGEST_PAUSE, PROVEN = 0.1, 60.0, 10.0
"""A container that ends starts again after this time in seconds, then after twice that, and so on up to the second one;
after the third one running it has proven itself, and the next time is the first again."""


def restarts(policy: Restart, record: Record, *, booted: bool = False) -> bool:
    """Whether a container with this *record* starts again by its *policy*; *booted* if the daemon just began."""
    match policy.name:
        case "always":
            return booted or not record.stopped
        case "unless-stopped":
            return not record.stopped
        case "on-failure":
            return not record.stopped and record.code != 0 and (not policy.most or record.restarts < policy.most)
        case _:
            return False


def pause_before(restarts: int) -> float:
    """How long, in seconds, a container is not started that did already start again that often.

    >>> [pause_before(count) for count in (0, 1, 2, 20)]
    [0.1, 0.2, 0.4, 60.0]
    """
    return min(FIRST_PAUSE * 2.0 ** min(restarts, 16), LONGEST_PAUSE)


def signal_number(text: str) -> int:
    """The number of a signal given as such, or by a name with or without SIG.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        number = int(text)
        signal.Signals(number)
    except ValueError:
        name = text.upper()
        try:
            return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise InvalidRequest(f"invalid signal: {text}") from None
    return number


def free_name(taken: Container[str], random: Callable[[int], bytes]) -> str:
    """A name for a container that is not *taken*, of words and, if it has to be, a number."""
    while True:
        one, two, digit = random(3)
        name = f"{_ADJECTIVES[one % len(_ADJECTIVES)]}_{_PLACES[two % len(_PLACES)]}"
        for candidate in (name, f"{name}{digit}"):
            if candidate not in taken:
                return candidate


_ADJECTIVES = (
    *("able", "brave", "bright", "calm", "clear", "eager", "fair", "gentle", "glad", "keen", "kind", "lively"),
    *("merry", "neat", "noble", "proud", "quick", "quiet", "ready", "sunny", "swift", "warm", "wise"),
)
_PLACES = (
    *("avalon", "carnac", "chignecto", "corinth", "darien", "florence", "karelia", "kintyre", "kra", "langness"),
    *("leith", "malaya", "olonets", "panama", "peloponnes", "perekop", "rhum", "sounion", "suez", "tarbert"),
)
