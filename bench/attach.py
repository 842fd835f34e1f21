"""What attaching and detaching take: through the API's socket, beside the floor and beside other engines, interleaved.

What is detached is taken apart by the kernel afterwards, and that work slows whatever comes next. So each round ends by
waiting until it is done, before the next is measured.
"""

import time
from dataclasses import dataclass, field

from bench.client import Client, at_once, request
from bench.peers import Peer
from bench.report import Better, Goal, Report
from bench.world import Daemon, Floor

NETWORK = "bench"
CONNECT = "connect a sandbox to a bridge network"
DISCONNECT = "disconnect it again"
CREATE = "make a sandbox on a bridge network"
REMOVE = "remove it again"
SUSTAINED = "pairs of connect and disconnect, one client, for long"
AT_ONCE = "100 clients connect a sandbox each"
FIRST = "connect the first endpoints of a bridge"
THOUSANDTH = "connect the 1,000th endpoint of a bridge"

FLOOR = "floor"
US = "isthmus"

_CLIENTS = 100
_REST = 0.25
"""A pause, in seconds, in which the daemon has time to make a namespace ahead of need."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much to measure."""

    rounds: int
    batch: int
    births: int
    seconds: float
    crowds: int
    endpoints: int


@dataclass(slots=True)
class _Samples:
    floor: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def both(self) -> tuple[list[float], list[float]]:
        """The floor's and ours."""
        return self.floor, self.ours


def connect(daemon: Daemon, floor: Floor, peers: list[Peer], report: Report, pace: Pace) -> None:
    """Measure connect and disconnect."""
    names = [f"c{number}" for number in range(pace.batch)]
    for number, name in enumerate(names):
        daemon.add_sandbox(name, NETWORK)
        daemon.disconnect(NETWORK, name)
        floor.do(f"space {number}")
    made, gone, grouped = _Samples(), _Samples(), []
    theirs: dict[str, tuple[list[float], list[float]]] = {peer.name: ([], []) for peer in peers}
    pings = []
    _settle(daemon, floor)
    for turn in range(pace.rounds):
        fill(daemon, floor, names, range(len(names)), made.both, turn)
        pings += [daemon.api.do("GET", "/_ping").took for _ in names]
        gone.ours += [daemon.disconnect(NETWORK, name) for name in names]
        if turn % 2:
            gone.floor += [floor.do(f"detach {number}") for number in range(len(names))]
        else:
            grouped.append(floor.do("detach-all") / len(names))
        _settle(daemon, floor)
        for peer in peers:
            theirs[peer.name][0].append(peer.attach())
            theirs[peer.name][1].append(peer.detach())
        if peers:
            _settle(daemon, floor)
    for name in names:
        daemon.remove_sandbox(name)
    for number in range(len(names)):
        floor.do(f"free {number}")
    _settle(daemon, floor)
    report.add(CONNECT, FLOOR, "ms", made.floor)
    report.add(CONNECT, US, "ms", made.ours, Goal(1.5))
    report.add(CONNECT, "isthmus, an empty request (/_ping)", "ms", pings)
    report.add(DISCONNECT, "floor, until the link is gone", "ms", gone.floor)
    report.add(DISCONNECT, f"floor, {len(names)} in one message, each", "ms", grouped)
    report.add(DISCONNECT, "isthmus, until it answers", "ms", gone.ours, Goal(1, of_ratio=False))
    for name, (attached, detached) in theirs.items():
        report.add(CONNECT, name, "ms", attached)
        report.add(DISCONNECT, name, "ms", detached)


