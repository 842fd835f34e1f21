"""conmon, and the OCI runtime under it: a container is made, started, attached to, and outlives the daemon.

conmon (https://github.com/containers/conmon, 2.1) has a container made by the runtime and stays its parent: it holds
the pipes or the terminal, writes the log, serves who attaches, and leaves the exit code in a file when all is over.
Whatever happens to the daemon happens to nothing of that. All paths are below a container's *directory*.

    config.json      the bundle, as `spec` makes it       log       what the program wrote
    pid, conmon.pid  the program's process, and conmon's   attach    a socket of packets, one for each who attaches
    ctl              where a terminal's size is written    exits/ID  the exit code, in a directory for all containers
"""

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from isthmus.containers import groups
from isthmus.errors import IsthmusError, NotImplementedHere

RUNTIMES = ("runc", "crun")
_PACKET = 32 << 10
_LONG_RUNS = 60.0


class Runtime:
    """The programs that run containers on this machine: an OCI runtime with its state below *state*, and conmon."""

    def __init__(self, state: Path, exits: Path, name: str = "") -> None:
        """*Name* is that of the runtime or its path; the first of `RUNTIMES` that is installed if it is ""."""
        self._state = state
        self._exits = exits
        self._name = name
        self._found: tuple[str, str] | None = None

    def programs(self) -> tuple[str, str]:
        """The paths of the runtime and of conmon.

        Raises:
            NotImplementedHere: one of them is not installed.
        """
        if self._found is None:
            path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/libexec/podman"
            found = (shutil.which(name, path=path) for name in ([self._name] if self._name else RUNTIMES))
            runtime, conmon = next(filter(None, found), None), shutil.which("conmon", path=path)
            if not (runtime and conmon):
                missing = [
                    word for word, there in ((self._name or "runc or crun", runtime), ("conmon", conmon)) if not there
                ]
                raise NotImplementedHere(
                    f"containers need {' and '.join(missing)}: install it (Debian's packages runc and conmon); "
                    "sandboxes work without"
                )
            self._found = runtime, conmon
        return self._found

    @property
    def name(self) -> str:
        """The name of the runtime; "" if there is none."""
        try:
            return Path(self.programs()[0]).name
        except NotImplementedHere:
            return ""

    async def create(
        self, identity: str, directory: Path, *, stdin: bool, once: bool, tty: bool, log: str, log_size: int = 0
    ) -> int:
        """Make a container of the bundle in *directory*, whose program waits to be started; return its process ID.

        Raises:
            IsthmusError: the runtime refused; in its words.
        """
        runtime, conmon = self.programs()
        for name in ("attach", "ctl", "winsz", "pid", "conmon.pid"):
            (directory / name).unlink(missing_ok=True)
        (self._exits / identity).unlink(missing_ok=True)
        words = ["--api-version", "1", "-c", identity, "-u", identity, "-n", identity, "-r", runtime]
        words += ["-b", str(directory), "-p", str(directory / "pid"), "-P", str(directory / "conmon.pid")]
        words += ["--exit-dir", str(self._exits), "--full-attach", "--log-level", "error", "--runtime-arg", "--root"]
        words += ["--runtime-arg", str(self._state), "-l", log]
        words += ["-t"] if tty else []
        words += ["-i"] if stdin else []
        words += ["--leave-stdin-open"] if stdin and not once else []
        words += ["--log-size-max", str(log_size)] if log_size else []
        told, telling = os.pipe()
        starting, start = os.pipe()
        environment = {**_environment(), "_OCI_SYNCPIPE": str(telling), "_OCI_STARTPIPE": str(starting)}
        try:
            process = await asyncio.to_thread(_spawn, [conmon, *words], environment, (telling, starting), directory)
        except BaseException:
            os.close(told)
            os.close(start)
            raise
        finally:
            os.close(telling)
            os.close(starting)
        os.write(start, b"\n")
        os.close(start)
        answer = await first_line(told)
        # It has gone into the background long since.
        await asyncio.to_thread(process.wait)
        return _pid(answer)

    async def start(self, identity: str) -> None:
        """Have the program of a container begin.

        Raises:
            IsthmusError: the runtime refused; in its words.
        """
        await self._run("start", identity)

    async def delete(self, identity: str) -> None:
        """Kill what is left of a container and have the runtime forget it, with its control groups."""
        with suppress(NotImplementedHere):
            await self._run("delete", "--force", identity)

    async def pause(self, identity: str, *, on: bool) -> None:
        """Have all processes of a container stand still, or go on."""
        await self._run("pause" if on else "resume", identity)

    async def processes(self, identity: str) -> list[int]:
        """The process IDs of a container, in the host's numbers."""
        answer = json.loads(await self._run("ps", "--format", "json", identity) or "null")
        return [int(one) for one in answer or ()]

    async def execute(self, identity: str, process_file: Path, *, tty: bool, stdin: bool, quiet: bool) -> "Execution":
        """Run one more program in a container, as *process_file* (OCI's `process`) says; it dies with the daemon.

        Without *stdin* it has nothing to read; *quiet* means that nobody wants its output.
        """
        runtime, _ = self.programs()
        words = [runtime, "--root", str(self._state), "--log", f"{process_file}.log", "--log-format", "json", "exec"]
        words += ["--pid-file", f"{process_file}.pid", "--process", str(process_file), identity]
        return await Execution.start(words, process_file, tty=tty, stdin=stdin, quiet=quiet)

    async def _run(self, *words: str) -> str:
        """What the runtime says to these *words*."""
        runtime, _ = self.programs()
        try:
            done = await asyncio.to_thread(
                subprocess.run,
                [runtime, "--root", str(self._state), *words],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LONG_RUNS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise IsthmusError(f"{Path(runtime).name} {words[0]} did not end in {_LONG_RUNS:.0f} s") from None
        if done.returncode:
            raise IsthmusError(f"OCI runtime {words[0]} failed: {_words(done.stderr)}")
        return str(done.stdout)


def _spawn(
    words: list[str], environment: dict[str, str], descriptors: tuple[int, ...], directory: Path
) -> "subprocess.Popen[bytes]":
    """Run a program that gets these *descriptors*.

    By `subprocess` on a thread, which uses vfork(2): to fork a process of our size takes as long as a runtime's start.
    """
    quiet = subprocess.DEVNULL
    return subprocess.Popen(  # noqa: S603 - our own words
        words, env=environment, pass_fds=descriptors, cwd=directory, stdin=quiet, stdout=quiet, stderr=quiet
    )


def code_of(refusal: str) -> int:
    """The exit code of a program that could not be run, by what the runtime says: as shells have them.

    >>> [code_of(text) for text in ('exec: "x": executable file not found in $PATH', "permission denied", "no space")]
    [127, 126, 128]
    """
    if "executable file not found" in refusal or "no such file or directory" in refusal:
        return 127
    return 126 if "permission denied" in refusal else 128


def _environment() -> dict[str, str]:
    """Of ours, what a runtime needs; a listening socket that systemd passed to us is none of its business."""
    return {name: value for name, value in os.environ.items() if name in {"PATH", "TMPDIR", "XDG_RUNTIME_DIR"}}


def _pid(answer: bytes) -> int:
    """The process ID in conmon's *answer*, which has a message where there is none."""
    try:
        told = json.loads(answer)
        number, message = int(told.get("data", told.get("pid", -1))), str(told.get("message", ""))
    except (ValueError, AttributeError, TypeError):
        raise IsthmusError("the monitor of the container died before it could tell why: see the system's log") from None
    if number <= 0:
        raise IsthmusError(f"OCI runtime create failed: {_words(message) or 'it did not say why'}")
    return number


def _words(text: str) -> str:
    """What a runtime wants to say, of the lines of its log."""
    said = []
    for line in text.strip().splitlines():
        words = line
        if line.startswith("{"):
            with suppress(ValueError, AttributeError):
                words = str(json.loads(line).get("msg", line))
        elif 'msg="' in line:
            words = line.partition('msg="')[2].rstrip('"').replace('\\"', '"')
        said.append(words)
    return "; ".join(said)


def _lent(descriptor: int, mode: str) -> IO[bytes]:
    """A file of *descriptor* for a transport of uvloop, which closes the number when it ends.

    It closes the file as well, a moment later: closed again, the number could be another thread's.
    """
    return os.fdopen(descriptor, mode, buffering=0, closefd=False)


async def first_line(descriptor: int) -> bytes:
    """The first line that comes from a pipe, or what came before its end; the pipe is closed."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _lent(descriptor, "rb"))
    try:
        return await reader.readline()
    finally:
        transport.close()


class Process:
    """A process that is not our child, held so that its number can mean no other; `hear` is told when it ends."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is none of this number."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._loop: asyncio.AbstractEventLoop | None = None

    def hear(self, ended: Callable[[], None]) -> None:
        """Have *ended* called once, when it has."""

        def told() -> None:
            self._deafen()
            ended()

        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, told)

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def close(self) -> None:
        """Let go of it."""
        self._deafen()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _deafen(self) -> None:
        if self._loop:
            self._loop.remove_reader(self._descriptor)
            self._loop = None


