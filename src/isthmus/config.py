"""The daemon's configuration: dockerd's flags and the keys of its `daemon.json`, in one value.

A machine's `daemon.json` shall be usable as it stands. So every key of moby 29 is known, with dockerd's name, flag,
default and syntax (`daemon/command/config.go`, `config_unix.go`, pflag): those about networks are obeyed, those about
images, logs and the like are passed over with one warning. What we cannot do is refused, and so is what nobody knows.
Values that cannot be are told all at once.

Nothing is looked up here: the caller reads the file that `config_file` names. `default_network` says what becomes of
the keys about the network `bridge`, by the rules of moby's `getDefaultBridgeIPAMConf`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from pathlib import PurePosixPath
from typing import TypeVar

import msgspec

from isthmus.addresses import DEFAULT_POOLS, IPNetwork, Pool, SubnetRequest, parse_ipam, parse_pool
from isthmus.egress import EGRESS, egress_of
from isthmus.errors import InvalidOption, InvalidRequest, InvalidSubnet
from isthmus.kv.url import parse as kv_url
from isthmus.model import IPAddress, IPInterface, Pairs, pairs
from isthmus.naming import DEFAULT_BRIDGE
from isthmus.options import PUBLISH, Options, callers_of, check_interface, span
from isthmus.rules import LEASE, DefaultBridge

CONFIG_FILE = "/etc/isthmus/daemon.json"
"""Where the configuration is read from if no flag says otherwise; this one may lack."""

NO_BRIDGE = "none"
"""What `bridge` is set to by those who want no default network."""

_BRIDGE_OPTION = "com.docker.network.bridge"
_LABEL = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?")
_T = TypeVar("_T")


class LogLevel(Enum):
    """How much the daemon logs."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    FATAL = "fatal"


class Kind(Enum):
    """What a key's value is in the file; a flag's text is made into that. The value is how `usage` shows it."""

    TEXT = "string"
    NUMBER = "int"
    SWITCH = ""
    LIST = "list"
    POOLS = "base=CIDR,size=N"
    OPTIONS = "DRIVER=KEY=VALUE"
    MAP = "KEY=VALUE"


class Key(msgspec.Struct, frozen=True):
    """A key of `daemon.json`, with its flag: `--name` if no other is given, `-s` for the short form s."""

    name: str
    kind: Kind
    about: str
    flag: str = ""
    short: str = ""

    @property
    def long(self) -> str:
        """The flag, without its dashes."""
        return self.flag or self.name


class FwMark(msgspec.Struct, frozen=True):
    """A firewall mark, and the bits of it that count."""

    mark: int
    mask: int = 0xFFFFFFFF


class ConfigFile(msgspec.Struct, frozen=True):
    """The path of the configuration file, and whether it must be there."""

    path: str
    required: bool


class Settings(msgspec.Struct, frozen=True):
    """What the daemon was told, with defaults for what it was not; each field is named for its key.

    *pidfile* and *hosts* follow *exec_root* if they were not given. *bridge* is a device of the user's own,
    `NO_BRIDGE`, or "" for ours. *log_level* is DEBUG with the key `debug`. *warnings* are sentences for the log.
    """

    hosts: tuple[str, ...]
    group: str
    data_root: PurePosixPath
    exec_root: PurePosixPath
    pidfile: PurePosixPath
    log_level: LogLevel
    labels: Pairs
    bridge: str
    bip: IPv4Interface | None
    bip6: IPv6Interface | None
    fixed_cidr: IPv4Network | None
    fixed_cidr_v6: IPv6Network | None
    default_gateway: IPv4Address | None
    default_gateway_v6: IPv6Address | None
    mtu: int | None
    ip: IPv4Address
    publish: str
    egress: str
    icc: bool
    ipv6: bool
    iptables: bool
    ip6tables: bool
    ip_forward: bool
    ip_forward_no_drop: bool
    ip_masq: bool
    allow_direct_routing: bool
    bridge_accept_fwmark: FwMark | None
    default_address_pools: tuple[Pool, ...]
    denied_address_pools: tuple[IPNetwork, ...]
    address_lease: int
    default_runtime: str
    cluster_store: str
    cluster_store_opts: Pairs
    cluster_advertise: str
    encryption_rekey: int
    default_network_opts: tuple[tuple[str, Pairs], ...]
    dns: tuple[IPAddress, ...]
    dns_opts: tuple[str, ...]
    dns_search: tuple[str, ...]
    dns_stub: tuple[str, int] | None
    host_gateway_ips: tuple[IPAddress, ...]
    warnings: tuple[str, ...]


