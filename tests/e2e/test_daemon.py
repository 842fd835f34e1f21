"""The daemon's life, and what its configuration does: starts, deaths, refusals, the network `bridge`, forwarding."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from isthmus import firewall
from tests.e2e.hosts import (
    HOST_ADDRESS,
    OUTSIDE,
    OUTSIDE6,
    Flow,
    Host,
    Machine,
    World,
    elements,
    pings,
    seen,
    shut,
    until,
    wire,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

Make = Callable[[dict[str, object]], Host]


# Restart and death.


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemons_end_and_its_return_cost_no_packet(world: World, how: signal.Signals) -> None:
    """A daemon's death is nobody's outage, neither on a bridge nor through NAT, nor is its return."""
    host, outside = world.internet()
    host.start()
    host.network("front", "--subnet 10.5.0.0/24")
    web, db = host.sandbox("web", "--network front"), host.sandbox("db", "--network front")
    flows = [world.hold(Flow(web, db, "10.5.0.3")), world.hold(Flow(web, outside, OUTSIDE))]
    for flow in flows:
        flow.arrives()
    host.stop(how)
    for flow in flows:
        flow.more()
    host.start()
    for flow in flows:
        flow.more()
        assert flow.lost() == 0
    assert host.planned_nothing, host.log


def test_a_restart_with_everything_there_is_does_nothing(world: World) -> None:
    """What is adopted is not touched: every kind of thing is recognised as what it should be."""
    host, _ = world.internet()
    world.lan(host)
    host.sysctl("net.ipv6.conf.eth1.disable_ipv6", "1")
    config = {"bip": "192.168.0.11/24", "ipv6": True, "bridge-accept-fwmark": "7"}
    host.start(config=config)
    host.batch("link add br0 type bridge", "link set br0 up")
    host.network("front", "--subnet 10.5.0.0/24 -o com.docker.network.host_ipv4=203.0.113.2 --aux-address a=10.5.0.2")
    host.network("back", "--ipv6 --internal -o com.docker.network.bridge.enable_icc=false")
    host.network("small", "-o com.docker.network.driver.mtu=1300 -o com.docker.network.bridge.gateway_mode_ipv4=routed")
    host.network(
        "trusting",
        "-o com.docker.network.bridge.trusted_host_interfaces=eth0:eth9 -o com.docker.network.bridge.name=tr0",
    )
    host.network("lan", "-o isthmus.uplink=eth1 --subnet 192.168.1.0/24 --gateway 192.168.1.1")
    host.network("six", "--ipv4=false --ipv6")
    for network in ("bridge", "front", "back", "small", "trusting", "lan", "six"):
        host.sandbox(f"in-{network}", f"--network {network}")
    host.isthmus("network connect back in-front")
    host.isthmus("network connect --gw-priority 7 small in-front")
    host.sandbox("bare", "--network none --sysctl net.ipv4.ip_unprivileged_port_start=0")
    host.isthmus(
        "link add bare --type veth --ip 10.9.0.2/24 --route default,10.9.0.1 --peer wire0 --peer-ip 10.9.0.1/24"
    )
    host.isthmus("link add bare --type veth --ip fd00:9::2/64 --master br0")
    host.isthmus("sandbox create side --network container:bare")
    host.isthmus("sandbox create here --network host")
    for how in (signal.SIGTERM, signal.SIGKILL):
        host.restart(how)
        assert host.planned_nothing, host.log


def test_a_new_start_makes_everything_again_after_a_reboot(world: World, tmp_path: Path) -> None:
    """After a reboot nothing is there but the records: same addresses, same MACs, and it works."""
    old = world.host("old").start()
    old.network("front", "--subnet 10.5.0.0/24 --ipv6 --subnet fd00:5::/64")
    web = old.sandbox("web", "--network front")
    old.sandbox("db", "--network front")
    mac = web.ip("link show eth0")[0]["address"]
    old.stop()
    new = world.host("new")
    (old.data).rename(new.data)
    new.start()
    web = new.sandbox("web")
    assert web.ip("link show eth0")[0]["address"] == mac
    assert web.address() == "10.5.0.2"
    assert pings(web, "10.5.0.3")
    assert pings(web, "fd00:5::3")
    assert tmp_path in old.directory.parents


def test_what_changed_while_the_daemon_was_away_is_mended_at_its_start(world: World) -> None:
    """The order of starts does not matter: another tool's flush before ours is repaired by ours."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    web = host.sandbox("web", "")
    host.stop()
    host.run("nft flush ruleset")
    host.batch("link del isthmus0")
    host.start()
    assert seen(web, OUTSIDE) == HOST_ADDRESS