def held(pid_file: Path, identity: str) -> Process | None:
    """The process that *pid_file* names, if it lives and is one of the container *identity*; by its control group."""
    try:
        process = Process(int(pid_file.read_text()))
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        # It is looked at while it is held, so it is this one that is seen.
        if groups.has(identity, process.pid):
            return process
    process.close()
    return None


def stray(identity: str) -> list[int]:
    """The process IDs of monitors of this container, wherever they come from."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"conmon") and identity.encode() in words:
                    found.append(int(place.name))
    return found


class Execution:
    """A program that was added to a container; its streams are like those of an `Attachment`."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path, master: int) -> None:
        self._process = process
        self._file = file
        self._refusal = ""
        self._master = master
        self._pieces: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(16)
        self._pumps: list[asyncio.Task[None]] = []
        self._input: asyncio.WriteTransport | None = None
        self._end: asyncio.Task[None] | None = None
        self._unheard = False

    @classmethod
    async def start(cls, words: list[str], file: Path, *, tty: bool, stdin: bool, quiet: bool) -> "Execution":
        """Run the runtime with these *words*; what it tells lies beside *file*, which goes with that in the end."""
        null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
        if not tty:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=pipe if stdin else null,
                stdout=null if quiet else pipe,
                stderr=null if quiet else pipe,
                env=_environment(),
                start_new_session=True,
            )
            made = cls(process, file, -1)
            for stream, reader in ((1, process.stdout), (2, process.stderr)):
                if reader:
                    made._pump(stream, reader)
            made._input = process.stdin.transport if process.stdin else None
        else:
            # The runtime has a terminal of its own inside, and copies between that and this one.
            master, slave = os.openpty()
            try:
                process = await asyncio.create_subprocess_exec(
                    *words, stdin=slave, stdout=slave, stderr=slave, env=_environment(), start_new_session=True
                )
            except BaseException:
                os.close(master)
                raise
            finally:
                os.close(slave)
            made = cls(process, file, master)
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _lent(os.dup(master), "rb"))
            made._pump(1, reader)
            made._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, _lent(os.dup(master), "wb"))
        made._end = asyncio.create_task(made._finish())
        return made

    @property
    def pid(self) -> int:
        """The process ID of the runtime that runs the program."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code of the program; None while it runs. 127 and 126 tell that it could not be, as in a shell."""
        code = self._process.returncode
        if code is None or (self._end and not self._end.done()):
            return None
        if self._refusal:
            return code_of(self._refusal)
        return 128 - code if code < 0 else code

    async def wait(self) -> int:
        """The exit code, when it has ended."""
        if self._end:
            await asyncio.shield(self._end)
        return self.code or 0

    async def read(self) -> tuple[int, bytes]:
        """The next piece of output and its stream, 1 or 2; (0, b"") at the end."""
        return await self._pieces.get()

    async def write(self, data: bytes) -> None:
        """Have the program read *data*."""
        if self._input and not self._input.is_closing():
            self._input.write(data)

    def end_input(self) -> None:
        """Tell that nothing more is to be read; a terminal has no such end."""
        if self._input and self._master < 0:
            self._input.close()

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""
        if self._master >= 0 and self._process.returncode is None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
            with suppress(ProcessLookupError):
                # Our terminal is not the one that controls the runtime, so the kernel does not tell it.
                self._process.send_signal(signal.SIGWINCH)

    def _pump(self, stream: int, reader: asyncio.StreamReader) -> None:
        async def pump() -> None:
            with suppress(OSError):  # EIO: the other side of the terminal is gone
                while data := await reader.read(_PACKET):
                    if not self._unheard:
                        await self._pieces.put((stream, data))

        self._pumps.append(asyncio.create_task(pump()))

    async def _finish(self) -> None:
        """Tell the end of the output when there is no more, and close what is left."""
        await self._process.wait()
        for pump in self._pumps:
            await pump
        log, pid = Path(f"{self._file}.log"), Path(f"{self._file}.pid")
        with suppress(OSError):
            if not pid.exists():  # noqa: ASYNC240 - of the file system, which is here, and takes microseconds
                self._refusal = f"OCI runtime exec failed: {_words(log.read_text())}"  # noqa: ASYNC240
        for path in (self._file, log, pid):
            path.unlink(missing_ok=True)
        if self._input:
            self._input.close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if not self._unheard:
            await self._pieces.put((0, b""))

    def close(self) -> None:
        """Let nobody read it any more; the program goes on, and what it writes is lost."""
        self._unheard = True
        while not self._pieces.empty():
            self._pieces.get_nowait()