def create(daemon: Daemon, floor: Floor, report: Report, pace: Pace) -> None:
    """Measure the making of sandboxes on a network: when there was time to make namespaces ahead, and when not."""
    warm, exhausted = _Samples(), _Samples()
    removed: list[float] = []
    number = 0

    def one(into: _Samples) -> None:
        nonlocal number
        into.floor.append(floor.do(f"born {number}"))
        into.ours.append(daemon.add_sandbox(f"s{number}", NETWORK))
        number += 1

    def clear() -> None:
        nonlocal number
        removed.extend(daemon.remove_sandbox(f"s{each}") for each in range(number))
        floor.do("detach-all")
        for each in range(number):
            floor.do(f"free {each}")
        number = 0
        _settle(daemon, floor)

    for _ in range(pace.rounds // 4 + 1):
        time.sleep(4 * _REST)
        for _ in range(pace.births):
            time.sleep(_REST)
            one(warm)
        one(_Samples())  # then the supply is used up by a first few that are not counted
        for _ in range(pace.births):
            one(_Samples())
        for _ in range(pace.births):
            one(exhausted)
        clear()
    report.add(CREATE, FLOOR, "ms", warm.floor + exhausted.floor)
    report.add(CREATE, "floor, one every 0.25 s", "ms", warm.floor)
    ratio = _ratio(warm)
    report.add(CREATE, "isthmus, one every 0.25 s", "ms", warm.ours, Goal(1), ratio)
    report.add(CREATE, "floor, at full speed", "ms", exhausted.floor)
    ratio = _ratio(exhausted)
    report.add(CREATE, "isthmus, at full speed", "ms", exhausted.ours, Goal(1.4), ratio)
    report.add(REMOVE, "isthmus, until it answers", "ms", removed, Goal(1, of_ratio=False))


def sustain(daemon: Daemon, floor: Floor, report: Report, pace: Pace) -> None:
    """Measure how many pairs go through in a second, with all that has to be cleaned up on the way."""
    names = [f"p{number}" for number in range(40)]
    for name in names:
        daemon.add_sandbox(name, NETWORK)
        daemon.disconnect(NETWORK, name)
    _settle(daemon, floor)
    rates, connects, disconnects = [], [], []
    for _ in range(round(pace.seconds)):
        began, count = time.monotonic(), 0
        while (passed := time.monotonic() - began) < 1:
            name = names[count % len(names)]
            connects.append(daemon.connect(NETWORK, name))
            disconnects.append(daemon.disconnect(NETWORK, name))
            count += 1
        rates.append(count / passed)
    began = time.monotonic()
    daemon.settle()
    caught_up = time.monotonic() - began
    for name in names:
        daemon.remove_sandbox(name)
    _settle(daemon, floor)
    report.add(SUSTAINED, "isthmus", "1/s", rates, Goal(300, Better.MORE, of_ratio=False), better=Better.MORE)
    report.add(SUSTAINED, "isthmus, a connect meanwhile", "ms", connects)
    report.add(SUSTAINED, "isthmus, a disconnect meanwhile", "ms", disconnects)
    report.notes.append(
        f"After {pace.seconds:.0f} s of connecting and disconnecting, the last link was gone {caught_up:.1f} s later."
    )


def crowd(daemon: Daemon, floor: Floor, report: Report, pace: Pace) -> None:
    """Measure a hundred clients that come together against one who comes a hundred times."""
    names = [f"h{number}" for number in range(_CLIENTS)]
    for name in names:
        daemon.add_sandbox(name, NETWORK)
        daemon.disconnect(NETWORK, name)
    messages = [request("POST", f"/networks/{NETWORK}/connect", {"Container": name}) for name in names]
    clients = [Client(daemon.socket) for _ in names]
    together, in_turn = [], []
    for _ in range(pace.crowds):
        _settle(daemon, floor)
        in_turn.append(sum(at_once(clients[:1], [message]) for message in messages))
        _disconnect_all(daemon, names)
        _settle(daemon, floor)
        together.append(at_once(clients, messages))
        _disconnect_all(daemon, names)
    for client in clients:
        client.close()
    for name in names:
        daemon.remove_sandbox(name)
    _settle(daemon, floor)
    report.add(AT_ONCE, "isthmus, one after another", "ms", in_turn)
    report.add(AT_ONCE, "isthmus, all at once", "ms", together, Goal(1))


def scale(daemon: Daemon, floor: Floor, report: Report, pace: Pace) -> list[str]:
    """Measure the last endpoints of a full bridge against the first; leave it full, and return the sandboxes' names."""
    names = [f"n{number}" for number in range(pace.endpoints)]
    for number, name in enumerate(names):
        daemon.add_sandbox(name, "many")
        floor.do(f"space {number}")
        if number % 200 == 199 or name == names[-1]:
            _disconnect_all(daemon, names[number - number % 200 : number + 1], "many")
            daemon.settle()
    first = _Samples()
    batch = range(pace.batch)
    for turn in range(pace.rounds):
        _settle(daemon, floor)
        fill(daemon, floor, names, batch, first.both, turn, "many")
        if turn < pace.rounds - 1:
            _disconnect_all(daemon, names[: pace.batch], "many")
            floor.do("detach-all")
    last = _Samples()
    fill(daemon, floor, names, range(pace.batch, pace.endpoints - pace.batch), _Samples().both, 0, "many")
    batch = range(pace.endpoints - pace.batch, pace.endpoints)
    for turn in range(pace.rounds):
        _settle(daemon, floor)
        fill(daemon, floor, names, batch, last.both, turn, "many")
        if turn < pace.rounds - 1:
            _disconnect_all(daemon, names[-pace.batch :], "many")
            for number in batch:
                floor.do(f"detach {number}")
    report.add(FIRST, FLOOR, "ms", first.floor)
    at_first = report.add(FIRST, US, "ms", first.ours)
    report.add(THOUSANDTH, FLOOR, "ms", last.floor)
    report.add(THOUSANDTH, US, "ms", last.ours, Goal(round(at_first.ratio or 0, 2)))
    floor.do("detach-all")
    for number in range(pace.endpoints):
        floor.do(f"free {number}")
    floor.settle()
    return names


def fill(  # noqa: PLR0917 - the sides of one comparison
    daemon: Daemon,
    floor: Floor,
    names: list[str],
    numbers: range,
    into: tuple[list[float], list[float]],
    turn: int,
    network: str = NETWORK,
    how: str = "attach",
) -> None:
    """Attach the floor's and ours, one of each at a time, and each first as often as second."""
    floors, ours = into
    for number in numbers:
        if (number + turn) % 2:
            floors.append(floor.do(f"{how} {number}"))
            ours.append(daemon.connect(network, names[number]))
        else:
            ours.append(daemon.connect(network, names[number]))
            floors.append(floor.do(f"{how} {number}"))


def _disconnect_all(daemon: Daemon, names: list[str], network: str = NETWORK) -> None:
    for name in names:
        daemon.disconnect(network, name)


def _settle(daemon: Daemon, floor: Floor) -> None:
    daemon.settle()
    floor.settle()


def _ratio(samples: _Samples) -> float:
    ours, floor = sorted(samples.ours), sorted(samples.floor)
    return ours[len(ours) // 2] / floor[len(floor) // 2]
