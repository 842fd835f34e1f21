"""Networks on several hosts, each with a daemon of its own, that share a real Consul or etcd: what they promise."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPException
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from tests.e2e.boxes import Box
from tests.e2e.clusters import (
    AGAIN,
    GONE,
    STORE,
    TTL,
    Cluster,
    Tenant,
    ask,
    at_once,
    attach,
    attempt,
    cluster,
    has,
    lasts,
    spaces,
)
from tests.e2e.hosts import PROGRAM, Echo, Flow, Host, pings, reaches, seen, shut, until
from tests.e2e.test_names import ask as query
from tests.e2e.test_names import found
from tests.kv_servers import program

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

PUT_BACK = "what was taken away is not put back"

SOON = 3.0
"""How long, in seconds, it may take until a user is told that something cannot be had."""


@pytest.fixture(scope="module", params=["consul", "etcd"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the store."""
    if program(request.param) is None:
        pytest.skip(f"{request.param} was not fetched: ./bootstrap e2e")
    return str(request.param)


@pytest.fixture(scope="module")
def shared(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts and a store."""
    with cluster(kind, tmp_path_factory.mktemp(kind)) as made:
        yield made


@pytest.fixture
def three(shared: Cluster) -> Iterator[Cluster]:
    """Three hosts and a store, with nothing on them; what the test made goes, and nothing of it may be left."""
    yield shared
    shared.together()
    shared.clear()


# One switch.


def test_sandboxes_on_three_hosts_are_as_if_on_one_switch(three: Cluster) -> None:
    """The demand: a network made on one host is on all, with one pool of addresses, and all reach each other."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants = [*multi.one_each(), *multi.one_each("t")]
    assert sorted(one.address for one in tenants) == [f"10.0.9.{number}" for number in range(2, 8)]
    multi.settled(tenants)
    for host in three.hosts:
        assert host.inspect("multi")["Id"] == multi.id
        assert host.inspect("multi")["Scope"] == "global"
        host.isthmus("network check multi")
        host.restart()
        assert host.planned_nothing, host.log


def test_both_families_go_from_host_to_host(three: Cluster) -> None:
    """IPv6 has its pool in the store, too, and goes by the same tunnel."""
    both = three.network("both", "--ipv6 --subnet 10.0.9.0/24 --subnet fd09::/64")
    tenants = both.one_each()
    both.settled(tenants)
    six = [one.place.address(version=6) for one in tenants]
    assert len(set(six)) == 3
    for one in tenants:
        for address in six:
            assert pings(one.place, address), f"{one.name} does not reach {address}"


def test_names_are_told_on_all_hosts(three: Cluster) -> None:
    """Who stands elsewhere is found by his name, by an alias that he shares with others, and by his address."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    one, two = (multi.tenant(host, host.name.replace("h", "s"), "--network-alias www") for host in three.hosts[:2])
    three_ = multi.tenant(three.hosts[2], "s3")
    multi.settled([one, two, three_])
    for who in (one, two, three_):
        for name, addresses in {
            "s1": {one.address},
            "s2.multi": {two.address},
            "www": {one.address, two.address},
        }.items():
            assert set(found(who.place, name)) == addresses
        firsts = {str(query(who.place, "www").answer[0][0]) for _ in range(20)}
        assert firsts == {one.address, two.address}
        assert found(who.place, ip_address(one.address).reverse_pointer, "PTR") == ["s1.multi."]
        who.host.run(f"{PROGRAM} sandbox exec {who.name} -- ping -c 1 -W 5 s2")
    two.leave()
    for who in (one, three_):
        until(lambda who=who: found(who.place, "www") == [one.address], "who left is still told")  # type: ignore[misc]


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker client")
def test_the_docker_client_makes_and_shows_what_is_shared(three: Cluster) -> None:
    """No swarm is needed for what once was asked of one."""
    one, two, _ = map(Box, three.hosts)
    identity = one.docker("network", "create", "-d", "overlay", "--subnet", "10.0.9.0/24", "multi").strip()
    until(lambda: has(two.host, "multi"), "it is not heard of")
    row = two.docker(
        "network", "ls", "--no-trunc", "--filter", "name=multi", "--format", "{{.ID}} {{.Driver}} {{.Scope}}"
    )
    assert row == f"{identity} overlay global\n"
    for box in (one, two):
        box.host.sandbox("bare", "--network bridge")
        box.docker("network", "connect", "--alias", "www", "multi", "bare")
    shape = two.docker(
        "network", "inspect", "multi", "--format", "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}"
    )
    assert shape == "bare 10.0.9.3/24\n"
    assert pings(two.host.sandbox("bare"), "10.0.9.2")
    told = two.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}}").splitlines()
    assert told == ["h1 Ready", "h2 Ready", "h3 Ready"]
    two.docker("network", "disconnect", "multi", "bare")
    assert "bare" in one.refused("network", "rm", "multi")
    one.docker("network", "disconnect", "multi", "bare")
    # The store is told behind the answer that somebody left.
    until(lambda: not two.attempt("network", "rm", "multi").returncode, "who left is still there")
    until(lambda: not has(one.host, "multi"), "it is not gone")
    for box in (one, two):
        box.host.isthmus("sandbox rm bare")


def test_nodes_are_listed(three: Cluster) -> None:
    """Who is there, by which address, and how many stand there."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants = [*multi.one_each(), multi.tenant(three.hosts[1], "more")]
    multi.settled(tenants)
    rows = three.hosts[1].isthmus("node ls --format '{{.Hostname}} {{.Status}} {{.Address}} {{.Endpoints}}'")
    assert rows.splitlines() == ["h2 ready 192.0.2.2 2", "h1 ready 192.0.2.1 1", "h3 ready 192.0.2.3 1"]


# Races.


def test_a_pool_is_given_out_whole_and_nothing_twice(three: Cluster) -> None:
    """Many come at once on all hosts: each address goes to one of them, and who comes too late is told."""
    small = three.network("small", "--subnet 10.0.27.0/27")
    wishes = [(host, f"{host.name}-{number}") for number in range(11) for host in three.hosts]
    answers = at_once(partial(attach, host, name, "small", patience=60) for host, name in wishes)
    refused = [answer for status, answer in answers if status != 201]
    tenants = [_standing(*wish) for wish, (status, _) in zip(wishes, answers, strict=True) if status == 201]
    # The gateway has the first one, the last one is the broadcast address.
    assert sorted(int(one.address.rpartition(".")[2]) for one in tenants) == list(range(2, 31))
    assert len(refused) == 4
    assert all("no available IPv4 addresses" in one["message"] for one in refused), refused
    small.settled(tenants)


def test_of_two_who_want_one_address_one_gets_it(three: Cluster) -> None:
    """The other one is told so, and nothing of him stays."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants = []
    for number in range(10, 15):
        wishes = [(host, f"{host.name}-{number}") for host in three.hosts]
        answers = at_once(partial(attach, host, name, "multi", f"10.0.9.{number}") for host, name in wishes)
        (won,) = [wish for wish, (status, _) in zip(wishes, answers, strict=True) if status == 201]
        assert all("Address already in use" in answer["message"] for status, answer in answers if status != 201)
        tenants.append(_standing(*won))
    multi.settled(tenants)


def test_of_two_who_make_a_network_of_one_name_one_does(three: Cluster) -> None:
    """There is one such network afterwards, and all hosts have that."""
    for number in range(5):
        body = {"Name": f"twin{number}", "Driver": "overlay"}
        answers = at_once(partial(attempt, host, "POST", "/networks/create", body) for host in three.hosts)
        (made,) = [answer for status, answer in answers if status == 201]
        assert all("already exists" in answer["message"] for status, answer in answers if status != 201)
        for host in three.hosts:
            until(lambda host=host, name=body["Name"]: has(host, name), "it is not heard of")  # type: ignore[misc]
            assert [one["Id"] for one in ask(host, "GET", "/networks") if one["Name"] == body["Name"]] == [made["Id"]]
    numbers = [one.options for one in three.registry().networks.values()]
    assert len(set(numbers)) == 5


def _standing(host: Host, name: str) -> Tenant:
    """A sandbox that there is."""
    place = host.sandbox(name)
    return Tenant(host, place, place.address())


# The store.


def test_without_the_store_what_stands_goes_on(three: Cluster) -> None:
    """Who wants to come is told soon what is away; who leaves is forgotten when it is back; all else is as before."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    one, two, _ = tenants = multi.one_each()
    leaver = multi.tenant(three.hosts[2], "leaver")
    multi.settled([*tenants, leaver])
    flow = Flow(one.place, two.place, two.address)
    try:
        with three.storeless():
            for host in three.hosts:
                began = time.monotonic()
                status, answer = attach(host, "late", "multi")
                assert (status, time.monotonic() - began < SOON) == (503, True), answer
                assert "the shared store" in answer["message"] or "the cluster store is away" in answer["message"]
                status, answer = attempt(host, "POST", "/networks/create", {"Name": "more", "Driver": "overlay"})
                assert status == 503, answer
                assert "late" not in [row["Name"] for row in ask(host, "GET", "/sandboxes")]
                assert attach(host, "local", "bridge")[0] == 201
            leaver.leave()
            multi.all_reach(tenants)
        three.open()
        assert flow.lost() == 0
    finally:
        flow.close()
    multi.settled(tenants)
    multi.settled([*tenants, *multi.one_each("late")])


def test_a_store_that_says_nothing_is_away(three: Cluster) -> None:
    """It keeps its connections, as a machine does that hangs; nobody waits for it for long."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants = multi.one_each()
    multi.settled(tenants)
    three.store.pause()
    try:
        status, answer = attach(three.hosts[0], "late", "multi")
        assert status == 503, answer
        until(lambda: not any(map(three.nodes, three.hosts)), "it is not noticed")
        multi.all_reach(tenants)
    finally:
        three.store.resume()
    three.open()
    multi.settled(tenants)
    multi.settled([*tenants, *multi.one_each("late")])


def test_a_daemon_that_starts_without_the_store_plans_nothing(three: Cluster) -> None:
    """It knows from before who is where, and takes nothing away."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants = multi.one_each()
    multi.settled(tenants)
    with three.storeless():
        for host, how in zip(three.hosts, (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), strict=True):
            host.restart(how)
            assert host.planned_nothing, host.log
            assert multi.knows(host, tenants)
            assert attach(host, "late", "multi")[0] == 503
        multi.all_reach(tenants)
    three.open()
    multi.settled(tenants)


def test_a_store_that_lost_its_data_is_filled_again(three: Cluster) -> None:
    """All hosts tell it what they have; nobody takes anything away for what it does not know."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    three.network("empty", "--subnet 10.0.10.0/24")
    tenants = multi.one_each()
    multi.settled(tenants)
    before = {
        key: three.registry().items[key] for key in three.registry().items if not key.startswith(("nodes/", "cluster"))
    }
    flow = Flow(tenants[0].place, tenants[1].place, tenants[1].address)
    try:
        with three.storeless(wiped=True):
            pass
        three.together()
        until(lambda: before.items() <= three.registry().items.items(), "what was there is not there again")
        multi.settled(tenants)
        tenants += multi.one_each("late")
        multi.settled(tenants)
        # What hosts spare is spared for so long.
        lasts(lambda: all(multi.knows(host, tenants) for host in three.hosts), 2.0 * TTL + 2, "who stands is forgotten")
        assert flow.lost() == 0
    finally:
        flow.close()
    multi.settled(tenants)
    assert all(has(host, "empty") for host in three.hosts)


# Daemons that die.


def test_a_daemon_that_dies_in_the_midst_of_attaches_leaks_nothing(three: Cluster) -> None:
    """The store has what stands, and nothing else, when it is back; so have the other hosts."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants, victim = multi.one_each(), three.hosts[2]
    random = Random(23)
    for round_ in range(4):
        _die_in_the_middle(victim, random.uniform(0.0, 0.2), round_)
        three.start(victim)
        three.together()
        names = [one["Name"] for one in ask(victim, "GET", "/sandboxes")]
        standing = [_standing(victim, name) for name in names]
        multi.settled([*tenants[:2], *standing])
        assert set(victim.run("ls /run/netns").split()) - {multi.space} == set(names)
        assert len(json.loads(multi.inside(victim, "ip -j link show type veth"))) == len(names)
        for one in standing:
            if one.name != tenants[2].name:
                one.leave()
    victim.restart()
    assert victim.planned_nothing, victim.log
    multi.settled(tenants)


def _die_in_the_middle(host: Host, after: float, round_: int) -> None:
    """Have the daemon attach and detach as fast as it can, and kill it a moment later."""
    busy = threading.Event()

    def work() -> None:
        with suppress(OSError, ValueError, HTTPException):
            for number in range(1000):
                attach(host, f"r{round_}-{number}", "multi")
                busy.set()
                if number % 2:
                    attempt(host, "DELETE", f"/sandboxes/r{round_}-{number}")

    worker = threading.Thread(target=work)
    worker.start()
    assert busy.wait(10)
    threading.Event().wait(after)  # the moment of the death is what is tried out
    host.kill()
    worker.join()


# Hosts that are gone.


def test_a_host_that_is_cut_off_for_a_moment_loses_nothing(three: Cluster) -> None:
    """And while it is cut off from the store, who wants to come there is told so; elsewhere they come."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants, lonely = multi.one_each(), three.hosts[2]
    beside = multi.tenant(lonely, "beside")
    multi.settled([*tenants, beside])
    with three.unplugged(lonely):
        for number in range(3):
            tenants.append(multi.tenant(three.hosts[number % 2], f"n{number}"))
            status, answer = attach(lonely, f"l{number}", "multi")
            assert status == 503, answer
            assert "store" in answer["message"]
        assert pings(tenants[2].place, beside.address)
        assert shut(tenants[0].place, beside.address, "icmp")
    three.together()
    tenants += [beside, multi.tenant(lonely, "late")]
    multi.settled(tenants)


def test_who_is_gone_for_long_is_forgotten_and_who_comes_back_claims_his_own(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One host dies, one is cut off, one hangs; when their time is over, what they had is free, and only then."""
    with cluster(kind, tmp_path_factory.mktemp("five"), 5) as five:
        stays, other, dead, lonely, frozen = five.hosts
        multi = five.network("multi", "--subnet 10.0.9.0/24")
        tenants = multi.one_each()
        rivals = multi.tenant(lonely, "rival"), multi.tenant(frozen, "stays")
        multi.settled([*tenants, *rivals])
        assert frozen.daemon
        five.cut(dead)
        dead.kill()
        five.cut(lonely)
        frozen.daemon.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            until(lambda: five.nodes(stays) == ["h1", "h2"], "they are not missed", 2.0 * TTL + 5)
            down = [
                row
                for row in stays.isthmus("node ls --format '{{.Hostname}} {{.Status}}'").splitlines()
                if "down" in row
            ]
            assert len(down) == 3
            assert len(five.taken()) == 7
            for host in (stays, other):
                until(lambda host=host: multi.knows(host, tenants[:2]), f"{host.name} does not forget them", GONE)  # type: ignore[misc]
            assert sorted(five.taken().values()) == ["s1", "s2"]
            assert time.monotonic() - began > TTL
            assert pings(tenants[0].place, tenants[1].address)
            # Where he hangs, what stands goes on; his addresses are free all the same.
            usurper = multi.tenant(stays, "usurper", f"--ip {rivals[0].address}")
        finally:
            frozen.daemon.send_signal(signal.SIGCONT)
        five.plug(lonely)
        five.together(dead)
        message = f"{rivals[0].address} was given to usurper on node"
        until(lambda: message in lonely.log, "it does not tell who lost his address")
        rivals[0].leave()
        back = [tenants[0], tenants[1], tenants[3], tenants[4], rivals[1], usurper]
        multi.settled(back, dead)
        multi.settled([*back, *(multi.tenant(host, f"n{host.name}") for host in five.hosts if host is not dead)], dead)


# Networks that go.


def test_a_network_goes_when_nobody_stands_on_it_anywhere(three: Cluster) -> None:
    """Whoever asks is told who stands there; without them it goes, from all hosts."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenant = multi.tenant(three.hosts[2], "web")
    for host in three.hosts:
        told = host.refused("network rm multi")
        assert "has active endpoints" in told
        assert '"web"' in told
    multi.settled([tenant])
    tenant.leave()
    three.hosts[1].isthmus("network rm multi")
    for host in three.hosts:
        until(lambda host=host: not has(host, "multi") and not spaces(host), f"it is still on {host.name}")  # type: ignore[misc]
    again = three.network("multi", "--subnet 10.0.9.0/24")
    again.settled(again.one_each())


def test_a_network_that_goes_as_somebody_comes_is_gone_or_is_not(three: Cluster) -> None:
    """Either he is refused, or who wants it gone is; there is nothing in between."""
    for number in range(8):
        name = f"net{number}"
        multi = three.network(name, "--subnet 10.0.9.0/24")
        remover, host = three.hosts[0], three.hosts[1 + number % 2]
        (removed, _), (came, answer) = at_once(
            [partial(attempt, remover, "DELETE", f"/networks/{name}"), partial(attach, host, "web", name)]
        )
        assert (removed == 204) is not (came == 201), (removed, came, answer)
        if came == 201:
            multi.settled([_standing(host, "web"), multi.tenant(remover, "other")])
            for one in (remover, host):
                one.isthmus(f"sandbox rm {'other' if one is remover else 'web'}")
            until(lambda: not three.taken(), "who left is still in the store")
            remover.isthmus(f"network rm {name}")
        for one in three.hosts:
            until(lambda one=one, name=name: not has(one, name) and not spaces(one), f"it is still on {one.name}")  # type: ignore[misc]


# Networks that are changed.


def test_a_network_is_changed_on_all_hosts_with_all_who_stand_there(three: Cluster) -> None:
    """From whichever host; who is away hears of it when he is back."""
    one, two, last = three.hosts
    multi = three.network("multi", "--subnet 10.0.9.0/24 --label made=here")
    tenants = multi.one_each()
    job = tenants[1]
    with closing(Echo(three.store.machine, 80)):
        assert reaches(job.place, STORE)
        one.isthmus(
            "network update multi --label made=there --mtu 1300 --egress deny --record www.example.org=10.0.9.77"
        )
        until(lambda: shut(job.place, STORE), "the policy is not kept on another host")
        # Whoever comes has all of it.
        until(lambda: last.inspect("multi")["Labels"] == {"made": "there"}, "it is not heard of")
        assert found(job.place, "www.example.org") == ["10.0.9.77"]
        assert "mtu 1300" in job.place.run("ip link show dev eth0")
        assert pings(job.place, tenants[0].address, size=1272)
        with three.unplugged(last):
            until(lambda: not three.nodes(last), f"{last.name} still has a store", AGAIN)
            assert "the cluster store is away" in last.refused("network update multi --egress 'deny :443'")
            two.isthmus(f"network update multi --egress 'deny, allow {STORE}' --mtu 1400")
            assert reaches(job.place, STORE)
        three.together()
        until(
            lambda: last.inspect("multi")["Options"]["isthmus.egress"] == f"deny, allow {STORE}", "it is not heard of"
        )
        until(lambda: reaches(tenants[2].place, STORE), "the policy of before is kept")
        two.isthmus("network update multi --opt-rm isthmus.egress --aux-address nas=10.0.9.5 --ip-range 10.0.9.4/30")
        until(lambda: last.inspect("multi")["IPAM"]["Config"][0].get("IPRange") == "10.0.9.4/30", "it is not heard of")
        more = [multi.tenant(last, f"more{number}") for number in range(2)]
        assert sorted(one.address for one in more) == ["10.0.9.6", "10.0.9.7"]
        assert "vxlanid_list" in two.refused(
            "network update multi --opt com.docker.network.driver.overlay.vxlanid_list=9"
        )
    multi.settled([*tenants, *more])
    for host in three.hosts:
        host.restart()
        assert host.planned_nothing, host.log


def test_of_those_who_change_a_network_at_once_none_is_passed_over(three: Cluster) -> None:
    """Each is told that it was done, or that somebody else was first."""
    three.network("multi", "--subnet 10.0.9.0/24")
    wanted = set()
    for turn in range(5):
        labels = [f"{host.name}-{turn}" for host in three.hosts]
        answers = at_once(
            partial(attempt, host, "POST", "/networks/multi/update", {"Labels": {label: ""}})
            for host, label in zip(three.hosts, labels, strict=True)
        )
        done = {label for label, (status, _) in zip(labels, answers, strict=True) if status == 204}
        assert done, answers
        assert all("was changed just now" in told["message"] for status, told in answers if status != 204), answers
        wanted |= done
    for host in three.hosts:
        until(lambda host=host: {*host.inspect("multi")["Labels"]} == wanted, "it is not heard of")  # type: ignore[misc]


def test_networks_that_nobody_is_on_anywhere_are_pruned(three: Cluster) -> None:
    """From all hosts; who is elsewhere counts."""
    busy = three.network("busy", "--subnet 10.0.9.0/24")
    three.network("idle", "--subnet 10.0.10.0/24")
    tenant = busy.tenant(three.hosts[2], "web")
    busy.settled([tenant])
    assert three.hosts[0].isthmus("network prune --force").split()[-1] == "idle"
    for host in three.hosts:
        until(lambda host=host: not has(host, "idle"), f"it is still on {host.name}")  # type: ignore[misc]
        assert has(host, "busy")


# What changes below.


def test_the_others_follow_a_host_to_its_new_address(three: Cluster) -> None:
    """A host may get another address of its DHCP server; what stands there is reached by that."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants, host = multi.one_each(), three.hosts[2]
    multi.settled(tenants)
    host.batch("address del 192.0.2.3/24 dev eth0", "address add 192.0.2.203/24 dev eth0")
    multi.settled(tenants)
    told = three.hosts[0].isthmus("node ls --format '{{.Hostname}} {{.Address}}'")
    assert "h3 192.0.2.203" in told.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "ip link set {tunnel} down",
        "ip link set {tunnel} nomaster",
        "ip link del {tunnel}",
        "ip link set br0 down",
        "ip link del br0",
        "ip address flush dev br0",
        "ip link del {port}",
    ],
)
def test_what_a_host_loses_of_a_network_is_put_back(three: Cluster, command: str) -> None:
    """Without being asked: devices and addresses in the network's namespace, with all that was told to them."""
    multi = three.network("multi", "--ipv6 --subnet 10.0.9.0/24 --subnet fd09::/64")
    tenants, host = multi.one_each(), three.hosts[0]
    multi.settled(tenants)
    (port,) = json.loads(multi.inside(host, "ip -j link show type veth"))
    before = len(host.log)
    multi.inside(host, command.format(tunnel=multi.tunnel, port=port["ifname"]))
    until(lambda: "put back what others had taken" in host.log[before:], f"{PUT_BACK} after {command}")
    multi.settled(tenants)
    assert pings(tenants[0].place, tenants[1].place.address(version=6))
    host.isthmus("network check multi")