class Attachment:
    """The streams of a container that runs: what it writes from now on, and what it is to read.

    Raises:
        IsthmusError: nobody serves them.
    """

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._loop = asyncio.get_running_loop()
        # The path may be longer than an address can be (unix(7)), so it is reached by a descriptor of its directory.
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{place}/attach")
        except OSError as error:
            self._socket.close()
            raise IsthmusError(f"cannot attach to the container: {error.strerror}") from error
        finally:
            os.close(place)

    async def read(self) -> tuple[int, bytes]:
        """The next piece of output and its stream, 1 or 2; (0, b"") at the end."""
        try:
            packet = await self._loop.sock_recv(self._socket, _PACKET + 1)
        except ConnectionResetError:
            return 0, b""
        # Its numbers for the streams are one too high for everybody else (conmon, `src/config.h`).
        return (packet[0] - 1, packet[1:]) if packet else (0, b"")

    async def write(self, data: bytes) -> None:
        """Have the container read *data*; nothing happens if it has ended."""
        with suppress(BrokenPipeError, ConnectionResetError):
            for offset in range(0, len(data), _PACKET):
                await self._loop.sock_sendall(self._socket, data[offset : offset + _PACKET])

    def end_input(self) -> None:
        """Tell that nothing more is to be read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def resize(directory: Path, rows: int, columns: int) -> None:
    """Give the terminal of a container another size; nothing happens if nobody serves it."""
    try:
        descriptor = os.open(directory / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            return
        raise
    try:
        os.write(descriptor, f"1 {rows} {columns}\n".encode())
    finally:
        os.close(descriptor)
