"""Every network mode of Isthmus, with real traffic, in about half a minute: `make demo`.

The program starts itself again in namespaces of its own (network, mounts, processes; without root, also users), with a
/run of its own. There it builds a small world out of further namespaces:

    outside 203.0.113.1 --- eth0 203.0.113.2 [ the host ] eth1 --- LAN 192.168.1.0/24, router .1 --- far 198.51.100.2
                                             [          ] ens34 10.0.36.5 --- LAN 10.0.36.0/24, its router .254

starts the daemon on the host, tries one mode after the other (for the overlay there are two more hosts, and a store),
and tells what it tried and what was seen. Web servers in
`outside`, in `far` and in some sandboxes answer everybody with the address that they see him under: that shows what NAT
did. Afterwards it looks whether anything is left on the machine. The exit code is 1 if anything failed.

    demo.py [--format table|json]
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, TextIO

from isthmus.kernel import namespaces

HOST = ""
"""The name of the namespace that plays the host."""

OUTSIDE, FAR, ROUTER = "203.0.113.1", "198.51.100.2", "192.168.1.1"
HOST_ADDRESS = "203.0.113.2"

PATIENCE = 10.0
"""How long, in seconds, something that must happen may take before it counts as failed."""

SILENCE = 0.4
"""How long, in seconds, nothing must come through where nothing may."""

ISTHMUS = str(Path(sys.executable).parent / "isthmus")


class Failed(Exception):
    """Something was not as it must be; the message is what was seen instead."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was *tried* in a *mode*, and what was *seen*."""

    mode: str
    tried: str
    seen: str
    ok: bool


# The outer half: starts the inner one, shows what it tells, and looks for leftovers.


def main(argv: Sequence[str]) -> int:
    """Run the demo and show it; 1 if anything failed, 2 if it cannot run here."""
    parser = argparse.ArgumentParser(prog="demo.py", description="Every network mode of Isthmus, with real traffic.")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="what to end with (default table)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside:
        try:
            Demo().run()
        except Failed as failure:
            print(f"demo: {failure}", file=sys.stderr)
            return 3
        return 0
    missing = [name for name in ("ip", "nft", "ping", "unshare") if not shutil.which(name)]
    if missing:
        print(f"demo: this machine lacks {', '.join(missing)}; sudo ./bootstrap demo installs it", file=sys.stderr)
        return 2
    show = Show(sys.stdout if arguments.format == "table" else None)
    began = time.monotonic()
    rows, code = _watch_inside(show)
    if code == 1 and not rows:
        print(
            "demo: no namespaces can be made here: run it as root, and a container with --privileged",
            file=sys.stderr,
        )
        return 2
    if code:
        rows.append(Row("demo", "it ran to its end", f"it ended with status {code}", ok=False))
    if arguments.format == "json":
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        show.table(rows, time.monotonic() - began)
    return 0 if all(row.ok for row in rows) else 1


