"""DNS messages (RFC 1035, RFC 6891), packed by hand, for a resolver that answers short questions and passes others on.

A query has one question; what it says besides is read as far as EDNS0 needs it. Of an answer from elsewhere only the
outline is read: where its TTLs are, and for how long it may be kept. Nothing here trusts a length that it was given.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is an exception class

import msgspec

A, CNAME, SOA, PTR, AAAA, OPT, ANY = 1, 5, 6, 12, 28, 41, 255
"""Types of records (RFC 1035, section 3.2.2; RFC 3596; RFC 6891)."""

IN = 1
"""The class of the Internet."""

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
"""Response codes; the last one needs EDNS0."""

PLAIN = 512
"""What a datagram holds where nobody has said that it may hold more."""

PAYLOAD = 1232
"""What we take and give by UDP over a network: a datagram of this size is not fragmented anywhere."""

LOCAL = 4096
"""What we give at most by UDP inside a machine, where nothing is fragmented at all."""

WHOLE = 65535
"""What a message over TCP holds."""

_QR, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE = 0x7800
_DO = 0x8000  # of the flags that EDNS0 adds
_POINTER = 0xC0
_MOST_NAME, _MOST_LABEL = 255, 63
_MOST_RECORDS = 4096

_HEADER = Struct(">HHHHHH")
_KIND = Struct(">HH")
_RECORD = Struct(">HHIH")
_OPTION = Struct(">BHHBBHH")
_TTL = Struct(">I")
_FLAGS = Struct(">H")
_QUESTION_NAME = b"\xc0\x0c"  # a pointer to where the question begins


class Malformed(ValueError):
    """A message that cannot be meant; *rcode* is what to answer, None if it is not to be answered at all."""

    def __init__(self, reason: str, rcode: int | None = FORMERR) -> None:
        super().__init__(reason)
        self.rcode = rcode


class Query(msgspec.Struct, frozen=True):
    r"""A question: its *name* in lower case without the last dot, and as it stood in the message, *question*.

    A dot inside a label is `\.` in *name*. *Payload* is the size of datagrams that EDNS0 offers; 0 without EDNS0.
    """

    id: int
    flags: int
    question: bytes
    name: str
    type: int
    klass: int
    payload: int = 0
    dnssec: bool = False

    @property
    def key(self) -> tuple[bytes, bool, bool, bool]:
        """What two queries have in common that can have the same answer."""
        name, kind = self.question[:-4], self.question[-4:]
        return name.lower() + kind, bool(self.payload), self.dnssec, bool(self.flags & _CD)

    @property
    def limit(self) -> int:
        """How long an answer by UDP may be."""
        return min(max(PLAIN, self.payload), LOCAL)


class Reply(msgspec.Struct, frozen=True):
    """An answer from elsewhere, its TTLs at the offsets *ttls*, that may be kept for *lifetime* seconds; None: not.

    *Denies* tells that it says of something that it is not there.
    """

    data: bytes
    id: int
    rcode: int
    truncated: bool
    key: bytes
    ttls: tuple[int, ...]
    lifetime: int | None
    denies: bool


def parse_query(data: bytes) -> Query:
    """The query that *data* is.

    Raises:
        Malformed: it is none.
    """
    if len(data) < _HEADER.size:
        raise Malformed("shorter than a header", None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        raise Malformed("an answer where a query belongs", None)
    if flags & _OPCODE:
        raise Malformed("no standard query", NOTIMP)
    if questions != 1:
        raise Malformed(f"{questions} questions")
    labels: list[bytes] = []
    at = _HEADER.size
    try:
        while length := data[at]:
            if length > _MOST_LABEL:
                raise Malformed("a question's name with a pointer")
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        end = at + 5
        kind, klass = _KIND.unpack_from(data, at + 1)
    except (IndexError, StructError):
        raise Malformed("a question that is cut off") from None
    if end - 4 - _HEADER.size > _MOST_NAME:
        raise Malformed("a name that is too long")
    name = b".".join([label.replace(b".", b"\\.") for label in labels] if data.count(b".", 12, at) else labels)
    payload, dnssec = _edns(data, end, answers + authorities + additional) if len(data) > end else (0, False)
    question = data[_HEADER.size : end]
    return Query(number, flags, question, name.lower().decode("latin-1"), kind, klass, payload, dnssec)


def _edns(data: bytes, at: int, count: int) -> tuple[int, bool]:
    """What EDNS0 says in the *count* records from offset *at*: the size that it offers, and whether it wants DNSSEC."""
    found: tuple[int, bool] | None = None
    for _, kind, size, extra, _, _ in _records(data, at, count):
        if kind != OPT:
            continue
        if found:
            raise Malformed("EDNS0 twice")
        if extra >> 16 & 0xFF:
            raise Malformed("an unknown version of EDNS", BADVERS)
        found = max(size, PLAIN), bool(extra & _DO)
    return found or (0, False)


def _records(data: bytes, at: int, count: int) -> Iterable[tuple[int, int, int, int, int, int]]:
    """The *count* records from offset *at*: each with where its type is, type, class, TTL, where its data is, its size.

    Raises:
        Malformed: one is cut off.
    """
    if count > _MOST_RECORDS:
        raise Malformed(f"{count} records")
    for _ in range(count):
        at = _after_name(data, at)
        try:
            kind, klass, ttl, size = _RECORD.unpack_from(data, at)
        except StructError:
            raise Malformed("a record that is cut off") from None
        body = at + _RECORD.size
        if body + size > len(data):
            raise Malformed("a record that is cut off")
        yield at, kind, klass, ttl, body, size
        at = body + size


def _after_name(data: bytes, at: int) -> int:
    """The offset behind the name that begins at offset *at*; what pointers lead to is not looked at."""
    try:
        while length := data[at]:
            if length >= _POINTER:
                return at + 2
            if length > _MOST_LABEL:
                raise Malformed("a label of an unknown kind")
            at += 1 + length
    except IndexError:
        raise Malformed("a name that is cut off") from None
    return at + 1


# Answers of our own.


def complaint(data: bytes, rcode: int) -> bytes:
    """The answer to *data*, of at least a header, that it cannot be answered; without the question, which may be none.

    Where EDNS0 is of a version that we do not speak, it is told in EDNS0 that ours is 0.
    """
    number, flags, *_ = _HEADER.unpack_from(data)
    said = _QR | (flags & (_OPCODE | _RD)) | (rcode & 0xF)
    option = _option(rcode, dnssec=False) if rcode > 0xF else b""
    return _HEADER.pack(number, said, 0, 0, 0, bool(option)) + option


def answer(query: Query, records: Iterable[bytes] = (), rcode: int = NOERROR, limit: int = WHOLE) -> bytes:
    """The answer to *query* with these *records*; with those that fit, and so marked, if it would exceed *limit*."""
    option = _option(rcode, dnssec=query.dnssec) if query.payload else b""
    said = _QR | _RA | (query.flags & (_RD | _CD)) | rcode
    room = limit - _HEADER.size - len(query.question) - len(option)
    kept: list[bytes] = []
    for record in records:
        room -= len(record)
        if room < 0:
            said |= _TC
            break
        kept.append(record)
    header = _HEADER.pack(query.id, said, 1, len(kept), 0, bool(option))
    return b"".join((header, query.question, *kept, option))


def _option(rcode: int, *, dnssec: bool) -> bytes:
    return _OPTION.pack(0, OPT, PAYLOAD, rcode >> 4, 0, _DO if dnssec else 0, 0)


def record(kind: int, ttl: int, data: bytes) -> bytes:
    """A record of what was asked for, by a pointer to the question's name."""
    return _QUESTION_NAME + _RECORD.pack(kind, IN, ttl, len(data)) + data


