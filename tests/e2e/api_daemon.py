"""A real daemon in namespaces of its own, for the tests that bring real clients to it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEADLINE = 30
_SCRIPT = 'mount -t tmpfs none /run && ip link set lo up && exec "$@"'


@contextmanager
def daemon(directory: Path) -> Iterator[str]:
    """The address of a daemon that lives under *directory* and, for the rest, in a network of its own.

    It tells us when it is ready, as it tells systemd, and must end well when it is told to.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a daemon makes network namespaces")
    host = f"unix://{directory}/api.sock"
    (directory / "daemon.json").write_text("{}")
    flags = {
        "-H": host,
        "--data-root": "data",
        "--exec-root": "exec",
        "--config-file": "daemon.json",
        "--pidfile": "pid",
    }
    arguments = [
        word for flag, value in flags.items() for word in (flag, value if "//" in value else f"{directory}/{value}")
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, (directory / "log").open("w") as log:
        notified.bind(f"{directory}/notify")
        notified.settimeout(DEADLINE)
        process = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", _SCRIPT, "sh", sys.executable, "-m", "isthmus.daemon", *arguments],
            env=os.environ | {"NOTIFY_SOCKET": f"{directory}/notify"},
            stdout=log,
            stderr=log,
        )
        try:
            while b"READY=1" not in notified.recv(4096):
                pass
            yield host
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(DEADLINE)
            print((directory / "log").read_text())  # noqa: T201 - pytest shows it if the test failed
    assert status == 0
