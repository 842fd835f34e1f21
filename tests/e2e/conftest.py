"""What the tests with whole daemons share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Machine, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Whatever a test makes in it is gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces are made")
    with World(tmp_path / "world") as made:
        yield made


@pytest.fixture
def internet(world: World) -> tuple[Host, Machine]:
    """A host with a running daemon, and the outside world."""
    host, outside = world.internet()
    return host.start(), outside


@pytest.fixture
def box(internet: tuple[Host, Machine]) -> Host:
    """A host with a running daemon, wired to the outside world."""
    return internet[0]
