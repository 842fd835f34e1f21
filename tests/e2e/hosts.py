"""Hosts, LANs and the outside world, made of namespaces, with real daemons on the hosts and real packets between them.

A `World` owns all that a test makes and takes it apart at the end. A `Machine` has a network, mounts and a host name of
its own, with an empty /run; a `Host` is a machine with a daemon. Sockets are made there but belong to the test:

    with World(tmp_path) as world:
        host, outside = world.internet()
        world.serve(outside)
        host.start()
        assert seen(host.sandbox("web", "--network bridge"), OUTSIDE) == HOST_ADDRESS
"""

import http.client
import json
import os
import secrets
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeVar

from isthmus.kernel import namespaces

PATIENCE = 10.0
"""How long, in seconds, something that must happen may take."""

SILENCE = 0.25
"""How long, in seconds, it must stay quiet where nothing may come through."""

OUTSIDE, OUTSIDE6 = "203.0.113.1", "2001:db8:113::1"
HOST_ADDRESS, HOST_ADDRESS6 = "203.0.113.2", "2001:db8:113::2"
ROUTER, NEIGHBOUR, FAR = "192.168.1.1", "192.168.1.9", "198.51.100.2"

PROGRAM = str(Path(sys.executable).parent / "isthmus")

T = TypeVar("T")


def until(condition: Callable[[], T], complaint: str, patience: float = PATIENCE) -> T:
    """Wait until *condition* gives something true, and give that; AssertionError with *complaint* if it never does."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, complaint
        time.sleep(0.005)
    return result


class Place:
    """A network namespace: programs are run in it, and sockets made."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back; sockets that were made here stay."""
        os.close(self.netns)

    def within(self, command: str) -> list[str]:
        """The words by which *command* (no shell is asked) runs here."""
        return ["nsenter", f"--net={self.path}", *shlex.split(command)]

    def attempt(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* here to its end, however that is."""
        return subprocess.run(self.within(command), capture_output=True, text=True, check=False)

    def run(self, command: str) -> str:
        """What *command* prints, which must succeed."""
        done = self.attempt(command)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stderr or done.stdout}"
        return done.stdout

    def ip(self, command: str) -> Any:  # noqa: ANN401 - any JSON
        """What `ip -j` tells."""
        return json.loads(self.run(f"ip -j {command}") or "[]")

    def batch(self, *commands: str) -> None:
        """Do several `ip` *commands*."""
        subprocess.run(self.within("ip -b -"), input="\n".join(commands), text=True, check=True)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """A socket that lives here."""
        with namespaces.inside(self.netns):
            return socket.socket(family, kind, protocol)

    def addresses(self, interface: str, version: int = 4) -> list[str]:
        """The global addresses of *interface*, as "10.5.0.9/24"."""
        links = self.ip(f"-{version} address show dev {interface} scope global")
        found = [one for link in links for one in link.get("addr_info", ()) if one]
        return [f"{one['local']}/{one['prefixlen']}" for one in found]

    def address(self, interface: str = "eth0", version: int = 4) -> str:
        """The one global address of *interface*, without its prefix length."""
        (address,) = self.addresses(interface, version)
        return address.partition("/")[0]

    def interfaces(self) -> set[str]:
        """The names of all links but the loopback, and but those that left and wait to be taken apart."""
        return {link["ifname"] for link in self.ip("link") if not link["ifname"].startswith("dying")} - {"lo"}

    def routes(self, version: int = 4) -> list[str]:
        """The routes but link-local ones, as `DESTINATION via GATEWAY dev INTERFACE` or `DESTINATION dev INTERFACE`."""
        found = [one for one in self.ip(f"-{version} route show") if not one["dst"].startswith("fe80:")]
        return [
            f"{one['dst']} via {one['gateway']} dev {one['dev']}"
            if "gateway" in one
            else f"{one['dst']} dev {one['dev']}"
            for one in found
        ]


class Machine(Place):
    """A network namespace with mounts, a host name and a /run of its own. It lasts as long as its world."""

    _SCRIPT = (
        'hostname "$1" && mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up && '
        "echo 0 > /proc/sys/net/ipv4/ip_forward && echo 0 > /proc/sys/net/ipv6/conf/all/forwarding && "
        "echo ready && exec cat"
    )

    def __init__(self, name: str) -> None:
        # It ends when its standard input does: with us, however we end.
        command = ["unshare", "--net", "--mount", "--uts", "sh", "-c", self._SCRIPT, "sh", name]
        self._anchor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._anchor.stdout is not None
        assert self._anchor.stdout.readline() == b"ready\n"
        self.pid = self._anchor.pid
        self.root = Path(f"/proc/{self.pid}/root")
        super().__init__(name, f"/proc/{self.pid}/ns/net")

    def close(self) -> None:
        """End it, with all its namespaces."""
        super().close()
        self._anchor.communicate()

    def within(self, command: str) -> list[str]:
        """The words by which *command* runs here."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", *shlex.split(command)]

    def sysctl(self, name: str, value: str | None = None) -> str:
        """The value of the setting *name*, after it has been set to *value* if there is one."""
        if value is not None:
            self.run(f"sysctl -qw {name}={value}")
        return self.run(f"sysctl -n {name}").strip()

    def rules(self) -> str:
        """All nftables rules, as text."""
        return self.run("nft list ruleset")


