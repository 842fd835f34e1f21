"""Where the time of a request goes, stage by stage, in the daemon and in the kernel."""

import json
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from bench.lan import PARENT
from bench.world import Daemon, World, ip

REQUESTS = ("connect", "disconnect", "create", "remove")
DRIVERS: dict[str, dict[str, str]] = {"bridge": {}, "macvlan": {"parent": PARENT, "isthmus.probe": "off"}}
"""The drivers whose networks can be asked about, with the options of the network."""

_SANDBOXES = 20
_ENGINE = ("decide", "commit", "render", "observe", "diff", "apply")
_NESTED = (("commit", "store"), ("observe", "kernel"), ("apply", "kernel"), ("apply", "namespace"))
Span = tuple[str, int, int]


def run(world: World, request: str, driver: str, times: int) -> str:
    """Do *request* so many times, one after another, on a network of *driver*; a table of its stages' medians."""
    daemon, spans_file = Daemon(world), world.directory / "spans"
    daemon.start(sys.executable, "-m", "bench.profiled", str(spans_file))
    ip(daemon.host, f"link add {PARENT} type veth peer name far0\nlink set far0 up\nlink set {PARENT} up\n")
    daemon.add_network("bench", "10.60.0.0/16", driver, DRIVERS[driver])
    windows: list[tuple[int, int]] = []
    for _ in range(max(1, times // _SANDBOXES)):
        windows += _round(daemon, request)
    daemon.end(signal.SIGTERM)
    spans: list[Span] = [(stage, began, ended) for stage, began, ended in json.loads(Path(spans_file).read_text())]
    return table(request, [stages(window, inside) for window, inside in split(windows, spans)])


def _round(daemon: Daemon, request: str) -> list[tuple[int, int]]:
    """Do every request for a few sandboxes; return when those that are asked about began and ended."""
    names = [f"s{number}" for number in range(_SANDBOXES)]
    windows: dict[str, list[tuple[int, int]]] = {each: [] for each in REQUESTS}

    def ask(kind: str, name: str) -> None:
        began = time.perf_counter_ns()
        match kind:
            case "connect":
                daemon.connect("bench", name)
            case "disconnect":
                daemon.disconnect("bench", name)
            case "create":
                daemon.add_sandbox(name, "bench")
            case _:
                daemon.remove_sandbox(name)
        windows[kind].append((began, time.perf_counter_ns()))

    for kinds in (("create",), ("disconnect",), ("connect",), ("remove",)):
        for name in names:
            for kind in kinds:
                ask(kind, name)
        daemon.settle()
    return windows[request]


def split(windows: Sequence[tuple[int, int]], spans: Iterable[Span]) -> list[tuple[tuple[int, int], list[Span]]]:
    """Each window with the spans that lie in it.

    >>> split([(0, 9), (20, 29)], [("a", 1, 2), ("b", 12, 13), ("c", 22, 23)])
    [((0, 9), [('a', 1, 2)]), ((20, 29), [('c', 22, 23)])]
    """
    ordered = sorted(spans, key=lambda span: span[1])
    starts = [span[1] for span in ordered]
    return [
        ((began, ended), ordered[bisect_left(starts, began) : bisect_left(starts, ended)]) for began, ended in windows
    ]


def stages(window: tuple[int, int], spans: Sequence[Span]) -> dict[str, float]:
    """The microseconds of each stage of one request, as they come; their sum is the whole's."""
    (_, handled, answered) = next(span for span in spans if span[0] == "handler")
    # A network on a wire of others has more jobs in its wake: the longest is the one that was asked for.
    job = max((span for span in spans if span[0] == "job"), key=_length)
    sums = {stage: sum(_length(span) for span in spans if span[0] == stage and _within(span, job)) for stage in _ENGINE}
    nested = {
        (outer, inner): sum(
            _length(span)
            for span in spans
            if span[0] == inner
            and any(_within(span, other) for other in spans if other[0] == outer)
            and not any(_within(span, other) for other in spans if other[0] == "namespace" != inner)
        )
        for outer, inner in _NESTED
    }
    nanoseconds = {
        "HTTP: from the client to the handler": handled - window[0],
        "parse, route, come to the engine": job[1] - handled,
        "decide": sums["decide"],
        "commit: records": sums["commit"] - nested["commit", "store"],
        "commit: SQLite": nested["commit", "store"],
        "render": sums["render"],
        "observe: Python": sums["observe"] - nested["observe", "kernel"],
        "observe: kernel": nested["observe", "kernel"],
        "diff": sums["diff"],
        "apply: Python": sums["apply"] - nested["apply", "namespace"] - nested["apply", "kernel"],
        "apply: the namespace": nested["apply", "namespace"],
        "apply: kernel": nested["apply", "kernel"],
        "view, events, log": _length(job) - sum(sums.values()),
        "make the answer": answered - job[2],
        "HTTP: from the handler to the client": window[1] - answered,
    }
    return {stage: value / 1000 for stage, value in nanoseconds.items()}


def table(request: str, found: Sequence[dict[str, float]]) -> str:
    """The medians of the stages of many requests, in microseconds."""
    rows = [f"{request}: {len(found)} requests, one after another; medians in microseconds"]
    rows += [f"  {stage:<42}{median(one[stage] for one in found):>8.0f}" for stage in found[0]]
    rows.append(f"  {'the whole':<42}{median(sum(one.values()) for one in found):>8.0f}")
    return "\n".join(rows)


def _length(span: Span) -> int:
    return span[2] - span[1]


def _within(span: Span, other: Span) -> bool:
    return other[1] <= span[1] and span[2] <= other[2]
