"""`isthmus nat`: the daemon's NAT rules with their counters, set as `iptables -t nat -vnL` sets its own."""

from isthmus.cli.flags import LS_FORMAT, Arguments, Command, Flag, Kind
from isthmus.cli.output import Fields, print_rows
from isthmus.cli.values import Record, number, record, records, text

_FIELDS = Fields(
    headings={
        "Chain": "CHAIN",
        "Packets": "PKTS",
        "Bytes": "BYTES",
        "Target": "TARGET",
        "Protocol": "PROT",
        "Options": "OPT",
        "In": "IN",
        "Out": "OUT",
        "Source": "SOURCE",
        "Destination": "DESTINATION",
        "Extra": "EXTRA",
        "Network": "NETWORK",
    },
    shown=("Chain", "Packets", "Bytes", "Target", "Protocol", "In", "Out", "Source", "Destination", "Extra", "Network"),
)
_COLUMNS = "target     prot opt in     out     source               destination         "


def count(value: int, *, exact: bool) -> str:
    """Write a counter: up to five digits as it is, a bigger one rounded to thousands (K), millions (M), and so on."""
    if exact or value <= 99999:
        return str(value)
    for suffix in "KMG":
        value = (value + 500) // 1000
        if value <= 9999:
            return f"{value}{suffix}"
    return f"{(value + 500) // 1000}T"


def chain_lines(chain: Record, *, exact: bool) -> list[str]:
    """Give the lines for one chain of `GET /nat`. With *exact* the headings stand askew, in iptables as well."""
    packets, octets = (count(number(chain.get(key)), exact=exact) for key in ("Packets", "Bytes"))
    policy = f"(policy {text(chain.get('Policy'))} {packets} packets, {octets} bytes)" if chain.get("Policy") else ""
    heading = f"{'pkts':>8} {'bytes':>10}" if exact else f"{'pkts':>5} {'bytes':>5}"
    rules = [_rule_line(rule, exact=exact) for rule in records(chain.get("Rules"))]
    return [f"Chain {text(chain.get('Name'))} {policy}".rstrip(), f"{heading} {_COLUMNS}", *rules]


def _rule_line(rule: Record, *, exact: bool) -> str:
    width = 8 if exact else 5
    packets, octets = (count(number(rule.get(key)), exact=exact).rjust(width) for key in ("Packets", "Bytes"))
    target, protocol, options, incoming, outgoing, source, destination, extra = (
        text(rule.get(key)) for key in ("Target", "Protocol", "Options", "In", "Out", "Source", "Destination", "Extra")
    )
    interfaces = f"{incoming:<6} {outgoing:<6}"
    line = f"{packets} {octets} {target:<9}  {protocol:<4} {options:<3} {interfaces}  {source:<19}  {destination:<19} "
    return f"{line} {extra}" if extra else line


def _nat(arguments: Arguments) -> int:
    chains = records(record(arguments.client().get("/nat")).get("Chains"))
    if arguments.text("format"):
        rows = [
            {**_ROW, **rule, "Chain": text(chain.get("Name"))}
            for chain in chains
            for rule in records(chain.get("Rules"))
        ]
        return print_rows(arguments, _FIELDS, rows)
    print("\n\n".join("\n".join(chain_lines(chain, exact=arguments.on("exact"))) for chain in chains))
    return 0


_ROW = dict.fromkeys(_FIELDS.headings, "")

COMMAND = Command(
    "isthmus nat",
    "[OPTIONS]",
    "Show the NAT rules with their counters",
    _nat,
    (Flag("exact", "Exact numbers, not rounded to K, M, G", Kind.SWITCH, "x"), LS_FORMAT),
)
