"""Names of images, as Docker reads and shows them (distribution/reference, `reference.ParseNormalizedNamed`). Pure."""

import re

from isthmus.errors import InvalidRequest

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]+)?"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_OFFICIAL = ("docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/")
_MOST = 255


def familiar(text: str) -> str:
    """A name with its tag, in the short form that users know.

    >>> [familiar(text) for text in ("alpine", "docker.io/library/alpine:3", "me/app", "example.test:5000/x:y")]
    ['alpine:latest', 'alpine:3', 'me/app:latest', 'example.test:5000/x:y']

    Raises:
        InvalidRequest: it is none.
    """
    name, tag = split(text)
    return f"{name}:{tag or 'latest'}"


def split(text: str) -> tuple[str, str]:
    """A name in its short form, and its tag; "" if it has none.

    Raises:
        InvalidRequest: it is none.
    """
    name, tag = text, ""
    if ":" in text.rpartition("/")[2]:
        name, _, tag = text.rpartition(":")
    for prefix in _OFFICIAL:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    if not _NAME.fullmatch(name) or len(name) > _MOST or (tag and not _TAG.fullmatch(tag)) or text.endswith(":"):
        raise InvalidRequest(f"invalid reference format: {text}")
    return name, tag
