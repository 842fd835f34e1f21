"""The reading of command lines, ports and times, and the setting of tables."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.cli.client import quote, socket_path
from isthmus.cli.flags import Arguments, Command, Flag, Kind, UsageError, parse, split_csv
from isthmus.cli.nat import chain_lines, count
from isthmus.cli.output import align
from isthmus.cli.ports import parse_ports
from isthmus.cli.system import event_line, moment
from isthmus.cli.values import natural
from isthmus.errors import InvalidRequest


def nothing(_: Arguments) -> int:
    """Do nothing."""
    return 0


COMMAND = Command(
    "isthmus try",
    "[OPTIONS] WORD",
    "Try",
    nothing,
    (
        Flag("all", "", Kind.SWITCH, "a"),
        Flag("both", "", Kind.SWITCH, "b"),
        Flag("name", "", short="n"),
        Flag("many", "", Kind.LIST, "m"),
        Flag("split", "", Kind.CSV),
        Flag("size", "", Kind.NUMBER),
    ),
    1,
    2,
)


@pytest.mark.parametrize(
    "words",
    [
        ("-ab", "-nx", "--size", "-3", "w"),
        ("w", "--all", "--both=true", "-n=x", "--size=-3"),
        ("-a", "w", "-bn", "x", "--size=-3"),
        ("--all=t", "--both=1", "--name=y", "--name", "x", "--size", "-3", "--", "w"),
    ],
    ids=" ".join,
)
def test_all_ways_to_write_a_flag_mean_the_same(words: tuple[str, ...]) -> None:
    """All of them are in use in scripts."""
    arguments = parse(COMMAND, words)

    assert arguments is not None
    assert (arguments.on("all"), arguments.on("both"), arguments.text("name"), arguments.number("size")) == (
        True,
        True,
        "x",
        -3,
    )
    assert arguments.words == ["w"]


def test_lists_gather_and_only_some_are_split_at_commas() -> None:
    """A label may have a comma in its value, an alias cannot."""
    arguments = parse(COMMAND, ["-m", "a,b", "--many", "c", "--split", 'd,e,"f,g"', "--split=h", "w", "--", "--all"])

    assert arguments is not None
    assert arguments.texts("many") == ["a,b", "c"]
    assert arguments.texts("split") == ["d", "e", "f,g", "h"]
    assert (arguments.words, arguments.on("all")) == (["w", "--all"], False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "isthmus: 'isthmus try' requires 1 to 2 arguments"),
        (("a", "b", "c"), "isthmus: 'isthmus try' requires 1 to 2 arguments"),
        (("--size", "big", "w"), 'invalid argument "big" for "--size" flag: it must be a whole number'),
        (("--all=perhaps", "w"), 'invalid argument "perhaps" for "-a, --all" flag: it must be true or false'),
        (("-az",), "unknown shorthand flag: 'z' in -az"),
        (("-n",), "flag needs an argument: 'n' in -n"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_sentence_with_the_usage(words: tuple[str, ...], sentence: str) -> None:
    """The sentence says what, the rest how it should have been."""
    with pytest.raises(UsageError) as raised:
        parse(COMMAND, words)

    lines = str(raised.value).splitlines()
    assert (lines[0], lines[2]) == (sentence, "Usage:  isthmus try [OPTIONS] WORD")


@given(st.lists(st.text(alphabet='-abnmx=,"', max_size=6), max_size=6))
def test_no_command_line_makes_a_traceback(words: list[str]) -> None:
    """Whatever is typed is read, or told to be wrong."""
    with contextlib.suppress(UsageError):
        parse(COMMAND, words)


@given(st.lists(st.text(alphabet="abc.:/=0123456789", min_size=1)))
def test_fields_without_quotes_are_split_at_every_comma(fields: list[str]) -> None:
    """The law that the splitter must keep."""
    assert split_csv(",".join(fields)) == fields


@given(st.integers(0, 65000), st.integers(0, 65000), st.integers(0, 500), st.sampled_from(["tcp", "udp", "sctp"]))
def test_a_published_range_is_as_many_bindings(host: int, inner: int, more: int, protocol: str) -> None:
    """Each port of the container gets the port of the host at the same distance."""
    ports = parse_ports([f"{host}-{host + more}:{inner}-{inner + more}/{protocol}"], [])

    expected = {f"{inner + at}/{protocol}": [{"HostIp": "", "HostPort": str(host + at)}] for at in range(more + 1)}
    assert ports.bindings == expected
    assert ports.exposed.keys() == expected.keys()


def test_behind_a_port_stands_who_may_use_it() -> None:
    """In the words of the network's option, with blanks as anybody writes them; also behind the long form."""
    ports = parse_ports(["8080:80 from 192.0.2.0/24, ::/0", "published=8081,target=80 follow", " 8082:80 "], [])
    assert ports.bindings == {
        "80/tcp": [
            {"HostIp": "", "HostPort": "8080", "Callers": "from 192.0.2.0/24, ::/0"},
            {"HostIp": "", "HostPort": "8081", "Callers": "follow"},
            {"HostIp": "", "HostPort": "8082"},
        ]
    }


