"""The command line of the benchmark: `python -m bench [--quick] [--only connect,path] [--format json]`."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import addresses, attach, containers, footprint, lan, names, overlay, path, peers, ports, profile, world
from bench.report import Machine, Report, put_into

PARTS = (
    *("footprint", "addresses", "connect", "create", "sustain", "crowd", "path", "ports", "lan", "names"),
    *("containers", "overlay", "scale"),
    "restart",
)

_QUICK = (attach.Pace(8, 10, 6, 3, 3, 1000), path.PathPace(9, 0.1, both_settings=False), 10, 2)
_FULL = (attach.Pace(40, 10, 8, 10, 10, 1000), path.PathPace(75, 0.1, both_settings=True), 40, 5)


def main(arguments: Sequence[str]) -> int:
    """Run what *arguments* ask for and print what was found; the exit status says whether it could be run."""
    parser = argparse.ArgumentParser("python -m bench", description="What Isthmus costs beside the kernel's own floor.")
    parser.add_argument("what", nargs="?", choices=("profile",), help="show instead where the time of a request goes")
    parser.add_argument("request", nargs="?", default="connect", choices=profile.REQUESTS, help="of which request")
    parser.add_argument("--driver", default="bridge", choices=profile.DRIVERS, help="on a network of which driver")
    parser.add_argument("--quick", action="store_true", help="less than a minute, and rougher")
    parser.add_argument("--no-peers", action="store_true", help="leave other engines alone")
    parser.add_argument("--only", metavar="PARTS", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the result into its place in a page, too")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    status = world.enter(arguments)
    if status is not None:
        return status
    here = world.World.here()
    if options.what:
        shown = profile.run(here, options.request, options.driver, 200 if options.quick else 1000)
        if options.write:
            _write(options.write, f"profile {options.request}", f"```\n{shown}\n```")
        print(shown)
        return 0
    report = Report(_machine())
    with ExitStack() as held:
        _measure(here, held, report, parts, quick=options.quick, alone=options.no_peers)
    if options.write:
        _write(options.write, "bench" if options.only == ",".join(PARTS) else options.only, report.markdown())
    print({"table": report.table, "markdown": report.markdown, "json": report.json}[options.format]())
    return 1 if report.failures else 0


def _measure(here: world.World, held: ExitStack, report: Report, parts: list[str], *, quick: bool, alone: bool) -> None:
    pace, path_pace, listings, restarts = _QUICK if quick else _FULL
    daemon, floor = world.Daemon(here), world.Floor(here)
    daemon.start()
    beside = {"connect", "containers", "names", "ports"} & {*parts} if not alone else set()
    others = list(peers.found(here, held, report.notes)) if beside else []
    runners = [*peers.runners(here, held, others, report.notes)] if "containers" in beside else []
    publishers = [*peers.publishers(others)] if "ports" in beside else []
    namers = [*peers.namers(here, held, others, report.notes)] if "names" in beside else []
    made: list[str] = []

    def scale() -> None:
        daemon.add_network("many", "10.68.0.0/16")
        made.extend(attach.scale(daemon, floor, report, pace))
        footprint.full(daemon, len(made), report)

    steps: dict[str, Callable[[], None]] = {
        "footprint": lambda: _footprint(daemon, report, listings),
        "addresses": partial(addresses.measure, report, 100 * listings),
        "connect": partial(attach.connect, daemon, floor, others, report, pace),
        "create": partial(attach.create, daemon, floor, report, pace),
        "sustain": partial(attach.sustain, daemon, floor, report, pace),
        "crowd": partial(attach.crowd, daemon, floor, report, pace),
        "path": partial(path.measure, here, daemon, report, path_pace),
        "ports": partial(ports.measure, here, daemon, publishers, report, path_pace, listings),
        "lan": partial(lan.measure, here, daemon, floor, report, pace, path_pace),
        "names": partial(names.measure, here, daemon, namers, report, restarts, restarts / 2),
        "containers": lambda: containers.measure(here, daemon, runners, report, listings),
        "overlay": partial(overlay.measure, here, report, path_pace, max(20, listings)),
        "scale": scale,
        "restart": lambda: footprint.restart(here, daemon, made, report, restarts),
    }
    if "restart" in parts and "scale" not in parts:
        parts.append("scale")
    began = time.monotonic()
    for part in PARTS:
        if part == "connect":
            daemon.add_network(attach.NETWORK, "10.60.0.0/16")
            daemon.add_network("traffic", "10.69.0.0/24")
        if part not in parts or (part == "restart" and not made):
            continue
        load, before = os.getloadavg()[0], len(report.lines)
        try:
            steps[part]()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            report.failures.append(f"{part} could not be measured: {error}")
        report.loads.update((line.question, load) for line in report.lines[before:])
        print(f"bench: {part} done after {time.monotonic() - began:.0f} s, load {load:.1f}", file=sys.stderr)


def _write(page: Path, name: str, content: str) -> None:
    page.write_text(put_into(page.read_text(), name, content))


def _footprint(daemon: world.Daemon, report: Report, listings: int) -> None:
    footprint.idle(daemon, report)
    footprint.listing(daemon, report, listings)


def _machine() -> Machine:
    memory = Path("/proc/meminfo").read_text().split()[1]
    return Machine(
        time.strftime("%Y-%m-%d"),
        platform.release(),
        os.cpu_count() or 1,
        int(memory) // 1024,
        platform.python_version(),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
