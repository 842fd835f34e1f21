"""What people ask of a container, and what is kept about it.

A container is a sandbox with a program in it. What its user asked for is kept as he wrote it (`Record.asked`, Docker's
JSON), and parsed anew when it starts: so what `inspect` shows and what is run cannot differ. Whether it runs is asked
of the kernel, and how it ended is read from the file that its monitor left.
"""

from collections.abc import Mapping

import msgspec

from isthmus.model import Pairs
from isthmus.requests import SandboxRequest
from isthmus.views import SandboxView


class Mount(msgspec.Struct, frozen=True):
    """What is to be seen at *target* in a container: the *source* of the host ("bind"), or memory ("tmpfs").

    *Made* means that the source is made, as a directory, if it is not there.
    """

    kind: str
    source: str
    target: str
    options: tuple[str, ...] = ()
    made: bool = False


class Device(msgspec.Struct, frozen=True):
    """A device of the host at *path*, to be at *target*; *access* is of r, w and m."""

    path: str
    target: str
    access: str = "rwm"


class Limits(msgspec.Struct, frozen=True):
    """What a container may use. Sizes are in bytes, *quota* and *period* in microseconds; 0 and "" set no limit."""

    memory: int = 0
    swap: int = 0
    reservation: int = 0
    shares: int = 0
    quota: int = 0
    period: int = 0
    cpus: str = ""
    mems: str = ""
    pids: int = 0


class Restart(msgspec.Struct, frozen=True):
    """When a container that ended starts again: *name* is "no", "always", "unless-stopped" or "on-failure".

    With the latter it does so *most* times at most; 0 sets no limit.
    """

    name: str = "no"
    most: int = 0


class Wish(msgspec.Struct, frozen=True):
    """How a program is to run, by what its user asked for and its image says.

    *Environment* is a list of NAME=VALUE. *Stop_timeout* is in seconds. *Hidden* are paths that show nothing, *frozen*
    those that cannot be written; None stands for Docker's.
    """

    image: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    directory: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = ""
    stop_timeout: int | None = None
    remove: bool = False
    restart: Restart = Restart()
    capabilities_added: tuple[str, ...] = ()
    capabilities_dropped: tuple[str, ...] = ()
    privileged: bool = False
    read_only: bool = False
    new_privileges: bool = True
    seccomp: bool = True
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    limits: Limits = Limits()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm_size: int = 64 << 20
    oom_score: int = 0
    pid_mode: str = ""
    ipc_mode: str = ""
    uts_mode: str = ""
    cgroup_mode: str = ""
    hidden: tuple[str, ...] | None = None
    frozen: tuple[str, ...] | None = None
    annotations: Pairs = ()
    sysctls: Pairs = ()
    logged: bool = True
    log_size: int = 0


class Record(msgspec.Struct, frozen=True):
    """A container as it is kept. Times are nanoseconds since the epoch, 0 for never.

    *Asked* is the body of the request that made it, with the networks that it was put on since. *Image* is the ID of
    the image. *Wanted* means that it shall run; *started* is when it last came to run, *ended* when it last was over,
    with this *code* and *error*. *Stopped* tells that its user stopped it. *Restarts* counts what the restart policy
    did since the user last started it.
    """

    id: str
    name: str
    created: int
    asked: str
    image: str = ""
    wanted: bool = False
    started: int = 0
    ended: int = 0
    code: int = 0
    error: str = ""
    stopped: bool = False
    restarts: int = 0
    removing: bool = False

    @property
    def running(self) -> bool:
        """Whether it runs, as far as is known here."""
        return self.wanted and self.started > self.ended


class Found(msgspec.Struct, frozen=True):
    """An image: its ID, its layers' directories with the lowest first, and what it says of programs, as JSON has it.

    *Machine* means that it is this machine's own root; then there are no layers.
    """

    id: str
    layers: tuple[str, ...] = ()
    config: Mapping[str, object] = msgspec.field(default_factory=dict)
    machine: bool = False


class Asked(msgspec.Struct, frozen=True):
    """What a record's `asked` means: how to run what, in which sandbox."""

    wish: Wish
    sandbox: SandboxRequest


class View(msgspec.Struct, frozen=True):
    """A container, as those are told who ask: *sandbox* is there while it runs."""

    record: Record
    asked: Asked
    state: str
    pid: int
    sandbox: SandboxView | None
    executions: tuple[str, ...]
    directory: str
    files: tuple[tuple[str, str], ...]


class ExecWish(msgspec.Struct, frozen=True):
    """A program that is to run in a container beside its own; see `Wish` for the fields.

    *Stdin*, *stdout* and *stderr* are what its user wants to be attached to.
    """

    words: tuple[str, ...]
    environment: tuple[str, ...] = ()
    directory: str = ""
    user: str = ""
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    privileged: bool = False
    detach_keys: str = ""


class ExecView(msgspec.Struct, frozen=True):
    """A program beside a container's own, as those are told who ask; *code* is None and *pid* 0 if it has none."""

    id: str
    container: str
    wish: ExecWish
    started: bool
    code: int | None
    pid: int