def _watch_inside(show: "Show") -> tuple[list[Row], int]:
    """Run the inner half and show what it tells; its rows, one about leftovers besides, and its exit status."""
    rows: list[Row] = []
    marks: list[str] = []
    before = _marked()
    users = [] if os.geteuid() == 0 else ["--map-root-user"]
    # When the first process inside, the demo's other half, ends, the kernel ends all others there.
    command = ["unshare", *users, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen([*command, sys.executable, __file__, "--inside"], stdout=subprocess.PIPE, text=True) as inner:
        for line in inner.stdout or ():
            told = json.loads(line)
            match told.pop("kind"):
                case "mark":
                    marks.append(told["text"])
                case "row":
                    rows.append(Row(**told))
                    show.row(rows[-1])
                case kind:
                    show.say(kind, told["text"])
    if rows:
        rows.append(_leftovers(marks, before))
        show.row(rows[-1])
    return rows, inner.returncode


def _leftovers(marks: Sequence[str], before: frozenset[str]) -> Row:
    """Whether the machine is as it was: nobody lives in the demo's namespaces, and no link or rule of ours is new."""
    try:
        until(lambda: not _inhabited(marks), "a process is left in the demo's namespaces")
        seen = ", ".join(sorted(_marked() - before))
    except Failed as failure:
        seen = str(failure)
    return Row(
        "demo", "nothing is left on the machine", seen or "no process, namespace, mount, link, rule", ok=not seen
    )


def _inhabited(marks: Sequence[str]) -> bool:
    """Whether some process, or some mount, is still of the namespaces that *marks* name."""
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        with suppress(OSError):
            if str(link.readlink()) in marks:
                return True
    return any(mark in Path("/proc/self/mountinfo").read_text() for mark in marks)


def _marked() -> frozenset[str]:
    """What bears our mark in the machine's own network namespace, as far as this user may see it."""
    links = [f"link {line.split()[1]}" for line in sh("ip -o link show").splitlines() if "alias isthmus:" in line]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    names = [f"/run/netns/{path.name}" for path in Path("/run/netns").glob("*")]
    return frozenset([*links, *names, *(line for line in tables.splitlines() if "isthmus" in line)])


class Show:
    """What a person sees: progress as it comes, then a table. On a terminal with colours; without *stream*, nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._colour = stream is not None and stream.isatty() and "NO_COLOR" not in os.environ
        self._width = shutil.get_terminal_size((110, 25)).columns

    def say(self, kind: str, text: str) -> None:
        """A chapter's heading, or a command that is run."""
        if kind == "chapter":
            self._print("\n" + self._paint("1", text))
        else:
            self._print(self._paint("2", f"  $ {text}"))

    def row(self, row: Row) -> None:
        """Something was tried."""
        self._print(f"  {self._verdict(row)}  {row.tried}: {row.seen}")

    def table(self, rows: Sequence[Row], seconds: float) -> None:
        """All that was tried."""
        mode = max(len(row.mode) for row in rows)
        tried = max(len(row.tried) for row in rows)
        last, ruler = "", "-" * min(self._width, mode + tried + 50)
        self._print("\n" + self._paint("1", f"{'MODE':{mode}}  {'TRIED':{tried}}  {'':6}  SEEN") + f"\n{ruler}")
        for row in rows:
            shown, last = ("" if row.mode == last else row.mode), row.mode
            self._print(f"{shown:{mode}}  {row.tried:{tried}}  {self._verdict(row)}  {row.seen}")
        failed = sum(not row.ok for row in rows)
        verdict = f"{failed} failed" if failed else "all as it must be"
        self._print(
            ruler + f"\n{len(rows)} things tried in {seconds:.0f} s: " + self._paint("31" if failed else "32", verdict)
        )

    def _verdict(self, row: Row) -> str:
        return self._paint("32", "ok    ") if row.ok else self._paint("31", "failed")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _print(self, text: str) -> None:
        if self._stream is not None:
            print(text, file=self._stream, flush=True)


# Small tools, for both halves.


def sh(command: str) -> str:
    """What *command* (no shell is asked) prints; `Failed` with its complaint if it fails."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise Failed(f"{command.split(maxsplit=1)[0].rsplit('/', 1)[-1]}: {complaint[-1]}")
    return done.stdout


def until(condition: Callable[[], bool], complaint: str) -> float:
    """Wait until *condition* holds; the seconds that it took. `Failed` with the *complaint* if it never does."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE:
            raise Failed(complaint)
    return time.monotonic() - began


def holds(command: str) -> Callable[[], bool]:
    """The condition that *command* succeeds."""

    def succeeds() -> bool:
        try:
            sh(command)
        except Failed:
            return False
        return True

    return succeeds


def ip(netns: str, command: str) -> str:
    """What `ip` prints when asked *command* in the namespace *netns*."""
    return sh(f"ip -n {netns} {command}" if netns else f"ip {command}")


def within(netns: str, command: str) -> str:
    """What a program prints that runs in the namespace *netns*."""
    return sh(f"ip netns exec {netns} {command}" if netns else command)


def ping(netns: str, address: str) -> str:
    """The round trip from *netns* to *address*, as text."""
    try:
        answer = within(netns, f"ping -n -c 1 -W 3 {address}")
    except Failed:
        raise Failed(f"{address} does not answer") from None
    match = re.search(r"time=([\d.]+ ms)", answer)
    return f"answer after {match[1]}" if match else "answer"


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Have sockets made in the namespace *netns*; they stay there."""
    descriptor = namespaces.open_path(f"/run/netns/{netns}") if netns else namespaces.current()
    try:
        with namespaces.inside(descriptor):
            yield
    finally:
        os.close(descriptor)


def serve(netns: str, address: str = "") -> None:
    """Start a web server in *netns* that tells every client under which address it sees him."""
    with inside(netns):
        listener = socket.create_server((address, 80), backlog=16)

    def answer() -> None:
        while True:
            with suppress(OSError):
                client, (peer, *_) = listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{peer}\n".encode())

    threading.Thread(target=answer, daemon=True).start()


def fetch(netns: str, address: str, patience: float = 2.0, port: int = 80) -> str:
    """The address under which the web server at *address* sees a client in *netns*."""
    with inside(netns):
        client = socket.socket()
    with client:
        client.settimeout(patience)
        try:
            client.connect((address, port))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.makefile().read().split()[-1]
        except OSError as error:
            raise Failed(f"no answer from {address}: {error}") from None


def seen_as(netns: str, address: str, expected: str) -> str:
    """That the web server at *address* sees a client in *netns* as *expected*."""
    seen = fetch(netns, address)
    if seen != expected:
        raise Failed(f"the server saw {seen}, not {expected}")
    return f"the server saw {seen}"


def shaped_to(*rates: str) -> str:
    """That the host has token buckets of these *rates*."""
    told = within(HOST, "tc qdisc show")
    buckets = re.findall(r"qdisc tbf .* dev (\S+) root .*rate (\S+)", told)
    return expect(" ".join(sorted(rate for _, rate in buckets)), " ".join(sorted(rates)))


def shut(netns: str, address: str) -> str:
    """That nothing gets from *netns* to the web server at *address*."""
    try:
        seen = fetch(netns, address, SILENCE)
    except Failed:
        return f"no way in, tried for {SILENCE} s"
    raise Failed(f"{address} answered, it saw {seen}")


# The inner half: the world, the daemon, and what is tried.


class Demo:
    """All that happens inside. It prints JSON, a line for each thing that happens."""

    def __init__(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Build the world, try everything in it, and end the daemon."""
        for kind in ("net", "pid", "mnt"):
            self._tell("mark", text=str(Path(f"/proc/self/ns/{kind}").readlink()))
        build_world()
        try:
            self._tell("chapter", text="The daemon, on a host with an uplink, a LAN and the outside world")
            if not self.check("daemon", "starts with bip 192.168.0.11/24", self.starts):
                return
            for title, chapter in (
                ("bridge: NAT behind the host's address", self.bridge),
                ("bridge: internal networks and Docker's gateway modes", self.gateway_modes),
                ("Published ports: the sandbox sees who asks", self.ports),
                ("Egress policies and rates: whom a sandbox may call, and how fast", self.limits),
                ("bridged: sandboxes stand on the LAN, by the uplink eth1", self.bridged),
                ("macvlan: sandboxes with MACs of their own on the LAN, by the parent ens34", self.macvlan),
                ("host: the host's own namespace. none: nothing but what is put there by hand", self.host_and_none),
                ("container:web: one namespace for two, which outlives its owner", self.container),
                ("Containers: programs in sandboxes, with this machine's own root file system", self.containers),
                ("overlay: one network on the hosts east and west, which share a store", self.overlay),
                ("The stock docker client", self.docker_client),
                ("What may happen to it", self.accidents),
                ("Everything is removed", self.the_end),
            ):
                self._tell("chapter", text=title)
                try:
                    chapter()
                except (Failed, OSError) as failure:
                    self._row(Row("demo", title, str(failure), ok=False))
        finally:
            if self._daemon:
                self._daemon.kill()
                self._daemon.wait()

    # Chapters.

    def bridge(self) -> None:
        """Bridge: NAT behind the host's address."""
        self.isthmus("sandbox create one --network bridge")
        self.isthmus("network create --subnet 10.5.0.0/24 --gateway 10.5.0.1 front")
        self.isthmus("sandbox create web --network front --ip 10.5.0.9")
        self.isthmus("sandbox create db --network front")
        serve("web")
        self.check("bridge", "default network: one pings its gateway", lambda: ping("one", "192.168.0.11"))
        self.check("bridge", "user network: db pings web", lambda: ping("db", "10.5.0.9"))
        self.check("bridge", "out through NAT", lambda: seen_as("web", OUTSIDE, HOST_ADDRESS))
        self.check("bridge", "isthmus nat counts it", self.counts)
        self.check("bridge", "the outside does not get in", lambda: shut("outside", "10.5.0.9"))
        self.check("bridge", "networks are closed to each other", lambda: shut("one", "10.5.0.9"))
        self.check(
            "bridge", "ip netns exec web: eth0 is there", lambda: within("web", "ip -o -4 address show eth0").split()[3]
        )
        self.isthmus("network connect front one")
        self.check(
            "bridge", "connected, one reaches web", lambda: seen_as("one", "10.5.0.9", address_of("one", "eth1"))
        )
        self.isthmus("network disconnect front one")
        self.check("bridge", "disconnected, it does not", lambda: shut("one", "10.5.0.9"))
        self.isthmus("network create -o com.docker.network.bridge.enable_icc=false booths")
        self.isthmus("sandbox create booth1 --network booths")
        self.isthmus("sandbox create booth2 --network booths")
        serve("booth2")
        self.check("bridge", "icc=false: members apart", lambda: shut("booth1", address_of("booth2")))
        self.check("bridge", "icc=false: but out they get", lambda: seen_as("booth1", OUTSIDE, HOST_ADDRESS))
        self.isthmus("network create --ipv6 --subnet fd00:6::/64 six")
        self.isthmus("sandbox create six1 --network six")
        self.isthmus("sandbox create six2 --network six --ip6 fd00:6::99")
        self.check("bridge", "IPv6 beside IPv4", lambda: ping("six1", "fd00:6::99"))
        self.check("bridge", "--dry-run only tells", self.dry_run)

    def gateway_modes(self) -> None:
        """Bridge: internal networks and Docker's gateway modes."""
        self.isthmus("network create --internal quiet")
        self.isthmus("sandbox create quiet1 --network quiet")
        self.isthmus("sandbox create quiet2 --network quiet")
        self.check("internal", "members reach each other", lambda: ping("quiet1", address_of("quiet2")))
        self.check("internal", "nothing gets out", lambda: shut("quiet1", OUTSIDE))
        option = "-o com.docker.network.bridge.gateway_mode_ipv4="
        self.isthmus(f"network create {option}nat-unprotected --subnet 10.7.0.0/24 open")
        self.isthmus("sandbox create shop --network open")
        serve("shop")
        self.check("nat-unprotected", "the outside gets in", lambda: seen_as("outside", "10.7.0.2", OUTSIDE))
        self.check("nat-unprotected", "out through NAT", lambda: seen_as("shop", OUTSIDE, HOST_ADDRESS))
        self.isthmus(f"network create {option}routed --subnet 10.8.0.0/24 routed")
        self.isthmus("sandbox create node --network routed")
        serve("node")
        self.check("routed", "out with its own address", lambda: seen_as("node", OUTSIDE, "10.8.0.2"))
        self.check("routed", "the outside may ping it", lambda: ping("outside", "10.8.0.2"))
        self.check("routed", "its ports are shut", lambda: shut("outside", "10.8.0.2"))
        self.isthmus(f"network create --internal {option}isolated island")
        self.isthmus("sandbox create isle1 --network island")
        self.isthmus("sandbox create isle2 --network island")
        self.check("isolated", "members reach each other", lambda: ping("isle1", address_of("isle2")))
        self.check("isolated", "the host has no address there", lambda: bare_bridge("island"))

    def ports(self) -> None:
        """Published ports, from everywhere."""
        self.isthmus("network create --subnet 10.19.0.0/24 --gateway 10.19.0.1 shops")
        self.isthmus("sandbox create bakery --network shops -p 80:80")
        self.isthmus("sandbox create grocer --network shops")
        serve("bakery")
        self.check("ports", "from outside, seen as itself", lambda: seen_as("outside", HOST_ADDRESS, OUTSIDE))
        self.check("ports", "from another network, likewise", lambda: seen_as("db", HOST_ADDRESS, address_of("db")))
        self.check("ports", "from a neighbour, by the gateway", lambda: seen_as("grocer", HOST_ADDRESS, "10.19.0.1"))
        self.check("ports", "from itself, likewise", lambda: seen_as("bakery", HOST_ADDRESS, "10.19.0.1"))
        self.check("ports", "isthmus port tells", lambda: self.isthmus("port bakery"))
        self.check("ports", "a port that is taken names who has it", self.names_the_holder)
        self.isthmus("unpublish bakery 80")
        self.check("ports", "unpublished, it is shut", lambda: shut("outside", HOST_ADDRESS))

    def limits(self) -> None:
        """Whom a sandbox may call, and how fast."""
        self.isthmus(f"sandbox create clerk --network shops --egress 'deny, allow {OUTSIDE}:80'")
        self.check("egress", "clerk calls whom it may", lambda: seen_as("clerk", OUTSIDE, HOST_ADDRESS))
        self.check("egress", "and not the host", lambda: shut("clerk", HOST_ADDRESS))
        self.isthmus("network egress shops clerk deny")
        self.check("egress", "now nobody at all", lambda: shut("clerk", OUTSIDE))
        self.isthmus("network egress shops clerk off")
        self.check("egress", "and now everybody", lambda: seen_as("clerk", OUTSIDE, HOST_ADDRESS))
        self.isthmus("network rate shops clerk 8mbit/2mbit")
        self.check("rate", "8 Mbit/s to clerk, 2 from it", lambda: shaped_to("8Mbit", "2Mbit"))

    def bridged(self) -> None:
        """Bridged: sandboxes stand on the LAN, by the uplink eth1."""
        lan = "network create -o isthmus.uplink=eth1 --subnet 192.168.1.0/24 --ip-range 192.168.1.48/28"
        self.isthmus(f"{lan} --gateway {ROUTER} lan")
        self.isthmus("sandbox create lab --network lan --ip 192.168.1.50")
        serve("lab")
        self.check("bridged", "lab pings the LAN's router", lambda: ping("lab", ROUTER))
        self.check("bridged", "the LAN reaches lab, by lab's own MAC", self.stands_on_the_lan)
        self.check("bridged", "another subnet, by the LAN's router", lambda: seen_as("lab", FAR, "192.168.1.50"))
        self.isthmus("sandbox rm lab")
        self.isthmus("network rm lan")
        self.isthmus(f"{lan} lan")
        self.isthmus("sandbox create lab --network lan --ip 192.168.1.50")
        self.check("bridged", "without --gateway: the LAN, yes", lambda: ping("lab", ROUTER))
        self.check("bridged", "without --gateway: another subnet, no", lambda: shut("lab", FAR))

    def overlay(self) -> None:
        """Overlay: one network on several hosts."""
        store = next(filter(None, (shutil.which("etcd"), shutil.which(f"{STORE}/etcd"))), None)
        if not store:
            self.check("overlay", "hosts that share a store", lambda: "not tried: etcd is not installed")
            return
        build_wire()
        try:
            with (
                Far("wire", f"{store} --data-dir /run/etcd {ETCD}") as etcd,
                Other("east") as east,
                Other("west") as west,
            ):
                self._overlay(etcd, east, west, store)
        finally:
            for name in ("east", "west", "wire"):
                sh(f"ip netns delete {name}")

    def _overlay(self, etcd: "Far", east: "Other", west: "Other", store: str) -> None:
        until(holds(east.line("isthmus node ls")), "east does not start")
        until(holds(west.line("isthmus node ls")), "west does not start")
        until(lambda: west.run("isthmus node ls").count(" ready ") == 2, "the hosts do not see each other")
        self._on("east", east, "network create -d overlay --subnet 10.0.9.0/24 multi")
        until(holds(west.line("isthmus network inspect multi")), "west does not hear of the network")
        self._on("east", east, "sandbox create a --network multi")
        self._on("west", west, "sandbox create b --network multi")
        self.check("overlay", "one pool: a and b have", lambda: f"{east.address_of('a')} and {west.address_of('b')}")
        self.check("overlay", "b, on west, pings a, on east, by its name", lambda: west.pings("b", "a"))
        self.check("overlay", "network check finds the way whole", lambda: west.checks("multi"))
        etcd.kill()
        self.check("overlay", "the store is killed: traffic goes on", lambda: west.pings("b", "a"))
        self.check(
            "overlay", "who would come is told why not", lambda: west.refuses("sandbox create c --network multi")
        )
        with Far("wire", f"{store} --data-dir /run/etcd {ETCD}"):
            until(holds(west.line("isthmus sandbox create c --network multi")), "the store is not found again")
            self.check("overlay", "it is back, and so are attaches: c has", lambda: west.address_of("c"))
            self.check("overlay", "a pings c at once", lambda: east.pings("a", "c"))
            self._on("west", west, "sandbox rm b c")
            self._on("east", east, "sandbox rm a")
            until(holds(east.line("isthmus network rm multi")), "the network cannot be removed")
            self.check("overlay", "removed on east, it is gone on west", lambda: west.has_no("multi"))

    def _on(self, where: str, host: "Other", arguments: str) -> None:
        self._tell("command", text=f"{where}: isthmus {arguments}")
        host.run(f"isthmus {arguments}")

    def host_and_none(self) -> None:
        """Host: the host's own namespace. none: nothing but what is put there by hand."""
        self.isthmus("sandbox create mon --network host")
        self.check("host", "mon has the host's own eth0", lambda: self.address_by_exec("mon", f"{HOST_ADDRESS}/24"))
        self.isthmus("sandbox create bare --network none")
        self.check("none", "bare has a loopback only", lambda: only_loopback("bare"))
        self.isthmus(
            "link add bare --type veth --ip 10.9.0.2/24 --route default,10.9.0.1 --peer wire0 --peer-ip 10.9.0.1/24"
        )
        self.check("none", "a link by hand: bare pings the host", lambda: ping("bare", HOST_ADDRESS))

    def macvlan(self) -> None:
        """Macvlan: sandboxes with MACs of their own on the LAN, by the parent ens34."""
        self.isthmus(
            "network create -d macvlan --subnet=10.0.36.0/24 --ip-range=10.0.36.115/32 --gateway=10.0.36.254 "
            "-o parent=ens34 xx"
        )
        self.isthmus("sandbox create mac --network xx")
        self.check("macvlan", "a range of one address", lambda: expect(address_of("mac"), "10.0.36.115"))
        self.check("macvlan", "a second sandbox is refused", self.refuses_a_second)
        self.check("macvlan", "mac pings the LAN's router", lambda: ping("mac", "10.0.36.254"))
        self.check("macvlan", "the LAN sees mac's own MAC", lambda: knows_the_mac_of("mac", "10.0.36.115"))
        self.isthmus(
            "network create -d macvlan --subnet 10.0.36.0/24 --ip-range 10.0.36.192/27 --aux-address host=10.0.36.223 "
            "--gateway 10.0.36.254 -o parent=ens34 mynet"
        )
        self.isthmus("sandbox create shore --network mynet")
        serve("shore")
        self.check(
            "macvlan", "the host reaches it, as 10.0.36.223", lambda: seen_as(HOST, "10.0.36.192", "10.0.36.223")
        )
        self.check("macvlan", "it reaches the host", lambda: ping("shore", "10.0.36.223"))
        self.check("macvlan", "the LAN reaches it", lambda: seen_as("router", "10.0.36.192", "10.0.36.254"))
        self.check("macvlan", "somebody deletes the host's way in", self.loses_the_shim)
        self.check("macvlan", "network check", lambda: self.isthmus("network check mynet").splitlines()[-1])

    def container(self) -> None:
        """Container:web: one namespace for two, which outlives its owner."""
        self.isthmus("sandbox create side --network container:web")
        self.check("container", "side has web's eth0", lambda: self.address_by_exec("side"))
        before = namespace_of("side")
        self.isthmus("sandbox rm web")
        self.check("container", "web removed: side keeps the namespace", lambda: same_namespace("side", before))
        self.isthmus("sandbox create web --network front --ip 10.5.0.9")
        self.check("container", "web made anew: in that same one", lambda: same_namespace("web", before))
        self.check("container", "side has web's eth0 again", lambda: self.address_by_exec("side"))
        self.isthmus(f"sandbox exec side -- ping -c 1 {address_of('db')}")
        self.check("container", "what listened there is back", lambda: seen_as("db", "10.5.0.9", address_of("db")))

    def containers(self) -> None:
        """Containers: programs in sandboxes, with this machine's own root file system."""
        if why := why_no_containers():
            self._row(Row("run", "containers", f"not tried: {why}", ok=True))
            return
        look = "python3 -c 'import os; print(*sorted(os.listdir(\"/sys/class/net\")))'"
        self.check("run", "--network none: only lo", lambda: self.says(f"run --rm --network none host {look}", "lo"))
        self.check("run", "the default network", lambda: self.says(f"run --rm host {look}", "eth0 lo"))
        uplink = "run --rm --network host host cat /sys/class/net/ens34/operstate"
        self.check("run", "--network host: the host's ens34", lambda: self.says(uplink, "up"))
        self.check("run", "--network front: web, by its name", lambda: self.pings("front", "web"))
        self.check("run", "--network mynet (macvlan): the LAN's router", lambda: self.pings("mynet", "10.0.36.254"))
        self.check("run", "--network container:web", self.joins_web)
        self.isthmus(f"run -d --name stall --network front -p 8088:80 host python3 -uc {shlex.quote(TELLER)}")
        until(lambda: "ready" in sh(f"{ISTHMUS} logs stall"), "stall is not ready")
        self.check("run", "-p 8088:80: the outside is seen as itself", self.stall_sees)
        self.check("run", "exec", lambda: self.says("exec stall hostname -i", address_in_front("stall")))
        self.check("run", "logs", lambda: self.says("logs --tail 1 stall", OUTSIDE))
        self.check(
            "run",
            "the machine's secrets are hidden",
            lambda: self.says("exec stall wc -c /etc/shadow", "0 /etc/shadow"),
        )

    def docker_client(self) -> None:
        """The stock docker client."""
        if not shutil.which("docker"):
            self._row(Row("docker", "the stock client", "not tried: it is not installed here", ok=True))
            return
        docker = "docker -H unix:///run/isthmus/isthmus.sock"
        self.check(
            "docker",
            "network create",
            lambda: f"ID {self.command(f'{docker} network create --subnet 10.10.0.0/24 shore')[:12]}",
        )
        self.command(f"{docker} network connect --ip 10.10.0.7 shore db")
        inspect = docker + " network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}' shore"
        self.check("docker", "network connect, inspect", lambda: expect(self.command(inspect), "db 10.10.0.7/24"))
        self.command(f"{docker} network disconnect shore db")
        self.check(
            "docker", "network disconnect, rm", lambda: expect(self.command(f"{docker} network rm shore"), "shore")
        )
        if not why_no_containers():
            run = f"{docker} run --rm --network container:stall host hostname"
            self.check("docker", "run --network container:", lambda: expect(self.command(run), self.hostname("stall")))

    def accidents(self) -> None:
        """What may happen to it."""
        self.command("nft add rule inet isthmus user-forward ip daddr 192.0.2.0/24 drop")
        self.check("daemon", "kill -9 under a ping of 100 a second", self.dies)
        if not why_no_containers():
            self.check("daemon", "a container lived through it, with its log", self.stall_sees)
        self.check("daemon", "a rule in user-forward lived through it", keeps_the_users_rule)
        self.check("daemon", "ip link delete, of web's veth", self.loses_a_link)
        self.check("daemon", "nft flush ruleset", self.loses_its_rules)

    def the_end(self) -> None:
        """Everything is removed."""
        for name in sh(f"{ISTHMUS} ps -aq").split():
            with suppress(Failed):  # it is a sandbox
                sh(f"{ISTHMUS} rm -f {name}")
        for name in self.isthmus("sandbox ls -q").split():
            sh(f"{ISTHMUS} sandbox rm {name}")
        self.isthmus("network prune --force")
        self.check("daemon", "all removed: no link, no namespace", self.is_empty)
        self.check("daemon", "SIGTERM", self.ends)

    # What is tried in more than one step.

    def starts(self) -> str:
        """Start the daemon and wait until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind("/run/demo/ready")
            told.settimeout(PATIENCE)
            began = time.monotonic()
            command = [ISTHMUS, "daemon", "--data-root", "/run/demo/data", "--config-file", "/run/demo/daemon.json"]
            with Path("/run/demo/log").open("ab") as log:
                environment = {**os.environ, "NOTIFY_SOCKET": "/run/demo/ready"}
                self._daemon = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
            try:
                told.recv(64)
            except TimeoutError:
                raise Failed(f"it is not ready: {Path('/run/demo/log').read_text()[-200:]}") from None
            finally:
                Path("/run/demo/ready").unlink()
            took = time.monotonic() - began
        address = address_of(HOST, "isthmus0", prefix=True)
        return expect(f"isthmus0 has {address}", "isthmus0 has 192.168.0.11/24") + f", ready in {took:.1f} s"

    def counts(self) -> str:
        """That the NAT rule of `front` was met."""
        rules = [json.loads(line) for line in self.isthmus("nat --format json").splitlines()]
        packets = next(int(rule["Packets"]) for rule in rules if rule["Network"] == "front")
        if not packets:
            raise Failed("the counter is 0")
        return f"{packets} connection{'s' * (packets > 1)} masqueraded"

    def dry_run(self) -> str:
        """That a rehearsal tells what it would do, and does not."""
        before = ip(HOST, "-o link show")
        lines = self.isthmus("network create --dry-run rehearsed").splitlines()
        if ip(HOST, "-o link show") != before or not any(line.startswith("ip link add") for line in lines):
            raise Failed("it did something, or told nothing")
        return f"{len(lines)} ip and nft lines, nothing done"

    def stands_on_the_lan(self) -> str:
        """That a machine on the LAN reaches lab, and sees the MAC of lab's own interface."""
        seen_as("router", "192.168.1.50", ROUTER)
        return knows_the_mac_of("lab", "192.168.1.50")

    def address_by_exec(self, sandbox: str, expected: str = "10.5.0.9/24") -> str:
        """That a program in *sandbox* sees eth0 with the address that is *expected*."""
        seen = self.isthmus(f"sandbox exec {sandbox} -- ip -o -4 address show eth0").split()
        return expect(seen[3] if len(seen) > 3 else "nothing", expected)

    def refuses_a_second(self) -> str:
        """That no more than the one address is given out."""
        try:
            self.isthmus("sandbox create mac2 --network xx")
        except Failed as refusal:
            if "no available IPv4 addresses" not in str(refusal):
                raise
            return str(refusal).partition(": ")[2].partition(": xx")[0]
        raise Failed("it was given an address")

    def names_the_holder(self) -> str:
        """That the refusal of a port says who has it."""
        try:
            self.isthmus("publish grocer 80:80")
        except Failed as refusal:
            if "by sandbox bakery" not in str(refusal):
                raise
            return str(refusal).rpartition("failed: ")[2]
        raise Failed("it was published twice")

    def says(self, command: str, expected: str) -> str:
        """That a command of ours prints what is *expected*."""
        return expect(" ".join(self.isthmus(command).split()), expected)

    def pings(self, network: str, name: str) -> str:
        """That a container on *network* has an answer of *name*."""
        said = self.isthmus(f"run --rm --network {network} host ping -n -c 1 -W 3 {name}")
        match = re.search(r"from ([\d.]+).*time=([\d.]+ ms)", said)
        if not match:
            raise Failed(f"{name} does not answer")
        return f"{match[1]} answers after {match[2]}"

    def joins_web(self) -> str:
        """That a container has the namespace of the sandbox web."""
        said = self.isthmus("run --rm --network container:web host ip -o -4 address show eth0").split()
        return expect(said[3], "10.5.0.9/24")

    def stall_sees(self) -> str:
        """That stall answers the outside through the host's port, knows who asks, and has it in its log."""
        seen = fetch("outside", HOST_ADDRESS, port=8088)
        expect(seen, OUTSIDE)
        return expect(f"the server saw {sh(f'{ISTHMUS} logs --tail 1 stall').strip()}", f"the server saw {OUTSIDE}")

    def hostname(self, container: str) -> str:
        """The name that a container has for itself."""
        return sh(f"{ISTHMUS} exec {container} hostname").strip()

    def loses_the_shim(self) -> str:
        """That the host's own interface on a macvlan network is put back."""
        shim = next(link["ifname"] for link in json.loads(ip(HOST, "-j link show")) if link["ifname"][:3] == "mv-")
        self.command(f"ip link delete {shim}")
        took = until(holds("ping -n -c 1 -W 1 10.0.36.192"), "the host is cut off")
        return f"the host reaches it again after {took * 1000:.0f} ms"

    def dies(self) -> str:
        """That no packet is lost when the daemon is killed, and when it starts again."""

        def starts() -> list[str]:
            return re.findall(r"with (\d+) operations done", Path("/run/demo/log").read_text())

        flow = subprocess.Popen(
            shlex.split(f"ip netns exec web ping -n -q -i 0.01 {OUTSIDE}"), stdout=subprocess.PIPE, text=True
        )
        try:
            if self._daemon:
                self._daemon.kill()
                self._daemon.wait()
            self.starts()
            until(lambda: len(starts()) > 1, "the log does not tell of a second start")
        finally:
            flow.send_signal(signal.SIGINT)
            statistics = flow.communicate()[0]
        sent = re.search(r"(\d+) packets transmitted, (\d+) received", statistics)
        if not sent or sent[1] != sent[2]:
            raise Failed(sent[0] if sent else "no answer")
        expect(f"{starts()[-1]} operations at the next start", "0 operations at the next start")
        return f"{sent[1]} sent, {sent[2]} answered; the next start had nothing to do"

    def loses_a_link(self) -> str:
        """That a link that somebody deletes is put back."""
        index = json.loads(ip("web", "-j link show eth0"))[0]["link_index"]
        peer = next(link["ifname"] for link in json.loads(ip(HOST, "-j link show")) if link["ifindex"] == index)
        self.command(f"ip link delete {peer}")
        took = until(holds(f"ip netns exec web ping -n -c 1 -W 1 {OUTSIDE}"), "web is cut off")
        return f"traffic flows again after {took * 1000:.0f} ms"

    def loses_its_rules(self) -> str:
        """That rules which somebody flushes are put back."""
        self.command("nft flush ruleset")
        took = until(holds("nft list table inet isthmus"), "the table does not come back")
        return f"back after {took * 1000:.0f} ms; {seen_as('web', OUTSIDE, HOST_ADDRESS)}"

    def is_empty(self) -> str:
        """That no link and no namespace is left of what was made, but the default bridge."""

        def gone() -> bool:
            links = {link["ifname"] for link in json.loads(ip(HOST, "-j link show"))}
            return links == {"lo", "eth0", "eth1", "ens34", "isthmus0"}

        until(gone, f"links are left: {ip(HOST, '-br link show')}")
        names = sorted(path.name for path in Path("/run/netns").iterdir())
        return expect(f"namespaces: {', '.join(names)}", "namespaces: far, outside, router")

    def ends(self) -> str:
        """That the daemon ends when it is told to."""
        if self._daemon is None:
            raise Failed("there is no daemon")
        self._daemon.terminate()
        status = self._daemon.wait(PATIENCE)
        return expect(f"ended with status {status}", "ended with status 0")

    # How it is told.

    def check(self, mode: str, tried: str, look: Callable[[], str]) -> bool:
        """Try something, and tell what was seen; whether it was as it must be."""
        try:
            row = Row(mode, tried, look(), ok=True)
        except (Failed, OSError) as failure:
            row = Row(mode, tried, str(failure), ok=False)
        self._row(row)
        return row.ok

    def isthmus(self, arguments: str) -> str:
        """Run a command of the program, and show it."""
        self._tell("command", text=f"isthmus {arguments}")
        return sh(f"{ISTHMUS} {arguments}")

    def command(self, line: str) -> str:
        """Run another program, and show it; what it prints, without the last line's end."""
        self._tell("command", text=line)
        return sh(line).strip()

    def _row(self, row: Row) -> None:
        self._tell("row", **asdict(row))

    def _tell(self, kind: str, **facts: object) -> None:
        print(json.dumps({"kind": kind, **facts}), flush=True)


ETCD = "--listen-client-urls=http://192.0.2.254:2379 --advertise-client-urls=http://192.0.2.254:2379"
"""Where the store of the further hosts is."""

STORE = str(Path(sys.executable).parents[1] / "etcd" / "usr" / "bin")
"""Where `bootstrap` has put that."""


def build_wire() -> None:
    """Make two more hosts, and the wire that joins them."""
    for name in ("wire", "east", "west"):
        sh(f"ip netns add {name}")
        ip(name, "link set lo up")
    ip("wire", "link add lan type bridge forward_delay 0")
    ip("wire", "address add 192.0.2.254/24 dev lan")
    ip("wire", "link set lan up")
    for number, name in enumerate(("east", "west"), 1):
        ip("wire", f"link add {name} master lan up type veth peer name eth0 netns {name}")
        ip(name, f"address add 192.0.2.{number}/24 dev eth0")
        ip(name, "link set eth0 up")
        ip(name, "route add default via 192.0.2.254")


class Far:
    """A program on another machine: in the namespace *netns*, with a /run of its own that is kept from life to life."""

    def __init__(self, netns: str, command: str) -> None:
        self.netns = netns
        there = Path(f"/run/demo/{netns}")
        there.mkdir(parents=True, exist_ok=True)
        own = f"mount --make-rprivate / && mount --bind {there} /run && mkdir -p /run/netns && exec {command}"
        self._log = (there / "log").open("ab")
        descriptor = namespaces.open_path(f"/run/netns/{netns}")
        try:
            with namespaces.inside(descriptor):
                self._process = subprocess.Popen(
                    ("unshare", "--mount", "sh", "-c", own), stdout=self._log, stderr=subprocess.STDOUT
                )
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a power failure would."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def line(self, command: str) -> str:
        """The command that does *command* there."""
        words = command.replace("isthmus ", f"{ISTHMUS} -H unix:///run/isthmus.sock ", 1)
        return f"nsenter --target {self._process.pid} --mount --net {words}"

    def run(self, command: str) -> str:
        """What *command* prints there."""
        return sh(self.line(command))


class Other(Far):
    """One more host with a daemon."""

    def __init__(self, netns: str) -> None:
        daemon = f"{ISTHMUS} -H unix:///run/isthmus.sock daemon --data-root /run/data --exec-root /run/exec"
        store = "--cluster-store etcd://192.0.2.254:2379 --cluster-advertise eth0"
        beats = "--cluster-store-opt discovery.ttl=6 --cluster-store-opt discovery.heartbeat=2"
        super().__init__(netns, f"{daemon} {store} {beats}")

    def address_of(self, sandbox: str) -> str:
        """The address of a *sandbox* there."""
        return self.run(f"isthmus sandbox exec {sandbox} -- ip -o -4 address show eth0").split()[3]

    def pings(self, sandbox: str, name: str) -> str:
        """That a *sandbox* there has an answer of *name*."""
        said = self.run(f"isthmus sandbox exec {sandbox} -- ping -c 1 -W 3 {name}")
        match = re.search(r"from .*\(([\d.]+)\).*time=([\d.]+ ms)", said)
        if not match:
            raise Failed(f"{name} does not answer")
        return f"{match[1]} answers after {match[2]}"

    def checks(self, network: str) -> str:
        """What `network check` finds of the way to other hosts."""
        found = re.search(r"path +(ok +.*)", self.run(f"isthmus network check {network}"))
        if not found:
            raise Failed("it tells nothing of the way")
        return " ".join(found[1].split()[1:])

    def refuses(self, command: str) -> str:
        """That a command is refused because the store is away."""
        try:
            self.run(f"isthmus {command}")
        except Failed as refusal:
            if "cluster store is away" not in str(refusal):
                raise
            return "the cluster store is away"
        raise Failed("it was not refused")

    def has_no(self, network: str) -> str:
        """That a network is gone there, with all that it was made of."""
        until(lambda: network not in self.run("isthmus network ls"), "it stays")
        until(lambda: not self.run("ls /run/netns").strip(), f"left is {self.run('ls /run/netns')}")
        return "no network, no namespace is left"


TELLER = """
import socket
listener = socket.create_server(("", 80))
print("ready")
while True:
    client, (peer, *_) = listener.accept()
    print(peer)
    client.recv(4096)
    client.sendall(f"HTTP/1.0 200 OK\\r\\n\\r\\n{peer}\\n".encode())
    client.close()
"""
"""A program that tells every client, and its log, under which address it sees him."""


def why_no_containers() -> str:
    """What containers need and is not here; "" if all is."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in ("runc", "conmon") if not shutil.which(name, path=path)]
    if " ".join(Path("/proc/self/uid_map").read_text().split()) != "0 0 4294967295":
        return "an ordinary user has no control groups"
    return f"{' and '.join(missing)} not installed" if missing else ""


def address_in_front(container: str) -> str:
    """The address of *container* on the network front."""
    return sh(f"{ISTHMUS} inspect -f {{{{.NetworkSettings.Networks.front.IPAddress}}}} {container}").strip()


def build_world() -> None:
    """Make /run our own, and in it the namespaces of the outside, the LAN's router and what lies behind that."""
    sh("mount --make-rprivate /")
    sh("mount -t tmpfs tmpfs /run")
    Path("/run/demo/groups").mkdir(parents=True)
    # A /sys of this namespace's own shows its own links, and lies over the control groups, which are the machine's.
    sh("mount --rbind /sys/fs/cgroup /run/demo/groups")
    sh("mount -t sysfs sysfs /sys")
    sh("mount --rbind /run/demo/groups /sys/fs/cgroup")
    Path("/run/demo/daemon.json").write_text('{"bip": "192.168.0.11/24"}\n')
    for name in ("outside", "router", "far"):
        sh(f"ip netns add {name}")
        ip(name, "link set lo up")
    ip(HOST, "link set lo up")
    ip(HOST, "link add eth0 type veth peer name eth0 netns outside")
    ip(HOST, f"address add {HOST_ADDRESS}/24 dev eth0")
    ip(HOST, "link set eth0 up")
    ip("outside", f"address add {OUTSIDE}/24 dev eth0")
    ip("outside", "link set eth0 up")
    # The outside knows the way to every network behind the host: if nothing gets in, then because the host says so.
    ip("outside", f"route add 10.0.0.0/8 via {HOST_ADDRESS}")
    ip(HOST, f"route add default via {OUTSIDE}")
    ip(HOST, "link add eth1 type veth peer name lan netns router")
    ip("router", f"address add {ROUTER}/24 dev lan")
    ip("router", "link set lan up")
    ip(HOST, "link add ens34 type veth peer name lan36 netns router")
    ip("router", "address add 10.0.36.254/24 dev lan36")
    ip("router", "link set lan36 up")
    ip(HOST, "address add 10.0.36.5/24 dev ens34")
    ip(HOST, "link set ens34 up")
    ip("router", "link add wan type veth peer name eth0 netns far")
    ip("router", "address add 198.51.100.1/24 dev wan")
    ip("router", "link set wan up")
    within("router", "sysctl -qw net.ipv4.ip_forward=1")
    ip("far", f"address add {FAR}/24 dev eth0")
    ip("far", "link set eth0 up")
    ip("far", "route add default via 198.51.100.1")
    serve("outside")
    serve("far")


def address_of(netns: str, link: str = "eth0", *, prefix: bool = False) -> str:
    """The first IPv4 address of *link*."""
    words = ip(netns, f"-o -4 address show dev {link}").split()
    if len(words) < 4:
        raise Failed(f"{link} has no address")
    return words[3] if prefix else words[3].split("/")[0]


def knows_the_mac_of(sandbox: str, address: str) -> str:
    """That the LAN's router knows *address* by the MAC of the *sandbox*'s own interface."""
    own = json.loads(ip(sandbox, "-j link show eth0"))[0]["address"]
    known = [one.get("lladdr", "") for one in json.loads(ip("router", f"-j neighbour show to {address}"))]
    return expect(known[0] if known else "no MAC", own)


def bare_bridge(network: str) -> str:
    """That the bridge of *network* has no address."""
    identity = sh(f"{ISTHMUS} network inspect -f {{{{.Id}}}} {network}")[:12]
    addresses = json.loads(ip(HOST, f"-j address show dev br-{identity}"))[0]["addr_info"]
    return expect(f"{len(addresses)} addresses", "0 addresses")


def keeps_the_users_rule() -> str:
    """That the rule which the user put into his chain is there."""
    lines = sh("nft list chain inet isthmus user-forward").splitlines()
    return expect(lines[2].strip(), "ip daddr 192.0.2.0/24 drop")


def only_loopback(netns: str) -> str:
    """That nothing but lo is in *netns*."""
    return expect(", ".join(link["ifname"] for link in json.loads(ip(netns, "-j link show"))), "lo")


def namespace_of(sandbox: str) -> int:
    """The inode of the namespace that *sandbox* stands in."""
    return int(sh(f"{ISTHMUS} sandbox exec {sandbox} -- stat -L -c %i /proc/self/ns/net"))


def same_namespace(sandbox: str, before: int) -> str:
    """That *sandbox* stands in the namespace of this inode."""
    return expect(f"net:[{namespace_of(sandbox)}]", f"net:[{before}]")


def expect(seen: str, expected: str) -> str:
    """*seen*, if it is as *expected*."""
    if seen != expected:
        raise Failed(f"{seen}, not {expected}")
    return seen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
