"""Images: their names, what archives of them say, and what an archive can do to us, which is nothing."""

import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import Ambiguous, InvalidRequest, IsthmusError, NameTaken, NotFound
from isthmus.images import archive
from isthmus.images.reference import familiar
from isthmus.images.store import Images
from isthmus.images.unpack import Limits, plain, unpack

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and devices are kept")
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
    bomb = io.BytesIO(gzip.compress(packed(file("zeros", bytes(50 << 20)))))
    with pytest.raises(InvalidRequest, match="too large"):
        unpack(plain(bomb), place, Limits(octets=1 << 20))
    assert not Path(place, "zeros").exists()


@ROOT
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_an_archive_that_is_cut_off_or_damaged_is_refused(place: str, pack: Any) -> None:  # noqa: ANN401
    """Wherever it is cut, there is a sentence and no traceback."""
    whole = pack(packed(file("a", os.urandom(9000)), file("b", os.urandom(9000))))
    assert unpack(plain(io.BytesIO(whole)), place)[1] == 18000
    for length in range(1, min(len(whole), 17_000), 997):
        with pytest.raises(InvalidRequest, match=r"damaged|cut off"):
            unpack(plain(io.BytesIO(whole[:length])), place)


def test_what_is_compressed_otherwise_is_named() -> None:
    """Rather than taken for damage."""
    with pytest.raises(InvalidRequest, match="zstd"):
        plain(io.BytesIO(b"\x28\xb5\x2f\xfd rest"))


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


def saved(layers: list[bytes], names: list[str], *, lie: bool = False, **config: object) -> bytes:
    """What `docker save` would write."""
    ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    if lie:
        ids[0] = "sha256:" + "0" * 64
    configuration = json.dumps({"config": config, "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    manifest = [
        {"Config": "c.json", "RepoTags": names, "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}
    ]
    contents = [file(f"{number}/layer.tar", one) for number, one in enumerate(layers)]
    return packed(*contents, file("c.json", configuration), file("manifest.json", json.dumps(manifest).encode()))


def layout(layers: list[bytes], name: str) -> bytes:
    """An OCI layout, with layers that are compressed."""
    ids = [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]
    blobs: dict[str, bytes] = {}

    def blob(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return f"sha256:{digest}"

    configuration = json.dumps({"config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": ids}}).encode()
    manifest = {
        "config": {"digest": blob(configuration)},
        "layers": [{"digest": blob(gzip.compress(one))} for one in layers],
    }
    entry = {"digest": blob(json.dumps(manifest).encode()), "annotations": {"io.containerd.image.name": name}}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
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
    (image,) = store.load(io.BytesIO(layout([base], "docker.io/library/app:2")))
    assert image.names == ("app:2",)
    assert Path(image.layers[0], "base").read_bytes() == b"12345"
    spoilt = layout([base], "app:3").replace(b'"Cmd"', b'"Cmx"')
    with pytest.raises(InvalidRequest):
        list(store.load(io.BytesIO(spoilt)))


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
    used[image.id] = ("c" * 64, True)
    with pytest.raises(NameTaken, match=r"cannot be forced.*container cccccccccccc is using"):
        store.remove("app", force=True)
    used[image.id] = ("c" * 64, False)
    with pytest.raises(NameTaken, match="must be forced"):
        store.remove("app")
    store.tag("app", "other:1")
    assert store.remove("app") == [{"Untagged": "app:latest"}]
    assert store.remove("other:1", force=True) == [{"Untagged": "other:1"}]
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
    Images(root, dict, str).start()
    assert not (root / "coming" / "half").exists()
    assert [one.name for one in (root / "layers").iterdir()] == [image.diff_ids[0].removeprefix("sha256:")]


@ROOT
def test_beginnings_of_ids_must_be_those_of_one(store: Images) -> None:
    """And a name comes before an ID."""
    ids = [store.import_(io.BytesIO(packed(file(str(number))))).id[7:] for number in range(17)]
    twice = next(one[0] for one in ids if [other[0] for other in ids].count(one[0]) > 1)
    with pytest.raises(Ambiguous):
        store.find(twice)
    store.tag(ids[0], twice)
    assert store.find(twice).id == f"sha256:{ids[0]}"
