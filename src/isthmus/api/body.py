"""Request bodies, as strict and as lenient as Docker's daemon, which reads them with Go's decoder.

So keys match in any case, unknown keys are passed over, and null leaves a value at its default; but a value of a wrong
type is refused, and so is anything behind the first JSON value. The sentences are moby's
(`daemon/server/httputils/httputils.go`, Go's `encoding/json`), where a client could have seen them.
"""

import json as standard
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, structs

from isthmus.errors import InvalidRequest

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_WORDS = {"ip": "IP", "ips": "IPs", "ipam": "IPAM", "ipv4": "IPv4", "ipv6": "IPv6"}
_BLANKS = " \t\r\n"
_T = TypeVar("_T", bound=Struct)


def _key(name: str) -> str:
    """The key that Docker has for our *name* of a field."""
    return "".join(_WORDS.get(word, word.capitalize()) for word in name.split("_"))


class Body(Struct, frozen=True, rename=_key):
    """What all bodies are: frozen, with Docker's keys."""


class ConfigReference(Body, frozen=True):
    """`ConfigFrom`: the configuration-only network to copy from."""

    network: str = ""


class IpamConfig(Body, frozen=True):
    """One subnet, as text."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class Ipam(Body, frozen=True):
    """Where a network's addresses come from."""

    driver: str = ""
    options: dict[str, str] = {}
    config: list[IpamConfig] = []


class NetworkCreate(Body, frozen=True):
    """POST /networks/create."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference = ConfigReference()
    ipam: Ipam = Ipam()
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class NetworkUpdate(Body, frozen=True):
    """POST /networks/{id}/update, which Docker does not have: what is to be set, and the keys of what shall go."""

    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    subnets: list[IpamConfig] = []
    ip_ranges: list[str] = []
    auxiliary_addresses: dict[str, str] = {}
    remove_labels: list[str] = []
    remove_options: list[str] = []
    remove_auxiliary_addresses: list[str] = []


class EndpointIpam(Body, frozen=True):
    """Addresses that the user wants."""

    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] = []


class EndpointConfig(Body, frozen=True):
    """A sandbox's place on a network, as far as its user may say it."""

    ipam_config: EndpointIpam = EndpointIpam()
    links: list[str] = []
    mac_address: str = ""
    aliases: list[str] = []
    driver_opts: dict[str, str] = {}
    gw_priority: Integer = 0


class NetworkConnect(Body, frozen=True):
    """POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointConfig = EndpointConfig()


class NetworkDisconnect(Body, frozen=True):
    """POST /networks/{id}/disconnect."""

    container: str = ""
    force: bool = False


class NetworkEgress(Body, frozen=True):
    """POST /networks/{id}/egress, which Docker does not have: whom a sandbox may call from there."""

    container: str = ""
    rules: str = ""


class NetworkRate(Body, frozen=True):
    """POST /networks/{id}/rate, which Docker does not have: what a sandbox may receive and send there."""

    container: str = ""
    rate: str = ""


class PortBinding(Body, frozen=True):
    """One place on the host where a port is published, and who may use it, in the words of `isthmus.publish`."""

    host_ip: str = msgspec.field(default="", name="HostIp")
    host_port: str = ""
    callers: str = ""


class Ports(Body, frozen=True):
    """POST /sandboxes/{id}/ports and .../ports/remove: ports of a sandbox, as `80/tcp`, with places on the host."""

    port_bindings: dict[str, list[PortBinding]] = {}


class HostConfig(Body, frozen=True):
    """The part of Docker's HostConfig that concerns the network."""

    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding]] = {}
    publish_all_ports: bool = False
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    links: list[str] = []
    sysctls: dict[str, str] = {}


class NetworkingConfig(Body, frozen=True):
    """The networks that a sandbox shall be on from the start, by name or ID."""

    endpoints_config: dict[str, EndpointConfig] = {}


class SandboxCreate(Body, frozen=True):
    """POST /sandboxes/create: Docker's container create, without the container."""

    hostname: str = ""
    domainname: str = ""
    mac_address: str = ""
    labels: dict[str, str] = {}
    exposed_ports: dict[str, dict[str, str]] = {}
    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


class RestartPolicy(Body, frozen=True):
    """When a container that ended starts again."""

    name: str = ""
    maximum_retry_count: Integer = 0


class LogConfig(Body, frozen=True):
    """How the output of a container is kept."""

    type: str = ""
    config: dict[str, str] = {}


class Device(Body, frozen=True):
    """A device of the host that a container may use."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class Ulimit(Body, frozen=True):
    """A limit of setrlimit(2)."""

    name: str = ""
    soft: Integer = 0
    hard: Integer = 0


class BindOptions(Body, frozen=True):
    """How a directory of the host is mounted."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False


class TmpfsOptions(Body, frozen=True):
    """How large a mount of memory is, and its mode."""

    size_bytes: Integer = 0
    mode: Integer = 0


class Mount(Body, frozen=True):
    """What is to be seen at a place in a container."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions = BindOptions()
    tmpfs_options: TmpfsOptions = TmpfsOptions()


class ContainerHostConfig(HostConfig, frozen=True):
    """Docker's HostConfig, as far as we do what it says; `container_shapes.UNSUPPORTED` has the rest."""

    binds: list[str] | None = None
    log_config: LogConfig = LogConfig()
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    group_add: list[str] | None = None
    ipc_mode: str = ""
    oom_score_adj: Integer = 0
    pid_mode: str = ""
    privileged: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    tmpfs: dict[str, str] = {}
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: Integer = 0
    cpu_shares: Integer = 0
    memory: Integer = 0
    nano_cpus: Integer = 0
    cpu_period: Integer = 0
    cpu_quota: Integer = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[Device] | None = None
    memory_reservation: Integer = 0
    memory_swap: Integer = 0
    pids_limit: Integer | None = None
    ulimits: list[Ulimit] | None = None
    mounts: list[Mount] = []
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    annotations: dict[str, str] = {}


