"""What a daemon is told of a shared store: dockerd's `--cluster-store` and `--cluster-store-opt`, in one value.

The URL and the options are those that Docker knew up to 20.10 (`opts`, `daemon/discovery.go`, `pkg/discovery/kv`), with
the same defaults, and two options of ours that name files with secrets, for a command line is no place for them.
"""

import re
from collections.abc import Mapping

import msgspec

from isthmus.errors import InvalidOption

STORE, OPTION = "cluster-store", "cluster-store-opt"

PREFIX = "isthmus"
HEARTBEAT, TTL = 20.0, 60.0
"""What holds if nothing else is said; the times are Docker's, in seconds."""

_PORTS = {"consul": 8500, "etcd": 2379}
_HINT = "it must be consul://HOST[:PORT][,HOST[:PORT]...][/PREFIX] or etcd://..."
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_BEATS = 3
"""How many beats a host may miss before it is taken to be gone (Docker's `defaultDiscoveryTTLFactor`)."""


class StoreAddress(msgspec.Struct, frozen=True):
    """Where a shared store is, how it is spoken to, and how often a host shows that it is there.

    *kind* is "consul" or "etcd"; each of *servers* is `HOST:PORT`. All keys are below *prefix*, which has no slash at
    its ends. The files are paths, "" for none; *heartbeat* and *ttl* are seconds.
    """

    kind: str
    servers: tuple[str, ...]
    prefix: str = PREFIX
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    token_file: str = ""
    user_file: str = ""
    heartbeat: float = HEARTBEAT
    ttl: float = TTL

    @property
    def secure(self) -> bool:
        """Whether it is spoken to by TLS."""
        return bool(self.ca_file or self.certificate_file)


def parse(url: str, options: Mapping[str, str]) -> StoreAddress:
    """The store at *url*, with *options*.

    >>> parse("consul://192.0.2.1,192.0.2.2:8501/net/blue", {}).servers
    ('192.0.2.1:8500', '192.0.2.2:8501')

    Raises:
        InvalidOption: the URL or an option cannot be.
    """
    kind, scheme, rest = url.partition("://")
    if "@" in rest:
        # What stands before it is a secret, so it is not told again.
        hint = "a password does not belong here: write USER:PASSWORD into a file, and name that by kv.userfile"
        raise InvalidOption(STORE, f"{kind}://...", hint)
    if not scheme or kind not in _PORTS:
        raise InvalidOption(STORE, url, _HINT)
    hosts, _, path = rest.partition("/")
    known = {
        "kv.cacertfile": "ca_file",
        "kv.certfile": "certificate_file",
        "kv.keyfile": "key_file",
        **({"kv.tokenfile": "token_file"} if kind == "consul" else {"kv.userfile": "user_file"}),
    }
    for key, value in options.items():
        if key not in known and key not in {"kv.path", "discovery.heartbeat", "discovery.ttl"}:
            there = ", ".join(sorted({*known, "kv.path", "discovery.heartbeat", "discovery.ttl"}))
            raise InvalidOption(f"{OPTION} {key}", value, f"there is no such option for {kind}; there are {there}")
    files = {field: options.get(key, "") for key, field in known.items()}
    if bool(files["certificate_file"]) != bool(files["key_file"]):
        key = "kv.certfile" if files["certificate_file"] else "kv.keyfile"
        raise InvalidOption(f"{OPTION} {key}", options[key], "kv.certfile and kv.keyfile go together: name both")
    heartbeat, ttl = _beats(options)
    return StoreAddress(
        kind,
        tuple(_server(url, host, _PORTS[kind]) for host in hosts.split(",")),
        _prefix(url, path, options.get("kv.path", "")),
        heartbeat=heartbeat,
        ttl=ttl,
        **files,
    )


def _server(url: str, text: str, port: int) -> str:
    found = _HOST.fullmatch(text)
    if not found or not 0 < int(found[2] or port) < 65536:
        raise InvalidOption(STORE, url, _HINT)
    return f"{found[1]}:{int(found[2] or port)}"


def _prefix(url: str, path: str, option: str) -> str:
    """The prefix of all keys; the option has the last word, as in Docker."""
    key, value, text = (f"{OPTION} kv.path", option, option) if option else (STORE, url, path)
    text = text.strip("/") or PREFIX
    if not _PREFIX.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise InvalidOption(key, value, "a path has words of letters, digits, - _ and ., with slashes between")
    return text


def _beats(options: Mapping[str, str]) -> tuple[float, float]:
    """The heartbeat and the time to live, of which the one follows from the other."""
    heartbeat, ttl = (_seconds(options, f"discovery.{name}") for name in ("heartbeat", "ttl"))
    if heartbeat is None and ttl is None:
        return HEARTBEAT, TTL
    if ttl is None:
        ttl = (heartbeat or 0) * _BEATS
    if heartbeat is None:
        heartbeat = ttl / _BEATS
    if ttl <= heartbeat:
        key = f"{OPTION} discovery.ttl"
        raise InvalidOption(key, f"{ttl:g}", f"it must be greater than discovery.heartbeat, which is {heartbeat:g}")
    return heartbeat, ttl


def _seconds(options: Mapping[str, str], key: str) -> float | None:
    value = options.get(key, "")
    if value and not (value.isascii() and value.isdigit() and 0 < int(value) <= 86400):
        raise InvalidOption(f"{OPTION} {key}", value, "it must be a whole number of seconds from 1 to 86400")
    return float(value) if value else None
