"""Networks whose frames are encrypted between hosts: whole daemons, a real store, WireGuard by wireguard-go."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from isthmus.naming import ENCRYPTED
from tests.e2e.clusters import STORE, TTL, Cluster, Shared, Tenant, cluster, has
from tests.e2e.hosts import PROGRAM, Echo, Flow, Host, Place, World, pings, seen, shut, until, wire
from tests.kv_servers import UNPACKED, program

WIREGUARD = UNPACKED / "wireguard/usr/bin"
SECRET = b"nobody but the two of us shall read this"
VXLAN, PORT = 4789, 51820

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces are made"),
    pytest.mark.skipif(program("etcd") is None, reason="etcd was not fetched: ./bootstrap e2e"),
    pytest.mark.skipif(not WIREGUARD.exists(), reason="WireGuard's programs were not fetched: ./bootstrap e2e"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts that have WireGuard's programs, and a store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{WIREGUARD}:{os.environ['PATH']}")
        with cluster("etcd", tmp_path_factory.mktemp("wg")) as made:
            yield made


@pytest.fixture
def three(shared: Cluster) -> Iterator[Cluster]:
    """Three hosts and a store, with nothing on them; what the test made goes, and nothing of it may be left."""
    yield shared
    shared.together()
    shared.clear()
    for host in shared.hosts:
        until(lambda host=host: not devices(host), f"a device is left on {host.name}")  # type: ignore[misc]


@pytest.fixture
def multi(three: Cluster) -> Shared:
    """An encrypted network."""
    return three.network("multi", "--subnet 10.0.9.0/24 --opt encrypted")


def devices(host: Host) -> dict[str, int]:
    """The devices of *host*, each with the process of its wireguard-go."""
    names = [path.name.removesuffix(".sock") for path in (host.root / "run/wireguard").glob("*.sock")]
    return {name: int(pid) for name in names if (pid := host.attempt(f"pgrep -f 'wireguard-go {name}'").stdout.strip())}


def device(host: Host) -> tuple[str, int]:
    """The one device of *host*, and its process."""
    (found,) = devices(host).items()
    return found


def wg(host: Host, what: str) -> str:
    """What `wg show` tells of all devices of *host*."""
    return host.run(f"wg show all {what}")


def all_reach(tenants: list[Tenant]) -> None:
    """See that each reaches each."""
    for one in tenants:
        for other in tenants:
            assert one is other or pings(one.place, other.address), f"{one.name} does not reach {other.name}"


class Wire:
    """What passes between the hosts, heard at the switch."""

    def __init__(self, place: Place, port: str) -> None:
        self._heard = place.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._heard.bind((port, 3))
        self._heard.setblocking(False)  # noqa: FBT003 - its only parameter
        self._frames: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self._heard.close()

    def frames(self) -> list[bytes]:
        """All that was heard so far."""
        try:
            while True:
                self._frames.append(self._heard.recv(65535))
        except BlockingIOError:
            return self._frames

    def plain(self) -> bool:
        """Whether the secret was heard."""
        return any(SECRET in frame for frame in self.frames())

    def ports(self) -> set[int]:
        """The UDP ports to which something was sent, by IPv4."""
        udp = [frame for frame in self.frames() if frame[12:14] == b"\x08\0" and frame[23] == socket.IPPROTO_UDP]
        return {int.from_bytes(frame[36:38], "big") for frame in udp}


def says(one: Tenant, other: Tenant, patience: float = 5.0) -> bool:
    """Whether the secret comes from *one* to *other*."""
    with (
        closing(one.place.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
        closing(other.place.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
    ):
        receiver.bind(("", 9000))
        receiver.settimeout(patience)
        sender.sendto(SECRET, (other.address, 9000))
        try:
            return receiver.recv(100) == SECRET
        except TimeoutError:
            return False


def test_nothing_is_to_be_read_between_hosts(three: Cluster, multi: Shared) -> None:
    """All reach all, and on the wire there is nothing but WireGuard; a plain network stands beside."""
    one, two, other = tenants = multi.one_each()
    all_reach(tenants)
    assert "packets of 1420 bytes come through whole to h2" in one.host.isthmus("network check multi")
    plain = three.network("plain", "--subnet 10.0.8.0/24 --opt encrypted=false")
    first, second, third = plain.one_each("p")
    all_reach([first, second, third])
    with Wire(three.switch, "h1") as wire_:
        assert says(one, two)
        assert says(two, one)
        assert pings(one.place, other.address, size=1300)
        assert not wire_.plain()
        assert wire_.ports() == {PORT}
        assert says(first, second)
        assert wire_.plain(), "the test hears nothing"
        assert wire_.ports() == {PORT, VXLAN}
    keys = [Path(host.data / "wireguard.key") for host in three.hosts]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    private = {wg(host, "private-key").split()[1] for host in three.hosts}
    assert len(private) == 3
    for host in three.hosts:
        assert not any(one in host.log for one in private)
    assert not any(one.encode() in value for one in private for value in three.registry().items.values())


def test_a_host_without_its_device_says_nothing(three: Cluster, multi: Shared) -> None:
    """What cannot be encrypted is not sent; and nobody is heard who does not encrypt."""
    one, two, _ = multi.one_each()
    assert says(one, two)
    one.host.kill()
    _, process = device(one.host)
    os.kill(process, signal.SIGKILL)
    until(lambda: not devices(one.host), "it does not die")
    with Wire(three.switch, "h1") as wire_:
        assert shut(one.place, two.address, "icmp")
        assert not says(one, two, 0.3)
        assert not wire_.plain()
        assert not wire_.ports()
    one.host.start()
    assert pings(one.place, two.address)


def test_who_does_not_encrypt_is_not_heard(three: Cluster, multi: Shared) -> None:
    """A frame for the network, right in all but that it comes by the LAN, reaches nobody."""
    one, _, _ = multi.one_each()
    number = int(multi.tunnel.removeprefix("vxlan"))
    with (
        three.switch.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged,
        closing(one.place.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
    ):
        three.switch.batch("address replace 192.0.2.50/24 dev lan0")
        receiver.bind(("", 9000))
        receiver.settimeout(0.3)
        forged.sendto(b"\x08\0\0\0" + (number << 8).to_bytes(4, "big") + bytes(60), ("192.0.2.1", VXLAN))
        with pytest.raises(TimeoutError):
            receiver.recv(100)
    assert f":{VXLAN}" not in one.host.run("ss -Hlun")


def test_traffic_goes_on_without_the_daemon(three: Cluster, multi: Shared) -> None:
    """A daemon that dies takes nothing with it, and the next one goes on with what it finds."""
    one, two, _ = multi.one_each()
    all_reach([one, two])
    before = device(one.host)
    flow = Flow(one.place, two.place, two.address)
    with closing(flow):
        flow.arrives()
        one.host.kill()
        flow.more(500)
        one.host.start()
        three.together()
        flow.more(500)
        assert flow.lost() == 0
    assert one.host.planned_nothing, one.host.log
    assert device(one.host) == before


@pytest.mark.parametrize("how", ["killed", "deleted"])
def test_a_device_that_goes_is_made_again(three: Cluster, multi: Shared, how: str) -> None:
    """By the daemon, which hears of it."""
    one, two, three_ = multi.one_each()
    all_reach([one, two, three_])
    name, process = device(one.host)
    if how == "killed":
        os.kill(process, signal.SIGKILL)
    else:
        one.host.run(f"ip -n {ENCRYPTED} link delete {name}")
    until(lambda: devices(one.host).get(name, process) != process, f"it does not come back: {one.host.log}")
    all_reach([one, two, three_])
    assert wg(one.host, "listen-port").split()[1] == str(PORT)
    assert [device(one.host)[0], len(three.hosts)] == [name, 3]


def test_the_namespace_of_the_devices_comes_back(three: Cluster, multi: Shared) -> None:
    """Whoever deletes it."""
    tenants = multi.one_each()
    all_reach(tenants)
    host = tenants[0].host
    _, process = device(host)
    host.run(f"ip netns delete {ENCRYPTED}")
    until(lambda: process not in devices(host).values() and devices(host), f"it does not come back: {host.log}")
    all_reach(tenants)
    assert len(three.hosts) == 3


def test_a_key_is_replaced_without_loss(three: Cluster, multi: Shared) -> None:
    """The others know the new one before it is used, and the old one goes when nobody needs it."""
    one, two, other = multi.one_each()
    all_reach([one, two, other])
    before = wg(one.host, "public-key").split()
    there, back = Flow(one.place, two.place, two.address), Flow(other.place, one.place, one.address)
    with closing(there), closing(back):
        there.arrives()
        back.arrives()
        one.host.isthmus("node rekey")
        assert "being replaced already" in one.host.refused("node rekey")
        until(lambda: len(devices(one.host)) == 2, f"there is no second device: {one.host.log}")
        until(lambda: len(devices(one.host)) == 1, f"the first device does not go: {one.host.log}", 40)
        there.more(1000)
        assert (there.lost(), back.lost()) == (0, 0)
    after = wg(one.host, "public-key").split()
    assert before[1] != after[1]
    for host in three.hosts[1:]:
        until(lambda host=host: before[1] not in wg(host, "peers"), f"{host.name} keeps the old key")  # type: ignore[misc]
    all_reach([one, two, other])


def test_a_key_is_replaced_unasked_when_it_is_old(three: Cluster, multi: Shared) -> None:
    """Again and again, and no datagram is lost by it; whichever daemon it was that made the key."""
    one, two, other = multi.one_each()
    all_reach([one, two, other])
    keys = [wg(one.host, "public-key").split()[1]]
    there, back = Flow(one.place, two.place, two.address), Flow(other.place, one.place, one.address)

    def fresh() -> str:
        """The one key that there is; "" while it is being replaced, and if it was there before."""
        found = wg(one.host, "public-key").split()[1::2]
        return found[0] if len(found) == 1 and found[0] not in keys else ""

    with closing(there), closing(back):
        there.arrives()
        back.arrives()
        one.host.stop()
        one.host.start("--encryption-rekey 2s")
        # The first is old already, the second gets old.
        keys.append(until(fresh, f"the first key is not replaced: {one.host.log}", 60))
        keys.append(until(fresh, f"the second key is not replaced: {one.host.log}", 60))
        one.host.restart()
        three.together()
        there.more(500)
        back.more(500)
        assert (there.lost(), back.lost()) == (0, 0)
    assert len({*keys}) == 3
    assert "the key of this host was used for long enough" in one.host.log
    all_reach([one, two, other])


class Poor(Host):
    """A host without WireGuard's programs."""

    def daemon_command(self, flags: str = "") -> list[str]:
        """The words that start a daemon."""
        command = super().daemon_command(flags)
        place = command.index(PROGRAM)
        return [*command[:place], "env", "PATH=/sbin", *command[place:]]