KEYS = (
    Key("hosts", Kind.LIST, "socket to serve the API on (default unix://EXEC-ROOT/isthmus.sock)", "host", "H"),
    Key("group", Kind.TEXT, "group that may use the socket (default none: root alone)", short="G"),
    Key("data-root", Kind.TEXT, "directory of what must outlive a reboot (default /var/lib/isthmus)"),
    Key("exec-root", Kind.TEXT, "directory of what need not (default /run/isthmus)"),
    Key("pidfile", Kind.TEXT, "file for the daemon's PID (default EXEC-ROOT/isthmus.pid)", short="p"),
    Key("debug", Kind.SWITCH, "log at level debug", short="D"),
    Key("log-level", Kind.TEXT, "debug, info, warn, error or fatal (default info)", short="l"),
    Key("labels", Kind.LIST, "key=value label of the daemon", "label"),
    Key(
        "bridge",
        Kind.TEXT,
        "use this bridge of yours for the default network; none: no such network",
        short="b",
    ),
    Key("bip", Kind.TEXT, "IPv4 address and prefix length of the default bridge"),
    Key("bip6", Kind.TEXT, "IPv6 address and prefix length of the default bridge"),
    Key("fixed-cidr", Kind.TEXT, "where in its IPv4 subnet the default network chooses addresses"),
    Key("fixed-cidr-v6", Kind.TEXT, "where in its IPv6 subnet the default network chooses addresses"),
    Key("default-gateway", Kind.TEXT, "IPv4 router of the default network, if that is not the bridge"),
    Key("default-gateway-v6", Kind.TEXT, "IPv6 router of the default network, if that is not the bridge"),
    Key("mtu", Kind.NUMBER, "MTU of the default network (default that of the host's way out)"),
    Key("ip", Kind.TEXT, "host address for published ports of the default network (default 0.0.0.0)"),
    Key("publish", Kind.TEXT, "who may use its ports: open, localhost, follow, from CIDR,... or on INTERFACE,..."),
    Key("egress", Kind.TEXT, 'who may be called from it: rules such as "deny, allow 10.0.0.0/8:443"'),
    Key("icc", Kind.SWITCH, "let members of the default network reach each other (default true)"),
    Key("ipv6", Kind.SWITCH, "IPv6 on the default network"),
    Key("iptables", Kind.SWITCH, "make firewall rules for IPv4 (default true)"),
    Key("ip6tables", Kind.SWITCH, "make firewall rules for IPv6 (default true)"),
    Key("ip-forward", Kind.SWITCH, "switch the host's forwarding on where a network needs it (default true)"),
    Key("ip-forward-no-drop", Kind.SWITCH, "then let it forward between interfaces that are not ours, too"),
    Key("ip-masq", Kind.SWITCH, "masquerade what leaves the default network (default true)"),
    Key("allow-direct-routing", Kind.SWITCH, "let other hosts reach published ports at the addresses behind them"),
    Key("bridge-accept-fwmark", Kind.TEXT, "let packets with this mark[/mask] into bridge networks"),
    Key("firewall-backend", Kind.TEXT, "nftables, which is the only one"),
    Key("userland-proxy", Kind.SWITCH, "without effect: there is no such proxy"),
    Key("userland-proxy-path", Kind.TEXT, "without effect: there is no such proxy"),
    Key("default-address-pools", Kind.POOLS, "where subnets of new networks come from", "default-address-pool"),
    Key("denied-address-pools", Kind.LIST, "CIDR in which no subnet is to be chosen", "denied-address-pool"),
    Key("address-lease", Kind.TEXT, "how long an address is kept for a sandbox that left (default 24h)"),
    Key("default-runtime", Kind.TEXT, "OCI runtime of containers, by name or path (default runc, or crun)"),
    Key("default-network-opts", Kind.OPTIONS, "option of new networks of a driver", "default-network-opt"),
    Key(
        "cluster-store", Kind.TEXT, "store shared with other hosts: consul://HOST:PORT[,...] or etcd://HOST:PORT[,...]"
    ),
    Key("cluster-store-opts", Kind.MAP, "option of that store, such as kv.cacertfile=PATH", "cluster-store-opt"),
    Key("cluster-advertise", Kind.TEXT, "address, or interface, by which other hosts reach this one"),
    Key("encryption-rekey", Kind.TEXT, "how long a key of encrypted networks is used at most (default: for good)"),
    Key("dns", Kind.LIST, "DNS server for sandboxes"),
    Key("dns-opts", Kind.LIST, "resolver option for sandboxes", "dns-opt"),
    Key("dns-search", Kind.LIST, "search domain for sandboxes"),
    Key("dns-stub", Kind.TEXT, "address[:port] at which the host may ask for NAME.NETWORK.isthmus (default none)"),
    Key("host-gateway-ips", Kind.LIST, "addresses that host-gateway stands for", "host-gateway-ip"),
    Key("live-restore", Kind.SWITCH, "without effect: what runs always outlives the daemon"),
)
"""Every key that has to do with us, in the order in which it is explained."""

