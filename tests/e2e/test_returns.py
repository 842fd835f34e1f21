"""Sandboxes with several ways out: what comes in by one is answered by the same."""

import os
from functools import partial

import pytest

from tests.e2e.hosts import Host, Machine, Place, World, pings, shut, until, wire

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]


def lan(world: World, host: Host, number: int) -> Machine:
    """A LAN with a router behind which there is one address, 203.0.113.NUMBER, that no other router knows."""
    router = world.machine(f"router{number}")
    wire(host, f"nic{number}", router, "lan0")
    router.batch(
        f"address add 10.{number}.0.254/24 dev lan0",
        f"address add fd00:{number}::fe/64 dev lan0 nodad",
        f"address add 203.0.113.{number}/32 dev lo",
        f"address add 2001:db8::{number}/128 dev lo nodad",
    )
    subnets = f"--subnet 10.{number}.0.0/24 --gateway 10.{number}.0.254"
    subnets += f" --ipv6 --subnet fd00:{number}::/64 --gateway fd00:{number}::fe"
    host.network(f"lan{number}", f"-d macvlan -o parent=nic{number} -o isthmus.probe=off {subnets}")
    return router


def reaches(place: Place, source: str, address: str) -> bool:
    """Whether *address* answers what *place* sends it from its address *source*."""
    return place.attempt(f"ping -n -c1 -W1 -I {source} {address}").returncode == 0


def test_an_answer_leaves_by_the_interface_that_the_question_came_in_on(world: World) -> None:
    """Each LAN's router knows its own side of the world only: an answer by the default route is lost."""
    host = world.host().start()
    first, second = lan(world, host, 1), lan(world, host, 2)
    web = host.sandbox("web", "--network lan1 --network lan2 --sysctl net.ipv4.conf.all.rp_filter=1")
    assert "default via 10.1.0.254 dev eth0" in web.routes()
    for version, theirs in ((4, "203.0.113."), (6, "2001:db8::")):
        for number, router in enumerate((first, second), start=1):
            source, address = f"{theirs}{number}", web.address(f"eth{number - 1}", version)
            until(partial(reaches, router, source, address), f"{source} gets no answer from {address}")
    # What a sandbox begins itself goes by the default route.
    assert pings(web, "203.0.113.1")
    assert shut(web, "203.0.113.2", "icmp")
    web.run("ip rule delete from 10.2.0.1")
    until(lambda: reaches(second, "203.0.113.2", "10.2.0.1"), "the rule never came back")
    host.isthmus("network disconnect lan2 web")
    assert web.run("ip rule").count("lookup") == 3
    assert web.run("ip -6 rule").count("lookup") == 2