class Host(Machine):
    """A machine with a daemon, whose records and logs are in *directory*."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name)
        self.directory = directory
        directory.mkdir(parents=True)
        self.configuration = directory / "daemon.json"
        self.data = directory / "data"
        self._held = ExitStack()
        self._log = self._held.enter_context((directory / "log").open("a"))
        self.daemon: subprocess.Popen[bytes] | None = None
        self.started = ""
        self._notified = self._held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._notified.bind(str(directory / "notify"))
        self._notified.settimeout(0.05)

    def close(self) -> None:
        """End the daemon and the machine."""
        self.kill()
        self._held.close()
        super().close()

    @property
    def log(self) -> str:
        """All that the daemon has logged."""
        return (self.directory / "log").read_text()

    def daemon_command(self, flags: str = "") -> list[str]:
        """The words that start a daemon."""
        paths = f"--data-root {self.data} --exec-root /run/isthmus --config-file {self.configuration}"
        return self.within(f"{PROGRAM} daemon {paths} {flags}")

    def start(self, flags: str = "", config: Mapping[str, object] | None = None) -> Self:
        """Start the daemon and wait until it tells, as systemd would be told, that it is ready."""
        if config is not None or not self.configuration.exists():
            self.configuration.write_text(json.dumps(config or {}))
        self.drain()
        before = len(self.log)
        environment = os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")}
        self.daemon = subprocess.Popen(
            self.daemon_command(flags), env=environment, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        until(lambda: self.notified() == "READY=1" or self.ended(), f"no daemon:\n{self.log}", 30)
        self.started = until(
            lambda: next((line for line in self.log[before:].splitlines() if "ready after" in line), ""), "never ready"
        )
        return self

    def ended(self) -> bool:
        """Whether the daemon has ended, which then is an error."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended:\n{self.log}"
        return False

    def fails(self, flags: str = "") -> tuple[int, str]:
        """Start a daemon that must not come up; its exit status and what it said."""
        done = subprocess.run(self.daemon_command(flags), capture_output=True, text=True, check=False, timeout=30)
        return done.returncode, done.stderr

    def notified(self) -> str:
        """The next thing that systemd is told, if there is one soon."""
        with suppress(TimeoutError):
            return self._notified.recv(4096).decode()
        return ""

    def drain(self) -> None:
        """Forget what systemd was told so far."""
        while self.notified():
            pass

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon by a signal; its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(how)
        status = self.daemon.wait(30)
        self.daemon = None
        return status

    def kill(self) -> None:
        """End the daemon by SIGKILL, if there is one."""
        if self.daemon:
            self.stop(signal.SIGKILL)

    def restart(self, how: signal.Signals = signal.SIGTERM, config: Mapping[str, object] | None = None) -> None:
        """End the daemon and start it again."""
        self.stop(how)
        self.start(config=config)

    @property
    def planned_nothing(self) -> bool:
        """Whether the last start had nothing to do, as the daemon tells when it is ready."""
        return self.started.endswith("with 0 operations done")

    def isthmus(self, command: str) -> str:
        """What `isthmus COMMAND` prints, which must succeed."""
        return self.run(f"{PROGRAM} {command}").strip()

    def refused(self, command: str) -> str:
        """What `isthmus COMMAND` complains of, which must fail."""
        done = self.attempt(f"{PROGRAM} {command}")
        assert done.returncode != 0, f"{command} succeeded: {done.stdout}"
        return done.stderr.strip()

    def complains(self, command: str) -> str:
        """What `isthmus COMMAND` prints that finds something wrong, and tells so by its exit status."""
        done = self.attempt(f"{PROGRAM} {command}")
        assert done.returncode == 1, f"{command} found nothing: {done.stdout}{done.stderr}"
        return done.stdout

    def network(self, name: str, flags: str = "") -> None:
        """Create a network."""
        self.isthmus(f"network create {flags} {name}")

    def sandbox(self, name: str, flags: str | None = None) -> Place:
        """The sandbox *name*, created if there are *flags*."""
        if flags is not None:
            self.isthmus(f"sandbox create {flags} {name}")
        client = self.api()
        place = Place(name, f"{self.root}{client.ask('GET', f'/sandboxes/{name}')['NetnsPath']}")
        client.close()
        self._held.callback(place.close)
        return place

    def inspect(self, network: str) -> Any:  # noqa: ANN401 - any JSON
        """What `network inspect` tells of one network."""
        return json.loads(self.isthmus(f"network inspect {network}"))[0]

    def bridge(self, network: str) -> str:
        """The device of a network to which the user gave no name."""
        return f"br-{self.inspect(network)['Id'][:12]}"

    def port(self, sandbox: Place, interface: str = "eth0") -> str:
        """The host's end of a sandbox's *interface*."""
        (link,) = sandbox.ip(f"link show dev {interface}")
        return next(str(one["ifname"]) for one in self.ip("link") if one["ifindex"] == link["link_index"])

    def marked(self) -> set[str]:
        """The links that bear our mark."""
        return {link["ifname"] for link in self.ip("-d link") if link.get("ifalias", "").startswith("isthmus:")}

    def api(self) -> "Client":
        """A connection to the daemon's socket."""
        client = Client(f"{self.root}/run/isthmus/isthmus.sock")
        self._held.callback(client.close)
        return client

    def settled(self, *places: Place) -> None:
        """Wait until what was taken off a network is taken apart, here and in these *places*."""

        def dying() -> list[str]:
            left = [link["ifname"] for place in places for link in place.ip("link") if link["ifname"][:5] == "dying"]
            return left + sorted({one for one in self.interfaces() if one.startswith("veth")} - self.marked())

        until(lambda: not dying(), "links that left are never taken apart")


