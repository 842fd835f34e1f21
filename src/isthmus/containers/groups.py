"""The control groups of containers: one in each hierarchy that is there, of version 1 or 2, made by the runtime."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from isthmus.containers.model import group

ROOT = Path("/sys/fs/cgroup")


def are_unified(root: Path = ROOT) -> bool:
    """Whether this machine has control groups of version 2 alone."""
    return (root / "cgroup.controllers").exists()


def has(identity: str, pid: int) -> bool:
    """Whether a process is one of this container; OSError if it has ended."""
    return group(identity) in Path(f"/proc/{pid}/cgroup").read_text()


def is_frozen(identity: str, root: Path = ROOT) -> bool:
    """Whether all processes of a container stand still."""
    with suppress(OSError):
        return (root / "freezer" / group(identity) / "freezer.state").read_text().strip() == "FROZEN"
    with suppress(OSError):
        return "frozen 1" in (root / group(identity) / "cgroup.events").read_text()
    return False


def remove(identity: str, root: Path = ROOT) -> None:
    """Remove what is left of a container's groups, unless there are processes in one.

    A runtime that fails at a start may leave them (crun 1.8 does), and knows no container then that it could delete.
    """
    for place in _places(identity, root):
        # The kernel's own files go with a group; what is within it are groups.
        for inner in sorted(place.glob("**/"), reverse=True):
            with suppress(OSError):
                inner.rmdir()


def _places(identity: str, root: Path) -> Iterator[Path]:
    with suppress(OSError):
        for parent in (root, *root.iterdir()):
            if (place := parent / group(identity)).is_dir():
                yield place
