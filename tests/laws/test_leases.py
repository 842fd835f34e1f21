"""Law: who gets which address, through the whole engine, is what a naive model with sets of addresses says.

The networks are small, so that they fill up: two that share a subnet on one parent by ranges that are apart, one with
the same subnet on another parent, one of two subnets, and a bridge with both families. Sandboxes come, go and come
again, name addresses, are refused by the kernel; time passes; the daemon starts anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isthmus.addresses import DEFAULT_POOLS, IPAddress, IPNetwork, SubnetRequest
from isthmus.engine import Engine
from isthmus.errors import AddressInUse, IsthmusError, PoolExhausted, Refused
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, Host, HostLink, Lease, Pairs, pairs
from isthmus.requests import EndpointRequest, NetworkRequest, SandboxRequest
from isthmus.rules import Rules
from isthmus.store import records
from isthmus.store.memory import MemoryStore

HOUR = 3600 * 10**9
NAMES = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True, slots=True)
class Net:
    """A network of the model: its wire, and its subnets with what they give out and keep back."""

    name: str
    wire: str
    subnets: tuple[tuple[IPNetwork, IPNetwork, frozenset[IPAddress]], ...]
    request: NetworkRequest
    lease: int = 24 * HOUR


def net(name: str, wire: str, *subnets: SubnetRequest, options: Pairs = (), lease: int = 24 * HOUR) -> Net:
    """A network on that *wire*; each subnet keeps back its ends, its gateway and its auxiliary addresses."""
    known = []
    for subnet in subnets:
        cidr = ip_network(subnet.subnet)
        ends = {cidr[0]} if cidr.version == 6 else {cidr[0], cidr[-1]} if cidr.prefixlen < 31 else set()
        named = {ip_address(text) for text in (subnet.gateway, *dict(subnet.aux).values()) if text}
        known.append((cidr, ip_network(subnet.ip_range or subnet.subnet), frozenset(ends | named)))
    request = NetworkRequest(
        name,
        "macvlan" if wire.startswith("eth") else "bridge",
        subnets=subnets,
        options=pairs({"parent": wire} if wire.startswith("eth") else {}),
        ipv6=any(cidr.version == 6 for cidr, _, _ in known),
        ipam_options=options,
    )
    return Net(name, wire, tuple(known), request, lease)


LAN = "10.0.36.0/28"
NETS = {
    one.name: one
    for one in (
        net("low", "eth0", SubnetRequest(LAN, "10.0.36.0/30", "10.0.36.14", (("nas", "10.0.36.9"),))),
        net("high", "eth0", SubnetRequest(LAN, "10.0.36.8/30", "10.0.36.14", (("printer", "10.0.36.2"),))),
        net("other", "eth1", SubnetRequest(LAN, "10.0.36.0/30")),
        net(
            "many",
            "eth0",
            SubnetRequest("10.0.40.1/32"),
            SubnetRequest("10.0.41.1/32"),
            options=pairs({"isthmus.lease": "1h"}),
            lease=HOUR,
        ),
        net(
            "nat",
            "nat",
            SubnetRequest("10.9.0.0/29", gateway="10.9.0.1"),
            SubnetRequest("fd00:9::/64", gateway="fd00:9::1"),
        ),
    )
}
DEMANDS = tuple(ip_address(f"10.0.36.{number}") for number in range(16)) + tuple(
    ip_address(text) for text in ("10.0.40.1", "10.0.41.1", "10.9.0.4", "fd00:9::7", "192.0.2.1")
)


class Addressing(RuleBasedStateMachine):
    """The engine, and beside it the model: who has which addresses, and what is kept for whom until when."""

    def __init__(self) -> None:
        super().__init__()
        links = tuple(HostLink(name, "veth", 1500) for name in ("eth0", "eth1"))
        self.kernel = FakeKernel(host=Host(links=links))
        self.store = MemoryStore()
        self.random = Random(0)
        self.now = 10**18
        self.has: dict[tuple[str, str], tuple[IPAddress, ...]] = {}
        self.kept: dict[tuple[str, str], tuple[tuple[IPAddress, ...], int]] = {}
        self.macs: dict[tuple[str, IPAddress], str] = {}
        self.engine = self.born()

    def born(self) -> Engine:
        """A daemon that has just started."""
        engine = Engine(
            self.store,
            self.kernel,
            Rules(pools=DEFAULT_POOLS, boot_id="one"),
            clock=lambda: self.now,
            random=self.random.randbytes,
            publish=lambda _event: None,
            paths={HOST: "/proc/1/ns/net", "*": "/run/isthmus/netns"},
        )
        engine.start()
        return engine

    # The model.

    def known(self, net: Net) -> Iterator[Net]:
        """The networks on the wire of *net*."""
        return (one for one in NETS.values() if one.wire == net.wire)

    def taken(self, net: Net) -> set[IPAddress]:
        """What somebody has, or nobody may have, on the wire of *net*."""
        names = {one.name for one in self.known(net)}
        used = {address for (_, name), addresses in self.has.items() if name in names for address in addresses}
        return used.union(*(kept for one in self.known(net) for _, _, kept in one.subnets))

    def keeps(self, net: Net) -> dict[IPAddress, int]:
        """What is kept on the wire of *net*, and until when."""
        names = {one.name for one in self.known(net)}
        return {
            address: until
            for (_, name), (addresses, until) in self.kept.items()
            if name in names and until > self.now
            for address in addresses
        }

    def expected(self, name: str, net: Net, demanded: IPAddress | None) -> tuple[IPAddress, ...] | type[IsthmusError]:
        """What *name* gets on *net*, or the refusal."""
        taken, keeps = self.taken(net), self.keeps(net)
        mine, until = self.kept.get((name, net.name), ((), 0))
        mine = mine if until > self.now else ()
        chosen: list[IPAddress] = []
        if demanded is not None:
            if not any(demanded in cidr for cidr, _, _ in net.subnets):
                return IsthmusError
            if demanded in taken:
                return AddressInUse
            chosen.append(demanded)
        for version in sorted({cidr.version for cidr, _, _ in net.subnets}):
            if any(one.version == version for one in chosen):
                continue
            again = [one for one in mine if one.version == version and one not in taken]
            # The first dozen of a /64 is more than there are sandboxes.
            spans = [
                [span[number] for number in range(min(12, span.num_addresses))]
                for cidr, span, _ in net.subnets
                if cidr.version == version
            ]
            free = [one for span in spans for one in span if one not in taken and one not in keeps]
            last = [(keeps[one], one) for span in spans for one in span if one not in taken and one in keeps]
            if not again and not free and not last:
                return PoolExhausted
            chosen.append((again or free or [min(last)[1]])[0])
        return tuple(sorted(chosen, key=lambda address: address.version))

    def settle(self, name: str, net: Net, addresses: tuple[IPAddress, ...]) -> None:
        """Write down that *name* has these *addresses* on *net* now."""
        names = {one.name for one in self.known(net)}
        self.has[name, net.name] = addresses
        self.kept.pop((name, net.name), None)
        for key, (kept, _) in tuple(self.kept.items()):
            if key[1] in names and not set(kept).isdisjoint(addresses):
                del self.kept[key]

    def leave(self, name: str, network: str) -> None:
        """Write down that *name* left."""
        self.kept[name, network] = (self.has.pop((name, network)), self.now + NETS[network].lease)

    # What happens.

    @initialize()
    def make(self) -> None:
        """The networks are there from the start."""
        for one in NETS.values():
            self.engine.create_network(one.request)

    @rule(
        name=st.sampled_from(NAMES),
        network=st.sampled_from(sorted(NETS)),
        demanded=st.none() | st.sampled_from(DEMANDS),
    )
    def join(self, name: str, network: str, demanded: IPAddress | None) -> None:
        """A sandbox is made on a network, or joins it; both with or without an address of its user's choice."""
        if (name, network) in self.has:
            return
        self.now += 1
        six = demanded is not None and demanded.version == 6
        text = str(demanded or "")
        request = EndpointRequest(ipv6=text) if six else EndpointRequest(ipv4=text)
        expected = self.expected(name, NETS[network], demanded)
        if isinstance(expected, type):
            with pytest.raises(expected):
                self.put(name, network, request)
        else:
            self.put(name, network, request)
            self.settle(name, NETS[network], expected)

    def put(self, name: str, network: str, request: EndpointRequest) -> None:
        """Have the engine do it."""
        if any(one == name for one, _ in self.has):
            self.engine.connect(network, name, request)
        else:
            self.engine.create_sandbox(SandboxRequest(name, mode=network, endpoints=((network, request),)))

    @rule(name=st.sampled_from(NAMES), network=st.sampled_from(sorted(NETS)))
    def be_refused_by_the_kernel(self, name: str, network: str) -> None:
        """A sandbox cannot be made, and nothing is as if it had been tried."""
        expected = self.expected(name, NETS[network], None)
        if any(one == name for one, _ in self.has) or isinstance(expected, type):
            return
        [length] = {cidr.prefixlen for cidr, _, _ in NETS[network].subnets if expected[0] in cidr}
        self.kernel.forbid(("address", name, "eth0", f"{expected[0]}/{length}"), 28)
        with pytest.raises(Refused):
            self.engine.create_sandbox(SandboxRequest(name, mode=network))
        self.kernel.permit()

    @precondition(lambda self: self.has)
    @rule(data=st.data())
    def part(self, data: st.DataObject) -> None:
        """A sandbox leaves one network; the last one takes it along."""
        name, network = data.draw(st.sampled_from(sorted(self.has)))
        self.now += 1
        if sum(one == name for one, _ in self.has) > 1:
            self.engine.disconnect(network, name)
        else:
            self.engine.remove_sandbox(name)
        self.leave(name, network)

    @precondition(lambda self: self.has)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        """A sandbox is removed, whatever it stands on."""
        name = data.draw(st.sampled_from(sorted({one for one, _ in self.has})))
        self.now += 1
        self.engine.remove_sandbox(name)
        for one, network in sorted(self.has):
            if one == name:
                self.leave(name, network)

    @rule(hours=st.sampled_from((1, 2, 25)))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self.now += hours * HOUR

    @rule()
    def start_anew(self) -> None:
        """The daemon dies and starts; it knows what its records say."""
        self.engine = self.born()

    # What holds.

    @invariant()
    def all_have_what_the_model_says(self) -> None:
        """No address is anybody's twice on a wire, none that is kept back is given out, and the counters count."""
        has = {}
        for view in self.engine.networks():
            for one in view.endpoints:
                has[one.sandbox.name, view.network.name] = tuple(address.ip for address in one.endpoint.addresses)
                first = view.network.name, has[one.sandbox.name, view.network.name][0]
                assert self.macs.setdefault(first, one.endpoint.mac) == one.endpoint.mac
            if view.network.name in NETS:
                home = NETS[view.network.name]
                for status, (cidr, span, _) in zip(view.status, home.subnets, strict=True):
                    inside = {address for address in self.taken(home) if address in cidr}
                    assert status.in_use == len(inside)
                    assert status.available == min(span.num_addresses, 2**64) - sum(one in span for one in inside)
        assert has == self.has

    @invariant()
    def nothing_is_kept_but_what_the_model_keeps(self) -> None:
        """Once the store was told, leases neither leak nor get lost; what ended may be there until the next change."""
        self.engine.write_behind()
        stored = [records.decode(key, value) for key, value in self.store.read("lease/").items.items()]
        names = {view.network.id: view.network.name for view in self.engine.networks()}
        found = {(one.name, names[one.network]): (one.addresses, one.until) for one in stored if isinstance(one, Lease)}
        assert {key: one for key, one in found.items() if one[1] > self.now} == {
            key: one for key, one in self.kept.items() if one[1] > self.now
        }


TestAddressing = Addressing.TestCase
TestAddressing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
