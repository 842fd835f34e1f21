"""Where clients find the daemon: its sockets, and who may use them."""

import grp
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from isthmus.errors import InvalidRequest

GROUP = "isthmus"
"""Members of this group of the system may talk to the daemon, if there is one."""

_FIRST_PASSED = 3


def listen(address: str, environment: Mapping[str, str], group: str = "") -> socket.socket:
    """A listening socket for *address*: `unix://PATH`, or `fd://` for the one that systemd passed to us.

    A socket file at which nobody answers is replaced; `InvalidRequest` if somebody does, or if it is no socket. The
    file gets its name last, so that whoever finds it can connect.
    The socket has mode 0660 and is for root and *group*, or for the group `isthmus` if none is named and there is one.
    """
    if address == "fd://":
        return _passed(environment)
    scheme, separator, path = address.partition("://")
    if scheme != "unix" or not separator or not path.startswith("/"):
        raise InvalidRequest(
            f"invalid host {address}: it must be unix:///PATH, or fd:// when systemd starts the daemon"
        )
    _clear(Path(path))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    fresh = Path(f"{path}.new")
    fresh.unlink(missing_ok=True)
    try:
        listening.bind(str(fresh))
    except OSError as error:
        listening.close()
        raise InvalidRequest(f"cannot listen at {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    try:
        os.chown(fresh, -1, grp.getgrnam(group or GROUP).gr_gid)
    except (KeyError, PermissionError) as error:
        if group:
            raise InvalidRequest(f"invalid group {group}: the socket cannot be given to it ({error})") from error
    fresh.chmod(0o660)
    listening.listen(128)
    fresh.rename(path)
    listening.setblocking(False)  # noqa: FBT003 - its only parameter
    return listening


def _passed(environment: Mapping[str, str]) -> socket.socket:
    """The socket that systemd opened for us (`sd_listen_fds`)."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        raise InvalidRequest("invalid host fd://: systemd passed no socket, or more than one (LISTEN_PID, LISTEN_FDS)")
    listening = socket.socket(fileno=_FIRST_PASSED)
    listening.setblocking(False)  # noqa: FBT003 - its only parameter
    return listening


def _clear(path: Path) -> None:
    """Remove the socket file *path* if nobody answers there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise InvalidRequest(
                f"cannot listen at {path}: there is a file that is not a socket; remove it, or use another"
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise InvalidRequest(f"cannot listen at {path}: another daemon answers there; stop it, or give another -H")
