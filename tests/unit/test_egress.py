"""Egress policies: what their text means, and that their boxes say the same as their rules read one by one."""

from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.dns.lookup import TTL, Directory
from isthmus.dns.message import parse_query
from isthmus.egress import EGRESS, MOST_BOXES, MOST_RULES, Box, Egress, Rule, allowed, egress_of, told
from isthmus.errors import InvalidOption
from isthmus.kernel.netlink import attribute
from isthmus.kernel.nflog import NFULA_PAYLOAD, NFULA_PREFIX, decode
from isthmus.learning import GRACE, Learning
from isthmus.model import pairs
from isthmus.naming import GATEWAY_NETWORK
from isthmus.resources import Element
from isthmus.views import Call
from tests.worlds import endpoint, network, sandbox

TCP, UDP, ICMP = 6, 17, 1


def policy(text: str) -> Egress:
    """The policy that *text* is."""
    found = egress_of(text)
    assert found
    return found


def within(boxes: list[Box] | tuple[Box, ...], call: tuple[int, int, int]) -> int:
    """How many of *boxes* have this protocol, port and address."""
    return sum(all(first <= one <= last for one, (first, last) in zip(call, box, strict=True)) for box in boxes)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("deny", Rule(allows=False)),
        ("ALLOW *", Rule(allows=True)),
        ("allow :53/udp", Rule(allows=True, ports=(53, 53), protocol="udp")),
        ("allow 10.0.0.0/8:5432", Rule(allows=True, target=ip_network("10.0.0.0/8"), ports=(5432, 5432))),
        ("allow 192.0.2.7/tcp", Rule(allows=True, target=ip_network("192.0.2.7"), protocol="tcp")),
        ("allow 2001:db8::/32", Rule(allows=True, target=ip_network("2001:db8::/32"))),
        (
            "allow [2001:db8::1]:80-90/sctp",
            Rule(allows=True, target=ip_network("2001:db8::1"), ports=(80, 90), protocol="sctp"),
        ),
        ("deny [2001:db8::/32]", Rule(allows=False, target=ip_network("2001:db8::/32"))),
        ("allow *.Debian.org:443", Rule(allows=True, target="*.debian.org", ports=(443, 443))),
        ("allow db", Rule(allows=True, target="db")),
        ("allow /icmp", Rule(allows=True, protocol="icmp")),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    """Each of the forms that the documentation has."""
    assert policy(text).rules == (rule,)


def test_a_policy_is_read() -> None:
    """In order, with blanks as one likes; `dry-run` is no rule; nothing is no policy."""
    found = policy(" deny ,allow  10.0.0.0/8, dry-run")
    assert found == Egress((Rule(allows=False), Rule(allows=True, target=ip_network("10.0.0.0/8"))), dry_run=True)
    assert egress_of("") is egress_of(" , ") is egress_of("off") is None
    assert not found.named
    assert policy("deny, allow a.example").named


@pytest.mark.parametrize(
    "text",
    [
        "permit 10.0.0.0/8",
        "allow 10.0.0.1/8",
        "allow 10.0.0",
        "allow 300.0.0.1",
        "allow :0",
        "allow :65536",
        "allow :90-80",
        "allow :80-",
        "allow db:",
        "allow db:http",
        "allow [2001:db8::1]80",
        "allow [2001:db8::1",
        "allow :8/icmp",
        "allow /gre",
        "allow a..b",
        "allow *.*.org",
        "allow -x.org",
        "allow a b",
        "allow :²",
    ],
)
def test_what_is_no_rule_is_refused_by_name(text: str) -> None:
    """The complaint has the option, and the rule as it was written."""
    with pytest.raises(InvalidOption, match=EGRESS) as refusal:
        egress_of(f"deny, {text}, allow 10.0.0.0/8")
    assert text in str(refusal.value)


def test_a_policy_is_no_larger_than_it_may_be() -> None:
    """Neither in rules nor in the boxes that they are cut into."""
    with pytest.raises(InvalidOption, match=f"at most {MOST_RULES} rules"):
        egress_of(", ".join(["deny"] * (MOST_RULES + 1)))
    ports = [f"deny 10.0.{number}.0/24:{number + 1}" for number in range(60)]
    assert len(allowed((policy(", ".join(ports)),), 4)) <= MOST_BOXES
    ports = [f"deny :{2 * number + 1}" for number in range(40)]
    networks = [f"deny 10.{2 * number}.0.0/16" for number in range(40)]
    with pytest.raises(InvalidOption, match="overlap"):
        egress_of(", ".join(ports + networks))


