"""The daemon dies, by SIGKILL, before and after each single operation on the kernel and each commit to the store.

The life below makes, joins, leaves and removes everything. It is run in a process of its own again and again; each time
the process kills itself one step later. Whatever it left, the next start has to bring kernel and store to one of the
states that a user could have asked for, with nothing leaked, and then everything can be removed as if nothing had been.
"""

import json
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.engine import Engine
from isthmus.kernel import Count, Kernel, Scope
from isthmus.kernel.linux import LinuxKernel
from isthmus.model import HOST, Host, IPAddress, Lease, Place, pairs
from isthmus.plan import NOTHING, Plan
from isthmus.ports import Wish
from isthmus.rates import RATE
from isthmus.requests import EndpointRequest, LinkRequest, NetworkRequest, SandboxRequest
from isthmus.resources import Key, Resource
from isthmus.rules import DefaultBridge, Rules
from isthmus.store import Snapshot, Store, records
from isthmus.store.local import LocalStore
from tests.kernel.realm import apart, can_shape

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]

RULES = Rules(
    pools=DEFAULT_POOLS,
    boot_id="this-boot",
    default_bridge=DefaultBridge(options=pairs({"com.docker.network.bridge.name": "isthmus0"})),
)


class Fuse:
    """Kills the process at the step of that number; steps are counted from 1."""

    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self) -> None:
        """One step on."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalKernel:
    """A kernel to which plans are applied one operation at a time, with a step of the fuse before and after each."""

    def __init__(self, kernel: Kernel, fuse: Fuse) -> None:
        self._kernel = kernel
        self._fuse = fuse

    def observe(self, scope: Scope) -> frozenset[Resource]:
        """As the kernel does."""
        return self._kernel.observe(scope)

    def apply(self, plan: Plan) -> None:
        """Each operation by itself."""
        for step in plan.steps():
            self._fuse.burn()
            self._kernel.apply(step)
            self._fuse.burn()

    def host(self) -> Host:
        """As the kernel does."""
        return self._kernel.host()

    def counts(self) -> tuple[Count, ...]:
        """As the kernel does."""
        return self._kernel.counts()

    def hold(self, places: Iterable[Place]) -> Mapping[Place, str]:
        """As the kernel does."""
        return self._kernel.hold(places)

    def release(self, places: Iterable[Place]) -> None:
        """As the kernel does."""
        self._kernel.release(places)

    def holder(self, place: Place) -> str:
        """As the kernel does."""
        return self._kernel.holder(place)

    def idle(self, told: Iterable[Key], seconds: float) -> frozenset[Key]:
        """As the kernel does."""
        return self._kernel.idle(told, seconds)

    def forget(self, addresses: Iterable[IPAddress]) -> None:
        """As the kernel does."""
        self._kernel.forget(addresses)

    def send(self, netns: str, link: str, frames: Iterable[bytes]) -> None:
        """As the kernel does."""
        self._kernel.send(netns, link, frames)


class MortalStore:
    """A store with a step of the fuse before and after each commit."""

    def __init__(self, store: Store, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def read(self, prefix: str = "") -> Snapshot:
        """As the store does."""
        return self._store.read(prefix)

    def commit(self, changes: Mapping[str, bytes | None]) -> int:
        """As the store does."""
        self._fuse.burn()
        revision = self._store.commit(changes)
        self._fuse.burn()
        return revision


def engine(kernel: Kernel, store: Store) -> Engine:
    """An engine that has started."""
    made = Engine(
        store,
        kernel,
        RULES,
        clock=lambda: 1,
        random=os.urandom,
        publish=lambda _event: None,
        paths={HOST: "/proc/self/ns/net", "*": "/run/isthmus/netns"},
    )
    made.start()
    return made


def live(one: Engine) -> None:
    """Make, join, leave and remove everything."""
    subnet = (SubnetRequest("10.5.0.0/24", gateway="10.5.0.1"),)
    one.create_network(NetworkRequest("front", subnets=subnet))
    six = (SubnetRequest("10.6.0.0/24"), SubnetRequest("fd00:6::/64"))
    quiet = pairs({"com.docker.network.bridge.enable_icc": "false"})
    one.create_network(NetworkRequest("back", subnets=six, ipv6=True, internal=True, options=quiet))
    ports = (Wish(80, "tcp", hosts=range(8080, 8081)), Wish(53, "udp", ip_address("0.0.0.0"), range(5353, 5354)))
    address = (("front", EndpointRequest(ipv4="10.5.0.9")),)
    one.create_sandbox(SandboxRequest("web", mode="front", endpoints=address, ports=ports))
    one.publish("web", (Wish(81, "tcp"),))
    one.unpublish("web", (Wish(80, "tcp"),))
    one.create_sandbox(SandboxRequest("side", mode="container:web"))
    one.create_sandbox(SandboxRequest("bare", mode="none"))
    one.add_link("bare", LinkRequest("veth", addresses=(ip_interface("10.9.0.2/24"),)))
    one.connect("back", "web", EndpointRequest())
    if can_shape():
        one.change("back", "web", "isthmus.rate", "100mbit/20mbit")
        one.change("back", "web", "isthmus.rate", "50mbit")
        one.change("back", "web", "isthmus.rate", "off")
        one.disconnect("back", "web")
        one.connect("back", "web", EndpointRequest(options=pairs({RATE: "100mbit"})))
    one.create_network(NetworkRequest("lan", driver="macvlan", subnets=(SubnetRequest("10.7.0.0/24"),)))
    one.connect("lan", "web", EndpointRequest())
    one.disconnect("lan", "web")
    one.write_behind()
    one.connect("lan", "web", EndpointRequest())
    one.disconnect("front", "web")
    one.connect("front", "web", EndpointRequest())
    one.remove_sandbox("web")
    one.create_sandbox(SandboxRequest("web", mode="front"))
    one.remove_sandbox("web")
    one.remove_link("bare", "eth0")
    one.remove_sandbox("bare")
    one.remove_network("lan")
    one.remove_network("back")
    one.remove_sandbox("side")
    one.remove_network("front")
    one.write_behind()


def in_child(work: Callable[[], None]) -> int:
    """Do *work* in a process of its own; its exit status, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - it is shown, and becomes the exit status
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def links() -> set[str]:
    """The names of all links in the host's namespace."""
    shown = subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout
    return {link["ifname"] for link in json.loads(shown)}


