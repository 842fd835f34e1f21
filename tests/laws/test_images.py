"""Archives of images, of which anything may be changed: each is an image, or is refused with a sentence.

And images, whatever dies while they come and go: each is whole, or is not there.
"""

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.api import images as shapes
from isthmus.errors import IsthmusError
from isthmus.images.store import Images
from tests.unit.test_images import ROOT, directory, file, layout, link, packed, saved, zstandard

BLOCK = 512
LAYER = packed(
    *(directory("a"), file("a/b", b"x" * 100), link("a/up", "../a"), link("hard", "a/b", tarfile.LNKTYPE)),
    *(file("n" * 150, b"y"), file("a/up/.wh.gone"), file("a/up/c")),
    pax={"SCHILY.xattr.user.x": "1"},
)
ARCHIVES = (
    *(LAYER, saved([LAYER], ["x:1"]), layout([LAYER], "x:1", ["amd64", "arm64"])),
    *(zstandard(LAYER), layout([LAYER], "x:1", pack=zstandard)),
)
KINDS = b"012345SLKxgVZ\0"


def with_bytes(archive: bytes, place: int, content: bytes) -> bytes:
    """Another content there, and a checksum of that header which says that nothing happened."""
    changed = bytearray(archive)
    changed[place : place + len(content)] = content
    start = place - place % BLOCK
    changed[start + 148 : start + 156] = b" " * 8
    changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + BLOCK])
    return bytes(changed[: len(archive)])


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """An archive that somebody meddled with."""
    archive = draw(st.sampled_from(ARCHIVES))
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.integers(0, len(archive) // BLOCK)) * BLOCK
        archive = draw(
            st.sampled_from(
                (
                    archive[: block + draw(st.integers(0, BLOCK))],
                    archive[:block] + archive[block + BLOCK :],
                    archive[:block] + archive[block : block + BLOCK] * 2 + archive[block + BLOCK :],
                    with_bytes(archive, block + draw(st.integers(0, BLOCK - 9)), draw(st.binary(max_size=8))),
                    with_bytes(archive, block + 156, bytes([draw(st.sampled_from(KINDS))])),
                )
            )
        )
    return archive


@ROOT
@settings(max_examples=200, deadline=None)
@given(archives())
def test_an_archive_is_an_image_or_is_refused(archive: bytes) -> None:
    """Never half of one, never a traceback; and nothing of it is left when it is removed, or was never made."""
    with TemporaryDirectory() as place:
        root = Path(place, "images")
        store = Images(root, dict, str)
        store.start()
        with suppress(IsthmusError):
            list(store.load(io.BytesIO(archive), "x86_64"))
        with suppress(IsthmusError):
            store.import_(io.BytesIO(archive))
        for image in store.all():
            assert shapes.inspect(image, (1, 50))["Size"] == image.size
            shapes.history(image)
            store.remove(image.id, force=True)
        assert [one.name for name in ("coming", "images", "layers") for one in (root / name).iterdir()] == []
        assert [one.name for one in Path(place).iterdir()] == ["images"]


class Disk:
    """A disk on which is what was flushed: what was not, power failures take, but for its name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._safe: set[int] = set()

    def flush(self, _: int) -> None:
        """Have on it what there is."""
        self._safe = {path.lstat().st_ino for path in self._root.rglob("*")}

    def fail(self) -> None:
        """Take the content of files in layers that is not on it."""
        for path in (*self._root.glob("*/*/tree/**/*"), *self._root.glob("coming/*/*/tree/**/*")):
            if path.is_file() and path.stat().st_ino not in self._safe:
                os.truncate(path, 0)


def dies(work: Callable[[], object], number: int, power: Callable[[], None]) -> bool:
    """Have *work* done in another process that dies at its call *number* to the system; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = [number]

        def count(event: str, _: object) -> None:
            if event.startswith(("os.", "open", "shutil.")):
                left[0] -= 1
                if left[0] == 0:
                    power()
                    os._exit(1)

        sys.addaudithook(count)
        work()
        left[0] = -1
        power()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@ROOT
def test_an_image_is_whole_or_not_there_whenever_the_power_fails(tmp_path: Path) -> None:
    """What was loaded lasts from the moment that it is said to be; what comes after it harms nothing of before."""
    base, more, other = (packed(file("f", name.encode()), directory("d"), file("d/g", b"g")) for name in "abc")
    content, further = saved([base, more], ["x:1"]), saved([base, other], ["y:1"])
    made = tuple(f"sha256:{hashlib.sha256(one).hexdigest()}" for one in (base, other))
    seen: list[list[str]] = []
    names: list[str] = []
    for number in range(1, 1000):
        root = tmp_path / str(number)
        disk = Disk(root)
        before = Images(root, dict, str, disk.flush)
        before.start()
        list(before.load(io.BytesIO(content)))

        def work(store: Images = before) -> None:
            list(store.load(io.BytesIO(further)))
            store.tag("y:1", "z:1")
            store.remove("x:1")

        died = dies(work, number, disk.fail)
        after = Images(root, dict, str)
        after.start()
        for image in after.all():
            contents = [Path(layer, name).read_text() for layer in image.layers for name in ("f", "d/g")]
            assert contents == ["a", "g", "c" if image.diff_ids == made else "b", "g"]
        assert not list((root / "coming").iterdir())
        assert {one.name for one in (root / "layers").iterdir()} == {
            one.removeprefix("sha256:") for image in after.all() for one in image.diff_ids
        }
        names = sorted(name for image in after.all() for name in image.names)
        if names not in seen:
            seen.append(names)
        if not died:
            break
    assert seen == [["x:1"], ["x:1", "y:1"], ["x:1", "y:1", "z:1"], ["y:1", "z:1"]]
    assert names == seen[-1]