def test_networks_that_were_removed_half_are_removed_whole_at_the_next_start(world: World) -> None:
    """What was begun before a death is ended after it, whatever was in the way."""
    host, _ = world.internet()
    host.start()
    host.network("front", "--subnet 10.5.0.0/24")
    host.isthmus("sandbox create web --network front")
    random = Random(1)
    for round_ in range(4):
        _die_in_the_middle(host, random.uniform(0.002, 0.05), round_)
        host.start()
        client = host.api()
        sandboxes = {one["Name"]: set(one["Networks"]) for one in client.ask("GET", "/sandboxes")}
        networks = {one["Name"] for one in client.ask("GET", "/networks")}
        assert "front" in networks
        for name, joined in sandboxes.items():
            place = host.sandbox(name)
            assert len(place.interfaces()) == len(joined), f"{name} is on {joined} but has {place.interfaces()}"
        host.settled()
        ports = sum(len(joined) for joined in sandboxes.values())
        assert len(host.marked()) == ports + len(networks - {"host", "none"})
        assert set(host.run("ls /run/netns").split()) == set(sandboxes)
        host.restart()
        assert host.planned_nothing, host.log


def _die_in_the_middle(host: Host, after: float, round_: int) -> None:
    """Have the daemon make and remove things as fast as it can, and kill it a moment later."""
    client = host.api()
    busy = threading.Event()

    def work() -> None:
        with suppress(OSError, ValueError, EOFError, AssertionError):
            for number in range(1000):
                name = f"n{round_}-{number}"
                client.ask("POST", "/networks/create", {"Name": name})
                client.ask("POST", f"/sandboxes/create?name={name}", {"HostConfig": {"NetworkMode": name}})
                busy.set()
                client.ask("POST", "/networks/front/connect", {"Container": name})
                client.ask("POST", f"/networks/{name}/disconnect", {"Container": name})
                client.ask("DELETE", f"/sandboxes/{name}")
                client.ask("DELETE", f"/networks/{name}")

    worker = threading.Thread(target=work)
    worker.start()
    assert busy.wait(10)
    threading.Event().wait(after)  # the moment of the death is what is tried out
    host.kill()
    worker.join()


# Starting.


def test_systemd_is_told_when_the_daemon_is_ready_and_when_it_stops(world: World) -> None:
    """Type=notify: what is ordered after us finds the socket answering, and STOPPING explains a slow end."""
    host = world.host().start()  # waits for READY=1
    assert json.loads(host.isthmus("network inspect bridge"))
    host.drain()
    assert host.stop() == 0
    assert until(host.notified, "systemd is not told") == "STOPPING=1"


def test_the_socket_is_for_root_alone_and_goes_with_the_daemon(world: World) -> None:
    """Whoever reaches the API is root; and a client of a daemon that is gone must not wait for it."""
    host = world.host().start()
    path = host.root / "run/isthmus/isthmus.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)
    assert (host.root / "run/isthmus/isthmus.pid").exists()
    host.stop()
    complaint = host.refused("network ls")
    assert len(complaint.splitlines()) == 1
    assert "isthmus.sock" in complaint
    assert not (host.root / "run/isthmus/isthmus.pid").exists()


