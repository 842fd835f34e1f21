"""Root file systems of containers: the layers of an image with one of the container's own on top.

With overlayfs, containers of one image share its layers and each writes into a directory of its own; where the kernel
or the file system below has none, each gets a plain copy. An image is a list of directories, the lowest first: those
that were unpacked, a directory of the user's, or the machine's own root.

    <container>/upper, work    what the container wrote, and what overlayfs needs beside it
    <container>/root           where it is mounted, or the copy
"""

import errno
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from isthmus import disk, mounts
from isthmus.containers.model import Device, Mount
from isthmus.containers.spec import DeviceNode
from isthmus.errors import InvalidRequest, IsthmusError
from isthmus.images import trees

HOST = "host"
"""The name of the image that shows this machine's own root file system."""

OWN = ("/tmp", "/run", "/var/tmp")  # noqa: S108 - places in a container, which it has to itself
"""Directories that a container with the machine's root has to itself, beside /proc, /sys and /dev."""

SECRET = (
    *("/root", "/home", "/boot", "/var/backups", "/var/log", "/var/spool", "/var/lib/private"),
    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/security/opasswd"),
    *("/etc/sudoers", "/etc/sudoers.d", "/etc/ssh", "/etc/ssl/private", "/etc/letsencrypt", "/etc/krb5.keytab"),
    *("/etc/wireguard", "/etc/openvpn", "/etc/ipsec.d", "/etc/ipsec.secrets", "/etc/swanctl"),
    *("/etc/NetworkManager", "/etc/netplan", "/etc/docker", "/etc/isthmus"),
    *("/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"),
)
"""What a container with the machine's root does not get to see, unless it is privileged."""

_MOST_LAYERS = 500  # overlayfs (fs/overlayfs/params.h, OVL_MAX_STACK)


