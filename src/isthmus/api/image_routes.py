"""The routes of images. Archives come as streams, lie in a file until they are read, and are read on threads."""

import asyncio
import json
import platform
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from isthmus.api import filters, images
from isthmus.api.message import Request, Response, answer
from isthmus.errors import InvalidRequest, IsthmusError, NotImplementedHere
from isthmus.images.reference import familiar, split
from isthmus.images.store import Image

if TYPE_CHECKING:
    from isthmus.api.routes import Api, Handler

_T = TypeVar("_T")
_LINES = {"Content-Type": "application/json"}


async def _list(api: "Api", request: Request) -> Response:
    asked = filters.parse(request.query.get("filters", ""), images.FILTERS)
    known = await asyncio.to_thread(api.store.all)
    found = images.wanted(asked, known, api.store.find, api.clock())
    found.sort(key=lambda image: -images.seconds(image))
    return answer(200, [images.summary(image, request.version) for image in found])


async def _inspect(api: "Api", request: Request) -> Response:
    return answer(200, images.inspect(api.store.find(request.names[0]), request.version))


async def _history(api: "Api", request: Request) -> Response:
    return answer(200, images.history(api.store.find(request.names[0])))


async def _tag(api: "Api", request: Request) -> Response:
    repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
    new = familiar(f"{repository}:{tag}" if tag else repository)
    image = await asyncio.to_thread(api.store.tag, request.names[0], new)
    _tell(api, "tag", image.id, new)
    return Response(201)


async def _remove(api: "Api", request: Request) -> Response:
    done = await asyncio.to_thread(api.store.remove, request.names[0], force=request.flag("force"))
    for one in done:
        for action, name in one.items():
            _tell(api, "untag" if action == "Untagged" else "delete", name, name)
    return answer(200, done)


async def _prune(api: "Api", request: Request) -> Response:
    spared = images.spared(filters.parse(request.query.get("filters", ""), images.PRUNE_FILTERS), api.clock())
    done, freed = await asyncio.to_thread(api.store.prune, spared)
    return answer(200, {"ImagesDeleted": done or None, "SpaceReclaimed": freed})


def _tell(api: "Api", action: str, identity: str, name: str) -> None:
    api.tell("image", action, identity, {"name": name})


class _Work:
    """What is done with an archive on a thread, and what it tells as it goes, as lines of JSON.

    The first line is awaited before the answer's head is sent, so that what fails at once fails with a status.
    """

    def __init__(self, lines: AsyncIterator[bytes], first: bytes | None) -> None:
        self._lines = lines
        self._first = first

    @classmethod
    async def begin(cls, lines: AsyncIterator[bytes]) -> "_Work":
        """Do it up to the first thing that there is to tell; raises what it raises until then."""
        return cls(lines, await anext(lines, None))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            yield self._first
        try:
            async for line in self._lines:
                yield line
        except IsthmusError as error:
            yield _line({"errorDetail": {"message": str(error)}, "error": str(error)})

    async def aclose(self) -> None:
        """Do no more."""
        if close := getattr(self._lines, "aclose", None):
            await close()


def _line(shape: object) -> bytes:
    return json.dumps(shape).encode() + b"\r\n"