_NETWORKS = ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.1", "10.0.0.2/31", "0.0.0.0/0", "2001:db8::/127"]
_TARGETS = st.sampled_from([None, "a.example", "*.example", "*.a.example", *map(ip_network, _NETWORKS)])
_RULES = st.builds(
    Rule,
    allows=st.booleans(),
    target=_TARGETS,
    ports=st.sampled_from([None, (1, 2), (2, 2), (2, 3), (3, 65535)]),
    protocol=st.sampled_from(["", "tcp", "udp"]),
)
_CALLS = st.tuples(st.sampled_from([ICMP, TCP, UDP, 132]), st.integers(0, 4), st.integers(0, 4))


def passes(rules: list[Rule], call: tuple[int, int, int], name: str = "") -> bool:
    """Whether *call* may be made, read rule by rule, when its address is known as *name*."""
    protocol, port, number = call
    address = ip_address("10.0.0.0") + number
    verdict = True
    for rule in rules:
        match rule.target:
            case None:
                fits = True
            case str():
                fits = bool(name) and rule.names(name)
            case network:
                fits = network.version == 4 and address in network
        numbers = {"": {TCP, UDP, 132} if rule.ports else {ICMP, TCP, UDP, 132}, "tcp": {TCP}, "udp": {UDP}}
        fits = fits and protocol in numbers[rule.protocol]
        fits = fits and (rule.ports is None or rule.ports[0] <= port <= rule.ports[1])
        if fits:
            verdict = rule.allows
    return verdict


@given(
    st.lists(st.lists(_RULES, max_size=7), min_size=1, max_size=3),
    _CALLS,
    st.sampled_from(["a.example", "b.a.example", "example"]),
)
def test_boxes_say_what_the_rules_say(several: list[list[Rule]], call: tuple[int, int, int], name: str) -> None:
    """A call is in one box if all policies let it through, else in none; a name that is told changes what they say."""
    found = tuple(Egress(tuple(rules)) for rules in several)
    base = int(ip_address("10.0.0.0"))
    placed = (call[0], call[1], base + call[2])
    before = within(allowed(found, 4), placed)
    assert before == all(passes(rules, call) for rules in several)
    granted, refused = told(found, name, IPv4Address(placed[2]))
    assert within(granted, placed) + within(refused, placed) <= 1
    assert before + within(granted, placed) - within(refused, placed) == all(
        passes(rules, call, name) for rules in several
    )
    assert not within(granted, (placed[0], placed[1], placed[2] + 1))


def test_the_rules_of_a_network_come_before_those_of_an_endpoint() -> None:
    """So that the endpoint's decide; a rehearsal of either makes one of both."""
    both = policy("deny, dry-run") + policy("allow 10.0.0.0/8")
    assert both == policy("dry-run, deny, allow 10.0.0.0/8")


PACKET4 = bytes.fromhex("450000280000400040060000") + ip_address("10.5.0.9").packed + ip_address("192.0.2.1").packed
PACKET6 = bytes.fromhex("600000000014113f") + ip_address("fd05::9").packed + ip_address("2001:db8::1").packed