REFUSED = {
    "authorization-plugins": "requests would go unchecked, for there are no such plugins: guard the socket by group",
}
"""Keys of dockerd's that cannot be passed over without harm, and why; their flags are not there."""

_IGNORED = """
    allow-nondistributable-artifacts api-cors-header builder cdi-spec-dirs cgroup-parent containerd
    containerd-namespace containerd-plugin-namespace containerd-plugins-namespace cpu-rt-period cpu-rt-runtime
    cri-containerd default-cgroupns-mode default-init default-ipc-mode default-shm-size
    default-ulimits deprecated-key-path exec-opts experimental features graph http-proxy https-proxy init init-path
    insecure-registries log-driver log-format log-opts max-concurrent-downloads max-concurrent-uploads
    max-download-attempts metrics-addr min-api-version network-control-plane-mtu network-diagnostic-port
    no-new-privileges no-proxy node-generic-resources nri-opts oom-score-adjust proxies raw-logs registry-mirrors
    resolv-conf rootless runtimes seccomp-profile selinux-enabled shutdown-timeout storage-driver storage-opts
    swarm-default-advertise-addr swarm-raft-election-tick swarm-raft-heartbeat-tick tls tlscacert tlscert tlskey
    tlsverify userns-remap
"""
IGNORED = frozenset(_IGNORED.split())
"""Keys of dockerd's that have nothing to do with networks, and that containers do without; passed over in the file."""

_OLD_NAMES = {"host-gateway-ip": "host-gateway-ips"}
_BY_NAME = {key.name: key for key in KEYS}
_CONFIG_FILE_FLAG = Key("config-file", Kind.TEXT, f"configuration file (default {CONFIG_FILE})")
_BY_FLAG = {key.long: key for key in (*KEYS, _CONFIG_FILE_FLAG)}
_BY_SHORT = {key.short: key for key in KEYS if key.short}


def usage() -> str:
    """Every flag with what it does, a line each."""
    lines = []
    for key in (_CONFIG_FILE_FLAG, *KEYS):
        short = f"-{key.short}, " if key.short else "    "
        lines.append((f"  {short}--{key.long} {key.kind.value}".rstrip(), key.about))
    width = max(len(flag) for flag, _ in lines) + 2
    return "\n".join(f"{flag:{width}}{about}" for flag, about in lines)


def config_file(argv: Sequence[str]) -> ConfigFile:
    """The file that `parse` wants the text of, given the same *argv*; `InvalidRequest` for what are no flags."""
    given = _parse_flags(argv).get(_CONFIG_FILE_FLAG.name)
    return ConfigFile(CONFIG_FILE, required=False) if given is None else ConfigFile(str(given), required=True)


def parse(argv: Sequence[str], file_text: str | None) -> Settings:
    """The settings that *argv* (flags only) and the configuration file's text say; None where there is no such file.

    Raises:
        InvalidOption: one key has a value that cannot be.
        InvalidRequest: flags or file cannot be read, name unknown keys, or contradict each other; or several keys have
            values that cannot be, each told in a line of the message.
    """
    flags = _parse_flags(argv)
    flags.pop(_CONFIG_FILE_FLAG.name, None)
    in_file = {} if file_text is None else _parse_file(file_text)
    unknown = [name for name in in_file if name not in _BY_NAME and name not in IGNORED and name not in REFUSED]
    if unknown:
        raise InvalidRequest(
            f"the following directives don't match any configuration option: {', '.join(unknown)}"
            + "".join(_did_you_mean(name, _BY_NAME) for name in unknown)
        )
    conflicts = [
        f"{name}: (from flag: {_shown(flags[name])}, from file: {_shown(in_file[name])})"
        for name in in_file
        if name in flags
    ]
    if conflicts:
        raise InvalidRequest(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(conflicts)
        )
    reader = _Reader({**in_file, **flags})
    settings = _settings(reader, ignored=sorted(name for name in in_file if name in IGNORED))
    reader.settle()
    return settings


