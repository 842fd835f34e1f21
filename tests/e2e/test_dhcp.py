"""Sandboxes with addresses from the LAN's own server: a real dnsmasq, asked by a real daemon."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import Host, Place, World, reaches, until
from tests.e2e.lans import GATEWAY, Lan, mac

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made"),
    pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq (Debian: dnsmasq-base)"),
]

NETWORKS = {
    "macvlan": "-d macvlan -o parent=ens34 --ipam-driver dhcp",
    "bridged": "-o isthmus.uplink=ens34 --ipam-driver dhcp",
}
POOL = {f"10.0.36.{last}" for last in range(50, 60)}


class Server:
    """A dnsmasq on the LAN's router. It gives 10.0.36.50 to .59, with all that goes with it, and fd36::50 to ::59."""

    def __init__(self, lan: Lan, directory: Path) -> None:
        self._lan = lan
        self._leases = directory / "leases"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, more: str = "") -> None:
        """Serve, with *more* options, from when its port is open."""
        words = self._lan.router.within(
            "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=lan0 --no-ping --dhcp-authoritative "
            f"--dhcp-leasefile={self._leases} --dhcp-range=10.0.36.50,10.0.36.59,2m "
            "--dhcp-range=fd36::50,fd36::59,64,2m --domain=lan.example --dhcp-option=option:mtu,1400 "
            "--dhcp-option=option:domain-search,a.example,b.example --dhcp-option=option:dns-server,10.0.36.53 "
            f"--dhcp-option=option:classless-static-route,0.0.0.0/0,{GATEWAY},198.51.100.0/24,10.0.36.9 {more}"
        )
        self._process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        until(lambda: ":67 " in self._lan.router.run("ss -H -lun"), f"no server: {words}")

    def stop(self) -> None:
        """Answer no more."""
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def knows(self, address: str) -> bool:
        """Whether somebody has a lease of *address*."""
        return self._leases.exists() and f" {address} " in self._leases.read_text()


@pytest.fixture
def lan(world: World) -> Lan:
    """A LAN with a host on it, whose daemon runs. The host's NIC has no address, so that it can be an uplink."""
    made = Lan.of(world)
    made.host.batch("address flush dev ens34")
    made.host.start()
    return made


@pytest.fixture
def server(lan: Lan, tmp_path: Path) -> Iterator[Server]:
    """The LAN's DHCP server."""
    made = Server(lan, tmp_path)
    made.start()
    yield made
    made.stop()


def settings(host: Host, sandbox: str) -> Any:  # noqa: ANN401 - any JSON
    """What the daemon tells of the place of *sandbox* on the network `lan`."""
    return host.api().ask("GET", f"/sandboxes/{sandbox}")["Networks"]["lan"]


def mtu(place: Place) -> int:
    """The MTU of eth0."""
    return int(place.ip("link show dev eth0")[0]["mtu"])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_sandbox_has_what_the_server_gives(lan: Lan, server: Server, kind: str) -> None:
    """Address, routes and MTU are used, the rest is shown; when the sandbox goes, the server has its address back."""
    lan.host.network("lan", NETWORKS[kind])
    if kind == "bridged":
        until(lambda: "LOWER_UP" in lan.host.run("ip link show dev ens34"), "the uplink is not up")
    web = lan.host.sandbox("web", "--network lan")
    address = web.address()
    assert address in POOL
    assert server.knows(address)
    assert web.routes() == [
        f"default via {GATEWAY} dev eth0",
        "10.0.36.0/24 dev eth0",
        "198.51.100.0/24 via 10.0.36.9 dev eth0",
    ]
    assert mtu(web) == 1400
    assert reaches(lan.router, address, "icmp")
    told = settings(lan.host, "web")
    assert (told["IPAddress"], told["Gateway"], told["MacAddress"]) == (address, GATEWAY, mac(web))
    (lease,) = told["Leases"]
    assert lease["DNS"] == ["10.0.36.53"]
    assert lease["Domain"] == "lan.example"
    assert lease["Search"] == ["a.example", "b.example"]
    lan.host.isthmus("sandbox rm web")
    until(lambda: not server.knows(address), "it was not given back")


def test_a_restart_keeps_the_lease(lan: Lan, server: Server) -> None:
    """The daemon's death is nobody's outage: the next one goes on with the lease, and changes nothing."""
    lan.host.network("lan", NETWORKS["macvlan"])
    web = lan.host.sandbox("web", "--network lan")
    before = web.address(), mac(web)
    lan.host.kill()
    lan.host.start()
    assert lan.host.planned_nothing, lan.host.log
    assert (web.address(), mac(web)) == before
    lan.host.isthmus("sandbox rm web")
    until(lambda: not server.knows(before[0]), "the adopted lease was not given back")