def test_a_networks_namespace_that_is_taken_away_is_made_again(three: Cluster) -> None:
    """With all that was in it: those who stand here, and what is known of those elsewhere, in both families."""
    multi = three.network("multi", "--ipv6 --subnet 10.0.9.0/24 --subnet fd09::/64")
    tenants, host = multi.one_each(), three.hosts[0]
    multi.settled(tenants)
    before = len(host.log)
    host.run(f"ip netns delete {multi.space}")
    until(lambda: "put back what others had taken" in host.log[before:], PUT_BACK)
    multi.settled(tenants)
    assert pings(tenants[0].place, tenants[1].place.address(version=6))
    host.isthmus("network check multi")


@pytest.mark.parametrize(
    "command",
    [
        "bridge fdb del {mac} dev {tunnel} dst 192.0.2.2",
        "bridge fdb replace {mac} dev {tunnel} dst 192.0.2.9",
        "bridge fdb add 02:00:00:00:00:99 dev {tunnel} dst 192.0.2.9",
        "bridge fdb del {own} dev {port} master",
        "ip neigh del {address} dev {tunnel}",
        "ip neigh replace {address} lladdr 02:00:00:00:00:99 dev {tunnel}",
        "ip neigh flush dev {tunnel} nud permanent",
    ],
)
def test_what_others_tell_a_tunnel_or_a_port_is_put_right(three: Cluster, command: str) -> None:
    """Without being asked, and once; what a host learns and forgets itself has it look for nothing."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants, host = multi.one_each(), three.hosts[0]
    multi.settled(tenants)
    (port,) = json.loads(multi.inside(host, "ip -j link show type veth"))
    (own,), (link,) = (one.place.ip("link show dev eth0") for one in tenants[:2])
    names = {"tunnel": multi.tunnel, "port": port["ifname"], "address": tenants[1].address}
    before = len(host.log)
    multi.inside(host, command.format(mac=link["address"], own=own["address"], **names))
    until(lambda: "put back what others had taken" in host.log[before:], f"{PUT_BACK} after {command}")
    multi.settled(tenants)
    assert "mended: " not in host.isthmus("network check multi")
    tenants.append(multi.tenant(three.hosts[1], "more"))
    multi.settled(tenants)
    tenants.pop().leave()
    multi.settled(tenants)
    assert host.log[before:].count("put back what others had taken") == 1


def test_check_mends_what_is_not_heard_of(three: Cluster) -> None:
    """An entry with the mark of ours looks as if we had made it."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    tenants, host = multi.one_each(), three.hosts[0]
    multi.settled(tenants)
    (link,) = tenants[1].place.ip("link show dev eth0")
    before = len(host.log)
    multi.inside(host, f"bridge fdb replace {link['address']} dev {multi.tunnel} dst 192.0.2.9 extern_learn")
    told = host.isthmus("network check multi")
    assert "mended: " in told
    assert "fdb replace" in told
    multi.settled(tenants)
    assert "put back what others had taken" not in host.log[before:]


