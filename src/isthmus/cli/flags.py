"""Commands, their flags, and the reading of a command line in the manner of Docker's (that of pflag).

Flags may stand before, between and behind the words; `--name value`, `--name=value`, `-n value`, `-nvalue` and
`-n=value` mean the same; a switch is `--name` or `--name=false`; `--` ends the flags. What is wrong is told in Docker's
sentences.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from isthmus.cli.client import DEFAULT_HOST, Client
from isthmus.errors import InvalidRequest

PROGRAM = "isthmus"
SEE = "Run '{} --help' for more information"


class UsageError(InvalidRequest):
    """The command line of *command* is wrong; the message ends with how to write it."""

    def __init__(self, command: "Command", message: str) -> None:
        super().__init__(f"{message}\n\n{command.usage}\n\n{SEE.format(command.path)}")


class Kind(Enum):
    """What the value of a flag is."""

    SWITCH = "switch"
    TEXT = "text"
    NUMBER = "number"
    LIST = "list"
    """May be given several times."""
    CSV = "csv"
    """Likewise, and each value is split at its commas."""


def as_given(value: str) -> str:
    """Take any value."""
    return value


class Flag(NamedTuple):
    """One flag. *Check* gives the value to use for the one that was given, or raises ValueError with a sentence."""

    name: str
    help: str
    kind: Kind = Kind.TEXT
    short: str = ""
    value: str = "string"
    check: Callable[[str], str] = as_given
    default: str = ""

    @property
    def label(self) -> str:
        """The flag as error messages name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Arguments:
    """A command line that was read: its *words*, the values of its flags, and the daemon that it is for."""

    def __init__(self, command: "Command", host: str) -> None:
        self.command = command
        self.words: list[str] = []
        self._host = host
        self._values: dict[str, list[str]] = {}

    def add(self, flag: Flag, value: str) -> None:
        """Take one more *value* of *flag*; UsageError if it cannot be."""
        try:
            values = [flag.check(part) for part in _parts(flag, value)]
        except ValueError as error:
            raise UsageError(self.command, f'invalid argument "{value}" for "{flag.label}" flag: {error}') from error
        self._values.setdefault(flag.name, []).extend(values)

    def given(self, name: str) -> bool:
        """Whether the flag stands on the command line."""
        return name in self._values

    def on(self, name: str, *, default: bool = False) -> bool:
        """Whether the switch is on."""
        return self._values[name][-1] == "true" if name in self._values else default

    def text(self, name: str, default: str = "") -> str:
        """Give the value of the flag, the last one if there are several."""
        return self._values[name][-1] if self._values.get(name) else default

    def texts(self, name: str) -> list[str]:
        """Give all values of the flag."""
        return list(self._values.get(name, ()))

    def number(self, name: str) -> int:
        """Give the value of the flag, 0 if it is absent."""
        return int(self.text(name, "0"))

    @property
    def host(self) -> str:
        """The daemon's address: that of the command line, of the environment, or the usual one."""
        return self.text("host", self._host) or os.environ.get("ISTHMUS_HOST") or DEFAULT_HOST

    def client(self) -> Client:
        """Give the daemon that the command is for."""
        return Client(self.host)

    def wrong(self, message: str) -> UsageError:
        """Give the error that the command line cannot be meant, for the caller to raise."""
        return UsageError(self.command, message)


class Command(NamedTuple):
    """One command: its *path* (`isthmus network ls`), what follows that, and what it runs, giving the exit code."""

    path: str
    synopsis: str
    summary: str
    run: Callable[[Arguments], int]
    flags: tuple[Flag, ...] = ()
    least: int = 0
    most: int | None = 0
    aliases: tuple[str, ...] = ()
    interspersed: bool = True

    @property
    def name(self) -> str:
        """The last word of the path."""
        return self.path.rpartition(" ")[2]

    @property
    def usage(self) -> str:
        """The usage line."""
        return f"Usage:  {self.path} {self.synopsis}".rstrip()


