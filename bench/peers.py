"""The engines that are installed here, each on a host of its own, with directories of its own."""

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from typing import Protocol

from bench.client import Client
from bench.path import by_hand
from bench.world import CGROUP, World, add_host, on, run, wait_for, where

PLUGINS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
NETAVARK = ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark")
AARDVARK = ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns")


class Peer(Protocol):
    """An engine that attaches a namespace to its bridge network, and detaches it again."""

    name: str

    def attach(self) -> float:
        """Attach; return the milliseconds that took."""

    def detach(self) -> float:
        """Detach; return the milliseconds that took."""


class Runner(Protocol):
    """An engine that runs containers. It has an image with busybox, and a bridge network of the name *network*."""

    name: str
    network: str

    def create(self, command: Sequence[str], network: str, bind: str) -> str:
        """Make a container on a network, with a directory bound into it (`HOST:CONTAINER`); its ID."""

    def start(self, identity: str) -> None:
        """Start it."""

    def remove(self, identity: str) -> None:
        """Kill and remove it."""


class Publisher(Protocol):
    """An engine that publishes ports."""

    name: str

    def publish(self, ports: Sequence[int]) -> tuple[float, float]:
        """Publish *ports* of the host, all for port 5000, and take them back; the milliseconds that each took."""


def publishers(peers: Iterable[Peer]) -> Iterator[Publisher]:
    """Those of *peers* that publish ports."""
    yield from (one for one in peers if isinstance(one, Docker | _Netavark))


class Namer(Protocol):
    """An engine that answers for names."""

    name: str

    def answer(self, names: Sequence[str]) -> tuple[str, str, int]:
        """Have it know a neighbour by these *names*.

        Return the path of a namespace in which it can be asked, the address to ask there, and its process.
        """


def namers(world: World, held: ExitStack, peers: Iterable[Peer], notes: list[str]) -> Iterator[Namer]:
    """Those of *peers* that answer for names, and Podman's aardvark-dns if it is there."""
    yield from (one for one in peers if isinstance(one, Docker))
    if program := _first(AARDVARK):
        yield _Aardvark(world, held, program)
    else:
        notes.append("Aardvark-dns is not measured: it is in no folder where distributions put it.")


def runners(world: World, held: ExitStack, peers: Iterable[Peer], notes: list[str]) -> Iterator[Runner]:
    """Those of *peers* that run containers, and podman if it is there."""
    yield from (one for one in peers if isinstance(one, Docker))
    if program := which("podman"):
        try:
            yield _Podman(world, held, program)
        except (RuntimeError, OSError) as error:
            notes.append(f"Podman is not measured: {error}.")
    else:
        notes.append("Podman is not measured: it is not in PATH.")


def found(world: World, held: ExitStack, notes: list[str]) -> Iterator[Peer]:
    """Start the engines that there are; *held* ends them, and *notes* says which are not there."""
    if program := which("dockerd"):
        try:
            yield Docker(world, held, program)
        except (RuntimeError, TimeoutError, OSError) as error:
            notes.append(f"Docker is not measured: {error}.")
    else:
        notes.append("Docker is not measured: there is no dockerd in PATH.")
    if program := _first(f"{directory}/bridge" for directory in PLUGINS):
        yield _Cni(world, program)
    else:
        notes.append("CNI's bridge plugin is not measured: it is in no folder where distributions put it.")
    if program := _first(NETAVARK):
        try:
            yield _Netavark(world, program)
        except (RuntimeError, OSError) as error:
            notes.append(f"Netavark is not measured: {error}.")
    else:
        notes.append("Netavark is not measured: it is in no folder where distributions put it.")


def _first(paths: "Iterator[str] | tuple[str, ...]") -> str | None:
    return next((path for path in paths if os.access(path, os.X_OK)), None)