def test_a_second_daemon_in_one_namespace_is_refused(box: Host) -> None:
    """Two that mend the same kernel would undo each other's work; the first must not even notice."""
    status, complaint = box.fails(f"--data-root {box.directory}/other --exec-root /run/other")
    assert status != 0
    assert "another Isthmus daemon runs in this network namespace" in complaint
    assert len(complaint.splitlines()) == 1
    assert box.isthmus("network ls -q")


def test_a_data_root_is_for_one_daemon(world: World, box: Host) -> None:
    """Two hosts on the same records would give the same addresses twice."""
    other = world.host("other")
    other.configuration.write_text("{}")
    status, complaint = other.fails(f"--data-root {box.data}")
    assert status != 0
    assert str(box.data) in complaint
    assert len(complaint.splitlines()) == 1


def test_a_socket_in_use_is_not_taken_away(world: World, box: Host) -> None:
    """The clients of the first daemon must not end up at the second."""
    path = box.directory / "api.sock"
    box.stop()
    box.start(f"-H unix://{path}")
    other = world.host("other")
    other.configuration.write_text("{}")
    status, complaint = other.fails(f"-H unix://{path}")
    assert status != 0
    assert str(path) in complaint
    assert len(complaint.splitlines()) == 1
    assert box.isthmus(f"-H unix://{path} network ls -q")


