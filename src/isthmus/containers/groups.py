"""The control groups of containers: one in each hierarchy that is there, of version 1 or 2, made by the runtime.

The runtime removes them, too, but for outer ones and for what a start that failed leaves (crun 1.8 does): that is done
here.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def are_unified(root: Path = ROOT) -> bool:
    """Whether this machine has control groups of version 2 alone."""
    return (root / "cgroup.controllers").exists()


def path(identity: str, root: Path = ROOT) -> str:
    """Where a container's group is in each hierarchy.

    Of version 2 it is within another of ours. Where nobody delegated them, systemd takes controllers that none of its
    units wants from all groups right below the root, and limits go with them; the kernel refuses that (EBUSY) where
    such a group hands them on to one within it (kernel/cgroup/cgroup.c, cgroup_subtree_control_write).
    """
    return f"/{_name(identity)}{'/container' if are_unified(root) else ''}"


def has(identity: str, pid: int) -> bool:
    """Whether a process is one of this container; OSError if it has ended."""
    return _name(identity) in Path(f"/proc/{pid}/cgroup").read_text()


def is_frozen(identity: str, root: Path = ROOT) -> bool:
    """Whether all processes of a container stand still."""
    with suppress(OSError):
        return (root / "freezer" / _name(identity) / "freezer.state").read_text().strip() == "FROZEN"
    with suppress(OSError):
        return "frozen 1" in (root / path(identity, root)[1:] / "cgroup.events").read_text()
    return False


def remove(identity: str, root: Path = ROOT) -> None:
    """Remove what is left of a container's groups, unless there are processes in one."""
    for place in _places(identity, root):
        # The kernel's own files go with a group; what is within it are groups.
        for inner in sorted(place.glob("**/"), reverse=True):
            with suppress(OSError):
                inner.rmdir()


def _name(identity: str) -> str:
    return f"isthmus-{identity}"


def _places(identity: str, root: Path) -> Iterator[Path]:
    with suppress(OSError):
        for parent in (root, *root.iterdir()):
            if (place := parent / _name(identity)).is_dir():
                yield place
