"""Between Docker's JSON and containers: what a body asks for, and the shapes of what there is. Pure.

What was asked is kept as JSON in Docker's own shape, with what the image says merged into it, as Docker does. So it is
from one text that a container is run and that `inspect` tells of it. What a body asks for and we cannot give is refused
by its key (501), never passed over.
"""

import json as standard
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from isthmus.api import body, translate
from isthmus.api.filters import Filters
from isthmus.api.message import Version
from isthmus.api.translate import Shape, rfc3339
from isthmus.containers.model import (
    Asked,
    Device,
    ExecView,
    ExecWish,
    Found,
    Limits,
    Mount,
    Restart,
    View,
    Wish,
)
from isthmus.errors import InvalidOption, InvalidRequest, NotImplementedHere
from isthmus.model import pairs
from isthmus.spans import lasting

_SECOND = 10**9
_BY_DEFAULT = {"": "bridge", "default": "bridge"}
_NEVER = "0001-01-01T00:00:00Z"
_POLICIES = frozenset({"no", "always", "unless-stopped", "on-failure"})
_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_PASSED_OVER = frozenset({"z", "Z", "nocopy", "cached", "delegated", "consistent", "rw"})
_PERIOD = 100_000  # microseconds of the CPU's time, of which `NanoCpus` is a share

UNSUPPORTED = {
    "BlkioDeviceReadBps": "limits of block devices",
    "BlkioDeviceReadIOps": "limits of block devices",
    "BlkioDeviceWriteBps": "limits of block devices",
    "BlkioDeviceWriteIOps": "limits of block devices",
    "BlkioWeight": "limits of block devices",
    "BlkioWeightDevice": "limits of block devices",
    "Cgroup": "joining control groups",
    "CgroupParent": "other parents of control groups",
    "CpuRealtimePeriod": "real-time scheduling",
    "CpuRealtimeRuntime": "real-time scheduling",
    "DeviceCgroupRules": "rules for devices that are not there yet: name devices with --device",
    "DeviceRequests": "devices by driver, such as GPUs",
    "Init": "an init of the engine's: have one in the image",
    "KernelMemory": "limits of the kernel's memory",
    "KernelMemoryTCP": "limits of the kernel's memory",
    "OomKillDisable": "a container that the kernel may not kill",
    "StorageOpt": "storage options",
    "VolumeDriver": "volumes: bind a directory of the host instead",
    "VolumesFrom": "volumes: bind a directory of the host instead",
}
"""What of Docker's HostConfig we do not do, and what that would be."""


# From bodies to what they mean.


def decode(headers: Mapping[str, str], content: bytes | None) -> body.ContainerCreate:
    """The container that a body asks for.

    Raises:
        NotImplementedHere: it asks for what we do not do.
    """
    create = body.decode(body.ContainerCreate, headers, content)
    raw = standard.loads(content or b"{}")
    config = next((value for key, value in raw.items() if key.lower() == "hostconfig"), None) or {}
    given = {str(key).lower(): value for key, value in config.items()} if isinstance(config, dict) else {}
    for key, what in UNSUPPORTED.items():
        if given.get(key.lower()):
            raise NotImplementedHere(f"HostConfig.{key} is not supported: Isthmus has no {what}")
    if given.get("memoryswappiness") not in {None, -1}:
        raise NotImplementedHere("HostConfig.MemorySwappiness is not supported: Isthmus leaves it to the kernel")
    # Some clients name what they bind here, too.
    bound = {one.target for one in _mounts(create.host_config)}
    for target in create.volumes:
        if posixpath.normpath(target) not in bound:
            raise NotImplementedHere(
                f"volumes are not supported, such as {target}: bind a directory of the host (-v /there:/here), or use "
                "memory (--tmpfs)"
            )
    if create.healthcheck.test not in (None, [], ["NONE"]):
        raise NotImplementedHere("Healthcheck is not supported: Isthmus does not look whether a container is well")
    return create


