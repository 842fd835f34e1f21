"""What `-p` and `--expose` mean: `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, with ranges, as Docker's client reads it.

Also its long form, `published=8080,target=80,protocol=tcp`. Behind either, after a blank, may stand who may use it:
`8080:80 from 192.0.2.0/24`. All functions raise ValueError with Docker's sentence.
"""

import socket
from typing import NamedTuple

_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})


class Ports(NamedTuple):
    """Container ports as `80/tcp`, each with the places on the host where it is published (as the API wants both)."""

    exposed: dict[str, dict[str, object]]
    bindings: dict[str, list[dict[str, str]]]


def parse_ports(published: list[str], exposed: list[str]) -> Ports:
    """Give what all of `-p` *published* and `--expose` *exposed* ask for together."""
    ports = Ports({}, {})
    for text in published:
        where, _, callers = text.strip().partition(" ")
        own = {"Callers": callers} if callers else {}
        for port, address, host in _publish(where):
            ports.exposed[port] = {}
            ports.bindings.setdefault(port, []).append({"HostIp": address, "HostPort": host, **own})
    for text in exposed:
        ports.exposed.update({port: {} for port in _expose(text)})
    return ports


def parse_range(text: str) -> range:
    """Give the ports of `80` or `80-82`."""
    first, dash, last = text.partition("-")
    start, end = (_port(part) for part in (first, last if dash else first))
    if end < start:
        raise ValueError(f"invalid range specified for port: {text}")
    return range(start, end + 1)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ValueError(f"invalid port: {text}")
    return int(text)


def _publish(text: str) -> list[tuple[str, str, str]]:
    """Give the container's port, the host's address and the host's port (or ports) of each port in *text*."""
    whole, _, protocol = (_long_form(text) if "=" in text else text).partition("/")
    protocol = protocol.lower() or "tcp"
    *before, container = whole.split(":")
    host = before.pop() if before else ""
    address = _address(":".join(before)) if before else ""
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    inner = _range_of(container, "containerPort")
    outer = _range_of(host, "hostPort") if host else None
    if outer is None or len(outer) == len(inner):
        hosts = [str(port) for port in outer] if outer else [""] * len(inner)
    elif len(inner) == 1:
        hosts = [f"{outer[0]}-{outer[-1]}"]
    else:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    return [(f"{port}/{protocol}", address, at) for port, at in zip(inner, hosts, strict=True)]


def _range_of(text: str, what: str) -> range:
    try:
        return parse_range(text)
    except ValueError:
        raise ValueError(f"invalid {what}: {text}") from None


def _address(text: str) -> str:
    """Give the address in *text*, without brackets."""
    address = text.removeprefix("[").removesuffix("]")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, ValueError):
        raise ValueError(f"invalid IP address: {address}") from None
    return address


def _long_form(text: str) -> str:
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    unknown = set(fields) - {"target", "published", "protocol", "mode"}
    if unknown:
        raise ValueError(f"invalid field key {min(unknown)}")
    if not fields.get("target"):
        raise ValueError(f"missing mandatory field target in {text}")
    if fields.get("mode", "ingress") not in {"ingress", "host"}:
        raise ValueError(f"invalid publish mode value (must be host or ingress): {fields['mode']}")
    published = fields.get("published", "")
    return f"{published}{':' if published else ''}{fields['target']}/{fields.get('protocol', 'tcp')}"


def _expose(text: str) -> list[str]:
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    whole, _, protocol = text.partition("/")
    try:
        ports = parse_range(whole)
    except ValueError as error:
        raise ValueError(f"invalid range format for --expose: {text}, error: {error}") from None
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in ports]