def elements() -> set[str]:
    """All that the elements of our table name."""
    shown = subprocess.run(["nft", "-j", "list", "table", "inet", "isthmus"], check=True, capture_output=True).stdout
    sets = [item.get("set") or item.get("map") for item in json.loads(shown)["nftables"]]
    return {str(element) for one in sets if one for element in one.get("elem", ())}


def lives(directory: Path) -> Iterator[int]:
    """Run the life again and again, each time a step longer, until one ends by itself; give the step of each death."""
    step = 0
    while True:
        step += 1
        assert step < 2000, "the life does not end"

        def life(length: int = step) -> None:
            fuse = Fuse(length)
            store = LocalStore(directory / "store")
            live(engine(MortalKernel(LinuxKernel(directory / "run"), fuse), MortalStore(store, fuse)))

        status = in_child(life)
        if status == 0:
            return
        assert status == -signal.SIGKILL, f"the life ended by itself at step {step} with status {status}"
        yield step


def check_leases(one: Engine, store: Store) -> None:
    """Nothing is kept of what is gone or for who is there, and who is there has what was kept."""
    stored = [records.decode(key, value) for key, value in store.read("lease/").items.items()]
    kept = {(lease.network, lease.name) for lease in stored if isinstance(lease, Lease)}
    there = {(view.network.id, end.sandbox.name) for view in one.networks() for end in view.endpoints}
    assert {network for network, _ in kept} <= {view.network.id for view in one.networks()}
    assert not kept & there
    on_front = [end for view in one.networks() if view.network.name == "front" for end in view.endpoints]
    assert all(str(end.ipv4) == "10.5.0.9/24" for end in on_front)


@apart
def test_death_at_any_step_leaks_nothing(tmp_path: Path) -> None:
    """Crash safety is a law: from wherever it stopped, one start converges, and all can be removed."""
    deaths = 0
    for step in lives(tmp_path):
        deaths += 1

        def recover(step: int = step) -> None:
            kernel = LinuxKernel(tmp_path / "run")
            store = LocalStore(tmp_path / "store")
            one = engine(kernel, store)
            assert one.start() == NOTHING, f"after a death at step {step} a second start still had work"
            assert not any(b'"removing":true' in value for value in store.read().items.values())
            check_leases(one, store)
            for name in ("web", "side", "bare"):
                if any(view.sandbox.name == name for view in one.sandboxes()):
                    one.remove_sandbox(name)
            for name in ("front", "back", "lan"):
                if any(view.network.name == name for view in one.networks()):
                    one.remove_network(name)
            one.write_behind()
            kernel.reap()
            assert links() == {"lo", "isthmus0"}, f"links leaked by a death at step {step}"
            leaked = [one for one in elements() if "isthmus0" not in one]
            assert not leaked, f"rules leaked by a death at step {step}"
            assert not list(Path("/run/netns").iterdir()), f"namespaces leaked by a death at step {step}"
            left = {key.partition("/")[0] for key in store.read().items}
            assert left <= {"network", "setting"}, f"records leaked by a death at step {step}: {left}"
            assert len(one.networks()) == 3

        assert in_child(recover) == 0, f"no recovery from a death at step {step}"
    assert deaths > 60
