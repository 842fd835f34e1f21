"""Who may use published ports, as the option `isthmus.publish` says it."""

from ipaddress import ip_network

import pytest

from isthmus.errors import InvalidOption
from isthmus.options import FOLLOW, PUBLISH, RECORD, Callers, Options, records_of


def callers(text: str) -> Callers | None:
    """What the option means."""
    return Options({PUBLISH: text}).callers()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("open", None),
        ("localhost", Callers()),
        ("follow", FOLLOW),
        ("from 192.0.2.0/24", Callers((ip_network("192.0.2.0/24"),))),
        ("from 192.0.2.7, 2001:db8::/32", Callers((ip_network("192.0.2.7/32"), ip_network("2001:db8::/32")))),
        ("on eth0,wg0 eth0", Callers(entrances=("eth0", "wg0"))),
    ],
)
def test_callers_are_read(text: str, meant: Callers | None) -> None:
    """Blanks and commas are the same."""
    assert callers(text) == meant


def test_sources_that_overlap_are_told_once() -> None:
    """A set of intervals takes no two that have an address in common."""
    assert callers("from 10.0.0.0/8,10.1.0.0/16,10.0.0.1,192.0.2.0/25,192.0.2.128/25") == Callers(
        (ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24"))
    )


@pytest.mark.parametrize(
    "text",
    [
        "all",
        "from",
        "on",
        "from all",
        "from 10.0.0.1/8",
        "on a/b",
        "on a-very-long-name",
        "localhost eth0",
        "follow me",
        " ",
    ],
)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    """With the key."""
    with pytest.raises(InvalidOption, match=r"isthmus\.publish value: "):
        callers(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "10.0.0.1"), ("a b", "10.0.0.1"), ("a..b", "10.0.0.1"), ("*", "10.0.0.1"), ("a.*", "10.0.0.1"), ("-a", "::1")]
    + [("www", text) for text in ("", "web", "10.0.0.1,", "10.0.0.0/24")]
    + [(".".join(["a" * 63] * 4), "10.0.0.1")],
)
def test_a_record_that_cannot_be_is_refused(name: str, value: str) -> None:
    """Before anything is done, with its key."""
    with pytest.raises(InvalidOption, match=r"isthmus\.record\."):
        records_of({RECORD + name: value})
