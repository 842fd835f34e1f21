"""Names in sandboxes: what a program there finds, whom the daemon asks, and what becomes of it as things change."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.e2e.hosts import OUTSIDE, PROGRAM, Host, Machine, Place, World, until
from tests.e2e.lans import Lan

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made")]

RESOLVER = ("127.0.0.11", 53)
SECONDS = 10.0


def ask(place: Place, name: str, kind: str = "A", *, tcp: bool = False, edns: bool = False) -> dns.message.Message:
    """What is answered to a program in *place*."""
    query = dns.message.make_query(name, kind, use_edns=edns)
    sort = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with place.socket(socket.AF_INET, sort) as one:
        one.settimeout(SECONDS)
        one.connect(RESOLVER)
        wire = query.to_wire()
        one.sendall(len(wire).to_bytes(2, "big") + wire if tcp else wire)
        data = one.recv(65535)
    answer = dns.message.from_wire(data[2:] if tcp else data)
    assert query.is_response(answer)
    return answer


def found(place: Place, name: str, kind: str = "A") -> list[str]:
    """The records that are told for *name*, as text; nothing if there is no such name."""
    return sorted(str(item) for rrset in ask(place, name, kind).answer for item in rrset)


def resolves(host: Host, sandbox: str, name: str) -> str:
    """What the C library makes of *name* in a sandbox; "" if nothing."""
    return host.attempt(f"{PROGRAM} sandbox exec {sandbox} -- getent hosts {name}").stdout.strip()


class Upstairs:
    """A name server in *place*, on a thread of its own: every name stands for *address*."""

    def __init__(self, place: Place, address: str = "198.51.100.7", at: str = "0.0.0.0") -> None:
        self.address = address
        self.asked: list[tuple[str, str]] = []
        self._socket = place.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((at, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        with suppress(OSError):  # it wakes the thread, and complains that nobody is connected
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
                query = dns.message.from_wire(data)
            except (OSError, dns.exception.DNSException):
                return
            name = str(query.question[0].name)
            self.asked.append((name, peer[0]))
            answer = dns.message.make_response(query)
            if query.question[0].rdtype == dns.rdatatype.A:
                answer.answer.append(dns.rrset.from_text(name, 1, "IN", "A", self.address))
            self._socket.sendto(answer.to_wire(), peer)


@contextmanager
def serving(place: Place, address: str = "198.51.100.7") -> Iterator[Upstairs]:
    """A name server in *place* during the block."""
    upstairs = Upstairs(place, address)
    try:
        yield upstairs
    finally:
        upstairs.close()


def configured(host: Host, text: str) -> None:
    """Give the host a `resolv.conf` of its own."""
    path = host.root / "run" / "resolv.conf"
    path.write_text(text)
    host.run("mount --bind /run/resolv.conf /etc/resolv.conf")


def test_a_program_finds_its_neighbours_by_name(box: Host) -> None:
    """By the C library, with the files that it reads: name, alias, hostname, short ID, and with the network."""
    box.network("front", "--ipv6 --subnet 10.9.0.0/24 --subnet fd09::/64")
    box.sandbox("web", "--network front")
    db = box.sandbox("db", "--network front --network-alias database -h store")
    names = ("db", "database", "store", "db.front", "DB", box.isthmus("sandbox inspect -f '{{.Id}}' db")[:12])
    for name in names:
        assert resolves(box, "web", name).split() == [db.address("eth0", 6), name], name
    assert resolves(box, "web", db.address()) == f"{db.address()}        db.front"
    assert box.attempt(f"{PROGRAM} sandbox exec web -- getent hosts nosuch.front").returncode != 0


@pytest.mark.parametrize("tcp", [False, True])
def test_both_families_and_ways_back_are_told(box: Host, tcp: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """By UDP and TCP, with and without EDNS0."""
    box.network("front", "--ipv6 --subnet 10.9.0.0/24 --subnet fd09::/64")
    web = box.sandbox("web", "--network front")
    assert [str(one[0]) for one in ask(web, "web", tcp=tcp).answer] == [web.address()]
    answer = ask(web, "WEB.front", "AAAA", tcp=tcp, edns=True)
    assert (str(answer.answer[0][0]), answer.edns, answer.answer[0].ttl) == (web.address("eth0", 6), 0, 600)
    pointer = ip_address(web.address()).reverse_pointer
    assert [str(one[0]) for one in ask(web, pointer, "PTR", tcp=tcp).answer] == ["web.front."]


def test_a_network_has_no_names_for_who_is_not_on_it(box: Host) -> None:
    """Neither forwards nor back, nor with the network's name; joining it brings them, leaving it takes them."""
    box.network("front", "--internal")
    box.network("back", "--internal")
    web, db = box.sandbox("web", "--network front"), box.sandbox("db", "--network back")
    there = ip_address(db.address()).reverse_pointer
    for name, kind in (("db", "A"), ("db.back", "A"), (there, "PTR")):
        assert ask(web, name, kind).rcode() == dns.rcode.SERVFAIL
    box.isthmus("network connect back web")
    assert found(web, "db") == found(web, "db.back") == [db.address()]
    assert found(web, there, "PTR") == ["db.back."]
    box.isthmus("network disconnect back web")
    assert ask(web, "db").rcode() == dns.rcode.SERVFAIL


