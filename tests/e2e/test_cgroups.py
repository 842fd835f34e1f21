"""Containers with control groups of either version, or of both, and by either runtime."""

import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.boxes import Box, box, bring_image, needs_containers
from tests.e2e.hosts import World, until

pytestmark = needs_containers

GROUPS = Path("/sys/fs/cgroup")
UNPACKED = Path(sys.prefix) / "crun"
ONE, TWO, BOTH = "version 1", "version 2", "both versions"
LAYOUTS = {
    ONE: f"sh -c 'mkdir /run/all && mount --rbind {GROUPS} /run/all && mount -t tmpfs tmpfs {GROUPS} && cd /run/all && "
    f"for one in *; do [ $one = unified ] || {{ mkdir {GROUPS}/$one && mount --bind $one {GROUPS}/$one; }}; done'",
    TWO: f"sh -c 'umount --lazy {GROUPS} && mount -t cgroup2 none {GROUPS}'",
    BOTH: "true",
}


def made(world: World, runtime: str, layout: str) -> Box:
    """A host with an image, whose daemon runs containers by *runtime*, where control groups are of that *layout*."""
    if layout != TWO and not ((GROUPS / "freezer").is_dir() and (GROUPS / "unified").is_dir()):
        pytest.skip("this machine has control groups of version 2 alone")
    host = world.host()
    host.run(LAYOUTS[layout])
    here = Box(host.start(config={"default-runtime": runtime}))
    bring_image(here)
    return here


def crun(place: Path) -> str:
    """The path of crun, as it was unpacked, or as it is installed."""
    program = place / "crun"
    if libraries := [*UNPACKED.glob("usr/lib/*-linux-gnu")]:
        program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries[0]} exec {UNPACKED}/usr/bin/crun "$@"\n')
        program.chmod(0o755)
        return str(program)
    if not (installed := shutil.which("crun")):
        pytest.skip("crun was not fetched")
    return installed


def lives(here: Box) -> None:
    """See a container through a life, in which its daemon dies."""
    here.docker("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    here.note()
    groups = Path(f"{here.host.root}{GROUPS}")
    if (groups / "cgroup.controllers").exists():
        # Of a group right below the root systemd could take them away.
        outer = groups / f"isthmus-{here.inspect('web')['Id']}"
        assert (outer / "cgroup.subtree_control").read_text() == (outer / "cgroup.controllers").read_text() != ""
    assert here.docker("exec", "web", "echo", "in") == "in\n"
    assert "sleep 1000" in here.docker("top", "web")
    here.docker("pause", "web")
    here.host.restart(signal.SIGKILL)
    assert here.state("web") == "paused"
    here.docker("unpause", "web")
    here.docker("stop", "-t", "0", "web")
    here.docker("rm", "web")
    assert here.docker("run", "--rm", "busybox", "echo", "done") == "done\n"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_container_lives_with_control_groups_of(layout: str, world: World) -> None:
    """That its processes are its own is seen by its group, wherever that is."""
    here = made(world, "runc", layout)
    with box(here.host):
        lives(here)
        until(lambda: here.leftovers() == [], f"there is left: {here.leftovers()}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_crun_runs_it_or_leaves_nothing(layout: str, world: World, tmp_path: Path) -> None:
    """Debian 12's crun refuses both versions at once, and wants a capability for version 2 that not every root has."""
    here = made(world, crun(tmp_path), layout)
    with box(here.host):
        tried = here.attempt("run", "--name", "first", "busybox", "true")
        here.note()
        here.docker("rm", "first")
        if tried.returncode == 0:
            lives(here)
        else:
            assert layout != ONE, tried.stderr
            assert "OCI runtime create failed" in tried.stderr
        until(lambda: here.leftovers() == [], f"there is left: {here.leftovers()}")