def default_network(settings: Settings, addresses: Iterable[IPInterface] = ()) -> DefaultBridge | None:
    """What the network `bridge` shall be, or None if there shall be none.

    *addresses* are those of the bridge that `settings.bridge` names, which decide its subnets; otherwise `bip` does,
    else `fixed-cidr`, else the subnet is to be chosen. A default gateway that is not the bridge is kept out of the pool
    as an auxiliary address, named as Docker names it (`DefaultGatewayIPv4`, `DefaultGatewayIPv6`); it is then the
    sandboxes' router.

    Raises:
        InvalidOption: the keys do not go together, or the user's bridge has no address.
    """
    if settings.bridge == NO_BRIDGE:
        return None
    own = tuple(addresses)
    options = {
        f"{_BRIDGE_OPTION}.default_bridge": "true",
        f"{_BRIDGE_OPTION}.enable_icc": _go(settings.icc),
        f"{_BRIDGE_OPTION}.enable_ip_masquerade": _go(settings.ip_masq),
        f"{_BRIDGE_OPTION}.host_binding_ipv4": str(settings.ip),
        f"{_BRIDGE_OPTION}.name": settings.bridge or DEFAULT_BRIDGE,
    }
    if settings.publish:
        options[PUBLISH] = settings.publish
    if settings.egress:
        options[EGRESS] = settings.egress
    if settings.mtu:
        options["com.docker.network.driver.mtu"] = str(settings.mtu)
    keys = [_Family(4, settings.bip, settings.fixed_cidr, settings.default_gateway)]
    if settings.ipv6:
        keys.append(_Family(6, settings.bip6, settings.fixed_cidr_v6, settings.default_gateway_v6))
    subnets = [_default_subnet(family, settings.bridge, own) for family in keys]
    return DefaultBridge(
        options=pairs(options), subnets=tuple(subnet for subnet in subnets if subnet is not None), ipv6=settings.ipv6
    )


class _Family(msgspec.Struct, frozen=True):
    """The keys about one family of addresses of the default network, of IP *version* 4 or 6."""

    version: int
    bip: IPInterface | None
    fixed: IPNetwork | None
    gateway: IPAddress | None

    def key(self, name: str) -> str:
        """The *name* of a key, as it is for this family."""
        return name if self.version == 4 else {"bip": "bip6"}.get(name, f"{name}-v6")


def _default_subnet(family: _Family, bridge: str, addresses: tuple[IPInterface, ...]) -> SubnetRequest | None:
    """The subnet of one family, as if a user had asked for it; None if it is to be chosen."""
    bip, fixed, gateway = family.bip, family.fixed, family.gateway
    if bridge:
        bip = _address_of_bridge(family, addresses)
        if bip is None and family.version == 4:
            hint = "no bridge of that name has an IPv4 address: make it and give it one, for we change none of yours"
            raise InvalidOption("bridge", bridge, hint)
    subnet = fixed if bip is None else bip.network
    if subnet is None:
        if gateway is not None:
            hint = f"the subnet that it lies in must be given, too, with {family.key('bip')}"
            raise InvalidOption(family.key("default-gateway"), gateway, hint)
        return None
    inside = f"it must lie inside {subnet}, the subnet of the bridge"
    if fixed is not None and not _within(fixed, subnet):
        raise InvalidOption(family.key("fixed-cidr"), fixed, inside)
    if gateway is not None and gateway not in subnet:
        raise InvalidOption(family.key("default-gateway"), gateway, inside)
    router = None if bip is not None and gateway == bip.ip else gateway
    request = SubnetRequest(
        subnet=str(subnet),
        ip_range=str(fixed or ""),
        gateway=str(bip.ip) if bip else "",
        aux=((f"DefaultGatewayIPv{family.version}", str(router)),) if router else (),
    )
    try:
        parse_ipam([request], ipv4=family.version == 4, ipv6=family.version == 6)
    except InvalidSubnet as error:
        key = "bridge" if bridge else family.key("bip" if bip else "fixed-cidr")
        raise InvalidOption(key, bip or fixed, "; ".join(error.problems)) from None
    return request


def _address_of_bridge(family: _Family, addresses: tuple[IPInterface, ...]) -> IPInterface | None:
    """The address of the user's bridge that the network goes by: one whose subnet holds fixed-cidr, else the first."""
    own = [one for one in addresses if one.version == family.version and not (one.version == 6 and one.is_link_local)]
    holding = [one for one in own if family.fixed is not None and _within(family.fixed, one.network)]
    return next(iter(holding or own), None)


def _advertised(key: str, text: str) -> str:
    """An address, or the name of an interface; Docker's form ADDRESS:PORT is taken for the address."""
    host, colon, port = text.rpartition(":")
    address = host.strip("[]") if colon and port.isdigit() and (host.count(":") == 0 or host[:1] == "[") else text
    try:
        return str(ip_address(address))
    except ValueError:
        check_interface(key, address)
    return address


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.network_address in outer and inner.prefixlen >= outer.prefixlen


