"""What others said, and for how long it is worth something; time is whatever a test says it is."""

import dns.flags
import dns.message
import dns.rrset

from isthmus.dns.cache import LONGEST, LONGEST_DENIAL, STALE, Cache
from isthmus.dns.message import Reply, parse_reply


class Time:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def reply(ttl: int = 60, *, rcode: str = "NOERROR", soa: tuple[int, int] | None = None) -> Reply:
    """An answer with an address, or, with the TTL and the minimum of a *soa*, one that denies."""
    made = dns.message.make_response(dns.message.make_query("a.example", "A"))
    made.set_rcode(dns.rcode.from_text(rcode))
    if soa is None:
        made.answer.append(dns.rrset.from_text("a.example.", ttl, "IN", "A", "192.0.2.1"))
    else:
        text = f"ns.example. root.example. 1 2 3 4 {soa[1]}"
        made.authority.append(dns.rrset.from_text("example.", soa[0], "IN", "SOA", text))
    return parse_reply(made.to_wire())


def test_an_answer_is_good_for_its_ttl() -> None:
    """Not a second longer; its age is told."""
    time = Time()
    cache = Cache(time)
    kept = reply(60)
    cache.put("q", kept)
    time.now += 59.9
    assert cache.fresh("q") == (kept, 59)
    time.now += 0.1
    assert cache.fresh("q") is None


def test_an_answer_without_time_is_not_kept() -> None:
    """Who says 0 wants to be asked each time."""
    cache = Cache(Time())
    cache.put("q", reply(0))
    assert len(cache) == 0


def test_a_denial_is_good_for_what_its_authority_says() -> None:
    """The lesser of its record's TTL and its minimum (RFC 2308, section 5)."""
    for rcode in ("NXDOMAIN", "NOERROR"):
        assert reply(rcode=rcode, soa=(300, 20)).lifetime == 20
        assert reply(rcode=rcode, soa=(10, 20)).lifetime == 10


def test_a_denial_without_an_authority_is_not_kept() -> None:
    """Nobody says for how long it holds (RFC 2308, section 5)."""
    made = dns.message.make_response(dns.message.make_query("a.example", "A"))
    made.set_rcode(dns.rcode.NXDOMAIN)
    assert parse_reply(made.to_wire()).lifetime is None


def test_a_failure_is_not_kept() -> None:
    """The next try may go better."""
    assert reply(60, rcode="SERVFAIL").lifetime is None


def test_what_was_cut_off_is_not_kept() -> None:
    """It is not all that there is to say."""
    made = dns.message.make_response(dns.message.make_query("a.example", "A"))
    made.flags |= dns.flags.TC
    assert parse_reply(made.to_wire()).lifetime is None


def test_nothing_is_believed_for_ever() -> None:
    """A mistake of somebody's has an end, and that something is not there ends sooner."""
    time = Time()
    cache = Cache(time)
    cache.put("q", reply(2**31 - 1))
    cache.put("n", reply(rcode="NXDOMAIN", soa=(2**31 - 1, 2**31 - 1)))
    time.now += LONGEST_DENIAL
    assert cache.fresh("n") is None
    assert cache.fresh("q")
    time.now += LONGEST - LONGEST_DENIAL
    assert cache.fresh("q") is None


def test_an_old_answer_is_better_than_none_for_a_while() -> None:
    """While upstream is down, the world goes on (RFC 8767); what nobody needed for a day is forgotten."""
    time = Time()
    cache = Cache(time)
    kept = reply(60)
    cache.put("q", kept)
    time.now += 60 + STALE - 1
    assert cache.stale("q") == kept
    time.now += 1
    assert cache.stale("q") is None
    assert (len(cache), cache.size) == (0, 0)


def test_there_is_a_bound_to_the_number_of_answers() -> None:
    """Who asks for ever more names drives out what nobody has asked for the longest."""
    cache = Cache(Time(), entries=3)
    for key in "abc":
        cache.put(key, reply())
    cache.fresh("a")
    cache.put("d", reply())
    assert [key for key in "abcd" if cache.fresh(key)] == ["a", "c", "d"]


def test_there_is_a_bound_to_their_octets() -> None:
    """A few large answers take as much as many small ones."""
    cache = Cache(Time(), octets=2000)
    for key in "abcdefgh":
        cache.put(key, reply())
        assert cache.size <= 2000
    assert cache.fresh("h")
