"""What the daemon holds and how it comes back: memory, the command line, and a restart under load."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.report import Goal, Report
from bench.world import Daemon, World, on, process

IDLE = "memory of the daemon, idle"
FULL = "memory of the daemon, {} endpoints"
LIST = "isthmus network ls, from the shell and back"
RESTART = "kill -9 and start, {} endpoints"
LOST = "datagrams lost meanwhile, of a flow across the bridge"

_RATE = 5000
"""Datagrams a second."""


def idle(daemon: Daemon, report: Report) -> None:
    """Measure the memory of a daemon that has done nothing yet."""
    report.add(IDLE, "isthmus", "MiB", [daemon.resident()], Goal(60, of_ratio=False))


def full(daemon: Daemon, endpoints: int, report: Report) -> None:
    """Measure the memory of a daemon with many endpoints."""
    report.add(FULL.format(f"{endpoints:,}"), "isthmus", "MiB", [daemon.resident()], Goal(120, of_ratio=False))


def listing(daemon: Daemon, report: Report, times: int) -> None:
    """Measure a command, beside what the interpreter alone takes to start."""
    command = [str(Path(sys.executable).with_name("isthmus")), "-H", daemon.address, "network", "ls"]
    bare = [sys.executable, "-c", "pass"]
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(times):
        for samples, words in ((floor, bare), (ours, command)):
            began = time.perf_counter_ns()
            subprocess.run(words, check=True, capture_output=True)
            samples.append((time.perf_counter_ns() - began) / 1e6)
    report.add(LIST, "python -c pass", "ms", floor)
    report.add(LIST, "isthmus", "ms", ours, Goal(60, of_ratio=False))


def restart(world: World, daemon: Daemon, names: list[str], report: Report, times: int) -> None:
    """Kill the daemon and start it again while datagrams flow from the first sandbox to the last."""
    load = str(world.build("load", "-static"))
    source, _ = daemon.place("many", names[0])
    sink, address = daemon.place("many", names[-1])
    until_ready, until_answer, looks, operations, lost = [], [], [], [], []
    sent = 0
    for _ in range(times):
        with process(*on(sink), load, "count", "7000") as counting:
            with process(*on(source), load, "number", address, "7000", str(_RATE)) as numbering:
                time.sleep(0.3)
                daemon.end(signal.SIGKILL)
                daemon.forget_log()
                began = time.perf_counter_ns()
                until_ready.append(daemon.start())
                daemon.api.do("GET", "/networks")
                until_answer.append((time.perf_counter_ns() - began) / 1e6)
                look, count = daemon.readiness()
                looks.append(look * 1000)
                operations.append(float(count))
                time.sleep(0.3)
                numbering.terminate()
                gone = int(_last(numbering))
            counting.terminate()
            lost.append(float(gone - int(_last(counting).split()[0])))
            sent += gone
    question = RESTART.format(f"{len(names):,}")
    report.add(question, "isthmus, until it is ready", "ms", until_ready, Goal(1000, of_ratio=False))
    report.add(question, "isthmus, until it lists networks", "ms", until_answer)
    report.add(question, "isthmus, its look at the kernel", "ms", looks)
    report.add(question, "isthmus, operations done, at most", "", [max(operations)], Goal(0, of_ratio=False))
    report.add(LOST, f"isthmus, of {sent:,} sent, at most", "", [max(lost)], Goal(0, of_ratio=False))


def _last(process_of: "subprocess.Popen[str]") -> str:
    """The last word of a program that was told to end."""
    text, _ = process_of.communicate(timeout=10)
    return text
