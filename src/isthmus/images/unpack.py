"""Unpacking a layer: a tar archive becomes a directory that overlayfs can stack on others.

Nothing in an archive is trusted. Every place is found from the layer's own root by openat2(2) with `RESOLVE_IN_ROOT`,
so no name and no link, whoever made it, leads outside; what a name stands for already is replaced, never written
through. Owners, modes, times and capabilities are kept, devices are made, and what a layer takes away from those below
(`.wh.NAME`, `.wh..wh..opq`; OCI image-spec, `layer.md`) is written as overlayfs reads it.
"""

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import msgspec

from isthmus.errors import InvalidRequest, IsthmusError
from isthmus.images import trees
from isthmus.images.tar import Tar, damage_told
from isthmus.mounts import open_inside

_CHUNK = 1 << 20
_WHITEOUT, _OPAQUE, _META = ".wh.", ".wh..wh..opq", ".wh..wh."
_XATTR = "SCHILY.xattr."
_DEEPEST = 255
_BLOCK = 4096  # what file systems give a file at least
_HEADER = 2048  # how much of an archive an entry takes, but for what is in it, where many are counted
_LONGEST = 4095  # PATH_MAX, without the byte that ends it
_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV})


class Limits(msgspec.Struct, frozen=True):
    """How much an archive may be unpacked to: *octets* on the disk, *entries*, and *names* of directories in bytes."""

    octets: int = 1 << 40
    entries: int = 2_000_000
    names: int = 64 << 20


_LIMITS = Limits()


