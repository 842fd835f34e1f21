"""docker compose, unpacked from Debian's package, brings up a file of several services on networks of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.boxes import DEADLINE, Box, box, bring_image, needs_containers
from tests.e2e.hosts import World, until

UNPACKED = Path(sys.executable).parent.parent / "compose"
PROGRAM = UNPACKED / "usr" / "bin" / "docker-compose"
PACKAGES = UNPACKED / "usr" / "lib" / "python3" / "dist-packages"

pytestmark = [*needs_containers, pytest.mark.skipif(not PROGRAM.exists(), reason="docker compose was not fetched")]

FILE = """
version: "2.4"
services:
  web:
    image: busybox
    command: httpd -f -p 80 -h /www
    networks:
      front: {aliases: [www, shop]}
      back: {ipv4_address: 172.28.5.9}
    ports: ["18085:80"]
    restart: unless-stopped
  db:
    image: busybox
    command: sh -c "cat /data/file; exec sleep 1000"
    networks: [back]
    depends_on: [web]
    volumes: ["./data:/data:ro"]
    sysctls: {net.ipv4.ip_default_ttl: 77}
  side:
    image: busybox
    command: sleep 1000
    network_mode: "service:web"
    depends_on: [web]
networks:
  front: {}
  back:
    ipam: {config: [{subnet: 172.28.0.0/16}]}
"""
FETCH = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"


class Composed(Box):
    """A box, and a project in a directory."""

    def compose(self, project: Path, *arguments: str) -> str:
        """What compose prints."""
        environment = os.environ | {
            "DOCKER_HOST": "unix:///run/isthmus/isthmus.sock",
            "PYTHONPATH": str(PACKAGES),
            "COMPOSE_API_VERSION": "auto",
            "HOME": str(project),
        }
        # Debian's own Python, for which the package is, if it is a program in Python at all.
        head = PROGRAM.read_bytes()[:2]
        words = [*(["/usr/bin/python3"] if head == b"#!" else []), str(PROGRAM), *arguments]
        done = subprocess.run(
            ["nsenter", f"--target={self.host.pid}", "--net", "--mount", "--uts", f"--wd={project}", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, (arguments, done, self.host.log[-2000:])
        return done.stdout + done.stderr


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Composed]:
    """A host with an image."""
    with World(tmp_path / "world") as world, box(world.host().start()) as made:
        bring_image(made)
        yield Composed(made.host)


def test_a_project_comes_up_is_scaled_restarted_and_goes(here: Composed, tmp_path: Path) -> None:
    """Several networks, aliases, addresses, ports, bind mounts, and a service in another's namespace."""
    project = tmp_path / "shop"
    (project / "data").mkdir(parents=True)
    (project / "data" / "file").write_text("from the host\n")
    (project / "docker-compose.yml").write_text(FILE)
    here.compose(project, "up", "-d")
    here.note()

    def names() -> list[str]:
        return sorted(here.docker("ps", "--format", "{{.Names}}").replace("-", "_").split())

    def fetched(network: str, url: str) -> str:
        return here.docker("run", "--rm", "--network", network, "host", "python3", "-c", FETCH, url)

    assert names() == ["shop_db_1", "shop_side_1", "shop_web_1"]
    web = next(name for name in here.docker("ps", "--format", "{{.Names}}").split() if "web" in name)
    networks = here.inspect(web)["NetworkSettings"]["Networks"]
    assert set(networks) == {"shop_front", "shop_back"}
    assert networks["shop_back"]["IPAddress"] == "172.28.5.9"
    assert fetched("host", "http://127.0.0.1:18085/") == "it works\n"
    for name in ("web", "www", "shop"):
        assert fetched("shop_front", f"http://{name}/") == "it works\n"
    assert "from the host" in here.compose(project, "logs", "db")
    assert fetched(f"container:{web.replace('web', 'side')}", "http://127.0.0.1/") == "it works\n"
    here.compose(project, "up", "-d", "--scale", "db=3")
    assert names() == ["shop_db_1", "shop_db_2", "shop_db_3", "shop_side_1", "shop_web_1"]
    here.compose(project, "stop", "-t", "0")
    assert names() == []
    here.compose(project, "start")
    here.compose(project, "restart", "-t", "0")
    assert len(names()) == 5
    here.compose(project, "down", "-t", "0")
    assert here.docker("ps", "-aq") == ""
    assert "shop" not in here.docker("network", "ls")
    until(lambda: not here.leftovers(), "something is left", 5)