def _settings(read: "_Reader", ignored: list[str]) -> Settings:
    """Read every key; what is wrong is kept by *read*."""
    exec_root = read.path("exec-root", "/run/isthmus")
    lease = read.parsed("address-lease", span)
    debug, level = read.switch("debug", default=False), read.choice("log-level", LogLevel.INFO)
    iptables, masquerade = read.switch("iptables", default=True), read.switch("ip-masq", default=True)
    settings = Settings(
        hosts=read.each("hosts", _host) or (f"unix://{exec_root}/isthmus.sock",),
        group=read.text("group"),
        data_root=read.path("data-root", "/var/lib/isthmus"),
        exec_root=exec_root,
        pidfile=read.path("pidfile", f"{exec_root}/isthmus.pid"),
        log_level=LogLevel.DEBUG if debug else level,
        labels=pairs(dict(read.each("labels", _label))),
        bridge=read.parsed("bridge", _bridge) or "",
        bip=read.parsed("bip", _interface4),
        bip6=read.parsed("bip6", _interface6),
        fixed_cidr=read.parsed("fixed-cidr", _network4),
        fixed_cidr_v6=read.parsed("fixed-cidr-v6", _network6),
        default_gateway=read.parsed("default-gateway", _address4),
        default_gateway_v6=read.parsed("default-gateway-v6", _address6),
        mtu=read.number("mtu", 68, 65535),
        ip=read.parsed("ip", _address4) or IPv4Address(0),
        publish=read.parsed("publish", _callers) or "",
        egress=read.parsed("egress", _egress) or "",
        icc=read.switch("icc", default=True),
        ipv6=read.switch("ipv6", default=False),
        iptables=iptables,
        ip6tables=read.switch("ip6tables", default=True),
        ip_forward=read.switch("ip-forward", default=True),
        ip_forward_no_drop=read.switch("ip-forward-no-drop", default=False),
        # Without rules there is nothing that could masquerade; so has Docker it, too.
        ip_masq=masquerade and iptables,
        allow_direct_routing=read.switch("allow-direct-routing", default=False),
        bridge_accept_fwmark=read.parsed("bridge-accept-fwmark", _fwmark),
        default_address_pools=read.pools("default-address-pools") or DEFAULT_POOLS,
        denied_address_pools=read.each("denied-address-pools", _network),
        address_lease=LEASE if lease is None else lease,
        default_runtime=read.text("default-runtime", ""),
        cluster_store=read.text("cluster-store"),
        cluster_store_opts=read.map("cluster-store-opts"),
        cluster_advertise=read.parsed("cluster-advertise", _advertised) or "",
        encryption_rekey=read.parsed("encryption-rekey", span) or 0,
        default_network_opts=read.options("default-network-opts"),
        dns=read.each("dns", _address),
        dns_opts=read.each("dns-opts", _word),
        dns_search=read.each("dns-search", _domain),
        dns_stub=read.parsed("dns-stub", _stub),
        host_gateway_ips=read.each("host-gateway-ips", _address),
        warnings=_warnings(ignored),
    )
    read.parsed("firewall-backend", _backend)
    read.path("userland-proxy-path", "/")
    for name in ("userland-proxy", "live-restore"):
        read.switch(name, default=True)
    for name, reason in REFUSED.items():
        read.refuse(name, reason)
    read.check(lambda: _check_together(settings))
    return settings


def _check_together(settings: Settings) -> None:
    """Refuse keys that do not go with each other."""
    if settings.bridge and (settings.bip or settings.bip6):
        raise InvalidRequest("You specified -b & --bip, mutually exclusive options. Please specify only one")
    if not settings.iptables and not settings.icc:
        raise InvalidRequest(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. Please set --icc or "
            "--iptables to true"
        )
    versions = [address.version for address in settings.host_gateway_ips]
    if len(versions) > len(set(versions)):
        shown = ", ".join(str(address) for address in settings.host_gateway_ips)
        raise InvalidOption("host-gateway-ips", shown, "there may be one IPv4 and one IPv6 address")
    if not settings.bridge:
        default_network(settings)
    if settings.cluster_store:
        kv_url(settings.cluster_store, dict(settings.cluster_store_opts))
        if not settings.cluster_advertise:
            raise InvalidRequest(
                "cluster-store needs cluster-advertise: the address, or the interface, by which others reach this host"
            )
    elif settings.cluster_store_opts:
        raise InvalidRequest("cluster-store-opts are options of cluster-store, which is not given")
    elif settings.encryption_rekey:
        raise InvalidRequest("encryption-rekey needs cluster-store, by which other hosts learn of a new key")


