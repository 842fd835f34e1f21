"""Mounts, as mount(2) and umount2(2) make and unmake them, and looks into trees that nobody is to be trusted with.

Python has neither; ctypes does for all of them. Every function raises the OSError that the kernel's refusal is.
"""

import ctypes
import errno
import os
from pathlib import Path
from struct import Struct

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 0x20, 0x1000, 0x4000, 0x40000
SHARED, SLAVE = 0x100000, 0x80000
_DETACH, _NO_FOLLOW = 2, 8
_OPENAT2 = 437  # the same on every processor
_HOW = Struct("=QQQ")  # struct open_how: flags, mode, resolve
_IN_ROOT, _NO_MAGIC = 0x10, 0x02
_LIBC = ctypes.CDLL(None, use_errno=True)
_MOST = 1 << 20
_TRIES = 128


def _succeed(failed: int, path: str) -> None:
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def mount(source: str, target: str, kind: str = "none", flags: int = 0, data: str = "") -> None:
    """Mount *source* at *target*."""
    options = os.fsencode(data) if data else None
    _succeed(_LIBC.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options), target)


def unmount(target: str) -> None:
    """Take what is mounted at *target* away, now for those who look there, and for good when nobody uses it."""
    _succeed(_LIBC.umount2(os.fsencode(target), _DETACH | _NO_FOLLOW), target)


def is_mount(path: str) -> bool:
    """Whether something is mounted at *path*, be it a part of the file system that its parent is on."""
    try:
        return _mount_id(path) != _mount_id(f"{path}/..")
    except OSError:
        return False


def _mount_id(path: str) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/thread-self/fdinfo/{descriptor}").read_text().splitlines()
        return next(line for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)


def open_inside(top: int, path: str, flags: int) -> int:
    """Open *path* as a program sees it whose root directory is that of descriptor *top*; links lead nowhere outside."""
    how = _HOW.pack(flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGIC)
    # A `..` in a link is not followed while anything is renamed or mounted anywhere: then the kernel has us try again.
    number = errno.EAGAIN
    for _ in range(_TRIES):
        descriptor: int = _LIBC.syscall(_OPENAT2, top, os.fsencode(path), how, len(how))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def read_inside(root: str, path: str, most: int = _MOST) -> bytes:
    """The first *most* bytes of the file at *path*, as a program sees it whose root directory is *root*."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_inside(top, path, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.close(top)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)
