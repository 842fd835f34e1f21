"""What `isthmus run` and `isthmus create` ask for: flags become the body of Docker's container create."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from isthmus.cli.attach import endpoints_of
from isthmus.cli.flags import EGRESS, RATE, Arguments, Flag, Kind, check_label, check_link, mapping, split_csv
from isthmus.cli.ports import parse_ports

_ALL_PATHS = "systempaths=unconfined"
_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", re.IGNORECASE)


def size(value: str) -> int:
    """Bytes, as users write them.

    >>> [size(text) for text in ("64m", "1.5g", "100")]
    [67108864, 1610612736, 100]
    """
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError(f"invalid size: '{value}'")
    return int(float(found[1]) * (1 << _UNITS[found[2].lower()]))


def _check_size(value: str) -> str:
    return str(size(value))


def _check_swap(value: str) -> str:
    return value if value == "-1" else _check_size(value)


def _check_environment(value: str) -> str:
    """`NAME=VALUE`, or a name whose value is that of our own environment."""
    name, equals, _ = value.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {value}")
    return value if equals else _inherited(name) or value  # a bare name takes away what the image says


def _inherited(name: str) -> str | None:
    return f"{name}={os.environ[name]}" if name in os.environ else None


def _check_stream(value: str) -> str:
    stream = value.lower()
    if stream not in {"stdin", "stdout", "stderr"}:
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return stream


def _check_policy(value: str) -> str:
    name, _, count = value.partition(":")
    if count and not count.isdecimal():
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    if name not in {"", "no", "always", "unless-stopped", "on-failure"}:
        raise ValueError(f"invalid restart policy: {name}")
    return value


def _check_ulimit(value: str) -> str:
    _ulimit(value)
    return value


def _ulimit(value: str) -> dict[str, object]:
    name, equals, numbers = value.partition("=")
    soft, _, hard = numbers.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise ValueError(f"invalid ulimit argument: {value}") from None
    if not equals or (high != -1 and low > high):
        raise ValueError(f"invalid ulimit argument: {value}")
    return {"Name": name, "Soft": low, "Hard": high}


def _check_mount(value: str) -> str:
    _mount(value)
    return value


def _mount(value: str) -> dict[str, object]:
    """`type=bind,source=/there,target=/here,readonly`."""
    shape: dict[str, object] = {"Type": "volume"}
    bind: dict[str, object] = {}
    tmpfs: dict[str, object] = {}
    for field in split_csv(value):
        key, equals, rest = field.partition("=")
        match key.strip().lower():
            case "type":
                shape["Type"] = rest
            case "source" | "src":
                shape["Source"] = str(Path(rest).absolute()) if rest.startswith(".") else rest
            case "target" | "dst" | "destination":
                shape["Target"] = rest
            case "readonly" | "ro":
                shape["ReadOnly"] = not equals or rest in {"1", "true"}
            case "consistency":
                shape["Consistency"] = rest
            case "bind-propagation":
                bind["Propagation"] = rest
            case "bind-nonrecursive":
                bind["NonRecursive"] = not equals or rest in {"1", "true"}
            case "tmpfs-size":
                tmpfs["SizeBytes"] = size(rest)
            case "tmpfs-mode":
                tmpfs["Mode"] = int(rest, 8)
            case other:
                raise ValueError(f"unexpected key '{other}' in '{field}'")
    if not shape.get("Target"):
        raise ValueError("target is required")
    return {**shape, **({"BindOptions": bind} if bind else {}), **({"TmpfsOptions": tmpfs} if tmpfs else {})}


def _check_network(value: str) -> str:
    from isthmus.cli import attach

    return attach.check_network(value)


def _check_server(value: str) -> str:
    from isthmus.cli import attach

    return value if value == "none" else attach.check_address(value)


def _check_search(value: str) -> str:
    from isthmus.cli import attach

    return attach.check_search(value)


def _check_extra_host(value: str) -> str:
    from isthmus.cli import attach

    return attach.check_extra_host(value)


NETWORK_FLAGS = (
    Flag("add-host", "Line of /etc/hosts", Kind.LIST, value="name:address", check=_check_extra_host),
    Flag("dns", "Name server; none: no resolver", Kind.LIST, value="address", check=_check_server),
    Flag("dns-option", "Option of the resolver", Kind.LIST),
    Flag("dns-search", "Domain to search names in", Kind.LIST, value="domain", check=_check_search),
    Flag("domainname", "Domain name"),
    EGRESS,
    Flag("expose", "Port, or range of ports, that -P publishes", Kind.LIST, value="port"),
    Flag("hostname", "Host name", short="h"),
    Flag("ip", "IPv4 address on the first network", value="address"),
    Flag("ip6", "IPv6 address on the first network", value="address"),
    Flag("link", "Another container, under a name for it", Kind.LIST, value="name[:alias]", check=check_link),
    Flag("link-local-ip", "Link-local address on the first network", Kind.LIST, value="address"),
    Flag("mac-address", "MAC address on the first network", value="address"),
    Flag(
        "network",
        "Network, host, none or container:NAME; or name=...,ip=...,ip6=...,mac-address=...,alias=...,"
        "link-local-ip=...,driver-opt=K=V,gw-priority=N,rate=RATE",
        Kind.LIST,
        value="network",
        check=_check_network,
    ),
    Flag("network-alias", "Further name on the first network", Kind.LIST, value="name"),
    Flag("publish", "Publish a port: [[ADDRESS:]PORT:]PORT[/tcp|udp|sctp]", Kind.LIST, "p", "port"),
    Flag("publish-all", "Publish all exposed ports, on ports that we choose", Kind.SWITCH, "P"),
    RATE,
)
"""The flags that say how something new stands on networks."""

ENVIRONMENT_FLAGS = (
    Flag("env", "Environment variable; without a value, our own", Kind.LIST, "e", "name=value", _check_environment),
    Flag("env-file", "File with a variable on each line", Kind.LIST, value="file"),
)

RUN_FLAGS = (
    *NETWORK_FLAGS,
    *ENVIRONMENT_FLAGS,
    Flag("annotation", "Annotation for the OCI runtime", Kind.LIST, value="key=value", check=check_label),
    Flag("attach", "Stand at stdin, stdout or stderr alone", Kind.LIST, "a", "stream", _check_stream),
    Flag("cap-add", "Capability to add", Kind.LIST),
    Flag("cap-drop", "Capability to drop", Kind.LIST),
    Flag("cgroupns", "Namespace of control groups: host or private"),
    Flag("cidfile", "New file to write the ID to", value="file"),
    Flag("cpu-period", "Microseconds in which --cpu-quota is used up", Kind.NUMBER),
    Flag("cpu-quota", "Microseconds of the CPU's time in each period", Kind.NUMBER),
    Flag("cpu-shares", "Share of the CPU's time, relative to others", Kind.NUMBER, "c"),
    Flag("cpus", "How many CPUs, such as 1.5"),
    Flag("cpuset-cpus", "Which CPUs, such as 0-2,4"),
    Flag("cpuset-mems", "Which nodes of memory, such as 0,1"),
    Flag("device", "Device of the host: PATH[:PATH INSIDE[:rwm]]", Kind.LIST),
    Flag("entrypoint", "Program to run in the place of the image's"),
    Flag("group-add", "Further group", Kind.LIST),
    Flag("init", "An init of the engine's, which there is none of: only --init=false", Kind.SWITCH),
    Flag("interactive", "Keep standard input open", Kind.SWITCH, "i"),
    Flag("ipc", "IPC namespace: host, private or shareable"),
    Flag("label", "Label, with or without a value", Kind.LIST, "l", "key=value", check_label),
    Flag("label-file", "File with a label on each line", Kind.LIST, value="file"),
    Flag("log-driver", "json-file, or none"),
    Flag("log-opt", "max-size=SIZE", Kind.LIST, value="key=value"),
    Flag("memory", "Limit of memory, such as 64m", Kind.TEXT, "m", "bytes", _check_size),
    Flag("memory-reservation", "Memory that it may keep when it runs short", value="bytes", check=_check_size),
    Flag("memory-swap", "Limit of memory and swap together; -1: none", value="bytes", check=_check_swap),
    Flag("mount", "type=bind|tmpfs,source=...,target=...,readonly", Kind.LIST, value="mount", check=_check_mount),
    Flag("name", "Name"),
    Flag("no-healthcheck", "Pass over the image's health check, as is done anyway", Kind.SWITCH),
    Flag("oom-score-adj", "How willingly the kernel kills it, -1000 to 1000", Kind.NUMBER),
    Flag("pid", "PID namespace: host, or container:NAME"),
    Flag("pids-limit", "Limit of processes; -1: none", Kind.NUMBER),
    Flag("privileged", "All capabilities and devices, nothing masked", Kind.SWITCH),
    Flag("read-only", "Root file system that cannot be written", Kind.SWITCH),
    Flag("restart", "no, on-failure[:N], always or unless-stopped", value="policy", check=_check_policy),
    Flag("rm", "Remove it when it ends", Kind.SWITCH),
    Flag("security-opt", "no-new-privileges, or seccomp=unconfined", Kind.LIST),
    Flag("shm-size", "Size of /dev/shm", value="bytes", check=_check_size),
    Flag("stop-signal", "Signal that asks it to end"),
    Flag("stop-timeout", "Seconds until it is killed then", Kind.NUMBER),
    Flag("sysctl", "Setting of the kernel", Kind.LIST, value="key=value"),
    Flag("tmpfs", "Directory in memory: PATH[:OPTIONS]", Kind.LIST, value="path"),
    Flag("tty", "Give it a terminal", Kind.SWITCH, "t"),
    Flag("ulimit", "Limit: NAME=SOFT[:HARD]", Kind.LIST, value="limit", check=_check_ulimit),
    Flag("user", "User to run as: NAME|UID[:GROUP|GID]", short="u"),
    Flag("uts", "UTS namespace: host"),
    Flag("volume", "Directory of the host: /THERE:/HERE[:ro]", Kind.LIST, "v", "path"),
    Flag("workdir", "Directory to run in", short="w"),
)
"""The flags of `isthmus create`, and of `run`."""


def image_of(word: str) -> str:
    """The image that *word* means: a directory if it is written as a path."""
    return str(Path(word).resolve()) if word.startswith((".", "/")) else word


def streams_of(arguments: Arguments) -> frozenset[str]:
    """Which of the container's streams somebody is to stand at."""
    if arguments.on("detach"):
        if arguments.given("attach"):
            raise arguments.wrong("conflicting options: cannot specify both --attach and --detach")
        return frozenset()
    streams = frozenset(arguments.texts("attach") or ("stdout", "stderr"))
    return streams | {"stdin"} if arguments.on("interactive") else streams


