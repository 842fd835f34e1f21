"""The daemon with a clock at the borders of its stages: `python -m bench.profiled OUT FLAGS...`.

When it ends, the file OUT holds a JSON list of spans: `[stage, began, ended]` in nanoseconds of the monotonic clock,
which is the same for all processes. A clock costs less than a microsecond; only this program has them.
"""

import functools
import importlib
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from isthmus.worker import Subject, Worker

STAGES = (
    ("handler", "isthmus.api.server", "Server._handle"),
    ("decide", "isthmus.decisions", "Decisions.endpoint"),
    ("decide", "isthmus.decisions", "Decisions.sandbox"),
    ("commit", "isthmus.engine", "Engine._commit"),
    ("store", "isthmus.store.local", "LocalStore.commit"),
    ("render", "isthmus.render", "sandbox"),
    ("observe", "isthmus.kernel.linux", "LinuxKernel.observe"),
    ("diff", "isthmus.engine", "diff"),
    ("apply", "isthmus.kernel.linux", "LinuxKernel.apply"),
    ("namespace", "isthmus.kernel.spaces", "Spaces.make"),
    ("namespace", "isthmus.kernel.spaces", "Spaces.remove"),
    ("kernel", "isthmus.kernel.netlink", "Socket.exchange"),
    ("kernel", "isthmus.kernel.netlink", "Socket.ask"),
    ("kernel", "isthmus.kernel.netlink", "Socket.dump"),
)
"""What is timed: the stage, and the function that is it."""

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Subject)
Span = tuple[str, int, int]

_now = time.perf_counter_ns


def found(module: str, path: str) -> tuple[object, str, Callable[..., object]]:
    """The class or module that has a function, the function's name in it, and the function; AttributeError if none."""
    owner: object = importlib.import_module(module)
    *outer, name = path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    return owner, name, getattr(owner, name)


def timed(stage: str, function: Callable[P, T], spans: list[Span]) -> Callable[P, T]:
    """The *function*, noting when it began and ended."""

    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> T:
        began = _now()
        try:
            return function(*args, **kwargs)
        finally:
            spans.append((stage, began, _now()))

    return plain


def timed_async(stage: str, function: Callable[P, Awaitable[T]], spans: list[Span]) -> Callable[P, Awaitable[T]]:
    """As `timed`, for a coroutine function."""

    @functools.wraps(function)
    async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        began = _now()
        try:
            return await function(*args, **kwargs)
        finally:
            spans.append((stage, began, _now()))

    return waiting


def main(out: str, flags: list[str]) -> int:
    """Run the daemon with clocks, and write what they said."""
    from isthmus import daemon

    spans: list[Span] = []
    for stage, module, path in STAGES:
        owner, name, function = found(module, path)
        clock = timed_async if inspect.iscoroutinefunction(function) else timed
        setattr(owner, name, clock(stage, function, spans))  # type: ignore[arg-type]  # decided by the line above
    call = Worker.call

    def timed_call(worker: Worker[S], work: Callable[[S], object], *, brief: bool = False) -> Awaitable[object]:
        return call(worker, timed("job", work, spans), brief=brief)

    setattr(Worker, "call", timed_call)  # noqa: B010 - an assignment would have to be of exactly that type
    try:
        return daemon.main(flags)
    finally:
        Path(out).write_text(json.dumps(spans))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
