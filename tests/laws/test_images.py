"""Archives of images, of which anything may be changed: each is an image, or is refused with a sentence."""

import io
import tarfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.api import images as shapes
from isthmus.errors import IsthmusError
from isthmus.images.store import Images
from tests.unit.test_images import ROOT, directory, file, layout, link, packed, saved

BLOCK = 512
LAYER = packed(
    *(directory("a"), file("a/b", b"x" * 100), link("a/up", "../a"), link("hard", "a/b", tarfile.LNKTYPE)),
    *(file("n" * 150, b"y"), file("a/up/.wh.gone"), file("a/up/c")),
    pax={"SCHILY.xattr.user.x": "1"},
)
ARCHIVES = (LAYER, saved([LAYER], ["x:1"]), layout([LAYER], "x:1", ["amd64", "arm64"]))
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