def test_a_host_without_the_programs_says_what_to_install(three: Cluster, multi: Shared, tmp_path: Path) -> None:
    """It takes no part, and has all else."""
    tenants = multi.one_each()
    with World(tmp_path) as world:
        host = world.hold(Poor("poor", tmp_path / "poor"))
        wire(host, "eth0", three.switch, "poor")
        three.switch.batch("link set poor master lan0")
        host.batch("address add 192.0.2.77/24 dev eth0")
        three.start(host)
        until(lambda: has(host, "multi"), "it does not hear of the network")
        for command in (
            "network create -d overlay --opt encrypted --subnet 10.0.7.0/24 more",
            "sandbox create --network multi a",
        ):
            said = host.refused(command)
            assert "encrypted networks need the program wg on each host" in said
            assert "wireguard-tools" in said
        host.network("plain", "-d overlay --subnet 10.0.7.0/24")
        host.isthmus("network rm plain")
        all_reach(tenants)


def test_a_host_behind_nat_reaches_and_is_reached(three: Cluster, multi: Shared, tmp_path: Path) -> None:
    """It calls the others, and is answered where it called from, whatever it takes to be its address."""
    tenants = multi.one_each()
    with World(tmp_path) as world:
        router, host = world.machine("router"), world.host("inner")
        wire(router, "eth0", three.switch, "nat")
        three.switch.batch("link set nat master lan0")
        wire(host, "eth0", router, "eth1")
        router.batch("address add 192.0.2.200/24 dev eth0", "address add 10.99.0.1/24 dev eth1")
        host.batch("address add 10.99.0.2/24 dev eth0", "route add default via 10.99.0.1")
        router.sysctl("net.ipv4.ip_forward", "1")
        router.run("nft add table ip nat")
        router.run("nft add chain ip nat post '{ type nat hook postrouting priority 100; }'")
        router.run("nft add rule ip nat post oif eth0 masquerade random")
        three.start(host)
        until(lambda: has(host, "multi"), "it does not hear of the network")
        inner = multi.tenant(host, "inner")
        all_reach([*tenants, inner])
        with Wire(three.switch, "nat") as wire_:
            assert says(tenants[0], inner)
            assert not wire_.plain()
            assert VXLAN not in wire_.ports()
        host.isthmus("sandbox rm inner")
        host.kill()
        for process in devices(host).values():
            os.kill(process, signal.SIGKILL)  # it holds the machine's mounts, and so its namespaces


