"""Images: their names, what archives of them say, and what an archive can do to us, which is nothing."""

import asyncio
import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import resource
import stat
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from isthmus.api import images as shapes
from isthmus.api.filters import parse
from isthmus.api.image_routes import aside
from isthmus.errors import Ambiguous, InvalidRequest, IsthmusError, NameTaken, NotFound
from isthmus.images import archive, trees
from isthmus.images.reference import familiar
from isthmus.images.store import Image, Images
from isthmus.images.tar import damage_told, plain
from isthmus.images.unpack import Limits, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and devices are kept")
ATTESTATION = "attestation-manifest"
Entry = tuple[str, dict[str, Any], bytes]


def file(name: str, content: bytes = b"", **fields: Any) -> Entry:  # noqa: ANN401 - fields of TarInfo
    """A file, or what else *fields* make of it."""
    return name, fields, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    """A link."""
    return file(name, linkname=target, type=kind)


def directory(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return file(name, type=tarfile.DIRTYPE, mode=mode)


def packed(*entries: Entry, pax: dict[str, str] | None = None) -> bytes:
    """An archive of these *entries*."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o644, 1_700_000_000
            for key, value in fields.items():
                setattr(info, key, value)
            info.pax_headers = dict(pax or {})
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zstandard(content: bytes) -> bytes:
    """One frame, with a checksum, as zstd writes it."""
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.fixture
def place(tmp_path: Path) -> str:
    """An empty directory to unpack to, beside something that must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    (tmp_path / "tree").mkdir()
    return str(tmp_path / "tree")


def untouched(place: str) -> None:
    """Whether nothing was written beside it."""
    outside = Path(place).parent / "outside"
    assert {one.name for one in outside.iterdir()} == {"secret"}
    assert (outside / "secret").read_text() == "untouched"


# Names.


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a:", ":b", "a b", "a//b", "../a", "a" * 300, "a:b:c", "-a", "a:" + "t" * 200]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """Docker's sentence."""
    with pytest.raises(InvalidRequest, match="invalid reference format"):
        familiar(text)


# Unpacking.


@ROOT
def test_all_that_a_file_is_is_kept(place: str) -> None:
    """Owner, mode with its special bits, time, links, devices, capabilities."""
    unpack(
        io.BytesIO(
            packed(
                directory("bin", 0o1755),
                file("bin/su", b"program", mode=0o4755, uid=1, gid=2),
                link("bin/link", "su"),
                link("bin/hard", "bin/su", tarfile.LNKTYPE),
                file("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
                file("pipe", type=tarfile.FIFOTYPE),
            )
        ),
        place,
    )
    su = Path(place, "bin/su").stat()
    assert (stat.S_IMODE(su.st_mode), su.st_uid, su.st_gid, su.st_mtime, su.st_nlink) == (
        0o4755,
        1,
        2,
        1_700_000_000,
        2,
    )
    assert Path(place, "bin/link").readlink() == Path("su")
    assert Path(place, "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(Path(place, "pipe").stat().st_mode)
    assert stat.S_IMODE(Path(place, "bin").stat().st_mode) == 0o1755
    assert Path(place, "bin").stat().st_mtime == 1_700_000_000


@ROOT
def test_what_a_layer_takes_away_is_written_as_overlayfs_reads_it(place: str) -> None:
    """A device 0:0, and an attribute of the directory."""
    unpack(
        io.BytesIO(packed(file("etc/.wh.gone"), file("var/.wh..wh..opq"), file("etc/.wh..wh.plnk"), file("etc/kept"))),
        place,
    )
    gone = Path(place, "etc/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(f"{place}/var", "trusted.overlay.opaque") == b"y"
    assert {one.name for one in Path(place, "etc").iterdir()} == {"gone", "kept"}


@ROOT
@pytest.mark.parametrize(
    "entries",
    [
        [file("../outside/secret", b"x")],
        [file("a/../../outside/secret", b"x")],
        [link("hard", "../outside/secret", tarfile.LNKTYPE)],
        [link("out", "../outside"), link("hard", "out/../../outside/secret", tarfile.LNKTYPE)],
        [file("zero", type=tarfile.CHRTYPE, devmajor=0, devminor=0)],
        [file("odd", type=b"Z"), file("x/../../../y", b"")],
        [file("f", b"x"), file("f/below", b"x")],
        [link("hard", "nowhere", tarfile.LNKTYPE)],
        [directory("d"), link("hard", "d", tarfile.LNKTYPE)],
        [link("hard", "", tarfile.LNKTYPE)],
        [link("soft", "")],
        [link("soft", "nowhere"), file("soft/f")],
        [file(".wh...")],
        [file("a/.wh...")],
        [file("a/.wh..")],
        [file("a/.wh.")],
    ],
)
def test_what_leads_outside_or_nowhere_is_refused(place: str, entries: list[Entry]) -> None:
    """With a sentence, and nothing is written beside the layer."""
    with pytest.raises(InvalidRequest):
        unpack(io.BytesIO(packed(*entries)), place)
    untouched(place)


@ROOT
def test_links_in_an_archive_lead_nowhere_outside(place: str) -> None:
    """Symbolic links may say what they like: what is written through them stays in the layer."""
    outside = str(Path(place).parent / "outside")
    entries = [
        *(link("out", "../outside"), file("out/secret", b"x")),
        *(link("abs", outside), file("abs/secret", b"x")),
        *(link("one", "two"), link("two", "../.."), file("one/outside/secret", b"x")),
        *(link("file", f"{outside}/secret"), file("file", b"x")),
        *(link("dir", outside), directory("dir"), file("dir/secret", b"x")),
        *(link("gone", outside), file("gone/.wh.secret")),
        *(file("/absolute", b"x"), file("./dotted", b"x")),
        *(link("proc", "/proc/self/root"), link("h", "file", tarfile.LNKTYPE)),
    ]
    for entry in entries:
        with suppress(IsthmusError):
            unpack(io.BytesIO(packed(*entries[: entries.index(entry) + 1])), place)
        untouched(place)


@ROOT
def test_links_upwards_are_followed_whatever_others_rename(place: str) -> None:
    """While anything on the machine is renamed, the kernel does not follow `..`, and says: try again."""
    entries = (directory("a/b"), link("a/up", "../a/b"), *(file(f"a/up/{number}") for number in range(1000)))
    one, other = f"{place}.one", f"{place}.other"
    Path(one).touch()
    program = f"import os\nwhile True: os.rename({one!r}, {other!r}); os.rename({other!r}, {one!r})"
    with subprocess.Popen([sys.executable, "-c", program]) as renaming:
        try:
            unpack(io.BytesIO(packed(*entries)), place)
        finally:
            renaming.kill()
    assert len(list(Path(place, "a/b").iterdir())) == 1000


@ROOT
def test_attributes_that_overlayfs_would_follow_are_not_set(place: str) -> None:
    """`trusted.overlay.redirect` could show another layer's files, and security labels are this machine's."""
    pax = {
        "SCHILY.xattr.trusted.overlay.redirect": "/x",
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.security.ima": "x",
    }
    unpack(io.BytesIO(packed(file("f"), pax=pax)), place)
    assert os.listxattr(f"{place}/f") in (["user.note"], [])


@ROOT
def test_what_is_too_large_is_refused_before_it_is_written(place: str) -> None:
    """A bomb must not fill the disk."""
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 50
    with pytest.raises(InvalidRequest, match="too large"):
        unpack(io.BytesIO(huge.tobuf(tarfile.PAX_FORMAT)), place, Limits(octets=1 << 30))
    with pytest.raises(InvalidRequest, match="more than 3 entries"):
        unpack(io.BytesIO(packed(*(file(str(number)) for number in range(9)))), place, Limits(entries=3))
    for pack in (gzip.compress, zstandard):
        bomb = io.BytesIO(pack(packed(file("zeros", bytes(50 << 20)))))
        with pytest.raises(InvalidRequest, match="too large"):
            unpack(plain(bomb), place, Limits(octets=1 << 20))
    assert not Path(place, "zeros").exists()


@ROOT
def test_what_is_small_in_sum_may_be_too_large(place: str) -> None:
    """Each file takes a block of the disk, each directory's name memory, and what follows the end somebody's time."""
    with pytest.raises(InvalidRequest, match="more than the 1048576 bytes"):
        unpack(io.BytesIO(packed(*(file(str(number), b"x") for number in range(300)))), place, Limits(octets=1 << 20))
    directories = packed(*(directory("d" * 200 + f"/{number}") for number in range(60)))
    with pytest.raises(InvalidRequest, match="names of its directories have more than 10000 bytes"):
        unpack(io.BytesIO(directories), place, Limits(names=10_000))
    endless = zstandard(packed(file("f", b"x")) + bytes(32 << 20))
    assert unpack(plain(io.BytesIO(endless)), place)[1] == 1
    with pytest.raises(InvalidRequest, match="more of it than of files"):
        unpack(plain(io.BytesIO(endless)), place, Limits(octets=1 << 20, entries=10))


@ROOT
def test_what_members_of_an_archive_of_images_say_does_not_fill_the_memory(store: Images) -> None:
    """A megabyte would do that otherwise: it may be said of each, and all are kept until the last layer is read."""
    one = packed(file("f"), pax={"comment": "x" * 1_000_000})
    many = gzip.compress(one[: heads(one)[-1]] * 60 + saved([packed(file("a"))], ["x:1"]), 1)
    tracemalloc.start()
    try:
        assert [image.names for image in store.load(io.BytesIO(many))] == [("x:1",)]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    sparse = packed(file("f", b"x"), pax={"GNU.sparse.map": "0,0," * 200_000 + "0,0", "GNU.sparse.size": "0"})
    for content in (sparse, packed(*(file(f"{number:04}" * 1000) for number in range(4500)))):
        with pytest.raises(InvalidRequest, match="bytes in names"):
            list(store.load(io.BytesIO(content)))


@ROOT
@pytest.mark.parametrize(
    "pack",
    [lambda data: data, gzip.compress, lzma.compress, zstandard],
    ids=["plain", "gzip", "xz", "zstd"],
)
def test_an_archive_that_is_cut_off_or_damaged_is_refused(place: str, pack: Any) -> None:  # noqa: ANN401
    """Wherever it is cut, there is a sentence and no traceback."""
    whole = pack(packed(file("a", os.urandom(9000)), file("b", os.urandom(9000))))
    assert unpack(plain(io.BytesIO(whole)), place)[1] == 18000
    for length in range(1, min(len(whole), 17_000), 997):
        with pytest.raises(InvalidRequest, match=r"damaged|cut off"):
            unpack(plain(io.BytesIO(whole[:length])), place)


def heads(whole: bytes) -> list[int]:
    """Where an archive's headers are, and where its end is."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        return [*(one.offset for one in tar), tar.offset]


def spoilt(whole: bytes, place: int) -> bytes:
    """An archive with another byte at this place."""
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


@ROOT
def test_only_zeros_are_the_end_of_an_archive(place: str) -> None:
    """A header that is damaged, or not there, would be taken for it otherwise, and half a layer for a whole one."""
    whole = packed(*(file(name, b"x" * 700) for name in "abc"))
    for head in heads(whole)[1:]:
        with pytest.raises(InvalidRequest, match="damaged"):
            unpack(io.BytesIO(spoilt(whole, head)), place)
        with pytest.raises(InvalidRequest, match="damaged"):
            unpack(io.BytesIO(whole[:head]), place)
    end = heads(whole)[-1]
    with pytest.raises(InvalidRequest, match="damaged"):
        unpack(io.BytesIO(whole[:end] + bytes(512) + whole[:end]), place)
    assert unpack(io.BytesIO(whole[:end] + bytes(1024) + b"what some programs leave there"), place)[1] == 2100


def head(kind: bytes, size: int, name: str = "x") -> bytes:
    """A member's header, and nothing of what it announces."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@ROOT
@pytest.mark.parametrize(
    "content",
    [
        packed(file("f"), pax={"comment": "x" * (2 << 20)}),
        head(tarfile.GNUTYPE_LONGNAME, 2 << 20) + b"n" * (2 << 20) + packed(file("f")),
        packed(file("n" * 5000)),
        packed(link("f", "n" * 5000)),
        packed(file("/".join("n" * 300))),
        packed(file("n" * 300)),
        head(tarfile.XHDTYPE, 0) * 1900 + packed(file("f")),
        head(tarfile.XGLTYPE, 512)
        + b"".join(b"6 %c=v\n" % key for key in range(33, 118) if key != 61).ljust(512, b"\0"),
        head(tarfile.REGTYPE, -512) + packed(file("f")),
        head(tarfile.XHDTYPE, -512) + packed(file("f")),
        head(b"Z", 1 << 80, ".wh..wh.odd") + packed(file("f")),
        packed(file("f", b"x"), pax={"GNU.sparse.map": "-9,5", "GNU.sparse.size": "9"}),
        packed(file("f", b"x"), pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        packed(file("f"), pax={"size": "-1024"}),
        packed(file("f"), pax={"mtime": "nan"}),
        packed(file("f"), pax={"mtime": "1e30"}),
        packed(file("f", uid=1 << 40)),
        head(tarfile.GNUTYPE_SPARSE, 0)[:482] + b"\1" + bytes(29),
    ],
)
def test_what_goes_before_a_member_cannot_harm_us(store: Images, content: bytes) -> None:
    """Neither by its length, nor by numbers that lead nowhere, nor by how often it comes."""
    with pytest.raises(InvalidRequest) as refused:
        store.import_(io.BytesIO(content))
    assert len(str(refused.value)) < 5000


@ROOT
def test_directories_can_be_nested_so_deep_and_no_deeper(store: Images) -> None:
    """Links lead deeper than names tell; what was made of it is gone, however deep."""
    deep = "d/" * 200
    assert store.import_(io.BytesIO(packed(file(f"{deep}f", b"x")))).size == 1
    for entries in (
        [file("d/" * 1500 + "f")],
        [directory(deep), link("l", deep), file(f"l/{deep}f")],
        [directory("a"), link("l", "a"), *(one for _ in range(300) for one in (directory("l/a"), link("l", "l/a")))],
        [directory(deep), link("l", deep), directory(f"l/{deep}"), link("l", f"{deep}{deep}"), file(f"l/{deep}f")],
    ):
        with suppress(InvalidRequest):
            store.import_(io.BytesIO(packed(*entries)))
    with pytest.raises(InvalidRequest, match="in more than 255 directories"):
        store.import_(io.BytesIO(packed(directory(deep), link("l", deep), file(f"l/{deep}f"))))


@ROOT
def test_zstd_comes_in_frames_of_which_some_are_skipped(place: str) -> None:
    """So pzstd writes it, and what can be read from the middle; where a frame ends, an archive need not."""
    whole = packed(file("a", os.urandom(9000)), file("b", b"y" * 9000))
    skipped = b"\x5a\x2a\x4d\x18\x04\0\0\0\x28\xb5\x2f\xfd"
    one, other = zstandard(whole[:9000]), zstandard(whole[9000:])
    for content in (one + other, skipped + one + skipped + other + skipped):
        assert unpack(plain(io.BytesIO(content)), place) == (f"sha256:{hashlib.sha256(whole).hexdigest()}", 18000)
    for content in (
        *(one, skipped + one + skipped, one + other[:-1], one + spoilt(other, 0), one + skipped[:-1]),
        *(spoilt(one + other, number) for number in range(4, len(one + other), 611)),
        *(one + other + b"\0", one + other + b"what is no frame", skipped),
    ):
        with pytest.raises(InvalidRequest, match=r"damaged|cut off"):
            unpack(plain(io.BytesIO(content)), place)


def test_zstd_that_needs_too_much_memory_is_refused() -> None:
    """Its first bytes say how much whoever reads it must remember."""
    for exponent in (28, 31, 41):
        header = b"\x28\xb5\x2f\xfd\0" + bytes([(exponent - 10) << 3])
        with pytest.raises(InvalidRequest, match="too much memory"), damage_told():
            plain(io.BytesIO(header + zstandard(b"")[-3:])).read(1)
    far = zstd.CompressionParameter.window_log
    assert plain(io.BytesIO(zstd.compress(bytes(1 << 20), options={far: 27}))).read() == bytes(1 << 20)


def test_nothing_of_zstd_is_loaded_before_it_is_needed() -> None:
    """The command line starts without it, and so does the store."""
    program = (
        "import sys, isthmus.cli.main, isthmus.images.store; sys.exit(any('zstd' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What a Dockerfile's lines change.


def test_changes_make_what_an_image_says() -> None:
    """`docker import --change`."""
    lines = [
        'CMD ["sh", "-c"]',
        "ENTRYPOINT run it",
        "ENV A=1 B='two words'",
        "ENV A 3",
        "EXPOSE 80 53/udp",
        "WORKDIR /srv",
    ]
    config = archive.changed({}, [*lines, "USER app:app", 'LABEL a="b c"', "STOPSIGNAL SIGINT", 'VOLUME ["/data"]'])
    assert config == {
        "Cmd": ["sh", "-c"],
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "Env": ["B=two words", "A=3"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "WorkingDir": "/srv",
        "User": "app:app",
        "Labels": {"a": "b c"},
        "StopSignal": "SIGINT",
        "Volumes": {"/data": {}},
    }
    for line in ("RUN x", "CMD [sh]", "ENV", 'ENV "'):
        with pytest.raises(InvalidRequest):
            archive.changed({}, [line])


# The store.


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Images]:
    """An empty store; nothing must be coming in the end."""
    made = Images(tmp_path / "images", lambda: used, lambda: "2026-01-01T00:00:00Z")
    used.clear()
    made.start()
    yield made
    assert not list((tmp_path / "images" / "coming").iterdir())


used: dict[str, tuple[str, bool]] = {}


def nested(depth: int) -> object:
    """A list in a list in a list."""
    return [nested(depth - 1)] if depth else []


def saved(
    layers: list[bytes],
    names: list[str],
    *,
    lie: bool = False,
    said: Mapping[str, Any] | None = None,
    **config: object,
) -> bytes:
    """What `docker save` would write, of an image that also says what *said* is."""
    ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    if lie:
        ids[0] = "sha256:" + "0" * 64
    rootfs = {"type": "layers", "diff_ids": ids}
    configuration = json.dumps({"config": config, "rootfs": rootfs, **(said or {})}).encode()
    manifest = [
        {"Config": "c.json", "RepoTags": names, "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}
    ]
    contents = [file(f"{number}/layer.tar", one) for number, one in enumerate(layers)]
    return packed(*contents, file("c.json", configuration), file("manifest.json", json.dumps(manifest).encode()))


def layout(
    layers: list[bytes],
    name: str,
    architectures: Sequence[str] = ("amd64",),
    pack: Callable[[bytes], bytes] = gzip.compress,
) -> bytes:
    """An OCI layout, with layers that are compressed; of several architectures, one has another index for them."""
    ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    blobs: dict[str, bytes] = {}

    def blob(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return f"sha256:{digest}"

    def manifest(architecture: str) -> dict[str, Any]:
        rootfs = {"type": "layers", "diff_ids": ids}
        said = {"architecture": architecture, "config": {"Cmd": ["x"]}, "rootfs": rootfs}
        made = {
            "config": {"digest": blob(json.dumps(said).encode())},
            "layers": [{"digest": blob(pack(one))} for one in layers],
        }
        platform = {"architecture": architecture, "os": "linux"}
        return {"digest": blob(json.dumps(made).encode()), "platform": platform}

    entries = [manifest(one) for one in architectures]
    if len(entries) > 1:
        attestation = {"digest": f"sha256:{'0' * 64}", "annotations": {"vnd.docker.reference.type": ATTESTATION}}
        inner = {"schemaVersion": 2, "manifests": [*entries, attestation]}
        entries = [{"digest": blob(json.dumps(inner).encode())}]
    entries[0] |= {"annotations": {"io.containerd.image.name": name}}
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return packed(*(file(path, content) for path, content in blobs.items()), file("index.json", index))


@ROOT
def test_images_share_their_layers_which_go_with_the_last(store: Images) -> None:
    """A layer is unpacked once, and lasts as long as somebody has it."""
    base, more = packed(file("base", b"12345")), packed(file("more", b"678"))
    (one,) = store.load(io.BytesIO(saved([base], ["one:1"])))
    (two,) = store.load(io.BytesIO(gzip.compress(saved([base, more], ["two:latest", "me/two:x"], Cmd=["sh"]))))
    assert (one.size, two.size) == (5, 8)
    assert two.layers[0] == one.layers[0]
    assert Path(two.layers[1], "more").read_bytes() == b"678"
    assert store.find("two").id == store.find(two.id[7:19]).id == two.id
    assert store.remove("one:1") == [{"Untagged": "one:1"}, {"Deleted": one.id}]
    assert Path(two.layers[0]).exists()
    assert store.remove("me/two:x") == [{"Untagged": "me/two:x"}]
    assert {"Deleted": two.diff_ids[1]} in store.remove(two.id)
    assert not Path(two.layers[0]).exists()
    with pytest.raises(NotFound, match="No such image: two:latest"):
        store.find("two")


@ROOT
def test_an_oci_layout_is_loaded(store: Images) -> None:
    """What skopeo and others write; its digests are checked."""
    base = packed(file("base", b"12345"))
    for pack in (gzip.compress, zstandard, bytes):
        whole = layout([base], "docker.io/library/app:2", pack=pack)
        for content in (whole, zstandard(whole)):
            (image,) = store.load(io.BytesIO(content))
            assert image.names == ("app:2",)
            assert Path(image.layers[0], "base").read_bytes() == b"12345"
            store.remove("app:2")
    other = layout([base], "app:3").replace(b'"Cmd"', b'"Cmx"')
    with pytest.raises(InvalidRequest, match="is another"):
        list(store.load(io.BytesIO(other)))


@ROOT
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        packed(file("etc/passwd")),
        packed(file("manifest.json", b"[")),
        packed(file("manifest.json", b'[{"Config": "../x", "Layers": []}]')),
        packed(file("manifest.json", b'{"a": 1}')),
        packed(file("index.json", b'{"manifests": [{"digest": "sha256:../../x"}]}')),
        packed(link("manifest.json", "/etc/passwd")),
        packed(link("manifest.json", "manifest.json")),
        packed(link("manifest.json", "manifest.json", tarfile.LNKTYPE)),
        packed(link("manifest.json", "b"), link("b", "manifest.json")),
        packed(file("manifest.json", b"[" * 100_000)),
        packed(file("index.json", b'{"manifests":' * 100_000)),
        packed(file("manifest.json", b"null")),
        packed(file("manifest.json", b"\xff")),
        packed(file("index.json", b'{"manifests": [{"digest": 5}]}')),
        packed(file("index.json", b'{"manifests": []}'), file("index.json", type=tarfile.DIRTYPE)),
        spoilt(saved([packed(file("a"))], ["x:1"]) + packed(file("b")), 0),
        gzip.compress(saved([packed(file("a"))], ["x:1"]))[:-60],
        spoilt(gzip.compress(saved([packed(file("a", os.urandom(9000)))], ["x:1"])), 5000),
        zstandard(saved([packed(file("a"))], ["x:1"]))[:-60],
        spoilt(zstandard(saved([packed(file("a", os.urandom(9000)))], ["x:1"])), 5000),
        layout([packed(file("a", os.urandom(9000)))], "x:1", pack=lambda layer: zstandard(layer)[:-5]),
        layout([packed(file("a", os.urandom(9000)))], "x:1", pack=lambda layer: spoilt(zstandard(layer), 5000)),
        bz2.compress(saved([packed(file("a"))], ["x:1"]))[:100] + b"x" * 100,
        saved([packed(file("a"))], ["x:1"], lie=True),
        saved([packed(file("a"))], ["NOT A NAME"]),
        saved([packed(file("../a", b"x"))], ["x:1"]),
        saved([packed(file("a", b"y" * 9000))[:700]], ["x:1"]),
    ],
)
def test_what_is_no_image_is_refused_and_leaves_nothing(store: Images, content: bytes) -> None:
    """With a sentence."""
    with pytest.raises(InvalidRequest):
        list(store.load(io.BytesIO(content)))
    assert store.all() == ()


@ROOT
def test_half_an_archive_of_images_is_none(store: Images) -> None:
    """Though all that was looked for is in the half that is there."""
    whole = saved([packed(file("a"))], ["x:1"])
    end = heads(whole)[-1]
    more = whole[:end] + packed(file("more"))
    for content in (whole[:end], spoilt(more, end), more[: end + 512]):
        with pytest.raises(InvalidRequest, match="damaged"):
            list(store.load(io.BytesIO(content)))
    assert store.all() == ()
    assert [one.names for one in store.load(io.BytesIO(whole + b"more"))] == [("x:1",)]


@ROOT
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"history": [3]}, "history[0]"),
        ({"history": [{"created": 3}]}, "history[0].created"),
        ({"history": {}}, "history"),
        ({"config": []}, "config"),
        ({"config": {"Labels": 5}}, "config.Labels"),
        ({"config": {"labels": 5}}, "config.labels"),
        ({"config": {"Labels": {"a": 5}}}, "config.Labels"),
        ({"config": {"Env": "A=1"}}, "config.Env"),
        ({"config": {"Cmd": [1]}}, "config.Cmd"),
        ({"config": {"ExposedPorts": ["80"]}}, "config.ExposedPorts"),
        ({"created": 5}, "created"),
        ({"rootfs": {"diff_ids": "x"}}, "rootfs.diff_ids"),
        ({"rootfs": None}, "rootfs"),
        ({"config": {"Other": nested(40)}}, "nested too deep"),
    ],
)
def test_what_an_image_says_must_be_of_its_kind(store: Images, said: dict[str, Any], field: str) -> None:
    """It would be met by whoever lists images, or makes a container, much later."""
    with pytest.raises(InvalidRequest, match=re.escape(field)):
        list(store.load(io.BytesIO(saved([packed(file("a"))], ["x:1"], said=said))))
    assert store.all() == ()


@ROOT
def test_what_an_image_says_may_be_nothing(store: Images) -> None:
    """Nulls are what Docker writes where there is nothing."""
    said = {"config": {"Cmd": None, "Env": None, "Labels": None, "Volumes": None, "Other": [3]}, "history": None}
    (image,) = store.load(io.BytesIO(saved([packed(file("a"))], ["x:1"], said=said)))
    assert shapes.inspect(image, (1, 50))["Config"] == said["config"]
    assert len(shapes.history(image)) == 1


@ROOT
def test_of_several_platforms_this_machines_is_loaded(store: Images) -> None:
    """Others cannot run here; what there is for one alone, its owner may know why."""
    base = packed(file("base", b"12345"))
    for machine, architecture in (("x86_64", "amd64"), ("aarch64", "arm64")):
        (image,) = store.load(io.BytesIO(layout([base], "app:2", ["amd64", "arm64"])), machine)
        assert image.names == ("app:2",)
        assert image.configuration["architecture"] == architecture
    assert list(store.load(io.BytesIO(layout([base], "app:2", ["amd64", "arm64"])), "riscv64")) == []
    (image,) = store.load(io.BytesIO(layout([base], "app:3", ["s390x"])), "x86_64")
    assert image.names == ("app:3",)


@ROOT
def test_indexes_of_indexes_end(store: Images) -> None:
    """Each of a thousand times a thousand would be read, though there is one."""
    for counts in ((1001,), (1, 1)):
        content, blobs = b'{"manifests": []}', []
        for count in counts:
            digest = hashlib.sha256(content).hexdigest()
            blobs.append(file(f"blobs/sha256/{digest}", content))
            content = json.dumps({"manifests": [{"digest": f"sha256:{digest}"}] * count}).encode()
        with pytest.raises(InvalidRequest, match=r"1000 in manifests|nested too deep"):
            list(store.load(io.BytesIO(packed(*blobs, file("index.json", content)))))


@ROOT
def test_a_layer_may_be_a_link_to_another(store: Images) -> None:
    """So `docker save` did it for years."""
    base = packed(file("base", b"12345"))
    whole = saved([base], ["x:1"])
    linked = packed(file("1/layer.tar", base), link("0/layer.tar", "../1/layer.tar"))
    (image,) = store.load(io.BytesIO(linked[: heads(linked)[-1]] + whole[heads(whole)[1] :]))
    assert Path(image.layers[0], "base").read_bytes() == b"12345"


@ROOT
def test_a_root_file_system_is_imported(store: Images) -> None:
    """`docker import`."""
    image = store.import_(io.BytesIO(packed(file("f", b"x"))), "app", changes=['CMD ["/f"]'], machine="x86_64")
    assert image.names == ("app:latest",)
    assert image.configuration["config"] == {"Cmd": ["/f"]}
    assert image.configuration["architecture"] == "amd64"
    again = store.import_(io.BytesIO(packed(file("g", b"x"))), "app")
    assert store.find("app").id == again.id
    assert store.find(image.id).names == ()
    assert store.prune(lambda one: bool(one.names))[0][-1]["Deleted"] in {image.id, image.diff_ids[0]}
    assert [one.id for one in store.all()] == [again.id]


@ROOT
def test_an_image_that_a_container_is_of_stays(store: Images) -> None:
    """Docker's words for both cases."""
    image = store.import_(io.BytesIO(packed(file("f", b"x"))), "app")
    short = image.id[7:19]
    used[image.id] = ("c" * 64, True)
    for force in (True, False):
        with pytest.raises(NameTaken) as refused:
            store.remove(image.id, force=force)
        assert str(refused.value) == (
            f"conflict: unable to delete {short} (cannot be forced) - "
            "image is being used by running container cccccccccccc"
        )
    with pytest.raises(NameTaken) as refused:
        store.remove("app")
    assert str(refused.value) == (
        'conflict: unable to remove repository reference "app" (must force) - '
        f"container cccccccccccc is using its referenced image {short}"
    )
    store.tag("app", "other:1")
    assert store.remove("app") == [{"Untagged": "app:latest"}]
    assert store.remove("other:1", force=True) == [{"Untagged": "other:1"}]
    used[image.id] = ("c" * 64, False)
    with pytest.raises(NameTaken, match=rf"delete {short} \(must be forced\) - .* stopped container cccccccccccc$"):
        store.remove(image.id)
    assert Path(image.layers[0]).exists()
    assert store.prune(lambda _: False)[0] == []
    used.clear()
    assert {"Deleted": image.id} in store.remove(image.id)


@ROOT
def test_what_a_dead_daemon_left_is_cleared_away(tmp_path: Path, store: Images) -> None:
    """Half an image is none."""
    image = store.import_(io.BytesIO(packed(file("f", b"x"))), "app")
    root = tmp_path / "images"
    (root / "coming" / "half" / "tree").mkdir(parents=True)
    (root / "layers" / ("0" * 64) / "tree").mkdir(parents=True)
    deep = os.open(root / "coming" / "half" / "tree", os.O_PATH)
    for _ in range(1500):
        os.mkdir("directory", dir_fd=deep)
        deeper = os.open("directory", os.O_PATH, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    Images(root, dict, str).start()
    assert not (root / "coming" / "half").exists()
    assert [one.name for one in (root / "layers").iterdir()] == [image.diff_ids[0].removeprefix("sha256:")]


@ROOT
def test_a_layer_is_on_the_disk_before_it_has_its_place(tmp_path: Path) -> None:
    """A layer that the disk did not take is none, and is unpacked again the next time."""
    root = tmp_path / "images"
    full = [True]

    def flush(top: int) -> None:
        assert sorted(os.listdir(top)) == ["size", "tree"]
        assert not list((root / "layers").iterdir())
        if full.pop():
            raise OSError(errno.EIO, "Input/output error")

    store = Images(root, dict, str, flush)
    store.start()
    with pytest.raises(IsthmusError, match=r"cannot keep a layer in .*images: Input/output error"):
        store.import_(io.BytesIO(packed(file("f", b"x"))), "app")
    assert store.all() == ()
    assert not [*(root / "layers").iterdir(), *(root / "coming").iterdir()]
    full.append(False)
    assert store.import_(io.BytesIO(packed(file("f", b"x"))), "app").names == ("app:latest",)


@ROOT
def test_nothing_is_left_of_an_image_of_which_a_layer_is_damaged(tmp_path: Path, store: Images) -> None:
    """Neither the layers before it; what other images have stays."""
    base, more = packed(file("base", b"12345")), packed(file("more", b"678"))
    (image,) = store.load(io.BytesIO(saved([base], ["one:1"])))
    for broken in (saved([base, more, b"x"], ["x:1"]), saved([more, base], ["UPPER"]), saved([more, b"x"], ["x:1"])):
        with pytest.raises(InvalidRequest):
            list(store.load(io.BytesIO(broken)))
        assert [one.name for one in (tmp_path / "images" / "layers").iterdir()] == [image.diff_ids[0][7:]]


@ROOT
@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("layers/{layer}/size", None),
        ("layers/{layer}/size", b""),
        ("layers/{layer}/tree", None),
        ("layers/{layer}", None),
        ("layers/{layer}", b"a file"),
        ("images/{image}", b""),
        ("images/{image}", b'{"rootfs": {"diff_ids": []}}'),
    ],
)
def test_an_image_that_is_not_whole_is_taken_apart_at_the_start(
    tmp_path: Path, store: Images, caplog: pytest.LogCaptureFixture, place: str, content: bytes | None
) -> None:
    """It could not run; and a layer of it that is half there would be taken for whole by the next image that has it."""
    base, more = packed(file("base", b"12345")), packed(file("more", b"678"))
    list(store.load(io.BytesIO(saved([base], ["one:1"]))))
    (image,) = store.load(io.BytesIO(saved([base, more], ["two:1"])))
    damaged = tmp_path / "images" / place.format(layer=image.diff_ids[1][7:], image=image.id[7:])
    trees.remove(str(damaged))
    if content is not None:
        damaged.write_bytes(content)
    again = Images(tmp_path / "images", dict, str)
    again.start()
    assert [one.names for one in again.all()] == [("one:1",)]
    assert f"the image {image.id[7:19]} is not whole" in caplog.text
    (image,) = again.load(io.BytesIO(saved([base, more], ["two:1"])))
    assert Path(image.layers[1], "more").read_bytes() == b"678"


@ROOT
@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 3}', b'{"a:1": "b"}'])
def test_damaged_names_are_laid_aside_at_the_start(tmp_path: Path, store: Images, content: bytes) -> None:
    """Images can be had by their IDs, and named again."""
    image = store.import_(io.BytesIO(packed(file("f"))), "app")
    (tmp_path / "images" / "references").write_bytes(content)
    again = Images(tmp_path / "images", dict, str)
    again.start()
    assert [(one.id, one.names) for one in again.all()] == [(image.id, ())]
    assert (tmp_path / "images" / "references.damaged").read_bytes() == content
    assert again.tag(image.id, "app").names == ("app:latest",)


