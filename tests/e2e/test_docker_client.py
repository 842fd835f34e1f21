"""The stock docker client against a real daemon: it notices no difference."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.api_daemon import DEADLINE, daemon

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker client"),
]

Docker = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon that all tests of this file share."""
    with daemon(tmp_path_factory.mktemp("daemon")) as address:
        yield address


@pytest.fixture
def docker(host: str, tmp_path: Path) -> Docker:
    """`docker(...)` runs the client; unless `fails=True` it must succeed, and else it must fail."""

    def run(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--config", str(tmp_path), "-H", host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert (done.returncode != 0) is fails, done
        return done

    return run


def sandbox(host: str, name: str, mode: str) -> None:
    """Make a sandbox, with the command line of our own."""
    ours = [sys.executable, "-m", "isthmus.cli.main", "-H", host, "sandbox", "create", "--network", mode, name]
    subprocess.run(ours, check=True, timeout=DEADLINE, capture_output=True)


def inspect(docker: Docker, *arguments: str) -> Any:  # noqa: ANN401 - JSON may be anything
    """The first thing that an inspection shows."""
    return json.loads(docker(*arguments).stdout)[0]


def test_version_and_info_are_printed_whole(docker: Docker) -> None:
    """A field that is missing shows as an error or a hole."""
    assert "API version:      1.52 (minimum version 1.24)" in docker("version").stdout
    info = docker("info")
    assert "Network: bridge host ipvlan macvlan null" in info.stdout
    assert "Swarm: inactive" in info.stdout
    assert "WARNING" not in info.stderr


def test_a_network_is_created_with_every_flag_and_shown_so(docker: Docker) -> None:
    """What was asked for is what is inspected."""
    created = docker(
        "network", "create", "-d", "bridge", "--subnet", "10.51.0.0/24", "--ip-range", "10.51.0.128/25", "--gateway",
        "10.51.0.1", "--aux-address", "printer=10.51.0.7", "--label", "tier=one", "--attachable", "-o",
        "com.docker.network.bridge.enable_icc=false", "--ipv6", "--subnet", "fd00:51::/64", "every",
    )  # fmt: skip
    shape = inspect(docker, "network", "inspect", "every")
    assert shape["Id"] == created.stdout.strip()
    assert shape["IPAM"]["Config"] == [
        {
            "Subnet": "10.51.0.0/24",
            "IPRange": "10.51.0.128/25",
            "Gateway": "10.51.0.1",
            "AuxiliaryAddresses": {"printer": "10.51.0.7"},
        },
        {"Subnet": "fd00:51::/64", "Gateway": "fd00:51::1"},
    ]
    assert shape["Labels"] == {"tier": "one"}
    assert shape["Options"] == {"com.docker.network.bridge.enable_icc": "false"}
    assert (shape["EnableIPv6"], shape["Attachable"], shape["Internal"]) == (True, True, False)
    assert "every" in docker("network", "ls", "--filter", "label=tier=one", "--format", "{{.Name}}").stdout
    assert docker("network", "rm", "every").stdout == "every\n"
    gone = docker("network", "inspect", "every", fails=True).stderr
    # Clients up to version 23 put it into words of their own.
    assert "network every not found" in gone or "No such network: every" in gone


def test_a_sandbox_is_connected_shown_and_disconnected(docker: Docker, host: str) -> None:
    """To the client it is a container."""
    docker("network", "create", "--subnet", "10.52.0.0/24", "front")
    sandbox(host, "web", "bridge")
    docker("network", "connect", "--ip", "10.52.0.9", "--alias", "www", "front", "web")
    assert docker("ps", "--filter", "name=^/web$", "--format", "{{.Names}} {{.State}}").stdout == "web running\n"
    place = inspect(docker, "inspect", "web")["NetworkSettings"]["Networks"]["front"]
    assert (place["IPAddress"], place["Gateway"], place["Aliases"]) == ("10.52.0.9", "10.52.0.1", ["www"])
    (container,) = inspect(docker, "network", "inspect", "front")["Containers"].values()
    assert (container["Name"], container["IPv4Address"]) == ("web", "10.52.0.9/24")
    refused = docker("network", "rm", "front", fails=True).stderr
    assert 'error while removing network: network front has active endpoints (name:"web" id:"' in refused
    docker("network", "disconnect", "front", "web")
    assert "is not connected to the network front" in docker("network", "disconnect", "front", "web", fails=True).stderr
    docker("network", "rm", "front")


def test_idle_networks_are_pruned(docker: Docker) -> None:
    """With the filters that the client has for it."""
    docker("network", "create", "--label", "keep", "kept")
    docker("network", "create", "idle")
    assert docker("network", "prune", "-f", "--filter", "label!=keep").stdout == "Deleted Networks:\nidle\n\n"
    docker("network", "rm", "kept")


def test_events_are_seen_afterwards_and_while_they_happen(docker: Docker, host: str, tmp_path: Path) -> None:
    """Scripts and compose wait for them."""
    since = str(int(time.time()) - 1)
    command = [
        "docker",
        "--config",
        str(tmp_path),
        "-H",
        host,
        "events",
        "--since",
        since,
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]
    with subprocess.Popen([*command, "--filter", "network=seen"], stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        docker("network", "create", "seen")
        assert following.stdout.readline() == "create seen\n"
        docker("network", "rm", "seen")
        assert following.stdout.readline() == "destroy seen\n"
        following.terminate()
    past = docker(*command[5:], "--filter", "type=network", "--until", str(int(time.time()) + 1)).stdout
    assert past.splitlines()[-2:] == ["create seen", "destroy seen"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("network", "create", "bridge"), "operation is not permitted on predefined bridge network"),
        (("network", "rm", "host"), "host is a pre-defined network and cannot be removed"),
        (("network", "create", "--subnet", "10.0.0.1/24", "x"), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (("network", "connect", "bridge", "nobody"), "No such container: nobody"),
        (("network", "ls", "--filter", "type=x"), "invalid filter: 'type'='x'"),
        (("inspect", "nobody"), "No such object: nobody"),
        (("cp", "x:/a", "b"), "neither builds images nor keeps volumes"),
        (("node", "ls"), "This node is not part of a swarm"),
    ],
)
def test_what_is_refused_is_said_in_dockers_words(docker: Docker, arguments: tuple[str, ...], message: str) -> None:
    """The client prints them as they are."""
    assert message in docker(*arguments, fails=True).stderr