def merged(create: body.ContainerCreate, image: Mapping[str, object]) -> body.ContainerCreate:
    """What *create* asks for, with what the configuration of its *image* says where it does not.

    A user's own entry point makes the image's command void.
    """
    said = msgspec.convert(body.folded(body.ImageConfig, dict(image)), body.ImageConfig)
    entrypoint, command = words(create.entrypoint), words(create.cmd)
    if not entrypoint:
        command = command or words(said.cmd)
        entrypoint = words(said.entrypoint) if entrypoint is None else entrypoint
    names = {word.partition("=")[0] for word in create.env}
    return msgspec.structs.replace(
        create,
        entrypoint=None if entrypoint is None else [one for one in entrypoint if one] or None,
        cmd=command,
        env=[*(word for word in said.env or () if word.partition("=")[0] not in names), *create.env],
        working_dir=create.working_dir or said.working_dir,
        user=create.user or said.user,
        stop_signal=create.stop_signal or said.stop_signal,
        labels={**(said.labels or {}), **create.labels},
        exposed_ports={**(said.exposed_ports or {}), **create.exposed_ports},
    )


def placed(create: body.ContainerCreate) -> body.ContainerCreate:
    """*create* with the network of its mode among those that it is put on, from which it can be taken like any other.

    In the modes `host` and `container:` there is none.
    """
    mode = create.host_config.network_mode
    main = _BY_DEFAULT.get(mode, mode)
    configs = create.networking_config.endpoints_config
    if _has_no_networks(mode) or main in configs:
        return create
    every = {
        main: configs.get(mode, body.EndpointConfig()),
        **{key: one for key, one in configs.items() if key != mode},
    }
    return msgspec.structs.replace(create, networking_config=body.NetworkingConfig(every))


def _has_no_networks(mode: str) -> bool:
    return mode == "host" or mode.startswith("container:")


def words(given: list[str] | str | None) -> list[str] | None:
    """A command, which may be one word."""
    return [given] if isinstance(given, str) else given


def text_of(create: body.ContainerCreate) -> str:
    """What was asked for, as it is kept."""
    return msgspec.json.encode(create).decode()


def create_of(asked: str) -> body.ContainerCreate:
    """What was asked for, as it was kept."""
    return msgspec.json.decode(asked, type=body.ContainerCreate)


def meaning(name: str, asked: str) -> Asked:
    """What a container's *asked* means for it.

    Raises:
        InvalidRequest, NotImplementedHere: it cannot be meant, or not be done.
    """
    create = create_of(asked)
    sysctls, mode = create.host_config.sysctls, create.host_config.network_mode
    configs = create.networking_config.endpoints_config
    if not _has_no_networks(mode) and (mode := _BY_DEFAULT.get(mode, mode)) not in configs:
        # It was taken from the network of its mode.
        mode = next(iter(configs), "none")
    host = msgspec.structs.replace(
        create.host_config,
        network_mode=mode,
        sysctls={key: value for key, value in sysctls.items() if key.startswith("net.")},
    )
    request, _ = translate.sandbox_request(name, msgspec.structs.replace(create, host_config=host))
    return Asked(wish(create), replace(request, labels=pairs(create.labels)))


def warnings(name: str, create: body.ContainerCreate) -> tuple[str, ...]:
    """What its user should know about what is asked for."""
    return translate.sandbox_request(name, create)[1]