HOST = Flag(
    "host",
    'Daemon to talk to (ISTHMUS_HOST; default "unix:///run/isthmus/isthmus.sock")',
    short="H",
    value="unix://PATH",
)
HELP = Flag("help", "Show this help", kind=Kind.SWITCH)
DRY_RUN = Flag("dry-run", "Show the kernel operations as ip and nft lines, and do nothing", kind=Kind.SWITCH)
EGRESS = Flag(
    "egress", 'Who may be called from inside: "deny, allow *.debian.org:443, allow 10.0.0.0/8"', value="rules"
)
RATE = Flag("rate", "Bits a second each way, or to it/from it: 100mbit, 100mbit/20mbit", value="rate")
LS_FORMAT = Flag("format", "table (default), table TEMPLATE, json (one object a line), or a Go TEMPLATE")
INSPECT_FORMAT = Flag("format", "json, or a Go TEMPLATE", short="f")
QUIET = Flag("quiet", "IDs only", kind=Kind.SWITCH, short="q")
NO_TRUNC = Flag("no-trunc", "Whole IDs", kind=Kind.SWITCH)


def parse(command: Command, words: Sequence[str], host: str = "") -> Arguments | None:
    """Read *words* as the command line of *command*; None if it asks for help. *Host* is what stood before them."""
    arguments = Arguments(command, host)
    known = (*command.flags, HELP, *(() if _find(command.flags, "host", "") else (HOST,)))
    rest = iter(words)
    for word in rest:
        if word == "--":
            break
        if word.startswith("--"):
            _long(arguments, known, word, rest)
        elif word.startswith("-") and len(word) > 1:
            _short(arguments, known, word, rest)
        else:
            arguments.words.append(word)
            if not command.interspersed:
                break
        if arguments.on("help"):
            return None
    arguments.words.extend(rest)
    _count(arguments)
    return arguments


def _long(arguments: Arguments, known: Sequence[Flag], word: str, rest: Iterator[str]) -> None:
    name, given, value = word[2:].partition("=")
    flag = _find(known, name, "")
    if flag is None:
        raise arguments.wrong(f"unknown flag: --{name}")
    if given:
        arguments.add(flag, value)
    elif flag.kind is Kind.SWITCH:
        arguments.add(flag, "true")
    else:
        arguments.add(flag, _next(arguments, rest, word))


