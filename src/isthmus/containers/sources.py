"""What is an image without having been imported: this machine's own root file system, and any directory of it."""

import hashlib
from pathlib import Path

from isthmus.containers.model import Found
from isthmus.containers.rootfs import HOST
from isthmus.errors import InvalidRequest
from isthmus.images.store import Images


class Sources:
    """All that a container can be made of: `host`, a directory by its path, and what *store* has."""

    def __init__(self, store: Images) -> None:
        self._store = store

    def find(self, name: str) -> Found:
        """The image that *name* stands for: a name, an ID, or a path.

        Raises:
            NotFound: there is none.
            InvalidRequest: the path is that of no directory.
        """
        if name in {HOST, f"{HOST}:latest", _id_of("")}:
            return Found(_id_of(""), machine=True, config={"Cmd": ["/bin/sh"]})
        if name.startswith("/"):
            return _directory(name)
        image = self._store.find(name)
        return Found(image.id, image.layers, image.configuration.get("config") or {})


def _directory(name: str) -> Found:
    path = Path(name)
    if not path.is_dir():
        raise InvalidRequest(
            f"invalid image {name}: it must be a directory with a root file system, or an image's name"
        )
    return Found(name, (str(path.resolve()),))


def _id_of(path: str) -> str:
    return f"sha256:{hashlib.sha256(f'isthmus:{HOST}:{path}'.encode()).hexdigest()}"
