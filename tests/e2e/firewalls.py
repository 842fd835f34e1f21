"""What else filters on a host: ufw, firewalld, iptables and Docker, as Debian packs them, without being installed.

`bootstrap` unpacks the packages that the machine lacks into the virtual environment. `furnish` lays them over /usr and
/etc of one test's host, so that nobody else sees them, and keeps what they write in its /run. What a package does when
it is installed is done there, as far as it matters.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, program, until

UNPACKED = [Path(sys.prefix) / kit for kit in ("firewalls", "dockerd")]

_PATH = ":".join(
    (*(f"{one}/usr/sbin:{one}/usr/bin" for one in UNPACKED), os.environ.get("PATH", ""), "/usr/sbin:/sbin")
)

# Without what a bus of the machine has: nobody is asked whether the host's root may do what it does.
_BUS = """
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip a test where one of *programs* is neither unpacked nor installed."""
    lacking = [name for name in programs if not (shutil.which(name, path=_PATH) or _is_variant(name))]
    return pytest.mark.skipif(bool(lacking), reason=f"{', '.join(lacking)} neither installed nor fetched")


def _is_variant(name: str) -> bool:
    """Whether the program is there under the name that Debian's alternatives lead to."""
    return bool(shutil.which(f"{name}-nft", path=_PATH))


def furnish(host: Host) -> None:
    """Let *host* have the unpacked programs, and files below /usr, /etc and /var that are its own."""
    for name in ("usr", "etc"):
        layer = host.root / f"run/layers/{name}"
        for part in ("upper", "work"):
            (layer / part).mkdir(parents=True)
        below = "".join(f"{one / name}:" for one in UNPACKED if (one / name).exists())
        kept = f"upperdir=/run/layers/{name}/upper,workdir=/run/layers/{name}/work"
        done = host.attempt(f"mount -t overlay overlay -o lowerdir={below}/{name},{kept} /{name}")
        if done.returncode:
            pytest.skip(f"files cannot be laid over others here: {done.stderr.strip()}")
    for path in ("/var/log", "/var/lib/ufw"):
        if Path(path).exists():
            host.run(f"mount -t tmpfs tmpfs {path}")
    sbin, etc = host.root / "usr/sbin", host.root / "etc"
    for name in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            variant, plain = sbin / f"{name}-nft{verb}", sbin / f"{name}{verb}"
            if variant.is_symlink() and not (plain.exists() or plain.is_symlink()):
                plain.symlink_to(variant.name)
    templates = host.root / "usr/share/ufw"
    for template in (*templates.glob("iptables/*.rules"), *templates.glob("*.init"), *templates.glob("ufw.conf")):
        if not (etc / "ufw" / template.name).exists():
            shutil.copy(template, etc / "ufw" / template.name)


@contextmanager
def firewalld(host: Host) -> Iterator[None]:
    """A firewalld on a *host* that is furnished, with a bus of its own."""
    for directory in ("dbus", "firewalld"):
        (host.root / "run" / directory).mkdir(exist_ok=True)
    (host.root / "run/dbus/bus.conf").write_text(_BUS)
    with program(host, "dbus-daemon --config-file=/run/dbus/bus.conf --nofork --nopidfile"):
        until((host.root / "run/dbus/system_bus_socket").exists, "no bus")
        with program(host, "firewalld --nofork --nopid"):
            until(lambda: host.attempt("firewall-cmd --state").returncode == 0, "no firewalld", 30)
            yield
