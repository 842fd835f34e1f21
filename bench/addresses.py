"""What it takes to choose an address in a network that is nearly full, and what an address takes of memory."""

import time
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from random import Random

from bench.report import Goal, Report
from isthmus.addresses import AddressPool, Subnet

CHOOSE = "choose an address in a /16, {}"
TURN = "{} an address of a /16, half of them in use at random"
MEMORY = "memory of each address in use in a /16, {}"

_CIDR = IPv4Network("10.70.0.0/16")
_HOSTS = range(1, 65_535)
_MANY = 65_000
_FOREVER = 2**62


def measure(report: Report, times: int) -> None:
    """Measure pools filled from the start, at random, and every other address, which is the worst for them."""
    random = Random(1)
    scattered, half = random.sample(_HOSTS, _MANY), random.sample(_HOSTS, len(_HOSTS) // 2)
    goal = Goal(50, of_ratio=False)
    for how, numbers in (("the first 65,000 in use", _HOSTS[:_MANY]), ("65,000 in use at random", scattered)):
        report.add(CHOOSE.format(how), "isthmus", "µs", _each(_filled(numbers).choose, times), goal)
    report.add(CHOOSE.format("the rest kept"), "isthmus", "µs", _each(_first_kept(scattered), times), goal)
    pool, free = _filled(half), random.sample(sorted(set(_HOSTS).difference(half)), times)
    turns = [(_took(partial(pool.take, one)), _took(partial(pool.release, one))) for one in _addresses(free)]
    report.add(TURN.format("take"), "isthmus", "µs", [take for take, _ in turns])
    report.add(TURN.format("release"), "isthmus", "µs", [release for _, release in turns])
    goal = Goal(100, of_ratio=False)
    for how, numbers in (("in a row", _HOSTS[:_MANY]), ("half at random", half), ("every other", _HOSTS[::2])):
        report.add(MEMORY.format(how), "isthmus", "B", [_memory(numbers) / len(numbers)], goal)


def _addresses(numbers: Iterable[int]) -> list[IPv4Address]:
    return [_CIDR[number] for number in numbers]


def _filled(numbers: Iterable[int]) -> AddressPool:
    """A pool in which these addresses were taken one by one."""
    pool = AddressPool(Subnet(_CIDR))
    for address in _addresses(numbers):
        pool.take(address)
    return pool


def _first_kept(numbers: Iterable[int]) -> Callable[[], object]:
    """What chooses, where all that is free is kept for somebody."""
    pool = _filled(numbers)
    for address in _addresses(_HOSTS):
        pool.keep(address, _FOREVER)
    return lambda: next(pool.kept())


def _memory(numbers: Iterable[int]) -> int:
    """The bytes that a pool holds on to when these addresses were taken, beyond those of an empty one."""
    addresses = _addresses(numbers)
    pool = AddressPool(Subnet(_CIDR))
    tracemalloc.start()
    for address in addresses:
        pool.take(address)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def _each(work: Callable[[], object], times: int) -> list[float]:
    return [_took(work) for _ in range(times)]


def _took(work: Callable[[], object]) -> float:
    """How many microseconds *work* took."""
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1000
