"""Reading tar archives, and what they are compressed by, from anybody."""

import bz2
import gzip
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

from isthmus.errors import InvalidRequest

_END = bytes(tarfile.BLOCKSIZE)
_MOST_HEADERS = 1 << 20
_MOST_GLOBALS = 64
_CONFUSED = (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError)
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)
_WINDOW = 27


class _Zstandard:
    """What a file compressed by zstd holds; damage is a `TarError`, as the library's own is not known before."""

    def __init__(self, file: IO[bytes]) -> None:
        # Only who reads such an archive pays for the library.
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        # 128 MiB of memory, which is what zstd reads without being told to (and RFC 8878 asks for 8 MiB).
        self._file = zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: _WINDOW})
        self._damaged = zstd.ZstdError
        self.tell, self.seekable = self._file.tell, self._file.seekable

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except self._damaged as error:
            raise tarfile.ReadError(str(error)) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except self._damaged as error:
            raise tarfile.ReadError(str(error)) from error


# Frames of zstd may follow one that is to be skipped (RFC 8878, 3.1).
_ZSTANDARD = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + number, 0x2A, 0x4D, 0x18)) for number in range(16)))
_MAGIC: tuple[tuple[bytes | tuple[bytes, ...], Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file))),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (_ZSTANDARD, lambda file: cast("IO[bytes]", _Zstandard(file))),
)


def plain(file: BinaryIO) -> IO[bytes]:
    """What *file* holds, decompressed if it is compressed."""
    start = file.tell()
    head = file.read(6)
    file.seek(start)
    for magic, opener in _MAGIC:
        if head.startswith(magic):
            return opener(file)
    return file


@contextmanager
def damage_told() -> Iterator[None]:
    """Have all that can be wrong with an archive, or with its compression, told as `InvalidRequest`."""
    try:
        yield
    except _DAMAGED as error:
        raise InvalidRequest(f"the archive is damaged or cut off: {error}") from error
    except OSError as error:
        if error.errno is None:  # of gzip and bz2, not of the system
            raise InvalidRequest(f"the archive is damaged or cut off: {error}") from error
        raise


class Tar(tarfile.TarFile):
    """An archive that has ended only where it says so, with blocks of zeros.

    Python's own reader takes a damaged header for the end, and the end of the file, too; and it reads into memory what
    goes before a member (long names, attributes, maps of sparse files), however long that is.
    """

    members: list[tarfile.TarInfo]

    def next(self) -> tarfile.TarInfo | None:
        """The next member; None after the last.

        Raises:
            TarError: there is something else.
        """
        file = self.fileobj
        headers = _Headers(file)
        self.fileobj = cast("Any", headers)
        try:
            member = super().next()
        except _CONFUSED as error:
            raise tarfile.ReadError("a header in it cannot be meant") from error
        finally:
            self.fileobj = file
        if member is None and headers.last is not None and (headers.last != _END or not self._ends()):
            raise tarfile.ReadError("what follows is neither a member of it nor its end")
        # Whoever reads on from a size below zero reads for ever.
        sparse = cast("Any", member and member.sparse) or ()
        if member and min(member.size, *(one for pair in sparse for one in pair), 0) < 0:
            raise tarfile.ReadError(f"{member.name} has a size below zero")
        if len(self.pax_headers) > _MOST_GLOBALS:
            raise tarfile.ReadError("too much is said of all members at once")
        return member

    def _ends(self) -> bool:
        """Whether a second block of zeros follows, or nothing."""
        return bool(self.fileobj) and self.fileobj.read(len(_END)) in {_END, b""}


class _Headers:
    """A file of which headers are read: not without limit, and it is known what came last."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - whatever tarfile reads from
        self._file = file
        self._left = _MOST_HEADERS
        self.last: bytes | None = None
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._left -= size
        if size < 0 or self._left < 0:
            raise tarfile.ReadError(f"the headers of one member have more than {_MOST_HEADERS} bytes")
        self.last = self._file.read(size)
        return self.last
