"""Beside other firewalls on one host: nobody touches what is the other's, in whichever order they start.

A packet passes if every table on its way lets it, so a firewall that drops what it does not know must be told; the
rules for that are those of `docs/firewall.md`.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.e2e.firewalls import firewalld, furnish, needs
from tests.e2e.hosts import (
    HOST_ADDRESS,
    OUTSIDE,
    SILENCE,
    Flow,
    Host,
    Machine,
    Place,
    World,
    pings,
    seen,
    shut,
    until,
    wire,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

NAME = "-o com.docker.network.bridge.name=front0 --subnet 10.5.0.0/24"
OPEN = f"{NAME} -o com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected"


def theirs(host: Host) -> str:
    """All rules but ours, without what was counted."""
    tables = [line for line in host.run("nft list tables").splitlines() if line.split()[2] != "isthmus"]
    return "".join(host.run(f"nft -s list {table}") for table in sorted(tables))


def ours(host: Host) -> str:
    """Our rules, without what was counted; "" if there are none."""
    return host.attempt("nft -s list table inet isthmus").stdout


def live(host: Host) -> None:
    """Do everything that touches the firewall, and undo it."""
    host.network("short", "--ipv6 --internal -o com.docker.network.bridge.trusted_host_interfaces=eth0")
    host.isthmus("sandbox create brief --network short")
    host.restart()
    host.isthmus("sandbox rm brief")
    host.isthmus("network rm short")


@contextmanager
def docker(host: Host) -> Iterator[Callable[[str], str]]:
    """A dockerd on *host*, and a function that runs its client."""
    paths = f"--data-root {host.directory}/docker --exec-root /run/dk -p /run/dk.pid"
    log = host.directory / "docker.log"
    command = host.within(f"dockerd {paths} -H unix:///run/dk.sock --storage-driver vfs")
    with log.open("w") as told, subprocess.Popen(command, stdout=told, stderr=told) as process:

        def client(words: str) -> str:
            return host.run(f"docker -H unix:///run/dk.sock {words}")

        def answers() -> bool:
            if process.poll() is not None:
                pytest.skip(f"dockerd does not run here: {log.read_text()[-300:]}")
            return host.attempt("docker -H unix:///run/dk.sock network ls").returncode == 0

        try:
            until(answers, "dockerd does not answer", 30)
            yield client
        finally:
            process.terminate()


def allow_in_docker(host: Host) -> None:
    """The documented rules."""
    host.run("iptables -I DOCKER-USER -i front0 -j ACCEPT")
    host.run("iptables -I DOCKER-USER -o front0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")


@pytest.fixture
def village(world: World) -> tuple[Host, Machine]:
    """A host whose daemon is not started yet, and somebody outside who answers."""
    host, outside = world.internet()
    world.serve(outside)
    return host, outside


@pytest.fixture
def furnished(village: tuple[Host, Machine]) -> tuple[Host, Machine]:
    """The same, where the host has other firewalls, and files of its own for them."""
    furnish(village[0])
    return village


@needs("dockerd", "docker", "iptables")
@pytest.mark.parametrize("first", ["docker", "isthmus"])
def test_docker_and_we_leave_each_others_rules_alone(furnished: tuple[Host, Machine], first: str) -> None:
    """Both on one host is the normal case while somebody moves over; neither start may disturb the other."""
    host, _ = furnished
    if first == "isthmus":
        host.start()
    mine = ours(host)
    with docker(host) as client:
        assert ours(host) == mine
        before = theirs(host)
        if first == "docker":
            host.start()
        live(host)
        assert theirs(host) == before
        mine = ours(host)  # once Docker filters, frames on our bridges may be detoured, and we provide for that
        client("network create other")
        assert ours(host) == mine
    assert ours(host) == mine


@needs("dockerd", "docker", "iptables")
def test_beside_docker_sandboxes_reach_what_dockers_user_chain_lets_them(furnished: tuple[Host, Machine]) -> None:
    """Docker sets FORWARD to DROP and has bridged frames filtered; the documented rules are enough."""
    host, _ = furnished
    with docker(host):
        host.start()
        host.network("front", NAME)
        web, db = host.sandbox("web", "--network front"), host.sandbox("db", "--network front")
        assert shut(web, OUTSIDE)
        allow_in_docker(host)
        assert seen(web, OUTSIDE) == HOST_ADDRESS
        assert pings(web, db.address())


@needs("dockerd", "docker", "iptables")
def test_docker_and_we_choose_different_subnets(furnished: tuple[Host, Machine]) -> None:
    """Both have the same default pools."""
    host, _ = furnished
    with docker(host) as client:
        host.start()
        client("network create theirs1")
        host.network("ours1")
        destinations = [route.split()[0] for route in host.routes() if "/" in route.split()[0]]
        assert len(destinations) == len(set(destinations)) == 5


@needs("iptables")
@pytest.mark.parametrize("first", ["iptables", "isthmus"])
def test_a_host_that_drops_what_it_forwards_needs_one_rule(furnished: tuple[Host, Machine], first: str) -> None:
    """`iptables -P FORWARD DROP` stays in charge; an accept for the bridge lets its sandboxes through."""
    host, _ = furnished

    def drop() -> None:
        host.run("iptables -P FORWARD DROP")
        host.run("iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")

    if first == "iptables":
        drop()
    host.start()
    host.network("front", NAME)
    web = host.sandbox("web", "--network front")
    if first == "isthmus":
        drop()
    assert shut(web, OUTSIDE)
    host.run("iptables -I FORWARD -i front0 -j ACCEPT")
    assert seen(web, OUTSIDE) == HOST_ADDRESS


@needs("iptables", "ip6tables")
def test_rules_made_with_iptables_stay_and_hold(furnished: tuple[Host, Machine]) -> None:
    """A host's own NAT and filter rules are neither changed nor overruled by ours."""
    host, outside = furnished
    host.run("iptables -A FORWARD -d 203.0.113.1 -p udp -j DROP")
    host.run("iptables -t nat -A PREROUTING -p tcp --dport 8443 -j DNAT --to-destination 203.0.113.1:80")
    host.run("ip6tables -A INPUT -p tcp --dport 22 -j ACCEPT")
    host.run("nft add table bridge mine")
    before = theirs(host)
    host.start()
    web = host.sandbox("web", "")
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    assert shut(web, OUTSIDE, "udp")
    live(host)
    assert theirs(host) == before
    assert outside.run("ip -j address")