def _short(arguments: Arguments, known: Sequence[Flag], word: str, rest: Iterator[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = _find(known, "", letter) or (HELP if letter == "h" else None)
        if flag is None:
            raise arguments.wrong(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            return arguments.add(flag, letters[1:])
        if flag.kind is not Kind.SWITCH:
            return arguments.add(flag, letters or _next(arguments, rest, f"'{letter}' in {word}"))
        arguments.add(flag, "true")
    return None


def _next(arguments: Arguments, rest: Iterator[str], flag: str) -> str:
    value = next(rest, None)
    if value is None:
        raise arguments.wrong(f"flag needs an argument: {flag}")
    return value


def _find(flags: Sequence[Flag], name: str, short: str) -> Flag | None:
    return next((flag for flag in flags if (flag.name == name if name else short and flag.short == short)), None)


def _parts(flag: Flag, value: str) -> list[str]:
    match flag.kind:
        case Kind.SWITCH:
            return [_boolean(value)]
        case Kind.NUMBER:
            try:
                return [str(int(value))]
            except ValueError:
                raise ValueError("it must be a whole number") from None
        case Kind.CSV:
            return split_csv(value)
        case Kind.TEXT | Kind.LIST:
            return [value]


def _boolean(value: str) -> str:
    """Read what Go's `strconv.ParseBool` takes."""
    if value in {"1", "t", "T", "true", "TRUE", "True"}:
        return "true"
    if value in {"0", "f", "F", "false", "FALSE", "False"}:
        return "false"
    raise ValueError("it must be true or false")


def split_csv(value: str) -> list[str]:
    """Split *value* at its commas; a field in double quotes may have commas of its own."""
    if '"' not in value:
        return value.split(",") if value else []
    import csv

    return next(csv.reader([value], strict=True), [])


def _count(arguments: Arguments) -> None:
    """Check the number of words."""
    command, count = arguments.command, len(arguments.words)
    if command.least <= count and (command.most is None or count <= command.most):
        return
    if command.most == 0:
        how = "accepts no arguments"
    else:
        least = "at least " if command.most is None else f"{command.least} to " if command.least != command.most else ""
        wanted = command.least if command.most is None else command.most
        how = f"requires {least}{wanted} argument{'' if wanted == 1 else 's'}"
    raise UsageError(command, f"{PROGRAM}: '{command.path}' {how}")


def help_text(command: Command) -> str:
    """Give the help of *command*."""
    flags = sorted((*command.flags, HELP), key=lambda flag: flag.name)
    left = [
        f"  {f'-{flag.short},' if flag.short else '   '} --{flag.name}{_placeholder(flag)}"
        for flag in (*flags, *(() if _find(command.flags, "host", "") else (HOST,)))
    ]
    width = max(map(len, left)) + 3
    shown = [
        f"{name:<{width}}{flag.help}{f' (default {flag.default})' if flag.default else ''}"
        for name, flag in zip(left, (*flags, HOST), strict=False)
    ]
    aliases = [f"Aliases:\n  {', '.join([command.path, *_siblings(command)])}\n"] if command.aliases else []
    return "\n".join([command.usage, "", command.summary, "", *aliases, "Options:", *shown])


def _siblings(command: Command) -> list[str]:
    group = command.path.rpartition(" ")[0]
    return [f"{group} {alias}" for alias in command.aliases]


def _placeholder(flag: Flag) -> str:
    return "" if flag.kind is Kind.SWITCH else f" {'int' if flag.kind is Kind.NUMBER else flag.value}"


# What several commands check.


def key_value(value: str) -> tuple[str, str]:
    """Split `key=value`; the value is "" if there is none."""
    key, _, rest = value.partition("=")
    return key, rest


def mapping(values: Sequence[str]) -> dict[str, str]:
    """Give the mapping that a flag like `--label a=1 --label b` is."""
    return dict(map(key_value, values))


def check_filter(value: str) -> str:
    """Take `name=value`, and give it with Docker's tidying."""
    name, equals, rest = value.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return f"{name.strip().lower()}={rest.strip()}"


def check_label(value: str) -> str:
    """Take `name` or `name=value`."""
    if not value.partition("=")[0].strip():
        raise ValueError(f"invalid label '{value}': empty name")
    return value


def check_link(value: str) -> str:
    """Take `sandbox` or `sandbox:alias`."""
    if not value:
        raise ValueError("empty string specified for links")
    if value.count(":") > 1:
        raise ValueError(f"bad format for links: {value}")
    return value


def filter_query(arguments: Arguments) -> dict[str, str]:
    """Give the query `filters=`, as the API wants it; none if there is no filter."""
    import json

    filters: dict[str, dict[str, bool]] = {}
    for name, value in map(key_value, arguments.texts("filter")):
        filters.setdefault(name, {})[value] = True
    return {"filters": json.dumps(filters)} if filters else {}


def dry_run_query(arguments: Arguments) -> dict[str, str]:
    """Give the query that makes the daemon only plan; none if it shall act."""
    return {"dry-run": "1"} if arguments.on("dry-run") else {}


def egress_of(arguments: Arguments) -> dict[str, str]:
    """Give the option that `--egress` stands for; none without it."""
    return {"isthmus.egress": arguments.text("egress")} if arguments.given("egress") else {}


def options_of(arguments: Arguments) -> Mapping[str, str]:
    """Give the options of a driver, from `--driver-opt key=value`; each must have a key and an equals sign."""
    values = arguments.texts("driver-opt")
    if not all(value.partition("=")[0] and "=" in value for value in values):
        raise arguments.wrong("invalid key/value pair format in driver options")
    return mapping(values)
