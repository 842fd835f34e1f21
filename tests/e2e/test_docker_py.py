"""docker-py against a real daemon: what its own integration tests check of networks, and then some."""

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.e2e.api_daemon import DEADLINE, daemon

Client = Any
"""docker-py has no types of its own."""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon that all tests of this file share."""
    with daemon(tmp_path_factory.mktemp("daemon")) as address:
        yield address


@pytest.fixture
def client(host: str) -> Iterator[Client]:
    """A client; what a test leaves of networks and sandboxes is removed."""
    one = docker.DockerClient(base_url=host, version="auto", timeout=DEADLINE)
    try:
        yield one
        for container in one.containers.list():
            assert one.api._delete(one.api._url("/sandboxes/{0}", container.id)).status_code == 204
        one.networks.prune()
    finally:
        one.close()


def sandbox(client: Client, name: str, mode: str = "none") -> str:
    """Make a sandbox, through the route of our own."""
    url = client.api._url("/sandboxes/create")
    body = {"HostConfig": {"NetworkMode": mode}}
    return str(client.api._result(client.api._post_json(url, body, params={"name": name}), json=True)["Id"])


def test_the_version_is_negotiated(client: Client) -> None:
    """`version="auto"` reads `/version` first of all."""
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.52"
    assert client.info()["Swarm"]["LocalNodeState"] == "inactive"


def test_a_network_is_made_with_ipam_and_found_again(client: Client) -> None:
    """docker-py compares the configuration that it gets with the one that it gave, nulls and all."""
    pool = docker.types.IPAMPool(
        subnet="10.61.0.0/24", iprange="10.61.0.128/25", gateway="10.61.0.1", aux_addresses={"printer": "10.61.0.7"}
    )
    made = client.networks.create(
        "front", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"tier": "one"}
    )
    made.reload()
    ipam = made.attrs["IPAM"]
    assert ipam.pop("Options", None) is None
    assert ipam == {"Driver": "default", "Config": [dict(pool)]}
    assert [network.name for network in client.networks.list(names=["front"])] == ["front"]
    assert [network.id for network in client.networks.list(filters={"label": "tier=one"})] == [made.id]
    assert client.networks.get(made.short_id).name == "front"
    made.remove()
    with pytest.raises(docker.errors.NotFound, match="network front not found"):
        client.networks.get("front")


def test_a_sandbox_is_connected_with_all_that_can_be_asked(client: Client) -> None:
    """Address, aliases, MAC and options arrive and are shown again."""
    network = client.networks.create(
        "front", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.61.0.0/24")])
    )
    identity = sandbox(client, "web", "bridge")
    network.connect(
        "web",
        aliases=["www"],
        ipv4_address="10.61.0.9",
        mac_address="02:42:ac:11:65:43",
        driver_opt={"com.example": "1"},
    )
    container = client.containers.get("web")
    place = container.attrs["NetworkSettings"]["Networks"]["front"]
    assert place["IPAMConfig"]["IPv4Address"] == place["IPAddress"] == "10.61.0.9"
    assert place["MacAddress"] == "02:42:ac:11:65:43"
    assert place["Aliases"] == ["www"]
    assert place["DriverOpts"] == {"com.example": "1"}
    network.reload()
    assert [one.id for one in network.containers] == [identity]
    assert container.status == "running"
    network.disconnect("web")
    network.reload()
    assert network.containers == []


def test_refusals_become_docker_pys_exceptions(client: Client) -> None:
    """By status: programs catch these classes."""
    client.networks.create("front")
    with pytest.raises(docker.errors.APIError, match="already exists") as conflict:
        client.networks.create("front")
    assert conflict.value.status_code == 409
    with pytest.raises(docker.errors.APIError, match="pre-defined network") as forbidden:
        client.networks.get("bridge").remove()
    assert forbidden.value.status_code == 403
    with pytest.raises(docker.errors.NotFound):
        client.networks.get("front").connect("nobody")


def test_events_are_decoded(client: Client) -> None:
    """docker-py reads the stream line by line."""
    events = client.events(decode=True, filters={"type": "network", "event": "create"})
    network = client.networks.create("seen")
    event = next(events)
    events.close()
    assert (event["Type"], event["Action"], event["Actor"]["ID"]) == ("network", "create", network.id)
    assert event["Actor"]["Attributes"]["name"] == "seen"


def test_idle_networks_are_pruned(client: Client) -> None:
    """A null list and an empty one are the same to it, and names are names."""
    client.networks.create("idle", labels={"tier": "two"})
    assert client.networks.prune(filters={"label": "tier=two"})["NetworksDeleted"] == ["idle"]
    assert not client.networks.prune()["NetworksDeleted"]