@needs("iptables")
def test_another_firewalls_flush_of_its_own_rules_costs_no_packet(
    world: World, furnished: tuple[Host, Machine]
) -> None:
    """`iptables -F` and its like reload other tables all the time; a flow through ours goes on."""
    host, outside = furnished
    host.start()
    web = host.sandbox("web", "")
    flow = world.hold(Flow(web, outside, OUTSIDE))
    flow.arrives()
    for command in ("iptables -F", "iptables -t nat -F", "iptables -X", "iptables -A FORWARD -j ACCEPT"):
        host.run(command)
        flow.more(30)
    assert flow.lost() == 0


def test_a_table_of_nftables_with_its_own_policy_stays_in_charge(village: tuple[Host, Machine]) -> None:
    """What a host's own table drops stays dropped, whatever ours accepts; our accept is no word for others."""
    host, _ = village
    host.start()
    web = host.sandbox("web", "")
    rules = host.directory / "mine.nft"
    rules.write_text(
        "table inet mine {\n chain forward {\n"
        "  type filter hook forward priority 10; policy drop;\n  ct state established,related accept\n"
        "  iifname isthmus0 udp dport 80 accept\n }\n}\n"
    )
    host.run(f"nft -f {rules}")
    before = theirs(host)
    assert shut(web, OUTSIDE)
    assert seen(web, OUTSIDE, "udp") == HOST_ADDRESS
    live(host)
    assert theirs(host) == before