def test_a_socket_left_by_a_crash_is_no_obstacle(box: Host) -> None:
    """SIGKILL leaves the socket's file behind."""
    box.kill()
    assert (box.root / "run/isthmus/isthmus.sock").is_socket()
    box.start()
    assert box.isthmus("network ls -q")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{nope", "not valid JSON"),
        ('{"fixed-cdir": "10.0.0.0/8"}', "did you mean fixed-cidr?"),
        ('{"bip": "10.0.0.0"}', "bip"),
        ('{"mtu": "large"}', "mtu"),
        ('{"default-gateway": "10.9.0.1", "bip": "10.5.0.1/24"}', "default-gateway"),
        ('{"bridge": "br9"}', "br9"),
        ('{"bridge": "br9", "bip": "10.5.0.1/24"}', "bip"),
        ('{"default-address-pools": [{"base": "10.0.0.0/24", "size": 16}]}', "default-address-pools"),
        ('{"cluster-store": "consul://c:8500"}', "cluster-store"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(world: World, config: str, complaint: str) -> None:
    """A typo must be found from the message alone, and must not touch the host."""
    host = world.host()
    host.configuration.write_text(config)
    before = host.rules(), host.interfaces()
    status, told = host.fails()
    assert status in {1, 125}
    assert complaint in told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1, told
    assert (host.rules(), host.interfaces()) == before


@pytest.mark.parametrize("flag", ["--data-root", "--exec-root"])
@pytest.mark.parametrize("how", ["a file is in the way", "read-only"])
def test_a_root_that_cannot_be_written_is_told_in_one_line(world: World, flag: str, how: str) -> None:
    """A full, missing or read-only disk is an everyday thing; the message names the directory."""
    host = world.host()
    host.configuration.write_text("{}")
    if how == "read-only":
        host.run("mkdir /run/dir")
        host.run("mount -t tmpfs -o ro tmpfs /run/dir")
    else:
        host.run("touch /run/dir")
    status, told = host.fails(f"{flag} /run/dir/sub")
    assert status in {1, 125}
    assert "/run/dir" in told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1, told


def test_damaged_records_are_told_and_left_alone(world: World) -> None:
    """Traffic flows on under a store that cannot be read; nobody may take it for an empty one."""
    host, outside = world.internet()
    host.start()
    world.serve(outside)
    web = host.sandbox("web", "")
    host.stop()
    store = host.data / "store"
    store.write_bytes(b"This is no database. " * 500)
    status, told = host.fails()
    assert status in {1, 125}
    assert str(store) in told
    assert "Traceback" not in told
    assert len(told.splitlines()) == 1, told
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    assert store.read_bytes().startswith(b"This is no database.")


def test_without_nft_the_daemon_says_what_to_install(world: World) -> None:
    """It is the one program that we need."""
    host = world.host()
    host.configuration.write_text("{}")
    host.run("mount --bind /dev/null /usr/sbin/nft")
    status, told = host.fails()
    assert status != 0
    assert "nft" in told
    assert "Traceback" not in told


def test_the_log_can_be_pasted_into_a_shell(world: World, box: Host) -> None:
    """Every operation is logged as the command that does it: on a bare machine the same commands make the same."""
    options = "--ipv6 -o com.docker.network.bridge.enable_icc=false"
    box.network("front", f"--subnet 10.5.0.0/24 --subnet fd00:5::/64 {options}")
    web = box.sandbox("web", "--network front")
    box.isthmus("network connect bridge web")
    box.isthmus("link add web --type veth --ip 10.9.0.2/24 --peer wire0 --peer-ip 10.9.0.1/24")
    until(lambda: "10.9.0.1/24" in box.log, "not logged")
    bare = world.machine("bare")
    table = box.directory / "isthmus.nft"
    table.write_text(firewall.load(firewall.table()))
    words = ("ip ", "nft ", "sysctl ", "bridge ")
    commands = [line.split(maxsplit=3)[3] for line in box.log.splitlines()]
    for command in commands:
        if command.startswith(words):
            done = bare.attempt(f"sh -c {shlex.quote(command.replace('isthmus.nft', str(table)))}")
            assert done.returncode == 0, f"{command}: {done.stderr}"
    assert bare.interfaces() == box.interfaces() - {"eth0"}
    assert json.loads(bare.run("ip -n web -j -4 route")) == web.ip("-4 route")
    assert _addresses(json.loads(bare.run("ip -n web -j address"))) == _addresses(web.ip("address"))
    assert _rules(bare) == _rules(box)
    bare.run("ip netns exec web ping -c1 -W5 10.5.0.1")


def _addresses(shown: list[dict[str, list[dict[str, object]]]]) -> set[object]:
    return {one["local"] for link in shown for one in link["addr_info"] if one.get("scope") != "link"}


def _rules(machine: Machine) -> list[str]:
    """What is in our table, in any order, without its version."""
    text = machine.run("nft -s list table inet isthmus")
    return sorted(line.strip(" \t{}=,") for line in re.split(r"[\n,]", text) if "version-" not in line)


# The network `bridge`.


def test_bip_gives_the_bridge_that_address(world: World) -> None:
    """{"bip": "192.168.0.11/24"} means that host, in that subnet; it is the gateway, and no sandbox gets it."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"bip": "192.168.0.11/24"})
    assert host.addresses("isthmus0") == ["192.168.0.11/24"]
    web = host.sandbox("web", "")
    assert "default via 192.168.0.11 dev eth0" in web.routes()
    assert web.addresses("eth0") == ["192.168.0.1/24"]
    assert seen(web, OUTSIDE) == HOST_ADDRESS


def test_a_new_bip_moves_the_sandboxes_on_the_bridge(world: World) -> None:
    """As documented: new addresses on `bridge`, all else keeps what it has."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"bip": "192.168.0.11/24"})
    host.network("front", "--subnet 10.5.0.0/24")
    web, db = host.sandbox("web", ""), host.sandbox("db", "--network front")
    host.restart(config={"bip": "192.168.9.1/24"})
    assert host.addresses("isthmus0") == ["192.168.9.1/24"]
    assert web.addresses("eth0") == ["192.168.9.2/24"]
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    assert db.addresses("eth0") == ["10.5.0.2/24"]
    assert pings(db, "10.5.0.1")


def test_fixed_cidr_and_default_gateway_on_a_bridge_with_another_router(world: World) -> None:
    """Addresses come from the part named, and the default route goes to the router named, no sandbox of ours."""
    host, _ = world.internet()
    router = world.machine("router")
    config = {"bip": "192.168.0.11/24", "fixed-cidr": "192.168.0.128/25", "default-gateway": "192.168.0.200"}
    host.start(config=config)
    wire(host, "up0", router, "eth0")
    host.batch("link set up0 master isthmus0")
    router.batch("address add 192.168.0.200/24 dev eth0", "address add 198.51.100.2/32 dev lo")
    world.serve(router)
    web = host.sandbox("web", "")
    assert web.addresses("eth0") == ["192.168.0.128/24"]
    assert "default via 192.168.0.200 dev eth0" in web.routes()
    assert seen(web, "198.51.100.2") == "192.168.0.128"
    taken = [host.sandbox(f"s{number}", "").address() for number in range(3)]
    assert "192.168.0.200" not in taken


def test_mtu_and_icc_of_the_default_network(world: World) -> None:
    """The daemon's keys are the default network's options."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"mtu": 1400, "icc": False})
    one, two = host.sandbox("one", ""), host.sandbox("two", "")
    assert host.ip("link show isthmus0")[0]["mtu"] == one.ip("link show eth0")[0]["mtu"] == 1400
    assert shut(one, two.address(), "icmp")
    assert seen(one, OUTSIDE) == HOST_ADDRESS


def test_ip_masq_false_leaves_addresses_alone(world: World) -> None:
    """Then the network around has to know the way, as ours does."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"ip-masq": False, "bip": "10.7.0.1/24"})
    assert seen(host.sandbox("web", ""), OUTSIDE) == "10.7.0.2"


def test_ipv6_on_the_default_network(world: World) -> None:
    """{"ipv6": true, "bip6": ...} gives the default network a second family."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"ipv6": True, "bip6": "fd00:7::1/64"})
    web = host.sandbox("web", "")
    assert web.addresses("eth0", 6) == ["fd00:7::2/64"]
    assert seen(web, OUTSIDE6) == "2001:db8:113::2"


def test_address_pools_and_network_options_are_those_of_new_networks(world: World) -> None:
    """A site's pools and options hold for every network that names none itself."""
    host = world.host()
    options = {"bridge": {"com.docker.network.driver.mtu": "1350"}}
    host.start(
        config={"default-address-pools": [{"base": "10.200.0.0/16", "size": 24}], "default-network-opts": options}
    )
    host.network("front")
    web = host.sandbox("web", "--network front")
    assert web.addresses("eth0")[0].startswith("10.200.")
    assert web.addresses("eth0")[0].endswith("/24")
    assert web.ip("link show eth0")[0]["mtu"] == 1350
    host.network("own", "-o com.docker.network.driver.mtu=1200")
    assert host.ip(f"link show {host.bridge('own')}")[0]["mtu"] == 1200


def test_a_denied_pool_is_passed_over(world: World) -> None:
    """What the daemon cannot see, such as a VPN that is down, its administrator tells it."""
    host = world.host().start(config={"denied-address-pools": ["172.16.0.0/14"]})
    assert host.addresses("isthmus0") == ["172.20.0.1/16"]


def test_a_sandbox_that_is_made_again_is_at_its_old_place(world: World) -> None:
    """Its neighbours find it where it was, at once, also if the daemon died meanwhile; another name gets another."""
    host = world.host().start()
    host.network("front", "--subnet 10.5.0.0/24")
    peer, web = host.sandbox("peer", "--network front"), host.sandbox("web", "--network front")
    before = web.address(), web.ip("link show eth0")[0]["address"]
    assert pings(peer, web.address())
    host.isthmus("sandbox rm web")
    host.kill()
    host.start()
    other = host.sandbox("other", "--network front")
    again = host.sandbox("web", "--network front")
    assert (again.address(), again.ip("link show eth0")[0]["address"]) == before
    assert other.address() != again.address()
    assert pings(peer, again.address())


def test_a_subnet_of_our_choice_collides_with_no_route_of_the_host(world: World) -> None:
    """A VPN that is up keeps its addresses: routes, on-link subnets, and those made after the daemon's start."""
    host, _ = world.internet()
    host.batch("route add 172.17.0.0/16 via 203.0.113.1", "route add 172.18.5.0/24 via 203.0.113.1")
    host.start()
    assert host.addresses("isthmus0") == ["172.19.0.1/16"]
    host.batch("link add vpn0 type bridge", "link set vpn0 up", "address add 172.20.1.1/24 dev vpn0")
    host.network("front")
    assert host.addresses(host.bridge("front")) == ["172.21.0.1/16"]


def test_bridge_none_makes_no_default_network(world: World) -> None:
    """Who wants none gets none: no device, and a sandbox has to name its network."""
    host = world.host().start(config={"bridge": "none"})
    assert host.interfaces() == set()
    assert "bridge" not in host.isthmus("network ls --format {{.Name}}").split()
    assert host.refused("sandbox create web")
    host.network("front")
    assert pings(host.sandbox("web", "--network front"), host.address(host.bridge("front")))


def test_a_bridge_of_the_users_own_is_the_default_network(world: World) -> None:
    """{"bridge": "br0"}: its address is the gateway, nothing on it changes, and it stays."""
    host, outside = world.internet()
    world.serve(outside)
    host.batch("link add br0 mtu 1450 type bridge", "link set br0 up", "address add 192.168.7.1/24 dev br0")
    host.start(config={"bridge": "br0"})
    assert host.interfaces() == {"eth0", "br0"}
    web = host.sandbox("web", "")
    assert web.addresses("eth0") == ["192.168.7.2/24"]
    assert seen(web, OUTSIDE) == HOST_ADDRESS
    host.isthmus("sandbox rm web")
    assert host.addresses("br0") == ["192.168.7.1/24"]
    assert not host.ip("link show br0")[0].get("ifalias")


# Forwarding.


def crossing(world: World, *, forwarding: str = "0", **config: object) -> tuple[Host, Machine, Machine]:
    """A host between two strangers, who know each other's way through it, with a running daemon."""
    host, outside = world.internet()
    stranger = world.machine("stranger")
    wire(host, "eth2", stranger, "eth0")
    host.batch("address add 192.0.2.1/24 dev eth2", "address add 2001:db8:2::1/64 dev eth2 nodad")
    stranger.batch(
        "address add 192.0.2.2/24 dev eth0",
        "address add 2001:db8:2::2/64 dev eth0 nodad",
        "route add default via 192.0.2.1",
        "route add ::/0 via 2001:db8:2::1",
    )
    outside.batch(f"route add 192.0.2.0/24 via {HOST_ADDRESS}", "route add 2001:db8:2::/64 via 2001:db8:113::2")
    host.sysctl("net.ipv4.ip_forward", forwarding)
    host.sysctl("net.ipv6.conf.all.forwarding", forwarding)
    host.start(config={key.replace("_", "-"): value for key, value in config.items()})
    host.network("front", "--ipv6")
    return host, outside, stranger


@pytest.mark.parametrize("there", [OUTSIDE, OUTSIDE6], ids=["ipv4", "ipv6"])
def test_a_host_does_not_become_a_router_for_strangers(world: World, there: str) -> None:
    """Forwarding was switched on for sandboxes, by us; strangers must not cross, sandboxes must reach both."""
    host, _, stranger = crossing(world)
    assert host.sysctl("net.ipv4.ip_forward") == host.sysctl("net.ipv6.conf.all.forwarding") == "1"
    assert shut(stranger, there, "icmp")
    web = host.sandbox("web", "--network front")
    assert pings(web, there)
    assert pings(web, "192.0.2.2")


def test_strangers_stay_apart_after_a_restart(world: World) -> None:
    """At the second start forwarding is on already; that it was us must not be forgotten."""
    host, _, stranger = crossing(world)
    host.restart()
    assert shut(stranger, OUTSIDE, "icmp")
    host.stop()
    host.run("nft delete table inet isthmus")
    host.start()
    assert shut(stranger, OUTSIDE, "icmp")


def test_ip_forward_no_drop_lets_strangers_cross(world: World) -> None:
    """{"ip-forward-no-drop": true} is for hosts that are routers."""
    _, _, stranger = crossing(world, ip_forward_no_drop=True)
    assert pings(stranger, OUTSIDE)
    assert pings(stranger, OUTSIDE6)


def test_a_host_that_was_a_router_stays_one(world: World) -> None:
    """Who had forwarding on before us has his reasons."""
    _, _, stranger = crossing(world, forwarding="1")
    assert pings(stranger, OUTSIDE)
    assert pings(stranger, OUTSIDE6)


def test_ip_forward_false_leaves_forwarding_alone(world: World) -> None:
    """Then it is the user who switches it on; sandboxes reach the host until he does."""
    host, _, _ = crossing(world, ip_forward=False)
    assert host.sysctl("net.ipv4.ip_forward") == host.sysctl("net.ipv6.conf.all.forwarding") == "0"
    web = host.sandbox("web", "--network front")
    assert pings(web, HOST_ADDRESS)
    assert shut(web, OUTSIDE, "icmp")
    host.sysctl("net.ipv4.ip_forward", "1")
    assert pings(web, OUTSIDE)


def test_iptables_false_makes_no_rules_for_that_family(world: World) -> None:
    """The firewall is the user's then: nothing is masqueraded, nothing kept out; IPv6 goes on as ever."""
    host, outside = world.internet()
    world.serve(outside)
    host.start(config={"iptables": False})
    host.network("front", "--subnet 10.5.0.0/24 --ipv6 --subnet fd00:5::/64")
    web = host.sandbox("web", "--network front")
    world.serve(web)
    assert seen(web, OUTSIDE) == "10.5.0.2"
    assert seen(outside, "10.5.0.2") == OUTSIDE
    assert shut(outside, "fd00:5::2")
    assert elements(host, "enter4") == elements(host, "masquerade4") == []


def test_many_clients_at_once_get_all_that_they_asked_for(box: Host) -> None:
    """Requests queue at one writer; nobody is refused, nobody gets another's address."""
    box.network("front", "--subnet 10.5.0.0/24")
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            box.api().ask("POST", f"/sandboxes/create?name=s{number}", {"HostConfig": {"NetworkMode": "front"}})
        except BaseException as problem:  # noqa: BLE001 - it is the test's
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    members = box.inspect("front")["Containers"].values()
    assert len({member["IPv4Address"] for member in members}) == 40
    assert pings(box.sandbox("s39"), box.sandbox("s0").address())


def test_daemons_on_one_machine_do_not_see_each_other(world: World) -> None:
    """Each in its own namespaces, with the same names and addresses."""
    places = []
    for name in ("one", "two"):
        host = world.host(name).start()
        host.network("front", "--subnet 10.5.0.0/24")
        places.append((host, host.sandbox("web", "--network front")))
    (first, web), (second, _) = places
    second.isthmus("sandbox rm web")
    second.isthmus("network rm front")
    second.stop()
    assert pings(web, "10.5.0.1")
    assert first.isthmus("sandbox ls --format {{.Name}}") == "web"


def test_notify_works_with_an_abstract_address(world: World) -> None:
    """What systemd gives may be an abstract socket, written with an @."""
    host = world.host()
    host.configuration.write_text("{}")
    with host.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0isthmus-test")
        listener.settimeout(30)
        process = subprocess.Popen(
            host.daemon_command(), env=os.environ | {"NOTIFY_SOCKET": "@isthmus-test"}, stderr=subprocess.DEVNULL
        )
        try:
            assert listener.recv(100) == b"READY=1"
        finally:
            process.terminate()
            assert process.wait(30) == 0
