"""`isthmus image`, and the short `images`, `rmi`, `pull`, `load` and `import`, in the words of Docker's client."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from isthmus.cli.client import DaemonError, quote
from isthmus.cli.flags import (
    INSPECT_FORMAT,
    LS_FORMAT,
    NO_TRUNC,
    QUIET,
    Arguments,
    Command,
    Flag,
    Kind,
    check_filter,
    filter_query,
)
from isthmus.cli.output import Fields, Row, print_inspected, print_rows
from isthmus.cli.output import prune as pruned
from isthmus.cli.values import number, record, records, text, texts

_FIELDS = Fields(
    headings={
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
    },
    shown=("Repository", "Tag", "ID", "CreatedSince", "Size"),
)
_STEPS = Fields(
    headings={
        "ID": "IMAGE",
        "CreatedSince": "CREATED",
        "CreatedBy": "CREATED BY",
        "Size": "SIZE",
        "Comment": "COMMENT",
    },
    shown=("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
)


def size_text(octets: int) -> str:
    """How much that is, as Docker writes it (`go-units`).

    >>> [size_text(size) for size in (0, 999, 4_530_000, 1_234_000_000)]
    ['0B', '999B', '4.53MB', '1.23GB']
    """
    value, unit = float(octets), 0
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    while value >= 1000 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{units[unit]}"


def ago(seconds: int) -> str:
    """How long ago a time is, in seconds since the epoch, in Docker's words."""
    import time

    from isthmus.spans import lasting

    return f"{lasting(max(int(time.time()) - seconds, 0))} ago" if seconds else "N/A"


def moment(seconds: int) -> str:
    """A time, as Docker's client shows it."""
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %z %Z}"


def _rows(images: Iterable[dict[str, object]], *, whole: bool) -> Iterator[Row]:
    for image in images:
        identity, created = text(image.get("Id")), number(image.get("Created"))
        for name in texts(image.get("RepoTags")) or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            yield {
                "Repository": repository,
                "Tag": tag,
                "ID": identity if whole else identity.removeprefix("sha256:")[:12],
                "CreatedSince": ago(created),
                "CreatedAt": moment(created),
                "Size": size_text(number(image.get("Size"))),
            }


def _ls(arguments: Arguments) -> int:
    query = filter_query(arguments)
    if arguments.words:
        import json

        asked = json.loads(query.get("filters", "{}"))
        query = {"filters": json.dumps({**asked, "reference": [arguments.words[0]]})}
    images = records(arguments.client().get("/images/json", query))
    rows = list(_rows(images, whole=arguments.on("no-trunc")))
    if arguments.on("quiet") and not arguments.given("format"):
        rows = list({str(row["ID"]): row for row in rows}.values())
    return print_rows(arguments, _FIELDS, rows)


def _inspect(arguments: Arguments) -> int:
    client = arguments.client()
    return print_inspected(arguments, lambda name: client.get(f"/images/{quote(name)}/json"))


def _history(arguments: Arguments) -> int:
    steps = records(arguments.client().get(f"/images/{quote(arguments.words[0])}/history"))
    whole = arguments.on("no-trunc")
    rows: list[Row] = []
    for step in steps:
        by, identity = text(step.get("CreatedBy")), text(step.get("Id"))
        rows.append(
            {
                "ID": identity if whole else identity.removeprefix("sha256:")[:12],
                "CreatedSince": ago(number(step.get("Created"))),
                "CreatedBy": by if whole or len(by) <= 45 else f"{by[:44]}…",
                "Size": size_text(number(step.get("Size"))),
                "Comment": text(step.get("Comment")),
            }
        )
    return print_rows(arguments, _STEPS, rows)


def _rm(arguments: Arguments) -> int:
    client, failures = arguments.client(), []
    query = {"force": "1"} if arguments.on("force") else {}
    for word in arguments.words:
        try:
            for one in records(client.delete(f"/images/{quote(word)}", query)):
                for what, name in one.items():
                    print(f"{what}: {name}")
        except DaemonError as error:
            if not (arguments.on("force") and error.code == 404):
                failures.append(str(error))
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _prune(arguments: Arguments) -> int:
    import json

    what = (
        "all images without at least one container associated to them" if arguments.on("all") else "all dangling images"
    )
    query = filter_query(arguments)
    asked = {**json.loads(query.get("filters", "{}")), "dangling": ["false" if arguments.on("all") else "true"]}

    def act() -> object:
        answer = record(arguments.client().post("/images/prune", None, {"filters": json.dumps(asked)}))
        lines = [f"{word}: {name}" for one in records(answer.get("ImagesDeleted")) for word, name in one.items()]
        return {"Lines": [f"{line[0].lower()}{line[1:]}" for line in lines]}

    return pruned(arguments, what, "Deleted Images", act, "Lines")


def _tag(arguments: Arguments) -> int:
    source, target = arguments.words
    name, tag = target, ""
    if ":" in target.rpartition("/")[2]:
        name, _, tag = target.rpartition(":")
    arguments.client().post(f"/images/{quote(source)}/tag", None, {"repo": name, "tag": tag})
    return 0


