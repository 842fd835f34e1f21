"""WireGuard's devices, in a namespace in which there is nothing else: what is sent in there leaves encrypted, or not.

A device is the kernel's own; where that has none, it is a TUN device of the program wireguard-go, which goes on
whatever happens to us. Its UDP socket is in the host's namespace, where it was born. It ends when its device is
deleted, and so when the namespace goes. Both kinds are told by the program `wg` which keys others have.

All methods wait for the kernel and for programs: they are for a thread that stands in the host's namespace.
"""

import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from errno import EOPNOTSUPP
from ipaddress import IPv6Interface
from pathlib import Path

from isthmus import bpf
from isthmus.errors import DeviceUnavailable, NotImplementedHere
from isthmus.kernel import namespaces, sysctl
from isthmus.kernel.netlink import (
    NETLINK_ROUTE,
    RTM_DELLINK,
    RTMGRP_LINK,
    AddrGenMode,
    LinkMessage,
    Monitor,
    NetlinkError,
    Socket,
    dellink,
    dumplinks,
    link,
    movelink,
    newaddr,
    newlink,
    newroute,
    setlink,
)
from isthmus.wireguard import PORTS, PREFIX, Device, address, device, read

log = logging.getLogger("isthmus.kernel")

_PATIENCE, _PAUSE = 5.0, 0.01
"""How long, in seconds, a program may take; how often it is looked whether it has ended."""


class Ways:
    """The devices in the namespace at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def there(self) -> tuple[int, int] | None:
        """What tells the namespace from all others; None if there is none."""
        try:
            netns = namespaces.open_path(self._path)
        except OSError:
            return None
        try:
            return namespaces.identity(netns)
        finally:
            os.close(netns)

    def entered(self) -> AbstractContextManager[None]:
        """Have the calling thread there."""
        return namespaces.entered(self._path)

    def check(self) -> None:
        """See that there can be devices.

        Raises:
            NotImplementedHere: a program is missing.
        """
        _program("wg")
        if not _kernel_can():
            _program("wireguard-go")

    def generate(self) -> tuple[str, str]:
        """A new private key, and the public one that belongs to it."""
        private = _run("wg", "genkey").strip()
        return private, _run("wg", "pubkey", told=private).strip()

    def devices(self) -> dict[str, Device]:
        """All that are there, by name."""
        found = {}
        with self._inside() as (inside, _):
            for message in map(link, inside.dump(dumplinks())):
                if message.name.startswith("wg"):
                    with suppress(DeviceUnavailable), namespaces.entered(self._path):
                        found[message.name] = read(_run("wg", "show", message.name, "dump"))
        return found

    def make(self, public: str, private: str, ports: Iterable[int], mtu: int) -> None:
        """Have a device with that key, at the first of *ports* that is free, which sends packets of *mtu* bytes.

        Raises:
            DeviceUnavailable: the kernel or a program refused.
            NotImplementedHere: a program is missing.
        """
        name = device(public)
        with self._inside() as (inside, netns), Socket() as host:
            # What is there is not whole: it was cut short, or does not answer.
            inside.attempt(dellink(name))
            _bear(host, name, netns, mtu)
            with namespaces.inside(netns):
                _run("wg", "set", name, "private-key", "/dev/stdin", told=private)
                sysctl.write(f"net/ipv6/conf/{name}/disable_ipv6", "0")
            index = inside.index(name) or 0
            with suppress(FileExistsError):
                inside.request(newaddr(index, IPv6Interface(address(public))))
            inside.request(setlink(index, addr_gen_mode=AddrGenMode.NONE))
            inside.request(setlink(index, mtu=mtu, up=True))
        for port in filter(_is_free, ports):
            with suppress(DeviceUnavailable):
                self.tell(name, ("listen-port", str(port)))
                return
        self.remove(name)
        raise DeviceUnavailable(name, f"none of the UDP ports {PORTS[0]} to {PORTS[-1]} is free")

    def tell(self, name: str, words: Iterable[str]) -> None:
        """Change a device, in the words of `wg set`."""
        words = tuple(words)
        log.info("wg set %s %s", name, " ".join(words))
        with namespaces.entered(self._path):
            _run("wg", "set", name, *words)

    def lead(self, name: str, mtu: int) -> None:
        """Send all by the device of this *name*, in packets of *mtu* bytes; what is sent meanwhile is not lost."""
        with self._inside() as (inside, _):
            index = inside.index(name) or 0
            inside.request(setlink(index, mtu=mtu), newroute(PREFIX, oif=index, replace=True))

    def remove(self, name: str) -> None:
        """Have no device of this name, and no wireguard-go for it."""
        with suppress(OSError), self._inside() as (inside, _):
            inside.request(dellink(name))

    def watch(self) -> Monitor[LinkMessage]:
        """Hear of devices that go. As long as it is not closed, the namespace stays."""
        with namespaces.entered(self._path):
            return Monitor(NETLINK_ROUTE, RTMGRP_LINK, ((bpf.RETURN, 0, 0, bpf.EVERYTHING),), _gone)

    @contextmanager
    def _inside(self) -> Iterator[tuple[Socket, int]]:
        """A socket in the namespace, and its descriptor."""
        with ExitStack() as held:
            netns = namespaces.open_path(self._path)
            held.callback(os.close, netns)
            with namespaces.inside(netns):
                inside = held.enter_context(Socket())
            yield inside, netns


def _gone(message: bytes) -> LinkMessage | None:
    heard = link(message)
    return heard if heard.event == RTM_DELLINK else None


def _bear(host: Socket, name: str, netns: int, mtu: int) -> None:
    """Make a device in the namespace *netns* whose UDP socket is in the host's."""
    try:
        host.request(newlink("wireguard", name, mtu=mtu, netns=netns))
    except NetlinkError as error:
        if error.errno != EOPNOTSUPP:
            raise DeviceUnavailable(name, f"the kernel makes no WireGuard device: {error.strerror}") from error
    else:
        return
    if host.index(name) is None:
        _let_end(name)
        _run("wireguard-go", name)
    # It looks for its device here as it starts in the background, and answers when it has it.
    _run("wg", "show", name, "public-key")
    # It takes notice of that here; once it is in there, it looks only now and then.
    host.request(setlink(name, mtu=mtu, up=True))
    host.request(movelink(name, netns))