class Healthcheck(Body, frozen=True):
    """How an engine would find out whether a container is well."""

    test: list[str] | None = None


class ContainerCreate(SandboxCreate, frozen=True):
    """POST /containers/create."""

    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: list[str] | str | None = None
    healthcheck: Healthcheck = Healthcheck()
    image: str = ""
    volumes: dict[str, dict[str, str]] = {}
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    stop_signal: str = ""
    stop_timeout: Integer | None = None
    host_config: ContainerHostConfig = ContainerHostConfig()


class ImageConfig(Body, frozen=True):
    """What an image says of the programs that run in it (`Config` of its JSON)."""

    user: str = ""
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    entrypoint: list[str] | str | None = None
    working_dir: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""


class ExecCreate(Body, frozen=True):
    """POST /containers/{id}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    tty: bool = False
    env: list[str] = []
    cmd: list[str] = []
    privileged: bool = False
    user: str = ""
    working_dir: str = ""
    console_size: list[Integer] | None = None


class ExecStart(Body, frozen=True):
    """POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[Integer] | None = None


class LinkRoute(Body, frozen=True):
    """A route through a link that was made by hand."""

    destination: str = ""
    gateway: str = ""


class LinkPeer(Body, frozen=True):
    """The other end of a veth, in the host's namespace."""

    name: str = ""
    addresses: list[str] = []
    master: str = ""


class LinkCreate(Body, frozen=True):
    """POST /sandboxes/{id}/links."""

    type: str = ""
    name: str = ""
    addresses: list[str] = []
    routes: list[LinkRoute] = []
    peer: LinkPeer = LinkPeer()
    parent: str = ""
    mode: str = ""
    mac_address: str = ""
    mtu: Integer = 0


def decode(kind: type[_T], headers: Mapping[str, str], body: bytes | None) -> _T:
    """The *body* of a request with these *headers*, as a value of *kind*; `InvalidRequest` if it is none."""
    content_type = headers.get("content-type", "")
    if content_type or body is not None:
        _check_content_type(content_type)
    if body is None:
        return kind()
    if not body.strip(_BLANKS.encode()):
        raise InvalidRequest("invalid JSON: got EOF while reading request body")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(_what_is_wrong(body, error)) from None
    try:
        return msgspec.convert({} if value is None else _fold(kind)(value), kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).replace("`", "").partition(" - at $.")
        raise InvalidRequest(f"invalid JSON: {problem}{f' in {path}' if path else ''}") from None


def folded(kind: type[Struct], value: object) -> object:
    """*value*, as JSON has it, as what Go's decoder takes it for in a *kind*."""
    return _fold(kind)(value)


def _check_content_type(content_type: str) -> None:
    mime = content_type.partition(";")[0].strip().lower()
    if not mime:
        raise InvalidRequest(f"malformed Content-Type header ({content_type}): mime: no media type")
    if mime != "application/json":
        raise InvalidRequest(f"unsupported Content-Type header ({content_type}): must be 'application/json'")


_Fold = Callable[[object], object]


@cache
def _fold(kind: object) -> _Fold:
    """What makes of a value what Go's decoder takes it for in a *kind*: our keys in our case, nothing else, no nulls.

    What is not of this kind at all passes through it, to be refused with a sentence.
    """
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, Struct):
        fields = {one.encode_name.lower(): (one.encode_name, _fold(one.type)) for one in structs.fields(origin)}
        return lambda value: _struct(fields, value) if isinstance(value, dict) else value
    if origin is dict:
        inner = get_args(kind)[1]
        fold, zero = _fold(inner), _zero(inner)
        return lambda value: (
            {key: zero if item is None else fold(item) for key, item in value.items()}
            if isinstance(value, dict)
            else value
        )
    if origin is list:
        (inner,) = get_args(kind)
        fold, zero = _fold(inner), _zero(inner)
        return lambda value: (
            [zero if item is None else fold(item) for item in value] if isinstance(value, list) else value
        )
    return lambda value: value


def _struct(fields: Mapping[str, tuple[str, _Fold]], value: Mapping[str, object]) -> dict[str, object]:
    """The items of *value* whose keys are those of *fields*, in whatever case."""
    folded = {}
    for key, item in value.items():
        field = fields.get(key.lower())
        if field is not None and item is not None:
            folded[field[0]] = field[1](item)
    return folded


def _zero(kind: object) -> object:
    """What Go makes of a null among values of this *kind*, as JSON."""
    if kind is str:
        return ""
    return [] if get_origin(kind) is list else {}


_GO = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair or array element",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
}
"""Go's words for what the standard library's decoder complains of."""


def _what_is_wrong(body: bytes, error: Exception) -> str:
    """Docker's sentence for a *body* that is not JSON, of which our decoder said *error*."""
    text = body.decode("utf-8", "replace").lstrip(_BLANKS)
    try:
        _, end = standard.JSONDecoder().raw_decode(text)
    except standard.JSONDecodeError as problem:
        if problem.pos >= len(text) or problem.msg.startswith("Unterminated"):
            return "invalid JSON: unexpected EOF"
        where = next((words for ours, words in _GO.items() if problem.msg.startswith(ours)), problem.msg)
        return f"invalid JSON: invalid character {text[problem.pos]!r} {where}"
    except (RecursionError, ValueError):
        return "invalid JSON: it is nested too deep, or a number has too many digits"
    return "unexpected content after JSON" if text[end:].strip(_BLANKS) else f"invalid JSON: {error}"
