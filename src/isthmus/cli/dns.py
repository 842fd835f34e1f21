"""`isthmus dns`: what the names of sandboxes stand for, as the daemon's resolvers tell it."""

from isthmus.cli.client import quote
from isthmus.cli.flags import LS_FORMAT, Arguments, Command
from isthmus.cli.output import Fields, print_rows
from isthmus.cli.values import Record, record, records, text, texts

_FIELDS = Fields(
    headings={"Name": "NAME", "Network": "NETWORK", "Addresses": "ADDRESSES"}, shown=("Name", "Network", "Addresses")
)


def _dns(arguments: Arguments) -> int:
    if not arguments.words:
        return print_rows(arguments, _FIELDS, [_row(known) for known in records(arguments.client().get("/names"))])
    found = record(arguments.client().get(f"/names/{quote(arguments.words[0])}"))
    if arguments.text("format"):
        return print_rows(arguments, _FIELDS, [_row(found)])
    print("\n".join(texts(found.get("Addresses"))))
    return 0


def _row(known: Record) -> Record:
    name, network = text(known.get("Name")), text(known.get("Network"))
    return {"Name": name, "Network": network, "Addresses": ", ".join(texts(known.get("Addresses")))}


COMMAND = Command(
    "isthmus dns",
    "[OPTIONS] [NAME.NETWORK]",
    "Show what a sandbox's name stands for, or all names",
    _dns,
    (LS_FORMAT,),
    0,
    1,
)
