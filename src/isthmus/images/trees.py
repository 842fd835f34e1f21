"""Removing what archives and programs left, however deep it is nested."""

import os
import secrets
from itertools import count

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(name: str, parent: int | None = None) -> None:
    """Remove what is at *name*, if anything is; seen from the directory of descriptor *parent* if one is given.

    Raises:
        OSError: something in it cannot be removed.
    """
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        top = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    """Remove what is in directory *top*, one level after the other.

    Each directory's own are moved up to *top* first, so that no depth needs a stack, descriptors, or too long a path.
    """
    fresh = (f"{secrets.token_hex(8)}.{number}" for number in count())
    while found := os.listdir(top):
        for name in found:
            try:
                os.unlink(name, dir_fd=top)
            except (IsADirectoryError, PermissionError):
                place = os.open(name, _DIRECTORY, dir_fd=top)
                try:
                    for inner in os.listdir(place):  # noqa: PTH208 - by its descriptor
                        os.rename(inner, next(fresh), src_dir_fd=place, dst_dir_fd=top)
                finally:
                    os.close(place)
                os.rmdir(name, dir_fd=top)
