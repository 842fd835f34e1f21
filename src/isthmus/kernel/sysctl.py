"""Kernel parameters of the namespace that the calling thread is in.

A key is a path below `/proc/sys` ("net/ipv4/ip_forward"), as the kernel has it: names of links may have dots in them,
so the dotted form of sysctl(8) is ambiguous. `/proc/sys/net` shows each thread its own namespace, whoever mounted
`/proc`.
"""

import os
from collections.abc import Mapping

_ROOT = "/proc/sys/"


def read(key: str) -> str:
    """Return the value of *key*, without its newline; raises FileNotFoundError if this kernel or namespace has none."""
    descriptor = os.open(_ROOT + key, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("ascii").rstrip("\n")
    finally:
        os.close(descriptor)


def write(key: str, value: str) -> None:
    """Set *key* to *value*; raises FileNotFoundError if there is none, OSError as the kernel refuses."""
    descriptor = os.open(_ROOT + key, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode("ascii"))
    finally:
        os.close(descriptor)


def write_all(values: Mapping[str, str]) -> None:
    """Set each key to its value, in order."""
    for key, value in values.items():
        write(key, value)
