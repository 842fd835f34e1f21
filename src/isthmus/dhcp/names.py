"""Domain names in options: one as text, or a list in the wire format of DNS.

What a server says here may end up in a `resolv.conf`, so a name holds letters, digits, hyphens and underscores, or it
does not count.
"""

import re
from collections.abc import Iterable

from isthmus.dhcp.frame import Malformed

_NAME = re.compile(r"(?!.{254})[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


def name(data: bytes) -> str:
    """Return the name that *data* holds as text, without the dot or the zeros that some servers let it end in.

    Raises:
        Malformed: it is none.
    """
    text = data.decode("ascii", "replace").rstrip("\0").removesuffix(".")
    if not _NAME.fullmatch(text):
        raise Malformed(f"{text!r} is no domain name")
    return text


def encode(names: Iterable[str]) -> bytes:
    """Return a list of names as DNS writes it, uncompressed."""
    return b"".join(b"".join(bytes([len(label)]) + label.encode() for label in one.split(".")) + b"\0" for one in names)


def decode(data: bytes) -> tuple[str, ...]:
    """Return the names in *data*, each of which may end in a pointer to an earlier place (RFC 1035, 4.1.4; RFC 3397).

    Raises:
        Malformed: the list is cut off, points forward, or holds something that is no name.
    """
    names = []
    offset = 0
    while offset < len(data):
        labels, offset = _labels(data, offset)
        names.append(name(b".".join(labels)))
    return tuple(names)


def _labels(data: bytes, offset: int) -> tuple[list[bytes], int]:
    """The labels of the name at *offset*, and where the next one begins."""
    labels: list[bytes] = []
    following, limit = 0, offset
    while True:
        size = _byte(data, offset)
        if size >= 0xC0:
            pointer = (size & 0x3F) << 8 | _byte(data, offset + 1)
            following = following or offset + 2
            # Each pointer must lead before all that was read: so the way ends.
            if pointer >= limit:
                raise Malformed("a domain name points forward")
            offset = limit = pointer
        elif size == 0:
            return labels, following or offset + 1
        else:
            labels.append(data[offset + 1 : offset + 1 + size])
            offset += 1 + size


def _byte(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise Malformed("a domain name is cut off")
    return data[offset]
