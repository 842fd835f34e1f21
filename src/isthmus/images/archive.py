"""What archives of images hold: those of `docker save`, and OCI layouts; and what an image says (OCI image-spec)."""

import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import IO, Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from isthmus.errors import InvalidRequest

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_JSON = 8 << 20
_MOST_MEMBERS = 100_000
_MOST_KEPT = 16 << 20
_PAIR = 160  # bytes of memory for where a part of a sparse file begins, and how long it is
_DEEPEST_JSON = 32
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_INDEXES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_ATTESTATION = "attestation-manifest"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_T = TypeVar("_T")


class Packed(msgspec.Struct, frozen=True):
    """An image in an archive: its configuration as it stands there, and the members that are its layers."""

    configuration: bytes
    diff_ids: tuple[str, ...]
    layers: tuple[str, ...]
    names: tuple[str, ...]


# What is read of an archive's JSON: each field that is asked for later is of its kind, or the archive is refused.


class _Saved(Struct, rename="pascal"):
    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


class _Platform(Struct, frozen=True):
    architecture: str = ""
    os: str = ""


class _Descriptor(Struct, rename="camel"):
    digest: str
    media_type: str | None = None
    annotations: dict[str, str] | None = None
    platform: _Platform | None = None


class _Manifest(Struct):
    """An image's manifest, or an index of manifests."""

    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    # A few kilobytes of indexes in indexes could be read for days otherwise.
    manifests: Annotated[list[_Descriptor], Meta(max_length=1000)] | None = None


class _RootFs(Struct):
    diff_ids: list[str]


class _Step(Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _Config(Struct, rename=lambda name: name.replace("_", "")):
    user: str | None = None
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, dict[str, str] | None] | None = None
    volumes: dict[str, dict[str, str] | None] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None


class _Configuration(Struct):
    rootfs: _RootFs
    architecture: str | None = None
    os: str | None = None
    created: str | None = None
    author: str | None = None
    comment: str | None = None
    history: list[_Step] | None = None
    config: dict[str, Any] | None = None


def digits(digest: str) -> str:
    """The digits of a digest such as `sha256:0123...`, which are fit as a file's name.

    Raises:
        InvalidRequest: it is none.
    """
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise InvalidRequest(f"invalid digest: {digest}")
    return found[1]


def configuration(content: bytes) -> Mapping[str, Any]:
    """What an image says, as JSON has it; whatever is asked of it later is of its kind.

    Raises:
        InvalidRequest: it is no configuration of an image.
    """
    what = "an image's configuration"
    said = _decoded(content, dict[str, Any], what)
    if _too_deep(said, _DEEPEST_JSON):
        raise InvalidRequest(f"the archive cannot be meant: {what} is nested too deep")
    checked = _converted(said, _Configuration, what)
    for key, value in (checked.config or {}).items():
        # Docker's clients, and who makes containers, read these in whatever case they are written.
        _converted({key.lower(): value}, _Config, f"{what}, config.{key}")
    for one in checked.rootfs.diff_ids:
        digits(one)
    return said


def diff_ids(said: Mapping[str, Any]) -> tuple[str, ...]:
    """The digests of the layers of an image that says this, the lowest first."""
    return tuple(said["rootfs"]["diff_ids"])


