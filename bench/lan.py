"""What macvlan takes: attaching beside the kernel's own floor, the wait for address probes, and traffic between two.

The attach is measured with probing off, for probes wait for answers that nobody gives; that wait is reported beside.
The traffic between two children of one parent is held against the same two interfaces made with `ip`.
"""

from contextlib import ExitStack

from bench.attach import FLOOR, US, Pace, fill
from bench.path import HANDS, PathPace, Way, compare, cpu
from bench.report import Goal, Report
from bench.world import Daemon, Floor, World, add_host, ip, on, process

STAND = "attach a sandbox to a macvlan network"
PROBED = "attach a sandbox to a macvlan network, the wire asked for its address"
PARENT = "lan0"


def measure(world: World, daemon: Daemon, floor: Floor, report: Report, pace: Pace, path_pace: PathPace) -> None:  # noqa: PLR0917
    """Measure attaching to a parent's wire, and what goes between two who stand there."""
    ip(daemon.host, f"link add {PARENT} type veth peer name far0\nlink set far0 up\nlink set {PARENT} up\n")
    floor.do("parent")
    parent = {"parent": PARENT}
    daemon.add_network("wire", "10.71.0.0/16", "macvlan", {**parent, "isthmus.probe": "off"})
    _attach(daemon, floor, report, pace)
    daemon.add_network("asked", "10.72.0.0/16", "macvlan", parent)
    report.add(PROBED, US, "ms", [daemon.add_sandbox(f"a{number}", "asked") for number in range(pace.births)])
    for number in range(pace.births):
        daemon.remove_sandbox(f"a{number}")
    _traffic(world, daemon, report, path_pace)


def _attach(daemon: Daemon, floor: Floor, report: Report, pace: Pace) -> None:
    names = [f"m{number}" for number in range(pace.batch)]
    floors: list[float] = []
    ours: list[float] = []
    for number, name in enumerate(names):
        daemon.add_sandbox(name, "wire")
        daemon.disconnect("wire", name)
        floor.do(f"space {number}")
    for turn in range(pace.rounds):
        daemon.settle()
        fill(daemon, floor, names, range(len(names)), (floors, ours), turn, "wire", "stand")
        for number, name in enumerate(names):
            daemon.disconnect("wire", name)
            floor.do(f"fall {number}")
    for number, name in enumerate(names):
        daemon.remove_sandbox(name)
        floor.do(f"free {number}")
    daemon.settle()
    floor.settle()
    report.add(STAND, FLOOR, "ms", floors)
    report.add(STAND, US, "ms", ours, Goal(1.3))


def _traffic(world: World, daemon: Daemon, report: Report, pace: PathPace) -> None:
    load = str(world.build("load", "-static"))
    for name in ("w1", "w2"):
        daemon.add_sandbox(name, "wire")
    ours, _ = daemon.place("wire", "w1")
    server, address = daemon.place("wire", "w2")
    ways = [Way(party, _by_hand(f"lan-{host}"), "10.73.0.2") for host, party in HANDS.items()]
    ways.append(Way("isthmus", ours, address))
    with ExitStack() as held:
        for place in (*(f"lan-{host}2" for host in HANDS), server):
            held.enter_context(process(*on(place), load, "serve", "5000", environment=cpu(1)))
        compare(load, ways, "between two macvlans of one parent", 0.97, report, pace)
    for name in ("w1", "w2"):
        daemon.remove_sandbox(name)


def _by_hand(host: str) -> str:
    """A host with a parent as above, and two namespaces with macvlans on it; the first of these."""
    add_host(host)
    ip(host, f"link add {PARENT} type veth peer name far0\nlink set far0 up\nlink set {PARENT} up\n")
    for number in (1, 2):
        inner = add_host(f"{host}{number}")
        ip(host, f"link add link {PARENT} name v{number} type macvlan mode bridge\nlink set v{number} netns {inner}\n")
        ip(inner, f"link set v{number} name eth0\naddress add 10.73.0.{number}/16 dev eth0\nlink set eth0 up\n")
    return f"{host}1"
