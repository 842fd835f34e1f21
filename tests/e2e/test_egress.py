"""Egress policies of networks and endpoints, by address, port and name, on real packets."""

import os
import socket

import pytest

from tests.e2e.hosts import (
    HOST_ADDRESS,
    OUTSIDE,
    OUTSIDE6,
    Host,
    Machine,
    Place,
    World,
    pings,
    reaches,
    seen,
    shut,
    until,
)
from tests.e2e.test_names import ask

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

FRONT = "--subnet 10.5.0.0/24 --ipv6 --subnet fd05::/64"


@pytest.fixture
def internet(world: World) -> tuple[Host, Machine]:
    """A host with the network front, and the outside, which answers at the ports 80 and 443, as does the host."""
    host, outside = world.internet()
    outside.batch("address add 198.51.100.7/32 dev lo")
    host.batch(f"route add 198.51.100.0/24 via {OUTSIDE}")
    for port in (80, 443):
        world.serve(outside, port)
        world.serve(host, port)
    host.start()
    host.network("front", FRONT)
    return host, outside


def test_only_what_a_policy_allows_leaves(internet: tuple[Host, Machine]) -> None:
    """By address, port and protocol, of both IP versions; others on the network are free."""
    host, _ = internet
    job = host.sandbox("job", f"--network front --egress 'deny, allow {OUTSIDE}:443, allow [{OUTSIDE6}]:80/tcp'")
    free = host.sandbox("free", "--network front")
    assert seen(job, OUTSIDE, port=443) == HOST_ADDRESS
    assert seen(job, OUTSIDE, "udp", port=443) == HOST_ADDRESS
    assert seen(job, OUTSIDE6, port=80)
    assert shut(job, OUTSIDE)
    assert shut(job, OUTSIDE, "udp")
    assert shut(job, "198.51.100.7")
    assert shut(job, OUTSIDE6, "udp")
    assert shut(job, OUTSIDE, "icmp")
    assert shut(job, OUTSIDE6, "icmp")
    # The rest of the network may do what it likes.
    assert reaches(free, OUTSIDE)
    assert reaches(free, OUTSIDE6)
    assert pings(free, OUTSIDE)


def test_the_host_is_outside_too_and_neighbours_are_not(internet: tuple[Host, Machine], world: World) -> None:
    """A policy is about what leaves the network, and answers are no calls."""
    host, _ = internet
    job = host.sandbox("job", "--network front --egress deny")
    free = host.sandbox("free", "--network front -p 8080:80")
    world.serve(free)
    world.serve(job)
    assert shut(job, "10.5.0.1")
    assert shut(job, "fd05::1")
    assert shut(job, HOST_ADDRESS)
    assert shut(job, host.address("eth0", 6))
    # A neighbour by way of a port of the host's is a call to the host.
    assert seen(job, HOST_ADDRESS, port=8080, patience=0.3) is None
    for protocol in ("tcp", "udp", "icmp"):
        assert reaches(job, free.address(), protocol)
        assert reaches(job, free.address("eth0", 6), protocol)
    # Who calls gets his answer.
    assert reaches(free, job.address())
    assert reaches(host, job.address())
    assert reaches(host, job.address("eth0", 6))


def test_the_last_rule_that_speaks_of_a_call_decides(internet: tuple[Host, Machine]) -> None:
    """Whatever stands before it."""
    host, _ = internet
    job = host.sandbox("job", f"--network front --egress 'deny 0.0.0.0/0, allow :80, deny {OUTSIDE}, allow /icmp'")
    assert shut(job, OUTSIDE)
    assert reaches(job, "198.51.100.7")
    assert seen(job, "198.51.100.7", port=443, patience=0.3) is None
    assert pings(job, OUTSIDE)
    assert reaches(job, OUTSIDE6)


def test_a_network_has_a_policy_and_an_endpoint_adds_to_it(internet: tuple[Host, Machine]) -> None:
    """And the network's can be another while people stand on it."""
    host, _ = internet
    host.network("back", f"--subnet 10.6.0.0/24 --egress 'deny, allow {OUTSIDE}:80'")
    one = host.sandbox("one", "--network back")
    two = host.sandbox("two", "--network back --egress 'allow 198.51.100.7'")
    assert reaches(one, OUTSIDE)
    assert shut(one, "198.51.100.7")
    assert reaches(two, OUTSIDE)
    assert reaches(two, "198.51.100.7")
    assert seen(two, OUTSIDE, port=443, patience=0.3) is None
    # It is changed for all who stand there, and goes as it came.
    host.isthmus("network update back --egress deny")
    assert shut(one, OUTSIDE)
    assert shut(two, OUTSIDE)
    assert reaches(two, "198.51.100.7")
    host.isthmus("network update back --opt-rm isthmus.egress")
    assert reaches(one, OUTSIDE)
    assert reaches(one, "198.51.100.7")
    host.restart()
    assert host.planned_nothing


