"""Write docs/reference.md: our nftables table and, for each mode, the commands that make it.

Nothing in it is written by hand: the engine makes each network on a kernel in memory, and what it would have told a
real one is what stands there. A test compares the page with what this gives, so the page cannot lie.
"""

from collections.abc import Iterator
from hashlib import sha256
from ipaddress import ip_interface
from itertools import count
from pathlib import Path

from isthmus import firewall
from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.engine import Engine
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Host, HostLink, pairs
from isthmus.plan import Plan
from isthmus.rates import RATE
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, SandboxRequest
from isthmus.rules import DefaultBridge, Rules
from isthmus.store.memory import MemoryStore

PAGE = Path(__file__).parent / "reference.md"

_BRIDGE = "com.docker.network.bridge"
_V4 = (SubnetRequest("10.5.0.0/24", gateway="10.5.0.1"),)
_RANGE = (SubnetRequest("10.0.36.0/24", "10.0.36.192/27", "10.0.36.254", (("host", "10.0.36.223"),)),)
_LAN = (SubnetRequest("10.0.36.0/24", gateway="10.0.36.254"),)
_BOTH = (*_V4, SubnetRequest("fd00:5::/64", gateway="fd00:5::1"))

MODES: tuple[tuple[str, NetworkRequest], ...] = (
    ("bridge: NAT", NetworkRequest("front", subnets=_V4)),
    ("bridge: NAT, with IPv6", NetworkRequest("front", subnets=_BOTH, ipv6=True)),
    (
        "bridge: nat-unprotected",
        NetworkRequest("front", subnets=_V4, options=pairs({f"{_BRIDGE}.gateway_mode_ipv4": "nat-unprotected"})),
    ),
    (
        "bridge: routed",
        NetworkRequest("front", subnets=_V4, options=pairs({f"{_BRIDGE}.gateway_mode_ipv4": "routed"})),
    ),
    ("bridge: internal", NetworkRequest("front", subnets=_V4, internal=True)),
    (
        "bridge: internal and isolated",
        NetworkRequest(
            "front", subnets=_V4, internal=True, options=pairs({f"{_BRIDGE}.gateway_mode_ipv4": "isolated"})
        ),
    ),
    (
        "bridge: members kept apart",
        NetworkRequest("front", subnets=_V4, options=pairs({f"{_BRIDGE}.enable_icc": "false"})),
    ),
    (
        "bridged, with the uplink eth1",
        NetworkRequest("front", subnets=_V4, options=pairs({"isthmus.uplink": "eth1"})),
    ),
    ("macvlan", NetworkRequest("front", "macvlan", subnets=_LAN, options=pairs({"parent": "eth1"}))),
    (
        "macvlan, with access from the host",
        NetworkRequest("front", "macvlan", subnets=_RANGE, options=pairs({"parent": "eth1"})),
    ),
    (
        "macvlan, with access from the host and no range",
        NetworkRequest(
            "front", "macvlan", subnets=_LAN, options=pairs({"parent": "eth1", "isthmus.host_access": "true"})
        ),
    ),
    ("macvlan, on a VLAN", NetworkRequest("front", "macvlan", subnets=_LAN, options=pairs({"parent": "eth1.50"}))),
    ("macvlan, without a parent", NetworkRequest("front", "macvlan", subnets=_LAN)),
    ("ipvlan", NetworkRequest("front", "ipvlan", subnets=_RANGE, options=pairs({"parent": "eth1"}))),
    (
        "ipvlan: l3, private",
        NetworkRequest(
            "front",
            "ipvlan",
            subnets=_LAN,
            options=pairs({"parent": "eth1", "ipvlan_mode": "l3", "ipvlan_flag": "private"}),
        ),
    ),
)
"""The modes of a network, each with a request for it."""


class _Scribe(FakeKernel):
    """A kernel in memory that keeps what it was told."""

    told: tuple[str, ...] = ()

    def apply(self, plan: Plan) -> None:
        """Do what *plan* says, and keep it."""
        self.told = (*self.told, *map(str, plan))
        super().apply(plan)

    def listen(self) -> tuple[str, ...]:
        """What it was told since the last time."""
        told, self.told = self.told, ()
        return told


def _engine() -> tuple[Engine, _Scribe]:
    """An engine that has started, on a host with two NICs."""
    kernel = _Scribe(
        host=Host((HostLink("eth0", "", 1500, (ip_interface("192.0.2.1/24"),)), HostLink("eth1", "", 1500)))
    )
    numbers = count()
    engine = Engine(
        MemoryStore(),
        kernel,
        Rules(
            pools=DEFAULT_POOLS,
            boot_id="boot",
            default_bridge=DefaultBridge(pairs({f"{_BRIDGE}.name": "isthmus0"})),
        ),
        clock=lambda: next(numbers),
        random=lambda size: sha256(str(next(numbers)).encode()).digest()[:size],
        publish=lambda _event: None,
        paths={HOST: "", "*": ""},
    )
    engine.start()
    return engine, kernel


def _shown(title: str, lines: tuple[str, ...]) -> Iterator[str]:
    yield from (f"{title}:", "", *(f"    {line}" for line in lines or ("# nothing",)), "")


def page() -> str:
    """The text of the page."""
    engine, kernel = _engine()
    text = ["# Reference: what is made", "", "Made by `make docs`; not to be edited.", "", "## At the first start", ""]
    text += _shown("The daemon makes its table, lets the host forward, and makes the network `bridge`", kernel.listen())
    for title, request in MODES:
        engine, kernel = _engine()
        kernel.listen()
        text += [f"## {title}", ""]
        engine.create_network(request)
        text += _shown("The network is made", kernel.listen())
        engine.create_sandbox(SandboxRequest("web", mode="front"))
        text += _shown("A sandbox joins it", kernel.listen())
        engine.remove_sandbox("web")
        text += _shown("The sandbox is removed", kernel.listen())
        engine.remove_network("front")
        text += _shown("The network is removed", kernel.listen())
    engine, kernel = _engine()
    engine.create_network(NetworkRequest("front", subnets=_V4))
    kernel.listen()
    text += ["## Rates", ""]
    limited = EndpointRequest(options=pairs({RATE: "100mbit/20mbit"}))
    engine.create_sandbox(SandboxRequest("web", mode="front", endpoints=(("front", limited),)))
    text += _shown("A sandbox joins a bridge network with a rate", kernel.listen())
    engine.change("front", "web", "isthmus.rate", "50mbit")
    text += _shown("Its rate is changed", kernel.listen())
    engine.change("front", "web", "isthmus.rate", "off")
    text += _shown("Its rate is lifted", kernel.listen())
    engine, kernel = _engine()
    kernel.listen()
    text += ["## none, host and container:", ""]
    engine.create_sandbox(SandboxRequest("bare", mode="none"))
    text += _shown("A sandbox on `none`", kernel.listen())
    engine.add_link("bare", LinkRequest("veth", addresses=(ip_interface("10.9.0.2/24"),), peer="wire0"))
    text += _shown("A link is put into it by hand", kernel.listen())
    engine.create_sandbox(SandboxRequest("side", mode="container:bare"))
    text += _shown("A sandbox that shares its namespace", kernel.listen())
    engine.create_sandbox(SandboxRequest("h", mode="host"))
    text += _shown("A sandbox on `host`", kernel.listen())
    everything = firewall.load(firewall.table(firewall.OPTIONAL))
    text += ["## The table", "", "With all that is there only where it is needed:", ""]
    text += [*(f"    {line}" for line in everything.splitlines()), ""]
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page())
