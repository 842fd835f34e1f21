"""The daemon as a service of systemd, which is the first process of a namespace and rules the control groups there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.containers import groups
from tests.e2e.boxes import Client, bring_image, needs_containers
from tests.e2e.hosts import PROGRAM, Place, until

pytestmark = needs_containers

UNIT = Path(__file__).parents[2] / "packaging" / "isthmus.service"
UNPACKED = Path(sys.prefix) / "systemd" / "usr"
USR = next((usr for usr in (Path("/usr"), UNPACKED) if (usr / "lib/systemd/systemd").exists()), None)
NAME = f"test-{os.getpid()}"  # of the control groups, as if they were a container's
CONTROLLERS = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}


def hierarchies() -> Iterator[tuple[Path, str, str]]:
    """Where control groups are mounted, their file system, and the option that names this hierarchy."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind in {"cgroup", "cgroup2"}:
            named = [one for one in options.split(",") if one in CONTROLLERS or one.startswith("name=")]
            yield Path(place), kind, ",".join(named) if not named or named[0] in CONTROLLERS else f"none,{named[0]}"


class Booted(Place):
    """systemd with the unit of the daemon and hardly another, on this machine's root file system.

    It cannot write to that, but for *directory*, which is the same for it and for us. It has namespaces of its own of
    every kind, and its control groups are below one of ours.
    """

    def __init__(self, directory: Path) -> None:
        assert USR is not None
        self.directory = directory
        directory.mkdir()
        self._console = (directory / "console").open("w")
        self._tops = [place / f"isthmus-{NAME}" for place, _, _ in hierarchies()]
        script = directory / "boot"
        script.write_text("\n".join(self._script(USR)))
        self._anchor = subprocess.Popen(["sh", script], stdout=self._console, stderr=self._console)
        try:
            self.pid = until(self._first, "systemd does not come up")
            super().__init__("systemd", f"/proc/{self.pid}/ns/net")
            until(lambda: "running" in self.attempt("systemctl is-system-running").stdout, "systemd is never done")
        except BaseException as error:
            error.add_note(self.log)
            self._end()
            raise

    def _script(self, usr: Path) -> Iterator[str]:
        yield "set -e"
        for top in self._tops:
            yield f"mkdir {top}"
            # A group of this kind takes nobody before it is told of its processors and its memory.
            for file in ("cpuset.cpus", "cpuset.mems"):
                yield f"[ ! -e {top}/{file} ] || cat {top.parent}/{file} > {top}/{file}"
            yield f"echo $$ > {top}/cgroup.procs"
        inner = self.directory / "init"
        inner.write_text("\n".join(self._init(usr)))
        yield f"exec unshare --cgroup --pid --fork --kill-child --mount --net --uts --ipc sh {inner}"

    def _init(self, usr: Path) -> Iterator[str]:
        yield "set -e"
        yield "mount --make-rprivate /"
        # systemd writes to what it finds there.
        yield "mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup"
        for place, kind, options in hierarchies():
            yield f"mkdir -p {place} && mount -t {kind} {options and f'-o {options}'} {kind} {place}"
        yield "mount -t proc proc /proc"
        yield "mount --bind /dev/null /dev/console"
        yield "ip link set lo up"
        yield f"mount --bind {self.directory} {self.directory}"
        yield "mount -t tmpfs -o mode=755 tmpfs /run"
        yield "mkdir /run/units /run/netns && cp -a /etc /run/etc"
        if usr != Path("/usr"):
            yield f"mount -t overlay -o lowerdir={usr}:/usr overlay /usr"
        yield "mount -o remount,bind,ro /"
        yield "mount -t tmpfs -o mode=755 tmpfs /var/lib"
        yield "mount --bind /run/etc /etc"
        yield "echo 00000000000000000000000000000001 > /etc/machine-id"
        for target in ("default", "sysinit", "basic", "shutdown"):
            yield f"printf '[Unit]\\nDefaultDependencies=no\\n' > /run/units/{target}.target"
        yield f"sed 's|/usr/bin/isthmus|{PROGRAM}|' {UNIT} > /run/units/isthmus.service"
        yield "mkdir /run/units/isthmus.service.d"
        log = self.directory / "log"
        yield f"printf '[Service]\\nStandardOutput=append:{log}\\n' > /run/units/isthmus.service.d/log.conf"
        own = (
            "SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none"
        )
        yield f"exec env -i container=test PATH={os.environ['PATH']} {own} /lib/systemd/systemd --log-target=console"

    def _first(self) -> int:
        """The process ID, in our numbers, of systemd, when it has come to be that."""
        assert self._anchor.poll() is None, self.log
        children = Path(f"/proc/{self._anchor.pid}/task/{self._anchor.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text() != "systemd\n":
            return 0
        # Who stands in a group of version 2 keeps it from handing controllers on.
        for top in self._tops:
            (top.parent / "cgroup.procs").write_text(str(self._anchor.pid))
        return int(children[0])

    @property
    def log(self) -> str:
        """All that systemd and the daemon have said."""
        return "\n".join(one.read_text() for name in ("console", "log") if (one := self.directory / name).exists())

    def within(self, command: str) -> list[str]:
        """The words by which *command* runs here."""
        return ["nsenter", f"--target={self.pid}", "--all", *super().within(command)[2:]]

    def ours(self) -> list[Path]:
        """The control groups here that are not systemd's, but ours."""
        return sorted(one for top in self._tops for one in top.glob("isthmus-*/**/"))

    def close(self) -> None:
        """End systemd and all that it began, and remove its control groups."""
        super().close()
        self._end()

    def _end(self) -> None:
        self._anchor.kill()
        self._anchor.wait()
        self._console.close()
        until(self._left, "control groups are left")

    def _left(self) -> bool:
        """Whether its control groups are gone, now that its processes go."""
        groups.remove(NAME)
        return not any(top.exists() for top in self._tops)


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booted]:
    """A systemd."""
    if USR is None:
        pytest.skip("systemd is neither installed nor fetched")
    if groups.are_unified() and "cpu" not in (groups.ROOT / "cgroup.subtree_control").read_text():
        pytest.skip("the root of this machine's control groups hands no processors on")
    made = Booted(tmp_path / "booted")
    yield made
    made.close()


