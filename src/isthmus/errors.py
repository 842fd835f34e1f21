"""Everything that can go wrong, as one tree.

Each class carries what the edges answer with, so that each edge translates in one place: `status` (HTTP, with the
kind that moby's `httpstatus` gives it), `cni` (CNI spec 1.1, error codes) and `exit_code` (the command line).

    IsthmusError                        500  999    1   ours, or the kernel's, but never the caller's fault
    ├── InvalidRequest                  400    7  125
    │   ├── InvalidOption                             one key with a value that cannot be
    │   ├── InvalidSubnet                             an IPAM configuration that cannot be
    │   ├── Ambiguous                                 a name or ID prefix that several things answer to
    │   └── NoMoreSubnets                             the default pools hold no further network
    ├── NotFound                        404    3    1
    │   ├── NetworkNotFound
    │   └── SandboxNotFound
    ├── Forbidden                       403    7    1
    │   ├── Predefined                                bridge, host and none are not the user's to make or remove
    │   ├── NetworkInUse
    │   ├── AddressInUse
    │   │   └── AddressElsewhere                      ... and it is a machine on the wire that is not ours
    │   ├── PoolOverlap
    │   └── AlreadyConnected
    ├── NameTaken                       409    7    1
    ├── Busy                            409   11    1   the same request is being served already
    ├── PoolExhausted                   500   11    1
    ├── NotConnected                    500    7    1
    ├── StoreUnavailable                503   50    1
    ├── PortTaken                       500    7    1   a port of the host that somebody has
    ├── NotImplementedHere              501    7    1   part of Docker's API, but not of ours
    ├── DeviceUnavailable               500   11    1   a link that we would listen on is gone, down or no Ethernet
    └── Refused                         500  100    1   the kernel said no to one operation

Messages use Docker's words where Docker has them (moby 29, `daemon/network.go` and `daemon/libnetwork/error.go`);
where it has none, one lower-case sentence names the key, the value and the way out.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar, TypeVar


class IsthmusError(Exception):
    """Any failure that is told to a user; `str()` of it is the whole message."""

    status: ClassVar[int] = 500
    cni: ClassVar[int] = 999
    exit_code: ClassVar[int] = 1


class InvalidRequest(IsthmusError):
    """The request cannot be meant as it stands; nothing was done."""

    status = 400
    cni = 7
    exit_code = 125


class InvalidOption(InvalidRequest):
    """The option *key* cannot have *value*; *hint* says what it can have."""

    def __init__(self, key: str, value: object, hint: str) -> None:
        super().__init__(f"failed to parse {key} value: {value} ({hint})")
        self.key, self.value, self.hint = key, value, hint


class InvalidSubnet(InvalidRequest):
    """An IPAM configuration with *problems*, each one sentence; all of them are told at once, as moby lists them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        bullet = "* " if len(self.problems) > 1 else ""
        super().__init__("invalid network config:\n" + "\n".join(bullet + problem for problem in self.problems))


class Ambiguous(InvalidRequest):
    """*Name* fits *count* things of this *kind*; *by* is "name" or "ID prefix"."""

    def __init__(self, kind: str, name: str, count: int, by: str) -> None:
        super().__init__(f"{kind} {name} is ambiguous ({count} matches found based on {by})")


class NoMoreSubnets(InvalidRequest):
    """Every subnet of the default pools is used, denied, or routed by the host."""

    def __init__(self) -> None:
        super().__init__("all predefined address pools have been fully subnetted")


class NotFound(IsthmusError):
    """What was named is not there."""

    status = 404
    cni = 3


class NetworkNotFound(NotFound):
    """No network answers to *name*."""

    def __init__(self, name: str) -> None:
        super().__init__(f"network {name} not found")


