"""What we tell of ourselves and of the machine: `GET /version` and `GET /info`.

The shapes are Docker's, so that its clients print them without complaint; of what a container engine has and we do not
(images, volumes, a registry, runtimes) they say nothing or none.
"""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import isthmus
from isthmus.addresses import Pool
from isthmus.api.message import Version

NEWEST: Version = (1, 52)
OLDEST: Version = (1, 24)

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def dotted(version: Version) -> str:
    """A *version* of the API as clients write it."""
    return f"{version[0]}.{version[1]}"


class About(msgspec.Struct, frozen=True):
    """Facts that hold for the life of a daemon. *memory* is in bytes, *warnings* are shown by `docker info`."""

    id: str
    root: str
    hostname: str
    kernel: str
    system: str
    system_version: str
    architecture: str
    cpus: int
    memory: int
    pools: tuple[Pool, ...] = ()
    drivers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unified: bool = False


def this_machine(
    *, identity: str, root: str, pools: Iterable[Pool] = (), drivers: Iterable[str] = (), warnings: Iterable[str] = ()
) -> About:
    """The facts of this machine, for a daemon of this *identity* that keeps its records under *root*."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return About(
        id=identity,
        root=root,
        hostname=platform.node(),
        kernel=platform.release(),
        system=release.get("PRETTY_NAME", "Linux"),
        system_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        cpus=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        pools=tuple(pools),
        drivers=tuple(sorted(drivers)),
        warnings=tuple(warnings),
        unified=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    )


def version(about: About) -> dict[str, object]:
    """`GET /version`."""
    details = {
        "ApiVersion": dotted(NEWEST),
        "MinAPIVersion": dotted(OLDEST),
        "Os": "linux",
        "Arch": _GO_ARCHITECTURES.get(about.architecture, about.architecture),
        "KernelVersion": about.kernel,
        "GitCommit": "",
        "GoVersion": "",
        "BuildTime": "",
    }
    engine = {
        "Name": "Engine",
        "Version": isthmus.__version__,
        "Details": details | {"Experimental": "false", "PythonVersion": platform.python_version()},
    }
    return {"Platform": {"Name": "Isthmus"}, "Components": [engine], "Version": isthmus.__version__, **details}


def info(
    about: About,
    version: Version,
    *,
    containers: tuple[int, int, int],
    images: int,
    runtime: str,
    listeners: int,
    now: int,
) -> dict[str, object]:
    """`GET /info` at *now*, in nanoseconds.

    *Containers* are how many run, are paused, and do not run; *images* are how many there are; *runtime* is the name of
    what runs containers, "" if nothing does; *listeners* are who hears events.
    """
    nothing = {"ID": "", "Expected": ""}
    shape: dict[str, object] = {
        "ID": about.id,
        "Containers": sum(containers),
        "ContainersRunning": containers[0],
        "ContainersPaused": containers[1],
        "ContainersStopped": containers[2],
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [],
        "Plugins": {"Volume": [], "Network": list(about.drivers), "Authorization": None, "Log": ["json-file", "none"]},
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": True,
        "OomKillDisable": False,
        "Debug": False,
        "NFd": len(list(Path("/proc/self/fd").iterdir())),
        "NGoroutines": 0,
        "SystemTime": datetime.fromtimestamp(now / 10**9, UTC).isoformat().replace("+00:00", "Z"),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if about.unified else "1",
        "NEventsListener": listeners,
        "KernelVersion": about.kernel,
        "OperatingSystem": about.system,
        "OSVersion": about.system_version,
        "OSType": "linux",
        "Architecture": about.architecture,
        "IndexServerAddress": "",
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "NCPU": about.cpus,
        "MemTotal": about.memory,
        "GenericResources": None,
        "DockerRootDir": about.root,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": about.hostname,
        "Labels": list(about.labels),
        "ExperimentalBuild": False,
        "ServerVersion": isthmus.__version__,
        "Runtimes": {runtime: {"path": runtime}} if runtime else {},
        "DefaultRuntime": runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": nothing,
        "RuncCommit": nothing,
        "InitCommit": nothing,
        "SecurityOptions": [],
        "DefaultAddressPools": [{"Base": str(pool.base), "Size": pool.size} for pool in about.pools],
        "CDISpecDirs": [],
        "Warnings": list(about.warnings) or None,
    }
    if version >= (1, 49):
        shape["FirewallBackend"] = {"Driver": "nftables"}
    if version < (1, 50):
        # Docker's clients warn of bridges that bypass iptables if these are false; we need no iptables.
        shape |= {"BridgeNfIptables": True, "BridgeNfIp6tables": True}
    return shape
