"""The daemon as a process: reads its flags, holds its namespace, runs the house on a thread of its own, stops.

The loop's thread waits for clients and for the kernel's news, and does what is brief; what takes longer has a thread of
its own (`worker`), and so has the writing of the log. The main thread only hears signals: `/proc` shows the namespace
that it stands in as ours, so it must never visit another. Stopping, by SIGTERM or by death, changes nothing that
stands: sandboxes, links and rules go on, and the next start adopts them.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

from isthmus import config, logs
from isthmus.config import Settings
from isthmus.errors import InvalidRequest, IsthmusError, leaves

log = logging.getLogger("isthmus")

SWITCH = 0.0005
"""How long, in seconds, a thread may go on in Python when another waits: no request waits for lines of the log."""


def main(argv: Sequence[str]) -> int:
    """Run the daemon until it is told to stop; the exit status is 1 if it could not start."""
    if any(flag in {"-h", "--help"} for flag in argv):
        sys.stdout.write(f"Usage: isthmus daemon [OPTIONS]\n\n{config.usage()}\n")
        return 0
    try:
        settings = _settings(argv)
    except IsthmusError as error:
        sys.stderr.write(f"isthmus daemon: {error}\n")
        return error.exit_code
    handler = logs.start(settings.log_level.name.replace("WARN", "WARNING"))
    try:
        with contextlib.ExitStack() as held:
            _hold_namespace(held)
            _make_directories(settings)
            _raise_limits()
            sys.setswitchinterval(SWITCH)
            _run_apart(settings)
    except IsthmusError as error:
        log.error("%s", error)  # noqa: TRY400 - it is told whole, and no traceback is the user's business
        return error.exit_code
    except ExceptionGroup as group:
        log.error("%s", "; ".join(map(str, leaves(group))))  # noqa: TRY400 - as above
        return 1
    except OSError as error:
        log.error("%s", error)  # noqa: TRY400 - as above
        return 1
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    return 0


def _settings(argv: Sequence[str]) -> Settings:
    """What flags and file say."""
    file = config.config_file(argv)
    try:
        text = Path(file.path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if file.required:
            raise InvalidRequest(
                f"unable to configure the daemon with file {file.path}: there is no such file"
            ) from None
        text = None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"unable to configure the daemon with file {file.path}: {error}") from error
    return config.parse(argv, text)


def _hold_namespace(held: contextlib.ExitStack) -> None:
    """Be the only daemon in this network namespace, as long as this process lives.

    An abstract socket's name is there once in a namespace, and goes with the process.
    """
    lock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
    try:
        lock.bind("\0isthmus.daemon")
    except OSError as error:
        raise InvalidRequest(
            "another Isthmus daemon runs in this network namespace; stop it, or run this one in a namespace of its own"
        ) from error


def _make_directories(settings: Settings) -> None:
    """Have the directories that everything else lies in."""
    for key, path, mode in (("data-root", settings.data_root, 0o700), ("exec-root", settings.exec_root, 0o755)):
        try:
            Path(path).mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidRequest(f"cannot use the {key} {path}: {error.strerror}; name another directory") from error


def _run_apart(settings: Settings) -> None:
    """Run the loop on a thread of its own until a signal tells us to stop; raises what it raises.

    The main thread waits at a socket, to which a signal is written whichever thread the kernel gives it to: a handler
    in Python is run by this thread alone, and nothing else would wake it for that.
    """
    # Nothing of what is loaded and looked at now will be garbage (`house.run` turns it on again).
    gc.disable()
    # What serves clients is needed last, and is half of all that is to be loaded.
    Thread(target=importlib.import_module, args=("isthmus.serving",)).start()
    import uvloop

    from isthmus import house

    loop = uvloop.new_event_loop()
    stopping = asyncio.Event()
    told, telling = socket.socketpair()
    telling.setblocking(False)  # noqa: FBT003 - its only parameter

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(house.run(settings, stopping))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(telling.fileno())
    with told, telling, ThreadPoolExecutor(1, "loop") as thread:
        running = thread.submit(run)
        running.add_done_callback(lambda _running: telling.send(b"\0"))
        while told.recv(1) and not running.done():
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(stopping.set)
        signal.set_wakeup_fd(-1)
        running.result()


def _raise_limits() -> None:
    """Every sandbox keeps a few descriptors open; the limit that a login gives is soon reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
