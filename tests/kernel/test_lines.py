"""The lines that the log, `--dry-run` and the docs show are commands: a shell that runs them gets what we make."""

import os
import subprocess
from pathlib import Path

import pytest

from isthmus import firewall
from isthmus.addresses import DEFAULT_POOLS, SubnetRequest
from isthmus.engine import Engine
from isthmus.kernel.fake import FakeKernel
from isthmus.model import HOST, pairs
from isthmus.plan import Plan
from isthmus.requests import EndpointRequest, NetworkRequest, SandboxRequest
from isthmus.rules import Rules
from isthmus.store.memory import MemoryStore
from tests.kernel.realm import apart, pings, run, shown, silent

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]


class Scribe(FakeKernel):
    """A kernel in memory that writes down what it is told."""

    lines: list[str]

    def apply(self, plan: Plan) -> None:
        """Do what *plan* says, and write it down."""
        self.lines = [*getattr(self, "lines", ()), *map(str, plan)]
        super().apply(plan)


@apart
def test_a_shell_that_runs_the_plan_gets_networks_that_work(tmp_path: Path) -> None:
    """Somebody who pastes our log by hand must end up with the same network, on any supported iproute2."""
    scribe = Scribe()
    engine = Engine(
        MemoryStore(),
        scribe,
        Rules(pools=DEFAULT_POOLS),
        clock=lambda: 1,
        random=os.urandom,
        publish=lambda _event: None,
        paths={HOST: "", "*": ""},
    )
    engine.start()
    quiet = pairs({"com.docker.network.bridge.enable_icc": "false", "com.docker.network.driver.mtu": "1400"})
    both = (SubnetRequest("10.5.0.0/24", gateway="10.5.0.1"), SubnetRequest("fd00:5::/64"))
    engine.create_network(NetworkRequest("front", subnets=both, ipv6=True))
    engine.create_network(NetworkRequest("lan", driver="macvlan", subnets=(SubnetRequest("10.7.0.0/24"),)))
    engine.create_network(NetworkRequest("quiet", subnets=(SubnetRequest("10.6.0.0/24"),), options=quiet))
    for number, name in enumerate(("web", "db")):
        wish = EndpointRequest(mac=f"02:00:00:00:00:0{number}")
        engine.create_sandbox(SandboxRequest(name, mode="front", endpoints=(("front", wish),)))
        rules = pairs({"isthmus.egress": "deny 203.0.113.0/24, allow 203.0.113.7:80, deny 203.0.113.200"})
        engine.connect("quiet", name, EndpointRequest(options=rules))
        engine.connect("lan", name, EndpointRequest())
    Path(tmp_path / "isthmus.nft").write_text(firewall.load(firewall.table()))
    script = "set -e\n" + "\n".join(scribe.lines)
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pings("web", "10.5.0.3")
    assert pings("web", "fd00:5::3")
    assert silent("web", "10.6.0.3")
    assert pings("web", "10.7.0.2")
    assert run("ip", "netns", "exec", "web", "sysctl", "-n", "net.ipv4.conf.eth0.arp_notify") == "1\n"
    assert {link["mtu"] for link in shown("ip", "-j", "-n", "web", "link", "show", "eth1")} == {1400}
    for name in ("web", "db"):
        subprocess.run(["ip", "netns", "delete", name], check=True)
