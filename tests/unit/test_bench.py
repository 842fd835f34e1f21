"""The benchmark's own arithmetic: a wrong ratio would be believed."""

import json

import pytest

from bench import client, profile, profiled
from bench.report import Better, Goal, Machine, Report, Summary, number, put_into

MACHINE = Machine("2026-01-01", "6.18", 2, 1024, "3.11")


@pytest.mark.parametrize(
    ("samples", "better", "expected"),
    [
        ([5.0], Better.LESS, Summary(5, 5, 1)),
        ([float(n) for n in range(1, 11)], Better.LESS, Summary(5.5, 9, 10)),
        ([float(n) for n in range(1, 11)], Better.MORE, Summary(5.5, 2, 10)),
    ],
)
def test_p90_is_what_nine_in_ten_reach(samples: list[float], better: Better, expected: Summary) -> None:
    """For a cost that is a high value, for a yield a low one."""
    assert Summary.of(samples, better) == expected


def test_a_ratio_is_to_the_first_who_answered_the_same_question() -> None:
    """The floor comes first; all others are held against it, and those of another unit are not."""
    report = Report(MACHINE)
    report.add("connect", "floor", "ms", [0.2, 0.4])
    report.add("restart", "isthmus", "ms", [9.0])
    ours = report.add("connect", "isthmus", "ms", [0.6], Goal(1.5))
    assert ours.ratio == pytest.approx(2.0)
    assert ours.met is False
    assert report.add("connect", "isthmus, pairs", "1/s", [300.0]).ratio is None


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(2), True),
        (Goal(1.9), False),
        (Goal(2, Better.MORE), True),
        (Goal(2.1, Better.MORE), False),
        (Goal(4, of_ratio=False), True),
        (Goal(3.9, of_ratio=False), False),
    ],
)
def test_a_goal_is_a_limit_from_its_side_on_what_it_is_about(goal: Goal, *, met: bool) -> None:
    """A table that says `met` must not mean the opposite for throughput, or look at the ratio for a time."""
    report = Report(MACHINE)
    report.add("q", "floor", "ms", [2.0])
    assert report.add("q", "isthmus", "ms", [4.0], goal).met is met


def test_the_table_keeps_a_question_together_and_counts_the_goals() -> None:
    """Peers are measured later than the floor, and read beside it."""
    report = Report(MACHINE, loads={"connect": 1.5}, notes=["Docker is not measured."])
    report.add("connect", "floor", "ms", [0.2])
    report.add("memory", "isthmus", "MiB", [50.0], Goal(60, of_ratio=False))
    report.add("connect", "isthmus", "ms", [0.4], Goal(1.5))
    words = [line.split() for line in report.table().splitlines()]
    assert words[2:5] == [
        ["connect", "[load", "1.5]"],
        ["floor", "0.200", "ms", "p90", "0.200"],
        ["isthmus", "0.400", "ms", "p90", "0.400", "2.00", "x", "goal", "<=", "1.5", "x", "NOT", "MET"],
    ]
    assert words[-1] == ["1", "of", "2", "goals", "met"]
    shown = json.loads(report.json())
    assert [line["met"] for line in shown["lines"]] == [None, True, False]
    assert shown["machine"]["processors"] == 2


def test_a_page_gets_the_numbers_in_their_place_and_only_there() -> None:
    """The page's prose is written by hand, and must survive the next run."""
    page = "# t\n<!-- bench -->\nold\n<!-- end of bench -->\nprose\n"
    once = put_into(page, "bench", "new")
    assert once == put_into(once, "bench", "new") == "# t\n<!-- bench -->\n\nnew\n\n<!-- end of bench -->\nprose\n"
    with pytest.raises(ValueError, match="no place for profile"):
        put_into(page, "profile", "new")


@pytest.mark.parametrize(("value", "text"), [(0.31234, "0.312"), (12.345, "12.3"), (12345.6, "12346"), (0, "0")])
def test_numbers_have_three_digits_that_mean_something(value: float, text: str) -> None:
    """More would pretend to know what the next run shows otherwise."""
    assert number(value) == text


@pytest.mark.parametrize(
    ("received", "parsed"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", (200, b"abc")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, b"ok")),
    ],
)
def test_an_answer_ends_where_its_head_says(received: bytes, parsed: tuple[int, bytes] | None) -> None:
    """A clock that stops before the whole answer is there flatters."""
    assert client.parse(received) == parsed


def test_the_stages_of_a_request_add_up_to_the_whole() -> None:
    """Nothing is counted twice, though stages lie within each other, and nothing is lost between them."""
    spans = [
        ("handler", 10_000, 90_000),
        ("job", 20_000, 80_000),
        ("commit", 21_000, 31_000),
        ("store", 22_000, 29_000),
        ("apply", 40_000, 70_000),
        ("kernel", 41_000, 46_000),
        ("kernel", 50_000, 60_000),
        ("namespace", 62_000, 68_000),
        ("kernel", 63_000, 64_000),
    ]
    [(window, inside)] = profile.split([(0, 100_000)], [*spans, ("job", 200_000, 210_000)])
    found = profile.stages(window, inside)
    assert sum(found.values()) == 100
    assert (found["commit: SQLite"], found["apply: kernel"], found["apply: Python"]) == (7, 15, 9)
    assert found["apply: the namespace"] == 6


@pytest.mark.parametrize(("module", "path"), [stage[1:] for stage in profiled.STAGES])
def test_what_the_profile_times_is_there(module: str, path: str) -> None:
    """A function that was renamed would vanish from the profile in silence."""
    assert callable(profiled.found(module, path)[2])