def wish(create: body.ContainerCreate) -> Wish:
    """How the program is to run."""
    host = create.host_config
    policy = host.restart_policy.name or "no"
    if policy not in _POLICIES:
        raise InvalidRequest(
            f"invalid restart policy: unknown policy '{policy}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'"
        )
    if host.auto_remove and policy != "no":
        raise InvalidRequest("can't create 'AutoRemove' container with restart policy")
    for key, value, known in (
        ("IpcMode", host.ipc_mode, {"", "private", "shareable", "host"}),
        ("UTSMode", host.uts_mode, {"", "host"}),
        ("CgroupnsMode", host.cgroupns_mode, {"", "private", "host"}),
        ("UsernsMode", host.userns_mode, {"", "host"}),
    ):
        if value not in known:
            raise NotImplementedHere(
                f"HostConfig.{key}={value} is not supported: leave it out, or use {_one_of(known)}"
            )
    if host.pid_mode not in {"", "host"} and not host.pid_mode.startswith("container:"):
        raise InvalidRequest(f"invalid PID mode: {host.pid_mode}")
    kept, size = _log(host.log_config)
    privileges, confined = _security(host.security_opt or ())
    return Wish(
        image=create.image,
        entrypoint=tuple(words(create.entrypoint) or ()),
        command=tuple(words(create.cmd) or ()),
        environment=tuple(create.env),
        directory=create.working_dir,
        user=create.user,
        groups=tuple(host.group_add or ()),
        tty=create.tty,
        stdin=create.open_stdin,
        stdin_once=create.stdin_once,
        stop_signal=create.stop_signal,
        stop_timeout=create.stop_timeout,
        remove=host.auto_remove,
        restart=Restart(policy, host.restart_policy.maximum_retry_count),
        capabilities_added=tuple(host.cap_add or ()),
        capabilities_dropped=tuple(host.cap_drop or ()),
        privileged=host.privileged,
        read_only=host.readonly_rootfs,
        new_privileges=privileges,
        seccomp=confined,
        mounts=tuple(_mounts(host)),
        devices=tuple(
            Device(one.path_on_host, one.path_in_container or one.path_on_host, one.cgroup_permissions or "rwm")
            for one in host.devices or ()
        ),
        limits=_limits(host),
        ulimits=tuple((one.name, one.soft, one.hard) for one in host.ulimits or ()),
        shm_size=host.shm_size or 64 << 20,
        oom_score=host.oom_score_adj,
        pid_mode=host.pid_mode,
        ipc_mode=host.ipc_mode,
        uts_mode=host.uts_mode,
        cgroup_mode=host.cgroupns_mode,
        hidden=None if host.masked_paths is None else tuple(host.masked_paths),
        frozen=None if host.readonly_paths is None else tuple(host.readonly_paths),
        annotations=pairs(host.annotations),
        logged=kept,
        log_size=size,
        sysctls=pairs({key: value for key, value in host.sysctls.items() if not key.startswith("net.")}),
    )


def _one_of(known: Iterable[str]) -> str:
    return " or ".join(sorted(word for word in known if word))