# More than a switch.


def test_who_stands_on_an_overlay_gets_out_and_is_called_by_ports(three: Cluster) -> None:
    """By an interface of its host's own, which is there as long as it is needed; names and ports work as anywhere."""
    multi = three.network("multi", "--subnet 10.0.9.0/24")
    three.network("inner", "--internal --subnet 10.0.10.0/24")
    one, two, last = three.hosts
    shop, inside = multi.tenant(one, "shop", "-p 8080:80"), two.sandbox("inside", "--network inner")
    customer = multi.tenant(last, "customer")
    with closing(Echo(shop.place, 80)):
        # The LAN sees the host, and the shop sees who calls; another sandbox of the network calls it directly.
        assert seen(three.store.machine, one.address(), port=8080) == STORE
        assert seen(customer.place, "10.0.9.2") == customer.address
        assert pings(shop.place, STORE)
        assert not [route for route in inside.routes() if "default" in route]
    one.isthmus("network connect bridge shop")
    assert [route for route in shop.place.routes() if "default" in route] == ["default via 172.17.0.1 dev eth2"]
    one.isthmus("network disconnect bridge shop")
    assert pings(shop.place, STORE)


def test_a_policy_says_who_may_be_called_from_an_overlay(three: Cluster) -> None:
    """That of the network is kept on every host for those who stand there; those of endpoints come behind it."""
    one, two, _ = three.hosts
    allowed = f"deny, allow {STORE}:443, allow *.example.org:8443"
    record = f"--record www.example.org={STORE} --record www.example.com={STORE}"
    multi = three.network("multi", f"--subnet 10.0.9.0/24 --egress '{allowed}' {record}")
    job, more = multi.tenant(two, "job"), multi.tenant(two, "more", "--egress 'deny :443, allow :80'")
    far = multi.tenant(one, "far")
    ports = (80, 443, 8443)

    def open_to(tenant: Tenant, patience: float = 0.4) -> list[int]:
        return [port for port in ports if seen(tenant.place, STORE, patience=patience, port=port)]

    with ExitStack() as held:
        for place in (three.store.machine, job.place, far.place):
            for port in ports:
                held.enter_context(closing(Echo(place, port)))
        assert [open_to(tenant) for tenant in (job, more, far)] == [[443], [80], [443]]
        assert shut(job.place, two.address())
        assert shut(job.place, STORE, "icmp")
        # Neighbours are no calls, and who stands elsewhere is one.
        multi.settled([job, more, far])
        assert seen(far.place, job.address) == far.address
        assert seen(job.place, far.address) == job.address
        assert found(job.place, "www.example.com") == [STORE]
        assert open_to(job) == [443]
        assert found(job.place, "www.example.org") == [STORE]
        assert open_to(job) == [443, 8443]
        assert open_to(far) == [443]
        dropped = f"job.docker_gwbridge: tcp to {STORE}, port 80 was dropped by its egress policy"
        until(lambda: dropped in two.log, "nothing is told of what is dropped")
        two.kill()
        assert open_to(job) == [443, 8443]
        two.start()
        assert two.planned_nothing, two.log
        assert [open_to(tenant) for tenant in (job, more)] == [[443, 8443], [80]]
        two.isthmus(f"network egress multi job 'allow {STORE}:80'")
        assert open_to(job) == [80, 443]
        two.isthmus("network egress multi job off")
        assert open_to(job) == [443]
        # An address that is not its own leads it nowhere.
        job.place.batch("address add 172.31.255.77/16 dev eth1")
        assert job.place.attempt(f"ping -c 1 -W 1 -I 172.31.255.77 {STORE}").returncode
        two.run("nft flush ruleset")
        until(lambda: "egress-own" in two.rules(), "the rules stay away")
        assert [open_to(tenant) for tenant in (job, more)] == [[443], [80]]


