"""Who is told what: one rule a test, as Docker has them."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

import dns.message
import dns.rcode
import pytest
from msgspec.structs import replace

from isthmus.addresses import Subnet
from isthmus.dns.lookup import Directory
from isthmus.dns.message import PLAIN, WHOLE, parse_query
from isthmus.model import HOST_GATEWAY, Dns, Record, pairs
from tests.worlds import endpoint, network, sandbox

FRONT, BACK = network("front", number=1), network("back", number=2)
BRIDGE = replace(network("bridge", number=3), predefined=True)
WEB, DB = sandbox("web", number=100), sandbox("db", number=101)


WEB_FRONT = endpoint(FRONT, WEB, "10.1.0.2/24", "fd01::2/64", number=200)
DB_FRONT = endpoint(FRONT, DB, "10.1.0.3/24", number=201)
DB_BACK = endpoint(BACK, DB, "10.2.0.3/24", number=202)
WEB_BACK = endpoint(BACK, WEB, "10.2.0.2/24", number=203)


def known(*records: Record) -> Directory:
    """A directory of these records, and of all networks and sandboxes."""
    directory = Directory()
    directory.learn([FRONT, BACK, BRIDGE, WEB, DB, *records])
    return directory


def found(directory: Directory, name: str, netns: str = "web") -> list[str] | None:
    """The addresses that *netns* is told for *name*, as text."""
    addresses = directory.find(netns, name)
    return None if addresses is None else list(map(str, addresses))


def answered(directory: Directory, name: str, kind: str = "A", netns: str = "web", limit: int = WHOLE) -> list[str]:
    """The first answer, each record as text; what is not answered here is no answer."""
    query = parse_query(dns.message.make_query(name, kind).to_wire())
    answers = directory.answers(netns, query, limit)
    assert answers is not None, f"{name} would be asked of others"
    read = dns.message.from_wire(answers[0])
    assert read.rcode() == dns.rcode.NOERROR
    return [str(item) for rrset in read.answer for item in rrset]


def passed_on(directory: Directory, name: str, kind: str = "A", netns: str = "web") -> bool:
    """Whether upstream is to be asked."""
    return directory.answers(netns, parse_query(dns.message.make_query(name, kind).to_wire()), WHOLE) is None


def test_a_name_is_known_to_those_on_its_network() -> None:
    """It is what container networks are for."""
    assert found(known(WEB_FRONT, DB_FRONT), "db") == ["10.1.0.3"]


def test_a_network_has_records_of_its_own() -> None:
    """Who stands there finds them, nobody else does, and they go when the network says so."""
    options = {"isthmus.record.printer": "10.1.0.77,fd01::77", "isthmus.record.*.Apps": "10.1.0.9"}
    directory = known(WEB_FRONT, DB_BACK)
    directory.learn([replace(FRONT, options=pairs(options))])
    assert found(directory, "printer") == found(directory, "printer.front") == ["10.1.0.77", "fd01::77"]
    assert found(directory, "a.b.apps") == ["10.1.0.9"]
    assert found(directory, "apps") is None
    assert found(directory, "printer", "db") is found(directory, "printer.front", "db") is None
    assert directory.name_of("web", ip_address("fd01::77")) == "printer.front"
    assert directory.name_of("web", ip_address("10.1.0.9")) is directory.name_of("db", ip_address("fd01::77")) is None
    assert directory.find_on_host("printer.front") == (ip_address("10.1.0.77"), ip_address("fd01::77"))
    assert ("*.apps", "front", (ip_address("10.1.0.9"),)) in set(directory.all_names())
    directory.learn([FRONT])
    assert found(directory, "printer") is None


def test_who_bears_a_name_himself_comes_before_a_record_of_it() -> None:
    """A record cannot turn away what is meant for a sandbox."""
    directory = known(WEB_FRONT, DB_FRONT)
    directory.learn([replace(FRONT, options=pairs({"isthmus.record.db": "192.0.2.9"}))])
    assert found(directory, "db") == ["10.1.0.3"]
    directory.learn((), [DB_FRONT])
    assert found(directory, "db") == ["192.0.2.9"]


def test_a_name_of_another_network_is_not_known() -> None:
    """Who stands apart must not even learn that the other is there."""
    directory = known(WEB_FRONT, DB_BACK)
    assert found(directory, "db") is None
    assert found(directory, "db.back") is None
    assert passed_on(directory, "3.0.2.10.in-addr.arpa", "PTR")


def test_all_names_of_an_endpoint_are_known() -> None:
    """Aliases, the short ID and the hostname stand for it, too."""
    directory = known(WEB_FRONT, replace(DB, hostname="store"), replace(DB_FRONT, aliases=("database", "Data.Base")))
    for name in ("database", "data.base", DB.id[:12], "store"):
        assert found(directory, name) == ["10.1.0.3"], name


def test_an_alias_is_known_on_its_network_only() -> None:
    """Another network may have the same alias for somebody else."""
    directory = known(WEB_FRONT, replace(DB_FRONT, aliases=("one",)), replace(DB_BACK, aliases=("two",)))
    assert found(directory, "one") == ["10.1.0.3"]
    assert found(directory, "two") is None


def test_a_name_with_its_network_is_the_one_there() -> None:
    """Who stands on two networks with another is reached by the one that is meant."""
    directory = known(WEB_FRONT, WEB_BACK, DB_FRONT, DB_BACK)
    assert found(directory, "db.back") == ["10.2.0.3"]
    assert found(directory, "db.front") == ["10.1.0.3"]
    assert found(directory, "db") == ["10.2.0.3"]  # the network whose name sorts first


def test_names_and_networks_may_have_dots() -> None:
    """Each way to cut the name in two is tried."""
    dotted = network("a.b", number=4)
    far = replace(endpoint(dotted, DB, "10.4.0.3/24", number=204), aliases=("my.db",))
    directory = known(dotted, endpoint(dotted, WEB, "10.4.0.2/24", number=205), far)
    assert found(directory, "my.db.a.b") == ["10.4.0.3"]
    assert found(directory, "db.a.b") == ["10.4.0.3"]


def test_case_does_not_matter() -> None:
    """DNS has none (RFC 4343), whatever was created."""
    user = replace(DB, name="DB")
    directory = known(WEB_FRONT, user, DB_FRONT)
    assert answered(directory, "dB.fRoNt") == ["10.1.0.3"]


def test_a_priority_decides_which_network_is_looked_at_first() -> None:
    """As it decides on the default route."""
    preferred = replace(WEB_FRONT, gateway_priority=5)
    directory = known(preferred, WEB_BACK, DB_FRONT, DB_BACK)
    assert found(directory, "db") == ["10.1.0.3"]


def test_a_shared_alias_is_told_in_turns() -> None:
    """Clients that take the first address are spread over all."""
    directory = known(replace(WEB_FRONT, aliases=("pool",)), replace(DB_FRONT, aliases=("pool",)))
    query = parse_query(dns.message.make_query("pool", "A").to_wire())
    answers = directory.answers("web", query, PLAIN)
    assert answers is not None
    firsts = [str(dns.message.from_wire(one).answer[0][0]) for one in answers]
    assert sorted(firsts) == ["10.1.0.2", "10.1.0.3"]


def test_each_family_is_told_to_who_asks_for_it() -> None:
    """A name without an address of a family is there all the same: nobody else is asked, and there is an answer."""
    directory = known(WEB_FRONT, DB_FRONT)
    assert answered(directory, "web", "AAAA") == ["fd01::2"]
    assert answered(directory, "web", "A") == ["10.1.0.2"]
    assert answered(directory, "db", "AAAA") == []
    assert answered(directory, "db", "MX") == []
    assert answered(directory, "db", "HTTPS") == []


def test_an_address_is_told_by_the_first_name_and_the_network() -> None:
    """As Docker tells it; logs are full of such names."""
    directory = known(replace(WEB_FRONT, aliases=("www",)), DB_FRONT)
    assert answered(directory, IPv4Address("10.1.0.2").reverse_pointer, "PTR") == ["web.front."]
    assert answered(directory, IPv6Address("fd01::2").reverse_pointer, "PTR", "db") == ["web.front."]


def test_what_is_nobody_s_is_asked_of_others() -> None:
    """Addresses, too."""
    directory = known(WEB_FRONT)
    assert passed_on(directory, "example.com")
    assert passed_on(directory, "1.1.1.1.in-addr.arpa", "PTR")


def test_a_word_that_is_nobody_s_stays_here_where_the_user_set_ndots() -> None:
    """Then it is to be tried with a domain first (moby's resolver does so)."""
    directory = known(replace(WEB, dns=Dns(options=("ndots:1",))), WEB_FRONT)
    assert answered(directory, "word") == []
    assert passed_on(directory, "word.example")


def test_a_link_is_a_name_for_one_sandbox_alone() -> None:
    """And it counts before a name of the network."""
    directory = known(replace(WEB_FRONT, links=("db:store", "db:web")), DB_FRONT)
    assert found(directory, "store") == ["10.1.0.3"]
    assert found(directory, "web") == ["10.1.0.3"]
    assert found(directory, "store", "db") is None
    assert found(directory, "web", "db") == ["10.1.0.2", "fd01::2"]


def test_the_default_network_has_no_names() -> None:
    """As Docker's `bridge` has none, but for links, which are lines of `hosts`."""
    web = replace(endpoint(BRIDGE, WEB, "172.17.0.2/16", number=206), links=("db:store",))
    directory = known(web, endpoint(BRIDGE, DB, "172.17.0.3/16", number=207))
    assert found(directory, "db") is None
    assert not directory.served("web")
    assert list(directory.linked("web")) == [(ip_address("172.17.0.3"), ("store", DB.id[:12], "db"))]


def test_a_wildcard_stands_for_all_names_below_it() -> None:
    """And not for itself; a name that is somebody's own comes first."""
    directory = known(WEB_FRONT, replace(DB_FRONT, aliases=("*.app", "*.x.app")))
    assert found(directory, "a.app") == ["10.1.0.3"]
    assert found(directory, "a.b.app") == ["10.1.0.3"]
    assert found(directory, "app") is None
    directory.learn([replace(WEB_FRONT, aliases=("a.app",))])
    assert found(directory, "a.app") == ["10.1.0.2", "fd01::2"]


def test_further_hosts_come_first() -> None:
    """They are what the user of this very sandbox said."""
    hosts = (("db", "192.0.2.1"), ("db", "2001:db8::1"), ("Outside", HOST_GATEWAY))
    directory = Directory([ip_address("192.0.2.9")])
    directory.learn([FRONT, replace(WEB, dns=Dns(hosts=hosts)), DB, WEB_FRONT, DB_FRONT])
    assert found(directory, "db") == ["192.0.2.1", "2001:db8::1"]
    assert found(directory, "outside") == ["192.0.2.9"]


def test_the_host_s_gateway_is_that_of_the_default_bridge() -> None:
    """Where the daemon was told no other."""
    bridge = replace(BRIDGE, subnets=(Subnet(ip_network("172.17.0.0/16"), gateway=ip_address("172.17.0.1")),))
    directory = known(bridge, replace(WEB, dns=Dns(hosts=(("host", HOST_GATEWAY),))), WEB_FRONT)
    assert found(directory, "host") == ["172.17.0.1"]


@pytest.mark.parametrize("what", ["endpoint", "sandbox"])
def test_who_is_being_removed_is_gone_at_once(what: str) -> None:
    """Its address may be somebody else's a moment later."""
    directory = known(WEB_FRONT, DB_FRONT)
    directory.learn([replace(DB_FRONT, removing=True) if what == "endpoint" else replace(DB, removing=True)])
    assert found(directory, "db") is None
    assert passed_on(directory, "3.0.1.10.in-addr.arpa", "PTR")


def test_a_new_address_takes_the_place_of_the_old_one() -> None:
    """A DHCP server gives another one while the sandbox runs."""
    directory = known(WEB_FRONT, DB_FRONT)
    directory.learn([replace(DB_FRONT, addresses=(ip_interface("10.1.0.9/24"),))])
    assert found(directory, "db") == ["10.1.0.9"]
    assert passed_on(directory, "3.0.1.10.in-addr.arpa", "PTR")


def test_nothing_is_left_of_what_was_dropped() -> None:
    """A daemon runs for years."""
    directory = known(WEB_FRONT, DB_FRONT)
    directory.learn([], [WEB_FRONT, DB_FRONT])
    directory.learn([], [WEB, DB])
    directory.learn([], [FRONT, BACK, BRIDGE])
    assert vars(directory) == vars(Directory()) | {"version": directory.version}


def test_each_change_of_a_name_is_another_version() -> None:
    """By it, answers that are kept ready are known to be out of date."""
    directory = known(WEB_FRONT)
    before = directory.version
    directory.learn([DB_FRONT])
    assert directory.version != before


def test_an_internal_network_alone_does_not_lead_outside() -> None:
    """One that is not, leads there."""
    inner = replace(FRONT, internal=True)
    directory = known(inner, WEB_FRONT)
    assert not directory.open("web")
    directory.learn([WEB_BACK])
    assert directory.open("web")


def test_who_joins_a_namespace_shares_its_point_of_view() -> None:
    """There is one resolver in a namespace, whoever lives there, until its owner leaves the networks."""
    guest = replace(sandbox("guest", number=102), netns="web", mode="container:web")
    directory = known(guest, WEB_FRONT, DB_FRONT)
    assert directory.served("web")
    directory.learn([], [WEB_FRONT, WEB])
    assert not directory.served("web")
    assert directory.owner("web") == guest


def test_who_wants_no_resolver_gets_none() -> None:
    """A name server of the user's own may want the port."""
    directory = known(replace(WEB, dns=Dns(off=True)), WEB_FRONT)
    assert not directory.served("web")


def test_other_classes_are_refused() -> None:
    """There is only the Internet."""
    query = parse_query(dns.message.make_query("db", "TXT", "CH").to_wire())
    answers = known(WEB_FRONT).answers("web", query, WHOLE)
    assert answers is not None
    assert dns.message.from_wire(answers[0]).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "records"),
    [
        ("web.front.isthmus", "A", "NOERROR", ["10.1.0.2"]),
        ("WEB.Front.Isthmus", "AAAA", "NOERROR", ["fd01::2"]),
        ("db.back.isthmus", "A", "NOERROR", ["10.2.0.3"]),
        ("db.front.isthmus", "A", "NXDOMAIN", []),
        ("web.isthmus", "A", "NXDOMAIN", []),
        ("isthmus", "SOA", "NOERROR", []),
        ("2.0.1.10.in-addr.arpa", "PTR", "NOERROR", ["web.front.isthmus."]),
        ("9.0.1.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("web.front", "A", "REFUSED", []),
        ("example.com", "A", "REFUSED", []),
    ],
)
def test_the_host_names_the_network_with_each_name(name: str, kind: str, rcode: str, records: list[str]) -> None:
    """It stands on none, so nothing is meant without; and what is not below our own domain is not for us."""
    query = parse_query(dns.message.make_query(name, kind).to_wire())
    (first, *_) = known(WEB_FRONT, DB_BACK).answers_on_host(query, WHOLE)
    read = dns.message.from_wire(first)
    assert dns.rcode.to_text(read.rcode()) == rcode
    assert [str(item) for rrset in read.answer for item in rrset] == records
