"""macvlan on real wires: sandboxes that stand on the LAN with MACs of their own, and a host that reaches them."""

import json
import os

import pytest

from tests.e2e.hosts import World, pings, reaches, shut, until
from tests.e2e.lans import GATEWAY, GATEWAY6, ONE, OWN, PEER, RANGE, Lan, both_ways, known_as, mac

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]


@pytest.fixture
def lan(world: World) -> Lan:
    """A LAN with a host on it, whose daemon runs."""
    made = Lan.of(world)
    made.host.start()
    return made


def test_a_range_of_one_address_serves_one_sandbox(lan: Lan) -> None:
    """A user gives a network one address of the LAN: the second sandbox must be told, not given somebody else's."""
    lan.host.network("xx", ONE)
    web = lan.host.sandbox("web", "--network xx")
    assert web.addresses("eth0") == ["10.0.36.115/24"]
    assert web.routes() == [f"default via {GATEWAY} dev eth0", "10.0.36.0/24 dev eth0"]
    assert "no available IPv4 addresses on this network's address pools: xx" in lan.host.refused(
        "sandbox create --network xx second"
    )
    assert both_ways(web, "10.0.36.115", lan.router, GATEWAY)
    assert known_as(lan.router, "10.0.36.115", "lan0") == mac(web) != mac(lan.host, "ens34")


def test_the_host_reaches_its_sandboxes_by_the_address_that_is_named_host(lan: Lan) -> None:
    """What everybody copies as a recipe is an option here: the host and its macvlan sandboxes reach each other."""
    lan.host.network("mynet", RANGE)
    web = lan.host.sandbox("web", "--network mynet")
    shim = f"mv-{lan.host.inspect('mynet')['Id'][:12]}"
    assert lan.host.addresses(shim) == ["10.0.36.223/32"]
    assert f"10.0.36.192/27 dev {shim}" in lan.host.routes()
    assert web.address() == "10.0.36.192"
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")
    assert reaches(web, OWN, "icmp")
    assert both_ways(web, "10.0.36.192", lan.peer, PEER)
    assert both_ways(lan.host, OWN, lan.peer, PEER)


def test_both_commands_work_with_the_stock_docker_client(lan: Lan) -> None:
    """Users have scripts: what they wrote for Docker must work as it stands."""
    docker = f"docker -H unix://{lan.host.root}/run/isthmus/isthmus.sock"
    lan.host.run(f"{docker} network create {ONE} xx")
    lan.host.run(f"{docker} network create {RANGE} mynet")
    lan.host.sandbox("bare", "--network none")
    web = lan.host.sandbox("web", "--network xx")
    lan.host.run(f"{docker} network connect mynet web")
    assert web.addresses("eth1") == ["10.0.36.192/24"]
    config = json.loads(lan.host.run(f"{docker} network inspect mynet"))[0]["IPAM"]["Config"][0]
    assert config == {
        "Subnet": "10.0.36.0/24",
        "IPRange": "10.0.36.192/27",
        "Gateway": GATEWAY,
        "AuxiliaryAddresses": {"host": "10.0.36.223"},
    }


def test_what_others_take_from_the_shim_comes_back(lan: Lan) -> None:
    """The recipe dies with the next `ip link del`; an option of ours does not."""
    lan.host.network("mynet", RANGE)
    web = lan.host.sandbox("web", "--network mynet")
    shim = f"mv-{lan.host.inspect('mynet')['Id'][:12]}"
    for damage in (
        f"link delete {shim}",
        f"route delete 10.0.36.192/27 dev {shim}",
        f"address delete 10.0.36.223/32 dev {shim}",
    ):
        lan.host.batch(damage)
        assert reaches(lan.host, web.address(), "icmp"), damage
        until(lambda: lan.host.addresses(shim) == ["10.0.36.223/32"], f"not put back: {damage}")


def test_a_parent_that_goes_down_and_up_takes_nothing_along(lan: Lan) -> None:
    """Cables are pulled; the host must reach its sandboxes again without anybody's help."""
    lan.host.network("mynet", RANGE)
    web = lan.host.sandbox("web", "--network mynet")
    lan.host.batch("link set ens34 down")
    lan.host.batch("link set ens34 up")
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")
    assert both_ways(web, "10.0.36.192", lan.peer, PEER)