def test_containers_of_a_service_keep_their_limits(booted: Booted) -> None:
    """Whatever systemd does with its units and its groups, those of containers are not its own."""
    here = Client(booted)
    assert booted.run("systemctl start isthmus") == ""
    bring_image(here)
    here.docker("run", "-d", "--name", "web", "--restart", "always", "--cpus", "0.5", "busybox", "sleep", "1000")
    pid = here.pid("web")
    stands = booted.run(f"cat /proc/{pid}/cgroup")
    assert f"/isthmus-{here.inspect('web')['Id']}" in stands
    files = [place / name for place in booted.ours() for name in ("cpu.cfs_quota_us", "cpu.max")]
    limit = next(file for file in reversed(files) if file.exists())

    def is_kept() -> None:
        assert booted.run(f"cat /proc/{pid}/cgroup") == stands
        assert limit.read_text().split()[0] == "50000"

    def weigh() -> None:
        """Have systemd take up a controller that none of its units wanted, and let it go again."""
        for weight in ("200", ""):
            booted.run(f"systemctl set-property --runtime -- system.slice CPUWeight={weight}")
            is_kept()

    is_kept()
    weigh()
    for action in ("restart isthmus", "daemon-reload", "daemon-reexec", "kill --kill-who=main -s KILL isthmus"):
        booted.run(f"systemctl {action}")
        until(lambda: here.attempt("ps").returncode == 0, booted.log)
        assert here.pid("web") == pid
        assert here.docker("exec", "web", "echo", "in") == "in\n"
        is_kept()
    booted.run("systemctl stop isthmus")
    weigh()
    booted.run("systemctl start isthmus")
    assert here.pid("web") == pid
    here.docker("rm", "-f", "web")
    assert booted.ours() == []
