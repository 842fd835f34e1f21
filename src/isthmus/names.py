"""The resolvers of all sandboxes, kept in step with the records, and the files about names for who asks for them.

What the engine records is learned here before its answer goes out, so the next question finds it. Sockets are made and
closed right after that, when the caller has been told: an attach does not wait for them. A sandbox has a resolver for
as long as it stands on a network with names, and a moment longer; its sockets stay while it joins and leaves others.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from isthmus.dns import files
from isthmus.dns.cache import Cache
from isthmus.dns.forward import PORT, HostServers, Upstream
from isthmus.dns.lookup import Directory
from isthmus.dns.server import ADDRESS, Point
from isthmus.errors import IsthmusError
from isthmus.learning import Learning
from isthmus.model import HOST, Dns, Record
from isthmus.views import Call, Files

log = logging.getLogger("isthmus.names")

Enter = Callable[[str], AbstractContextManager[None]]
"""Has the calling thread in the namespace of this name; OSError if it is not there."""

LINGER = 1.0
"""For how long, in seconds, a resolver outlasts the last network with names: who leaves one often joins another."""

_Identity = tuple[int, int]
_OWN_ENTRIES, _OWN_OCTETS = 512, 2**19  # of what one sandbox's own servers said


class Names:
    """Who asks for names, and what is to be told. All methods are for the loop's thread.

    Our namespaces are below *exec_root*, as are the files, `written` for who asks for them. What sandboxes are told,
    *learning* hears before they do.
    """

    def __init__(self, directory: Directory, enter: Enter, exec_root: Path, learning: Learning) -> None:
        self.written = Written(directory, exec_root / "sandboxes")
        self._directory = directory
        self._enter = enter
        self._learning = learning
        self._namespaces = exec_root / "netns"
        self._loop = asyncio.get_running_loop()
        self._points: dict[str, tuple[Point, _Identity]] = {}
        self._own: dict[str, tuple[Dns, Upstream]] = {}
        self._of_host = Upstream(HostServers(Path(files.SOURCE)), nullcontext, Cache(self._loop.time))
        self._stub: Point | None = None
        self._touched: set[str] = set()
        self._to_settle: asyncio.Handle | None = None

    def learn(self, put: Iterable[Record], drop: Iterable[Record]) -> None:
        """Know what was recorded, and what is no longer; questions are answered by it from now on."""
        self._settle_soon(self._directory.learn(put, drop))
        self._learning.settle()

    def look_again(self) -> None:
        """See whether there are other namespaces by the names of ours."""
        self._settle_soon(name for name, (_, identity) in self._points.items() if self._identity(name) != identity)

    def judged(self, calls: Iterable[Call]) -> None:
        """Tell of *calls* from sandboxes that an egress policy stopped, or would have."""
        self._learning.judged(calls)

    def teach_again(self) -> None:
        """Have the firewall know what was told: it may have been made anew."""
        self._learning.again()

    def start(self, stub: tuple[str, int] | None = None) -> None:
        """Serve all who are to be served, the host at *stub* if given, and go on with the files of before.

        Raises:
            IsthmusError: somebody else listens at *stub*.
        """
        if stub:
            answers, directory = self._directory.answers_on_host, self._directory
            try:
                self._stub = Point(nullcontext, answers, lambda: directory.version, lambda: None, stub)
            except OSError as error:
                raise IsthmusError(f"cannot serve names at {stub[0]}, port {stub[1]}: {error.strerror}") from error
        self.written.adopt()
        self._learning.adopt()
        self._touched.update(self._directory.namespaces())
        self._settle()

    def close(self) -> None:
        """Answer nobody any more; files stay."""
        if self._to_settle:
            self._to_settle.cancel()
        for netns in tuple(self._points):
            self._detach(netns)
        if self._stub:
            self._stub.close()
        for _, upstream in self._own.values():
            upstream.close()
        self._of_host.close()
        self._learning.close()

    # Sockets.

    def _settle_soon(self, touched: Iterable[str]) -> None:
        self._touched.update(touched)
        if self._touched and self._to_settle is None:
            self._to_settle = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        """Have a resolver where one is wanted, and nowhere else."""
        self._to_settle = None
        touched, self._touched = self._touched, set()
        for netns in touched:
            identity, served = self._identity(netns), self._directory.served(netns)
            point = self._points.get(netns)
            if point and point[1] != identity:
                # A socket would keep what is left of the namespace alive.
                self._detach(netns)
                point = None
            if point and not served:
                self._loop.call_later(LINGER, self._let_go, netns, point)
            elif served and identity and not point:
                self._attach(netns, identity)
            own = self._own.get(netns)
            if own and own[0] != self._directory.dns(netns):
                del self._own[netns]
                own[1].close()
            self.written.renew(netns)

    def _identity(self, netns: str) -> _Identity | None:
        """What tells the namespace of this name from others; None if there is none."""
        try:
            status = (self._namespaces / netns).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _attach(self, netns: str, identity: _Identity) -> None:
        directory = self._directory
        try:
            point = Point(
                partial(self._enter, netns),
                partial(directory.answers, netns),
                lambda: directory.version,
                partial(self._upstream, netns),
                told=partial(self._learning.told, netns),
            )
        except OSError as error:
            log.warning("%s has no resolver: port 53 of %s in its namespace cannot be had: %s", netns, ADDRESS, error)
        else:
            self._points[netns] = point, identity

    def _detach(self, netns: str) -> None:
        point, _ = self._points.pop(netns)
        point.close()

    def _let_go(self, netns: str, point: tuple[Point, _Identity]) -> None:
        """Have no resolver there any more, if none is wanted meanwhile."""
        if self._points.get(netns) is point and not self._directory.served(netns):
            self._detach(netns)

    def _upstream(self, netns: str) -> Upstream | None:
        """Who is asked for what is not ours: the sandbox's own servers, from inside; else the host's, by the host."""
        dns = self._directory.dns(netns)
        servers = tuple((str(server), PORT) for server in dns.servers if str(server) != ADDRESS)
        if not servers:
            return self._of_host if self._directory.open(netns) else None
        if netns not in self._own:
            cache = Cache(self._loop.time, _OWN_ENTRIES, _OWN_OCTETS)
            self._own[netns] = dns, Upstream(lambda: servers, partial(self._enter, netns), cache)
        return self._own[netns][1]


class Written:
    """The files about names, below *root*, of those sandboxes that somebody asked for them of.

    *Host_file* is the host's own `resolv.conf`. They follow from the *directory*, which everybody may ask.
    """

    def __init__(self, directory: Directory, root: Path, host_file: Path = Path(files.SOURCE)) -> None:
        self.directory = directory
        self._root = root
        self._host_file = host_file
        self._texts: dict[str, _Texts] = {}

    def adopt(self) -> None:
        """Go on with the files of before, and remove those of sandboxes that are gone."""
        with suppress(FileNotFoundError):
            for place in self._root.iterdir():
                if self.directory.owner(place.name):
                    self._texts[place.name] = self._now(place.name)
                else:
                    rmtree(place, ignore_errors=True)

    def files(self, netns: str) -> Files:
        """The files for the namespace *netns*, written now and kept up to date from now on; none for the host's.

        Raises:
            IsthmusError: they cannot be written; then there are none.
        """
        if netns == HOST:
            return Files()
        place = self._root / netns
        if netns not in self._texts:
            now = self._now(netns)
            try:
                place.mkdir(mode=0o755, parents=True, exist_ok=True)
                for name, text in zip(_NAMES, now, strict=True):
                    (place / name).write_text(text, encoding="utf-8")
            except OSError as error:
                rmtree(place, ignore_errors=True)
                raise IsthmusError(f"cannot write the files of {netns} in {place}: {error.strerror}") from error
            self._texts[netns] = now
        resolv_conf, hosts, hostname = (str(place / name) for name in _NAMES)
        return Files("" if self.directory.dns(netns).off else resolv_conf, hosts, hostname)

    def renew(self, netns: str) -> None:
        """Have the files of *netns*, if there are any, say what is so now; where the sandbox is gone, have none."""
        before, place = self._texts.pop(netns, None), self._root / netns
        if before is None:
            return
        if self.directory.owner(netns) is None:
            rmtree(place, ignore_errors=True)
            return
        now = self._texts[netns] = self._now(netns)
        try:
            # In place: somebody may have mounted them elsewhere.
            resolv_conf, hosts = place / _NAMES[0], place / _NAMES[1]
            if resolv_conf.read_text(encoding="utf-8") == before.resolv_conf != now.resolv_conf:
                resolv_conf.write_text(now.resolv_conf, encoding="utf-8")
            current = hosts.read_text(encoding="utf-8", errors="replace")
            if (text := files.merged(current, before.hosts, now.hosts)) != current:
                hosts.write_text(text, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the files of %s in %s are not up to date: %s", netns, place, error)

    def _now(self, netns: str) -> "_Texts":
        """What is to be in the files now."""
        directory, owner = self.directory, self.directory.owner(netns)
        host = ""
        with suppress(OSError):
            host = self._host_file.read_text(encoding="utf-8", errors="replace")
        own = [interface.ip for endpoint in directory.endpoints(netns) for interface in endpoint.addresses]
        resolver = ADDRESS if directory.served(netns) else ""
        ipv6 = any(address.version == 6 for address in own)
        hostname, domain = (owner.hostname or owner.id[:12], owner.domainname) if owner else (netns, "")
        return _Texts(
            files.resolv_conf(host, directory.dns(netns), resolver, ipv6=ipv6),
            files.hosts(directory.hosts(netns), directory.linked(netns), own, hostname, domain),
            f"{hostname}\n",
        )


_NAMES = ("resolv.conf", "hosts", "hostname")


class _Texts(NamedTuple):
    """What is in the files of one sandbox, in the order of their names."""

    resolv_conf: str
    hosts: str
    hostname: str