def test_a_sandbox_of_the_same_name_is_the_same_client(lan: Lan, server: Server) -> None:
    """Client identifier, MAC and host name are the same again, so the server gives the same address."""
    lan.host.network("lan", NETWORKS["macvlan"])
    web = lan.host.sandbox("web", "--network lan")
    before = web.address(), mac(web)
    lan.host.isthmus("sandbox rm web")
    until(lambda: not server.knows(before[0]), "it was not given back")
    web = lan.host.sandbox("web", "--network lan")
    assert (web.address(), mac(web)) == before


def test_a_server_that_is_silent_delays_its_own_endpoint_only(lan: Lan, server: Server) -> None:
    """Others come up meanwhile; the sandbox tells what it lacks, and has its address when the server is there."""
    server.stop()
    lan.host.network("lan", NETWORKS["macvlan"])
    lan.host.network("front")
    slow = subprocess.Popen(lan.host.within("isthmus sandbox create --network lan web"), stdout=subprocess.DEVNULL)
    quick = lan.host.sandbox("quick", "--network front")
    assert reaches(lan.host, quick.address(), "icmp")
    assert slow.poll() is None
    assert slow.wait(30) == 0
    web = lan.host.sandbox("web")
    assert web.addresses("eth0") == []
    assert "no DHCP server answers" in str(settings(lan.host, "web")["Trouble"])
    assert "no DHCP server answers" in lan.host.complains("network check lan")
    server.start()
    # A client that heard nothing asks again after up to 64 seconds (RFC 2131, 4.1).
    until(lambda: web.addresses("eth0"), "the address never came", 80)
    assert web.address() in POOL
    until(lambda: "Trouble" not in settings(lan.host, "web"), "the trouble is still told")


def test_ipv6_comes_from_a_server_where_that_is_asked_for(lan: Lan, server: Server) -> None:
    """DHCPv6 is for LANs whose administrators want to know who has which address."""
    lan.host.network("lan", f"{NETWORKS['macvlan']} --ipv6 --ipam-opt isthmus.ipv6=dhcpv6")
    web = lan.host.sandbox("web", "--network lan")
    until(lambda: any(one.startswith("fd36::5") for one in web.addresses("eth0", 6)), "no address by DHCPv6")
    assert web.address() in POOL
    address = next(one for one in web.addresses("eth0", 6) if one.startswith("fd36::5")).partition("/")[0]
    # For IPv6, dnsmasq answers first and writes its file of leases then.
    until(lambda: server.knows(address), "an address that the server did not give")


@pytest.mark.parametrize("kind", NETWORKS)
def test_ipv6_follows_the_router_s_announcements(lan: Lan, server: Server, kind: str) -> None:
    """Where the prefix changes with the provider, an address made of it (SLAAC) is the one that goes on working."""
    server.stop()
    server.start("--enable-ra --dhcp-range=fd36:5::,ra-only,64")
    lan.router.batch("address add fd36:5::fe/64 dev lan0 nodad")
    lan.host.network("lan", f"{NETWORKS[kind]} --ipv6")
    if kind == "bridged":
        until(lambda: "LOWER_UP" in lan.host.run("ip link show dev ens34"), "the uplink is not up")
    web = lan.host.sandbox("web", "--network lan")
    until(lambda: any(one.startswith("fd36:5:") for one in web.addresses("eth0", 6)), "no address of that prefix")
    until(lambda: "tentative" not in web.run("ip -6 address show dev eth0"), "still being looked for on the wire")
    assert any(route.startswith("default via fe80:") for route in web.routes(6))
    assert reaches(web, "fd36:5::fe", "icmp")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-d macvlan --ipam-driver dhcp", "failed to parse ipam-driver value: dhcp"),
        ("-d bridge --ipam-driver dhcp", "failed to parse ipam-driver value: dhcp"),
        ("-d macvlan -o parent=ens34 -o macvlan_mode=passthru --ipam-driver dhcp", "failed to parse ipam-driver"),
        (f"{NETWORKS['macvlan']} --subnet 10.0.36.0/24", "leave --subnet out"),
        (f"{NETWORKS['macvlan']} --ipam-opt isthmus.ipv6=magic", "failed to parse isthmus.ipv6 value: magic"),
        (f"{NETWORKS['macvlan']} -o isthmus.host_access=true", "failed to parse isthmus.host_access value: true"),
    ],
)
def test_what_does_not_go_with_dhcp_is_refused(lan: Lan, flags: str, said: str) -> None:
    """A refusal names the option; nothing is made."""
    assert said in lan.host.refused(f"network create {flags} lan")
    assert "lan" not in lan.host.isthmus("network ls -q --format '{{.Name}}'").split()


def test_a_demanded_address_does_not_go_with_dhcp(lan: Lan) -> None:
    """The server decides; a reservation there is the way to have one address for sure."""
    lan.host.network("lan", NETWORKS["macvlan"])
    said = lan.host.refused("sandbox create --network lan --ip 10.0.36.70 web")
    assert "the DHCP server gives the addresses" in said
