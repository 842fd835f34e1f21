"""Who an endpoint is to DHCP servers."""

from enum import Enum
from hashlib import sha256
from ipaddress import IPv6Address

import msgspec

from isthmus.naming import link_local


class Hears(Enum):
    """Which answers of servers reach a client.

    At the parent of a macvlan, and inside a sandbox, all do. At a bridge only broadcasts do: what is for an endpoint's
    MAC goes straight to its port.
    """

    ALL = "all"
    BROADCASTS = "broadcasts"


class Identity(msgspec.Struct, frozen=True):
    """Who a client is. *client_id* is as `client_id` makes it; an empty *hostname* is not told."""

    mac: bytes
    client_id: bytes
    hostname: str = ""
    hears: Hears = Hears.ALL

    @property
    def iaid(self) -> bytes:
        """The number of the interface, which DHCPv6 wants by itself."""
        return self.client_id[1:5]

    @property
    def duid(self) -> bytes:
        """The number of the machine, which DHCPv6 wants by itself."""
        return self.client_id[5:]

    @property
    def link_local(self) -> IPv6Address:
        """The address that the client's own interface has by itself."""
        return link_local(self.mac.hex(":"))


def client_id(network: str, sandbox: str) -> bytes:
    """The client identifier (RFC 4361) of the sandbox of that name on the network of that ID: it never changes.

    That is 255, four bytes for the interface, and a DUID made of a UUID (RFC 6355). Servers know a client by it in both
    families, whatever its MAC is.
    """
    digest = sha256(f"{network} {sandbox}".encode()).digest()
    # A UUID of version 8, which its maker makes up as he likes (RFC 9562, 5.8).
    uuid = digest[:6] + bytes([digest[6] & 0x0F | 0x80, digest[7], digest[8] & 0x3F | 0x80]) + digest[9:16]
    return b"\xff" + digest[16:20] + b"\x00\x04" + uuid
