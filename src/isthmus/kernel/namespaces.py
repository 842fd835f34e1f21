"""Network namespaces: made, entered, kept by a path, and let go.

A namespace belongs to a thread, not to a process. Only `inside` and `create` change the calling thread's, and both put
it back before they return, whatever is raised: call them on a thread of your own, so that the process's main thread,
which `/proc/self` and everything else shows, never stands anywhere else. What a socket or a file of `/proc/sys/net` is
about is settled when it is opened: so one goes in, opens, and comes out (7 microseconds each way).

A namespace lives as long as somebody holds it: a process in it, an open descriptor, or a mount of it on a file. `bind`
makes such a mount in the manner of iproute2, which then knows the namespace by the file's name if the directory is
`/run/netns`. The kernel takes a dead one apart behind everybody's back, some 20 ms later.

Python has `os.setns` and `os.unshare` only from 3.12 on, and no mount at all; ctypes does for all of them.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType

from isthmus.kernel import sysctl
from isthmus.kernel.netlink import Socket, setlink
from isthmus.mounts import BIND, RECURSIVE, SHARED, mount, unmount

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_LOOPBACK = 1  # its index in each namespace
_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC


def _succeed(result: int, subject: str = "") -> None:
    """Raise the OSError that a C function's *result* tells of, if any."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *([subject] if subject else []))


def _setns(descriptor: int) -> None:
    """Move the calling thread into the network namespace of this descriptor."""
    _succeed(_LIBC.setns(descriptor, _CLONE_NEWNET))


def current() -> int:
    """Open a new descriptor of the namespace that the calling thread is in."""
    return os.open("/proc/thread-self/ns/net", _READ_ONLY)


def open_path(path: str) -> int:
    """Open the namespace at *path*; FileNotFoundError if nothing is there, OSError (EINVAL) if something else is.

    The latter is the case of a file whose mount is gone: what a reboot, or a crash inside `bind`, leaves.
    """
    descriptor = os.open(path, _READ_ONLY)
    if is_network_namespace(descriptor):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a network namespace", path)


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Have the calling thread in the namespace at *path*, and then back; raises what `open_path` does."""
    netns = open_path(path)
    try:
        with inside(netns):
            yield
    finally:
        os.close(netns)


def is_network_namespace(descriptor: int) -> bool:
    """Whether *descriptor* is one of a network namespace."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def identity(descriptor: int) -> tuple[int, int]:
    """Tell the namespace of this descriptor from every other that lives now, by its device and inode."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def same(one: int, other: int) -> bool:
    """Whether two descriptors are of one namespace."""
    return identity(one) == identity(other)


class inside:  # noqa: N801 (it reads as the word after `with`)
    """`with inside(netns):` has the calling thread in the namespace of descriptor *netns*, and then back where it was.

    *Home*, the descriptor of the namespace that the thread is in, saves opening that each time.
    """

    __slots__ = ("_home", "_netns", "_own")

    def __init__(self, netns: int, home: int = -1) -> None:
        self._netns = netns
        self._home = home
        self._own = home < 0

    def __enter__(self) -> None:
        if self._own:
            self._home = current()
        try:
            _setns(self._netns)
        except BaseException:
            self._forget()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _setns(self._home)
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._own:
            os.close(self._home)


def create(sysctls: Mapping[str, str] = MappingProxyType({}), home: int = -1) -> int:
    """Make a namespace and return a descriptor of it: its loopback up, *sysctls* set before there is any other link.

    *Home* as in `inside`. A namespace whose sysctls are refused is let go, and the OSError raised.
    """
    own = home < 0
    if own:
        home = current()
    try:
        _succeed(_LIBC.unshare(_CLONE_NEWNET))
        try:
            netns = current()
            try:
                sysctl.write_all(sysctls)
                with Socket() as socket:
                    socket.request(setlink(_LOOPBACK, up=True))
            except BaseException:
                os.close(netns)
                raise
        finally:
            _setns(home)
    finally:
        if own:
            os.close(home)
    return netns


def share(directory: str) -> None:
    """Make *directory* one where namespaces can be bound, if it is none yet, as iproute2 does with `/run/netns`.

    It becomes a mount of its own that is shared: what is bound in it, or taken from it, is so in every mount namespace
    that was copied from ours, so that no forgotten copy keeps a namespace alive.
    """
    Path(directory).mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        mount("none", directory, flags=SHARED | RECURSIVE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: no mount of its own yet
            raise
        mount(directory, directory, flags=BIND | RECURSIVE)
        mount("none", directory, flags=SHARED | RECURSIVE)


def bind(netns: int, path: str) -> None:
    """Keep the namespace of descriptor *netns* alive by a mount on the file *path*, which is made.

    FileExistsError if it is there: what a crash left can be taken away by `unbind`.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mount(f"/proc/self/fd/{netns}", path, flags=BIND)
    except BaseException:
        Path(path).unlink()
        raise


def unbind(path: str) -> None:
    """Take the mount and the file at *path* away; success if either is gone already. Open descriptors stay good."""
    try:
        unmount(path)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOENT}:  # EINVAL: a file without a mount
            raise
    Path(path).unlink(missing_ok=True)