def _limits(host: body.ContainerHostConfig) -> Limits:
    if host.nano_cpus and (host.cpu_quota or host.cpu_period):
        raise InvalidRequest("Conflicting options: Nano CPUs and CPU Period cannot both be set.")
    if 0 < host.memory < 6 << 20:
        raise InvalidRequest("Minimum memory limit allowed is 6MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < host.memory_swap < host.memory:
        raise InvalidRequest("Minimum memoryswap limit should be larger than memory limit, see usage")
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        quota, period = host.nano_cpus * _PERIOD // 10**9, _PERIOD
    return Limits(
        memory=host.memory,
        swap=host.memory_swap,
        reservation=host.memory_reservation,
        shares=host.cpu_shares,
        quota=quota,
        period=period,
        cpus=host.cpuset_cpus,
        mems=host.cpuset_mems,
        pids=max(host.pids_limit or 0, 0),
    )


def _log(config: body.LogConfig) -> tuple[bool, int]:
    """Whether output is kept, and up to which size; 0 sets no limit."""
    if config.type not in {"", "json-file", "local", "none"}:
        raise NotImplementedHere(f"log driver {config.type} is not supported: use json-file or none")
    for key in config.config:
        if key not in {"max-size", "max-file"}:
            raise NotImplementedHere(f"log option {key} is not supported: max-size is")
    return config.type != "none", size_of(config.config.get("max-size", "0"))


def size_of(text: str) -> int:
    """Bytes, as `10m` or `1g` write them.

    >>> size_of("10m")
    10485760
    """
    number, unit = text.rstrip("bBkKmMgG"), text[len(text.rstrip("bBkKmMgG")) :].lower().removesuffix("b")
    if not number.isdecimal() or unit not in {"", "k", "m", "g"}:
        raise InvalidOption("max-size", text, "it must be a size such as 10m")
    return int(number) << {"": 0, "k": 10, "m": 20, "g": 30}[unit]


def _security(options: Iterable[str]) -> tuple[bool, bool]:
    """Whether programs may gain privileges, and whether system calls are filtered."""
    privileges = confined = True
    for option in options:
        key, _, value = option.replace(":", "=", 1).partition("=") if "=" not in option else option.partition("=")
        match key, value:
            case "no-new-privileges", "" | "true":
                privileges = False
            case ("no-new-privileges", "false") | ("label", "disable") | ("apparmor", "unconfined"):
                pass
            case "seccomp", "unconfined":
                confined = False
            case "seccomp", "builtin":
                confined = True
            case _:
                raise NotImplementedHere(
                    f"security option {key} is not supported so: no-new-privileges and seccomp=unconfined are"
                )
    return privileges, confined


def _mounts(host: body.ContainerHostConfig) -> Iterator[Mount]:
    for text in host.binds or ():
        yield _bind(text)
    for one in host.mounts:
        yield _mount(one)
    for target, options in host.tmpfs.items():
        given = tuple(word for word in options.split(",") if word)
        yield Mount("tmpfs", "tmpfs", _inside(target), ("nosuid", "nodev", "noexec", *given))


def _bind(text: str) -> Mount:
    """What `-v SOURCE:TARGET[:OPTIONS]` asks for."""
    parts = text.split(":")
    if len(parts) == 2 or len(parts) == 3:
        source, target, *rest = parts
        given = [word for word in ",".join(rest).split(",") if word]
        for word in given:
            if word not in {*_PASSED_OVER, *_PROPAGATIONS, "ro"}:
                raise InvalidRequest(f"invalid volume specification: '{text}': invalid mode: {','.join(rest)}")
        if not source.startswith("/"):
            raise NotImplementedHere(
                f"volumes are not supported, such as {source}: bind a directory of the host (-v /there:/here)"
            )
        chosen = tuple(word for word in given if word in {"ro", *_PROPAGATIONS})
        return Mount("bind", posixpath.normpath(source), _inside(target), ("rbind", *chosen), made=True)
    raise InvalidRequest(f"invalid volume specification: '{text}'")


def _mount(one: body.Mount) -> Mount:
    """What `--mount` asks for."""
    read_only = ("ro",) if one.read_only else ()
    if one.type == "bind":
        if not one.source.startswith("/"):
            raise InvalidRequest(
                f"invalid mount config for type \"bind\": invalid mount path: '{one.source}' mount path must be "
                "absolute"
            )
        propagation = one.bind_options.propagation
        if propagation and propagation not in _PROPAGATIONS:
            raise InvalidRequest(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
        how = "bind" if one.bind_options.non_recursive else "rbind"
        given = (how, *read_only, *([propagation] if propagation else []))
        source = posixpath.normpath(one.source)
        return Mount("bind", source, _inside(one.target), given, made=one.bind_options.create_mountpoint)
    if one.type == "tmpfs":
        size, mode = one.tmpfs_options.size_bytes, one.tmpfs_options.mode
        options = [*read_only, *([f"size={size}"] if size else []), *([f"mode={mode:o}"] if mode else [])]
        return Mount("tmpfs", "tmpfs", _inside(one.target), ("nosuid", "nodev", "noexec", *options))
    if one.type in {"volume", "npipe", "cluster", "image"}:
        raise NotImplementedHere(f"mounts of type {one.type} are not supported: bind and tmpfs are")
    raise InvalidRequest(f"invalid mount config: mount type unknown: {one.type!r}")


def _inside(target: str) -> str:
    """A place in a container."""
    if not target.startswith("/"):
        raise InvalidRequest(f"invalid mount config: invalid mount path: '{target}' mount path must be absolute")
    path = posixpath.normpath(target)
    if path in {"/", "//"}:
        raise InvalidRequest("invalid mount config: invalid specification: destination can't be '/'")
    return path


def with_network(asked: str, network: str, config: body.EndpointConfig) -> str:
    """What was *asked*, and one more network."""
    create = create_of(asked)
    configs = {**create.networking_config.endpoints_config, network: config}
    return text_of(msgspec.structs.replace(create, networking_config=body.NetworkingConfig(configs)))


def without_network(asked: str, *names: str) -> str:
    """What was *asked*, without the network of these *names*."""
    create = create_of(asked)
    configs = {key: one for key, one in create.networking_config.endpoints_config.items() if key not in names}
    return text_of(msgspec.structs.replace(create, networking_config=body.NetworkingConfig(configs)))


def exec_wish(create: body.ExecCreate) -> ExecWish:
    """The program that is to run beside a container's own."""
    return ExecWish(
        words=tuple(create.cmd),
        environment=tuple(create.env),
        directory=create.working_dir,
        user=create.user,
        tty=create.tty,
        stdin=create.attach_stdin,
        stdout=create.attach_stdout,
        stderr=create.attach_stderr,
        privileged=create.privileged,
        detach_keys=create.detach_keys,
    )


# From views to shapes.


def state(view: View) -> Shape:
    """`State` of a container."""
    record = view.record
    return {
        "Status": view.state,
        "Running": view.state in {"running", "paused"},
        "Paused": view.state == "paused",
        "Restarting": view.state == "restarting",
        "OOMKilled": False,
        "Dead": False,
        "Pid": view.pid,
        "ExitCode": record.code if record.ended or record.error else 0,
        "Error": record.error,
        "StartedAt": rfc3339(record.started) if record.started else _NEVER,
        "FinishedAt": rfc3339(record.ended) if record.ended else _NEVER,
    }


def inspect(view: View, version: Version, runtime: str) -> Shape:
    """`GET /containers/{id}/json`."""
    record, create = view.record, create_of(view.record.asked)
    program = (*view.asked.wish.entrypoint, *view.asked.wish.command)
    files = dict(view.files)
    return {
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Path": program[0] if program else "",
        "Args": list(program[1:]),
        "State": state(view),
        "Image": record.image,
        "ResolvConfPath": files.get("/etc/resolv.conf", ""),
        "HostnamePath": files.get("/etc/hostname", ""),
        "HostsPath": files.get("/etc/hosts", ""),
        "LogPath": f"{view.directory}/log",
        "Name": f"/{record.name}",
        "RestartCount": record.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(view.executions) or None,
        "HostConfig": _host_config(create, runtime),
        "GraphDriver": {"Name": "overlay2", "Data": None},
        "Mounts": [_mount_point(one) for one in view.asked.wish.mounts if one.kind == "bind"],
        "Config": _config(view, create),
        "NetworkSettings": _network_settings(view, version),
    }


def _host_config(create: body.ContainerCreate, runtime: str) -> Shape:
    shape: Shape = msgspec.to_builtins(create.host_config)
    shape["PortBindings"] = {
        port: [{key: value for key, value in place.items() if key != "Callers" or value} for place in places]
        for port, places in msgspec.to_builtins(create.host_config.port_bindings).items()
    }
    shape["NetworkMode"] = create.host_config.network_mode or "default"
    shape["RestartPolicy"] = {
        "Name": create.host_config.restart_policy.name or "no",
        "MaximumRetryCount": create.host_config.restart_policy.maximum_retry_count,
    }
    shape["LogConfig"] = {
        "Type": create.host_config.log_config.type or "json-file",
        "Config": create.host_config.log_config.config,
    }
    shape["ShmSize"] = create.host_config.shm_size or 64 << 20
    return shape | {"Runtime": runtime, "VolumesFrom": None, "Isolation": "", "ConsoleSize": [0, 0]}


def _config(view: View, create: body.ContainerCreate) -> Shape:
    shape: Shape = msgspec.to_builtins(create)
    for key in ("HostConfig", "NetworkingConfig", "MacAddress", "Healthcheck"):
        shape.pop(key, None)
    for key, given in (("Cmd", create.cmd), ("Entrypoint", create.entrypoint)):
        shape[key] = words(given)
    if not create.exposed_ports:
        shape.pop("ExposedPorts", None)
    for key in ("StopSignal", "StopTimeout"):
        if not shape.get(key) and shape.get(key) != 0:
            shape.pop(key, None)
    shape["Hostname"] = _hostname(view, create)
    return shape | {"Volumes": None, "OnBuild": None}


def _hostname(view: View, create: body.ContainerCreate) -> str:
    mode = create.host_config.network_mode
    return create.hostname or ("" if mode == "host" or mode.startswith("container:") else view.record.id[:12])


def _mount_point(one: Mount) -> Shape:
    propagation = next((word for word in one.options if word in _PROPAGATIONS), "rprivate")
    mode = ",".join(word for word in one.options if word not in {"rbind", "bind"})
    writable = "ro" not in one.options
    return {
        "Type": "bind",
        "Source": one.source,
        "Destination": one.target,
        "Mode": mode,
        "RW": writable,
        "Propagation": propagation,
    }


def _network_settings(view: View, version: Version) -> Shape:
    if view.sandbox:
        return translate.network_settings(view.sandbox, version)
    return {
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": {},
        "Networks": _idle_networks(view),
        **({} if version >= (1, 52) else translate.no_legacy_address()),
    }


def _idle_networks(view: View) -> Shape:
    """The networks of a container that does not run: what was asked for, and nothing of what it would get."""
    return {name: translate.idle_endpoint(one) for name, one in view.asked.sandbox.endpoints}


def summary(view: View, now: int) -> Shape:
    """An item of `GET /containers/json`, at the time *now*."""
    record, create = view.record, create_of(view.record.asked)
    program = (*view.asked.wish.entrypoint, *view.asked.wish.command)
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": create.image,
        "ImageID": record.image,
        "Command": " ".join(program),
        "Created": record.created // _SECOND,
        "Ports": translate.summary_ports(view.sandbox) if view.sandbox else [],
        "Labels": create.labels,
        "State": view.state,
        "Status": status(view, now),
        "HostConfig": {"NetworkMode": create.host_config.network_mode or "default"},
        "NetworkSettings": {"Networks": translate.networks(view.sandbox) if view.sandbox else _idle_networks(view)},
        "Mounts": [_mount_point(one) for one in view.asked.wish.mounts if one.kind == "bind"],
    }


def status(view: View, now: int) -> str:
    """How a container is, in Docker's words."""
    record = view.record
    ago = f"({record.code}) {lasting((now - record.ended) // _SECOND)} ago"
    match view.state:
        case "running":
            return f"Up {lasting((now - record.started) // _SECOND)}"
        case "paused":
            return f"Up {lasting((now - record.started) // _SECOND)} (Paused)"
        case "restarting":
            return f"Restarting {ago}"
        case "exited":
            return f"Exited {ago}"
        case "removing":
            return "Removal In Progress"
        case _:
            return "Created"


def execution(view: ExecView) -> Shape:
    """`GET /exec/{id}/json`."""
    wish = view.wish
    return {
        "ID": view.id,
        "Running": view.started and view.code is None,
        "ExitCode": view.code,
        "ProcessConfig": {
            "tty": wish.tty,
            "entrypoint": wish.words[0],
            "arguments": list(wish.words[1:]),
            "privileged": wish.privileged,
            "user": wish.user,
        },
        "OpenStdin": wish.stdin,
        "OpenStderr": wish.stderr,
        "OpenStdout": wish.stdout,
        "CanRemove": view.code is not None,
        "ContainerID": view.container,
        "DetachKeys": "",
        "Pid": view.pid,
    }


# What filters mean.

FILTERS = frozenset({"ancestor", "before", "exited", "id", "label", "name", "network", "since", "status"})
_STATES = frozenset({"created", "dead", "exited", "paused", "removing", "restarting", "running"})


def wanted(filters: Filters, known: Iterable[View], images: Callable[[str], Found | None]) -> Callable[[View], bool]:
    """Whether a container is among those that *filters* of `GET /containers/json` ask for."""
    for value in filters.values.get("status", ()):
        if value not in _STATES:
            raise InvalidRequest(f"invalid filter 'status=[{value}]'")
    exited = _numbers(filters, "exited")
    made = {}
    for view in known:
        made[view.record.name] = made[view.record.id] = view.record.created
    limits = {key: _time_of(filters, key, made) for key in ("before", "since")}
    ancestors = {found.id for name in filters.values.get("ancestor", ()) if (found := images(name))}
    asked_ancestors = "ancestor" in filters

    def one_wanted(view: View) -> bool:
        record = view.record
        names = [name for name, _ in view.asked.sandbox.endpoints] or [view.asked.sandbox.mode]
        ids: list[str] = []
        if view.sandbox:
            names = [one.network.name for one in view.sandbox.endpoints]
            ids = [one.network.id for one in view.sandbox.endpoints]
        return (
            filters.prefix("id", record.id)
            and (filters.part("name", record.name) or filters.part("name", f"/{record.name}"))
            and filters.labels("label", dict(view.asked.sandbox.labels))
            and filters.exact("status", view.state)
            and (filters.exact("network", *names) or (bool(ids) and filters.prefix("network", *ids)))
            and (not asked_ancestors or record.image in ancestors)
            and (not exited or (view.state == "exited" and record.code in exited))
            and (limits["before"] is None or record.created < limits["before"])
            and (limits["since"] is None or record.created > limits["since"])
        )

    return one_wanted


def _numbers(filters: Filters, key: str) -> set[int]:
    try:
        return {int(value) for value in filters.values.get(key, ())}
    except ValueError:
        raise InvalidRequest(f"invalid filter '{key}': it must be a number") from None


def _time_of(filters: Filters, key: str, made: Mapping[str, int]) -> int | None:
    for name in filters.values.get(key, ()):
        found = next((time for known, time in made.items() if known == name or known.startswith(name)), None)
        if found is None:
            raise InvalidRequest(f"No such container: {name}")
        return found
    return None


def show_all(filters: Filters) -> bool:
    """Whether filters ask for containers that do not run, too."""
    return "status" in filters or "exited" in filters


# Streams.


def detach_keys(text: str) -> bytes:
    r"""The keys that leave a container's terminal, such as `ctrl-p,ctrl-q`.

    >>> detach_keys("ctrl-p,ctrl-q")
    b'\x10\x11'
    """
    keys = bytearray()
    for word in text.split(",") if text else ("ctrl-p", "ctrl-q"):
        if word.startswith("ctrl-") and len(word) == 6 and (word[5].isalpha() or word[5] in "@[\\]^_"):
            keys.append(ord(word[5].upper()) & 0x1F)
        elif len(word) == 1 and word.isascii():
            keys.append(ord(word))
        else:
            raise InvalidRequest(f"invalid detach keys ({text}) provided: unknown character: '{word}'")
    return bytes(keys)


def framed(stream: int, data: bytes) -> bytes:
    """A piece of output with the head that tells two streams on one connection apart (Docker's `stdcopy`)."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
