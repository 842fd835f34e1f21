"""Records as a store keeps them: a key that is a path, and bytes that are JSON.

    network/<id>   endpoint/<network>/<id>   sandbox/<id>   link/<sandbox>/<id>   setting/<id>   lease/<network>/<name>
    port/<sandbox>/<protocol>/<port>/<address>   peer/<network>/<id>
    block/<network>/<address>-<prefix length>

A value is `{"format": 1, "record": {...}}`, with the fields of the record by name and addresses as text. A field that
is lacking has its default, and one that is unknown is passed over. So a field can be added to a record, and either
version of the program reads what the other wrote; the format's number grows with changes that this does not cover.

How a field is read back follows from its type in `model`; nothing here has to be changed when a record gains a field.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import Union, get_args, get_origin, get_type_hints

import msgspec

from isthmus.addresses import IPNetwork
from isthmus.errors import InvalidRequest, StoreUnavailable
from isthmus.model import (
    Binding,
    Block,
    Endpoint,
    HandLink,
    IPAddress,
    IPInterface,
    Lease,
    Network,
    Peer,
    Record,
    Sandbox,
    Setting,
)

FORMAT = 1
"""The format that is written, and the highest that is read."""

_Reader = Callable[[object], object]
"""What makes a value of JSON's; it raises ValueError or TypeError where that cannot be."""

_PARSERS: dict[object, Callable[[str], object]] = {
    IPAddress: lru_cache(maxsize=4096)(ip_address),  # all endpoints of a host have the same
    IPInterface: ip_interface,
    IPNetwork: ip_network,
}
_PREFIXES: dict[type, str] = {
    Network: "network",
    Sandbox: "sandbox",
    Setting: "setting",
    Endpoint: "endpoint",
    Peer: "peer",
}
_encoder = msgspec.json.Encoder(enc_hook=str)


def key(record: Record) -> str:
    """Return the key under which *record* is kept."""
    match record:
        case Network() | Sandbox() | Setting():
            return f"{_PREFIXES[type(record)]}/{record.id}"
        case Endpoint() | Peer():
            return f"{_PREFIXES[type(record)]}/{record.network}/{record.id}"
        case Binding(place=place):
            return f"port/{record.sandbox}/{place.protocol}/{place.port}/{place.address or '*'}"
        case HandLink():
            return f"link/{record.sandbox}/{record.id}"
        case Lease():
            return f"lease/{record.network}/{record.name}"
        case Block():
            return f"block/{record.network}/{str(record.cidr).replace('/', '-')}"


def encode(record: Record) -> bytes:
    """Return the value of *record*.

    Raises:
        InvalidRequest: it holds text that is not Unicode.
    """
    try:
        return _encoder.encode({"format": FORMAT, "record": record})
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{key(record)!r} cannot be stored: {error}") from None


def decode(path: str, data: bytes) -> Record:
    """Return the record that *data*, kept under *path*, stands for.

    Raises:
        StoreUnavailable: the value is damaged, is not that of *path*, or has a newer format.
    """
    try:
        envelope = msgspec.json.decode(data)
        written = envelope["format"]
        if isinstance(written, int) and written > FORMAT:
            raise _newer(path, written)
        record = _RECORDS[path.partition("/")[0]](envelope["record"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(record, Record) or key(record) != path:
        raise _damaged(path, "it belongs to another key")
    return record


def _newer(path: str, written: int) -> StoreUnavailable:
    return StoreUnavailable(
        f"record {path} has format {written}, and this version knows formats up to {FORMAT}: "
        "start the version that wrote it"
    )


def _damaged(path: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"record {path} is damaged ({reason}): restore the store from a backup, or delete the record "
        "and make the thing anew"
    )


def _reader(kind: object) -> _Reader:
    """Return the reader of values of the type *kind*."""
    if kind in _PARSERS:
        return _address_reader(_PARSERS[kind])
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        return _list_reader(arguments[0]) if arguments[1:] == (...,) else _pair_reader(*arguments)
    if type(None) in arguments:
        return _optional_reader(Union[*(one for one in arguments if one is not type(None))])
    if isinstance(kind, type):
        return _record_reader(kind) if issubclass(kind, msgspec.Struct) else _exact_reader(kind)
    raise TypeError(f"a record cannot hold a {kind}")


def _address_reader(parse: Callable[[str], object]) -> _Reader:
    def read(value: object) -> object:
        # Given a number, `ipaddress` would take that for an address.
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no address")
        return parse(value)

    return read


def _exact_reader(kind: type) -> _Reader:
    def read(value: object) -> object:
        # Not isinstance: a bool is an int.
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value

    return read


def _optional_reader(kind: object) -> _Reader:
    read = _reader(kind)
    return lambda value: None if value is None else read(value)


def _list_reader(kind: object) -> _Reader:
    item = _reader(kind)

    def read(value: object) -> object:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no list")
        return tuple(map(item, value))

    return read


def _pair_reader(first: object, second: object) -> _Reader:
    read_first, read_second = _reader(first), _reader(second)

    def read(value: object) -> object:
        if not isinstance(value, list) or len(value) != 2:
            raise TypeError(f"{value!r} is no pair")
        return read_first(value[0]), read_second(value[1])

    return read


def _record_reader(kind: Callable[..., object]) -> _Reader:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object")
        return kind(**{name: readers[name](item) for name, item in value.items() if name in readers})

    return read


_RECORDS = {
    "network": _record_reader(Network),
    "endpoint": _record_reader(Endpoint),
    "sandbox": _record_reader(Sandbox),
    "port": _record_reader(Binding),
    "link": _record_reader(HandLink),
    "setting": _record_reader(Setting),
    "lease": _record_reader(Lease),
    "peer": _record_reader(Peer),
    "block": _record_reader(Block),
}