class Hashing:
    """A file that is read once, from its beginning to its end, with the SHA-256 of what was read: *most* bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._left = most
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next *size* bytes, fewer only at the end."""
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidRequest("the archive is too large: there is more of it than of files in it")
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read to the end; return the digest of all, such as `sha256:0123...`."""
        while self.read(_CHUNK):
            pass
        return f"sha256:{self._hash.hexdigest()}"


def unpack(archive: IO[bytes], directory: str, limits: Limits = _LIMITS) -> tuple[str, int]:
    """Unpack the tar *archive* into an empty *directory*; return its digest and the size of its files in bytes.

    Raises:
        InvalidRequest: it is damaged, cut off, too large, or leads outside.
        IsthmusError: it cannot be written here.
    """
    source = Hashing(archive, limits.octets + limits.entries * _HEADER)
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        layer = _Layer(root, limits)
        with damage_told(), Tar.open(fileobj=cast("IO[bytes]", source), mode="r|") as tar:
            for member in tar:
                layer.add(tar, member)
                tar.members.clear()  # nobody looks back, and there may be millions
            layer.finish()
            return source.finish(), layer.octets
    except OSError as error:
        if error.errno in _NOWHERE:
            raise InvalidRequest(
                f"the archive cannot be meant: {error.filename2 or error.filename!r}: {error.strerror}"
            ) from error
        raise IsthmusError(f"cannot unpack {error.filename or 'the archive'}: {error.strerror or error}") from error
    finally:
        os.close(root)


class _Layer:
    """A directory that is being filled from an archive."""

    def __init__(self, root: int, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._entries = self._taken = self._kept = 0
        self._times: dict[str, tuple[int, int]] = {}
        self._depth = _depth(root)
        self.octets = 0

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make what *member* is."""
        self._count(member)
        parts = _parts(member.name)
        if not parts:
            if member.isdir():
                self._dress(self._root, ".", member)
            return
        with self._parent(parts[:-1], member.name) as parent:
            name = parts[-1]
            if name == _OPAQUE:
                os.setxattr(f"/proc/self/fd/{parent}", "trusted.overlay.opaque", b"y")
            elif name.startswith(_META):
                pass  # of aufs, and for nobody else
            elif name.startswith(_WHITEOUT):
                hidden = name.removeprefix(_WHITEOUT)
                # It is in this very directory; `..` would be the one above, which may be none of the layer's.
                if hidden in {"", ".", ".."}:
                    raise InvalidRequest(f"the archive cannot be meant: {member.name} takes away no name")
                trees.remove(hidden, parent)
                os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
            else:
                self._make(tar, member, parent, name)
                if member.isdir():
                    self._times["/".join(parts)] = _times(member)
                    self._kept += len(member.name)

    def finish(self) -> None:
        """Give directories their times, which making things in them changed."""
        for path, times in self._times.items():
            with suppress(OSError), _opened(open_inside(self._root, path, os.O_RDONLY | os.O_DIRECTORY)) as place:
                os.utime(place, ns=times)

    def _count(self, member: tarfile.TarInfo) -> None:
        if max(len(member.name), len(member.linkname)) > _LONGEST:
            raise InvalidRequest(f"the archive cannot be meant: a name in it has more than {_LONGEST} characters")
        self._entries += 1
        size = max(member.size, 0) if member.isreg() else 0
        self.octets += size
        self._taken += max(-(-size // _BLOCK), 1) * _BLOCK
        if self._entries > self._limits.entries:
            raise InvalidRequest(f"the archive is too large: it has more than {self._limits.entries} entries")
        if self._kept > self._limits.names:
            raise InvalidRequest(
                f"the archive is too large: the names of its directories have more than {self._limits.names} bytes"
            )
        if max(self._taken, member.size) > self._limits.octets:
            raise InvalidRequest(
                f"the archive is too large: it holds more than the {self._limits.octets} bytes allowed"
            )

    @contextmanager
    def _parent(self, parts: list[str], name: str) -> Iterator[int]:
        """The directory that things of these *parts* are in, made if it is not there."""
        try:
            try:
                place = open_inside(self._root, "/".join(parts) or ".", os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                place = self._make_parents(parts)
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
            raise InvalidRequest(f"the archive cannot be meant: {name} leads nowhere ({error.strerror})") from None
        with _opened(place):
            # Where it really is, since links lead deeper than names tell.
            if _depth(place) - self._depth >= _DEEPEST:
                raise InvalidRequest(f"the archive cannot be meant: {name} lies in more than {_DEEPEST} directories")
            yield place

    def _make_parents(self, parts: list[str]) -> int:
        for count in range(1, len(parts) + 1):
            with (
                _opened(open_inside(self._root, "/".join(parts[: count - 1]) or ".", os.O_PATH | os.O_DIRECTORY)) as at,
                suppress(FileExistsError),
            ):
                os.mkdir(parts[count - 1], 0o755, dir_fd=at)
        return open_inside(self._root, "/".join(parts), os.O_PATH | os.O_DIRECTORY)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        if member.isdir():
            if not _is_directory(parent, name):
                trees.remove(name, parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        else:
            trees.remove(name, parent)
        if member.isreg():
            self._write(tar, member, parent, name)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._link(member, parent, name)
            return
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            if not (member.devmajor or member.devminor):
                raise InvalidRequest(f"the archive cannot be meant: {member.name} is a device 0:0, which only we make")
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif not member.isdir():
            raise InvalidRequest(f"the archive cannot be meant: {member.name} is of an unknown kind {member.type!r}")
        self._dress(parent, name, member)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        source = tar.extractfile(member)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as file:
            left = member.size
            while left and source:
                data = source.read(min(left, _CHUNK))
                if not data:
                    raise EOFError(f"{member.name} is cut off")
                file.write(data)
                left -= len(data)

    def _link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        """A hard link to what was unpacked before; never to what a symbolic link leads to."""
        target = "/".join(_parts(member.linkname))
        try:
            with _opened(open_inside(self._root, target, os.O_PATH | os.O_NOFOLLOW)) as there:
                os.link(f"/proc/self/fd/{there}", name, dst_dir_fd=parent, follow_symlinks=True)
        except OSError as error:
            if error.errno not in {*_NOWHERE, errno.EPERM}:
                raise
            raise InvalidRequest(
                f"the archive cannot be meant: {member.name} is a link to {member.linkname} ({error.strerror})"
            ) from None

    def _dress(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        """Give it its owner, mode, attributes and time, in an order that loses none of them."""
        os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & 0o7777, dir_fd=parent)
        for key, value in member.pax_headers.items():
            attribute = key.removeprefix(_XATTR)
            # Others would be read by overlayfs, or by security modules of this machine.
            if key.startswith(_XATTR) and (attribute == "security.capability" or attribute.startswith("user.")):
                place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                with _opened(place), suppress(OSError):
                    os.setxattr(f"/proc/self/fd/{place}", attribute, value.encode("utf-8", "surrogateescape"))
        os.utime(name, ns=_times(member), dir_fd=parent, follow_symlinks=False)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    time = max(int(float(member.mtime) * 10**9), 0)
    return time, time


def _parts(path: str) -> list[str]:
    """The names on the way to *path*, from the root of the layer.

    Raises:
        InvalidRequest: it leads upwards.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in path:
        raise InvalidRequest(f"the archive cannot be meant: {path} leads outside")
    return parts


def _is_directory(parent: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return False


def _depth(directory: int) -> int:
    return len(Path(f"/proc/self/fd/{directory}").readlink().parts)


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
