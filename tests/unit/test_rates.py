"""Rates as people write them, and what the kernel is told of them."""

import pytest

from isthmus import rates
from isthmus.errors import InvalidOption
from isthmus.rates import LEAST, MOST, Rates


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("8kbit", 8_000),
        ("100mbit", 100_000_000),
        ("100Mbit", 100_000_000),
        ("2.5gbit", 2_500_000_000),
        ("64000bit", 64_000),
        ("1mibit", 1024**2),
        ("0.1tbit", 100 * 10**9),
        ("1mbps", 8_000_000),
        ("1kibps", 8_192),
        ("125000bps", 1_000_000),
        ("8001bit", 8_000),
        ("400gbit", MOST),
    ],
)
def test_a_rate_is_read_as_tc_reads_it(text: str, bits: int) -> None:
    """The kernel counts whole bytes."""
    assert rates.parse(text) == Rates(bits, bits)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Rates()),
        ("off", Rates()),
        ("off/off", Rates()),
        ("100mbit/20mbit", Rates(10**8, 2 * 10**7)),
        ("off/20mbit", Rates(None, 2 * 10**7)),
        ("100mbit/off", Rates(10**8)),
    ],
)
def test_both_ways_may_have_rates_of_their_own(text: str, meant: Rates) -> None:
    """Down to the sandbox comes first, as providers sell it."""
    assert rates.parse(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "100",
        "mbit",
        "-1mbit",
        "1 mbit",
        "1.mbit",
        ".5mbit",
        "1e6bit",
        "1ebit",
        "1mbits",
        "\u0661mbit",
        "1mbit/",
        "/1mbit",
        "1mbit/2mbit/3mbit",
        "none",
        "OFF",
        "0bit",
        "7999bit",
        "7.9kbit",
        "401gbit",
        "999999999999999tibps",
        "1" * 16 + "bit",
    ],
)
def test_what_is_no_rate_is_refused_with_what_would_be_one(text: str) -> None:
    """The key, the value, and the way out."""
    with pytest.raises(InvalidOption, match=r"isthmus\.rate.*(100mbit|8kbit)"):
        rates.parse(text)


@pytest.mark.parametrize("rate", [LEAST, 10**6, 10**7, 66_000 * 800, 10**8, 10**9, 10**10, MOST])
def test_a_bucket_has_room_for_any_packet_and_the_kernel_for_its_numbers(rate: int) -> None:
    """A packet that is larger than the bucket would never pass, and 32 bits hold what may wait."""
    assert rates.burst(rate) >= 65535 + 14
    assert rates.burst(rate) < rates.limit(rate) < 1 << 32
    assert rates.parse(rates.written(rate)) == Rates(rate, rate)