def encode_name(name: str) -> bytes | None:
    """*Name*, labels with dots between them, as it stands in a message; None if it cannot."""
    try:
        labels = [label.encode("ascii") for label in name.removesuffix(".").split(".")]
    except UnicodeEncodeError:
        return None
    encoded = b"".join(bytes((len(label) & 0xFF,)) + label for label in labels) + b"\0"
    fits = all(0 < len(label) <= _MOST_LABEL for label in labels) and len(encoded) <= _MOST_NAME
    return encoded if fits else None


# Questions to others, and their answers.


def ask(query: Query, number: int) -> bytes:
    """The message that asks an upstream server what *query* asks, under this *number*."""
    option = _OPTION.pack(0, OPT, PAYLOAD, 0, 0, _DO if query.dnssec else 0, 0) if query.payload else b""
    flags = _RD | (query.flags & (_AD | _CD))
    return _HEADER.pack(number, flags, 1, 0, 0, bool(option)) + query.question + option


def parse_reply(data: bytes) -> Reply:
    """The answer that *data* is.

    Raises:
        Malformed: it is none.
    """
    if len(data) < _HEADER.size:
        raise Malformed("shorter than a header")
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if not flags & _QR or flags & _OPCODE or questions != 1:
        raise Malformed("no answer to one question")
    end = _after_name(data, _HEADER.size) + _KIND.size
    if end > len(data):
        raise Malformed("a question that is cut off")
    rcode, truncated = flags & 0xF, bool(flags & _TC)
    ttls: list[int] = []
    lives: list[int] = []
    denied: int | None = None
    records = () if truncated else _records(data, end, answers + authorities + additional)
    for index, (at, kind, _, ttl, body, size) in enumerate(records):
        if kind == OPT:
            continue
        ttls.append(at + _KIND.size)
        ttl = ttl if ttl < 2**31 else 0  # noqa: PLW2901 - RFC 2181, section 8
        if index < answers:
            lives.append(ttl)
        elif kind == SOA and index < answers + authorities and size > _TTL.size:
            denied = min(ttl, *_TTL.unpack_from(data, body + size - _TTL.size))  # RFC 2308, section 5
    lifetime = None
    if not truncated and rcode in {NOERROR, NXDOMAIN}:
        # A chain of aliases that ends in nothing is denied by the authority that follows it.
        lives += [denied] if denied is not None else []
        positive = rcode == NOERROR and answers
        lifetime = min(lives) if lives and (positive or denied is not None) else None
    name, kind_ = data[_HEADER.size : end - 4].lower(), data[end - 4 : end]
    return Reply(data, number, rcode, truncated, name + kind_, tuple(ttls), lifetime, denied is not None)