def test_without_the_store_all_goes_on(three: Cluster, multi: Shared) -> None:
    """A device that is made again then knows all whom the host knew; a daemon that starts then forgets nobody."""
    tenants = multi.one_each()
    all_reach(tenants)
    one, two, _ = (tenant.host for tenant in tenants)
    with three.storeless():
        os.kill(device(one)[1], signal.SIGKILL)
        until(lambda: not devices(one), "it does not die")
        until(lambda: devices(one), f"it does not come back: {one.log}")
        before = device(two)
        two.restart()
        assert device(two) == before
        all_reach(tenants)
    three.open()
    all_reach(tenants)


def test_who_is_missed_is_still_reached(three: Cluster, multi: Shared) -> None:
    """As long as it has addresses: its daemon may be dead, and its sandboxes are not."""
    one, two, _ = multi.one_each()
    all_reach([one, two])
    two.host.kill()
    until(lambda: two.host.name not in three.nodes(one.host), "it is not missed", 3 * TTL)
    assert pings(one.place, two.address)
    assert "down" in one.host.isthmus("node ls")
    two.host.start()
    three.together()
    all_reach([one, two])


def test_a_key_is_replaced_whoever_dies(three: Cluster, multi: Shared) -> None:
    """The next daemon goes on where the last one was; nobody is cut off who does not know yet."""
    one, two, other = multi.one_each()
    all_reach([one, two, other])
    before = wg(one.host, "public-key").split()[1]
    flow = Flow(other.place, one.place, one.address)
    with closing(flow):
        flow.arrives()
        assert two.host.daemon
        two.host.daemon.send_signal(signal.SIGSTOP)
        try:
            one.host.isthmus("node rekey")
            until(lambda: len(devices(one.host)) == 2, f"there is no second device: {one.host.log}")
            one.host.kill()
            one.host.start()
            until(lambda: len(devices(one.host)) == 2, f"the second device does not come back: {one.host.log}")
            assert pings(two.place, one.address)
        finally:
            two.host.daemon.send_signal(signal.SIGCONT)
        until(lambda: len(devices(one.host)) == 1, f"the first device does not go: {one.host.log}", 60)
        assert before not in wg(one.host, "public-key")
        flow.more(500)
        assert flow.lost() == 0
    three.together()
    all_reach([one, two, other])


def test_a_policy_says_who_may_be_called(three: Cluster) -> None:
    """By the way out, as on other overlays; who stands elsewhere on the network may always be."""
    secret = three.network("secret", f"--subnet 10.0.9.0/24 --opt encrypted --egress 'deny, allow {STORE}:443'")
    tenants = secret.one_each()
    with closing(Echo(three.store.machine, 80)), closing(Echo(three.store.machine, 443)):
        for one in tenants:
            assert shut(one.place, STORE)
            assert seen(one.place, STORE, port=443)
    all_reach(tenants)
