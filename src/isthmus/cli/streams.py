"""Streams between a terminal, or pipes, and a program in a container, on a connection that is no HTTP any more.

One loop waits for all of them: no thread, and no event loop that would take longer to import than all the rest.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Resize = Callable[[int, int], None]
Signal = Callable[[int], None]
_PIECE = 1 << 16
_PROXIED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class Demultiplexer:
    """Writes what is received to standard output and standard error; see `containers.framed` for the form."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Write all that *data* completes."""
        if not self._several:
            _write(sys.stdout.fileno(), data)
            return
        self._rest += data
        while len(self._rest) >= 8:
            length = int.from_bytes(self._rest[4:8], "big")
            if len(self._rest) < 8 + length:
                break
            _write(2 if self._rest[0] == 2 else 1, self._rest[8 : 8 + length])
            self._rest = self._rest[8 + length :]


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def terminal(resize: Resize | None) -> Iterator[None]:
    """Have our terminal pass every key on as it is, and *resize* told its size, now and whenever that changes."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    old = signal.getsignal(signal.SIGWINCH)

    def changed(*_: object) -> None:
        if resize:
            with suppress(OSError):
                size = os.get_terminal_size(sys.stdout.fileno())
                resize(size.lines, size.columns)

    signal.signal(signal.SIGWINCH, changed)
    tty.setraw(descriptor)
    try:
        changed()
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, old)


@contextmanager
def proxied(send: Signal) -> Iterator[None]:
    """Have signals that are for us sent on."""
    before = {}
    for name in _PROXIED:
        number = signal.Signals[name]
        before[number] = signal.signal(number, lambda got, _frame: send(got))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def relay(connection: socket.socket, *, several: bool, stdin: bool, output: bool = True) -> None:
    """Bring standard input to *connection* and what comes from it to standard output, until that ends.

    Where no *output* comes, it is over with standard input.

    What is received is always read, also while the program does not take what it is sent: it may itself be waiting
    for us to read. No more of standard input is read than can be sent.
    """
    out = Demultiplexer(several=several)
    descriptor, source = connection.fileno(), sys.stdin.fileno() if stdin else -1
    pending = b""
    while True:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if pending else 0))
        if source >= 0 and not pending:
            poll.register(source, select.POLLIN)
        ready = dict(poll.poll())
        if ready.get(descriptor, 0) & ~select.POLLOUT:
            try:
                data = connection.recv(_PIECE)
            except ConnectionResetError:
                return
            if not data:
                return
            out.feed(data)
        if source in ready:
            pending = os.read(source, _PIECE)
            if not pending:
                source = -1
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                if not output:
                    return
        if pending:
            try:
                pending = pending[connection.send(pending, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                source, pending = -1, b""  # nobody reads it; there may still be output
