"""Images are pulled by skopeo, from a registry of the test's own on the loopback of a namespace."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.boxes import Box, box, needs_containers
from tests.e2e.hosts import World, until
from tests.unit.test_images import file, packed, saved

UNPACKED = Path(sys.executable).parent.parent / "registry"
REGISTRY = "127.0.0.1:5000"

pytestmark = [
    *needs_containers,
    pytest.mark.skipif(not (UNPACKED / "usr/bin/skopeo").exists(), reason="skopeo and a registry were not fetched"),
]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Box]:
    """A host with skopeo, and a registry that serves it without TLS."""
    settings = tmp_path / "etc"
    (settings / "containers" / "registries.conf.d").mkdir(parents=True)
    (settings / "containers" / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (settings / "containers" / "registries.conf.d" / "own.conf").write_text(
        f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n'
    )
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/stored}}}}\nhttp: {{addr: '{REGISTRY}'}}\n"
    )
    with World(tmp_path / "world") as world, box(world.host()) as made:
        # In the host's own view of files, all is as if it were installed.
        made.host.run(f"mount -t overlay -o lowerdir={settings}:/etc none /etc")
        made.host.run(f"mount -t overlay -o lowerdir={UNPACKED}/usr:/usr none /usr")
        made.host.start()
        command = made.host.within(f"docker-registry serve {tmp_path}/registry.yml")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
            try:
                yield made
            finally:
                serving.terminate()


def test_an_image_is_pulled_and_what_is_not_there_is_said(here: Box, tmp_path: Path) -> None:
    """As `docker pull` does it."""
    (tmp_path / "app.tar").write_bytes(saved([packed(file("hello", b"x"))], ["app:1"], Cmd=["/hello"]))
    push = f"skopeo copy docker-archive:{tmp_path}/app.tar docker://{REGISTRY}/team/app:1"
    until(lambda: here.host.attempt(push).returncode == 0, here.host.attempt(push).stderr)
    assert f"{REGISTRY}/team/app:1" in here.docker("pull", f"{REGISTRY}/team/app:1")
    assert here.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split() == [f"{REGISTRY}/team/app:1"]
    assert "manifest unknown" in here.refused("pull", f"{REGISTRY}/team/none:1")
    assert f"newer image for {REGISTRY}/team/app:1" in here.host.isthmus(f"pull {REGISTRY}/team/app:1")