def test_who_is_held_to_a_policy_cannot_speak_for_others(internet: tuple[Host, Machine]) -> None:
    """An address that is not its own leads it nowhere."""
    host, _ = internet
    job = host.sandbox("job", "--network front --egress deny")
    job.batch("address add 10.5.0.77/24 dev eth0", "address add fd05::77/64 dev eth0 nodad")
    for command in ("ping -c 1 -W 1 -I 10.5.0.77 192.0.2.1", "ping -c 1 -W 1 -I fd05::77 fd05::1"):
        assert job.attempt(command).returncode
    free = host.sandbox("free", "--network front")
    free.batch("address add 10.5.0.77/24 dev eth0")
    assert free.run(f"ping -c 1 -W 1 -I 10.5.0.77 {OUTSIDE}")


def test_the_chains_come_with_the_first_policy_and_go_with_the_last(internet: tuple[Host, Machine]) -> None:
    """Who has none does not pay for them."""
    host, _ = internet
    assert "chain egress {" not in host.rules()
    host.sandbox("job", "--network front --egress deny")
    host.sandbox("more", "--network front --egress deny")
    assert "chain egress {" in host.rules()
    host.isthmus("sandbox rm job")
    assert "chain egress {" in host.rules()
    host.isthmus("sandbox rm more")
    assert "chain egress {" not in host.rules()
    host.restart()
    assert host.planned_nothing


def test_a_policy_outlives_the_daemon_and_other_peoples_firewalls(internet: tuple[Host, Machine]) -> None:
    """It holds while there is no daemon, and comes back when somebody flushes all rules."""
    host, _ = internet
    job = host.sandbox("job", f"--network front --egress 'deny, allow {OUTSIDE}:80'")
    host.kill()
    assert shut(job, "198.51.100.7")
    assert reaches(job, OUTSIDE)
    host.start()
    host.run("nft flush ruleset")
    until(lambda: "egress-own" in host.rules(), "the rules stay away")
    assert shut(job, "198.51.100.7")
    assert reaches(job, OUTSIDE)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--network front --egress 'deny, alow 10.0.0.0/8'", "allow or deny"),
        ("--network front --egress 'allow 10.0.0.0/33'", "10.0.0.0/33"),
        ("--network front --egress 'allow :70000'", "65535"),
        ("--network front --egress 'allow /icmp:8'", "allow /icmp:8"),
        ("--network front --egress 'allow :80/gre'", "no protocol gre"),
        ("--network none --egress deny", "does not pass"),
        ("--network host --egress deny", "does not pass"),
        ("--network bridge --egress 'deny, allow www.example.org'", "resolver"),
        ("--network front --dns none --egress 'deny, allow www.example.org'", "no resolver"),
    ],
)
def test_what_cannot_be_kept_is_refused(internet: tuple[Host, Machine], flags: str, complaint: str) -> None:
    """With the reason, and nothing is made."""
    host, _ = internet
    assert complaint in host.refused(f"sandbox create job {flags}")
    assert not host.isthmus("sandbox ls -q")


def _told(place: Place, name: str, kind: str = "A", *, tcp: bool = False) -> list[str]:
    return [str(one) for found in ask(place, name, kind, tcp=tcp).answer for one in found]


@pytest.mark.parametrize("tcp", [False, True])
def test_names_open_the_way_to_their_addresses(internet: tuple[Host, Machine], tcp: bool) -> None:  # noqa: FBT001
    """What the resolver told a sandbox, it may call, at the ports that its policy says."""
    host, _ = internet
    host.isthmus(f"network update front --record www.example.org={OUTSIDE} --record www.example.org={OUTSIDE6}")
    host.isthmus("network update front --record deep.www.example.org=198.51.100.7")
    job = host.sandbox("job", "--network front --egress 'deny, allow *.example.org:80'")
    other = host.sandbox("other", "--network front --egress 'deny, allow *.example.com:80'")
    assert shut(job, OUTSIDE)
    assert _told(job, "www.example.org", tcp=tcp) == [OUTSIDE]
    assert _told(job, "WWW.example.org", "AAAA", tcp=tcp) == [OUTSIDE6]
    assert _told(other, "www.example.org", tcp=tcp) == [OUTSIDE]
    assert reaches(job, OUTSIDE)
    assert reaches(job, OUTSIDE6)
    assert seen(job, OUTSIDE, port=443, patience=0.3) is None
    assert shut(job, "198.51.100.7")
    assert shut(other, OUTSIDE)
    assert _told(job, "deep.www.example.org", tcp=tcp) == ["198.51.100.7"]
    assert reaches(job, "198.51.100.7")
    # It outlives the daemon, and somebody's reload.
    host.restart()
    assert reaches(job, OUTSIDE)
    host.run("nft flush ruleset")
    until(lambda: reaches(job, OUTSIDE), "what was told is not told again")
    # It goes with who was told.
    host.isthmus("sandbox rm job")
    until(lambda: OUTSIDE not in host.rules(), "what was told stays")