class Rootfs:
    """The root file system of one container, in its *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "root"

    def mount(self, layers: Sequence[str]) -> None:
        """Have it at `path`, with all that the container wrote when it ran before; success if it is there.

        Raises:
            IsthmusError: it cannot be made.
        """
        if mounts.is_mount(str(self.path)):
            return
        self.path.mkdir(mode=0o755, exist_ok=True)
        try:
            if not self._overlay(layers):
                self._copy(layers)
        except OSError as error:
            raise IsthmusError(f"cannot make the root file system {self.path}: {error.strerror or error}") from error

    def _overlay(self, layers: Sequence[str]) -> bool:
        """Mount by overlayfs; whether it can be had."""
        if len(layers) > _MOST_LAYERS:
            raise InvalidRequest(f"an image of {len(layers)} layers is too deep: overlayfs can stack {_MOST_LAYERS}")
        upper, work = self._directory / "upper", self._directory / "work"
        if (self._directory / "copied").exists():
            return False
        if not layers:
            (self._directory / "nothing").mkdir(exist_ok=True)
            layers = (str(self._directory / "nothing"),)
        upper.mkdir(mode=0o755, exist_ok=True)
        work.mkdir(mode=0o755, exist_ok=True)
        # Short names, as all of them have to go into one page: descriptors of this process, with the topmost first.
        descriptors = [os.open(one, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for one in reversed(layers)]
        try:
            lower = ":".join(f"/proc/self/fd/{one}" for one in descriptors)
            data = f"lowerdir={lower},upperdir={upper},workdir={work}"
            mounts.mount("overlay", str(self.path), "overlay", data=data)
        except OSError as error:
            # EINVAL is also what the kernel says where the file system below cannot be written over.
            if error.errno in {errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP}:
                return False
            raise
        finally:
            for one in descriptors:
                os.close(one)
        return True

    def _copy(self, layers: Sequence[str]) -> None:
        """Copy all layers, once, and mount the copy on itself: runtimes want a mount of its own."""
        done = self._directory / "copied"
        if not done.exists():
            with disk.opened(self._directory) as top:
                for layer in layers:
                    _copy_layer(layer, str(self.path))
                disk.flush(top)  # a power failure could leave empty files otherwise, and word that they are whole
            done.touch()
        mounts.mount(str(self.path), str(self.path), flags=mounts.BIND)

    def bind(self, source: str) -> None:
        """Have the machine's own directory *source* at `path`, without what is mounted in it; see `mounted_below`."""
        if mounts.is_mount(str(self.path)):
            return
        self.path.mkdir(mode=0o755, exist_ok=True)
        try:
            mounts.mount(source, str(self.path), flags=mounts.BIND)
            mounts.mount("none", str(self.path), flags=mounts.PRIVATE)
        except OSError as error:
            raise IsthmusError(f"cannot show {source} at {self.path}: {error.strerror}") from error

    def unmount(self) -> None:
        """Have it nowhere any more; what the container wrote stays."""
        try:
            while mounts.is_mount(str(self.path)):
                mounts.unmount(str(self.path))
        except OSError as error:
            raise IsthmusError(f"cannot unmount {self.path}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it with all that was written, and the container's directory with it."""
        self.unmount()
        try:
            trees.remove(str(self._directory))
        except OSError as error:
            raise IsthmusError(f"cannot remove {error.filename} in {self._directory}: {error.strerror}") from error

    def read(self, path: str) -> str:
        """The text of a file as the container sees it; "" if there is none that can be read."""
        try:
            return mounts.read_inside(str(self.path), path).decode(errors="replace")
        except OSError:
            return ""


def _copy_layer(source: str, target: str) -> None:
    """Copy *source* over *target* with owners, modes, times, links, attributes and devices."""
    done = subprocess.run(  # noqa: S603 - these words, and two paths
        ["cp", "-a", "--reflink=auto", "--", f"{source}/.", target], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise IsthmusError(f"cannot copy {source}: {done.stderr.strip().splitlines()[-1]}")
    for place in _whiteouts(source):
        trees.remove(f"{target}/{place}")


def _whiteouts(layer: str) -> Iterator[str]:
    """What a layer takes away from those below: overlayfs has a device 0:0 there."""
    for directory, _, names in os.walk(layer):
        for name in names:
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                yield str(path.relative_to(layer))


def covers(root: str, paths: Iterable[str] = SECRET) -> tuple[str, ...]:
    """Those of *paths* that there are below *root*."""
    return tuple(path for path in paths if os.path.lexists(f"{root}{path}"))


_NOT_THE_MACHINES = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/run")  # noqa: S108 - as mount points


def mounted_below(avoiding: Iterable[str]) -> tuple[Mount, ...]:
    """The machine's file systems that are mounted below its root, such as /usr or /var, to be read only.

    Left out are the kernel's own, what lasts until the next boot only, and what is mounted at or below a path of
    *avoiding*: a namespace's file that is mounted twice could not be deleted.
    """
    apart = (*_NOT_THE_MACHINES, *avoiding)
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        target = fields.split()[4].encode().decode("unicode_escape")
        if target != "/" and rest.split()[0] != "nsfs" and not any(_is_below(target, place) for place in apart):
            found.append(Mount("bind", target, target, ("bind", "ro")))
    return tuple({one.target: one for one in found}.values())


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place.rstrip('/')}/")


def own_directories(root: str) -> tuple[Mount, ...]:
    """Empty directories in memory over those that a container with the machine's root has to itself."""
    options = ("nosuid", "nodev", "mode=1777")
    return tuple(Mount("tmpfs", "tmpfs", path, options) for path in OWN if Path(f"{root}{path}").is_dir())


def node(device: Device) -> DeviceNode:
    """What the host has at the path of *device*.

    Raises:
        InvalidRequest: there is no device.
    """
    try:
        status = Path(device.path).stat()
    except OSError as error:
        raise InvalidRequest(
            f'error gathering device information while adding custom device "{device.path}": {error.strerror}'
        ) from None
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        raise InvalidRequest(
            f'error gathering device information while adding custom device "{device.path}": not a device node'
        )
    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
    return DeviceNode(device, kind, *numbers, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


_PER_CONTAINER = {"pts", "shm", "mqueue", "fd", "console", "ptmx", "tty"}


def all_devices() -> tuple[DeviceNode, ...]:
    """All devices of the host, for who may have them all."""
    nodes = []
    for directory, inner, names in os.walk("/dev"):
        inner[:] = [name for name in inner if name not in _PER_CONTAINER]
        for name in names:
            path = Path(directory, name)
            if name not in _PER_CONTAINER and not path.is_symlink():
                with suppress(InvalidRequest):
                    nodes.append(node(Device(str(path), str(path))))
    return tuple(nodes)
