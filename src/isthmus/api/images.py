"""The shapes of images, as Docker's clients read them. Pure."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from isthmus.api.filters import Filters
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
    found = image.configuration.get("config")
    return found if isinstance(found, dict) else {}


def summary(image: Image, version: Version) -> Shape:
    """An item of `GET /images/json`."""
    shape: Shape = {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.names),
        "RepoDigests": [],
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
    steps = image.configuration.get("history")
    shapes: list[Shape] = [
        {
            "Id": "<missing>",
            "Created": _seconds(step.get("created")),
            "CreatedBy": step.get("created_by") or "",
            "Tags": None,
            "Size": 0,
            "Comment": step.get("comment") or "",
        }
        for step in reversed(steps if isinstance(steps, list) else [{}])
    ]
    shapes[0] |= {"Id": image.id, "Tags": list(image.names) or None, "Size": image.size}
    return shapes


def wanted(filters: Filters, find: Callable[[str], Image]) -> Callable[[Image], bool]:
    """Whether an image is among those that *filters* of `GET /images/json` ask for."""
    dangling = filters.boolean("dangling")
    before, since = ([seconds(find(name)) for name in filters.values.get(key, ())] for key in ("before", "since"))

    def one_wanted(image: Image) -> bool:
        names = [name for full in image.names for name in (full, full.rpartition(":")[0])]
        return (
            dangling in {None, not image.names}
            and filters.labels("label", config(image).get("Labels") or {})
            and (not filters.values.get("reference") or any(map(_like(filters), names)))
            and all(seconds(image) < limit for limit in before)
            and all(seconds(image) > limit for limit in since)
        )

    return one_wanted


def _like(filters: Filters) -> Callable[[str], bool]:
    from fnmatch import fnmatchcase

    patterns = tuple(filters.values.get("reference", ()))
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


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