def test_a_macvlan_network_has_names(world: World) -> None:
    """The resolver is inside, so it does not matter that the host cannot reach the sandbox."""
    lan = Lan.of(world)
    lan.host.start()
    lan.host.network("wire", "-d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.192/27 -o parent=ens34")
    web, db = lan.host.sandbox("web", "--network wire"), lan.host.sandbox("db", "--network wire")
    assert found(web, "db") == [db.address()]
    assert found(db, "web.wire") == [web.address()]


def test_a_link_and_an_alias_of_several_are_told(box: Host) -> None:
    """The link to the one that has it only, the alias in turns."""
    box.network("front")
    web = box.sandbox("web", "--network front --link db:store")
    db = box.sandbox("db", "--network front --network-alias pool")
    other = box.sandbox("other", "--network none")
    box.isthmus("network disconnect none other")
    box.isthmus("network connect --alias pool front other")
    assert found(web, "store") == [db.address()]
    assert found(web, "pool") == sorted([db.address(), other.address()])
    firsts = {str(ask(web, "pool").answer[0][0]) for _ in range(4)}
    assert firsts == {db.address(), other.address()}


def test_a_name_is_gone_when_its_sandbox_is(box: Host) -> None:
    """The command that removes it has not returned before; a new one of the name is found at once."""
    box.network("front", "--internal")
    web = box.sandbox("web", "--network front")
    db = box.sandbox("db", "--network front")
    assert found(web, "db") == [db.address()]
    box.isthmus("sandbox rm db")
    assert ask(web, "db").rcode() == dns.rcode.SERVFAIL
    again = box.sandbox("db", "--network front --ip 172.18.0.77")
    assert found(web, "db") == [again.address()] == ["172.18.0.77"]


