"""Rates as users set them: with a new sandbox, while it runs, with docker's client; kept whatever happens."""

import json
import os

import pytest

from tests.e2e.hosts import Host, Place, World, until

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]


def shaped(host: Host, sandbox: Place) -> dict[str, int]:
    """The rates that the kernel keeps at the host's end of a sandbox's link, and at its link for what comes from it."""
    port = host.port(sandbox)
    ends = {"down": port, "up": port.replace("veth", "ifb", 1)}
    found = {}
    for way, name in ends.items():
        for one in json.loads(host.attempt(f"tc -j qdisc show dev {name} root").stdout or "[]"):
            if one["kind"] == "tbf":
                found[way] = one["options"]["rate"] * 8
    if not host.attempt(f"tc filter show dev {port} ingress pref 105").stdout.count(f"Redirect to device {ends['up']}"):
        found.pop("up", None)
    return found


@pytest.fixture
def limited(world: World) -> tuple[Host, Place]:
    """A host with a sandbox that has a rate."""
    host = world.host()
    if "ok" not in host.run("sh -c 'ip link add ifb-probe type ifb && ip link del ifb-probe && echo ok || true'"):
        pytest.skip("this kernel has no ifb")
    host.start()
    host.isthmus("network create --subnet 10.5.0.0/24 front")
    return host, host.sandbox("web", "--network front --rate 100mbit/20mbit")


BOTH = {"down": 100_000_000, "up": 20_000_000}


def test_a_rate_outlives_the_daemon(limited: tuple[Host, Place]) -> None:
    """However it ends, and the next one has nothing to do."""
    host, web = limited
    assert shaped(host, web) == BOTH
    host.kill()
    host.start()
    assert host.planned_nothing
    assert shaped(host, web) == BOTH


def test_a_rate_is_changed_and_lifted_while_the_sandbox_runs(limited: tuple[Host, Place]) -> None:
    """And shown."""
    host, web = limited
    assert [one["Rate"] for one in host.inspect("front")["Containers"].values()] == ["100mbit/20mbit"]
    host.isthmus("network rate front web 50mbit")
    assert shaped(host, web) == {"down": 50_000_000, "up": 50_000_000}
    host.isthmus("network rate front web 50mbit/off")
    assert shaped(host, web) == {"down": 50_000_000}
    host.isthmus("network rate front web off")
    assert shaped(host, web) == {}
    assert "it must be a rate such as 100mbit" in host.refused("network rate front web fast")
    assert "is not connected" in host.refused("network rate bridge web 1mbit")


@pytest.mark.parametrize(
    "command",
    [
        "tc qdisc del dev {port} root",
        "tc qdisc del dev {port} clsact",
        "tc filter del dev {port} ingress",
        "tc qdisc del dev {ifb} root",
        "ip link del {ifb}",
        "ip link del {port}",
    ],
)
def test_a_limit_that_somebody_takes_away_is_put_back(limited: tuple[Host, Place], command: str) -> None:
    """At once, not at the next start."""
    host, web = limited
    port = host.port(web)
    host.run(command.format(port=port, ifb=port.replace("veth", "ifb", 1)))
    until(lambda: port in host.interfaces() and shaped(host, web) == BOTH, f"the limit is not put back after {command}")


def test_nothing_of_a_limit_is_left_when_the_sandbox_goes(limited: tuple[Host, Place]) -> None:
    """Its link for what came from it neither."""
    host, _ = limited
    host.isthmus("sandbox rm web")
    until(lambda: not any("ifb" in name for name in host.interfaces()), "a link is left")
