"""What archives of images hold: those of `docker save`, and OCI layouts; and what an image says (OCI image-spec)."""

import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, Any

from isthmus.errors import InvalidRequest

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_JSON = 8 << 20
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_INDEXES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Packed:
    """An image in an archive: its configuration as it stands there, and the members that are its layers."""

    configuration: bytes
    diff_ids: tuple[str, ...]
    layers: tuple[str, ...]
    names: tuple[str, ...]


def digits(digest: str) -> str:
    """The digits of a digest such as `sha256:0123...`, which are fit as a file's name.

    Raises:
        InvalidRequest: it is none.
    """
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise InvalidRequest(f"invalid digest: {digest}")
    return found[1]


def diff_ids(configuration: Mapping[str, Any]) -> list[str]:
    """The digests of an image's layers, the lowest first.

    Raises:
        InvalidRequest: it is no configuration of an image.
    """
    try:
        found = [str(one) for one in configuration["rootfs"]["diff_ids"]]
    except (KeyError, TypeError):
        raise InvalidRequest("the archive cannot be meant: an image's configuration has no rootfs.diff_ids") from None
    for one in found:
        digits(one)
    return found


def member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """The file of this *name* in an archive.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        file = tar.extractfile(name)
    except (KeyError, tarfile.TarError) as error:
        raise InvalidRequest(f"the archive cannot be meant: it has no {name}") from error
    if file is None:
        raise InvalidRequest(f"the archive cannot be meant: {name} in it is no file")
    return file


def images(tar: tarfile.TarFile) -> Iterator[Packed]:
    """The images in an archive.

    Raises:
        InvalidRequest: it holds none, or they cannot be meant.
    """
    try:
        names = set(tar.getnames())
        if "manifest.json" in names:
            yield from _saved(tar)
        elif "index.json" in names:
            yield from _layout(tar)
        else:
            raise InvalidRequest(
                "the archive holds no images (neither manifest.json nor index.json): is it a root file system? Then "
                "import it"
            )
    except (tarfile.TarError, EOFError) as error:
        raise InvalidRequest(f"the archive is damaged or cut off: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"the archive cannot be meant: {type(error).__name__}: {error}") from error


def _json(tar: tarfile.TarFile, name: str) -> tuple[Any, bytes]:
    content = member(tar, name).read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise InvalidRequest(f"the archive cannot be meant: {name} is too large")
    return json.loads(content), content


def _saved(tar: tarfile.TarFile) -> Iterator[Packed]:
    manifests, _ = _json(tar, "manifest.json")
    for one in manifests:
        configuration, content = _json(tar, str(one["Config"]))
        layers = tuple(str(layer) for layer in one["Layers"] or ())
        yield _packed(configuration, content, layers, tuple(map(str, one.get("RepoTags") or ())))


def _packed(configuration: Any, content: bytes, layers: tuple[str, ...], names: tuple[str, ...]) -> Packed:  # noqa: ANN401
    known = tuple(diff_ids(configuration))
    if len(known) != len(layers):
        raise InvalidRequest(f"the archive cannot be meant: an image has {len(known)} digests and {len(layers)} layers")
    return Packed(content, known, layers, names)


def _layout(tar: tarfile.TarFile) -> Iterator[Packed]:
    index, _ = _json(tar, "index.json")
    yield from _manifests(tar, index, 0)


def _manifests(tar: tarfile.TarFile, index: Any, depth: int) -> Iterator[Packed]:  # noqa: ANN401 - JSON
    for one in index["manifests"]:
        manifest = _blob(tar, str(one["digest"]))[0]
        if one.get("mediaType") in _INDEXES or "manifests" in manifest:
            if depth > 3:
                raise InvalidRequest("the archive cannot be meant: its indexes are nested too deep")
            yield from _manifests(tar, manifest, depth + 1)
            continue
        if "config" not in manifest or "attestation-manifest" in str(one.get("annotations") or {}):
            continue
        configuration, content = _blob(tar, str(manifest["config"]["digest"]))
        layers = tuple(_path(str(layer["digest"])) for layer in manifest["layers"])
        notes = one.get("annotations") or {}
        name = str(notes.get(_CONTAINERD_NAME) or notes.get(_NAME) or "")
        yield _packed(configuration, content, layers, (name,) if ":" in name or "/" in name else ())


def _path(digest: str) -> str:
    return f"blobs/sha256/{digits(digest)}"


def _blob(tar: tarfile.TarFile, digest: str) -> tuple[Any, bytes]:
    value, content = _json(tar, _path(digest))
    if sha256(content).hexdigest() != digits(digest):
        raise InvalidRequest(f"the archive is damaged: the blob {digest} is another")
    return value, content


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
