"""The stores that hosts can share, as far as they are here: one server each, unpacked by `bootstrap` or installed."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from shutil import which

from bench.world import PATIENCE, on, where
from isthmus.kernel import namespaces

STORES = {"etcd": 2379, "consul": 8500}
"""The stores, and the ports on which they are asked."""

_UNPACKED = Path(sys.executable).parent.parent


def program(name: str) -> str | None:
    """Where the server *name* is."""
    unpacked = _UNPACKED / name / "usr/bin" / name
    return str(unpacked) if unpacked.exists() else which(name)


class Server:
    """A store of this *kind*, on a host of the name *place*, which has the *address* already. It ends with the run.

    Its data is below the directory *root*.
    """

    def __init__(self, root: Path, kind: str, place: str, address: str) -> None:
        self.kind, self._place = kind, place
        self._address = f"{address}:{STORES[kind]}"
        directory = root / f"{kind}-store"
        directory.mkdir()
        self.directory = directory
        flags = {"etcd": self._etcd, "consul": self._consul}[kind](address, directory)
        with (directory / "log").open("w") as log:
            self._process = subprocess.Popen([*on(place), program(kind) or kind, *flags], stdout=log, stderr=log)
        self._wait()

    @property
    def url(self) -> str:
        """What `--cluster-store` takes."""
        return f"{self.kind}://{self._address}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(PATIENCE)

    @staticmethod
    def _etcd(address: str, directory: Path) -> list[str]:
        url, peer = f"http://{address}:2379", "http://127.0.0.1:2380"
        return [
            *("--data-dir", f"{directory}/data", "--quota-backend-bytes", str(8 << 30)),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--name", "n1", "--initial-cluster", f"n1={peer}"),
        ]

    @staticmethod
    def _consul(address: str, directory: Path) -> list[str]:
        # By default one address may have no more than 200 connections; simulated hosts all have the same.
        settings = {"performance": {"raft_multiplier": 1}, "limits": {"http_max_conns_per_client": 10_000}}
        (directory / "settings.json").write_text(json.dumps(settings))
        return [
            *("agent", "-server", "-bootstrap-expect=1", "-node=n1", f"-bind={address}", f"-client={address}"),
            *(f"-data-dir={directory}/data", f"-config-file={directory}/settings.json"),
        ]

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} does not start: {self.log()[-500:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        """Whether it answers as one that has a leader, and so can do its work."""
        path, data = {"etcd": ("/v3/kv/range", b'{"key":"aQ=="}'), "consul": ("/v1/catalog/node/n1", None)}[self.kind]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with (
                namespaces.entered(where(self._place)),
                opener.open(f"http://{self._address}{path}", data, timeout=2) as response,
            ):
                return json.loads(response.read() or b"null") is not None
        except OSError:
            return False
