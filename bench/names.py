"""What it takes to ask for a name: our resolver in a sandbox, beside a bare responder there, and others if installed.

The bare responder (`names.c`) reads a query and sends it back with an address: what any name server has to do. It,
dnsmasq and we serve the same sandbox's loopback; Docker's resolver and aardvark-dns are asked as their containers ask
them. Each has one processor, and is asked from the other one in turns: by dnsperf, with many questions under way, and
by one that waits for each answer.
"""

import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from bench.attach import FLOOR, US
from bench.peers import Namer
from bench.report import Better, Goal, Report
from bench.world import Daemon, World, on, pinned, process, run

MANY = "names of neighbours, 4 clients with 40 questions under way"
ONE = "a neighbour's name, one question at a time"
NEIGHBOURS = 20

_RATE = re.compile(r"Queries per second:\s+([0-9.]+)")
_LOST = re.compile(r"Queries lost:\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """Who is asked, in which namespace, and where."""

    who: str
    place: str
    address: str


def measure(  # noqa: PLR0917
    world: World, daemon: Daemon, others: Iterable[Namer], report: Report, rounds: int, seconds: float
) -> None:
    """Measure how many questions are answered in a second, and how soon one is."""
    program = str(world.build("names"))
    daemon.add_network("named", "10.76.0.0/16")
    for number in range(NEIGHBOURS):
        daemon.add_sandbox(f"n{number}", "named")
    inside, _ = daemon.place("named", "n0")
    names = [f"n{number}" for number in range(NEIGHBOURS)]
    questions = world.directory / "questions"
    questions.write_text("".join(f"{name} A\n" for name in names))
    servers = [Server(FLOOR, inside, "127.0.0.2"), Server(US, inside, "127.0.0.11")]
    with ExitStack() as held:
        held.enter_context(daemon.pinned(0))
        held.enter_context(process(*on(inside), *_on_processor(0), program, "serve", "127.0.0.2", "53"))
        if shutil.which("dnsmasq"):
            answers = [f"--address=/n{number}/10.0.0.{number + 1}" for number in range(NEIGHBOURS)]
            alone = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file="]
            where = ["--listen-address=127.0.0.3", "--bind-interfaces", "--log-facility=-", "--log-debug"]
            dnsmasq = [*on(inside), *_on_processor(0), "sh", "-c", 'exec "$0" "$@" 2>&1', "dnsmasq"]
            held.enter_context(process(*dnsmasq, *alone, *where, *answers))
            servers.append(Server("dnsmasq", inside, "127.0.0.3"))
        else:
            report.notes.append("dnsmasq is not installed, so it is not measured.")
        for other in others:
            place, address, serving = other.answer(names)
            held.enter_context(pinned(serving, 0))
            servers.append(Server(other.name, place, address))
        if shutil.which("dnsperf"):
            for server in servers:
                _many(server, str(questions), 0.2)  # the first time, all of it is fetched into memory
            samples: dict[str, list[float]] = {server.who: [] for server in servers}
            for _ in range(rounds):
                for server in servers:
                    samples[server.who].append(_many(server, str(questions), seconds))
            _tell(report, MANY, "1/s", samples, Goal(0.6, Better.MORE))
        else:
            report.notes.append("dnsperf is not installed, so throughput of names is not measured.")
        singly: dict[str, list[float]] = {server.who: [] for server in servers}
        for _ in range(rounds):
            for server in servers:
                command = [program, "ask", server.address, "53", "n7", str(seconds)]
                singly[server.who].append(float(run(*_asking(server), *command)))
        _tell(report, ONE, "us", singly, None)
    for number in range(NEIGHBOURS):
        daemon.remove_sandbox(f"n{number}")


def _tell(report: Report, question: str, unit: str, samples: dict[str, list[float]], goal: Goal | None) -> None:
    better = Better.MORE if unit == "1/s" else Better.LESS
    for who, values in samples.items():
        report.add(question, who, unit, values, goal if who == US else None, better=better)


def _many(server: Server, questions: str, seconds: float) -> float:
    """How many questions a second were answered."""
    ways = ["-s", server.address, "-p", "53", "-d", questions, "-c", "4", "-q", "40"]
    told = run(*_asking(server), "dnsperf", *ways, "-l", str(max(1, round(seconds))))
    rate, lost = _RATE.search(told), _LOST.search(told)
    if not rate or not lost or int(lost[1]):
        raise RuntimeError(f"{server.who} lost questions: {told}")
    return float(rate[1])


def _asking(server: Server) -> list[str]:
    return [*on(server.place), *_on_processor(1)]


def _on_processor(number: int) -> list[str]:
    return ["taskset", "--cpu-list", str(number)]
