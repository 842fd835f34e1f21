"""A shared store by its URL: reads the files that the options name, and makes the client that the URL asks for."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from isthmus.errors import InvalidOption
from isthmus.kv import SharedStore
from isthmus.kv.url import OPTION, StoreAddress, parse


def open_store(url: str, options: Mapping[str, str]) -> SharedStore:
    """The store at *url*, with *options* (see `url`). It is not asked anything yet, so it may be away.

    Raises:
        InvalidOption: the URL or an option cannot be, or a file that one names cannot be read.
    """
    address = parse(url, options)
    tls = _tls(address) if address.secure else None
    # Each is heavy, and at most one is needed.
    if address.kind == "consul":
        from isthmus.kv.consul import Consul

        token = _secret("kv.tokenfile", address.token_file)
        return Consul(address.servers, address.prefix, tls=tls, token=token)
    from isthmus.kv.etcd import Etcd

    user, colon, password = _secret("kv.userfile", address.user_file).partition(":")
    if address.user_file and not (user and colon):
        raise InvalidOption(f"{OPTION} kv.userfile", address.user_file, "the file must have one line, USER:PASSWORD")
    return Etcd(address.servers, address.prefix, tls=tls, user=user, password=password)


def _secret(key: str, path: str) -> str:
    """The one line in the file at *path*, if one is named."""
    if not path:
        return ""
    try:
        secret = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidOption(f"{OPTION} {key}", path, f"the file cannot be read: {reason}") from None
    if not secret or not secret.isprintable():
        raise InvalidOption(f"{OPTION} {key}", path, "the file must have one line")
    return secret


def _tls(address: StoreAddress) -> ssl.SSLContext:
    """How servers are known, and how they know us; without a CA of its own, whom the machine trusts is trusted."""
    try:
        context = ssl.create_default_context(cafile=address.ca_file or None)
    except OSError as error:
        raise InvalidOption(f"{OPTION} kv.cacertfile", address.ca_file, f"no certificates there: {error}") from None
    if address.certificate_file:
        try:
            context.load_cert_chain(address.certificate_file, address.key_file)
        except OSError as error:
            hint = f"it is no certificate for the key {address.key_file}: {error}"
            raise InvalidOption(f"{OPTION} kv.certfile", address.certificate_file, hint) from None
    return context
