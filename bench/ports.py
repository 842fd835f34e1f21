"""What published ports take: a thousand of them at once, one among a thousand, and traffic in through one.

Where Docker or netavark are installed, they publish a hundred beside; Docker's start of a container is in its time.

Traffic is held against the same path by hand: a bridge, a pair of veths, and one `dnat` rule for one port. What the
first and the last of a thousand ports let through is compared in turns, too: a list of rules would slow the last one.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from bench.attach import US
from bench.path import HANDS, PathPace, Way, by_hand, compare, cpu, once
from bench.peers import Publisher
from bench.report import Better, Goal, Report
from bench.world import Daemon, World, add_host, ip, on, process, run

MANY = 1000
SOME = 100
CREATE = "create a sandbox with {} published ports"
REMOVE = "remove a sandbox with {} published ports"
CHANGE = "{} one port beside 1,000"
CONNECT = "new connections a second in through the {} of 1,000 ports"
_FIRST = 20_000
_RULE = """table ip byhand {
 chain prerouting {
  type nat hook prerouting priority dstnat;
  fib daddr type local tcp dport 5000 dnat to 10.70.0.3:5000
 }
}
"""


def measure(  # noqa: PLR0917
    world: World, daemon: Daemon, others: Sequence[Publisher], report: Report, pace: PathPace, times: int
) -> None:
    """Measure publishing, changes, and the way in."""
    daemon.add_network("ports", "10.74.0.0/24")
    _publishing(daemon, report, times)
    if others:
        _beside(daemon, others, report, max(1, times // 10))
    _changes(daemon, report, 10 * times)
    _traffic(world, daemon, report, pace)


def bindings(count: int) -> dict[str, list[dict[str, str]]]:
    """So many ports of the host, all for port 5000."""
    return {"5000/tcp": [{"HostPort": str(_FIRST + number)} for number in range(count)]}


def _create(daemon: Daemon, name: str, count: int) -> float:
    body = {"HostConfig": {"NetworkMode": "ports", "PortBindings": bindings(count)}}
    return daemon.api.do("POST", f"/sandboxes/create?name={name}", body).took


def _publishing(daemon: Daemon, report: Report, times: int) -> None:
    made, gone = [], []
    for number in range(times):
        made.append(_create(daemon, f"p{number}", MANY))
        gone.append(daemon.remove_sandbox(f"p{number}"))
        daemon.settle()
    report.add(CREATE.format(f"{MANY:,}"), US, "ms", made, Goal(50, of_ratio=False))
    report.add(REMOVE.format(f"{MANY:,}"), US, "ms", gone, Goal(10, of_ratio=False))


def _beside(daemon: Daemon, others: Sequence[Publisher], report: Report, times: int) -> None:
    """Publish some in turns with *others*: a thousand take them minutes."""
    made: dict[str, list[float]] = {US: [], **{one.name: [] for one in others}}
    gone: dict[str, list[float]] = {US: [], **{one.name: [] for one in others}}
    for _ in range(times):
        made[US].append(_create(daemon, "some", SOME))
        gone[US].append(daemon.remove_sandbox("some"))
        daemon.settle()
        for one in others:
            came, went = one.publish(range(_FIRST, _FIRST + SOME))
            made[one.name].append(came)
            gone[one.name].append(went)
    for question, found in ((CREATE, made), (REMOVE, gone)):
        for who, samples in found.items():
            report.add(question.format(SOME), who, "ms", samples)


def _changes(daemon: Daemon, report: Report, times: int) -> None:
    _create(daemon, "many", MANY)
    one = {"PortBindings": {"81/tcp": [{"HostPort": "8081"}]}}
    more, less = [], []
    for _ in range(times):
        more.append(daemon.api.do("POST", "/sandboxes/many/ports", one).took)
        less.append(daemon.api.do("POST", "/sandboxes/many/ports/remove", one).took)
    daemon.remove_sandbox("many")
    report.add(CHANGE.format("publish"), US, "ms", more, Goal(1, of_ratio=False))
    report.add(CHANGE.format("unpublish"), US, "ms", less, Goal(1, of_ratio=False))


def _traffic(world: World, daemon: Daemon, report: Report, pace: PathPace) -> None:
    load = str(world.build("load", "-static"))
    hosts = [*(by_hand(f"port-{host}") for host in HANDS), daemon.host]
    for number, host in enumerate(hosts, 1):
        client = add_host(f"client{number}")
        ip(host, f"link add nic0 type veth peer name eth0 netns {client}\n")
        ip(host, f"address add 10.75.{number}.1/24 dev nic0\nlink set nic0 up\n")
        ip(client, f"address add 10.75.{number}.2/24 dev eth0\nlink set eth0 up\n")
        if host != daemon.host:
            run(*on(host), "nft", "-f", "-", given=_RULE)
    _create(daemon, "served", MANY)
    inside, _ = daemon.place("ports", "served")
    last = _FIRST + MANY - 1
    ways = [Way(party, f"client{number}", f"10.75.{number}.1") for number, party in enumerate(HANDS.values(), 1)]
    ours = Way(US, f"client{len(hosts)}", f"10.75.{len(hosts)}.1", str(last))
    with ExitStack() as held:
        for place in (*(f"port-{host}2" for host in HANDS), inside):
            held.enter_context(process(*on(place), load, "serve", "5000", environment=cpu(1)))
        compare(load, [*ways, ours], "in through a published port", 0.95, report, pace)
        _ends(load, ours, report, pace)
    daemon.remove_sandbox("served")


def _ends(load: str, way: Way, report: Report, pace: PathPace) -> None:
    """Compare the first port with the last, in turns."""
    samples: dict[str, list[float]] = {"1st": [], "1,000th": []}
    ports = {"1st": str(_FIRST), "1,000th": way.port}
    for turn in range(pace.rounds):
        for name in sorted(samples, reverse=bool(turn % 2)):
            there = Way(way.party, way.source, way.address, ports[name])
            samples[name].append(once(load, there, "connect", pace.seconds))
    first, last = samples.values()
    report.add(CONNECT.format("1st"), US, "1/s", first, better=Better.MORE)
    ratio = median(one / other for one, other in zip(last, first, strict=True))
    report.add(CONNECT.format("1,000th"), US, "1/s", last, Goal(0.95, Better.MORE), ratio, Better.MORE)