def addresses(data: bytes) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    """The addresses that the answer *data* has, of whatever name, each with its TTL in seconds.

    Raises:
        Malformed: it is no answer.
    """
    if len(data) < _HEADER.size:
        raise Malformed("shorter than a header")
    _, _, questions, answers, _, _ = _HEADER.unpack_from(data)
    at = _HEADER.size
    for _ in range(questions):
        at = _after_name(data, at) + _KIND.size
    for _, kind, klass, ttl, body, size in _records(data, at, answers):
        if (kind, klass, size) in _ADDRESSES:
            packed = data[body : body + size]
            yield (IPv4Address(packed) if kind == A else IPv6Address(packed)), ttl if ttl < 2**31 else 0


_ADDRESSES = {(A, IN, 4), (AAAA, IN, 16)}


def relay(reply: Reply, query: Query, limit: int = WHOLE, *, age: int = 0, ttl: int | None = None) -> bytes:
    """*Reply* as the answer to *query*, its TTLs less an *age* in seconds, or all *ttl*; truncated if above *limit*."""
    data = bytearray(reply.data)
    (said,) = _FLAGS.unpack_from(data, 2)
    said = (said & ~_RD) | _RA | (query.flags & _RD)
    end = _HEADER.size + len(query.question)
    if len(data) > limit:
        option = _option(NOERROR, dnssec=query.dnssec) if query.payload else b""
        return _HEADER.pack(query.id, said | _TC, 1, 0, 0, bool(option)) + query.question + option
    _FLAGS.pack_into(data, 0, query.id)
    _FLAGS.pack_into(data, 2, said)
    data[_HEADER.size : end] = query.question
    for at in reply.ttls if age or ttl is not None else ():
        (given,) = _TTL.unpack_from(data, at)
        _TTL.pack_into(data, at, max(0, given - age) if ttl is None else ttl)
    return bytes(data)
