"""What the edges ask of the engine: values that were parsed once, where they came in.

Names of networks and sandboxes are as the user gave them (a name, an ID, or the beginning of one); the engine finds
what they stand for. Addresses are still text where Docker checks them against a network's subnets, with words of its
own.
"""

import msgspec

from isthmus.addresses import SubnetRequest
from isthmus.model import UNSAID, Dns, HandRoute, IPInterface, Pairs
from isthmus.ports import Wish


class NetworkRequest(msgspec.Struct, frozen=True):
    """A network to be made. None for *ipv4* and *ipv6* means that the driver's default options decide."""

    name: str
    driver: str = "bridge"
    subnets: tuple[SubnetRequest, ...] = ()
    options: Pairs = ()
    ipv4: bool | None = None
    ipv6: bool | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    scope: str = ""
    labels: Pairs = ()
    ipam_driver: str = "default"
    ipam_options: Pairs = ()
    config_only: bool = False
    config_from: str = ""


class NetworkUpdate(msgspec.Struct, frozen=True):
    """What is to be another of a network: *labels*, *options* and *aux* are set, those of the *gone* names go.

    *Subnets* come besides those that it has. A range takes the place of the one that its subnet has.
    """

    labels: Pairs = ()
    options: Pairs = ()
    subnets: tuple[SubnetRequest, ...] = ()
    ranges: tuple[str, ...] = ()
    aux: Pairs = ()
    gone_labels: tuple[str, ...] = ()
    gone_options: tuple[str, ...] = ()
    gone_aux: tuple[str, ...] = ()


class EndpointRequest(msgspec.Struct, frozen=True):
    """A place on a network: *ipv4* and *ipv6* are demanded addresses, *mac* a demanded MAC; "" leaves them to us."""

    ipv4: str = ""
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    options: Pairs = ()
    gateway_priority: int = 0


class SandboxRequest(msgspec.Struct, frozen=True):
    """A sandbox to be made, on the networks that *endpoints* names, each with the request for it.

    *Ports* are to be published, those of *publish_all* among them; *exposed* is as in `model.Sandbox`.

    *conflicts* names the things that were asked for and that do not go with every mode: "hostname", "dns", "links",
    "extra-hosts", "ports", "exposed-ports", "mac-address".

    *Container* is the ID of the container that the sandbox is for, and then of the sandbox, too; "" if for none.
    """

    name: str
    mode: str = "default"
    hostname: str = ""
    domainname: str = ""
    labels: Pairs = ()
    sysctls: Pairs = ()
    dns: Dns = UNSAID
    endpoints: tuple[tuple[str, EndpointRequest], ...] = ()
    ports: tuple[Wish, ...] = ()
    exposed: tuple[str, ...] = ()
    publish_all: bool = False
    conflicts: frozenset[str] = frozenset()
    container: str = ""


class LinkRequest(msgspec.Struct, frozen=True):
    """An interface to be put into a sandbox by hand; see `model.HandLink` for the fields. "" leaves a name to us."""

    type: str
    ifname: str = ""
    mac: str = ""
    mtu: int = 0
    addresses: tuple[IPInterface, ...] = ()
    routes: tuple[HandRoute, ...] = ()
    peer: str = ""
    peer_addresses: tuple[IPInterface, ...] = ()
    master: str = ""
    parent: str = ""
    mode: str = ""
