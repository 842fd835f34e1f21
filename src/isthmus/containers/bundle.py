"""A container's bundle: its root file system where the runtime looks for it, and `config.json` beside that.

What stands in there follows from what was asked for, from the image, and from the sandbox that the container is in.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from isthmus.containers import groups, rootfs
from isthmus.containers import spec as oci
from isthmus.containers.model import ExecWish, Found, Wish
from isthmus.containers.rootfs import Rootfs
from isthmus.errors import InvalidRequest
from isthmus.model import HOST
from isthmus.names import Written
from isthmus.views import SandboxView

Files = tuple[tuple[str, str], ...]
"""Files that a container sees in other places than the host: where it does, and where they are."""

_ABOUT_NAMES = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")
_encoder = msgspec.json.Encoder()


class Bundles:
    """Makes bundles. *Private* are directories of ours that no container gets to see with the machine's own root."""

    def __init__(self, written: Written, private: tuple[Path, ...]) -> None:
        self._written = written
        self._private = tuple(map(str, private))
        self.available = _available()

    def mount(self, directory: Path, image: Found) -> None:
        """Have the root file system of a container at its place; raises what `Rootfs.mount` raises."""
        if image.machine:
            Rootfs(directory).bind("/")
        else:
            Rootfs(directory).mount(image.layers)

    def write(  # noqa: PLR0917 - all that a bundle follows from
        self,
        identity: str,
        directory: Path,
        wish: Wish,
        image: Found,
        sandbox: SandboxView,
        namespace_of: Callable[[str, str], str],
    ) -> None:
        """Write `config.json`; *namespace_of* tells where the namespace of a kind is that another container has.

        Raises:
            InvalidRequest: a user, group, device or directory is not there.
        """
        root = Rootfs(directory)
        for mount in wish.mounts:
            if mount.kind == "bind":
                _have_source(mount.source, made=mount.made)
        owner = sandbox.sandbox
        path = str(root.path)
        files = tuple((target, file) for target, file in self.files(directory, sandbox) if _has_parent(path, target))
        place = oci.Place(
            id=identity,
            root=path,
            machine=os.uname().machine,
            netns="" if owner.netns == HOST else sandbox.netns_path,
            hostname=self._hostname(sandbox),
            domainname=owner.domainname,
            files=files,
            pid_namespace=namespace_of(wish.pid_mode, "pid"),
            group=groups.path(identity),
            private_cgroup=wish.cgroup_mode == "private" or (not wish.cgroup_mode and groups.are_unified()),
        )
        if image.machine:
            wish = replace(wish, read_only=True)
            further = (*rootfs.mounted_below(self._private), *rootfs.own_directories(path))
            covered = () if wish.privileged else rootfs.covers(path, (*rootfs.SECRET, *self._private))
            place = replace(place, covered=covered, further=further)
        user = _user(root, wish.user, wish.groups)
        devices = rootfs.all_devices() if wish.privileged else tuple(map(rootfs.node, wish.devices))
        limited = replace(wish, limits=oci.with_swap(wish.limits))
        shape = oci.spec(limited, place, user, self.available, devices)
        (directory / "config.json").write_bytes(_encoder.encode(shape))

    def _hostname(self, sandbox: SandboxView) -> str:
        """The name that a container has for itself: that of whose namespace it is in."""
        record = sandbox.sandbox
        if record.netns == HOST:
            return record.hostname or os.uname().nodename
        owner = self._written.directory.owner(record.netns) or record
        return record.hostname or owner.hostname or owner.id[:12]

    def files(self, directory: Path, sandbox: SandboxView) -> Files:
        """The files about names; who shares the host's namespace has copies of the host's."""
        if sandbox.sandbox.netns != HOST:
            files = self._written.files(sandbox.sandbox.netns)
            paths = (files.resolv_conf, files.hosts, files.hostname)
            return tuple((name, path) for name, path in zip(_ABOUT_NAMES, paths, strict=True) if path)
        found = []
        for name in _ABOUT_NAMES:
            copy = directory / Path(name).name
            with suppress(OSError):
                if not copy.exists():
                    copy.write_bytes(Path(name).read_bytes())
                found.append((name, str(copy)))
        return tuple(found)


def write_process(directory: Path, path: Path, wish: ExecWish) -> None:
    """Write to *path* how a program is to run beside that of the container in *directory*, of which it has the rest.

    Raises:
        InvalidRequest: there is no such user.
    """
    own = msgspec.json.decode((directory / "config.json").read_bytes())["process"]
    user = oci.User(own["user"]["uid"], own["user"]["gid"], tuple(own["user"]["additionalGids"]))
    if wish.user:
        user = _user(Rootfs(directory), wish.user, ())
    environment = oci.variables((*own["env"], *wish.environment))
    if wish.tty:
        environment.setdefault("TERM", "xterm")
    held = _available() if wish.privileged else own["capabilities"]["bounding"]
    words = [f"{key}={value}" for key, value in environment.items()]
    shape = oci.process(wish.words, words, wish.directory or own["cwd"], user, sorted(held))
    shape |= {"terminal": wish.tty, "noNewPrivileges": own["noNewPrivileges"], "rlimits": own["rlimits"]}
    path.write_bytes(_encoder.encode(shape))


def _user(root: Rootfs, text: str, further: tuple[str, ...]) -> oci.User:
    return oci.user_of(text, further, root.read("/etc/passwd"), root.read("/etc/group"))


def _have_source(path: str, *, made: bool) -> None:
    """Refuse to mount what is not there, or make a directory of it."""
    if Path(path).exists():
        return
    if not made:
        raise InvalidRequest(f'invalid mount config for type "bind": bind source path does not exist: {path}')
    Path(path).mkdir(mode=0o755, parents=True)


def _has_parent(root: str, target: str) -> bool:
    """Whether something can be mounted there: in a root that cannot be written, no directory is made for it."""
    return Path(f"{root}{target}").parent.is_dir()


def _available() -> frozenset[str]:
    """What this process could let others do; who runs us may have kept something from us."""
    bits = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
    return frozenset(name for number, name in enumerate(oci.ALL_CAPABILITIES) if bits >> number & 1)
