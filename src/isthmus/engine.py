"""The engine: it decides what a request means, records it, and makes the kernel hold it.

Every change goes one way. The decision is pure: it reads the state and gives new records, or refuses. The records are
committed; from then on the change is wanted, whatever dies. Then the kernel is held against what is wanted, in the area
that the change touches, and the difference is mended: `reconcile`. Attaching, detaching, a failed attach, a restart, a
crash and somebody's `ip link delete` are this one act. Removing is: record that it is being removed, reconcile, forget.

The engine is synchronous and used by one thread at a time (see `worker`), so nothing here needs a lock.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import ip_network

from msgspec.structs import replace

from isthmus import present, render
from isthmus.addresses import IPNetwork
from isthmus.decisions import Decisions
from isthmus.drivers import BUILTIN, overlay
from isthmus.errors import (
    Forbidden,
    InvalidRequest,
    IsthmusError,
    NameTaken,
    NetworkInUse,
    NotConnected,
    NotFound,
    PortTaken,
    Predefined,
)
from isthmus.kernel import (
    Appeared,
    FirewallTouched,
    Kernel,
    Lost,
    Missed,
    News,
    Overrun,
    PathChanged,
    Retold,
    Routed,
    Scope,
    Shaken,
)
from isthmus.model import (
    ETHERNET_MTU,
    HOST,
    Binding,
    Block,
    DhcpLease,
    Endpoint,
    Host,
    IPAddress,
    Lease,
    Network,
    Peer,
    Place,
    Record,
    Sandbox,
    Setting,
    pairs,
)
from isthmus.naming import ENCRYPTED, GATEWAY_NETWORK, PARENT, Owner, hidden
from isthmus.plan import NOTHING, Plan, Remove, diff
from isthmus.ports import Wish
from isthmus.questions import Evidence, Question
from isthmus.rates import OFF
from isthmus.render import Area
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, NetworkUpdate, SandboxRequest
from isthmus.resources import NOBODY, Address, Element, Key, Sysctl, Table
from isthmus.rules import Rules
from isthmus.state import State
from isthmus.store import Snapshot, Store, records
from isthmus.views import (
    Checked,
    Created,
    Event,
    LinkView,
    NatRule,
    NetworkView,
    Offers,
    PortView,
    SandboxView,
    Standing,
)
from isthmus.wire.packets import announcement, encode


class Engine:
    """All that can be asked of Isthmus. Every method raises `IsthmusError`s, and then leaves things as they were."""

    def __init__(
        self,
        store: Store,
        kernel: Kernel,
        rules: Rules,
        *,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        publish: Callable[[Event], None],
        paths: Mapping[str, str],
        recorded: Callable[[Iterable[Record], Iterable[Record]], object] = lambda _put, _drop: None,
    ) -> None:
        """*Publish* is told what happened, *recorded* each record that was put, and each that was dropped."""
        self._store = store
        self._kernel = kernel
        self._rules = rules
        self._clock = clock
        self._random = random
        self._publish = publish
        self._paths = paths
        self._recorded = recorded
        self._waiting: dict[str, str] = {}
        self._seen = Host()
        self._mtus: dict[str, int | None] = {}
        self._chains: frozenset[str] = frozenset()
        self._troubles: dict[tuple[str, str], str] = {}
        self._ended: list[Lease] = []
        self._untold: list[_Step] = []
        self._adopt(State())

    # The heart.

    def reconcile(self, area: Area, *, sure: bool = False) -> Plan:
        """Make the kernel hold what is wanted in *area*; return what had to be done for that.

        Who is *sure* that what is leaving was made has it removed without a look; if it is gone, the kernel says so.
        """
        if not sure:
            area = render.searching(area)
        plan = diff(area.desired, self._kernel.observe(area.scope))
        if area.leaving:
            plan += Plan(tighten=tuple(map(Remove, area.leaving)))
        if plan is not NOTHING:
            self._kernel.apply(plan)
        return plan

    def start(self) -> Plan:
        """Read what is wanted and bring the kernel to it, whatever happened since; return what had to be done.

        Raises:
            Refused: our rules cannot stand, so nothing may be reachable, and nothing was made.
            ExceptionGroup: of what else the kernel refused. All the rest was done, and the engine is ready.
        """
        items = self._store.read().items
        self._adopt(State(records.decode(key, value) for key, value in items.items()))
        self._recorded(tuple(self._state.records()), ())
        self._let_leases_end()
        host = self._look()
        for network in self._decide.default_networks(host):
            self._commit(put=[network], drop=self._decide.left_behind(network))
            for endpoint in self._decide.moved(network):
                self._commit(put=[endpoint], drop=self._decide.spent([endpoint]))
        for place, reason in self._kernel.hold(binding.place for binding in self._state.bindings()).items():
            self._tell_lost(place, reason)
        self._remember_met()
        of_host = self._host(host)
        plan = self._guard(of_host) + self._bring_all(of_host)
        if self._state.network_named(GATEWAY_NETWORK):
            for user in tuple(self._state.sandboxes.values()):
                self._settle_way_out(user)
        return plan

    def _tell_lost(self, place: Place, reason: str) -> None:
        """Tell that a process of the host has a place of ours, which came there while nobody kept it."""
        users = self._state.on_port(place.protocol, place.port)
        holder = self._kernel.holder(place)
        self._trouble(users[place.address], f"port {place}/{place.protocol}", f"{reason} (by {holder or 'a process'})")

    def mend(self, news: Iterable[News]) -> Plan:
        """Look again where *news* say that something changed, and put back what is missing; return what that was.

        Raises:
            ExceptionGroup: of what the kernel refused. All else was done.
        """
        netns: set[str] = set()
        told: list[Missed | Retold] = []
        of_host = False
        for one in news:
            match one:
                case Overrun():
                    return self._bring_all(self._host())
                case FirewallTouched():
                    of_host = True
                case Shaken(netns=name) if name == HOST:
                    of_host = True
                    netns.update(self._state.sandboxes[link.sandbox].netns for link in self._state.links.values())
                case Shaken(netns=name):
                    # It may be a nickname, or a network's own namespace.
                    user = self._state.sandbox_named(name)
                    netns.add(user.netns if user else name)
                    of_host = of_host or name == ENCRYPTED or any(map(name.__eq__, map(hidden, self._state.networks)))
                case Routed(destination=destination):
                    self._announce_clashes(ip_network(destination))
                case Missed() | Retold():
                    told.append(one)
                case Appeared(name=name):
                    waiting = [network for network, link in self._waiting.items() if link == name]
                    of_host = of_host or bool(waiting)
                    netns.update(self._standing_on(waiting))
                case PathChanged():
                    moved = self._moved()
                    # Tunnels begin at the address that is advertised, which may be another one now.
                    of_host = of_host or bool(moved or self._rules.advertise)
                    netns.update(self._standing_on(moved))
                case Lost(owner=owner):
                    whole = not owner.endpoint and owner.network in self._state.networks
                    of_host = of_host or whole or owner.network == PARENT or self._may_wait(owner.network)
                    netns.update(self._standing_on([owner.network]) if whole else self._home_of(owner))
        return self._bring(netns, of_host=of_host, also=self._entries(told))

    def _home_of(self, owner: Owner) -> Iterator[str]:
        """The namespace of the sandbox whose endpoint, or link made by hand, has that mark."""
        if held := self._state.endpoints.get(owner.endpoint) or self._state.links.get(owner.endpoint):
            yield self._state.sandboxes[held.sandbox].netns

    def _entries(self, told: Iterable[Missed | Retold]) -> Iterator[Callable[[], Area]]:
        """The areas of what tunnels and ports were *told* otherwise; who was missed, they are told of at once."""
        networks = {hidden(one.id): one for one in self._state.networks.values()}
        peers: dict[str, dict[Peer, None]] = {}
        netns: set[str] = set()
        of_host = False
        for one in told:
            if (network := networks.get(one.netns)) is None:
                continue
            peer = self._state.peer_at(network.id, one.where)
            if isinstance(one, Missed):
                if peer:
                    self._meet(network, peer)
            elif peer:
                # Who is not to be told of was forgotten by us.
                if not one.gone or self._state.is_told(network, peer):
                    peers.setdefault(network.id, {})[peer] = None
            elif here := [end for end in self._state.on_network(network.id) if end.mac == one.where]:
                netns.update(self._state.sandboxes[end.sandbox].netns for end in here)
            else:
                # Of nobody nothing is wanted; but what is for all, the network itself is told.
                of_host = of_host or not one.gone or one.where == NOBODY
        if of_host:
            yield self._host
        for name, some in peers.items():
            yield partial(render.peers, self._state, self._state.networks[name], some)
        for name in sorted(netns):
            yield partial(self._sandbox, name)

    def _meet(self, network: Network, peer: Peer) -> None:
        """Have the tunnels of *network* told of *peer*."""
        self._state.meet(peer)
        self.reconcile(render.peers(self._state, network, (peer,)))
        # Who looked for him would ask again after a second.
        told = (announcement(peer.mac, address.ip) for address in peer.addresses)
        self._kernel.send(hidden(network.id), overlay.BRIDGE, map(encode, told))

    def forget_idle(self, seconds: float) -> None:
        """Have the tunnels of lazy networks told no more of those to whom nobody here sent anything for so long.

        Raises:
            Refused: of the kernel.
        """
        for network in self._state.networks.values():
            if BUILTIN[network.driver].traits(network).lazy:
                keys = self._entries_of(network, self._state.told_on(network))
                idle = [keys[key] for key in self._kernel.idle(keys, seconds)]
                for peer in idle:
                    self._state.part(peer)
                self.reconcile(render.peers(self._state, network, idle))

    def _remember_met(self) -> None:
        """Know again who on other hosts was looked for, by what the tunnels of lazy networks were told."""
        for network in self._state.networks.values():
            peers = self._state.peers_on(network.id)
            if not peers or self._state.told_on(network) == peers:
                continue
            keys = self._entries_of(network, peers)
            for one in self._kernel.observe(Scope(told=frozenset(keys))):
                self._state.meet(keys[one.key])

    @staticmethod
    def _entries_of(network: Network, peers: Iterable[Peer]) -> dict[Key, Peer]:
        """By the keys of the entries of which the tunnels of *network* may be told, of whom they are."""
        driver = BUILTIN[network.driver]
        return {one.key: peer for peer in peers for one in driver.peers(network, (peer,))}

    def _moved(self) -> tuple[str, ...]:
        """The networks (their IDs) whose MTU follows the host's ways out, and is not what it was when last asked."""
        before, self._mtus = self._mtus, self._paths_of(self._look())
        return tuple(network for network, mtu in self._mtus.items() if before.get(network, mtu) != mtu)

    def _paths_of(self, host: Host) -> dict[str, int | None]:
        """The MTU of each network, by its ID."""
        return {one.id: BUILTIN[one.driver].mtu(one, host) for one in self._state.networks.values()}

    def _may_wait(self, network: str) -> bool:
        """Whether that network stands on a link of others, which may be what is lost."""
        record = self._state.networks.get(network)
        return bool(record and BUILTIN[record.driver].waits_for(record, Host()))

    def _standing_on(self, networks: Iterable[str]) -> Iterable[str]:
        """The namespaces of those who stand on *networks*."""
        return (self._state.sandboxes[one.sandbox].netns for name in networks for one in self._state.on_network(name))

    def _guard(self, of_host: Area) -> Plan:
        """Have our table, and in it all that keeps packets out, before there is anything to be reached."""
        seen = self._kernel.observe(Scope(firewall=True))
        rules = (one for one in of_host.desired if isinstance(one, Table | Element))
        plan = diff([one for one in rules if isinstance(one, Table) or not one.permits or one in seen], seen)
        if len(plan):
            self._kernel.apply(plan)
        return plan

    def _bring_all(self, of_host: Area) -> Plan:
        """Hold everything against the kernel; where that is refused, piece by piece, so that one does not stop all."""
        self._mtus = self._paths_of(self._seen)
        try:
            plan = self.reconcile(
                render.everything(self._state, of_host, self._seen, self._waiting.keys(), self._rules.firewall)
            )
        except (IsthmusError, ExceptionGroup):
            return self._bring({user.netns for user in self._state.sandboxes.values()}, of_host=True)
        self._finish_removing()
        return plan

    def _bring(self, netns: Iterable[str], *, of_host: bool, also: Iterable[Callable[[], Area]] = ()) -> Plan:
        """Hold the host's half if need be, *also* these areas, and these namespaces against the kernel, one by one."""
        areas: list[Callable[[], Area]] = [*([self._host] if of_host else []), *also]
        areas += [partial(self._sandbox, name) for name in sorted(netns) if self._state.in_netns(name)]
        plan, refusals = NOTHING, []
        for area in areas:
            try:
                plan += self.reconcile(area())
            except (IsthmusError, ExceptionGroup) as refusal:
                refusals.append(refusal)
        if refusals:
            raise ExceptionGroup("the kernel is not yet as it should be", refusals)
        return plan

    def rehearse(self, action: Callable[["Engine"], object]) -> tuple[str, ...]:
        """What *action* would do to the kernel, as shell commands. It may be refused, as ever; nothing is done."""
        stage = _Stage(self._kernel)
        double = Engine(
            stage,
            stage,
            self._rules,
            clock=self._clock,
            random=self._random,
            publish=lambda _event: None,
            paths=self._paths,
        )
        double._adopt(State(self._state.records()))
        double._waiting, double._seen, double._chains = self._waiting, self._seen, self._chains
        action(double)
        return tuple(str(operation) for plan in stage.plans for operation in plan)

    # Networks.

    def networks(self) -> tuple[NetworkView, ...]:
        """All networks, in the order of their making."""
        told = self._told()
        return tuple(present.network(self._state, network, told) for network in self._state.networks.values())

    def network(self, name: str) -> NetworkView:
        """The network that *name* stands for."""
        return present.network(self._state, self._state.network(name), self._told())

    def create_network(self, request: NetworkRequest, evidence: Evidence | None = None) -> Created:
        """Make a network; raises what `connect` raises."""
        host = self._look()
        network = self._decide.network(request, host, evidence)
        self._carry_out((network,), lambda: self._host(host))
        self._announce("network", "create", network.id, {"name": network.name, "type": network.driver})
        return Created(network.id)

    def update_network(self, name: str, request: NetworkUpdate) -> None:
        """Change a network where it stands, with all who stand on it; nobody is disconnected."""
        before, after = self.updated(name, request)
        if after == before:
            return
        spent = self._decide.left_behind(after)
        _or_back(lambda: self._put_network(after, drop=spent), lambda: self._put_network(before, with_it=spent))
        self._announce("network", "update", after.id, {"name": after.name, "type": after.driver})

    def updated(self, name: str, request: NetworkUpdate) -> tuple[Network, Network]:
        """A network as it is, and as `update_network` would make it; nothing is changed."""
        before = self._state.network(name)
        return before, self._decide.update(before, request, self._look())

    def _put_network(self, network: Network, *, with_it: Iterable[Lease] = (), drop: Iterable[Lease] = ()) -> None:
        """Record a network as it is to be now, and have the kernel hold that, and no more what it was before.

        All who stand on it are held against the kernel, too; what is refused stops that.
        """
        standing = self._host().scope
        self._commit(put=[network, *with_it], drop=drop)
        self._mtus.pop(network.id, None)
        self.reconcile(render.together(self._host(), Area((), standing)))
        for netns in dict.fromkeys(self._standing_on([network.id])):
            self.reconcile(self._sandbox(netns))

    def remove_network(self, name: str) -> None:
        """Remove a network on which nobody stands."""
        network = self._state.network(name)
        if network.predefined:
            raise Predefined.removing(network.name)
        endpoints = self._state.on_network(network.id)
        if endpoints:
            users = ((self._state.sandboxes[endpoint.sandbox].name, endpoint.id) for endpoint in endpoints)
            raise NetworkInUse(network.name, users)
        if peers := self._state.peers_on(network.id):
            raise NetworkInUse(network.name, ((peer.name, peer.id) for peer in peers))
        if any(other.config_from == network.name for other in self._state.networks.values()):
            raise Forbidden(f'configuration network "{network.name}" is in use')
        self._take_away((network,), self._host, with_them=self._left_on(network))
        self._announce("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    def prune_networks(self, keep: Callable[[Network], bool]) -> tuple[str, ...]:
        """Remove every network of users' on which nobody stands and which *keep* does not spare; return their names."""
        gone = self.idle_networks(keep)
        for network in gone:
            self.remove_network(network.id)
        self._announce("network", "prune", "", {"reclaimed": "0"})
        return tuple(network.name for network in gone)

    def idle_networks(self, keep: Callable[[Network], bool]) -> tuple[Network, ...]:
        """The networks that `prune_networks` would remove: nobody is known to stand there, on whatever host."""
        made = (one for one in self._state.networks.values() if not (one.predefined or one.config_only))
        idle = (one for one in made if not (self._state.on_network(one.id) or self._state.peers_on(one.id)))
        return tuple(one for one in idle if not keep(one))

    # Endpoints.

    def connect(self, network: str, sandbox: str, request: EndpointRequest, evidence: Evidence | None = None) -> None:
        """Put a sandbox on one more network.

        Raises:
            Unanswered: there is *evidence*, and it does not suffice; nothing was changed.
        """
        self._let_leases_end()
        user, target = self._state.sandbox(sandbox), self._state.network(network)
        endpoint = self._decide.endpoint(user, target, request, evidence)
        self._refuse_waiting((endpoint,))
        way_out = self._way_out(user, (*self._state.of_sandbox(user.id), endpoint))
        area = partial(self._sandbox, user.netns)
        if BUILTIN[target.driver].traits(target).enclosed:
            # By a way out that is there already, others may be called from now on than before.
            before = Area((), area().scope)
            self._carry_out((endpoint, *way_out), lambda: render.together(area(), before))
        else:
            self._carry_out((endpoint, *way_out), area)
        self._settle_way_out(user)
        self._announce_endpoint("connect", target, user)

    def disconnect(self, network: str, sandbox: str) -> None:
        """Take a sandbox off a network."""
        target = self._state.network(network)
        user = self._state.sandbox(sandbox)
        if target.driver == "host":
            raise InvalidRequest(
                "cannot disconnect container from host network - container was created in host network mode"
            )
        leaving = self._standing_at(target, user)
        # A way out goes at once with the last network that it is for: so no policy is lifted from it before.
        spare = self._decide.spare_way_out(one for one in self._state.of_sandbox(user.id) if one is not leaving)
        endpoints = [leaving, *([spare] if spare else ())]
        kept = self._decide.leases(endpoints)
        self._take_away(endpoints, lambda: self._sandbox(user.netns), kept=kept)
        self._settle_way_out(user)
        self._announce_endpoint("disconnect", target, user)

    def _way_out(self, user: Sandbox, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        """What *user* needs besides to have a way out when it stands on *endpoints*."""
        if not self._decide.lacks_way_out(endpoints):
            return ()
        if not self._state.network_named(GATEWAY_NETWORK):
            host = self._look()
            self._carry_out((self._decide.gateway_network(host),), lambda: self._host(host))
        return (self._decide.way_out(user, endpoints),)

    def _settle_way_out(self, user: Sandbox) -> None:
        """Have *user* on the network for ways out if it needs that by now, and not if it needs it no more."""
        endpoints = self._state.of_sandbox(user.id)
        if new := self._way_out(user, endpoints):
            self._carry_out(new, lambda: self._sandbox(user.netns))
        elif spare := self._decide.spare_way_out(endpoints):
            self._take_away((spare,), lambda: self._sandbox(user.netns), kept=self._decide.leases((spare,)))

    def change(self, network: str, sandbox: str, key: str, value: str) -> None:
        """Give the endpoint of a sandbox another *value* of the option *key*, its rate or egress policy; it goes on."""
        user, target = self._state.sandbox(sandbox), self._state.network(network)
        before = self._standing_at(target, user)
        after = self._decide.changed(before, key, value)
        if after == before:
            return

        def back() -> None:
            self._put_changed(user, self._decide.changed(before, key, dict(before.options).get(key, OFF)))

        _or_back(lambda: self._put_changed(user, after), back)
        self._announce_endpoint(key.removeprefix("isthmus."), target, user)

    def _put_changed(self, user: Sandbox, endpoint: Endpoint) -> None:
        """Record an endpoint as it is to be now, and have the kernel hold that, and no more what it was before."""
        standing = Area((), self._sandbox(user.netns).scope)
        self._commit(put=[endpoint])
        area = render.together(self._sandbox(user.netns), standing)
        self.reconcile(render.together(self._host(), area) if self._is_table_old() else area)

    def _standing_at(self, network: Network, user: Sandbox) -> Endpoint:
        """The endpoint of *user* on *network*; `NotConnected` if there is none."""
        for endpoint in self._state.of_sandbox(user.id):
            if endpoint.network == network.id:
                return endpoint
        raise NotConnected(user.name, network.name)

    # Sandboxes.

    def sandboxes(self) -> tuple[SandboxView, ...]:
        """All sandboxes, in the order of their making."""
        told = self._told()
        return tuple(present.sandbox(self._state, user, self._paths, told) for user in self._state.sandboxes.values())

    def sandbox(self, name: str) -> SandboxView:
        """The sandbox that *name* stands for."""
        return present.sandbox(self._state, self._state.sandbox(name), self._paths, self._told())

    def create_sandbox(self, request: SandboxRequest, evidence: Evidence | None = None) -> Created:
        """Make a sandbox, on the networks that the request names; raises what `connect` raises."""
        self._let_leases_end()
        user, endpoints = self._decide.sandbox(request, evidence)
        self._refuse_waiting(endpoints)
        way_out = self._way_out(user, endpoints)
        bindings = self._hold(user, request.ports, (*endpoints, *way_out))
        self._carry_out((user, *endpoints, *way_out, *bindings), lambda: self._whole(user, bindings))
        if not user.container:
            self._announce("container", "create", user.id, {"name": user.name})
        for endpoint in endpoints:
            self._announce_endpoint("connect", self._state.networks[endpoint.network], user)
        return Created(user.id, self._unserved(user, bindings))

    def remove_sandbox(self, name: str) -> None:
        """Remove a sandbox with its endpoints; its namespace stays for as long as others share it."""
        user = self._state.sandbox(name)
        endpoints = self._state.of_sandbox(user.id)
        bindings = self._state.bindings_of(user.id)
        with_them: tuple[Record, ...] = (*endpoints, *self._state.links_of(user.id), *bindings)
        kept = self._decide.leases(endpoints)
        self._take_away((user,), lambda: self._whole(user, bindings), with_them=with_them, kept=kept)
        for endpoint in endpoints:
            self._announce_endpoint("disconnect", self._state.networks[endpoint.network], user)
        if not user.container:
            self._announce("container", "destroy", user.id, {"name": user.name})

    def rename_sandbox(self, name: str, new: str) -> None:
        """Give the sandbox of a container another name, by which others find it from now on."""
        user = self._state.sandbox(name)
        renamed, before = self._decide.renamed(user, new), self._sandbox(user.netns).scope
        # Its endpoints are told anew, for it is by them that others find its names.
        self._commit(put=[renamed, *self._state.of_sandbox(user.id)])
        self.reconcile(render.together(self._sandbox(user.netns), Area((), before)))

    def _refuse_waiting(self, endpoints: Iterable[Endpoint]) -> None:
        """Refuse what cannot be made now, as the host lacks the link that it would stand on."""
        if self._waiting.keys().isdisjoint(endpoint.network for endpoint in endpoints):
            return
        self._look()
        for endpoint in endpoints:
            if link := self._waiting.get(endpoint.network):
                name = self._state.networks[endpoint.network].name
                raise Forbidden(f"network {name} waits for its parent: the host has no link {link}, or it is down")

    def add_link(self, sandbox: str, request: LinkRequest) -> LinkView:
        """Put an interface into a sandbox by hand."""
        user = self._state.sandbox(sandbox)
        link = self._decide.link(user, request)
        self._carry_out((link,), lambda: self._sandbox(user.netns))
        return present.link(link)

    def remove_link(self, sandbox: str, name: str) -> None:
        """Take an interface away that was put there by hand."""
        user = self._state.sandbox(sandbox)
        links = [link for link in self._state.links_of(user.id) if link.ifname == name]
        if not links:
            raise NotFound(f"no link {name} was put into {user.name} by hand")
        self._take_away(links, lambda: self._sandbox(user.netns))

    def links(self, sandbox: str) -> tuple[LinkView, ...]:
        """The interfaces that were put into a sandbox by hand."""
        return tuple(present.link(link) for link in self._state.links_of(self._state.sandbox(sandbox).id))

    # Ports.

    def publish(self, sandbox: str, wishes: Iterable[Wish]) -> tuple[PortView, ...]:
        """Publish more ports of a sandbox, or say anew who may use those that are published; return these."""
        user = self._state.sandbox(sandbox)
        bindings = self._hold(user, tuple(wishes), self._state.of_sandbox(user.id))
        before = tuple(one for binding in bindings if (one := self._state.binding(user.id, binding.place)))
        self._carry_out(bindings, lambda: self._ports(user, (*before, *bindings)), before=before)
        return present.ports(self._state, user, bindings)

    def unpublish(self, sandbox: str, wishes: Iterable[Wish]) -> None:
        """Publish those ports of a sandbox no more that *wishes* are about, of which there must be one."""
        user = self._state.sandbox(sandbox)
        bindings = tuple(dict.fromkeys(self._published(user, wishes)))
        if not bindings:
            raise NotFound(f"no such port is published for {user.name}: see `isthmus port {user.name}`")
        self._take_away(bindings, lambda: self._ports(user, bindings))

    def _published(self, user: Sandbox, wishes: Iterable[Wish]) -> Iterator[Binding]:
        """Those ports of *user* that *wishes* name: by the sandbox's port, and by what they say of the host's."""
        everything = self._state.bindings_of(user.id)
        for wish in wishes:
            # One among a thousand is not sought among all of them.
            few = 0 < len(wish.hosts) < len(everything)
            some = self._on_ports(user, wish.protocol, wish.hosts) if few else everything
            for one in some:
                place = one.place
                if (
                    (one.port, place.protocol) == (wish.port, wish.protocol)
                    and (not wish.hosts or place.port in wish.hosts)
                    and wish.address in {None, place.address}
                ):
                    yield one

    def _on_ports(self, user: Sandbox, protocol: str, ports: Iterable[int]) -> Iterator[Binding]:
        """What of the host's *ports* leads to *user*."""
        for port in ports:
            for address in self._state.on_port(protocol, port):
                if one := self._state.binding(user.id, Place(protocol, port, address)):
                    yield one

    def _hold(self, user: Sandbox, wishes: tuple[Wish, ...], endpoints: tuple[Endpoint, ...]) -> tuple[Binding, ...]:
        """Decide which places on the host lead to *user*, and keep them from all others there."""
        busy: dict[Place, str] = {}
        # Who can have but one port comes first, who takes any last.
        wishes = tuple(sorted(wishes, key=lambda wish: len(wish.hosts) or 1 << 16))
        while True:
            bindings = self._decide.bindings(user, wishes, endpoints, busy) if wishes else ()
            places = tuple(binding.place for binding in bindings)
            refused = self._kernel.hold(places) if places else {}
            if not refused:
                return bindings
            self._kernel.release(
                place for place in places if place not in refused and not self._state.binding(user.id, place)
            )
            for wish, place in zip(wishes, places, strict=True):
                if place in refused and len(wish.hosts) == 1:
                    raise PortTaken(user.name, place, refused[place], self._kernel.holder(place))
            busy.update(refused)

    def _unserved(self, user: Sandbox, bindings: tuple[Binding, ...]) -> str:
        """A warning if *bindings* lead nowhere."""
        if not bindings or any(render.serving(self._state, self._state.of_sandbox(user.id))):
            return ""
        return f"no port of {user.name} is published as long as its default route is on no bridge network with NAT"

    # What the wire tells.

    def standing(self) -> Standing:
        """What stands on segments that others are on, too."""
        return present.standing(self._state, self._paths)

    def withdraw(self, questions: Iterable[Question]) -> None:
        """Know that who had these *questions* will not come with the answers: what was held for him is free again."""
        self._decide.withdraw(questions)

    def conflict(self, segment: str, address: IPAddress, mac: str) -> None:
        """Tell everybody that somebody else on *segment*, with this *mac*, claims an *address* of ours."""
        for network in self._state.networks.values():
            driver = BUILTIN[network.driver]
            if network.config_only or driver.traits(network).segment != segment:
                continue
            told = {"name": network.name, "type": network.driver, "address": str(address), "mac": mac}
            trouble = f"a machine on the wire of {segment} claims {address}, too; its MAC is {mac}"
            for endpoint in self._state.on_network(network.id):
                if any(one.ip == address for one in endpoint.addresses):
                    self._trouble(endpoint.id, "conflict", trouble)
                    self._announce("network", "conflict", network.id, {**told, "container": endpoint.sandbox})
            if any(isinstance(one, Address) and one.interface.ip == address for one in driver.reach(network, ())):
                self._trouble(network.id, "conflict", trouble)
                self._announce("network", "conflict", network.id, told)

    def leased(self, key: tuple[str, str, int], lease: DhcpLease | None, trouble: str) -> None:
        """Have an endpoint use the address that a server gave it, and none of that IP version if there is no lease.

        *Key* is that of the question (`WhichLease`). *Trouble* is shown with the endpoint; "" if there is none.
        """
        network, sandbox, version = key
        user = self._state.sandbox_named(sandbox)
        before = (
            next((one for one in self._state.of_sandbox(user.id) if one.network == network), None) if user else None
        )
        if user is None or before is None or before.removing:
            return
        self._trouble(before.id, f"DHCP, IPv{version}", trouble)
        others = (one for one in before.leases if one.address.version != version)
        leases = tuple(sorted((*others, *([lease] if lease else ())), key=lambda one: one.address.version))
        if leases != before.leases:
            self._commit(put=[replace(before, leases=leases, addresses=tuple(one.address for one in leases))])
            self.reconcile(self._sandbox(user.netns))

    def check(self, name: str) -> Checked:
        """Look whether a network is as it should be; one that hosts share is mended, else nothing is changed."""
        network = self._state.network(name)
        host, shared = self._look(), network.scope == "global"
        areas = [self._host(host), *map(self._sandbox, dict.fromkeys(self._standing_on([network.id])))]
        if shared:
            plans = [self.reconcile(area) for area in areas]
        else:
            plans = [diff(area.desired, self._kernel.observe(area.scope)) for area in areas]
        findings = present.findings(self._state, network, host, self._waiting, self._told(), plans, mended=shared)
        return replace(self._to_ask(network, host), findings=tuple(findings))

    def packet_size(self, name: str, version: int) -> int:
        """The size, in bytes, of the largest packets of that IP *version* that go between hosts for an overlay."""
        network = self._state.network(name)
        return (BUILTIN[network.driver].mtu(network, self._look()) or ETHERNET_MTU) + overlay.HEADERS[version]

    def to_ask(self, name: str) -> Checked:
        """What of a network only the wire can tell."""
        network = self._state.network(name)
        return self._to_ask(network, self._look() if BUILTIN[network.driver].traits(network).nic else Host())

    def _to_ask(self, network: Network, host: Host) -> Checked:
        traits = BUILTIN[network.driver].traits(network)
        link = host.link(traits.nic)
        return Checked(
            nic=traits.nic if traits.macs and link else "",
            targets=tuple(subnet.gateway for subnet in network.subnets if subnet.gateway),
            wireless=bool(link and link.wireless),
        )

    def tell(self, about: str, topic: str, text: str) -> None:
        """Show *text* with the endpoint or network of the ID *about*, as what is wrong with it, until it is ""."""
        self._trouble(about, topic, text)

    def _trouble(self, about: str, topic: str, text: str) -> None:
        """Remember what is not as it should be with an endpoint or a network, or that it is."""
        known = self._state.endpoints.keys() | self._state.networks.keys() | self._state.sandboxes.keys()
        self._troubles = {key: told for key, told in self._troubles.items() if key[0] in known}
        self._troubles.pop((about, topic), None)
        if text:
            self._troubles[about, topic] = text

    def _told(self) -> present.Troubles:
        told: dict[str, tuple[str, ...]] = {}
        for (about, topic), text in self._troubles.items():
            told[about] = (*told.get(about, ()), f"{topic}: {text}")
        return told

    # What other hosts tell.

    def offers(self) -> Offers:
        """What this host has of the networks that it shares with others, as these are to see it."""
        return replace(present.offers(self._state), address=self._seen.advertised, mtu=self._seen.outward)

    def advertised(self) -> IPAddress | None:
        """The address by which other hosts reach this one, if it has that now."""
        return self._seen.advertised

    def others(self) -> tuple[Peer, ...]:
        """The endpoints that other hosts have on the networks that are shared."""
        shared = (one for one in self._state.networks.values() if one.scope == "global")
        return tuple(peer for network in shared for peer in self._state.peers_on(network.id))

    def keep_blocks(self, put: Iterable[Block], lost: Iterable[Block], spare: Iterable[Block]) -> tuple[Block, ...]:
        """Give out addresses of the blocks *put* without asking, and none any more of those *lost* to other hosts.

        Nor of those that are *spare*, but for those in which somebody has an address by now. Return those given up.
        """
        put = [block for block in put if block.network in self._state.networks]
        drop = (*lost, *filter(self._is_idle, spare))
        self._commit(put=put, drop=drop)
        return drop

    def _is_idle(self, block: Block) -> bool:
        there = self._state.on_network(block.network)
        return not any(address.ip in block.cidr for one in there for address in one.addresses)

    def learn(self, put: Iterable[Network | Peer], drop: Iterable[Network | Peer]) -> tuple[str, ...]:
        """Know what others have on the networks that are shared, and no more what they had.

        A network on which somebody stands here stays, whatever others say. One that cannot be here is passed over, or
        stays as it was; the answer says why, and what of others could not be followed whole.
        """
        state, put, drop = self._state, tuple(put), tuple(drop)
        networks = [one for one in put if isinstance(one, Network) and one != state.networks.get(one.id)]
        unfit = {one.id: why for one in networks if (why := self._unfit(one))}
        fresh = [one for one in networks if one.id not in unfit and one.id not in state.networks]
        others = [one for one in networks if one.id not in unfit and one.id in state.networks]
        if fresh:
            self._commit(put=fresh)
            self.reconcile(self._host())
        refused = tuple(filter(None, map(self._follow, others)))
        told = (one for one in put if isinstance(one, Peer) and one.network in state.networks)
        peers = {one.id: one for one in told if one != state.peer(one.network, one.id)}
        gone = [one for one in drop if isinstance(one, Peer) and state.peer(one.network, one.id)]
        changed = [*peers.values(), *gone]
        before = [known for one in changed if (known := state.peer(one.network, one.id))]
        self._commit(put=peers.values(), drop=[one for one in before if one.id not in peers])
        about: dict[str, list[Peer]] = {}
        for peer in (*changed, *before):
            about.setdefault(peer.network, []).append(peer)
        for network, several in about.items():
            self.reconcile(render.peers(state, state.networks[network], several))
        dropped = {one.id for one in drop if isinstance(one, Network) and not state.on_network(one.id)}
        old = [one for one in state.networks.values() if one.id in dropped]
        for one in old:
            self._take_away((one,), self._host, with_them=self._left_on(one))
        for action, some in (("create", fresh), ("update", others), ("destroy", old)):
            for one in some:
                self._announce("network", action, one.id, {"name": one.name, "type": one.driver})
        return (*unfit.values(), *refused)

    def _follow(self, network: Network) -> str:
        """Have a *network* be as others made it from now on; what of that the kernel refuses, "" if nothing."""
        try:
            self._put_network(network, drop=self._decide.left_behind(network))
        except (IsthmusError, ExceptionGroup) as refusal:
            return f"network {network.name} was changed, and is not yet as it should be on this host: {refusal}"
        return ""

    def _unfit(self, network: Network) -> str:
        """Why a *network* that others made cannot be here, too; "" if it can."""
        named = self._state.network_named(network.name)
        try:
            if named and named.id != network.id:
                raise NameTaken(f"there is a network of that name here, {named.id[:12]}")
            BUILTIN[network.driver].check(network, self._look(), self._state.networks.values())
        except IsthmusError as error:
            return f"network {network.name}, which other hosts have, cannot be here: {error}"
        return ""

    # What is counted.

    def nat(self) -> tuple[NatRule, ...]:
        """The rules of ours that rewrite addresses, with what met them."""
        return present.nat(self._state, self._kernel.host(), self._kernel.counts())

    # How a change is carried out.

    def _carry_out(
        self, new: tuple[Record, ...], area: Callable[[], Area], *, before: tuple[Binding, ...] = ()
    ) -> None:
        """Record what is *new*, and make the kernel hold it; if the kernel refuses, take it back and say why.

        What of it was there *before* is then as it was.
        """
        spent = self._decide.spent(new)
        self._commit(put=new, drop=spent)
        try:
            self.reconcile(area())
        except (IsthmusError, ExceptionGroup) as refusal:
            try:
                places = {one.place for one in before}
                if before:
                    self._commit(put=before)
                fresh = [one for one in new if not (isinstance(one, Binding) and one.place in places)]
                self._take_away(fresh, area, kept=spent, sure=False)
                # Not all of it bears a mark by which a start would know that it goes.
                self.write_behind()
            except (IsthmusError, ExceptionGroup) as again:
                # What is left is recorded as being removed, so the next look at it goes on.
                refusal.add_note(f"and it could not be taken back whole: {again}")
            raise

    def _take_away(
        self,
        old: Iterable[Record],
        area: Callable[[], Area],
        *,
        with_them: Iterable[Record] = (),
        kept: Iterable[Lease] = (),
        sure: bool = True,
    ) -> None:
        """Record that *old* goes, take it out of the kernel, and forget it together with what goes *with_them*.

        What is *kept* of it is recorded in the same moment. Be *sure* of what was made whole.
        """
        marked = tuple(
            record if isinstance(record, Setting | Lease | Peer | Block) else replace(record, removing=True)
            for record in old
        )
        self._commit(put=marked)
        self.reconcile(area(), sure=sure)
        # Of what is marked the next start would make an end all the same, so for this nobody has to wait.
        self._commit(put=kept, drop=(*with_them, *marked), behind=True)

    def write_behind(self) -> None:
        """Tell the store what it was not told of yet: what has gone since the last change that it was told of."""
        self._commit()

    def _commit(self, *, put: Iterable[Record] = (), drop: Iterable[Record] = (), behind: bool = False) -> None:
        """Record what is *put* instead of what is dropped; *behind*: the store need not hear of it before the next."""
        put, drop = tuple(put), tuple(drop)
        gone = (*self._ended, *drop)
        step = (put, gone)
        if behind:
            self._untold.append(step)
        else:
            self._store.commit(_changes((*self._untold, step)))
            self._untold.clear()
        # An address that passes on to another name must not bring its connections along.
        self._kernel.forget(address for *_, address in set(self._holders(gone)).difference(self._holders(put)))
        self._ended.clear()
        # What goes makes room for what comes: an address passes from an endpoint to a lease, and back.
        self._state.drop(drop)
        for record in put:
            self._state.put(record)
        self._recorded(put, drop)
        if places := [record.place for record in drop if isinstance(record, Binding)]:
            self._kernel.release(places)

    def _holders(self, some: Iterable[Record]) -> Iterator[tuple[str, str, IPAddress]]:
        """On which networks, by which names of sandboxes, which addresses are held by *some* records.

        Left out are networks whose traffic does not pass by the host's connection tracking.
        """
        # Of published ports, which hold none, there may be thousands.
        some = [one for one in some if not isinstance(one, Binding)]
        names = {one.id: one.name for one in some if isinstance(one, Sandbox)}
        for one in some:
            if not isinstance(one, Endpoint | Lease) or not self._is_tracked(one.network):
                continue
            if isinstance(one, Lease):
                yield from ((one.network, one.name, address) for address in one.addresses)
            else:
                name = names.get(one.sandbox) or self._state.sandboxes[one.sandbox].name
                yield from ((one.network, name, address.ip) for address in one.addresses)

    def _is_tracked(self, name: str) -> bool:
        """Whether what goes to and from the network of this ID passes by the host's connection tracking."""
        network = self._state.networks.get(name)
        return bool(network and BUILTIN[network.driver].traits(network).publishing)

    def _let_leases_end(self) -> None:
        """Have no leases any more whose time is over; the store hears of it with the next commit."""
        stale = self._state.stale_leases(self._clock())
        self._state.drop(stale)
        self._ended += stale

    def _finish_removing(self) -> None:
        """Forget what was still being removed, with all that goes with it, inner things first."""
        state = self._state
        users = {user.id: user for user in state.sandboxes.values() if user.removing}
        endpoints = [one for one in state.endpoints.values() if one.removing or one.sandbox in users]
        links = [one for one in state.links.values() if one.removing or one.sandbox in users]
        networks = [one for one in state.networks.values() if one.removing]
        left = [record for network in networks for record in self._left_on(network)]
        bindings = [one for one in state.bindings() if one.removing or one.sandbox in users]
        gone: list[Record] = [*endpoints, *links, *bindings, *users.values(), *left, *networks]
        if gone:
            self._commit(put=self._decide.leases(endpoints), drop=gone)

    def _left_on(self, network: Network) -> tuple[Record, ...]:
        """What is forgotten with *network*, on which nobody stands."""
        state = self._state
        return (*state.leases_on(network.id), *state.peers_on(network.id), *state.blocks(network.id))

    # Areas.

    def _look(self) -> Host:
        """Look at the host, and see which networks have to wait for a link of its."""
        seen = self._kernel.host()
        host = self._seen = replace(seen, advertised=_advertised(self._rules.advertise, seen))
        missing = {
            network.id: BUILTIN[network.driver].waits_for(network, host)
            for network in self._state.networks.values()
            if not network.config_only
        }
        self._waiting = {network: link for network, link in missing.items() if link}
        return host

    def _sandbox(self, netns: str) -> Area:
        area = render.sandbox(self._state, netns, self._seen, self._waiting.keys(), self._rules.firewall)
        policed = any(self._state.sandboxes[one.sandbox].netns == netns for one in self._state.policed())
        return render.together(self._host(), area) if policed and self._is_table_old() else area

    def _whole(self, user: Sandbox, bindings: tuple[Binding, ...]) -> Area:
        """All that a sandbox with these *bindings* is made of, with the host's half if that has to change for them."""
        area = self._sandbox(user.netns)
        return render.together(self._host(), area) if self._needs_host(bindings) else area

    def _needs_host(self, bindings: Iterable[Binding]) -> bool:
        """Whether our table has to change for *bindings*, as some of them have policies of their own."""
        return any(binding.callers for binding in bindings) and self._is_table_old()

    def _is_table_old(self) -> bool:
        """Whether our table has to have other chains: they come with the first who needs them, and go with the last."""
        return render.chains(self._state, self._seen) != self._chains

    def _ports(self, user: Sandbox, bindings: tuple[Binding, ...]) -> Area:
        if self._needs_host(bindings):
            return self._host()
        return render.ports(self._state, user, bindings, self._waiting.keys(), self._rules.firewall)

    def _host(self, host: Host | None = None) -> Area:
        host = host or self._look()
        # What a network begins with is what its sandboxes have, until `_moved` tells otherwise.
        self._mtus = self._paths_of(host) | self._mtus
        self._chains = render.chains(self._state, host)
        area = render.host(self._state, host, self._rules, self._closed(), self._waiting.keys())
        opening = {
            version: name
            for version, name in render.FORWARDING.items()
            if any(isinstance(one, Sysctl) and one.name == name for one in area.desired)
        }
        if self._close(opening, host):
            area = render.host(self._state, host, self._rules, self._closed(), self._waiting.keys())
        return area

    def _closed(self) -> dict[int, tuple[str, ...]]:
        """Between which interfaces the host shall not forward: those it had when, since it booted, we made it."""
        closed: dict[int, tuple[str, ...]] = {}
        for version in render.FORWARDING:
            boot_id, *interfaces = self._state.settings.get(f"closed{version}", "").split(" ")
            if boot_id and boot_id == self._rules.boot_id:
                closed[version] = tuple(interfaces)
        return closed

    def _close(self, opening: Mapping[int, str], host: Host) -> bool:
        """Before we switch forwarding on, record between which interfaces not; tell whether that is news."""
        if not self._rules.closing or not self._rules.boot_id:
            return False
        fresh = {version: name for version, name in opening.items() if version not in self._closed()}
        off = self._kernel.observe(Scope(sysctls=frozenset((HOST, name) for name in fresh.values()))) if fresh else ()
        shut = {one.name for one in off if isinstance(one, Sysctl) and one.value == "0"}
        interfaces = " ".join(link.name for link in host.links if link.name != "lo")
        news = [
            Setting(f"closed{version}", f"{self._rules.boot_id} {interfaces}".strip())
            for version, name in fresh.items()
            if name in shut
        ]
        if news:
            self._commit(put=news)
        return bool(news)

    # Small things.

    def _adopt(self, state: State) -> None:
        self._state = state
        self._ended = []
        self._untold = []
        self._decide = Decisions(state, self._rules, clock=self._clock, random=self._random)

    def _announce(self, kind: str, action: str, identity: str, attributes: Mapping[str, str]) -> None:
        self._publish(Event(kind, action, identity, pairs(attributes), self._clock()))

    def _announce_clashes(self, destination: IPNetwork) -> None:
        """Tell of the networks of which the host routes a part elsewhere by somebody's new route."""
        for network in self._decide.clashes(destination):
            told = {"name": network.name, "type": network.driver, "route": str(destination)}
            self._announce("network", "clash", network.id, told)

    def _announce_endpoint(self, action: str, network: Network, user: Sandbox) -> None:
        attributes = {"container": user.id, "name": network.name, "type": network.driver}
        self._announce("network", action, network.id, attributes)


_Step = tuple[tuple[Record, ...], tuple[Record, ...]]
"""What comes and what goes."""


def _changes(steps: Iterable[_Step]) -> dict[str, bytes | None]:
    """What a store is to be told after these *steps*, of which a later one has the last word."""
    changes: dict[str, bytes | None] = {}
    for put, drop in steps:
        changes.update((records.key(record), None) for record in drop)
        changes.update((records.key(record), records.encode(record)) for record in put)
    return changes


def _advertised(wanted: str, host: Host) -> IPAddress | None:
    """The address *wanted*, or that of the link of that name, if the *host* has it."""
    link = host.link(wanted)
    own = [address for one in host.links for address in one.addresses]
    usable = [one.ip for one in (link.addresses if link else own) if not one.is_link_local]
    return next((one for one in sorted(usable, key=lambda one: one.version) if link or str(one) == wanted), None)


def _or_back(change: Callable[[], None], back: Callable[[], None]) -> None:
    """Do *change*; if that is refused, do *back*, and raise the refusal."""
    try:
        change()
    except (IsthmusError, ExceptionGroup) as refusal:
        try:
            back()
        except (IsthmusError, ExceptionGroup) as again:
            # What is wanted is recorded, so the next look at it goes on.
            refusal.add_note(f"and it could not be changed back whole: {again}")
        raise


class _Stage:
    """A store and a kernel on which a change is only rehearsed: what is asked is answered, what is told is noted."""

    def __init__(self, kernel: Kernel) -> None:
        self.plans: list[Plan] = []
        self.observe = kernel.observe
        self.host = kernel.host
        self.counts = kernel.counts
        self.holder = kernel.holder
        self.idle = kernel.idle

    def hold(self, places: Iterable[Place]) -> Mapping[Place, str]:  # noqa: ARG002 - nobody is to be kept out by it
        """Nothing: whether it can be had is seen when it is done."""
        return {}

    def release(self, places: Iterable[Place]) -> None:
        """Do nothing."""

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """Do nothing."""

    def send(self, netns: str, link: str, frames: Iterable[bytes]) -> None:
        """Do nothing."""

    def apply(self, plan: Plan) -> None:
        """Note *plan*."""
        self.plans.append(plan)

    def read(self, prefix: str = "") -> Snapshot:  # noqa: ARG002 - a rehearsal begins with a state, not with records
        """Nothing."""
        return Snapshot(0, {})

    def commit(self, changes: Mapping[str, bytes | None]) -> int:  # noqa: ARG002 - nothing is to remain of it
        """Do nothing."""
        return 0
