"""What an OCI runtime is told about a container: the `config.json` of its bundle (OCI runtime-spec 1.0). Pure.

Mounts, devices, masked paths, capabilities and defaults are Docker's (moby 29, `daemon/pkg/oci/defaults.go`).
"""

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from isthmus.containers import seccomp
from isthmus.containers.model import Device, Limits, Mount, Wish
from isthmus.errors import InvalidRequest

Shape = dict[str, object]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a container looks for programs if its image does not say."""

HIDDEN = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
FROZEN = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_CAPABILITIES = """
AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
SYS_CHROOT
"""
_ALL_CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""

CAPABILITIES = tuple(f"CAP_{word}" for word in _CAPABILITIES.split())
"""What a container may do unless it is told otherwise."""

ALL_CAPABILITIES = tuple(f"CAP_{word}" for word in _ALL_CAPABILITIES.split())
"""All that there are, in the kernel's order (include/uapi/linux/capability.h)."""

_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""Every user of a container may serve any port and send pings, as since Docker 20.10."""

_BOUND = ("rbind", "rprivate")
_DEVICES = (("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8), ("c", 1, 9), ("c", 5, 0), ("c", 5, 1), ("c", 5, 2))
_MODES = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}


class User(NamedTuple):
    """Whom a program runs as, in numbers, with a *home* directory."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


class DeviceNode(msgspec.Struct, frozen=True):
    """What the host has at a device's path: its *kind* ("c" or "b"), numbers and owner."""

    device: Device
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


class Place(msgspec.Struct, frozen=True):
    """Where a container is to run: facts of its sandbox, of its root file system, and of this machine.

    *Netns* is the path of its network namespace, "" for the host's. *Files* are paths of the host's, by where they are
    to be seen. *Group* is the path of its control groups, and *private_cgroup* tells whether it shall see none but
    these. *Covered* are further paths that show nothing, and *further* are mounts besides those that every container
    has.
    """

    id: str
    root: str
    machine: str
    netns: str = ""
    hostname: str = ""
    domainname: str = ""
    files: tuple[tuple[str, str], ...] = ()
    pid_namespace: str = ""
    ipc_namespace: str = ""
    shm: str = ""
    group: str = ""
    private_cgroup: bool = False
    covered: tuple[str, ...] = ()
    further: tuple[Mount, ...] = ()


def arguments(wish: Wish) -> tuple[str, ...]:
    """The program and its arguments.

    Raises:
        InvalidRequest: there are none.
    """
    words = (*wish.entrypoint, *wish.command)
    if not words:
        raise InvalidRequest("no command specified")
    return words


def environment(wish: Wish, user: User, hostname: str) -> tuple[str, ...]:
    """The environment of a program: Docker's own, then what was asked for, each name once.

    A name without a value takes one away.
    """
    own = (f"PATH={PATH}", f"HOSTNAME={hostname}", *(("TERM=xterm",) if wish.tty else ()))
    values = variables((*own, *wish.environment))
    values.setdefault("HOME", user.home)
    return tuple(f"{name}={value}" for name, value in values.items())