def test_bridged_frames_that_are_made_to_pass_the_firewall_pass_ours(
    village: tuple[Host, Machine], world: World
) -> None:
    """With bridge-nf-call-iptables members reach each other, and icc=false, NAT and published ports hold."""
    host, _ = village
    if host.attempt("sysctl -qw net.bridge.bridge-nf-call-iptables=1").returncode:
        pytest.skip("the kernel module br_netfilter is not loaded")
    host.sysctl("net.bridge.bridge-nf-call-ip6tables", "1")
    host.start()
    host.network("front", f"{NAME} --ipv6 --subnet fd00:5::/64")
    host.network("quiet", "--internal --subnet 10.6.0.0/24")
    host.network("booths", "-o com.docker.network.bridge.enable_icc=false --subnet 10.7.0.0/24")
    pairs = {
        name: [host.sandbox(f"{name}{n}", f"--network {name}") for n in (1, 2)] for name in ("front", "quiet", "booths")
    }
    assert pings(pairs["front"][0], pairs["front"][1].address())
    assert pings(pairs["front"][0], pairs["front"][1].address(version=6))
    assert pings(pairs["quiet"][0], pairs["quiet"][1].address())
    assert shut(pairs["booths"][0], pairs["booths"][1].address(), "icmp")
    for name in ("front", "booths"):
        assert seen(pairs[name][0], OUTSIDE) == HOST_ADDRESS
        assert pings(pairs[name][0], host.address(host.bridge(name) if name == "booths" else "front0"))
    assert shut(pairs["quiet"][0], OUTSIDE)
    world.serve(pairs["front"][1])
    host.isthmus("publish front2 8080:80 8080:80/udp")
    for protocol in ("tcp", "udp"):
        assert seen(pairs["front"][0], HOST_ADDRESS, protocol, port=8080) == host.address("front0")
        assert seen(host, HOST_ADDRESS, protocol, port=8080) == HOST_ADDRESS
        assert seen(pairs["booths"][0], HOST_ADDRESS, protocol, port=8080) == pairs["booths"][0].address()


# With whole firewalls.


@needs("ufw", "iptables")
@pytest.mark.parametrize("first", ["ufw", "isthmus"])
def test_beside_ufw_the_documented_rules_let_sandboxes_through(
    furnished: tuple[Host, Machine], world: World, first: str
) -> None:
    """`ufw enable` denies what is routed; three rules open it for one network, in either order of starts."""
    host, outside = furnished
    if first == "ufw":
        host.run("ufw --force enable")
    host.start()
    host.network("front", OPEN)
    web = host.sandbox("web", "--network front")
    world.serve(web)
    if first == "isthmus":
        mine = ours(host)
        host.run("ufw --force enable")
        assert ours(host) == mine
    assert "deny (routed)" in host.run("ufw status verbose")
    before = theirs(host)
    live(host)
    assert theirs(host) == before
    assert shut(web, OUTSIDE)
    host.run("ufw route allow in on front0")
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    assert shut(outside, "10.5.0.2")
    host.run("ufw route allow out on front0")
    assert seen(outside, "10.5.0.2") == OUTSIDE
    world.serve(host, 8080)
    assert seen(web, HOST_ADDRESS, patience=0.5, port=8080) is None
    host.run("ufw allow in on front0")
    assert seen(web, HOST_ADDRESS, port=8080) == "10.5.0.2"
    mine = ours(host)
    host.run("ufw reload")
    assert ours(host) == mine
    assert seen(web, OUTSIDE) == HOST_ADDRESS


@needs("firewalld", "firewall-cmd", "dbus-daemon")
@pytest.mark.parametrize("first", ["firewalld", "isthmus"])
def test_beside_firewalld_the_documented_rules_let_sandboxes_through(
    furnished: tuple[Host, Machine], world: World, first: str
) -> None:
    """A zone for the bridge opens the way out, a policy the way in; a reload takes nothing of ours."""
    host, outside = furnished
    if first == "isthmus":
        host.start()
    mine = ours(host)
    with firewalld(host):
        assert ours(host) == mine
        if first == "firewalld":
            host.start()
        host.network("front", OPEN)
        web = host.sandbox("web", "--network front")
        world.serve(web)
        before = theirs(host)
        live(host)
        assert theirs(host) == before
        assert shut(web, OUTSIDE)
        for command in (
            "--zone=trusted --add-interface=front0",
            "--new-policy isthmus",
            "--policy isthmus --add-ingress-zone ANY",
            "--policy isthmus --add-egress-zone trusted",
            "--policy isthmus --set-target ACCEPT",
        ):
            host.run(f"firewall-cmd --permanent {command}")
        mine = ours(host)
        host.run("firewall-cmd --reload")
        assert ours(host) == mine
        assert _both_ways(web, outside)


def _both_ways(web: Place, outside: Place) -> bool:
    return seen(web, OUTSIDE) == HOST_ADDRESS and seen(outside, web.address()) == OUTSIDE


# The table of policies.

PAGE = Path(__file__).parents[2] / "docs/firewall.md"


def _table() -> dict[str, dict[str, str]]:
    """The cells of the table in the documentation: by policy, and by what stands beside us, who comes through."""
    text = PAGE.read_text().partition("### Published ports beside")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    (_, *columns), _, *rows = rows
    return {policy: dict(zip(columns, cells, strict=True)) for policy, *cells in rows}