def _source(arguments: Arguments, path: str) -> BinaryIO:
    if path in {"", "-"}:
        if sys.stdin.isatty():
            raise arguments.wrong("requested load from stdin, but stdin is empty")
        return cast("BinaryIO", sys.stdin.buffer)
    return Path(path).open("rb")


def _told(values: Iterable[object]) -> int:
    """Print what the daemon tells as it goes; the exit code."""
    for value in values:
        line = record(value)
        if error := text(line.get("error")):
            print(error, file=sys.stderr)
            return 1
        said = text(line.get("stream")) or f"{text(line.get('status'))}\n"
        sys.stdout.write(said)
        sys.stdout.flush()
    return 0


def _load(arguments: Arguments) -> int:
    query = [("quiet", "1")] if arguments.on("quiet") else []
    with _source(arguments, arguments.text("input")) as file:
        return _told(arguments.client().upload("/images/load", file, query))


def _import(arguments: Arguments) -> int:
    path, name = (*arguments.words, "")[:2]
    repository, tag = name, ""
    if ":" in name.rpartition("/")[2]:
        repository, _, tag = name.rpartition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), ("message", arguments.text("message"))]
    query += [("changes", line) for line in arguments.texts("change")]
    with _source(arguments, path) as file:
        return _told(arguments.client().upload("/images/create", file, query))


def _pull(arguments: Arguments) -> int:
    import io

    (name,) = arguments.words
    return _told(arguments.client().upload("/images/create", io.BytesIO(), [("fromImage", name)]))


_FILTER = Flag(
    "filter", "Only what fits, e.g. reference=alp*, dangling=true", Kind.LIST, "f", "key=value", check_filter
)
_LS_FLAGS = (
    _FILTER,
    LS_FORMAT,
    NO_TRUNC,
    QUIET,
    Flag("all", "Taken for Docker's sake: there are no others", Kind.SWITCH, "a"),
)
_RM_FLAGS = (Flag("force", "Even if containers that do not run are of it", Kind.SWITCH, "f"),)
_LOAD_FLAGS = (
    Flag("input", "Archive to read, instead of standard input", short="i", value="file"),
    Flag("quiet", "Taken for Docker's sake: there is no progress to be left out", Kind.SWITCH, "q"),
)
_IMPORT_FLAGS = (
    Flag("change", 'Line of a Dockerfile, such as CMD ["sh"]', Kind.LIST, "c", "line"),
    Flag("message", "Comment of the image", short="m"),
)
_WHAT = {
    "ls": ("[OPTIONS] [NAME]", "List images"),
    "rm": ("[OPTIONS] IMAGE [IMAGE...]", "Remove images, or names of them"),
    "load": ("[OPTIONS]", "Load images from an archive of docker save, or an OCI layout in a tar file"),
    "import": ("[OPTIONS] FILE|- [NAME[:TAG]]", "Make an image of an archive of a root file system"),
    "pull": ("NAME[:TAG]", "Fetch an image from a registry, by skopeo"),
}


def _commands(path: str, name: str) -> Command:
    synopsis, summary = _WHAT[name]
    match name:
        case "ls":
            return Command(path, synopsis, summary, _ls, _LS_FLAGS, 0, 1, ("list",))
        case "rm":
            return Command(path, synopsis, summary, _rm, _RM_FLAGS, 1, None, ("remove",))
        case "load":
            return Command(path, synopsis, summary, _load, _LOAD_FLAGS)
        case "import":
            return Command(path, synopsis, summary, _import, _IMPORT_FLAGS, 1, 2)
        case _:
            return Command(path, synopsis, summary, _pull, (), 1, 1)


SHORT = {
    "images": _commands("isthmus images", "ls"),
    "rmi": _commands("isthmus rmi", "rm"),
    "load": _commands("isthmus load", "load"),
    "import": _commands("isthmus import", "import"),
    "pull": _commands("isthmus pull", "pull"),
}

COMMANDS = (
    *(_commands(f"isthmus image {name}", name) for name in _WHAT),
    Command(
        "isthmus image inspect",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Show all there is to know about images",
        _inspect,
        (INSPECT_FORMAT,),
        1,
        None,
    ),
    Command(
        "isthmus image history",
        "[OPTIONS] IMAGE",
        "Show how an image came to be",
        _history,
        (LS_FORMAT, NO_TRUNC, QUIET),
        1,
        1,
    ),
    Command("isthmus image tag", "IMAGE NAME[:TAG]", "Give an image one more name", _tag, (), 2, 2),
    Command(
        "isthmus image prune",
        "[OPTIONS]",
        "Remove images that no container is of and that have no name",
        _prune,
        (
            Flag("all", "Those with a name, too", Kind.SWITCH, "a"),
            Flag("filter", "Only what fits: until=24h, label=tier", Kind.LIST, "", "key=value", check_filter),
            Flag("force", "Do not ask", Kind.SWITCH, "f"),
        ),
    ),
)
