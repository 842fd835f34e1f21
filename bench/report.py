"""What a run of the benchmark found: values, and how people and programs read them."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median


class Better(Enum):
    """Which way is good."""

    LESS = "<="
    MORE = ">="


@dataclass(frozen=True, slots=True)
class Summary:
    """The middle of many samples, and what nine in ten of them reach (`p90`: their worse end, whichever that is)."""

    median: float
    p90: float
    count: int

    @classmethod
    def of(cls, samples: Iterable[float], better: Better = Better.LESS) -> "Summary":
        """Summarise *samples*, of which there is at least one.

        >>> Summary.of([3, 1, 2])
        Summary(median=2, p90=3, count=3)
        """
        ordered = sorted(samples, reverse=better is Better.MORE)
        return cls(median(ordered), ordered[math.ceil(0.9 * len(ordered)) - 1], len(ordered))


@dataclass(frozen=True, slots=True)
class Goal:
    """What was asked for: a limit, of the ratio or of the median itself."""

    limit: float
    better: Better = Better.LESS
    of_ratio: bool = True

    def met_by(self, value: float) -> bool:
        """Whether *value* is within the limit."""
        return value <= self.limit if self.better is Better.LESS else value >= self.limit


@dataclass(frozen=True, slots=True)
class Line:
    """One finding: *who* did what the *question* asks. *Ratio* is to the first line of the same question."""

    question: str
    who: str
    unit: str
    summary: Summary
    ratio: float | None = None
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        if self.goal is None:
            return None
        value = self.ratio if self.goal.of_ratio else self.summary.median
        return value is not None and self.goal.met_by(value)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when it was run."""

    date: str
    kernel: str
    processors: int
    memory_mib: int
    python: str


@dataclass(slots=True)
class Report:
    """What is found, as it is found. *Loads* are load averages, by the question before which they were read."""

    machine: Machine
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    loads: dict[str, float] = field(default_factory=dict)

    def add(  # noqa: PLR0917 - a table's row, in the order of its columns
        self,
        question: str,
        who: str,
        unit: str,
        samples: Sequence[float],
        goal: Goal | None = None,
        ratio: float | None = None,
        better: Better = Better.LESS,
    ) -> Line:
        """Take down what *samples* say; without a *ratio*, it is the one to the question's first line, if any."""
        summary = Summary.of(samples, better)
        first = next((line for line in self.lines if line.question == question), None)
        if ratio is None and first is not None and first.unit == unit and first.summary.median:
            ratio = summary.median / first.summary.median
        line = Line(question, who, unit, summary, ratio, goal)
        self.lines.append(line)
        return line

    def table(self) -> str:
        """For people."""
        machine = self.machine
        where = f"Linux {machine.kernel}, {machine.processors} processors, {machine.memory_mib} MiB"
        rows = [f"{machine.date}, {where}, Python {machine.python}"]
        for question in dict.fromkeys(line.question for line in self.lines):
            load = f"  [load {self.loads[question]:.1f}]" if question in self.loads else ""
            rows += ["", question + load, *(_row(line) for line in self.lines if line.question == question)]
        if self.notes or self.failures:
            rows += ["", *self.notes, *self.failures]
        goals = [line.met for line in self.lines if line.goal]
        return "\n".join([*rows, "", f"{goals.count(True)} of {len(goals)} goals met"])

    def markdown(self) -> str:
        """For a page: the table, as Markdown."""
        machine = self.machine
        where = f"Linux {machine.kernel}, {machine.processors} processors, {machine.memory_mib} MiB"
        rows = [
            f"Measured on {machine.date}: {where}, Python {machine.python}.",
            "",
            "| question | who | median | p90 | ratio | goal | |",
            "|---|---|---|---|---|---|---|",
        ]
        before = ""
        for line in sorted(self.lines, key=lambda line: [each.question for each in self.lines].index(line.question)):
            cells = [
                "" if line.question == before else line.question,
                line.who,
                f"{number(line.summary.median)} {line.unit}".strip(),
                number(line.summary.p90),
                "" if line.ratio is None else f"{line.ratio:.2f}",
                _goal(line),
                {True: "met", False: "**not met**", None: ""}[line.met],
            ]
            rows.append(f"| {' | '.join(cells)} |")
            before = line.question
        loads = sorted(self.loads.values()) or [0]
        notes = [*self.notes, *self.failures, f"The load average was between {loads[0]:.1f} and {loads[-1]:.1f}."]
        return "\n".join([*rows, "", *notes])

    def json(self) -> str:
        """For programs."""
        machine = self.machine
        lines = [
            {
                "question": line.question,
                "who": line.who,
                "unit": line.unit,
                "median": line.summary.median,
                "p90": line.summary.p90,
                "samples": line.summary.count,
                "ratio": line.ratio,
                "goal": line.goal and f"{line.goal.better.value} {line.goal.limit:g}",
                "goal_of": line.goal and ("ratio" if line.goal.of_ratio else "median"),
                "met": line.met,
            }
            for line in self.lines
        ]
        where = {name: getattr(machine, name) for name in Machine.__slots__}
        return json.dumps(
            {"machine": where, "lines": lines, "loads": self.loads, "notes": self.notes, "failures": self.failures},
            indent=1,
        )


def _row(line: Line) -> str:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f} x"
    goal = f"goal {_goal(line)}" if line.goal else ""
    verdict = {True: "met", False: "NOT MET", None: ""}[line.met]
    values = f"{number(line.summary.median):>9} {line.unit:<6} p90 {number(line.summary.p90):>8}"
    return f"  {line.who:<34}{values}  {ratio:>9}  {goal:<18}{verdict}".rstrip()


def _goal(line: Line) -> str:
    if line.goal is None:
        return ""
    unit = "x" if line.goal.of_ratio else line.unit
    return f"{line.goal.better.value} {line.goal.limit:g} {unit}".strip()


def put_into(page: str, name: str, content: str) -> str:
    r"""The *page* with *content* between the comments `<!-- NAME -->` and `<!-- end of NAME -->`; ValueError without.

    >>> put_into("a\n<!-- x -->\nold\n<!-- end of x -->\nb", "x", "new")
    'a\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nb'
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no place for {name}: {begin.strip()} ... {end.strip()}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def number(value: float) -> str:
    """Write *value* with three digits that mean something.

    >>> number(0.31234), number(12.345), number(12345.6), number(0)
    ('0.312', '12.3', '12346', '0')
    """
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
