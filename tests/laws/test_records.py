"""Law: what was stored comes back as it was, whatever it holds, and what is damaged is told as such."""

import contextlib
import json
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isthmus.errors import InvalidRequest, StoreUnavailable
from isthmus.model import Binding, Endpoint, HandLink, HandRoute, Lease, Network, Place, Record, Sandbox, Setting
from isthmus.store import records

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
IDS = st.text("0123456789abcdef", min_size=1, max_size=64)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", fullmatch=True)
ZONED = st.builds("fe80::{:x}%{}".format, st.integers(0, 2**16 - 1), st.sampled_from(["eth0", "1"]))

for address, interface, network, bits in (
    (IPv4Address, IPv4Interface, IPv4Network, 32),
    (IPv6Address, IPv6Interface, IPv6Network, 128),
):
    numbers, prefixes = st.integers(0, 2**bits - 1), st.integers(0, bits)
    st.register_type_strategy(address, st.builds(address, numbers))
    st.register_type_strategy(interface, st.builds(lambda *pair, make=interface: make(pair), numbers, prefixes))
    st.register_type_strategy(
        network, st.builds(lambda *pair, make=network: make(pair, strict=False), numbers, prefixes)
    )
st.register_type_strategy(IPv6Address, st.builds(IPv6Address, st.integers(0, 2**128 - 1)) | ZONED.map(IPv6Address))
st.register_type_strategy(str, TEXT)

PLACES = st.builds(Place, st.sampled_from(("tcp", "udp", "sctp")))

RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(Network, id=IDS),
    st.builds(Endpoint, id=IDS, network=IDS),
    st.builds(Sandbox, id=IDS),
    st.builds(Binding, sandbox=IDS, place=PLACES, callers=st.sampled_from(["", "open", "follow", "on eth0"])),
    st.builds(HandLink, id=IDS, sandbox=IDS),
    st.builds(Setting, id=IDS),
    st.builds(Lease, network=IDS, name=NAMES),
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    """The daemon knows nothing after a restart but what comes back."""
    assert records.decode(records.key(record), records.encode(record)) == record


@given(RECORDS, RECORDS)
def test_two_records_share_a_key_only_if_they_are_one_thing(one: Record, other: Record) -> None:
    """A record that overwrote another's would lose that."""

    def identity(record: Record) -> tuple[object, ...]:
        return type(record), *(getattr(record, field, "") for field in ("id", "network", "name", "sandbox", "place"))

    same = identity(one) == identity(other) if isinstance(one, Lease) else identity(one)[:3] == identity(other)[:3]
    assert (records.key(one) == records.key(other)) <= same


@given(RECORDS, st.binary(max_size=3), st.data())
def test_damage_is_never_taken_for_another_record(record: Record, junk: bytes, data: st.DataObject) -> None:
    """A flipped bit on a disk ends in the one error that the daemon tells, or in a record of the same key."""
    key, value = records.key(record), records.encode(record)
    at = data.draw(st.integers(0, len(value)))
    damaged = value[:at] + junk + value[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(StoreUnavailable):
        assert records.key(records.decode(key, damaged)) == key


NETWORK = Network(id="ab", name="front", driver="bridge", created=1, labels=(("a", "b"),))
LINK = HandLink(
    id="c",
    sandbox="ab",
    created=1,
    type="veth",
    ifname="eth0",
    addresses=(ip_interface("10.9.0.2/24"),),
    routes=(HandRoute("0.0.0.0/0", ip_address("10.9.0.1")),),
)


def test_keys_are_paths_by_kind() -> None:
    """Prefix reads, and stores shared between hosts, go by them."""
    assert records.key(NETWORK) == "network/ab"
    assert records.key(Endpoint("e", "ab", "s", 1, "eth0", "")) == "endpoint/ab/e"
    assert records.key(Sandbox("s", "web", 1, "web", "none")) == "sandbox/s"
    assert records.key(LINK) == "link/ab/c"
    assert records.key(Setting("closed4", "x")) == "setting/closed4"
    assert records.key(Lease("ab", "web", (), "", 1)) == "lease/ab/web"


def test_a_stored_value_is_json_that_people_can_read() -> None:
    """Whoever mends a store by hand finds fields by name and addresses as text."""
    value = json.loads(records.encode(LINK))
    assert value["format"] == 1
    assert value["record"]["addresses"] == ["10.9.0.2/24"]
    assert value["record"]["routes"] == [{"destination": "0.0.0.0/0", "gateway": "10.9.0.1"}]
    assert set(value["record"]) == set(HandLink.__struct_fields__)


def test_unknown_fields_are_passed_over_and_lacking_ones_have_their_defaults() -> None:
    """A newer version adds fields, and its records must be readable after a step back; so must older ones before it."""
    value = json.loads(records.encode(NETWORK))
    value["record"]["colour"] = {"red": 1}
    del value["record"]["labels"], value["record"]["scope"]
    assert records.decode("network/ab", json.dumps(value).encode()) == replace(NETWORK, labels=())


def test_a_newer_format_is_refused() -> None:
    """What we would misread, we do not read."""
    with pytest.raises(StoreUnavailable, match=r"network/ab has format 2.* start the version that wrote it"):
        records.decode("network/ab", b'{"format": 2, "record": {}}')


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("network/ab", b""),
        ("network/ab", b"null"),
        ("network/ab", b"[]"),
        ("network/ab", b"{}"),
        ("network/ab", b'{"format": "x", "record": {}}'),
        ("network/ab", b'{"format": 1, "record": []}'),
        ("network/ab", b'{"format": 1, "record": {"id": "ab"}}'),
        ("network/ab", b"[" * 100_000),
        ("network/ab", records.encode(NETWORK).replace(b'"created":1', b'"created":true')),
        ("network/ab", records.encode(NETWORK).replace(b'["a","b"]', b'["a"]')),
        ("link/ab/c", records.encode(LINK).replace(b'"10.9.0.1"', b"7")),
        ("network/cd", records.encode(NETWORK)),
        ("sandbox/ab", records.encode(NETWORK)),
        ("colour/ab", records.encode(NETWORK)),
        ("", b"{}"),
    ],
)
def test_a_value_that_is_none_of_ours_is_refused(key: str, data: bytes) -> None:
    """Each kind of damage gets the same clear answer."""
    with pytest.raises(StoreUnavailable, match=f"record {key} is damaged"):
        records.decode(key, data)


def test_text_that_is_no_unicode_is_a_bad_request() -> None:
    """JSON from outside can hold text that is no Unicode; it must not become a failure of ours."""
    with pytest.raises(InvalidRequest, match="'network/ab' cannot be stored"):
        records.encode(replace(NETWORK, name="\ud800"))