def variables(words: Iterable[str]) -> dict[str, str]:
    """The variables that *words* make, one after the other; a name without a value takes one away."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            values[name] = value
        else:
            values.pop(name, None)
    return values


def capabilities(wish: Wish, available: Collection[str] = ALL_CAPABILITIES) -> tuple[str, ...]:
    """What the container may do, sorted; all that are *available* if it may do everything.

    Raises:
        InvalidRequest: there is no capability of a name that was given.
    """
    if wish.privileged:
        return tuple(sorted(available))
    held = set(CAPABILITIES)
    added, dropped = _named(wish.capabilities_added), _named(wish.capabilities_dropped)
    if "ALL" in dropped:
        held.clear()
    if "ALL" in added:
        held.update(available)
    return tuple(sorted((held - dropped | added) - {"ALL"}))


def _named(words: Iterable[str]) -> set[str]:
    names = {word if (word := text.upper()) == "ALL" else f"CAP_{word.removeprefix('CAP_')}" for text in words}
    for name in names - {"ALL", *ALL_CAPABILITIES}:
        raise InvalidRequest(f'invalid capability: unknown capability: "{name}"')
    return names


def process(words: Iterable[str], env: Iterable[str], directory: str, user: User, held: Iterable[str]) -> Shape:
    """OCI's `process` without its terminal: *words* in a *directory*, with the capabilities *held*.

    Only root keeps them while it starts; another user's program can gain them from its file.
    """
    capabilities = list(held)
    own = capabilities if user.uid == 0 else []
    return {
        "args": list(words),
        "env": list(env),
        "cwd": directory or "/",
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "capabilities": {"bounding": capabilities, "effective": own, "permitted": own},
    }


def spec(
    wish: Wish,
    place: Place,
    user: User,
    available: Collection[str] = ALL_CAPABILITIES,
    devices: Collection[DeviceNode] = (),
) -> Shape:
    """The whole `config.json`.

    Raises:
        InvalidRequest: there is nothing to run, or a capability is unknown.
    """
    held = capabilities(wish, available)
    program = process(
        arguments(wish),
        environment(wish, user, place.hostname),
        wish.directory,
        user,
        held,
    )
    program |= {
        "terminal": wish.tty,
        "noNewPrivileges": not wish.new_privileges,
        "oomScoreAdj": wish.oom_score,
        "rlimits": [
            {"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard} for name, soft, hard in wish.ulimits
        ],
    }
    linux: Shape = {
        "cgroupsPath": place.group,
        "namespaces": list(_namespaces(wish, place)),
        "resources": _resources(wish, devices),
        "sysctl": _sysctls(wish, place),
        "devices": [_node(one) for one in devices],
    }
    if not wish.privileged:
        linux["maskedPaths"] = [*(HIDDEN if wish.hidden is None else wish.hidden), *place.covered]
        linux["readonlyPaths"] = list(FROZEN if wish.frozen is None else wish.frozen)
        if wish.seccomp:
            linux["seccomp"] = seccomp.profile(held, place.machine)
    elif place.covered:
        linux["maskedPaths"] = list(place.covered)
    return {
        "ociVersion": "1.0.2",
        "process": program,
        "root": {"path": place.root, "readonly": wish.read_only},
        **({} if wish.uts_mode == "host" else {"hostname": place.hostname}),
        "mounts": [_mount(one) for one in _mounts(wish, place)],
        "linux": linux,
        "annotations": dict(wish.annotations),
    }


def _namespaces(wish: Wish, place: Place) -> Iterator[Shape]:
    yield {"type": "mount"}
    if place.netns:
        yield {"type": "network", "path": place.netns}
    for kind, mode, path in (
        ("pid", wish.pid_mode, place.pid_namespace),
        ("ipc", wish.ipc_mode, place.ipc_namespace),
        ("uts", wish.uts_mode, ""),
    ):
        if mode != "host":
            yield {"type": kind, "path": path} if path else {"type": kind}
    if place.private_cgroup:
        yield {"type": "cgroup"}


def _sysctls(wish: Wish, place: Place) -> Mapping[str, str]:
    values = dict(_SYSCTLS) if place.netns else {}
    if place.domainname:
        values["kernel.domainname"] = place.domainname
    return values | dict(wish.sysctls)


def _mounts(wish: Wish, place: Place) -> Iterator[Mount]:
    """All mounts, those of outer directories first; a user's takes the place of ours."""
    asked = {posixpath.normpath(one.target): one for one in wish.mounts}
    ours = (*_system_mounts(wish, place), *place.further)
    files = (Mount("bind", path, target, _BOUND) for target, path in place.files)
    chosen = {one.target: one for one in (*ours, *files)} | asked
    # /proc and what is mounted on it come first whatever they are called: a bind mount may lie over a part of them.
    system = {one.target for one in ours}
    order = sorted(chosen, key=lambda target: (target not in system, target.count("/") if target not in system else 0))
    return (chosen[target] for target in order)


