"""The network namespaces that we hold: a file for each, a socket into it, and a few made ahead of need.

A namespace of ours is a mount on a file in a directory of our own; that it lies there is our mark. A symbolic link of
the same name where iproute2 looks makes it known to `ip netns exec`. Both outlast us: the next `Spaces` finds them.

A socket is opened in a namespace once and kept (it takes 50 microseconds, a request 4). Each costs two descriptors, so
the least recently used are closed when there are many.
"""

import contextlib
import os
import resource
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from errno import EEXIST
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import MappingProxyType
from typing import Generic, TypeVar

from isthmus.kernel import namespaces, sysctl
from isthmus.kernel.netlink import LinkMessage, NetlinkError, Socket, getlink, getnsid, link, newnsid, nsid
from isthmus.model import HOST

_T = TypeVar("_T")

BIRTH: Mapping[str, str] = MappingProxyType({"net/ipv6/conf/default/disable_ipv6": "1"})
"""How a namespace of ours begins: with IPv6 off on each link that comes, as in Docker's, until a network brings it."""


class Space:
    """One namespace: its *name*, its descriptor *netns*, and a *socket* to speak with the kernel about it."""

    __slots__ = ("host_number", "identity", "name", "netns", "socket", "tied")

    def __init__(self, name: str, netns: int, socket: Socket) -> None:
        self.name = name
        self.netns = netns
        self.socket = socket
        self.identity = namespaces.identity(netns)
        self.host_number: int | None = None
        self.tied = False

    def close(self) -> None:
        """Give both descriptors back."""
        self.socket.close()
        os.close(self.netns)

    def link(self, link_name: int | str) -> LinkMessage | None:
        """Return the link of this index or name, or None."""
        try:
            return link(self.socket.ask(getlink(link_name)))
        except NetlinkError:
            return None


PATIENCE = 2.0
"""For how long, in seconds, an end waits for a namespace that is being made: the kernel may be busy with dead ones."""


