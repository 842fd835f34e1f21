"""The shapes of images, as Docker's clients read them. Pure."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from msgspec.structs import replace

from isthmus.api.filters import Filters, instant
from isthmus.api.message import Version
from isthmus.api.translate import Shape
from isthmus.images.store import Image

FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})


def seconds(image: Image) -> int:
    """When an image was made, in seconds since the epoch; 0 if it does not say."""
    return _seconds(image.configuration.get("created"))


def _seconds(text: object) -> int:
    try:
        return int(
            datetime.fromisoformat(str(text).replace("Z", "+00:00").partition(".")[0][:19] + "+00:00").timestamp()
        )
    except ValueError:
        return 0


def config(image: Image) -> Mapping[str, Any]:
    """What an image says of the programs in it."""
    return image.configuration.get("config") or {}


def summary(image: Image, version: Version) -> Shape:
    """An item of `GET /images/json`."""
    none = not image.names and version < (1, 43)
    shape: Shape = {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": ["<none>:<none>"] if none else list(image.names),
        "RepoDigests": ["<none>@<none>"] if none else [],
        "Created": seconds(image),
        "Size": image.size,
        "SharedSize": -1,
        "Labels": config(image).get("Labels"),
        "Containers": -1,
    }
    return shape | ({"VirtualSize": image.size} if version < (1, 44) else {})


def inspect(image: Image, version: Version) -> Shape:
    """`GET /images/{name}/json`."""
    said = image.configuration
    shape: Shape = {
        "Id": image.id,
        "RepoTags": list(image.names),
        "RepoDigests": [],
        "Parent": "",
        "Comment": said.get("comment") or "",
        "Created": said.get("created") or "0001-01-01T00:00:00Z",
        "DockerVersion": "",
        "Author": said.get("author") or "",
        "Config": config(image),
        "Architecture": said.get("architecture") or "",
        "Os": said.get("os") or "linux",
        "Size": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": {"LowerDir": ":".join(reversed(image.layers))}},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }
    return shape | ({"VirtualSize": image.size} if version < (1, 44) else {})


def history(image: Image) -> list[Shape]:
    """`GET /images/{name}/history`: the newest step first, which is the image itself."""
    sizes = iter(image.sizes)
    shapes: list[Shape] = [
        {
            "Id": "<missing>",
            "Created": _seconds(step.get("created")),
            "CreatedBy": step.get("created_by") or "",
            "Tags": None,
            "Size": 0 if step.get("empty_layer") else next(sizes, 0),
            "Comment": step.get("comment") or "",
        }
        for step in image.configuration.get("history") or [{}] * len(image.sizes)
    ]
    shapes.reverse()
    if shapes:
        shapes[0] |= {"Id": image.id, "Tags": list(image.names) or None}
    return shapes


def wanted(filters: Filters, known: Iterable[Image], find: Callable[[str], Image], now: int) -> list[Image]:
    """Those of the *known* images that *filters* of `GET /images/json` ask for, each with the names that they do."""
    dangling = filters.boolean("dangling")
    references = filters.values.get("reference", ())
    before, since = ([seconds(find(name)) for name in filters.values.get(key, ())] for key in ("before", "since"))
    until = [instant("until", text, now) for text in filters.values.get("until", ())]

    def one_wanted(image: Image) -> bool:
        return (
            dangling in {None, not image.names}
            and filters.labels("label", config(image).get("Labels") or {})
            and all(seconds(image) < limit for limit in before)
            and all(seconds(image) > limit for limit in since)
            and all(seconds(image) * 10**9 < limit for limit in until)
        )

    found = filter(one_wanted, known)
    if not references:
        return list(found)
    named = (replace(image, names=tuple(name for name in image.names if _like(name, references))) for image in found)
    return [image for image in named if image.names]


def _like(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of *patterns* fits a name, with its tag or without; a slash must be there (Go's `path.Match`)."""
    parts = [full.split("/") for full in (name, name.rpartition(":")[0])]
    wanted = [pattern.replace("[^", "[!").split("/") for pattern in patterns]
    return any(len(one) == len(two) and all(map(fnmatchcase, one, two)) for one in parts for two in wanted)


def spared(filters: Filters, now: int) -> Callable[[Image], bool]:
    """Whether an image is spared by a pruning at the time *now* in nanoseconds: those that have names are, at first."""
    dangling = filters.boolean("dangling")
    until = filters.before("until", now)

    def one_spared(image: Image) -> bool:
        labels = config(image).get("Labels") or {}
        return (
            (bool(image.names) and dangling is not False)
            or not filters.labels("label", labels)
            or ("label!" in filters and filters.labels("label!", labels))
            or (until is not None and seconds(image) * 10**9 >= until)
        )

    return one_spared
