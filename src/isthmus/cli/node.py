"""`isthmus node`: the hosts that share a store with the daemon's, shown as `docker node ls` shows those of a swarm."""

from isthmus.cli.flags import LS_FORMAT, NO_TRUNC, QUIET, Arguments, Command
from isthmus.cli.output import Fields, Row, print_rows
from isthmus.cli.values import Record, number, record, records, text

_FIELDS = Fields(
    headings={
        "ID": "ID",
        "Self": "SELF",
        "Hostname": "HOSTNAME",
        "Status": "STATUS",
        "Address": "ADDRESS",
        "Endpoints": "ENDPOINTS",
        "Since": "SINCE",
    },
    shown=("ID", "Hostname", "Status", "Address", "Endpoints", "Since"),
)


def _ls(arguments: Arguments) -> int:
    nodes = records(arguments.client().get("/nodes"))
    return print_rows(arguments, _FIELDS, [_row(node, whole=arguments.on("no-trunc")) for node in nodes])


def _rekey(arguments: Arguments) -> int:
    arguments.client().post("/nodes/rekey")
    return 0


def _row(node: Record, *, whole: bool) -> Row:
    status, here = record(node.get("Status")), bool(node.get("Self"))
    identity = text(node.get("ID"))
    return {
        "ID": (identity if whole else identity[:12]) + (" *" if here else ""),
        "Self": here,
        "Hostname": text(record(node.get("Description")).get("Hostname")),
        "Status": text(status.get("State")),
        "Address": text(status.get("Addr")),
        "Endpoints": number(node.get("Endpoints")),
        "Since": text(node.get("CreatedAt")),
    }


COMMANDS = (
    Command(
        "isthmus node ls",
        "[OPTIONS]",
        "List the hosts that share a store with this one (*)",
        _ls,
        (LS_FORMAT, NO_TRUNC, QUIET),
        aliases=("list",),
    ),
    Command("isthmus node rekey", "", "Have this host get another key for its encrypted networks", _rekey),
)