def _system_mounts(wish: Wish, place: Place) -> Iterator[Mount]:
    writable = "rw" if wish.privileged else "ro"
    yield Mount("proc", "proc", "/proc", ("nosuid", "noexec", "nodev"))
    yield Mount("tmpfs", "tmpfs", "/dev", ("nosuid", "strictatime", "mode=755", "size=65536k"))
    yield Mount(
        "devpts", "devpts", "/dev/pts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    )
    yield Mount("sysfs", "sysfs", "/sys", ("nosuid", "noexec", "nodev", writable))
    yield Mount("cgroup", "cgroup", "/sys/fs/cgroup", ("nosuid", "noexec", "nodev", "relatime", writable))
    if wish.ipc_mode == "host":
        yield Mount("bind", "/dev/mqueue", "/dev/mqueue", ("rbind",))
        yield Mount("bind", "/dev/shm", "/dev/shm", ("rbind",))  # noqa: S108 - it is the host's that is wanted
        return
    yield Mount("mqueue", "mqueue", "/dev/mqueue", ("nosuid", "noexec", "nodev"))
    if place.shm:
        yield Mount("bind", place.shm, "/dev/shm", ("rbind",))  # noqa: S108 - that of who shares it
        return
    options = ("nosuid", "noexec", "nodev", "mode=1777", f"size={wish.shm_size}")
    yield Mount("tmpfs", "shm", "/dev/shm", options)  # noqa: S108 - inside the container


def _mount(one: Mount) -> Shape:
    options = list(one.options)
    if one.kind == "bind" and not _MODES.intersection(options):
        options.append("rprivate")
    return {"type": one.kind, "source": one.source, "destination": one.target, "options": options}


def _resources(wish: Wish, devices: Iterable[DeviceNode]) -> Shape:
    rules: list[Shape] = [{"allow": wish.privileged, "access": "rwm"}]
    if not wish.privileged:
        rules += [{"allow": True, "type": kind, "access": "m"} for kind in "cb"]
        rules += [_rule(kind, major, minor) for kind, major, minor in _DEVICES]
        rules.append({"allow": True, "type": "c", "major": 136, "access": "rwm"})  # pseudo-terminals
        rules += [_rule(one.kind, one.major, one.minor, one.device.access) for one in devices]
    limits = wish.limits
    memory = {"limit": limits.memory, "swap": limits.swap, "reservation": limits.reservation}
    cpu: dict[str, int | str] = {"shares": limits.shares, "quota": limits.quota, "period": limits.period}
    cpu |= {"cpus": limits.cpus, "mems": limits.mems}
    shape: Shape = {"devices": rules}
    for key, values in (("memory", memory), ("cpu", cpu)):
        if given := {name: value for name, value in values.items() if value}:
            shape[key] = given
    if limits.pids > 0:
        shape["pids"] = {"limit": limits.pids}
    return shape


def _rule(kind: str, major: int, minor: int, access: str = "rwm") -> Shape:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


def _node(one: DeviceNode) -> Shape:
    return {
        "type": one.kind,
        "path": one.device.target,
        "major": one.major,
        "minor": one.minor,
        "fileMode": one.mode,
        "uid": one.uid,
        "gid": one.gid,
    }


def with_swap(limits: Limits) -> Limits:
    """*limits* with Docker's choice for swap where none is given: as much again as there is memory."""
    if limits.memory > 0 and limits.swap == 0:
        return replace(limits, swap=2 * limits.memory)
    return limits


def user_of(text: str, further: Iterable[str], passwd: str, group: str) -> User:
    """Whom *text* (NAME, UID, NAME:GROUP, UID:GID, or "") means, by the texts of /etc/passwd and /etc/group.

    Raises:
        InvalidRequest: there is no such user or group.
    """
    name, _, of_group = text.partition(":")
    users = list(_lines(passwd, 7))
    groups = list(_lines(group, 4))
    found = next((one for one in users if name in {one[0], one[2]} and name), None)
    if found is None and not name:
        found = next((one for one in users if one[2] == "0"), None)
    if found is None and name and not _is_id(name):
        raise InvalidRequest(f"unable to find user {name}: no matching entries in passwd file")
    uid = int(found[2]) if found else int(name or 0)
    gid = int(found[3]) if found else 0
    login = found[0] if found else ""
    member_of: tuple[int, ...] = ()
    if of_group:
        gid = _group_of(of_group, groups)
    else:
        member_of = tuple(int(one[2]) for one in groups if login and login in one[3].split(","))
    more = (_group_of(word, groups) for word in further)
    return User(uid, gid, tuple(dict.fromkeys((*member_of, *more))), (found[5] if found else "") or "/")


def _group_of(text: str, groups: Iterable[list[str]]) -> int:
    for one in groups:
        if text in {one[0], one[2]}:
            return int(one[2])
    if _is_id(text):
        return int(text)
    raise InvalidRequest(f"unable to find group {text}: no matching entries in group file")


def _lines(text: str, fields: int) -> Iterator[list[str]]:
    """The lines of a file such as /etc/passwd that have this many fields and numbers where there must be some."""
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= fields and _is_id(parts[2]) and (fields < 7 or _is_id(parts[3])):
            yield parts


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < 2**31
