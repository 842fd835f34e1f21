"""What commands print: tables as Docker's client sets them, JSON, templates, plans; and the care for several names.

A row is a mapping of field names to text. Functions among its values are what a template calls (`{{.Label "x"}}`).
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from isthmus.cli.client import DaemonError
from isthmus.cli.flags import Arguments
from isthmus.cli.values import record, texts

Row = Mapping[str, object]

_MINIMAL_WIDTH = 10
_PADDING = 3


class Fields(NamedTuple):
    """The fields of a kind of row, each with its heading, and those that the usual table shows."""

    headings: Mapping[str, str]
    shown: tuple[str, ...]
    id: str = "ID"


def align(lines: Sequence[Sequence[str]]) -> str:
    """Set *lines*, each with as many cells, in columns; the last column is left as it is.

    The widths are those of Docker's client (Go's tabwriter with a minimal width of 10 and a padding of 3).
    """
    columns = list(zip(*lines, strict=True))[:-1]
    widths = [max(_MINIMAL_WIDTH, _PADDING + max(map(len, column))) for column in columns]
    return "\n".join("".join([*map(str.ljust, line, widths), line[-1]]) for line in lines)


def print_rows(arguments: Arguments, fields: Fields, rows: Sequence[Row]) -> int:
    """Print *rows* as `--format` and `--quiet` ask; 0 is the exit code."""
    how = arguments.text("format")
    if how in {"", "table"} and arguments.on("quiet"):
        lines = [str(row[fields.id]) for row in rows]
    elif how in {"", "table"}:
        cells = [[str(row[name]) for name in fields.shown] for row in rows]
        lines = [align([[fields.headings[name] for name in fields.shown], *cells])]
    elif how == "json":
        lines = [to_json(dict(sorted(row.items()))) for row in rows]
    else:
        lines = _rendered(how, fields, rows)
    for line in lines:
        print(line)
    return 0


def _rendered(how: str, fields: Fields, rows: Sequence[Row]) -> list[str]:
    from isthmus.cli.template import compile_template

    as_table = how.startswith("table ")
    source = how.removeprefix("table ").strip().replace("\\t", "\t").replace("\\n", "\n")
    render = compile_template(source)
    lines = [render(dict(sorted(row.items()))) for row in rows]
    if not as_table:
        return lines
    heading = render(
        {**fields.headings, "Label": lambda name: name.rpartition(".")[2].replace("-", " ").replace("_", " ")}
    )
    cells = [line.split("\t") for line in (heading, *lines)]
    width = max(map(len, cells))
    return [align([[*line, *[""] * (width - len(line))] for line in cells])]


def to_json(value: object) -> str:
    """Write *value* on one line; the functions of a row are left out."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if not callable(item)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def print_inspected(
    arguments: Arguments, fetch: Callable[[str], object], prepare: Callable[[object], object] = lambda x: x
) -> int:
    """Print what *fetch* gives for each word, as `--format` asks; give 1 if one of them failed, else 0.

    *Prepare* makes of it what a template shows.
    """
    how = arguments.text("format")
    found, failures = [], []
    for word in arguments.words:
        try:
            found.append(fetch(word))
        except DaemonError as error:
            failures.append(str(error))
    if not how:
        print(json.dumps(found, ensure_ascii=False, indent=4))
    elif how == "json":
        print(to_json(found))
    else:
        from isthmus.cli.template import compile_template

        render = compile_template(how)
        for value in found:
            shown = prepare(value)
            print(render(_Named(shown) if isinstance(shown, dict) else shown))
    return _tell(failures)


class _Named(dict[str, object]):
    """What a template shows: an object whose ID is there by the name that it has in Docker's client, too."""

    def __missing__(self, key: str) -> object:
        if key == "ID":
            return self["Id"]
        raise KeyError(key)


def each(words: Sequence[str], act: Callable[[str], object], forgiven: frozenset[int] = frozenset()) -> int:
    """Do *act* for each of *words* and print the word, or the plan that came back; go on after a failure, giving 1.

    The daemon's answers with one of the statuses *forgiven* are no failures, and print nothing.
    """
    failures = []
    for word in words:
        try:
            print_done(act(word), word)
        except DaemonError as error:
            if error.code not in forgiven:
                failures.append(str(error))
    return _tell(failures)


def _tell(failures: Sequence[str]) -> int:
    sys.stdout.flush()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def print_done(answer: object, otherwise: str = "") -> int:
    """Print the plan in *answer* if it has one, else *otherwise*; 0 is the exit code."""
    match answer:
        case {"Plan": plan}:
            for line in texts(plan):
                print(line)
        case _ if otherwise:
            print(otherwise)
        case _:
            pass
    return 0


def print_created(answer: object) -> int:
    """Print the ID in *answer*, with its warnings on standard error; or its plan."""
    made = record(answer)
    for warning in (*texts(made.get("Warnings")), made.get("Warning")):
        if warning:
            print(f"WARNING: {warning}", file=sys.stderr)
    return print_done(answer, str(made.get("Id", "")))


def prune(arguments: Arguments, what: str, heading: str, act: Callable[[], object], key: str) -> int:
    """Ask whether *what* shall be removed, *act*, and print the names under *key* of the answer below *heading*."""
    if not (arguments.on("force") or arguments.on("dry-run")):
        print(f"WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            return 0
    answer = act()
    names = texts(record(answer).get(key))
    return print_done(answer, "\n".join([f"{heading}:", *names, ""]) if names else "")
