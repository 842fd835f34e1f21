"""Images, as users of the stock docker client and of docker-py have them."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.boxes import Box, box, needs_containers, rootfs
from tests.e2e.hosts import World, until
from tests.unit.test_images import file, layout, packed, saved, zstandard

pytestmark = needs_containers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One host for all tests of this file."""
    with World(tmp_path_factory.mktemp("world")) as world, box(world.host().start()) as made:
        yield made


@pytest.fixture
def here(shared: Box) -> Iterator[Box]:
    """The shared host, without containers and images afterwards."""
    yield shared
    shared.clear()
    for identity in set(shared.docker("images", "-aq", "--no-trunc").split()):
        shared.docker("rmi", "-f", identity)
    images = shared.host.data / "images"
    assert [one for name in ("layers", "images", "coming") for one in (images / name).iterdir()] == []


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a root file system of busybox."""
    place = tmp_path_factory.mktemp("tree")
    packed_to = place / "rootfs.tar"
    subprocess.run(["tar", "-C", str(rootfs(place / "rootfs")), "-cf", str(packed_to), "."], check=True)
    return packed_to


def test_an_imported_root_file_system_runs(here: Box, tree: Path) -> None:
    """With what is said about it on the way."""
    here.docker(
        "import", "-c", 'ENTRYPOINT ["echo"]', "-c", 'CMD ["hello"]', "-c", "ENV A=1", "-m", "why", str(tree), "box:1"
    )
    assert here.docker("run", "--rm", "box:1") == "hello\n"
    assert here.docker("run", "--rm", "box:1", "other") == "other\n"
    assert here.docker("run", "--rm", "--entrypoint", "sh", "box:1", "-c", "echo $A") == "1\n"
    inspected = json.loads(here.docker("image", "inspect", "box:1"))[0]
    assert inspected["RepoTags"] == ["box:1"]
    assert inspected["Comment"] == "why"
    assert inspected["Config"]["Cmd"] == ["hello"]
    assert "why" in here.docker("history", "box:1")
    table = here.docker("images")
    assert ("box" in table and "MB" in table) or "kB" in table


def test_saved_images_are_loaded_and_listed(here: Box, tmp_path: Path) -> None:
    """Several in one archive, compressed or not."""
    base, more = packed(file("base", b"1")), packed(file("more", b"2"))
    (tmp_path / "two.tar.gz").write_bytes(gzip.compress(saved([base, more], ["two:1", "two:2"])))
    assert here.docker("load", "-i", str(tmp_path / "two.tar.gz")).splitlines() == [
        "Loaded image: two:1",
        "Loaded image: two:2",
    ]
    assert sorted(here.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()) == ["two:1", "two:2"]
    assert here.docker("images", "-q", "-f", "reference=tw*:2") != ""
    assert here.docker("images", "-q", "-f", "dangling=true") == ""
    here.docker("tag", "two:1", "me/three")
    assert "Untagged: two:1" in here.docker("rmi", "two:1")
    assert "must be forced" in here.refused("rmi", json.loads(here.docker("image", "inspect", "two:2"))[0]["Id"])
    assert "Deleted: sha256:" in here.docker("rmi", "two:2", "me/three:latest")
    assert here.docker("images", "-q") == ""


def test_layers_compressed_by_zstd_are_loaded_and_run(here: Box, tree: Path, tmp_path: Path) -> None:
    """As build tools write them, in an OCI layout; a frame that was cut off is refused, and leaves nothing."""
    whole = layout([tree.read_bytes()], "box:zstd", pack=zstandard)
    (tmp_path / "layout.tar").write_bytes(whole)
    assert here.docker("load", "-i", str(tmp_path / "layout.tar")) == "Loaded image: box:zstd\n"
    assert here.docker("run", "--rm", "box:zstd", "echo", "hello") == "hello\n"
    here.docker("rmi", "box:zstd")
    (tmp_path / "cut.tar").write_bytes(layout([tree.read_bytes()], "box:cut", pack=lambda one: zstandard(one)[:-99]))
    assert "damaged or cut off" in here.attempt("load", "-i", str(tmp_path / "cut.tar")).stderr
    assert here.docker("images", "-aq") == ""


def test_what_is_no_image_is_refused_in_a_sentence(here: Box, tmp_path: Path, tree: Path) -> None:
    """And nothing of it is left."""
    (tmp_path / "bad").write_bytes(b"nonsense" * 1000)
    assert (
        "damaged"
        in here.refused("load", "-i", str(tmp_path / "bad")) + here.attempt("load", "-i", str(tmp_path / "bad")).stdout
    )
    assert "holds no images" in here.refused("load", "-i", str(tree))
    cut = tree.read_bytes()[: 300 << 10]
    (tmp_path / "cut").write_bytes(cut)
    assert "cut off" in here.refused("import", str(tmp_path / "cut"), "cut")
    (tmp_path / "deep").write_bytes(packed(file("d/" * 1500 + "f")))
    assert "in more than 255 directories" in here.refused("import", str(tmp_path / "deep"), "deep")
    (tmp_path / "odd").write_bytes(saved([packed(file("a"))], ["odd"], said={"history": [3]}))
    assert "history[0]" in here.refused("load", "-i", str(tmp_path / "odd"))
    assert here.docker("images", "-aq") == ""
    assert "Traceback" not in here.host.log


def test_containers_of_one_image_share_it_and_write_apart(here: Box, tree: Path) -> None:
    """Overlayfs: one image, many containers, each with its own changes, which outlive a restart."""
    here.docker("import", str(tree), "box")
    for name in ("one", "two"):
        here.docker(
            "run", "-d", "--name", name, "box", "sh", "-c", f"echo {name} > /etc/mine; rm -f /etc/group; sleep 1000"
        )
    until(lambda: here.attempt("exec", "two", "cat", "/etc/mine").stdout == "two\n", "it does not write")
    assert here.docker("exec", "one", "cat", "/etc/mine") == "one\n"
    here.docker("restart", "-t", "0", "one")
    assert here.docker("exec", "one", "cat", "/etc/mine") == "one\n"
    assert here.docker("run", "--rm", "box", "cat", "/etc/group") != ""
    mounts = [line for line in here.host.run("cat /proc/self/mounts").splitlines() if str(here.host.data) in line]
    assert [line.split()[2] for line in mounts] == ["overlay", "overlay"]
    identity = here.docker("images", "-q", "box").strip()
    assert "(must force) - container" in here.refused("rmi", "box")
    assert "cannot be forced" in here.refused("rmi", "-f", identity)
    assert here.docker("rmi", "-f", "box") == "Untagged: box:latest\n"
    assert here.docker("exec", "one", "cat", "/etc/mine") == "one\n"


def test_what_a_container_wrote_goes_however_deep_it_is(here: Box, tree: Path) -> None:
    """A program may nest directories until its daemon cannot follow, which must not keep the container."""
    here.docker("import", str(tree), "box")
    here.docker("run", "--name", "deep", "box", "sh", "-c", "for i in $(seq 1500); do mkdir d; cd d; done")
    here.docker("rm", "deep")
    assert here.docker("ps", "-aq") == ""


def test_docker_py_reads_all_of_it(here: Box, tree: Path) -> None:
    """Another client, with other habits."""
    here.docker("import", "-c", 'CMD ["sh"]', str(tree), "box")
    socket = f"/proc/{here.host.pid}/root/run/isthmus/isthmus.sock"
    client = docker.DockerClient(base_url=f"unix://{socket}", timeout=60)
    try:
        image = client.images.get("box")
        assert image.tags == ["box:latest"]
        assert [one.id for one in client.images.list()] == [image.id]
        container = client.containers.run(
            "box", ["sh", "-c", "echo out; echo err >&2; sleep 1000"], detach=True, name="py"
        )
        until(lambda: container.logs() in {b"out\nerr\n", b"err\nout\n"}, "it says nothing")
        assert container.exec_run(["sh", "-c", "echo in; exit 3"]) == (3, b"in\n")
        container.reload()
        assert container.status == "running"
        following = container.logs(stream=True, tail=1)
        assert next(following) in {b"out\n", b"err\n"}
        following.close()
        following._response.close()  # docker-py leaves its socket to the garbage collector, which would complain
        assert "PID" in container.top()["Titles"]
        container.pause()
        container.unpause()
        container.rename("snake")
        network = client.networks.create("pynet")
        network.connect(container, aliases=["adder"])
        container.reload()
        assert container.attrs["NetworkSettings"]["Networks"]["pynet"]["Aliases"] == ["adder"]
        network.disconnect(container)
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
        container.remove()
        assert client.containers.run("box", ["echo", "done"], remove=True) == b"done\n"
        with pytest.raises(docker.errors.ContainerError) as failed:
            client.containers.run("box", ["sh", "-c", "echo bad >&2; exit 4"], remove=True)
        assert failed.value.exit_status == 4
    finally:
        client.close()