class Docker:
    """dockerd, with an image `bench`, a network `bench`, and a container that is connected to that, through the API."""

    network = "bench"

    def __init__(self, world: World, held: ExitStack, program: str) -> None:
        directory = world.directory / "docker"
        directory.mkdir()
        socket = directory / "d.sock"
        add_host("docker")
        flags = {"-H": f"unix://{socket}", "--storage-driver": "vfs"}
        for flag, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid"), ("config-file", "json")):
            flags[f"--{flag}"] = f"{directory}/{name}"
        (directory / "json").write_text("{}")
        with (directory / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*on("docker"), "unshare", "--mount", program, *(word for pair in flags.items() for word in pair)],
                stdout=log,
                stderr=log,
            )
        held.callback(self._end)

        def answers() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError("dockerd ended: " + (directory / "log").read_text().splitlines()[-1])
            try:
                Client(socket).do("GET", "/_ping")
            except (OSError, RuntimeError):
                return False
            return True

        wait_for(answers, "dockerd", 0.1)
        self._api = api = Client(socket)
        api.do("POST", "/images/create?fromSrc=-&repo=bench", _image(world.build("load", "-static")))
        api.do(
            "POST",
            "/networks/create",
            {"Name": self.network, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.61.0.0/16"}]}},
        )
        host = {"CgroupParent": CGROUP, "SecurityOpt": ["seccomp=unconfined"]}
        body = {"Image": "bench", "Cmd": ["/load", "wait"], "HostConfig": host}
        self._container = api.do("POST", "/containers/create?name=one", body).json()["Id"]
        api.do("POST", f"/containers/{self._container}/start")
        self.name = "Docker " + api.do("GET", "/version").json()["Version"]

    def create(self, command: Sequence[str], network: str, bind: str) -> str:
        """Make a container, in a control group that is taken away in the end; its ID."""
        host = {"CgroupParent": CGROUP, "NetworkMode": network, "Binds": [bind]}
        body = {"Image": "bench", "Cmd": [*command], "HostConfig": host}
        return str(self._api.do("POST", "/containers/create", body).json()["Id"])

    def start(self, identity: str) -> None:
        """Start it."""
        self._api.do("POST", f"/containers/{identity}/start")

    def remove(self, identity: str) -> None:
        """Kill and remove it."""
        self._api.do("DELETE", f"/containers/{identity}?force=1")

    def publish(self, ports: Sequence[int]) -> tuple[float, float]:
        """See `Publisher`: ports come when a container starts, and go when it is removed."""
        port = "5000/tcp"
        bindings = {port: [{"HostPort": str(one)} for one in ports]}
        host = {"CgroupParent": CGROUP, "NetworkMode": self.network, "PortBindings": bindings}
        body = {"Image": "bench", "Cmd": ["/load", "wait"], "HostConfig": host, "ExposedPorts": {port: {}}}
        made = self._api.do("POST", "/containers/create", body).json()["Id"]
        came = self._api.do("POST", f"/containers/{made}/start").took
        return came, self._api.do("DELETE", f"/containers/{made}?force=1").took

    def answer(self, names: Sequence[str]) -> tuple[str, str, int]:
        """See `Namer`."""
        aliases = {"EndpointsConfig": {self.network: {"Aliases": [*names]}}}
        host = {"CgroupParent": CGROUP, "NetworkMode": self.network}
        body = {"Image": "bench", "Cmd": ["/load", "wait"], "HostConfig": host, "NetworkingConfig": aliases}
        self._named = self._api.do("POST", "/containers/create?name=named", body).json()["Id"]
        self.start(self._named)
        inside = self._api.do("GET", f"/containers/{self._named}/json").json()["State"]["Pid"]
        return f"/proc/{inside}/ns/net", "127.0.0.11", self._process.pid

    def attach(self) -> float:
        """Connect the container."""
        return self._api.do("POST", f"/networks/{self.network}/connect", {"Container": self._container}).took

    def detach(self) -> float:
        """Disconnect it."""
        return self._api.do("POST", f"/networks/{self.network}/disconnect", {"Container": self._container}).took

    def _end(self) -> None:
        if self._process.poll() is None:
            for made in ("_container", "_named"):
                if hasattr(self, made):
                    self._api.send("DELETE", f"/containers/{getattr(self, made)}?force=1")
            self._process.terminate()
            self._process.wait(30)


def _image(program: Path) -> bytes:
    """An image with one file, and busybox if that is here."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(program, "load")
        if busybox := which("busybox"):
            archive.add(busybox, "bin/busybox")
    return made.getvalue()


class _Podman:
    """Podman, without a daemon: each step is a program, and netavark makes the network."""

    network = "bench"

    def __init__(self, world: World, held: ExitStack, program: str) -> None:
        home = world.directory / "podman"
        for name in ("tmp", "networks"):
            (home / name).mkdir(parents=True)
        helpers = [*(str(Path(path).parent) for path in NETAVARK), str(Path(program).parents[1] / "lib" / "podman")]
        (home / "containers.conf").write_text(
            f'[engine]\nhelper_binaries_dir = {json.dumps(helpers)}\ncgroup_manager = "cgroupfs"\n'
            f'events_logger = "none"\nruntime = "runc"\n[containers]\ncgroups = "enabled"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{home}/networks"\n'
        )
        (home / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/images"\nrunroot = "{home}/run"\n'
        )
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._environment = {
            "CONTAINERS_CONF": f"{home}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{home}/storage.conf",
            "HOME": str(home),
        }
        self._words = [*on(add_host("podman")), program, "--tmpdir", f"{home}/tmp"]
        (home / "image.tar").write_bytes(_image(world.build("load", "-static")))
        self._do("import", f"--signature-policy={home}/policy.json", f"{home}/image.tar", "bench")
        self._do("network", "create", "--subnet", "10.64.0.0/16", self.network)
        self.name = f"Podman {self._do('version', '--format', '{{.Client.Version}}').strip()}"
        self._made: set[str] = set()
        held.callback(self._end)

    def create(self, command: Sequence[str], network: str, bind: str) -> str:
        """Make a container, in a control group that is taken away in the end; its ID."""
        flags = (f"--network={network}", f"--volume={bind}", f"--cgroup-parent={CGROUP}")
        identity = self._do("create", *flags, "bench", *command).strip()
        self._made.add(identity)
        return identity

    def start(self, identity: str) -> None:
        """Start it."""
        self._do("start", identity)

    def remove(self, identity: str) -> None:
        """Kill and remove it."""
        self._do("rm", "--force", "--time=0", identity)
        self._made.discard(identity)

    def _end(self) -> None:
        for identity in tuple(self._made):
            self.remove(identity)

    def _do(self, *words: str) -> str:
        return run(*self._words, *words, environment=self._environment)


class _Cni:
    """The reference plugin `bridge`, with `host-local` addresses and masquerade."""

    def __init__(self, world: World, program: str) -> None:
        self._program = program
        self._directory = str(Path(program).parent)
        self.name = "CNI bridge"
        add_host("cni")
        add_host("cni-inside")
        self._config: dict[str, object] = {
            "cniVersion": "0.4.0",
            "name": "bench",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "subnet": "10.62.0.0/16",
                "dataDir": f"{world.directory}/cni",
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }

    def attach(self) -> float:
        took, result = self._call("ADD")
        self._config["prevResult"] = json.loads(result)
        return took

    def detach(self) -> float:
        took, _ = self._call("DEL")
        del self._config["prevResult"]
        return took

    def _call(self, command: str) -> tuple[float, str]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "bench",
            "CNI_NETNS": "/run/netns/cni-inside",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self._directory,
        }
        return _timed([*on("cni"), self._program], json.dumps(self._config), environment)


class _Netavark:
    """Podman's netavark: the network is there already, since another container stands on it."""

    def __init__(self, world: World, program: str) -> None:
        self._command = [*on("netavark"), program, "--config", f"{world.directory}/netavark"]
        self.name = run(program, "--version").strip()
        for host in ("netavark", "netavark-inside", "netavark-first"):
            add_host(host)
        run(*on("netavark"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._call("setup", "first", "10.63.0.2")

    def attach(self) -> float:
        return self._call("setup", "inside", "10.63.0.3")

    def detach(self) -> float:
        return self._call("teardown", "inside", "10.63.0.3")

    def publish(self, ports: Sequence[int]) -> tuple[float, float]:
        """See `Publisher`."""
        wanted = [
            {"container_port": 5000, "host_ip": "", "host_port": one, "protocol": "tcp", "range": 1} for one in ports
        ]
        made = self._call("setup", "inside", "10.63.0.3", wanted)
        return made, self._call("teardown", "inside", "10.63.0.3", wanted)

    def _call(self, verb: str, container: str, address: str, ports: Sequence[Mapping[str, object]] = ()) -> float:
        network = {
            "name": "bench",
            "id": "b" * 64,
            "driver": "bridge",
            "network_interface": "podman1",
            "created": "2026-01-01T00:00:00Z",
            "subnets": [{"subnet": "10.63.0.0/16", "gateway": "10.63.0.1"}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }
        config = {
            "container_id": container,
            "container_name": container,
            "port_mappings": ports,
            "networks": {"bench": {"interface_name": "eth0", "static_ips": [address]}},
            "network_info": {"bench": network},
        }
        return _timed([*self._command, verb, f"/run/netns/netavark-{container}"], json.dumps(config), {})[0]


class _Aardvark:
    """Podman's aardvark-dns, for a network with one container, whose gateway's address it serves."""

    def __init__(self, world: World, held: ExitStack, program: str) -> None:
        self._program = program
        self._directory = world.directory / "aardvark"
        self._directory.mkdir()
        self._held = held
        self.name = run(program, "--version").strip()

    def answer(self, names: Sequence[str]) -> tuple[str, str, int]:
        """See `Namer`."""
        host = by_hand("aardvark")
        (self._directory / "bench").write_text(f"10.70.0.1\n{'a' * 64} 10.70.0.2  {','.join(names)}\n")
        # It goes on in the background, as soon as it answers.
        run(*on(host), self._program, "--config", str(self._directory), "--port", "53", "run")
        process = int((self._directory / "aardvark.pid").read_text())
        self._held.callback(os.kill, process, signal.SIGTERM)
        return where(f"{host}1"), "10.70.0.1", process


def _timed(command: list[str], given: str, environment: Mapping[str, str]) -> tuple[float, str]:
    """Run a program that has to succeed; return the milliseconds that took, its start included, and what it printed."""
    began = time.perf_counter_ns()
    done = subprocess.run(
        command, input=given, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    took = (time.perf_counter_ns() - began) / 1e6
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout} {done.stderr}")
    return took, done.stdout