def _let_end(name: str) -> None:
    """Wait for a wireguard-go whose device is gone: last it takes away the socket that the next one needs."""
    deadline = time.monotonic() + _PATIENCE
    while _runs(name) and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _runs(name: str) -> bool:
    """Whether there is a wireguard-go for the device of this name; one that has ended has no command line."""
    end = f"wireguard-go\0{name}\0".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file.read_bytes().endswith(end):
                return True
    return False


def _kernel_can() -> bool:
    """Whether the kernel has devices of this kind; one is made and deleted, where nobody sees it."""
    netns = namespaces.create()
    try:
        with namespaces.inside(netns), Socket() as there:
            return not there.attempt(newlink("wireguard", "wg0"))
    finally:
        os.close(netns)


def _is_free(port: int) -> bool:
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(("", port))
    except OSError:
        return False
    return True


_PACKAGES = {"wg": "wireguard-tools", "wireguard-go": "wireguard-go"}


def _program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if not found:
        lacking = "" if name == "wg" else ", as this kernel has no WireGuard of its own"
        raise NotImplementedHere(
            f"encrypted networks need the program {name} on each host{lacking}: install it (Debian's package "
            f"{_PACKAGES[name]})"
        )
    return found


def _run(name: str, *words: str, told: str = "") -> str:
    """What a program prints, which is *told* something by its standard input: no command line has secrets."""
    environment = {key: value for key, value in os.environ.items() if key != "LOG_LEVEL"}
    about = words[1] if len(words) > 1 else name
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and words that we made
            [_program(name), *words],
            input=told,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=_PATIENCE,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise DeviceUnavailable(about, f"{name} does not answer") from None
    if done.returncode:
        said = done.stderr.replace(told, "...") if told else done.stderr
        raise DeviceUnavailable(about, f"{name}: {said.strip()}")
    return done.stdout