class SandboxNotFound(NotFound):
    """No sandbox answers to *name* (Docker's clients know it as a container)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such container: {name}")


class Forbidden(IsthmusError):
    """It is understood, and refused as things stand."""

    status = 403
    cni = 7


class Predefined(Forbidden):
    """The network *name* is there from the start: it can be neither made nor removed."""

    @classmethod
    def creating(cls, name: str) -> "Predefined":
        """The refusal to make a network of this *name* (moby ends it with a blank, which tests compare)."""
        return cls(f"operation is not permitted on predefined {name} network ")

    @classmethod
    def removing(cls, name: str) -> "Predefined":
        """The refusal to remove it."""
        return cls(f"{name} is a pre-defined network and cannot be removed")


class NetworkInUse(Forbidden):
    """The network *name* still has *endpoints*, given as pairs of sandbox name and endpoint ID."""

    def __init__(self, name: str, endpoints: Iterable[tuple[str, str]]) -> None:
        users = ", ".join(f'name:"{user}" id:"{endpoint[:12]}"' for user, endpoint in endpoints)
        super().__init__(f"error while removing network: network {name} has active endpoints ({users})")


class AddressInUse(Forbidden):
    """Somebody has *address* already."""

    def __init__(self, address: object) -> None:
        super().__init__("Address already in use")
        self.address = address


class AddressElsewhere(AddressInUse):
    """A machine on the wire of *segment*, with this *mac*, has *address* already; or it is the host itself."""

    def __init__(self, address: object, mac: str, segment: str) -> None:
        super().__init__(address)
        self.args = (f"Address already in use: on the wire of {segment}, {address} is at {mac}",)


class PoolOverlap(Forbidden):
    """The subnet overlaps that of another network, or a route of the host, in the same segment."""

    def __init__(self) -> None:
        super().__init__("invalid pool request: Pool overlaps with other one on this address space")


class AlreadyConnected(Forbidden):
    """The sandbox stands on this network already."""

    def __init__(self, sandbox: str, network: str) -> None:
        super().__init__(f"endpoint with name {sandbox} already exists in network {network}")


class NameTaken(IsthmusError):
    """Something of this kind has that name already; the message is the whole sentence."""

    status = 409
    cni = 7


class Busy(IsthmusError):
    """The same work is under way for another caller."""

    status = 409
    cni = 11


class PoolExhausted(IsthmusError):
    """No address of the *family* ("IPv4", "IPv6") is free in the network *name*.

    *Elsewhere* are those that others on the wire were found to have, each with a MAC.
    """

    cni = 11

    def __init__(self, family: str, name: str, network_id: str, elsewhere: Iterable[tuple[object, str]] = ()) -> None:
        others = ", ".join(f"{address} is at {mac}" for address, mac in elsewhere)
        super().__init__(
            f"no available {family} addresses on this network's address pools: {name} ({network_id})"
            + (f"; on the wire, {others}" if others else "")
        )


class NotConnected(IsthmusError):
    """The *sandbox* has no endpoint on the *network*."""

    cni = 7

    def __init__(self, sandbox: str, network: str) -> None:
        super().__init__(f"container {sandbox} is not connected to the network {network}")


class PortTaken(IsthmusError):
    """The *place* on the host cannot be published for *sandbox*: *holder* has it, or it cannot be had at all.

    *Reason* is Docker's: "port is already allocated" among ours, else what bind(2) says.
    """

    cni = 7

    def __init__(self, sandbox: str, place: object, reason: str, holder: str) -> None:
        who = f" (by {holder})" if holder else ""
        super().__init__(
            f"driver failed programming external connectivity on endpoint {sandbox}: Bind for {place} failed: "
            f"{reason}{who}"
        )
        self.place, self.holder = place, holder


class StoreUnavailable(IsthmusError):
    """The store did not answer; the kernel was left as it was."""

    status = 503
    cni = 50


class NotImplementedHere(IsthmusError):
    """Docker's API has this and we do not; the message says what to use instead."""

    status = 501
    cni = 7


class DeviceUnavailable(IsthmusError):
    """Nothing can be sent or heard on the link *device*, for this *reason*; it may be back later."""

    cni = 11

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"cannot use the interface {device}: {reason}")
        self.device, self.reason = device, reason


class Refused(IsthmusError):
    """The kernel refused one *operation*, shown as the command that would do it, with *errno* and its *reason*."""

    cni = 100

    def __init__(self, operation: object, errno: int, reason: str) -> None:
        super().__init__(f"the kernel refused `{operation}`: {reason}")
        self.operation, self.errno, self.reason = operation, errno, reason


_E = TypeVar("_E", bound=Exception)


def leaves(group: ExceptionGroup[_E]) -> Iterator[_E]:
    """The errors of a *group*, and those of groups within."""
    for one in group.exceptions:
        if isinstance(one, ExceptionGroup):
            yield from leaves(one)
        else:
            yield one