def _warnings(ignored: list[str]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"the following directives of dockerd do not concern networks and have no effect: {', '.join(ignored)}",)


class _Reader:
    """Reads *values*, as `daemon.json` has them, one key after another, and keeps count of what is wrong with them.

    A key that is not there, or is null, empty text, or an empty list, is one that was not given.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._problems: list[InvalidRequest] = []

    def settle(self) -> None:
        """Raise what was wrong, if anything was."""
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            raise InvalidRequest("\n".join(str(problem) for problem in self._problems))

    def check(self, test: Callable[[], None]) -> None:
        """Run a *test* that needs values without fault, and keep what it raises."""
        if not self._problems:
            try:
                test()
            except InvalidRequest as problem:
                self._problems.append(problem)

    def refuse(self, name: str, reason: str) -> None:
        """Refuse any value."""
        value = self._values.get(name)
        if value not in (None, "", [], {}):
            self._wrong(name, value, reason)

    def text(self, name: str, default: str = "") -> str:
        """Text without control characters."""
        value = self._values.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, str) and _is_text(value):
            return value
        self._wrong(name, value, "it must be text without control characters, in quotes")
        return default

    def parsed(self, name: str, parse: Callable[[str, str], _T]) -> _T | None:
        """Text, as *parse* reads it, given the key and the text; None if it was not given."""
        text = self.text(name)
        return self._try(partial(parse, name, text)) if text else None

    def path(self, name: str, default: str) -> PurePosixPath:
        """An absolute path."""
        return PurePosixPath(self.parsed(name, _absolute) or default)

    def switch(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._values.get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self._wrong(name, value, "it must be true or false, without quotes")
        return default

    def number(self, name: str, low: int, high: int) -> int | None:
        """A whole number from *low* to *high*; None if it was not given or is 0."""
        value = self._values.get(name)
        if value is None or (value == 0 and not isinstance(value, bool)):
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(name, value, f"it must be a whole number from {low} to {high}, without quotes")
        return None

    def choice(self, name: str, default: LogLevel) -> LogLevel:
        """A log level by its name."""
        text = self.text(name, default.value)
        try:
            return LogLevel(text)
        except ValueError:
            self._wrong(name, text, f"it must be one of {', '.join(level.value for level in LogLevel)}")
            return default

    def each(self, name: str, parse: Callable[[str, str], _T]) -> tuple[_T, ...]:
        """A list of texts, each as *parse* reads it."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(map(_is_text, value)):
            self._wrong(name, value, 'it must be a list of texts, such as ["one", "two"]')
            return ()
        read = [self._try(partial(parse, name, one)) for one in value]
        return tuple(one for one in read if one is not None)

    def pools(self, name: str) -> tuple[Pool, ...]:
        """A list of objects with `base` and `size`."""
        value = self._values.get(name)
        if value is None:
            return ()
        pools = []
        for one in value if isinstance(value, list) else [value]:
            match one:
                case {"base": str(base), "size": int(size), **rest} if not rest and not isinstance(size, bool):
                    pool = self._try(partial(parse_pool, base, size))
                    pools += [pool] if pool else []
                case _:
                    self._wrong(name, one, 'it must be a list such as [{"base": "10.200.0.0/16", "size": 24}]')
        return tuple(pools)

    def options(self, name: str) -> tuple[tuple[str, Pairs], ...]:
        """An object of objects of texts: options by driver."""
        value = self._values.get(name)
        if value is None:
            return ()
        drivers = value.items() if isinstance(value, dict) else [("", value)]
        read = []
        for driver, options in drivers:
            if isinstance(options, dict) and all(map(_is_text, (driver, *options, *options.values()))):
                read.append((driver, pairs(options)))
            else:
                self._wrong(name, value, 'it must be such as {"bridge": {"com.docker.network.driver.mtu": "1400"}}')
        return tuple(sorted(read))

    def map(self, name: str) -> Pairs:
        """An object of texts."""
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, dict) and all(map(_is_text, (*value, *value.values()))):
            return pairs(value)
        self._wrong(name, value, 'it must be such as {"discovery.ttl": "60"}')
        return ()

    def _try(self, parse: Callable[[], _T]) -> _T | None:
        try:
            return parse()
        except InvalidRequest as problem:
            self._problems.append(problem)
            return None

    def _wrong(self, name: str, value: object, hint: str) -> None:
        self._problems.append(InvalidOption(name, _shown(value), hint))


def _is_text(value: object) -> bool:
    """Whether *value* is text without control characters, and without what is no Unicode."""
    return isinstance(value, str) and value.isprintable()