def test_there_is_a_resolver_only_where_there_are_names(box: Host) -> None:
    """On the default network there are none, as in Docker; with a network that has names it comes, and goes with it."""
    box.network("front")
    web = box.sandbox("web", "")

    def listening(place: Place) -> bool:
        return "127.0.0.11:53" in place.run("ss -lntu")

    assert not listening(web)
    box.isthmus("network connect front web")
    assert found(web, "web") == [web.address("eth1")]
    box.isthmus("network disconnect front web")
    until(lambda: not listening(web), "the resolver stays")
    assert not listening(box.sandbox("own", "--network front --dns none"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_resolvers_are_back_after_a_restart(box: Host, how: signal.Signals) -> None:
    """With all names, as soon as the daemon says that it is ready."""
    box.network("front")
    web, db = box.sandbox("web", "--network front"), box.sandbox("db", "--network front --network-alias database")
    box.restart(how)
    assert box.planned_nothing
    assert found(web, "database") == [db.address()]


def test_who_joins_a_sandbox_asks_its_resolver(box: Host) -> None:
    """There is one in the namespace, and it leaves with the networks."""
    box.network("front")
    web = box.sandbox("web", "--network front")
    guest = box.sandbox("guest", "--network container:web")
    assert found(guest, "web") == [web.address()]
    assert resolves(box, "guest", "web").split() == [web.address(), "web"]


def test_a_namespace_that_somebody_removed_gets_its_resolver_back(box: Host) -> None:
    """The daemon makes the namespace anew; the old sockets are of no use there."""
    box.network("front")
    box.sandbox("web", "--network front")
    box.run("umount --lazy /run/isthmus/netns/web")
    box.run("rm /run/isthmus/netns/web")
    box.isthmus("network connect bridge web")  # whoever touches it finds out
    until(lambda: "127.0.0.11:53" in box.sandbox("web").run("ss -lntu"), "no resolver in the new namespace")
    assert found(box.sandbox("web"), "web") == [box.sandbox("web").address()]


def test_other_names_are_asked_of_the_host_s_servers_by_the_host(internet: tuple[Host, Machine]) -> None:
    """Whatever routes a sandbox has; not even then, on a network that leads nowhere."""
    host, outside = internet
    configured(host, f"nameserver {OUTSIDE}\nsearch corp.example\n")
    host.network("front")
    host.network("inner", "--internal")
    web, inner = host.sandbox("web", "--network front"), host.sandbox("inner", "--network inner")
    with serving(outside) as upstairs:
        assert found(web, "far.example") == ["198.51.100.7"]
        assert {peer for _, peer in upstairs.asked} == {"203.0.113.2"}
        assert ask(inner, "far.example").rcode() == dns.rcode.SERVFAIL
        assert {name for name, _ in upstairs.asked} == {"far.example."}


def test_servers_of_a_sandbox_s_own_are_asked_from_inside(internet: tuple[Host, Machine]) -> None:
    """They may stand on its network alone: here, a neighbour serves."""
    host, _ = internet
    host.network("front", "--internal")
    neighbour = host.sandbox("ns", "--network front --ip 172.18.0.53 --dns none")
    web = host.sandbox("web", "--network front --dns 172.18.0.53")
    with serving(neighbour, "198.51.100.9") as upstairs:
        assert found(web, "far.example") == ["198.51.100.9"]
        assert {peer for _, peer in upstairs.asked} == {web.address()}
        assert found(web, "ns") == ["172.18.0.53"]


def test_while_upstream_is_down_old_answers_serve(internet: tuple[Host, Machine]) -> None:
    """A second old, or a day: better than none."""
    host, outside = internet
    configured(host, f"nameserver {OUTSIDE}\n")
    host.network("front")
    web = host.sandbox("web", "--network front")
    with serving(outside):
        assert found(web, "far.example") == ["198.51.100.7"]
    # Its TTL is a second; then the server is asked, and there is none.
    until(lambda: ask(web, "far.example").answer[0].ttl == 30, "no old answer")
    assert ask(web, "other.example").rcode() == dns.rcode.SERVFAIL


def test_no_question_is_lost_while_networks_change(box: Host) -> None:
    """Sockets stay and the names change between two questions: each has an answer, and a right one."""
    box.network("front")
    box.network("other")
    web = box.sandbox("web", "--network front")
    db = box.sandbox("db", "--network front")
    stop = threading.Event()

    def change() -> None:
        client = box.api()
        while not stop.is_set():
            client.ask("POST", "/networks/other/connect", {"Container": "web"})
            client.ask("POST", "/networks/other/disconnect", {"Container": "web"})
            client.ask("POST", "/sandboxes/create?name=brief", {"HostConfig": {"NetworkMode": "front"}})
            client.ask("DELETE", "/sandboxes/brief")

    changing = threading.Thread(target=change)
    changing.start()
    query, expected = dns.message.make_query("db", "A").to_wire(), ip_address(db.address()).packed
    try:
        with web.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(SECONDS)
            one.connect(RESOLVER)
            for number in range(3000):
                one.send(number.to_bytes(2, "big") + query[2:])
                answer = one.recv(512)
                assert answer[:2] == number.to_bytes(2, "big")
                assert answer[-4:] == expected
    finally:
        stop.set()
        changing.join()


def test_garbage_from_a_sandbox_harms_nobody(box: Host) -> None:
    """Whatever it sends, however much: others are answered, and so is it."""
    box.network("front")
    web, db = box.sandbox("web", "--network front"), box.sandbox("db", "--network front")
    with web.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(RESOLVER)
        for length in range(2000):
            one.send(os.urandom(length))
    assert found(db, "web") == [web.address()]
    assert found(web, "db") == [db.address()]


def test_the_files_are_docker_s_and_follow_the_networks(internet: tuple[Host, Machine]) -> None:
    """What a program sees by `sandbox exec`, and whoever else mounts the files."""
    host, _ = internet
    configured(host, f"nameserver {OUTSIDE}\nsearch corp.example\n")
    host.network("front")
    host.sandbox("db", "")
    flags = "--dns-search lab.example --dns-option timeout:1 --add-host far:192.0.2.7 -h www --domainname lab.example"
    web = host.sandbox("web", f"--network front {flags}")
    seen = host.isthmus("sandbox exec web -- cat /etc/resolv.conf").splitlines()
    assert [line for line in seen if line and line[0] != "#"] == [
        "nameserver 127.0.0.11",
        "search lab.example",
        "options timeout:1 ndots:0",
    ]
    assert f"# ExtServers: [host({OUTSIDE})]" in seen
    hosts = host.root / "run/isthmus/sandboxes/web/hosts"
    assert hosts.read_text().splitlines()[-2:] == ["192.0.2.7\tfar", f"{web.address()}\twww.lab.example www"]
    assert host.isthmus("sandbox exec web -- cat /etc/hostname") == "www"
    host.isthmus("network connect bridge web")
    until(lambda: f"{web.address('eth1')}\twww" in hosts.read_text(), "hosts does not follow")
    plain = host.isthmus("sandbox exec db -- cat /etc/resolv.conf")
    assert f"nameserver {OUTSIDE}\nsearch corp.example\n" in plain
    host.isthmus("sandbox rm web")
    until(lambda: not hosts.exists(), "files outlive their sandbox")


def test_a_link_on_the_default_network_is_a_line_of_hosts(box: Host) -> None:
    """As Docker's old links are; who is not there cannot be linked."""
    db = box.sandbox("db", "")
    box.isthmus("sandbox create --link db:store web")
    assert f"{db.address()}\tstore" in box.isthmus("sandbox exec web -- cat /etc/hosts")
    assert "could not get container for nobody" in box.refused("sandbox create --link nobody other")


def test_the_host_asks_at_an_address_that_it_chose(world: World) -> None:
    """Its own resolver can send there what ends in `.isthmus`; where somebody has the port, the daemon says so."""
    host = world.host().start(config={"dns-stub": "127.0.0.153"})
    host.network("front")
    web = host.sandbox("web", "--network front")
    query = dns.message.make_query("web.front.isthmus", "A")
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(SECONDS)
        one.sendto(query.to_wire(), ("127.0.0.153", 53))
        assert str(dns.message.from_wire(one.recv(512)).answer[0][0]) == web.address()
    host.stop()
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.153", 53))
        status, said = host.fails()
        assert status == 1
        assert "cannot serve names at 127.0.0.153, port 53: Address already in use" in said


def test_a_network_gets_and_loses_records_while_it_is_in_use(box: Host) -> None:
    """For what stands on the LAN, or is to be found by another name; asked for by a real program."""
    box.network("front", "--subnet 10.5.0.0/24 --record printer=10.5.0.77")
    web = box.sandbox("web", "--network front")
    assert resolves(box, "web", "printer").split()[0] == "10.5.0.77"
    box.isthmus("network update front --record printer=10.5.0.78 --record printer=10.5.0.79 --record '*.apps=10.5.0.9'")
    assert found(web, "printer") == ["10.5.0.78", "10.5.0.79"]
    assert found(web, "any.apps.front") == ["10.5.0.9"]
    assert found(web, "78.0.5.10.in-addr.arpa", "PTR") == ["printer.front."]
    assert box.isthmus("dns printer.front") == "10.5.0.78\n10.5.0.79"
    assert "isthmus.record.printer" in box.refused("network update front --record printer=nowhere")
    assert found(web, "printer") == ["10.5.0.78", "10.5.0.79"]
    box.restart()
    assert found(web, "printer") == ["10.5.0.78", "10.5.0.79"]
    box.isthmus("network update front --record-rm printer")
    assert "no such name" in box.refused("dns printer.front")


def test_the_host_asks_the_daemon_itself(box: Host) -> None:
    """No stub and no setting is needed for that; a name is shown with its network, as it may be on several."""
    for number, name in enumerate(("front", "back"), 5):
        box.network(name, f"--ipv6 --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64")
    box.isthmus("sandbox create web --network front --network-alias www")
    box.isthmus("sandbox create db --network back --network-alias '*.db'")
    for name in ("web.front", "WWW.front.", "web.front.isthmus"):
        assert box.isthmus(f"dns {name}") == "10.5.0.2\nfd00:5::2"
    assert box.isthmus("dns any.db.back").startswith("10.6.0.2")
    assert "no such name: web.back" in box.refused("dns web.back")
    assert "no such name: web" in box.refused("dns web")
    rows = [line.split() for line in box.isthmus("dns").splitlines()]
    assert rows[0] == ["NAME", "NETWORK", "ADDRESSES"]
    assert ["web", "front", "10.5.0.2,", "fd00:5::2"] in rows
    assert ["*.db", "back", "10.6.0.2,", "fd00:6::2"] in rows
    (known,) = [one for one in map(json.loads, box.isthmus("dns --format json").splitlines()) if one["Name"] == "www"]
    assert known == {"Name": "www", "Network": "front", "Addresses": "10.5.0.2, fd00:5::2"}
    box.isthmus("sandbox rm web")
    assert "no such name" in box.refused("dns web.front")


def test_files_that_cannot_be_written_are_told_of(box: Host) -> None:
    """Nothing is run with half of them, and the sandbox stands as before."""
    box.network("front")
    web = box.sandbox("web", "--network front")
    box.run("mkdir -p /run/isthmus/sandboxes/web/hosts/in-the-way")
    assert "cannot write the files of web" in box.refused("sandbox exec web -- true")
    assert found(web, "web") == [web.address()]