class Supply(Generic[_T]):
    """Up to *size* things that *make* makes ahead of need, on a thread of its own, once that was asked to `fill` it.

    Making one is mostly waiting for the kernel, and others can go on meanwhile. *Make* is called on both threads.
    """

    def __init__(self, make: Callable[[], _T], size: int) -> None:
        self._make = make
        self._size = size
        self._ready: deque[_T] = deque()
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._thread: Thread | None = None

    def __len__(self) -> int:
        return len(self._ready)

    def take(self) -> _T:
        """Return one; raises what *make* raises, if none is ready."""
        try:
            return self._ready.popleft()
        except IndexError:
            return self._make()

    def fill(self) -> None:
        """See to it that there are soon as many as shall be."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="supply", daemon=True)
            self._thread.start()
        if len(self._ready) < self._size:
            self._asked.put(True)  # noqa: FBT003 - its only parameter

    def refill(self) -> None:
        """As `fill`, if that was ever asked for, and the supply runs low."""
        if self._thread and len(self._ready) <= self._size // 2:
            self.fill()

    def close(self) -> Iterable[_T]:
        """End, and return what was not taken. Who is still waiting for the kernel after a while is left to it."""
        if self._thread:
            self._asked.put(False)  # noqa: FBT003 - its only parameter
            self._thread.join(PATIENCE)
        return tuple(self._ready)

    def _run(self) -> None:
        while self._asked.get():
            with contextlib.suppress(OSError):  # whoever needs one will be told why
                while len(self._ready) < self._size:
                    self._ready.append(self._make())


class Spaces:
    """All namespaces of ours, by name; `HOST` is the one in which the thread that makes this stands, and must stay.

    *Directory* holds the mounts, *known* is where iproute2 looks for names. Up to *pool* namespaces are made in
    advance. One whose mount somebody took away may live on; *leave* is called with it before it is let go.
    """

    def __init__(self, directory: Path, known: Path, pool: int, leave: Callable[[Space], None]) -> None:
        namespaces.share(str(directory))
        known.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._directory = f"{directory}/"
        self._known = f"{known}/"
        self._leave = leave
        self._supply = Supply(self._new, pool)
        self.host = Space(HOST, namespaces.current(), Socket())
        self._open: dict[str, Space] = {}
        self._limit = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        for name in self.names():
            with contextlib.suppress(OSError):
                if self._is_mounted(name):
                    self._make_known(name)
                else:
                    os.unlink(self._directory + name)  # who died between the two steps of `bind` or `unbind` left it

    def close(self) -> None:
        """Give all descriptors back; the namespaces stay."""
        for netns, socket in self._supply.close():
            socket.close()
            os.close(netns)
        for space in (self.host, *self._open.values()):
            space.close()
        self._open.clear()

    def names(self) -> list[str]:
        """Return the names of all that have a file; some may be dead."""
        return os.listdir(self._directory)

    def find(self, name: str) -> Space | None:
        """Return the namespace of this name, or None if there is none (any more)."""
        if name == HOST:
            return self.host
        space = self._open.pop(name, None)
        try:
            status = os.stat(self._directory + name)
        except FileNotFoundError:
            status = None
        if space is not None:
            if status is not None and space.identity == (status.st_dev, status.st_ino):
                self._open[name] = space  # again, so that the first is the one that was not used for longest
                return space
            self._leave(space)
            space.close()
            self._forget_number(name)
        if status is None:
            return None
        try:
            netns = namespaces.open_path(self._directory + name)
        except OSError:
            return None  # a file without a mount: what a reboot leaves
        with namespaces.inside(netns, self.host.netns):
            socket = Socket()
        return self._keep(Space(name, netns, socket))

    def numbered(self, number: int) -> Space | None:
        """Return the namespace of ours that the host's knows by this *number* (`IFLA_LINK_NETNSID`), or None."""
        name = self._names.get(number)
        if name is not None and (space := self.find(name)) is not None:
            return space
        self._number_all()
        name = self._names.get(number)
        return None if name is None else self.find(name)

    def make(self, name: str) -> None:
        """Have a namespace of this name.

        Raises:
            OSError: with EEXIST if somebody else's has that name.
        """
        self._make_known(name)
        if self.find(name) is not None:
            return
        path = self._directory + name
        netns, socket = self._supply.take()
        try:
            try:
                namespaces.bind(netns, path)
            except FileExistsError:
                namespaces.unbind(path)
                namespaces.bind(netns, path)
        except BaseException:
            socket.close()
            os.close(netns)
            raise
        self._keep(Space(name, netns, socket))
        self._supply.refill()

    def remove(self, name: str) -> None:
        """Let the namespace of this name go; the kernel takes it apart once nobody else holds it."""
        if space := self._open.pop(name, None):
            space.close()
        self._forget_number(name)
        known = self._known + name
        with contextlib.suppress(OSError):
            if os.readlink(known) == self._directory + name:
                os.unlink(known)
        namespaces.unbind(self._directory + name)

    @property
    def prepared(self) -> int:
        """How many namespaces were made ahead of need and not used yet."""
        return len(self._supply)

    def prepare(self) -> None:
        """Make namespaces ahead of need from now on, whenever some of the supply were used."""
        self._supply.fill()

    def read(self, space: Space, key: str) -> str:
        """Return the value of the sysctl *key* in a namespace."""
        if space is self.host:
            return sysctl.read(key)
        with namespaces.inside(space.netns, self.host.netns):
            return sysctl.read(key)

    def write(self, space: Space, key: str, value: str) -> None:
        """Set the sysctl *key* in a namespace."""
        if space is self.host:
            sysctl.write(key, value)
            return
        with namespaces.inside(space.netns, self.host.netns):
            sysctl.write(key, value)

    def _new(self) -> tuple[int, Socket]:
        home = self.host.netns
        netns = namespaces.create(BIRTH if os.path.exists("/proc/sys/net/ipv6") else {}, home)
        with namespaces.inside(netns, home):
            return netns, Socket()

    def _keep(self, space: Space) -> Space:
        if len(self._open) >= self._limit:
            self._open.pop(next(iter(self._open))).close()
        self._open[space.name] = space
        return space

    def _is_mounted(self, name: str) -> bool:
        return os.path.ismount(self._directory + name)

    def _make_known(self, name: str) -> None:
        """Tell iproute2 of a namespace, unless it knows another by that name."""
        path, known = self._directory + name, self._known + name
        try:
            os.symlink(path, known)
        except FileExistsError:
            if os.path.islink(known) and os.readlink(known) == path:
                return
            hint = f"{known} is not ours; remove it (ip netns delete {name}) or choose another name"
            raise FileExistsError(EEXIST, hint) from None

    def nicknames(self) -> list[str]:
        """Return the names that may be nicknames."""
        return os.listdir(self._known)

    def nicknamed(self, name: str) -> str | None:
        """Return the namespace of ours that has this nickname, or None."""
        try:
            netns = os.readlink(self._known + name)
        except OSError:
            return None
        return netns if "/" not in netns and os.path.lexists(self._directory + netns) else None

    def nickname(self, name: str, netns: str) -> None:
        """Let iproute2 know a namespace of ours by one more name.

        Raises:
            OSError: with EEXIST if it knows another by that name.
        """
        known = self._known + name
        # A link that leads nowhere is one of ours that a crash left.
        if self.nicknamed(name) is not None or (os.path.islink(known) and "/" not in os.readlink(known)):
            os.unlink(known)
        try:
            os.symlink(netns, known)
        except FileExistsError:
            hint = f"{known} is not ours; remove it (ip netns delete {name}) or choose another name"
            raise FileExistsError(EEXIST, hint) from None

    def forget_nickname(self, name: str) -> None:
        """Take a nickname away."""
        if self.nicknamed(name) is not None:
            os.unlink(self._known + name)

    def number(self, space: Space) -> int | None:
        """Return the number by which the host's namespace knows *space*; None if it has none yet."""
        known = self._numbers.get(space.name)
        if known is None and (known := nsid(self.host.socket.ask(getnsid(space.netns)))) is not None:
            self._numbers[space.name] = known
            self._names[known] = space.name
        return known

    def number_of_host(self, space: Space) -> int | None:
        """Return the number by which *space* knows the host's namespace; None if it has none yet."""
        if space.host_number is None:
            space.host_number = nsid(space.socket.ask(getnsid(self.host.netns)))
        return space.host_number

    def tie(self, space: Space) -> None:
        """Give *space* a number in the host's namespace: a watch there hears nothing of those without.

        The kernel does so itself for the namespace of a veth's other end, but not for that of a macvlan.
        """
        if space is not self.host and not space.tied:
            self.host.socket.attempt(newnsid(space.netns))  # EEXIST: it is
            space.tied = True

    def _number_all(self) -> None:
        """Learn the numbers of all namespaces of ours that have one."""
        for name in self.names():
            if name not in self._numbers and (space := self.find(name)):
                self.number(space)

    def _forget_number(self, name: str) -> None:
        number = self._numbers.pop(name, None)
        if number is not None:
            del self._names[number]