def test_a_parent_that_is_unplugged_brings_all_back_when_it_returns(lan: Lan) -> None:
    """The kernel takes all children along with a NIC; when the NIC is there again, so are they."""
    lan.host.network("mynet", RANGE)
    lan.host.network("front")
    web = lan.host.sandbox("web", "--network mynet --network front")
    before = mac(web)
    lan.host.batch("link delete ens34")
    until(lambda: "eth0" not in web.interfaces(), "the kernel left the child")
    lan.plug()
    until(lambda: "eth0" in web.interfaces(), "not made again")
    assert mac(web) == before
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")
    assert both_ways(web, "10.0.36.192", lan.peer, PEER)


def test_a_parent_that_is_missing_at_start_delays_only_its_own_network(world: World) -> None:
    """At boot, NICs come late: other networks do not wait for them, and those on them come up when they do."""
    lan = Lan.of(world)
    lan.host.start()
    lan.host.network("mynet", RANGE)
    lan.host.network("front")
    web = lan.host.sandbox("web", "--network mynet --network front")
    lan.host.stop()
    lan.host.batch("link delete ens34")
    lan.host.run("ip netns delete web")
    lan.host.start()
    web = lan.host.sandbox("web")
    assert web.interfaces() == {"eth1"}
    assert reaches(lan.host, web.address("eth1"), "icmp")
    assert "network mynet waits for its parent" in lan.host.refused("sandbox create --network mynet late")
    lan.plug()
    until(lambda: web.interfaces() == {"eth0", "eth1"}, "never came up")
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")


def test_a_reboot_brings_all_back(lan: Lan) -> None:
    """The recipe is gone after a reboot; what was asked of us is there again, with the same address and MAC."""
    lan.host.network("mynet", RANGE)
    lan.host.isthmus("sandbox create --network mynet web")
    before = lan.host.api().ask("GET", "/sandboxes/web")["Networks"]["mynet"]
    lan.host.kill()
    lan.host.run("ip netns delete web")
    lan.host.batch(f"link delete mv-{before['NetworkID'][:12]}")
    lan.host.run("nft flush ruleset")
    lan.host.start()
    web = lan.host.sandbox("web")
    # Here the old namespace may still be dying, and with it whoever has that MAC; after a real reboot there is none.
    until(web.routes, "never came up")
    assert (web.address(), mac(web)) == (before["IPAddress"], before["MacAddress"])
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")


def test_a_restart_finds_nothing_to_do(lan: Lan) -> None:
    """What stands is adopted: shim, routes and children are as they should be."""
    lan.host.network("mynet", RANGE)
    lan.host.network("loose", "-d macvlan --subnet fd36:1::/64 --ipv6 --ipv4=false -o isthmus.host_access=true")
    lan.host.sandbox("web", "--network mynet --network loose")
    lan.host.restart()
    assert lan.host.planned_nothing, lan.host.log


def test_host_access_without_an_address_sets_one_aside(lan: Lan) -> None:
    """Asked for without a name, the host takes an address of the range, and the routes cover just the endpoints'."""
    lan.host.network("far", "-d macvlan --subnet 10.0.36.0/24 -o parent=ens34 -o isthmus.host_access=true")
    (config,) = lan.host.inspect("far")["IPAM"]["Config"]
    assert config["AuxiliaryAddresses"] == {"host": "10.0.36.253"} or config["AuxiliaryAddresses"] == {
        "host": GATEWAY
    }, config
    shim = f"mv-{lan.host.inspect('far')['Id'][:12]}"
    places = [lan.host.sandbox(f"s{last}", f"--network far --ip 10.0.36.{last}") for last in (16, 17, 18, 19, 40)]
    routes = [route for route in lan.host.routes() if route.endswith(shim)]
    assert routes == [f"10.0.36.16/30 dev {shim}", f"10.0.36.40 dev {shim}"]
    assert all(reaches(lan.host, place.address(), "icmp") for place in places)
    lan.host.isthmus("sandbox rm s17")
    routes = [route for route in lan.host.routes() if route.endswith(shim)]
    assert routes == [f"{one} dev {shim}" for one in ("10.0.36.16", "10.0.36.18/31", "10.0.36.40")]