def body_of(arguments: Arguments) -> dict[str, object]:
    """The body of the request."""
    image, *command = arguments.words
    try:
        ports = parse_ports(arguments.texts("publish"), arguments.texts("expose"))
    except ValueError as error:
        raise arguments.wrong(str(error)) from None
    mode, endpoints = endpoints_of(arguments)
    streams, stdin = streams_of(arguments), arguments.on("interactive")
    return {
        "Hostname": arguments.text("hostname"),
        "Domainname": arguments.text("domainname"),
        "User": arguments.text("user"),
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Tty": arguments.on("tty"),
        "OpenStdin": stdin,
        "StdinOnce": stdin and "stdin" in streams,
        "Env": environment_of(arguments),
        "Cmd": command or None,
        "Image": image_of(image),
        "WorkingDir": arguments.text("workdir"),
        "Entrypoint": [arguments.text("entrypoint")] if arguments.given("entrypoint") else None,
        "Labels": mapping([*_file_lines(arguments, "label-file"), *arguments.texts("label")]),
        "Healthcheck": {"Test": ["NONE"]} if arguments.on("no-healthcheck") else None,
        "StopSignal": arguments.text("stop-signal"),
        "StopTimeout": arguments.number("stop-timeout") if arguments.given("stop-timeout") else None,
        "ExposedPorts": ports.exposed,
        "Volumes": {value: {} for value in arguments.texts("volume") if ":" not in value},
        "HostConfig": {
            "NetworkMode": mode,
            "PortBindings": ports.bindings,
            "PublishAllPorts": arguments.on("publish-all"),
            "Dns": arguments.texts("dns"),
            "DnsOptions": arguments.texts("dns-option"),
            "DnsSearch": arguments.texts("dns-search"),
            "ExtraHosts": arguments.texts("add-host") or None,
            "Links": arguments.texts("link") or None,
            "Sysctls": mapping(arguments.texts("sysctl")),
            **_host_config(arguments),
        },
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }


def _host_config(arguments: Arguments) -> dict[str, object]:
    policy, _, count = arguments.text("restart", "no").partition(":")
    if arguments.on("rm") and policy not in {"", "no"}:
        raise arguments.wrong("conflicting options: cannot specify both --restart and --rm")
    security = arguments.texts("security-opt")
    # Docker's client, too, turns this one into lists of paths that are not masked.
    paths: dict[str, object] = {"MaskedPaths": [], "ReadonlyPaths": []} if _ALL_PATHS in security else {}
    ulimits = {str(limit["Name"]): limit for limit in map(_ulimit, arguments.texts("ulimit"))}
    cpus = arguments.text("cpus", "0")
    try:
        nano = round(float(cpus) * 10**9)
    except (ValueError, OverflowError):
        raise arguments.wrong(f'invalid argument "{cpus}" for "--cpus" flag: it must be a number') from None
    return {
        "Binds": [_bind(value) for value in arguments.texts("volume") if ":" in value] or None,
        "Mounts": [_mount(value) for value in arguments.texts("mount")],
        "Tmpfs": dict(value.partition(":")[::2] for value in arguments.texts("tmpfs")),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)},
        "AutoRemove": arguments.on("rm"),
        "CapAdd": _capabilities(arguments.texts("cap-add")),
        "CapDrop": _capabilities(arguments.texts("cap-drop")),
        "Privileged": arguments.on("privileged"),
        "ReadonlyRootfs": arguments.on("read-only"),
        "SecurityOpt": [value for value in security if value != _ALL_PATHS] or None,
        **paths,
        "GroupAdd": arguments.texts("group-add") or None,
        "Devices": [_device(value) for value in arguments.texts("device")] or None,
        "Ulimits": [ulimits[name] for name in sorted(ulimits)],
        "LogConfig": {"Type": arguments.text("log-driver"), "Config": mapping(arguments.texts("log-opt"))},
        "Annotations": mapping(arguments.texts("annotation")),
        "PidMode": arguments.text("pid"),
        "IpcMode": arguments.text("ipc"),
        "UTSMode": arguments.text("uts"),
        "CgroupnsMode": arguments.text("cgroupns"),
        "Init": arguments.on("init") if arguments.given("init") else None,
        "CpuPeriod": arguments.number("cpu-period"),
        "CpuQuota": arguments.number("cpu-quota"),
        "CpuShares": arguments.number("cpu-shares"),
        "CpusetCpus": arguments.text("cpuset-cpus"),
        "CpusetMems": arguments.text("cpuset-mems"),
        "NanoCpus": nano,
        "Memory": arguments.number("memory"),
        "MemoryReservation": arguments.number("memory-reservation"),
        "MemorySwap": arguments.number("memory-swap"),
        "OomScoreAdj": arguments.number("oom-score-adj"),
        "PidsLimit": arguments.number("pids-limit") if arguments.given("pids-limit") else None,
        "ShmSize": arguments.number("shm-size"),
    }


