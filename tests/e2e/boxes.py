"""A host that runs containers, driven by the stock docker client; at the end nothing of them is left."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.e2e.hosts import Host, until

DEADLINE = 60
SOCKET = "unix:///run/isthmus/isthmus.sock"


def missing() -> str:
    """What containers need and this machine lacks; "" if it has all."""
    programs = {"docker": "the docker client", "runc": "runc", "conmon": "conmon", "busybox": "busybox-static"}
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return ", ".join(what for program, what in programs.items() if shutil.which(program, path=path) is None)


def _may_not() -> bool:
    """Whether control groups cannot be had: by an ordinary user, or in a user namespace."""
    whole = " ".join(Path("/proc/self/uid_map").read_text().split()) == "0 0 4294967295"
    return os.geteuid() != 0 or not whole or not any(Path("/sys/fs/cgroup").iterdir())


needs_containers = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}"),
    pytest.mark.skipif(_may_not(), reason="needs root of the machine, who may make control groups"),
]


class Served(Protocol):
    """A place with a daemon, which has logged what *log* is; in *directory* it sees the same as we do."""

    directory: Path

    @property
    def log(self) -> str: ...  # noqa: D102 - see above
    def within(self, command: str) -> list[str]: ...  # noqa: D102 - the words by which that command runs there


class Client:
    """The stock docker client, at a place with a daemon."""

    def __init__(self, place: Served) -> None:
        self.place = place

    def command(self, *arguments: str) -> list[str]:
        """The words that run the client."""
        config = self.place.directory / "client"
        words = ["docker", "--config", str(config), "-H", SOCKET, *arguments]
        return [*self.place.within("true")[:-1], *words]

    def attempt(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the client, whatever comes of it."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    def docker(self, *arguments: str, stdin: str | None = None, code: int = 0) -> str:
        """What the client prints; it must end with *code*."""
        done = self.attempt(*arguments, stdin=stdin)
        assert done.returncode == code, (arguments, done, self.place.log[-2000:])
        return done.stdout

    def refused(self, *arguments: str, code: int = 1) -> str:
        """What the client complains of."""
        done = self.attempt(*arguments)
        assert done.returncode == code, (arguments, done)
        return done.stderr

    def inspect(self, name: str) -> Any:  # noqa: ANN401 - JSON may be anything
        """All about a container."""
        return json.loads(self.docker("container", "inspect", name))[0]

    def pid(self, name: str) -> int:
        """The process ID of a container's program."""
        return int(self.inspect(name)["State"]["Pid"])

    def state(self, name: str) -> str:
        """How a container is."""
        return str(self.inspect(name)["State"]["Status"])

    def becomes(self, name: str, state: str) -> None:
        """Wait until a container is so."""
        until(lambda: self.state(name) == state, f"{name} never is {state}: {self.attempt('ps', '-a').stdout}")

    def until_logged(self, name: str, text: str) -> None:
        """Wait until a container wrote *text*."""
        until(lambda: text in self.attempt("logs", name).stdout, f"{name} never wrote {text}")

    def clear(self) -> None:
        """Remove all containers, and all networks that users made."""
        if names := self.docker("ps", "-aq", "--no-trunc").split():
            self.docker("rm", "-f", *names)
        self.docker("network", "prune", "-f")


class Box(Client):
    """A *host* with its daemon, and the docker client that talks to it."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.host = host

    def leftovers(self) -> list[str]:
        """All that a container could have left: mounts, control groups, monitors, files, namespaces, states."""
        data = Path(f"{self.host.root}{self.host.data}")
        ids = [place.name for place in (data / "containers").iterdir()] if (data / "containers").exists() else []
        found = [f"directory {one}" for one in ids]
        found += [f"exit {place.name}" for place in (data / "exits").iterdir()]
        mounts = self.host.run("cat /proc/self/mounts")
        found += [line for line in mounts.splitlines() if f"{self.host.data}/" in line]
        found += [f"state {name}" for name in self.host.run("ls /run/isthmus/runtime").split()]
        found += [f"namespace {name}" for name in self.host.run("ls /run/isthmus/netns").split()]
        found += [f"process {pid}" for pid in monitors(self.host.data)]
        return found + [f"group {place}" for place in groups(self.known)]

    known: set[str] = set()  # noqa: RUF012 - of the whole run, for no two containers have one ID

    def note(self) -> None:
        """Remember the IDs of the containers that there are, to look for what they leave."""
        self.known.update(self.docker("ps", "-aq", "--no-trunc").split())


def monitors(data: Path) -> list[int]:
    """The process IDs of the monitors of containers below *data*."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"conmon") and str(data / "exits").encode() in words:
                    found.append(int(place.name))
    return found


def groups(ids: Sequence[str] | set[str]) -> list[str]:
    """The control groups of containers with these IDs."""
    top = Path("/sys/fs/cgroup")
    places = [top, *top.iterdir()]
    return [str(place / f"isthmus-{one}") for place in places for one in ids if (place / f"isthmus-{one}").exists()]


@contextmanager
def box(host: Host) -> Iterator[Box]:
    """*Host* with containers; in the end its daemon is killed, if there is one, and so are they."""
    made = Box(host)
    try:
        yield made
    finally:
        # First the daemon, which would start again what has a restart policy.
        host.kill()
        until(lambda: _is_cleared(host), "a monitor does not end")


def _is_cleared(host: Host) -> bool:
    """Kill the containers that the runtime knows; whether no monitor is left, which may be about to make one."""
    runtime = shutil.which("runc") or shutil.which("runc", path="/usr/sbin:/sbin")
    for name in host.attempt("ls /run/isthmus/runtime").stdout.split():
        host.attempt(f"{runtime} --root /run/isthmus/runtime delete --force {name}")
    return not monitors(host.data)


def bring_image(made: Client, name: str = "busybox") -> None:
    """Have an image of busybox, by `docker import`."""
    tree = rootfs(made.place.directory / "rootfs")
    packed = made.place.directory / "rootfs.tar"
    subprocess.run(["tar", "-C", str(tree), "-cf", str(packed), "."], check=True)
    made.docker("import", "-c", 'CMD ["sh"]', str(packed), name)


def rootfs(place: Path) -> Path:
    """A root file system of busybox at *place*, as a directory."""
    busybox = shutil.which("busybox")
    assert busybox
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root", "var", "www"):
        (place / name).mkdir(parents=True)
    (place / "tmp").chmod(0o1777)
    shutil.copy(busybox, place / "bin" / "busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (place / "bin" / name).symlink_to("busybox")
    (place / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    (place / "etc" / "group").write_text("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
    (place / "www" / "index.html").write_text("it works\n")
    return place