def logged(packet: bytes, kind: int = 0x400) -> bytes:
    """A packet as netfilter's log tells of it."""
    body = attribute(NFULA_PREFIX, b"denied\0") + attribute(NFULA_PAYLOAD, packet)
    return (20 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(14) + body


@pytest.mark.parametrize(
    ("packet", "call"),
    [
        (PACKET4 + b"\x30\x39\x01\xbb", Call("denied", "10.5.0.9", "192.0.2.1", TCP, 443)),
        (PACKET6 + b"\x30\x39\x00\x35", Call("denied", "fd05::9", "2001:db8::1", UDP, 53)),
        (PACKET4[:9] + b"\x01" + PACKET4[10:], Call("denied", "10.5.0.9", "192.0.2.1", ICMP, None)),
        (PACKET4, None),
        (PACKET4[:19], None),
        (PACKET6[:39], None),
        (b"", None),
        (b"\x10", None),
    ],
)
def test_what_was_logged_is_read(packet: bytes, call: Call | None) -> None:
    """Of both IP versions; what is too short is passed over."""
    assert decode(logged(packet)) == call
    assert decode(logged(packet, 0x401)) is None


@given(st.binary(max_size=200))
def test_nothing_that_is_logged_can_hurt(junk: bytes) -> None:
    """A sandbox may send what it likes."""
    decode(junk)
    decode(logged(junk))
    decode(logged(b"\x45" + junk))


def test_what_was_told_is_learned_once_and_goes_with_its_policy() -> None:
    """A second answer that is as good changes nothing; who has another policy begins anew."""
    directory, timed, now = Directory(), Kept(), [1000.0]
    learning = Learning(directory, timed, lambda: now[0])
    rules = pairs({EGRESS: "deny, allow db.example:443"})
    front = replace(network(), options=pairs({"isthmus.record.db.example": "192.0.2.1"}))
    web = sandbox()
    place = replace(endpoint(front, web, "10.5.0.9/24"), options=rules)
    directory.learn([front, web, place])
    query = parse_query(bytes.fromhex("000101000001000000000000") + b"\2db\7example\0\0\1\0\1")
    answer = (directory.answers("web", query, 512) or ())[0]
    assert not learning.told("web", query, answer)
    assert {one.set for one in timed.there} == {"granted4"}
    assert set(timed.there.values()) == {TTL + GRACE}
    timed.puts.clear()
    assert not learning.told("web", query, answer)
    assert not timed.puts
    now[0] += TTL + GRACE - 1
    learning.told("web", query, answer)
    assert timed.puts
    timed.there.clear()
    learning.again()
    assert timed.there
    directory.learn([replace(place, options=pairs({EGRESS: "deny, allow db.example:80"}))])
    learning.settle()
    assert not timed.there
    directory.learn([replace(place, options=())])
    assert learning.told("web", query, answer)


def test_what_was_told_on_an_overlay_opens_the_way_out() -> None:
    """That is where the sandbox calls from; and each of its overlays has to let it."""
    directory, timed = Directory(), Kept()
    learning = Learning(directory, timed, lambda: 0.0)
    named = pairs({EGRESS: "deny, allow db.example", "isthmus.record.db.example": "192.0.2.1"})
    multi = replace(network("multi", "overlay"), options=named)
    other = replace(network("other", "overlay", 2), options=pairs({EGRESS: "deny, allow :443"}))
    gateway = replace(network(GATEWAY_NETWORK, number=3), predefined=True)
    web = sandbox()
    inside = endpoint(multi, web, "10.0.9.2/24")
    out = endpoint(gateway, web, "172.18.0.2/16", number=201, ifname="eth1")
    directory.learn([multi, other, gateway, web, inside, out])
    query = parse_query(bytes.fromhex("000101000001000000000000") + b"\2db\7example\0\0\1\0\1")
    answer = (directory.answers("web", query, 512) or ())[0]
    assert not learning.told("web", query, answer)
    device = f"br-{gateway.id[:12]}"
    assert [one.match for one in timed.there] == [(device, "172.18.0.2/32", "0-255", "0-65535", "192.0.2.1/32")]
    directory.learn([endpoint(other, web, "10.0.8.2/24", number=202)])
    learning.settle()
    assert not timed.there
    assert not learning.told("web", query, answer)
    assert {one.match[3] for one in timed.there} == {"443"}


class Kept:
    """Timed elements in memory."""

    def __init__(self) -> None:
        self.there: dict[Element, int] = {}
        self.puts: list[Element] = []

    def put(self, elements: Iterable[Element], seconds: int) -> None:
        """Have *elements* for so long."""
        elements = tuple(elements)
        self.puts += elements
        self.there.update(dict.fromkeys(elements, seconds))

    def drop(self, elements: Iterable[Element]) -> None:
        """Have them no more."""
        for one in elements:
            self.there.pop(one, None)

    def read(self) -> Iterable[tuple[Element, int]]:
        """All there are."""
        return self.there.items()

    def close(self) -> None:
        """Do nothing."""