def test_each_overlay_has_to_let_a_call_through_and_a_bridge_decides_alone(three: Cluster) -> None:
    """Who made one of the networks knew nothing of the others; one without a way out has nothing to say."""
    host = three.hosts[0]
    multi = three.network("multi", f"--subnet 10.0.9.0/24 --egress 'deny, allow {STORE}'")
    three.network("other", "--subnet 10.0.10.0/24 --egress 'deny, allow :443'")
    three.network("inner", "--internal --subnet 10.0.11.0/24 --egress deny")
    job = multi.tenant(host, "job")
    with closing(Echo(three.store.machine, 80)), closing(Echo(three.store.machine, 443)):
        host.isthmus("network connect inner job")
        assert reaches(job.place, STORE)
        host.isthmus("network connect other job")
        assert shut(job.place, STORE)
        assert seen(job.place, STORE, port=443)
        host.isthmus("network connect bridge job")
        assert reaches(job.place, STORE)
        host.isthmus("network disconnect bridge job")
        assert shut(job.place, STORE)
        host.isthmus("network disconnect other job")
        assert reaches(job.place, STORE)
        host.restart()
        assert host.planned_nothing, host.log
    job.leave()
    assert "172.18.0.2" not in host.run("nft list table inet isthmus")


def test_hosts_with_blocks_attach_without_the_store(three: Cluster) -> None:
    """And nobody else gives out what is theirs."""
    leased = three.network("leased", "--subnet 10.0.9.0/26 -o isthmus.lease=/29")
    tenants = leased.one_each()
    blocks = {ip_network(f"{one.address}/29", strict=False) for one in tenants}
    assert len(blocks) == 3
    with three.storeless():
        tenants.append(leased.tenant(three.hosts[0], "more"))
    three.together()
    leased.settled(tenants)
    last = ip_network(f"{tenants[1].address}/29", strict=False)[-1]
    refusal = three.hosts[0].refused(f"sandbox create other --network leased --ip {last}")
    assert "Address already in use" in refusal


def test_a_lazy_network_tells_a_host_of_whom_somebody_looks_for(three: Cluster) -> None:
    """The first packet waits for it, and no longer than a moment."""
    lazy = three.network("lazy", "--subnet 10.0.9.0/24 -o isthmus.lazy=true")
    one, two, other = lazy.one_each()
    assert lazy.told(one.host) == ({}, {})
    assert pings(one.place, two.address)
    assert set(lazy.told(one.host)[1]) == {two.address}
    assert lazy.told(other.host) == ({}, {})
    one.host.restart()
    assert one.host.planned_nothing, one.host.log
    assert pings(one.place, other.address)
    assert set(lazy.told(one.host)[1]) == {two.address, other.address}
