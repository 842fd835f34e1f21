"""A realm for one test of the kernel: namespaces of its own, in which it may do as it likes and which die with it."""

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest

from isthmus.kernel.linux import LinuxKernel
from isthmus.model import HOST
from isthmus.resources import Redirect, Resource, Shaper

P = ParamSpec("P")
PATIENCE = 20.0
"""How long what must come may take, in seconds: a neighbour that did not answer is asked again only now and then."""

_CLONE_NEWNS, _CLONE_NEWNET, _MS_REC, _MS_PRIVATE = 0x20000, 0x40000000, 0x4000, 0x40000


def _succeed(result: int) -> None:
    assert result == 0, os.strerror(ctypes.get_errno())


def apart(body: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a thread of its own, in a new network namespace, and with an empty `/run/netns` of its own."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def enter() -> None:
            depart()
            body(*args, **kwargs)

        before = Path("/proc/self/ns/net").readlink()
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(enter).result()
        assert Path("/proc/self/ns/net").readlink() == before

    return run


def depart() -> None:
    """Have the calling thread stand in a new network namespace, with an empty `/run/netns`, and never come back."""
    libc = ctypes.CDLL(None, use_errno=True)
    _succeed(libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS))
    _succeed(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    Path("/run/netns").mkdir(exist_ok=True)
    _succeed(libc.mount(b"none", b"/run/netns", b"tmpfs", 0, None))


@contextmanager
def started(directory: Path) -> Iterator[LinuxKernel]:
    """Hold a kernel during the block; what it made stays."""
    kernel = LinuxKernel(directory)
    try:
        yield kernel
    finally:
        kernel.close()


def needs_shaping() -> None:
    """Skip the test where this kernel cannot limit rates."""
    if not can_shape():
        pytest.skip("this kernel has no ifb, tbf, clsact, u32 or mirred")


def can_shape() -> bool:
    """Whether this kernel can limit rates: what does is in modules that not every kernel has."""
    run("ip", "link", "add", "probe", "type", "veth", "peer", "name", "far-probe")
    tries = (
        ("ip", "link", "add", "ifb-probe", "type", "ifb"),
        Shaper(HOST, "probe", 10**6).make().split(),
        *(part.split() for part in Redirect(HOST, "probe", "far-probe").make().split(" && ")),
    )
    done = [subprocess.run(one, check=False, capture_output=True, text=True) for one in tries]
    run("ip", "link", "delete", "probe")
    if any("nknown" in one.stderr or "Failed to load" in one.stderr for one in done):
        return False
    assert not any(one.returncode for one in done), [one.stderr for one in done]
    run("ip", "link", "delete", "ifb-probe")
    return True


def run(*command: str) -> str:
    """Return what a program prints, run from where the calling thread is; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shown(*command: str) -> Any:  # noqa: ANN401 (any JSON)
    """Return what a program prints as JSON."""
    return json.loads(run(*command) or "[]")


def pings(netns: str, address: str) -> bool:
    """Whether *address* answers to the namespace *netns*, at the latest after a while; for what must be so."""
    deadline = time.monotonic() + PATIENCE
    while silent(netns, address):
        if time.monotonic() > deadline:
            return False
    return True


def silent(netns: str, address: str) -> bool:
    """Whether the namespace *netns* gets no answer from *address* within a second."""
    enter = ("ip", "netns", "exec", netns) if netns else ()
    done = subprocess.run((*enter, "ping", "-n", "-c1", "-W1", address), check=False, capture_output=True)
    return done.returncode != 0


def by_key(resources: frozenset[Resource]) -> dict[tuple[str, ...], Resource]:
    """Index what was observed."""
    return {resource.key: resource for resource in resources}