def _bind(value: str) -> str:
    """A path of the host's that begins with a dot is one from where we are."""
    source, colon, rest = value.partition(":")
    return f"{Path(source).resolve()}{colon}{rest}" if source.startswith(".") else value


def _device(value: str) -> dict[str, str]:
    there, _, rest = value.partition(":")
    here, _, access = rest.partition(":")
    if here and set(here) <= set("rwm"):
        here, access = "", here
    return {"PathOnHost": there, "PathInContainer": here or there, "CgroupPermissions": access or "rwm"}


def _capabilities(values: list[str]) -> list[str]:
    """`net_admin` is `CAP_NET_ADMIN`."""
    names = (value.upper() for value in values)
    return sorted({name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in names})


def environment_of(arguments: Arguments) -> list[str]:
    """The variables of files, then those of the command line, so that these hold; a bare name in a file is our own."""
    lines = _file_lines(arguments, "env-file")
    variables = (line if "=" in line else _inherited(line) for line in lines)
    return [*filter(None, variables), *arguments.texts("env")]


def _file_lines(arguments: Arguments, flag: str) -> Iterator[str]:
    """What stands in the files that *flag* names: on each line `name=value`, or `name`."""
    for path in arguments.texts(flag):
        try:
            yield from _lines(Path(path).read_bytes())
        except OSError as error:
            raise arguments.wrong(f"open {path}: {(error.strerror or str(error)).lower()}") from None
        except ValueError as error:
            raise arguments.wrong(f"invalid {flag.replace('-', ' ')} ({path}): {error}") from None


def _lines(content: bytes) -> Iterator[str]:
    r"""The lines of a file of `name=value` that say something. What follows the value belongs to it.

    >>> list(_lines(b"# comment\n  A=1  \r\nB"))
    ['A=1  ', 'B']
    """
    for number, encoded in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = encoded.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise ValueError(f"invalid utf8 bytes at line {number}") from None
        name = line.partition("=")[0]
        if not line or line.startswith("#"):
            continue
        if not name:
            raise ValueError(f"no variable name on line '{line}'")
        if " " in name or "\t" in name:
            raise ValueError(f"variable '{name}' contains whitespaces")
        yield line