class Client(http.client.HTTPConnection):
    """A connection to the API, for what must be asked faster than a program can be started."""

    def __init__(self, path: str) -> None:
        super().__init__("isthmus", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
        """The decoded answer, which must tell of success."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        self.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.getresponse()
        text = answer.read()
        assert answer.status < 300, f"{method} {path}: {text!r}"
        return json.loads(text) if text else None


class World:
    """Owns what a test makes. *Directory* holds the hosts' records and logs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self._held.close()

    def machine(self, name: str) -> Machine:
        """A machine without wires."""
        return self.hold(Machine(name))

    def host(self, name: str = "box") -> Host:
        """A host without wires, whose daemon is not started yet."""
        return self.hold(Host(name, self._directory / name))

    def internet(self) -> tuple[Host, Machine]:
        """A host, and the outside world, which is its default gateway and knows the way to all private addresses."""
        host, outside = self.host(), self.machine("outside")
        wire(host, "eth0", outside, "eth0")
        host.batch(
            f"address add {HOST_ADDRESS}/24 dev eth0",
            f"address add {HOST_ADDRESS6}/64 dev eth0 nodad",
            f"route add default via {OUTSIDE}",
            f"route add ::/0 via {OUTSIDE6}",
        )
        outside.batch(
            f"address add {OUTSIDE}/24 dev eth0",
            f"address add {OUTSIDE6}/64 dev eth0 nodad",
            f"route add 10.0.0.0/8 via {HOST_ADDRESS}",
            f"route add 172.16.0.0/12 via {HOST_ADDRESS}",
            f"route add fd00::/8 via {HOST_ADDRESS6}",
        )
        return host, outside

    def lan(self, host: Host, interface: str = "eth1") -> tuple[Machine, Machine, Machine]:
        """A LAN, 192.168.1.0/24, to which the host's *interface* is plugged: its router, a neighbour, a far machine.

        The router leads to the far machine, in another subnet. The host's interface has no address.
        """
        router, neighbour, far = self.machine("router"), self.machine("neighbour"), self.machine("far")
        router.batch("link add lan0 type bridge", "link set lan0 up", f"address add {ROUTER}/24 dev lan0")
        wire(host, interface, router, "port1")
        wire(neighbour, "eth0", router, "port2")
        wire(far, "eth0", router, "eth0")
        router.batch("link set port1 master lan0", "link set port2 master lan0", "address add 198.51.100.1/24 dev eth0")
        router.sysctl("net.ipv4.ip_forward", "1")
        neighbour.batch(f"address add {NEIGHBOUR}/24 dev eth0", f"route add default via {ROUTER}")
        far.batch(f"address add {FAR}/24 dev eth0", "route add default via 198.51.100.1")
        return router, neighbour, far

    def serve(self, place: Place, port: int = 80) -> None:
        """Have somebody in *place* answer everybody who asks by TCP or UDP with the address that he is seen under."""
        self.hold(Echo(place, port))

    def hold(self, thing: "C") -> "C":
        """Close *thing* at the end."""
        self._held.callback(thing.close)
        return thing


C = TypeVar("C", "Machine", "Host", "Echo", "Flow")


def wire(one: Machine, name: str, other: Machine, name_there: str) -> None:
    """Connect two machines by a pair of veths, both ends up."""
    one.batch(f"link add {name} type veth peer name {name_there} netns {other.pid}", f"link set {name} up")
    other.batch(f"link set {name_there} up")


# Packets.


class Echo:
    """Answers everybody by TCP and UDP with the address that he is seen under."""

    def __init__(self, place: Place, port: int) -> None:
        self._stream = place.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._datagram = place.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._wake, self._woken = socket.socketpair()
        for one in (self._stream, self._datagram):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::", port))
        self._stream.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._wake.close()
        self._thread.join()
        for one in (self._stream, self._datagram, self._woken):
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (self._stream, self._datagram, self._woken):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    with suppress(OSError):
                        self._answer(key.fileobj is self._stream)

    def _answer(self, stream: bool) -> None:  # noqa: FBT001
        if stream:
            connection, peer = self._stream.accept()
            with connection:
                connection.sendall(_plain(peer[0]))
        else:
            _, peer = self._datagram.recvfrom(64)
            self._datagram.sendto(_plain(peer[0]), peer)


def _plain(address: str) -> bytes:
    return address.removeprefix("::ffff:").encode()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def seen(place: Place, address: str, protocol: str = "tcp", patience: float = PATIENCE, port: int = 80) -> str | None:
    """The address under which who listens at *address* sees *place*; None if no answer comes."""
    try:
        if protocol == "tcp":
            with place.socket(_family(address), socket.SOCK_STREAM) as client:
                client.settimeout(patience)
                client.connect((address, port))
                return client.recv(64).decode() or None
        with place.socket(_family(address), socket.SOCK_DGRAM) as client:
            client.connect((address, port))
            answer = _asking(client, lambda _number: b"?", patience)
            return answer.decode() if answer else None
    except ConnectionRefusedError:
        raise AssertionError(f"{address} was reached by {place.name}, but nobody listens there") from None
    except OSError:
        return None


def pings(place: Place, address: str, patience: float = PATIENCE, size: int = 16) -> bool:
    """Whether *address* answers to an echo request of *place*, with *size* bytes in it that are not fragmented."""
    four = ip_address(address).version == 4
    identity = secrets.randbelow(65536)
    request, reply, protocol = (8, 0, socket.IPPROTO_ICMP) if four else (128, 129, socket.IPPROTO_ICMPV6)

    def packet(number: int) -> bytes:
        body = b"\0" * size
        sum_ = request << 8
        sum_ += identity + number
        while sum_ >> 16:
            sum_ = (sum_ & 0xFFFF) + (sum_ >> 16)
        return struct.pack("!BBHHH", request, 0, ~sum_ & 0xFFFF, identity, number) + body

    def answered(raw: bytes) -> bool:
        message = raw[(raw[0] & 15) * 4 :] if four else raw
        kind, _, _, other, _ = struct.unpack_from("!BBHHH", message)
        return bool(kind == reply and other == identity)

    try:
        with place.socket(_family(address), socket.SOCK_RAW, protocol) as client:
            if four:
                client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            client.connect((address, 0))
            return _asking(client, packet, patience, answered) is not None
    except OSError:
        return False


def _asking(
    client: socket.socket,
    question: Callable[[int], bytes],
    patience: float,
    fits: Callable[[bytes], bool] = lambda _answer: True,
) -> bytes | None:
    """Ask again and again until an answer comes that fits."""
    deadline = time.monotonic() + patience
    number = 0
    while (left := deadline - time.monotonic()) > 0:
        number += 1
        client.send(question(number))
        client.settimeout(min(left, 0.2))
        with suppress(TimeoutError):
            while not fits(answer := client.recv(2048)):
                pass
            return answer
    return None


def reaches(place: Place, address: str, protocol: str = "tcp") -> bool:
    """Whether *place* gets an answer from *address*; for what must be so, since it waits for long."""
    return pings(place, address) if protocol == "icmp" else seen(place, address, protocol) is not None


def shut(place: Place, address: str, protocol: str = "tcp", silence: float = SILENCE) -> bool:
    """Whether *place* gets no answer from *address* for a while; for what must be so."""
    if protocol == "icmp":
        return not pings(place, address, silence)
    return seen(place, address, protocol, silence) is None


class Flow:
    """Datagrams with numbers, a thousand a second, from one place to an address in another."""

    def __init__(self, source: Place, target: Place, address: str, port: int = 9000) -> None:
        family = _family(address)
        self._sender = source.socket(family, socket.SOCK_DGRAM)
        self._receiver = target.socket(family, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._receiver.bind(("", port))
        self._receiver.settimeout(0.1)
        self._address = (address, port)
        self._done = threading.Event()
        self._closed = threading.Event()
        self.sent = 0
        self.unsent = 0
        self.received: set[int] = set()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        while not self._done.wait(0.001):
            try:
                self._sender.sendto(struct.pack("!Q", self.sent), self._address)
            except OSError:
                self.unsent += 1
            self.sent += 1

    def _receive(self) -> None:
        while not self._closed.is_set():
            with suppress(TimeoutError):
                self.received.add(struct.unpack("!Q", self._receiver.recv(64))[0])

    def more(self, count: int = 100) -> None:
        """Wait until *count* more datagrams were tried."""
        goal = self.sent + count
        until(lambda: self.sent >= goal, "the flow has stopped")

    def arrives(self) -> None:
        """Wait until something sent from now on has arrived."""
        mark = self.sent
        until(lambda: max(self.received, default=-1) >= mark, "nothing arrives")

    def lost(self) -> int:
        """Stop sending, wait for the last; how many did not arrive."""
        self._done.set()
        self._threads[0].join()
        with suppress(AssertionError):
            until(lambda: len(self.received) == self.sent, "some are lost", 1.0)
        return self.sent - len(self.received)

    def close(self) -> None:
        """Stop it."""
        self._done.set()
        self._closed.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()


@contextmanager
def program(place: Place, command: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs in *place* during the block."""
    process = subprocess.Popen(
        place.within(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def elements(host: Host, name: str) -> Sequence[Any]:
    """What is in the set or map *name* of our table, as `nft -j` has it."""
    done = host.attempt(f"nft -j list set inet isthmus {name}")
    if done.returncode:
        done = host.attempt(f"nft -j list map inet isthmus {name}")
    found = [item.get("set") or item.get("map") for item in json.loads(done.stdout or '{"nftables": []}')["nftables"]]
    return [element for one in found if one for element in one.get("elem", ())]
