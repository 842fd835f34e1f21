"""Networks whose frames are encrypted between hosts: whole daemons, a real store, WireGuard by wireguard-go."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clusters import Cluster, Shared, Tenant, cluster
from tests.e2e.hosts import Host, Place, pings, until
from tests.kv_servers import UNPACKED, program

WIREGUARD = UNPACKED / "wireguard/usr/bin"
PATH = f"{WIREGUARD}:{os.environ['PATH']}"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made"),
    pytest.mark.skipif(program("etcd") is None, reason="etcd was not fetched: ./bootstrap e2e"),
    pytest.mark.skipif(not WIREGUARD.exists(), reason="WireGuard's programs were not fetched: ./bootstrap e2e"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts that have WireGuard's programs, and a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", PATH)
        with cluster("etcd", tmp_path_factory.mktemp("wg")) as made:
            yield made


@pytest.fixture
def three(shared: Cluster) -> Iterator[Cluster]:
    """Three hosts and a store, with nothing on them; what the test made goes, and nothing of it may be left."""
    yield shared
    shared.together()
    shared.clear()
    for host in shared.hosts:
        until(lambda host=host: not sockets(host), f"a device is left on {host.name}")  # type: ignore[misc]


def sockets(host: Host) -> list[str]:
    """Where programs of WireGuard's listen on *host*: one for each device."""
    return sorted(path.name for path in (host.root / "run/wireguard").glob("*.sock"))


def all_reach(tenants: list[Tenant]) -> None:
    """See that each reaches each."""
    for one in tenants:
        for other in tenants:
            assert one is other or pings(one.place, other.address), f"{one.name} does not reach {other.name}"


def test_all_reach_all(three: Cluster) -> None:
    """The first demand."""
    multi = three.network("multi", "--subnet 10.0.9.0/24 --opt encrypted")
    tenants = multi.one_each()
    all_reach(tenants)
