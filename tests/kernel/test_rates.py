"""Limits hold for what really passes, both ways, and are changed while it does.

Only that nothing is faster than it may be is tested here, for that holds on any machine, however busy.
"""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from isthmus import rates
from isthmus.kernel import namespaces
from isthmus.model import HOST
from isthmus.naming import Owner
from isthmus.resources import Ifb, Redirect, Resource, Shaper
from tests.kernel.realm import apart, needs_shaping, shown, started
from tests.kernel.test_linux import DB, NET, WEB, endpoint, settle

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

DOWN, UP = 32_000_000, 16_000_000


def limits(owner: Owner, down: int, up: int) -> tuple[Resource, ...]:
    """What limits the rates of an endpoint."""
    veth, ifb = f"veth{owner.endpoint[:11]}", f"ifb{owner.endpoint[:11]}"
    return Shaper(HOST, veth, down), Ifb(HOST, ifb, owner), Shaper(HOST, ifb, up), Redirect(HOST, veth, ifb)


@contextmanager
def pair(listening: str, calling: str, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Hold a connection between two namespaces: the end of who called, and that of who listened at *address*."""
    with within(listening), socket.create_server((address, 0)) as server, within(calling):
        caller = socket.create_connection(server.getsockname())
        answerer, _ = server.accept()
    with caller, answerer:
        yield caller, answerer


@contextmanager
def within(netns: str) -> Iterator[None]:
    """Be in the namespace *netns*: what is opened there stays there."""
    descriptor = namespaces.open_path(f"/run/netns/{netns}")
    try:
        with namespaces.inside(descriptor):
            yield
    finally:
        os.close(descriptor)


def carry(source: socket.socket, sink: socket.socket, size: int) -> float:
    """Send *size* bytes from one end to the other; return the seconds until the last has come."""
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(source.sendall, bytes(size))
        while size:
            size -= len(sink.recv(1 << 16))
        sending.result()
    return time.monotonic() - begun


def least(size: int, rate: int) -> float:
    """Within how many seconds *size* bytes cannot pass at this *rate*."""
    return (size - rates.burst(rate)) * 8 / rate


@apart
def test_nothing_is_faster_than_its_rate_either_way(tmp_path: Path) -> None:
    """Two of three sandboxes on one bridge: what comes from the one, and what goes to it, each at its own rate."""
    needs_shaping()
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2), *limits(WEB, DOWN, UP), *endpoint("db", DB, 3))
        with pair("db", "web", "10.9.0.3") as (web, db):
            size = 800_000
            assert carry(db, web, size) >= least(size, DOWN)
            assert carry(web, db, size) >= least(size, UP)


@apart
def test_a_limit_is_changed_and_lifted_under_a_connection_that_goes_on(tmp_path: Path) -> None:
    """Nothing of it is cut, and the new rate counts for what comes next."""
    needs_shaping()
    with started(tmp_path) as kernel:
        there = (*NET, *endpoint("web", WEB, 2), *endpoint("db", DB, 3))
        settle(kernel, *there)
        with pair("db", "web", "10.9.0.3") as (web, db):
            size = 500_000
            carry(web, db, size)
            for down, up in ((DOWN, UP), (UP, DOWN)):
                settle(kernel, *there, *limits(WEB, down, up))
                assert carry(db, web, size) >= least(size, down)
                assert carry(web, db, size) >= least(size, up)
            settle(kernel, *there)
            carry(db, web, size)
            carry(web, db, size)


@apart
def test_all_that_a_sandbox_sends_passes_by_its_limit(tmp_path: Path) -> None:
    """Of any protocol; the kernel's own count tells."""
    needs_shaping()
    with started(tmp_path) as kernel:
        settle(kernel, *NET, *endpoint("web", WEB, 2), *limits(WEB, DOWN, UP), *endpoint("db", DB, 3))
        with pair("db", "web", "10.9.0.3") as (web, db):
            carry(web, db, 100_000)
        [up] = [one for one in shown("tc", "-s", "-j", "qdisc", "show", "dev", "ifb11111111111") if one.get("root")]
        assert up["kind"] == "tbf"
        assert up["bytes"] > 100_000