def _shown(value: object) -> str:
    """How a user finds *value* again: text as it stands, all else as JSON."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except RecursionError:
        return "lists in lists in lists"


def _go(value: bool) -> str:  # noqa: FBT001 - a value, not a mode
    """How Go writes a boolean."""
    return "true" if value else "false"


def _host(key: str, text: str) -> str:
    if not re.fullmatch(r"unix:///.+", text):
        raise InvalidOption(
            key,
            text,
            "it must be a unix socket, such as unix:///run/isthmus/isthmus.sock; whoever reaches the API is root "
            "here, so it is served on no other",
        )
    if len(text.removeprefix("unix://").encode()) > 107:
        raise InvalidOption(key, text, "the path of a socket has at most 107 bytes")
    return text


def _label(key: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.strip() or not equals:
        raise InvalidOption(key, text, "a label is written key=value")
    return name, value


def _absolute(key: str, text: str) -> str:
    if not text.startswith("/"):
        raise InvalidOption(key, text, "the path must begin with /")
    return text


def _bridge(key: str, text: str) -> str:
    check_interface(key, text)
    if text == DEFAULT_BRIDGE:
        raise InvalidOption(key, text, "that is the bridge which we make: leave it out, or name one of your own")
    return text


def _interface4(key: str, text: str) -> IPv4Interface:
    interface = _interface(text)
    if not isinstance(interface, IPv4Interface):
        raise InvalidOption(key, text, "it must be an IPv4 address with a prefix length, such as 192.168.0.1/24")
    return interface


def _interface6(key: str, text: str) -> IPv6Interface:
    interface = _interface(text)
    if not isinstance(interface, IPv6Interface):
        raise InvalidOption(key, text, "it must be an IPv6 address with a prefix length, such as fd00:1::1/64")
    return interface


def _network4(key: str, text: str) -> IPv4Network:
    return _interface4(key, text).network


def _network6(key: str, text: str) -> IPv6Network:
    return _interface6(key, text).network


def _network(key: str, text: str) -> IPNetwork:
    interface = _interface(text)
    if interface is None:
        raise InvalidOption(key, text, "it must be a CIDR block such as 10.200.0.0/16")
    if interface.ip != interface.network.network_address:
        raise InvalidOption(key, text, f"it should be {interface.network}")
    return interface.network


def _interface(text: str) -> IPInterface | None:
    try:
        return ip_interface(text) if re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]{1,3}", text) else None
    except ValueError:
        return None


def _address(key: str, text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidOption(key, text, "it must be an IP address") from None


def _address4(key: str, text: str) -> IPv4Address:
    address = _address(key, text)
    if not isinstance(address, IPv4Address):
        raise InvalidOption(key, text, "it must be an IPv4 address")
    return address


def _address6(key: str, text: str) -> IPv6Address:
    address = _address(key, text)
    if not isinstance(address, IPv6Address) or address.scope_id:
        raise InvalidOption(key, text, "it must be an IPv6 address without a zone")
    return address


def _fwmark(key: str, text: str) -> FwMark:
    number = "0[xX][0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}"
    numbers = [int(part, 0) for part in text.split("/")] if re.fullmatch(f"({number})(/({number}))?", text) else []
    if not numbers or max(numbers) > 0xFFFFFFFF:
        raise InvalidOption(
            key, text, "it must be a mark of 32 bits, with a mask if need be, such as 0x10 or 0x10/0xf0"
        )
    return FwMark(*numbers)


def _backend(key: str, text: str) -> None:
    if text != "nftables":
        raise InvalidOption(
            key, text, "it must be nftables, the only one here; our table lives beside iptables' and leaves those alone"
        )


def _word(key: str, text: str) -> str:
    if not text or " " in text:
        raise InvalidOption(key, text, "it must be one word")
    return text


def _stub(key: str, text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:([0-9.]+)(?::([0-9]{1,5}))?|\[([0-9a-fA-F:]+)\]:([0-9]{1,5})|([0-9a-fA-F:]+))", text)
    address, port = ("".join(filter(None, found.group(*groups))) if found else "" for groups in ((1, 3, 5), (2, 4)))
    if not found or not 0 < int(port or 53) < 2**16:
        raise InvalidOption(key, text, "it must be an address, with a port if need be, such as 127.0.0.153:53")
    return str(_address(key, address)), int(port or 53)


def _callers(key: str, text: str) -> str:
    callers_of(key, text)
    return text


def _egress(key: str, text: str) -> str:
    try:
        policy = egress_of(text)
    except InvalidOption as error:
        raise InvalidOption(key, error.value, error.hint) from None
    if policy and policy.named:
        raise InvalidOption(key, text, "the network bridge has no resolver, which would tell names: give addresses")
    return text


def _domain(key: str, text: str) -> str:
    name = text.strip()
    labels = name.removesuffix(".").split(".")
    if name != "." and (len(name) > 254 or not all(map(_LABEL.fullmatch, labels))):
        raise InvalidOption(key, text, "it must be a domain such as corp.example, or . for none")
    return name


def _parse_file(text: str) -> dict[str, object]:
    """The keys of `daemon.json`, under their present names."""
    try:
        data = json.loads(text.removeprefix("\ufeff"), parse_constant=_no_constant)
        # Text that is no Unicode could not be told to anybody.
        json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequest("the configuration file is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the configuration file is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the configuration file must hold one JSON object, such as {}")
    keys: dict[str, object] = {**data}
    for old, new in _OLD_NAMES.items():
        if old in keys and new in keys:
            raise InvalidRequest(f"the configuration file has {old} and {new}: leave one of them out")
        if old in keys:
            value = keys.pop(old)
            keys[new] = None if value in (None, "") else [value]
    return keys


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _parse_flags(argv: Sequence[str]) -> dict[str, object]:
    """The flags of *argv* by the names of their keys, with values as the file has them.

    As dockerd reads them: `--flag=value` and `--flag value`, `-xvalue`, `-x=value` and `-x value`; switches only with
    `=`. The last of several wins, and lists grow.
    """
    values: dict[str, object] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            name, equals, text = word[2:].partition("=")
            key = _BY_FLAG.get(name)
            shown = f"--{name}"
            if key is None:
                raise InvalidRequest(f"unknown flag: {shown}{_did_you_mean(name, _BY_FLAG)}")
        elif word.startswith("-") and len(word) > 1 and word != "--":
            key = _BY_SHORT.get(word[1])
            shown = f"-{word[1]}"
            if key is None:
                raise InvalidRequest(f"unknown shorthand flag: {word[1]!r} in {word}")
            text, equals = word[2:], word[2:3]
            if key.kind is Kind.SWITCH and text and equals != "=":
                # Several in one word.
                rest.insert(0, f"-{text}")
                text = equals = ""
            text = text.removeprefix("=")
        else:
            raise InvalidRequest(f"the daemon takes flags only, and {word!r} is none")
        if not equals and key.kind is Kind.SWITCH:
            text = "true"
        elif not equals:
            if not rest:
                raise InvalidRequest(f"flag needs an argument: {shown}")
            text = rest.pop(0)
        _add_flag(values, key, text)
    return values


def _add_flag(values: dict[str, object], key: Key, text: str) -> None:
    """Put the *text* of a flag among *values* as the file would have it."""
    before = values.get(key.name)
    match key.kind:
        case Kind.TEXT:
            values[key.name] = text
        case Kind.SWITCH:
            values[key.name] = Options({f"--{key.long}": text}).boolean(f"--{key.long}", default=True)
        case Kind.NUMBER:
            if not re.fullmatch(r"-?[0-9]{1,18}", text):
                raise InvalidOption(f"--{key.long}", text, "it must be a whole number")
            values[key.name] = int(text)
        case Kind.LIST:
            values[key.name] = [*(before if isinstance(before, list) else ()), text]
        case Kind.POOLS:
            parts = dict(re.findall(r"(?:^|,)([^=,]*)=([^,]*)", text))
            if set(parts) != {"base", "size"} or not re.fullmatch(r"[0-9]{1,3}", parts["size"]):
                raise InvalidOption(f"--{key.long}", text, "it must be such as base=10.200.0.0/16,size=24")
            pool = {"base": parts["base"], "size": int(parts["size"])}
            values[key.name] = [*(before if isinstance(before, list) else ()), pool]
        case Kind.OPTIONS:
            driver, name, value = (*text.split("=", 2), "", "")[:3]
            if not driver or not name:
                raise InvalidOption(
                    f"--{key.long}", text, "it must be such as bridge=com.docker.network.driver.mtu=1400"
                )
            drivers = dict(before) if isinstance(before, dict) else {}
            values[key.name] = {**drivers, driver: {**drivers.get(driver, {}), name: value}}
        case Kind.MAP:
            name, equals, value = text.partition("=")
            if not name or not equals:
                raise InvalidOption(f"--{key.long}", text, "it must be KEY=VALUE")
            values[key.name] = {**(before if isinstance(before, dict) else {}), name: value}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, list(known), n=1)
    return f" ({name}: did you mean {nearest[0]}?)" if nearest else ""