@ROOT
def test_a_disk_that_takes_no_more_is_told_in_a_sentence(store: Images) -> None:
    """It can be full long before we think so, by quotas and by others."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(IsthmusError, match="cannot keep an archive"), store.spool() as file_:
            file_.write(bytes(2 << 20))
        with pytest.raises(IsthmusError, match="cannot unpack"):
            store.import_(io.BytesIO(packed(file("f", bytes(2 << 20)))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.all() == ()


@ROOT
def test_beginnings_of_ids_must_be_those_of_one(store: Images) -> None:
    """And a name comes before an ID."""
    ids = [store.import_(io.BytesIO(packed(file(str(number))))).id[7:] for number in range(17)]
    twice = next(one[0] for one in ids if [other[0] for other in ids].count(one[0]) > 1)
    with pytest.raises(Ambiguous):
        store.find(twice)
    store.tag(ids[0], twice)
    assert store.find(twice).id == f"sha256:{ids[0]}"


@ROOT
def test_a_pruning_frees_only_what_nobody_else_has(store: Images) -> None:
    """A layer that another image has stays, and takes its room as before."""
    base, more = packed(file("base", b"12345")), packed(file("more", b"678"))
    list(store.load(io.BytesIO(saved([base], ["one:1"]))))
    list(store.load(io.BytesIO(saved([base, more], []))))
    assert store.prune(lambda image: bool(image.names))[1] == 3


@ROOT
def test_images_can_be_listed_while_others_remove_them(store: Images) -> None:
    """Whoever lists sees what is there then."""
    over = threading.Event()

    def come_and_go() -> None:
        for number in range(60):
            store.remove(store.import_(io.BytesIO(packed(file(str(number))))).id)
        over.set()

    with ThreadPoolExecutor() as pool:
        going = pool.submit(come_and_go)
        while not over.is_set():
            for image in store.all():
                with suppress(NotFound):
                    store.find(image.id)
        going.result()


def test_an_archive_is_let_go_of_beside_the_loop(store: Images) -> None:
    """A large file takes its time to go; and what went wrong with it is told as before."""

    @contextmanager
    def telling() -> Iterator[int]:
        try:
            yield 5
        except ZeroDivisionError:
            raise InvalidRequest("told") from None
        finally:
            left.append(threading.current_thread())

    async def use() -> None:
        async with aside(telling()) as five:
            assert five == 5
        with pytest.raises(InvalidRequest, match="told"):
            async with aside(telling()):
                raise ZeroDivisionError
        with pytest.raises(KeyError):
            async with aside(telling()):
                raise KeyError
        async with aside(store.spool()) as file_:
            file_.write(b"x")

    left: list[threading.Thread] = []
    asyncio.run(use())
    assert len(left) == 3
    assert threading.main_thread() not in left


# What clients are shown of them.


def image(*names: str, **said: Any) -> Image:  # noqa: ANN401 - JSON
    """An image of two layers."""
    return Image("sha256:" + "1" * 64, names, ("a", "b"), ("/a", "/b"), (5, 7), said)


def test_the_history_tells_the_size_of_each_layer() -> None:
    """The newest first; what made no layer has none."""
    steps = [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "COPY"}]
    shown = shapes.history(image("a:1", history=steps))
    assert [(one["CreatedBy"], one["Size"]) for one in shown] == [("COPY", 7), ("ENV", 0), ("ADD", 5)]
    assert [one["Tags"] for one in shown] == [["a:1"], None, None]
    assert [one["Size"] for one in shapes.history(image(history=[]))] == [7, 5]


def test_old_clients_are_told_of_no_names_by_name() -> None:
    """As Docker did until API 1.43."""
    assert shapes.summary(image(), (1, 42))["RepoTags"] == ["<none>:<none>"]
    assert shapes.summary(image(), (1, 42))["RepoDigests"] == ["<none>@<none>"]
    assert shapes.summary(image(), (1, 43))["RepoTags"] == []


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("*", ["app:1"]),
        ("a*", ["app:1"]),
        ("app", ["app:1"]),
        ("app:?", ["app:1"]),
        ("*/*", ["me/app:1", "me/app:2"]),
        ("me/*:2", ["me/app:2"]),
        ("[^b]pp", ["app:1"]),
        ("me*", []),
    ],
)
def test_a_pattern_of_references_stands_for_no_slash(pattern: str, fitting: list[str]) -> None:
    """Go's `path.Match`; and only names that fit are shown."""
    filters = parse(json.dumps({"reference": [pattern]}), shapes.FILTERS)
    known = [image("app:1", "me/app:1", "me/app:2"), image()]
    found = shapes.wanted(filters, known, lambda _: known[0], 0)
    assert [name for one in found for name in one.names] == fitting
    assert len(found) == bool(fitting)


def test_images_are_listed_that_were_made_until_a_time() -> None:
    """Of several times, all count."""
    known = [image(created="2026-01-01T00:00:00Z"), image(created="2026-01-03T00:00:00Z")]
    for times, count in ((["2026-01-02T00:00:00Z"], 1), (["2026-01-04T00:00:00Z"], 2), (["5m", "10"], 0)):
        filters = parse(json.dumps({"until": times}), shapes.FILTERS)
        assert len(shapes.wanted(filters, known, lambda _: known[0], 1_800_000_000 * 10**9)) == count
