"""Running a program in a sandbox, as `ip netns exec` does: in its network namespace, with a view of files that fits it.

The program replaces this one. It gets a mount namespace of its own, from which no mount spreads to the host, with a
/sys that shows the sandbox's interfaces. Over the files of /etc it has the daemon's about names, and over these those
of /etc/netns/NAME. There is no way back, and no need for one: unlike the daemon's threads, this process only wants to
become the program.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from isthmus.errors import IsthmusError

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_RDONLY, _MS_BIND, _MS_REC, _MS_SLAVE = 0x1, 0x1000, 0x4000, 0x80000
_MNT_DETACH = 2


def execute(name: str, netns_path: str, command: Sequence[str], over: Mapping[str, str]) -> int:
    """Become *command* in the namespace at *netns_path* ("" for the present one) of the sandbox *name*.

    *Over* has for files of the host's those that it sees instead; "" leaves one as it is.

    Returns only if there is no such program (127) or it cannot be run (126), as a shell does; IsthmusError if the
    sandbox cannot be entered.
    """
    try:
        if netns_path:
            descriptor = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
            _call("setns", descriptor, _CLONE_NEWNET)
            os.close(descriptor)
        _arrange_files(name, over)
    except PermissionError as error:
        raise IsthmusError(f"entering the sandbox {name} needs root ({error.strerror}): use sudo") from error
    except OSError as error:
        raise IsthmusError(f"cannot enter the sandbox {name} at {netns_path}: {error.strerror}") from error
    return _become(command)


def _become(command: Sequence[str]) -> int:
    # Python ignores these two, and what is ignored stays so in the program that replaces it.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - no shell is what we want
    except (FileNotFoundError, NotADirectoryError):
        print(f"isthmus: {command[0]}: command not found", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"isthmus: {command[0]}: {error.strerror}", file=sys.stderr)
        return 126


def _arrange_files(name: str, over: Mapping[str, str]) -> None:
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_SLAVE | _MS_REC, None)
    read_only = os.statvfs("/sys").f_flag & os.ST_RDONLY if Path("/sys/kernel").exists() else 0
    _libc().umount2(b"/sys", _MNT_DETACH)  # where nothing is mounted there, that is as well
    _call("mount", os.fsencode(name), b"/sys", b"sysfs", _MS_RDONLY if read_only else 0, None)
    for target, source in over.items():
        if source and Path(target).exists():
            _cover(target, source)
    for file in sorted(Path("/etc/netns", name).glob("*")):
        _cover(f"/etc/{file.name}", str(file))


def _cover(target: str, source: str) -> None:
    """Have *source* seen at *target*."""
    try:
        _call("mount", os.fsencode(source), os.fsencode(target), b"none", _MS_BIND | _MS_REC, None)
    except OSError as error:
        print(f"WARNING: cannot put {source} over {target}: {error.strerror}", file=sys.stderr)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: bytes | int | None) -> None:
    """Call a *function* of the C library; OSError if it fails."""
    if getattr(_libc(), function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