def test_names_can_be_kept_out(internet: tuple[Host, Machine]) -> None:
    """Where all else may be called."""
    host, _ = internet
    host.isthmus("network update front --record ads.example.org=198.51.100.7 --record www.example.org=198.51.100.7")
    job = host.sandbox("job", "--network front --egress 'deny *.example.org, allow www.example.org:443'")
    assert reaches(job, "198.51.100.7")
    assert _told(job, "ads.example.org") == ["198.51.100.7"]
    assert shut(job, "198.51.100.7")
    assert reaches(job, OUTSIDE)


def test_a_whole_network_learns_names(internet: tuple[Host, Machine]) -> None:
    """What one is told, all may call; another policy begins anew."""
    host, _ = internet
    flags = f"--subnet 10.6.0.0/24 --egress 'deny, allow www.example.org' --record www.example.org={OUTSIDE}"
    host.network("back", flags)
    one, two = (host.sandbox(name, "--network back") for name in ("one", "two"))
    assert _told(one, "www.example.org") == [OUTSIDE]
    assert reaches(one, OUTSIDE)
    assert reaches(two, OUTSIDE)
    host.isthmus("network update back --egress 'deny, allow www.example.com'")
    until(lambda: not reaches(one, OUTSIDE), "what was told for another policy stays")


def test_a_rehearsal_drops_nothing_and_tells_what_it_would(internet: tuple[Host, Machine]) -> None:
    """Each call once, by the sandbox's name; what is dropped in earnest is told, too."""
    host, _ = internet
    job = host.sandbox("job", f"--network front --egress 'dry-run, deny, allow {OUTSIDE}:443'")
    strict = host.sandbox("strict", "--network front --egress deny")
    assert reaches(job, OUTSIDE)
    assert seen(job, OUTSIDE, port=443)
    assert pings(job, OUTSIDE6)
    assert shut(strict, OUTSIDE, "udp")
    assert reaches(job, OUTSIDE)
    rehearsed = f"job.front: tcp to {OUTSIDE}, port 80 would be dropped (dry-run) by its egress policy"
    until(lambda: rehearsed in host.log, "nothing is told")
    until(lambda: f"job.front: icmp to {OUTSIDE6} would be dropped" in host.log, "nothing is told of icmp")
    until(
        lambda: f"strict.front: udp to {OUTSIDE}, port 80 was dropped" in host.log, "nothing is told of what is dropped"
    )
    assert host.log.count(rehearsed) == 1
    assert "port 443" not in host.log


def test_a_policy_changes_while_the_sandbox_runs(internet: tuple[Host, Machine]) -> None:
    """It comes, becomes another, and goes; what was connected stays, and nothing is left."""
    host, outside = internet
    job = host.sandbox("job", "--network front")
    assert reaches(job, OUTSIDE)
    kind = socket.AF_INET, socket.SOCK_STREAM
    with outside.socket(*kind) as server, job.socket(*kind) as client:
        server.bind((OUTSIDE, 5000))
        server.listen()
        client.connect((OUTSIDE, 5000))
        with server.accept()[0] as stream:
            stream.settimeout(10)
            host.isthmus(f"network egress front job 'deny, allow {OUTSIDE}:443'")
            assert shut(job, OUTSIDE)
            assert seen(job, OUTSIDE, port=443)
            host.isthmus("network egress front job 'deny, allow 198.51.100.7'")
            assert shut(job, OUTSIDE)
            assert reaches(job, "198.51.100.7")
            client.send(b"some")
            assert stream.recv(4) == b"some"
    assert "isthmus.egress" in host.refused("network egress front job 'deny, allow :http'")
    assert "is not connected" in host.refused("network egress bridge job deny")
    host.isthmus("network egress front job off")
    assert reaches(job, OUTSIDE)
    assert "chain egress {" not in host.rules()
    assert "10.5.0.2" not in host.run("nft list table inet isthmus")
    host.restart()
    assert host.planned_nothing
