"""What happens in a directory, or to a file, as inotify(7) tells it."""

import ctypes
import os
from struct import Struct

MODIFIED, MOVED_IN, DELETED = 0x2, 0x80, 0x200
_EVENT = Struct("@iIII")  # struct inotify_event: watch, what happened, cookie, length of the name that follows
_LIBC = ctypes.CDLL(None, use_errno=True)


class Watch:
    """The names in *path* to which something of a *mask* happened.

    `fileno` becomes readable when something did; `read` never waits.

    Raises:
        OSError: it cannot be watched.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, path: str, mask: int) -> None:
        self._descriptor: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or _LIBC.inotify_add_watch(self._descriptor, os.fsencode(path), mask) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), path)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._descriptor

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> tuple[str, ...]:
        """Return the names since the last time, each as often as something happened; "" for what is watched itself."""
        names: list[str] = []
        while True:
            try:
                events = os.read(self._descriptor, 64 << 10)
            except BlockingIOError:
                return tuple(names)
            offset = 0
            while offset < len(events):
                size = _EVENT.unpack_from(events, offset)[3]
                offset += _EVENT.size
                names.append(os.fsdecode(events[offset : offset + size].rstrip(b"\0")))
                offset += size