def test_host_access_can_be_declined(lan: Lan) -> None:
    """An auxiliary address that happens to be called host stays what it is in Docker, if its user says so."""
    lan.host.network("mynet", f"{RANGE} -o isthmus.host_access=false")
    assert not [name for name in lan.host.interfaces() if name.startswith("mv-")]
    web = lan.host.sandbox("web", "--network mynet")
    assert shut(lan.host, web.address(), "icmp")


@pytest.mark.parametrize("mode", ["private", "vepa", "passthru"])
def test_host_access_is_refused_where_it_cannot_work(lan: Lan, mode: str) -> None:
    """A shim that reaches nobody would be worse than none."""
    said = lan.host.refused(f"network create {RANGE} -o macvlan_mode={mode} mynet")
    assert f"in macvlan mode {mode} the kernel carries nothing between the children" in said
    assert lan.host.interfaces() == {"ens34", "isthmus0"}


def test_modes_are_the_kernel_s(lan: Lan) -> None:
    """Private keeps children apart, bridge joins them, and with vepa the switch outside has the say."""
    for mode, together in (("bridge", True), ("private", False), ("vepa", False)):
        lan.host.network("some", f"-d macvlan --subnet 10.0.36.0/24 -o parent=ens34 -o macvlan_mode={mode}")
        one = lan.host.sandbox("one", "--network some --ip 10.0.36.101")
        lan.host.sandbox("other", "--network some --ip 10.0.36.102")
        assert both_ways(one, "10.0.36.101", lan.peer, PEER)
        assert pings(one, "10.0.36.102", 0.5) is together, mode
        lan.host.isthmus("sandbox rm one other")
        lan.host.isthmus("network rm some")


def test_passthru_has_the_parent_for_itself(lan: Lan) -> None:
    """One child takes over the NIC, MAC and all; nobody else can be on it."""
    lan.host.network("all", "-d macvlan --subnet 10.0.36.0/24 -o parent=ens34 -o macvlan_mode=passthru")
    said = lan.host.refused("network create -d macvlan --subnet 10.0.37.0/24 -o parent=ens34 more")
    assert "is already using parent interface ens34 in mode passthru" in said
    web = lan.host.sandbox("web", "--network all --ip 10.0.36.101")
    assert mac(web) == mac(lan.host, "ens34")
    assert both_ways(web, "10.0.36.101", lan.peer, PEER)


def test_networks_share_a_parent_unless_one_wants_it_alone(lan: Lan) -> None:
    """As in Docker since 2024; whoever wants one NIC for one network can say so."""
    lan.host.network("one", "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.64/27 -o parent=ens34")
    lan.host.network("two", "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.96/27 -o parent=ens34")
    one, two = lan.host.sandbox("one", "--network one"), lan.host.sandbox("two", "--network two")
    assert both_ways(one, "10.0.36.64", two, "10.0.36.96")
    said = lan.host.refused(
        "network create -d macvlan --subnet 10.0.38.0/24 -o parent=ens34 -o isthmus.exclusive_parent=true three"
    )
    assert "is already using parent interface ens34" in said


def test_without_a_parent_a_network_is_of_its_own(lan: Lan) -> None:
    """Docker makes a dummy for it; its sandboxes reach each other and nobody else."""
    lan.host.network("own", "-d macvlan --subnet 10.9.9.0/24")
    one, two = (lan.host.sandbox(name, "--network own") for name in ("one", "two"))
    assert both_ways(one, "10.9.9.1", two, "10.9.9.2")
    assert one.routes() == ["10.9.9.0/24 dev eth0"]
    lan.host.isthmus("sandbox rm one two")
    lan.host.isthmus("network rm own")
    until(lambda: lan.host.interfaces() == {"ens34", "isthmus0"}, "something is left")


def test_ipv6_stands_beside_ipv4(lan: Lan) -> None:
    """Both families reach the LAN and, by the shim, the host."""
    lan.host.network(
        "dual",
        f"{RANGE} --ipv6 --subnet fd36::/64 --ip-range fd36::c0/123 --aux-address host=fd36::df --gateway {GATEWAY6}",
    )
    web = lan.host.sandbox("web", "--network dual")
    assert both_ways(web, web.address("eth0", 6), lan.router, GATEWAY6)
    assert both_ways(lan.host, "fd36::df", web, web.address("eth0", 6))
    assert f"default via {GATEWAY6} dev eth0" in web.routes(6)


