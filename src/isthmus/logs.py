"""Where the daemon's log goes: to standard error, a line for each thing said, written by a thread of its own.

What is logged on the way of a request is put into a queue as it is, and made into text and written a moment later,
with all that came meanwhile: a thread that woke at once would take the interpreter from the request. A plan is
several lines, each of which could be pasted into a shell.
"""

import contextlib
import logging
import sys
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TextIO

from isthmus.kernel import Kernel
from isthmus.plan import Plan

_log = logging.getLogger("isthmus.kernel")

DELAY = 0.05
"""How much later than said, in seconds, a line may be written."""


class LogThread(logging.Handler):
    """Writes records to *stream* from a thread of its own, in order."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._ending = Event()
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take *record* to be written soon."""
        self._queue.put(record)
        return True

    def close(self) -> None:
        """Write what there is, and end."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join()
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            records = [self._queue.get()]
            self._ending.wait(DELAY)
            with contextlib.suppress(Empty):
                while True:
                    records.append(self._queue.get_nowait())
            ended = None in records
            try:
                self._stream.write("".join(self._text(record) for record in records if record))
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads it any more

    def _text(self, record: logging.LogRecord) -> str:
        lines = self.format(record).splitlines() or [""]
        head = f"{_formatter.formatTime(record)} {record.levelname.lower():7} "
        return "".join(f"{head}{line}\n" for line in lines)


_formatter = logging.Formatter("%(message)s")


def start(level: str) -> LogThread:
    """Log from *level* (a name of `logging`'s) on to standard error."""
    handler = LogThread(sys.stderr)
    handler.setFormatter(_formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Who, where and which process are not shown, so they need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as logging's own page on optimization says
    return handler


class Journal:
    """A kernel that writes into the log what is done to it, as commands; it is else the one that it stands before."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.observe = kernel.observe
        self.host = kernel.host
        self.counts = kernel.counts
        self.hold = kernel.hold
        self.release = kernel.release
        self.holder = kernel.holder
        self.idle = kernel.idle
        self.forget = kernel.forget
        self.send = kernel.send

    def apply(self, plan: Plan) -> None:
        """See `Kernel.apply`."""
        try:
            self._kernel.apply(plan)
        finally:
            _log.info("%s", plan)
