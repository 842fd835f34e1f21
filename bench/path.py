"""What is left of the kernel's own speed: traffic through our networks, beside the same made by hand.

By hand means: a bridge, veth pairs and addresses as `ip` makes them, and for the way out one masquerade rule. All ways
are measured in turns, and the ratio is that of each turn, for the machine's own speed changes from one to the next:
many short turns tell more than a few long ones. How much can be told at all, a second one made by hand shows: whatever
its ratio to the first is, nothing but chance has made it.

The two ends of a conversation share a processor, since to wake another one takes longer than all that is measured here,
and now and then not; a stream has one processor for each end.

Where the module br_netfilter is loaded, `bridge-nf-call-iptables` sends frames of all bridges through the firewall; it
is on by default, and the daemon switches it off where nobody else filters. Each party is measured as it comes, and then
both with the setting off.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from bench.report import Better, Goal, Report
from bench.world import Daemon, World, add_host, ip, on, process, run

KINDS = {"stream": "Mbit/s", "echo": "1/s", "connect": "1/s"}
NAMES = {"stream": "throughput", "echo": "request and response", "connect": "new connections"}
HANDS = {"plain": "by hand", "again": "by hand, once more"}
"""The hosts that are made by hand, and what the report calls them."""

_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_RULE = """table ip byhand {
 chain postrouting {
  type nat hook postrouting priority srcnat;
  ip saddr 10.70.0.0/24 oifname "uplink0" masquerade
 }
}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """From where a party's traffic comes, and to which address and port it goes."""

    party: str
    source: str
    address: str
    port: str = "5000"


@dataclass(frozen=True, slots=True)
class PathPace:
    """How much to measure."""

    rounds: int
    seconds: float
    both_settings: bool


def measure(world: World, daemon: Daemon, report: Report, pace: PathPace) -> None:
    """Measure the way across a bridge and the way out."""
    load = str(world.build("load", "-static"))
    _outside()
    hosts = (*map(by_hand, HANDS), daemon.host)
    for number, host in enumerate(hosts, 1):
        _uplink(host, number)
    for name in ("t1", "t2"):
        daemon.add_sandbox(name, "traffic")
    ours, _ = daemon.place("traffic", "t1")
    server, address = daemon.place("traffic", "t2")
    sources = [(party, f"{host}1") for host, party in HANDS.items()] + [("isthmus", ours)]
    across = [Way(party, source, address if source == ours else "10.70.0.3") for party, source in sources]
    out = [Way(party, source, f"10.250.{number}.1") for number, (party, source) in enumerate(sources, 1)]
    settings = ("", "0") if pace.both_settings else ("",)
    with ExitStack() as held:
        for place in (*(f"{host}2" for host in HANDS), server, "outside"):
            held.enter_context(process(*on(place), load, "serve", "5000", environment=cpu(1)))
        for setting in settings if _NETFILTER.exists() else ("",):
            for host in hosts:
                if setting:
                    run(*on(host), "sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={setting}")
            suffix = {"": "", "0": ", bridge-nf-call-iptables=0"}[setting]
            compare(load, across, f"across a bridge{suffix}", 0.97, report, pace)
            # Not before: where there is such a rule, the kernel tracks the connections of bridged frames, too.
            for host in HANDS:
                run(*on(host), "nft", "-f", "-", given=_RULE)
            compare(load, out, f"out through NAT{suffix}", 0.95, report, pace)
            for host in HANDS:
                run(*on(host), "nft", "delete table ip byhand")
    for name in ("t1", "t2"):
        daemon.remove_sandbox(name)


def compare(load: str, ways: list[Way], name: str, goal: float, report: Report, pace: PathPace) -> None:  # noqa: PLR0917
    """Measure each way in turns, and hold all but the first against the first."""
    for kind, unit in KINDS.items():
        samples: dict[str, list[float]] = {way.party: [] for way in ways}
        for turn in range(pace.rounds):
            start = turn % len(ways)
            for way in ways[start:] + ways[:start]:
                samples[way.party].append(once(load, way, kind, pace.seconds))
        question = f"{name}: {NAMES[kind]}"
        first, *others = ways
        report.add(question, first.party, unit, samples[first.party], better=Better.MORE)
        for way in others:
            ratios = sorted(one / floor for one, floor in zip(samples[way.party], samples[first.party], strict=True))
            ours = None if way.party in HANDS.values() else Goal(goal, Better.MORE)
            report.add(question, way.party, unit, samples[way.party], ours, median(ratios), Better.MORE)
            if kind == "stream":
                low, _, high = quantiles(ratios, n=4)
                report.notes.append(
                    f"{question}: {way.party} had {low:.2f} to {high:.2f} in the middle half of the turns."
                )


def once(load: str, way: Way, kind: str, seconds: float) -> float:
    """What one conversation of this *kind* reaches in so many *seconds*."""
    command = [*on(way.source), load, kind, way.address, way.port, str(seconds)]
    return float(run(*command, environment=cpu(0 if kind == "stream" else 1)))


def cpu(number: int) -> dict[str, str]:
    """What keeps a load program on a processor, where there is more than one."""
    return {"LOAD_CPU": str(number)} if (os.cpu_count() or 1) > 1 else {}


def _outside() -> None:
    add_host("outside")


def by_hand(host: str) -> str:
    """A host of this name with a bridge as `ip` makes it, and two namespaces on it."""
    add_host(host)
    ip(host, "link add br0 type bridge\naddress add 10.70.0.1/24 dev br0\nlink set br0 up\n")
    for number in (1, 2):
        inner = add_host(f"{host}{number}")
        ip(host, f"link add v{number} type veth peer name eth0 netns {inner}\nlink set v{number} master br0 up\n")
        ip(
            inner,
            f"address add 10.70.0.{number + 1}/24 dev eth0\nlink set eth0 up\nroute add default via 10.70.0.1\n",
        )
    run(*on(host), "sysctl", "-qw", "net.ipv4.ip_forward=1")
    return host


def _uplink(host: str, number: int) -> None:
    """Lead a host outside."""
    ip(host, f"link add uplink0 type veth peer name down{number} netns outside\n")
    ip("outside", f"address add 10.250.{number}.1/24 dev down{number}\nlink set down{number} up\n")
    ip(
        host,
        f"address add 10.250.{number}.2/24 dev uplink0\nlink set uplink0 up\nroute add default via 10.250.{number}.1\n",
    )
