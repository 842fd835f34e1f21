"""Rates: how many bits a second an endpoint may receive and send, as people write it and as the kernel is told.

The words are those of tc(8): `100mbit` is 100,000,000 bits a second, `1kibit` is 1,024 of them, and `1mbps` is a
million *bytes*.
"""

import re
from fractions import Fraction

import msgspec

from isthmus.errors import InvalidOption

RATE = "isthmus.rate"
"""The option of an endpoint that says its rates: `100mbit`, `100mbit/20mbit` (to it, and from it), or `off`."""

OFF = "off"
"""Stands for no limit."""

LEAST = 8_000
MOST = 400 * 10**9
"""More than the kernel's count of bytes that wait (32 bits) has room for is no limit that we could keep."""

LATENCY = 50
"""For how many milliseconds, at most, a packet waits for its turn; those that would wait longer are dropped."""

_RATE = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?([a-z]+)")
_PREFIXES = {"": 1} | {
    name: value
    for power, letter in enumerate("kmgt", 1)
    for name, value in ((letter, 1000**power), (f"{letter}i", 1024**power))
}
_UNITS = {
    f"{prefix}{word}": size * bits for prefix, size in _PREFIXES.items() for word, bits in (("bit", 1), ("bps", 8))
}
_WRITTEN = ("tbit", "gbit", "mbit", "kbit")

# The largest packet that the kernel forwards whole, with its Ethernet header: one that is larger than the burst and
# cannot be cut would never pass.
_LEAST_BURST = 66_000
_BURST = 100
"""What may pass at once is what would pass in a hundredth of a second, so that timers need not be finer."""


class Rates(msgspec.Struct, frozen=True):
    """How many bits a second may go *down*, to an endpoint, and *up*, from it; None if that is not limited."""

    down: int | None = None
    up: int | None = None


def parse(text: str) -> Rates:
    """What the value *text* of the option means; "" is no limit.

    >>> parse("100mbit/off")
    Rates(down=100000000, up=None)

    Raises:
        InvalidOption: it is no rate, or one that cannot be kept.
    """
    down, slash, up = text.partition("/")
    return Rates(_rate(text, down), _rate(text, up if slash else down)) if text else Rates()


def _rate(text: str, word: str) -> int | None:
    """The bits a second that one *word* of *text* stands for: whole bytes, for the kernel counts in these."""
    if word == OFF:
        return None
    found = _RATE.fullmatch(word.lower()) if word.isascii() else None
    unit = _UNITS.get(found[3]) if found else None
    if found is None or unit is None:
        hint = "it must be a rate such as 100mbit, 2.5gbit or 500kbit, two (down/up) such as 100mbit/20mbit, or off"
        raise InvalidOption(RATE, text, hint)
    rate = int(Fraction(f"{found[1]}.{found[2] or 0}") * unit) // 8 * 8
    if not LEAST <= rate <= MOST:
        raise InvalidOption(RATE, text, f"a rate must be from {written(LEAST)} to {written(MOST)}, or off")
    return rate


def written(rate: int) -> str:
    """*rate*, in bits a second, as tc reads it.

    >>> written(2_500_000_000), written(8)
    ('2500mbit', '8bit')
    """
    for power, unit in zip(range(4, 0, -1), _WRITTEN, strict=True):
        if rate and not rate % 1000**power:
            return f"{rate // 1000**power}{unit}"
    return f"{rate}bit"


def burst(rate: int) -> int:
    """How many bytes may pass at once at this *rate*, in bits a second, if nothing passed before.

    >>> burst(10**6), burst(10**8), burst(10**9)
    (66000, 125000, 1250000)
    """
    return max(_LEAST_BURST, rate // 8 // _BURST)


def limit(rate: int) -> int:
    """How many bytes may wait, as tc makes it of `latency`: those of the burst, and what passes in that time."""
    return burst(rate) + rate // 8 * LATENCY // 1000
