"""What has to be on the disk before something else says that it is there, or a power failure leaves only what says so.

A file system may bring a name to the disk before what is in the file, and one directory before another. Every function
raises the OSError that the kernel's refusal is: then it is unknown what is on the disk.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of *directory*, for `flush`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def flush(descriptor: int) -> None:
    """Have on the disk whatever was written to the file system of *descriptor*, by anybody.

    What could not be written since *descriptor* was opened is raised, too: open it before you write. For thousands of
    small files this takes a hundredth of the time that a flush of each takes, and less even where others write a lot.
    """
    if _LIBC.syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def settle(directory: Path) -> None:
    """Have on the disk which names there are in *directory*."""
    with opened(directory) as descriptor:
        os.fsync(descriptor)


def replace(path: Path, content: bytes, fresh: Path) -> None:
    """Have *content*, and nothing else, in the file *path*, also on the disk; *fresh* is where it lies until then."""
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    settle(path.parent)
