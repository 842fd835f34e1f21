"""The images of this machine, below one directory. What there is follows from what lies there; nothing is counted.

    layers/<digest>/tree   an unpacked layer        layers/<digest>/size   the bytes of its files
    images/<digest>        the configuration of an image, by whose digest it is known; written last
    references             which names stand for which images: JSON, replaced as a whole
    coming/                what is being unpacked, or was when a daemon died; emptied at the start

A layer is there once, whoever has it, and goes with the last image that does. What lies in `layers` and `images` is on
the disk: a layer before it has its place, and all layers of an image before the image. All methods may be called from
any thread; what they change, they change one after another.
"""

import hashlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO, cast

import msgspec

from isthmus import disk
from isthmus.errors import Ambiguous, InvalidRequest, IsthmusError, NameTaken, NotFound
from isthmus.images import archive, trees
from isthmus.images.reference import familiar
from isthmus.images.tar import Tar, damage_told, plain
from isthmus.images.unpack import Limits, unpack

log = logging.getLogger("isthmus.images")

RESERVE = 256 << 20
"""How many bytes of the file system unpacking leaves free."""


class Image(msgspec.Struct, frozen=True):
    """An image: its ID, its names, its layers (the lowest first), and what it says.

    Of layers there are the digests, the directories, and the sizes in bytes. *Configuration* is that of OCI's
    image-spec (`config.md`), with each field of its kind.
    """

    id: str
    names: tuple[str, ...]
    diff_ids: tuple[str, ...]
    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    configuration: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The size of all its layers in bytes."""
        return sum(self.sizes)


InUse = Callable[[], Mapping[str, tuple[str, bool]]]
"""Tells which images containers are of: by image ID, the ID of a container, and whether one of them runs."""


class Images:
    """All images below *root*. *In_use* tells who needs which; *clock* the time as RFC 3339 has it.

    *Flush* has on the disk what was written to the file system of a descriptor.
    """

    def __init__(
        self, root: Path, in_use: InUse, clock: Callable[[], str], flush: Callable[[int], None] = disk.flush
    ) -> None:
        self._root = root
        self._in_use = in_use
        self._clock = clock
        self._flush = flush
        self._layers, self._images, self._coming = root / "layers", root / "images", root / "coming"
        self._changing = threading.Lock()
        self._claims: Counter[str] = Counter()

    def start(self) -> None:
        """Clear away what a dead daemon was unpacking, images that are not whole, and layers that no image has."""
        for place in (self._layers, self._images, self._coming):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        flaws = {place: why for place in self._images.iterdir() if (why := self._flaw(place))}
        for place, why in flaws.items():
            log.error("the image %s is not whole, and is removed: %s", place.name[:12], why)
            _discard(place)
        if flaws:
            disk.settle(self._images)
        try:
            self._names()
        except (msgspec.MsgspecError, InvalidRequest) as error:
            log.error("the names of images are damaged, and are laid aside as references.damaged: %s", error)  # noqa: TRY400 - it is told whole
            (self._root / "references").rename(self._root / "references.damaged")
        self._sweep()
        _discard(*self._coming.iterdir())

    def _flaw(self, place: Path) -> str:
        """What lacks of the image of this configuration, as disks and people may damage what is theirs; "" if none."""
        try:
            if hashlib.sha256(place.read_bytes()).hexdigest() != place.name:
                return "its configuration is another"
            layers = self._image(f"sha256:{place.name}", {}).layers
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
            return str(error)
        return next((f"{layer} is gone" for layer in layers if not Path(layer).is_dir()), "")

    # What there is.

    def all(self) -> tuple[Image, ...]:
        """All images."""
        names = self._names()
        found = []
        for place in sorted(self._images.iterdir()):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                found.append(self._image(f"sha256:{place.name}", names))
        return tuple(found)

    def find(self, name: str) -> Image:
        """The image that *name* stands for: a name, with or without a tag, an ID, or the beginning of one.

        Raises:
            NotFound, Ambiguous: Docker's words.
        """
        names = self._names()
        missing = NotFound(f"No such image: {name if ':' in name or '@' in name else f'{name}:latest'}")
        identity = ""
        with suppress(InvalidRequest):
            identity = names.get(familiar(name), "")
        if not identity:
            prefix = name.removeprefix("sha256:")
            found = [place.name for place in self._images.iterdir() if prefix and place.name.startswith(prefix)]
            if len(found) > 1:
                raise Ambiguous("image", name, len(found), "ID prefix")
            if not found:
                raise missing
            identity = f"sha256:{found[0]}"
        try:
            return self._image(identity, names)
        except FileNotFoundError:  # it was removed meanwhile
            raise missing from None

    def _image(self, identity: str, names: Mapping[str, str]) -> Image:
        configuration = _read(self._images / archive.digits(identity))
        diff_ids = archive.diff_ids(configuration)
        places = [self._place(one) for one in diff_ids]
        return Image(
            identity,
            tuple(sorted(name for name, image in names.items() if image == identity)),
            diff_ids,
            tuple(str(place / "tree") for place in places),
            tuple(int((place / "size").read_text()) for place in places),
            configuration,
        )

    def _place(self, diff_id: str) -> Path:
        return self._layers / archive.digits(diff_id)

    def _names(self) -> dict[str, str]:
        try:
            names = msgspec.json.decode((self._root / "references").read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        return {
            name: identity for name, identity in names.items() if (self._images / archive.digits(identity)).exists()
        }

    # What comes.

    @contextmanager
    def spool(self) -> Iterator[BinaryIO]:
        """A file for an archive that comes over a connection; it is gone in the end."""
        directory = Path(mkdtemp(dir=self._coming))
        try:
            with self._kept("an archive"), (directory / "archive").open("w+b") as file:
                yield file
        finally:
            _discard(directory)

    @contextmanager
    def _kept(self, what: str) -> Iterator[None]:
        """Have it told in a sentence if the disk does not take *what*."""
        try:
            yield
        except OSError as error:
            raise IsthmusError(f"cannot keep {what} in {self._root}: {error.strerror or error}") from error

    def room(self) -> int:
        """How many bytes may still come."""
        free = os.statvfs(self._root)
        return max(free.f_bavail * free.f_frsize - RESERVE, 0)

    def import_(
        self, file: BinaryIO, name: str = "", *, changes: Sequence[str] = (), message: str = "", machine: str = ""
    ) -> Image:
        """Make an image of an archive of a root file system, under a *name* if one is given.

        *Changes* are lines of a Dockerfile, such as `CMD ["sh"]`.

        Raises:
            InvalidRequest: the archive, the name or a change cannot be meant.
        """
        name = familiar(name) if name else ""
        config = archive.changed({}, changes)
        with self._claimed() as claim:
            diff_id = self._unpack(plain(file), None, claim)
            configuration = archive.imported(diff_id, config, message or "Imported from -", self._clock(), machine)
            return self._keep(json.dumps(configuration).encode(), [name] if name else [])

    def load(self, file: BinaryIO, machine: str = "") -> Iterator[Image]:
        """Make the images that an archive of `docker save`, or an OCI layout, holds; each as it is done.

        Of an image for several platforms it is that for *machine*, as `uname -m` names it.

        Raises:
            InvalidRequest: it is none, or something in it is not what its digest says.
        """
        with damage_told(), Tar.open(fileobj=plain(file), mode="r:") as tar:
            for one in archive.images(tar, machine):
                names = [familiar(name) for name in one.names]
                with self._claimed() as claim:
                    for diff_id, member in zip(one.diff_ids, one.layers, strict=True):
                        claim(diff_id)
                        if not self._place(diff_id).exists():
                            self._unpack(plain(cast("BinaryIO", archive.member(tar, member))), diff_id, claim)
                    image = self._keep(one.configuration, names)
                yield image

    @contextmanager
    def _claimed(self) -> Iterator[Callable[[str], None]]:
        """What claims a layer by its digest: no layer goes that somebody is making an image of.

        If none comes to be, the layers that it alone would have had go.
        """
        claimed: list[str] = []

        def claim(diff_id: str) -> None:
            with self._changing:
                claimed.append(diff_id)
                self._claims[archive.digits(diff_id)] += 1

        swept: list[Path] = []
        made = False
        try:
            yield claim
            made = True
        finally:
            with self._changing:
                self._claims -= Counter(map(archive.digits, claimed))
                if not made:
                    with suppress(OSError):  # at the next start, then
                        swept = self._sweep()
            _discard(*(place.parent for place in swept))

    def _unpack(self, tar: Any, wanted: str | None, claim: Callable[[str], None]) -> str:  # noqa: ANN401 - any file
        """Have the layer of this archive, which must have the digest *wanted* if that is given; return its digest."""
        directory = Path(mkdtemp(dir=self._coming))
        try:
            with self._kept("a layer"), disk.opened(directory) as top:
                tree = directory / "tree"
                tree.mkdir(mode=0o755)
                digest, size = unpack(tar, str(tree), Limits(octets=self.room()))
                if wanted not in {None, digest}:
                    raise InvalidRequest(
                        f"the archive is damaged: a layer has the digest {digest}, and should have {wanted}"
                    )
                (directory / "size").write_text(str(size))
                self._flush(top)
                claim(digest)
                try:
                    directory.rename(self._place(digest))
                except OSError:
                    if not self._place(digest).exists():  # otherwise it came to be meanwhile
                        raise
                return digest
        finally:
            _discard(directory)

    def _keep(self, configuration: bytes, names: Sequence[str]) -> Image:
        identity = f"sha256:{hashlib.sha256(configuration).hexdigest()}"
        with self._kept("an image"), self._changing:
            disk.settle(self._layers)
            self._write(self._images / archive.digits(identity), configuration)
            self._rename({**self._names(), **dict.fromkeys(names, identity)})
        return self.find(identity)

    def _write(self, path: Path, content: bytes) -> None:
        disk.replace(path, content, self._coming / f"{path.name}.new")

    def _rename(self, names: Mapping[str, str]) -> None:
        self._write(self._root / "references", json.dumps(names, indent=1).encode())

    # What is done to them.

    def tag(self, name: str, new: str) -> Image:
        """Give an image one more name, which then stands for no other; return the image."""
        new = familiar(new)
        with self._kept("a name"), self._changing:
            self._rename({**self._names(), new: self.find(name).id})
            return self.find(new)

    def remove(self, name: str, *, force: bool = False) -> list[dict[str, str]]:
        """Take a name from an image, and the image away with its last one; return what was done, as Docker tells it.

        Raises:
            NameTaken: a container is of it, or it has several names and was named by its ID (409, Docker's words).
        """
        with self._kept("what is left"), self._changing:
            image = self.find(name)
            by_name = ""
            with suppress(InvalidRequest):
                by_name = familiar(name) if familiar(name) in image.names else ""
            container, runs = self._in_use().get(image.id, ("", False))
            if by_name:
                conflict = "" if force or len(image.names) > 1 else _conflict_of_name(image, name, container)
            else:
                conflict = _conflict(image, container, force=force, runs=runs)
            if conflict:
                raise NameTaken(f"conflict: unable to {conflict}")
            gone = [by_name] if by_name else list(image.names)
            done = [{"Untagged": one} for one in gone]
            self._rename({known: identity for known, identity in self._names().items() if known not in gone})
            swept: list[Path] = []
            if len(gone) == len(image.names) and not container:
                (self._images / archive.digits(image.id)).unlink()
                disk.settle(self._images)
                swept = self._sweep()
                done += [{"Deleted": one} for one in (image.id, *(f"sha256:{place.name}" for place in swept))]
        _discard(*(place.parent for place in swept))
        return done

    def prune(self, keep: Callable[[Image], bool]) -> tuple[list[dict[str, str]], int]:
        """Remove all images that no container is of and that *keep* does not spare; return what was done, and bytes."""
        done: list[dict[str, str]] = []
        known, used = self.all(), self._in_use()
        for image in known:
            if image.id not in used and not keep(image):
                with suppress(NotFound, NameTaken):  # it went meanwhile, or a container came
                    done += self.remove(image.id, force=True)
        sizes = {layer: size for image in known for layer, size in zip(image.diff_ids, image.sizes, strict=True)}
        return done, sum(sizes.get(one.get("Deleted", ""), 0) for one in done)

    def _sweep(self) -> list[Path]:
        """Put layers that no image has out of sight, so that half of one is nobody's; return where they are now."""
        needed = {
            archive.digits(diff_id) for place in self._images.iterdir() for diff_id in archive.diff_ids(_read(place))
        }
        gone = [one for one in self._layers.iterdir() if one.name not in needed and not self._claims[one.name]]
        return [place.rename(Path(mkdtemp(dir=self._coming)) / place.name) for place in gone]


def _conflict_of_name(image: Image, name: str, container: str) -> str:
    """Why an image's only name cannot be taken from it; "" if it can."""
    if not container:
        return ""
    using = f"container {container[:12]} is using its referenced image {_short(image)}"
    return f'remove repository reference "{name}" (must force) - {using}'


def _conflict(image: Image, container: str, *, force: bool, runs: bool) -> str:
    """Why an image cannot be removed by its ID; "" if it can."""
    if runs:
        why = f"(cannot be forced) - image is being used by running container {container[:12]}"
    elif not force and len(image.names) > 1:
        why = "(must be forced) - image is referenced in multiple repositories"
    elif not force and container:
        why = f"(must be forced) - image is being used by stopped container {container[:12]}"
    else:
        return ""
    return f"delete {_short(image)} {why}"


def _short(image: Image) -> str:
    return archive.digits(image.id)[:12]


def _read(configuration: Path) -> Mapping[str, Any]:
    """What an image says, which was checked when it came."""
    said: Mapping[str, Any] = msgspec.json.decode(configuration.read_bytes())
    return said


def _discard(*places: Path) -> None:
    """Remove these; what cannot be removed lies until the next start."""
    for place in places:
        with suppress(OSError):
            trees.remove(str(place))