@asynccontextmanager
async def aside(manager: AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """What *manager* gives, which is left on a thread: a large file takes its time to go."""
    value = manager.__enter__()
    try:
        yield value
    except BaseException as error:
        if not await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def _spooled(api: "Api", request: Request, file: BinaryIO) -> None:
    """Write the body of a request to *file*."""
    left = api.store.room()
    if request.stream:
        async for piece in request.stream:
            left -= len(piece)
            if left < 0:
                raise InvalidRequest("the archive is too large: the file system of the images has no room for it")
            await asyncio.to_thread(file.write, piece)
    file.seek(0)


async def _each(work: Iterator[Image]) -> AsyncIterator[Image]:
    """The images that *work* makes, each made on a thread."""
    while (image := await asyncio.to_thread(next, work, None)) is not None:
        yield image


async def _load(api: "Api", request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        async with aside(api.store.spool()) as file:
            await _spooled(api, request, file)
            async for line in _loaded(api, file):
                yield line

    return Response(200, headers=_LINES, stream=await _Work.begin(lines()))


async def _loaded(api: "Api", file: BinaryIO) -> AsyncIterator[bytes]:
    none = True
    async for image in _each(api.store.load(file, platform.machine())):
        none = False
        for name in image.names or ("",):
            said = f"Loaded image: {name}" if name else f"Loaded image ID: {image.id}"
            _tell(api, "load", image.id, name or image.id)
            yield _line({"stream": f"{said}\n"})
    if none:
        raise InvalidRequest("the archive holds no image for this machine")


async def _create(api: "Api", request: Request) -> Response:
    """Import an archive, or pull an image, which `skopeo` does for us."""
    if request.query.get("fromImage"):
        return await _pull(api, request)
    if request.query.get("fromSrc", "-") != "-":
        raise NotImplementedHere("importing from an address is not supported: fetch the archive, and give it on stdin")
    repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
    name = familiar(f"{repository}:{tag}" if tag else repository) if repository else ""
    changes = [line for line in request.query_all("changes") if line]

    async def lines() -> AsyncIterator[bytes]:
        async with aside(api.store.spool()) as file:
            await _spooled(api, request, file)
            image = await asyncio.to_thread(
                lambda: api.store.import_(
                    file,
                    name,
                    changes=changes,
                    message=request.query.get("message", ""),
                    machine=platform.machine(),
                )
            )
        _tell(api, "import", image.id, name or image.id)
        yield _line({"status": image.id})

    return Response(200, headers=_LINES, stream=await _Work.begin(lines()))


async def _pull(api: "Api", request: Request) -> Response:
    source, tag = request.query.get("fromImage", ""), request.query.get("tag", "")
    name = familiar(f"{source}:{tag}" if tag and ":" not in source.rpartition("/")[2] else source)
    program = shutil.which("skopeo")
    if program is None:
        raise NotImplementedHere(
            f"cannot pull {name}: skopeo is not installed; install it (Debian's package skopeo), or bring the image "
            "with docker load, docker import, or as a directory"
        )

    async def lines() -> AsyncIterator[bytes]:
        yield _line({"status": f"Pulling from {split(name)[0]}", "id": split(name)[1]})
        async with aside(api.store.spool()) as file:
            process = await asyncio.create_subprocess_exec(
                program,
                "copy",
                "--quiet",
                f"docker://{name}",
                f"docker-archive:{file.name}.pulled:{name}",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                _, complained = await process.communicate()
            except asyncio.CancelledError:
                with suppress(ProcessLookupError):
                    process.kill()
                raise
            if process.returncode:
                said = (complained.decode(errors="replace").strip().splitlines() or ["skopeo did not say why"])[-1]
                why = said.partition('msg="')[2].rstrip('"') or said
                raise InvalidRequest(f"cannot pull {name}: {why}")
            with open(f"{file.name}.pulled", "rb") as pulled:  # noqa: ASYNC230, PTH123 - of the file system, here
                async for _ in _loaded(api, pulled):
                    yield _line({"status": f"Status: Downloaded newer image for {name}"})

    return Response(200, headers=_LINES, stream=await _Work.begin(lines()))


async def _no_push(_api: "Api", _request: Request) -> Response:
    raise NotImplementedHere("pushing images is not supported: use skopeo, or the engine that built them")


ROWS: "tuple[tuple[str, str, Handler], ...]" = (
    ("GET", "/images/json", _list),
    ("POST", "/images/load", _load),
    ("POST", "/images/create", _create),
    ("POST", "/images/prune", _prune),
    ("GET", "/images/{name*}/json", _inspect),
    ("GET", "/images/{name*}/history", _history),
    ("POST", "/images/{name*}/tag", _tag),
    ("POST", "/images/{name*}/push", _no_push),
    ("DELETE", "/images/{name*}", _remove),
)
"""Each route's method, path and handler."""
