"""What all tests share: private namespaces for those that touch the real kernel, and golden files."""

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


@pytest.fixture
def netns() -> Iterator[None]:
    """A network and a mount namespace of the test's own, with an empty /run/netns; nothing of them is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = Path.cwd()
    home = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("mnt", "net")]
    try:
        if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
            pytest.skip(f"needs CAP_SYS_ADMIN and CAP_NET_ADMIN: {os.strerror(ctypes.get_errno())}")
        try:
            assert not libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            Path("/run/netns").mkdir(exist_ok=True)
            assert not libc.mount(b"tmpfs", b"/run/netns", b"tmpfs", 0, None)
            yield
        finally:
            for descriptor in home:
                assert not libc.setns(descriptor, 0)
            os.chdir(where)
    finally:
        for descriptor in home:
            os.close(descriptor)


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """`golden(name, text)` holds *text* to the file tests/golden/NAME, which `make golden` renews."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("RENEW_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text

    return compare