def test_a_gateway_is_not_made_up(lan: Lan) -> None:
    """Nobody named a router, so there is none, and the first address is for whoever comes first (Docker since 29)."""
    lan.host.network("flat", "-d macvlan --subnet 10.0.36.0/24 -o parent=ens34 -o isthmus.probe=off")
    web = lan.host.sandbox("web", "--network flat")
    assert web.addresses("eth0") == ["10.0.36.1/24"]
    assert web.routes() == ["10.0.36.0/24 dev eth0"]


def test_a_child_is_no_parent(lan: Lan) -> None:
    """The kernel would take the child's own parent instead, and nobody would know."""
    lan.host.batch("link add link ens34 name mv0 type macvlan mode bridge", "link set mv0 up")
    said = lan.host.refused("network create -d macvlan --subnet 10.0.36.0/24 -o parent=mv0 bad")
    assert "it is a macvlan itself: name the link that it stands on" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-o parent=lo", "loopback interface is not a valid macvlan parent link"),
        ("-o parent=nosuch", "failed to parse parent value: nosuch"),
        ("-o parent=nosuch.50", "the host has to have a link nosuch that is up"),
        ("-o parent=isthmus0", "failed to parse parent value: isthmus0"),
        ("-o parent=ens34.5000", "failed to parse parent value: ens34.5000"),
        ("-o parent=ens34 -o macvlan_mode=x", "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan"),
        ("-o parent=ens34 -o isthmus.host_access=perhaps", "failed to parse isthmus.host_access value: perhaps"),
        ("-o parent=ens34 -o isthmus.exclusive_parent=2", "failed to parse isthmus.exclusive_parent value: 2"),
        ("-o parent=ens34 -o isthmus.probe=maybe", "failed to parse isthmus.probe value: maybe"),
        ("-o parent=ens34 -o isthmus.nosuch=1", "failed to parse isthmus.nosuch value: 1"),
        ("-o parent=ens34 -o com.docker.network.driver.mtu=12", "failed to parse com.docker.network.driver.mtu"),
    ],
)
def test_a_value_that_cannot_be_is_named_and_nothing_is_left(lan: Lan, flags: str, said: str) -> None:
    """A refusal tells the option and the value, and leaves the host as it was."""
    assert said in lan.host.refused(f"network create -d macvlan --subnet 10.0.36.0/24 {flags} bad")
    assert lan.host.interfaces() == {"ens34", "isthmus0"}
    assert "bad" not in lan.host.isthmus("network ls")


def test_a_network_changes_while_sandboxes_stand_on_it(lan: Lan) -> None:
    """The host's way comes and goes, by its address or by the option; a further subnet takes who no longer fits."""
    lan.host.network("mynet", "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.192/31 -o parent=ens34")
    web = lan.host.sandbox("web", "--network mynet")
    lan.host.isthmus("sandbox create --network mynet db")
    assert "no available IPv4 addresses" in lan.host.refused("sandbox create --network mynet late")
    assert shut(lan.host, "10.0.36.192", "icmp")
    lan.host.isthmus("network update --aux-address host=10.0.36.223 mynet")
    assert both_ways(lan.host, "10.0.36.223", web, "10.0.36.192")
    lan.host.isthmus("network update --aux-address-rm host mynet")
    assert shut(lan.host, "10.0.36.192", "icmp")
    lan.host.isthmus("network update --aux-address host=10.0.36.222 -o isthmus.host_access=false mynet")
    assert shut(lan.host, "10.0.36.192", "icmp")
    lan.host.isthmus("network update --opt-rm isthmus.host_access mynet")
    assert both_ways(lan.host, "10.0.36.222", web, "10.0.36.192")
    lan.host.isthmus("network update --subnet 10.0.37.0/24 --gateway 10.0.37.254 --aux-address host=10.0.37.222 mynet")
    late = lan.host.sandbox("late", "--network mynet")
    assert late.address() == "10.0.37.1"
    assert "default via 10.0.37.254 dev eth0" in late.run("ip route")
    assert both_ways(web, "10.0.36.192", lan.peer, PEER)
    lan.host.restart()
    assert lan.host.planned_nothing