def _too_deep(value: object, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(_too_deep(one, left - 1) for one in inner)


def _decoded(content: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _meaningless(what, error) from None


def _converted(value: object, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _meaningless(what, error) from None


def _meaningless(what: str, error: Exception) -> InvalidRequest:
    problem, _, path = str(error).replace("`", "").partition(" - at $")
    return InvalidRequest(
        f"the archive cannot be meant: {what}: {problem}{f' in {path.lstrip(chr(46))}' if path else ''}"
    )


def member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """The file of this *name* in an archive, which may be a link to another of its files.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        file = tar.extractfile(name)
    except (KeyError, tarfile.TarError, RecursionError) as error:
        raise InvalidRequest(f"the archive cannot be meant: it has no {name}, or a link that leads nowhere") from error
    if file is None:
        raise InvalidRequest(f"the archive cannot be meant: {name} in it is no file")
    return file


def images(tar: tarfile.TarFile, machine: str) -> Iterator[Packed]:
    """The images in an archive; of one that is there for several platforms, that for this *machine* (`uname -m`).

    Raises:
        InvalidRequest: it holds none, or they cannot be meant.
    """
    names = set()
    kept = 0
    for number, one in enumerate(tar):
        names.add(one.name)
        # All members are kept until the last layer is read, and could fill the memory by what they say.
        one.pax_headers = {}
        kept += len(one.name) + len(one.linkname) + _PAIR * len(cast("Any", one).sparse or ())
        if number >= _MOST_MEMBERS or kept > _MOST_KEPT:
            raise InvalidRequest(
                f"the archive is too large: it has more than {_MOST_MEMBERS} members, or {_MOST_KEPT} bytes in names"
            )
    if "manifest.json" in names:
        yield from _saved(tar)
    elif "index.json" in names:
        yield from _manifests(tar, _decoded(_read(tar, "index.json"), _Manifest, "index.json"), machine, ())
    else:
        raise InvalidRequest(
            "the archive holds no images (neither manifest.json nor index.json): is it a root file system? Then "
            "import it"
        )


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    content = member(tar, name).read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise InvalidRequest(f"the archive cannot be meant: {name} is too large")
    return content


def _saved(tar: tarfile.TarFile) -> Iterator[Packed]:
    for one in _decoded(_read(tar, "manifest.json"), list[_Saved], "manifest.json"):
        yield _packed(_read(tar, one.config), tuple(one.layers or ()), tuple(one.repo_tags or ()))


def _packed(content: bytes, layers: tuple[str, ...], names: tuple[str, ...]) -> Packed:
    known = diff_ids(configuration(content))
    if len(known) != len(layers):
        raise InvalidRequest(f"the archive cannot be meant: an image has {len(known)} digests and {len(layers)} layers")
    return Packed(content, known, layers, names)


def _manifests(
    tar: tarfile.TarFile, index: _Manifest, machine: str, names: tuple[str, ...], depth: int = 0
) -> Iterator[Packed]:
    if depth > 1:
        raise InvalidRequest("the archive cannot be meant: its indexes are nested too deep")
    for one in _fitting(index.manifests or (), machine):
        notes = one.annotations or {}
        name = notes.get(_CONTAINERD_NAME) or notes.get(_NAME) or ""
        named = (name,) if ":" in name or "/" in name else names
        content = _blob(tar, one.digest)
        manifest = _decoded(content, _Manifest, one.digest)
        if one.media_type in _INDEXES or manifest.manifests is not None:
            yield from _manifests(tar, manifest, machine, named, depth + 1)
        elif manifest.config:
            layers = tuple(_path(layer.digest) for layer in manifest.layers or ())
            yield _packed(_blob(tar, manifest.config.digest), layers, named)


def _fitting(found: Sequence[_Descriptor], machine: str) -> Sequence[_Descriptor]:
    """Those that are for any machine or for this one; the only one there is, whatever it is for."""
    found = [one for one in found if _ATTESTATION not in (one.annotations or {}).values()]
    ours = {_Platform(_MACHINES.get(machine, machine), "linux"), None}
    return found if len(found) == 1 else [one for one in found if one.platform in ours]


def _path(digest: str) -> str:
    return f"blobs/sha256/{digits(digest)}"


def _blob(tar: tarfile.TarFile, digest: str) -> bytes:
    content = _read(tar, _path(digest))
    if sha256(content).hexdigest() != digits(digest):
        raise InvalidRequest(f"the archive is damaged: the blob {digest} is another")
    return content


def imported(diff_id: str, config: Mapping[str, Any], message: str, created: str, machine: str) -> dict[str, Any]:
    """The configuration of an image of one layer."""
    return {
        "architecture": _MACHINES.get(machine, machine),
        "os": "linux",
        "created": created,
        "comment": message,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "comment": message}],
    }


# Lines of a Dockerfile that change what an image says.

_SHELL = ["/bin/sh", "-c"]


def changed(config: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """What an image says (`Config`), after *changes* such as `ENV A=b`, each a line of a Dockerfile.

    >>> changed({}, ['CMD ["sh"]', 'ENV A=b', 'EXPOSE 80/tcp', 'WORKDIR /srv'])["Cmd"]
    ['sh']

    Raises:
        InvalidRequest: a line cannot be read.
    """
    result = dict(config)
    for line in changes:
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match word.upper():
            case "CMD" | "ENTRYPOINT" as key:
                result["Cmd" if key == "CMD" else "Entrypoint"] = _command(line, rest)
            case "ENV":
                names = {pair.partition("=")[0] for pair in _pairs(line, rest)}
                kept = [one for one in result.get("Env", ()) if one.partition("=")[0] not in names]
                result["Env"] = [*kept, *_pairs(line, rest)]
            case "LABEL":
                result["Labels"] = {**result.get("Labels", {}), **dict(one.split("=", 1) for one in _pairs(line, rest))}
            case "EXPOSE":
                ports: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
                result["ExposedPorts"] = {**result.get("ExposedPorts", {}), **ports}
            case "WORKDIR":
                result["WorkingDir"] = rest
            case "USER":
                result["User"] = rest
            case "STOPSIGNAL":
                result["StopSignal"] = rest
            case "VOLUME":
                paths = _command(line, rest) if rest.startswith("[") else rest.split()
                result["Volumes"] = {**result.get("Volumes", {}), **{path: {} for path in paths}}
            case _:
                raise InvalidRequest(f"{word.lower()} is not a valid change command")
    return result


def _command(line: str, text: str) -> list[str]:
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
        raise InvalidRequest(f"cannot read the change {line!r}: a list must be one of JSON, in double quotes")
    return [*_SHELL, text] if text else []


def _pairs(line: str, text: str) -> list[str]:
    """`KEY=VALUE ...`, or `KEY VALUE`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"cannot read the change {line!r}: {error}") from None
    if words and "=" not in words[0]:
        key, _, value = text.partition(" ")
        words = [f"{key}={value.strip()}"]
    if not words or not all("=" in word for word in words):
        raise InvalidRequest(f"cannot read the change {line!r}: it must be KEY=VALUE")
    return words