WHO = {"both": {"outside", "elsewhere"}, "the one": {"outside"}, "nobody": set[str]()}
TABLE = _table()
PORTS = dict(enumerate(TABLE, 8080))


@contextmanager
def _nothing(_host: Host, _commands: Iterable[str]) -> Iterator[None]:
    yield


@contextmanager
def _ufw(host: Host, commands: Iterable[str]) -> Iterator[None]:
    for command in ("--force enable", "route allow out on front0", *commands):
        host.run(f"ufw {command}")
    yield


@contextmanager
def _firewalld(host: Host, commands: Iterable[str]) -> Iterator[None]:
    with firewalld(host):
        for command in commands:
            host.run(f"firewall-cmd {command}")
        yield


Firewall = Callable[[Host, Iterable[str]], AbstractContextManager[None]]

BESIDE: dict[str, tuple[Firewall, tuple[str, ...], tuple[str, ...]]] = {
    "no other": (_nothing, (), ()),
    "ufw": (_ufw, (), ("ufw", "iptables")),
    "ufw, port allowed": (_ufw, ("allow 8080:8084/tcp",), ("ufw", "iptables")),
    "firewalld": (_firewalld, (), ("firewalld", "dbus-daemon")),
    "firewalld, port opened": (_firewalld, ("--add-port=8080-8084/tcp",), ("firewalld", "dbus-daemon")),
}
"""What is started in each column of the table, with which commands, and the programs that it needs."""


@pytest.mark.parametrize("level", ["network", "port"])
@pytest.mark.parametrize("column", [pytest.param(name, marks=needs(*BESIDE[name][2])) for name in BESIDE])
def test_a_policy_means_beside_a_firewall_what_the_table_says(
    furnished: tuple[Host, Machine], world: World, level: str, column: str
) -> None:
    """`follow` obeys what a firewall says of the host's own ports; the others are ours to say, as with Docker."""
    host, outside = furnished
    elsewhere = world.machine("elsewhere")
    wire(host, "eth2", elsewhere, "eth0")
    host.batch("address add 192.0.2.1/24 dev eth2")
    elsewhere.batch("address add 192.0.2.2/24 dev eth0", "route add default via 192.0.2.1")
    host.start()
    host.network("front", NAME)
    flags = " ".join(f"-p '{port}:80 {policy if level == 'port' else ''}'" for port, policy in PORTS.items())
    world.serve(host.sandbox("web", f"--network front {flags}"))
    beside, commands, _ = BESIDE[column]
    with beside(host, commands):
        for port, policy in PORTS.items():
            if level == "network":
                host.isthmus(f"network update front -o 'isthmus.publish={policy}'")
            expected = WHO[TABLE[policy][column]]
            callers = {"outside": outside, "elsewhere": elsewhere}
            for name in expected:
                assert seen(callers[name], HOST_ADDRESS, port=port), (policy, name)
            for name in callers.keys() - expected:
                # Longer than it takes to send again what a port that follows does not answer at first.
                assert shut_out(callers[name], port, 1.5 if policy == "follow" else SILENCE), (policy, name)
            assert seen(host, HOST_ADDRESS, port=port) == HOST_ADDRESS


def shut_out(place: Place, port: int, silence: float) -> bool:
    """Whether *place* does not come through by a *port* of the host."""
    return seen(place, HOST_ADDRESS, patience=silence, port=port) is None


@needs("ufw", "iptables")
def test_a_port_that_follows_obeys_a_rule_of_ufw_that_names_who(furnished: tuple[Host, Machine], world: World) -> None:
    """Ufw's way to let in a few; and beside ufw nothing is reached as long as it drops what is routed."""
    host, outside = furnished
    host.start()
    host.network("front", NAME)
    world.serve(host.sandbox("web", "--network front -p '8080:80 follow' -p '8081:80 follow' -p 8082:80"))
    host.run("ufw --force enable")
    host.run(f"ufw allow from {OUTSIDE} to any port 8080 proto tcp")
    host.run("ufw allow from 192.0.2.0/24 to any port 8081 proto tcp")
    assert shut_out(outside, 8082, SILENCE)
    host.run("ufw route allow out on front0")
    assert seen(outside, HOST_ADDRESS, port=8082) == OUTSIDE
    assert seen(outside, HOST_ADDRESS, port=8080) == OUTSIDE
    assert shut_out(outside, 8081, 1.5)