@given(st.text(alphabet="0123456789:-/[].=,tcpudphosargeblimn", max_size=25))
def test_no_port_makes_a_traceback(text: str) -> None:
    """Whatever is typed is read, or told to be wrong."""
    for published, exposed in (([text], []), ([], [text])):
        with contextlib.suppress(ValueError):
            assert parse_ports(published, exposed).exposed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (99999, "99999"),
        (100000, "100K"),
        (123456, "123K"),
        (9999499, "9999K"),
        (9999500, "10M"),
        (12345678901, "12G"),
        (1234567890123456, "1235T"),
    ],
)
def test_counters_are_rounded_as_iptables_rounds_them(value: int, expected: str) -> None:
    """The columns must stay as wide as they are, whatever was counted."""
    assert count(value, exact=False) == expected
    assert count(value, exact=True) == str(value)


def test_nat_rules_stand_in_the_columns_of_iptables() -> None:
    """These lines were printed by iptables 1.8.9 for the same rules, and scripts cut them."""
    names = ("Packets", "Bytes", "Target", "Protocol", "Options", "In", "Out", "Source", "Destination", "Extra")
    rules = (
        (123456, 99999999, "DNAT", "6", "--", "!br0", "*", "0.0.0.0/0", "1.2.3.4", "to:10.5.0.2:80"),
        (0, 0, "MASQUERADE", "0", "--", "*", "!br0", "10.5.0.0/24", "0.0.0.0/0", ""),
    )
    chain: dict[str, object] = {"Name": "PREROUTING", "Policy": "ACCEPT", "Packets": 0, "Bytes": 0}
    chain["Rules"] = [dict(zip(names, rule, strict=True)) for rule in rules]

    assert chain_lines(chain, exact=False) == [
        "Chain PREROUTING (policy ACCEPT 0 packets, 0 bytes)",
        " pkts bytes target     prot opt in     out     source               destination         ",
        " 123K  100M DNAT       6    --  !br0   *       0.0.0.0/0            1.2.3.4              to:10.5.0.2:80",
        "    0     0 MASQUERADE  0    --  *      !br0    10.5.0.0/24          0.0.0.0/0           ",
    ]
    assert [line[:30] for line in chain_lines(chain, exact=True)[1:3]] == [
        "    pkts      bytes target    ",
        "  123456 99999999 DNAT       6",
    ]


@pytest.mark.parametrize(
    ("given_time", "expected"),
    [
        ("1136073600", "1136073600"),
        ("1136073600.000000001", "1136073600.000000001"),
        ("2006-01-02T15:04:05.5Z", "1136214245.500000000"),
        ("2006-01-02T15:04:05+02:00", "1136207045.000000000"),
        ("1h30m", "994600"),
        ("500ms", "999999"),
    ],
)
def test_a_time_is_a_date_a_number_or_a_while_ago(given_time: str, expected: str) -> None:
    """The API knows seconds since the epoch only."""
    assert moment(given_time, 1_000_000.0) == expected


@given(st.text(max_size=12))
def test_no_time_makes_a_traceback(text: str) -> None:
    """Whatever is typed is read, or told to be wrong."""
    with contextlib.suppress(InvalidRequest):
        assert moment(text, 0.0)


def test_an_event_without_nanoseconds_or_attributes_is_still_a_line() -> None:
    """Old events have neither."""
    line = event_line({"Type": "daemon", "Action": "reload", "Actor": {"ID": "x"}, "time": 5})

    assert line.endswith(" daemon reload x")
    assert ".000000000" in line


def test_columns_are_ten_wide_at_least_and_three_apart() -> None:
    """So Docker's client sets them."""
    assert (
        align([["A", "BB", "C"], ["1", "a-long-cell", "2"]]) == "A         BB            C\n1         a-long-cell   2"
    )


def test_names_are_sorted_by_their_numbers() -> None:
    """A list of net1 to net20 reads as one."""
    assert sorted(["net10", "net9", "a", "net", "10", "9"], key=natural) == ["9", "10", "a", "net", "net9", "net10"]


def test_a_name_in_a_path_can_have_any_character() -> None:
    """A name must not become another path, or a query."""
    assert quote("a/b?c=ü d") == "a%2Fb%3Fc%3D%C3%BC%20d"


@pytest.mark.parametrize("host", ["", "unix://", "tcp://127.0.0.1:2375", "/run/x.sock"])
def test_a_host_that_is_no_unix_socket_is_refused(host: str) -> None:
    """It would only fail later, with less to say."""
    with pytest.raises(InvalidRequest, match="unix:///"):
        socket_path(host)
