"""Our own command line for containers and images, on a real daemon; words and codes are those of Docker's client."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.boxes import Box, box, bring_image, needs_containers
from tests.e2e.hosts import PROGRAM, World, until

pytestmark = needs_containers


class Ours(Box):
    """A box that is driven by our own client."""

    def command(self, *arguments: str) -> list[str]:
        """The words that run it."""
        return [*self.host.within("true")[:-1], PROGRAM, *arguments]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """One host for all tests of this file."""
    with World(tmp_path_factory.mktemp("world")) as world, box(world.host().start()) as made:
        bring_image(made)
        yield Ours(made.host)


@pytest.fixture
def ours(shared: Ours) -> Iterator[Ours]:
    """Without containers afterwards."""
    yield shared
    if names := shared.docker("ps", "-aq", "--no-trunc").split():
        shared.docker("rm", "-f", *names)
    shared.docker("network", "prune", "-f")


def test_a_program_runs_in_a_directory_an_image_and_the_machines_root(ours: Ours) -> None:
    """Three ways to have a root file system, one of them without any preparation."""
    tree = str(ours.host.directory / "rootfs")
    for image in (tree, "busybox", "host"):
        done = ours.attempt("run", "--rm", image, "sh", "-c", "echo out; echo err >&2; exit 3")
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    ours.docker("run", "--rm", tree, "touch", "/new")
    assert not Path(tree, "new").exists()
    assert "must be a directory" in ours.attempt("run", "/nosuch", "true").stderr


def test_exit_codes_are_those_of_dockers_client(ours: Ours) -> None:
    """Scripts tell what went wrong by them."""
    assert ours.attempt("run", "--rm", "busybox", "nosuch").returncode == 127
    assert ours.attempt("run", "--rm", "busybox", "/etc").returncode == 126
    assert ours.attempt("run", "--rm", "nosuch", "true").returncode == 125
    assert ours.attempt("run", "--restart", "sometimes", "busybox").returncode == 125
    assert ours.attempt("run", "--rm", "-v", "data:/x", "busybox").returncode == 125
    assert "requires at least 1 argument" in ours.attempt("run").stderr


def test_only_those_streams_are_shown_that_are_attached(ours: Ours) -> None:
    """With standard input alone, the ID is told and the program goes on by itself."""
    both = ("--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    for stream, out, err in (("stdout", "out\n", ""), ("stderr", "", "err\n")):
        done = ours.attempt("run", "-a", stream, *both)
        assert (done.stdout, done.stderr, done.returncode) == (out, err, 0)
    identity = ours.docker("run", "-i", "-a", "stdin", "busybox", "sh", "-c", "cat; exit 3", stdin="text\n").strip()
    ours.until_logged(identity, "text")
    assert ours.docker("wait", identity) == "3\n"
    ours.docker("create", "-i", "--name", "made", "busybox", "cat")
    assert ours.docker("start", "-ai", "made", stdin="text\n") == "text\n"


def test_a_sandbox_is_inspected_in_its_own_shape(ours: Ours) -> None:
    """Beside containers, whose shape it would have for Docker's client."""
    ours.docker("sandbox", "create", "box")
    ours.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    box, one, image = json.loads(ours.docker("inspect", "box", "one", "busybox"))
    assert [box] == json.loads(ours.docker("sandbox", "inspect", "box"))
    assert (box["Name"], one["Name"], image["RepoTags"]) == ("box", "/one", ["busybox:latest"])
    ours.docker("sandbox", "rm", "box")


def test_flags_that_ask_for_nothing_more_are_taken(ours: Ours) -> None:
    """Scripts have them; what would ask for more than there is, is refused by its name."""
    flags = ["--init=false", "--no-healthcheck", "--cpu-period", "100000", "--cpu-quota", "50000", "--cpuset-mems", "0"]
    capabilities = ("--cap-drop", "all", "--cap-add", "net_raw")
    said = ours.docker("run", "--rm", *flags, *capabilities, "busybox", "grep", "CapBnd", "/proc/self/status")
    assert int(said.split()[1], 16) == 1 << 13
    assert "HostConfig.Init is not supported" in ours.refused("run", "--rm", "--init", "busybox", code=125)
    assert "--tmpfs" in ours.refused("run", "--rm", "-v", "/data", "busybox", code=125)


def test_pipes_go_through(ours: Ours) -> None:
    """In and out, to the last byte."""
    text = "".join(f"{number}\n" for number in range(50_000))
    assert ours.docker("run", "-i", "--rm", "busybox", "cat", stdin=text) == text
    ours.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    assert ours.docker("exec", "-i", "one", "sort", "-n", stdin="2\n1\n") == "1\n2\n"
    assert (
        ours.attempt(
            "exec", "-u", "app", "-e", "A=1", "-w", "/tmp", "one", "sh", "-c", "id -un; echo $A; pwd; exit 4"
        ).stdout
        == "app\n1\n/tmp\n"
    )
    assert ours.attempt("exec", "one", "nosuch").returncode == 127


def test_more_than_all_buffers_hold_goes_both_ways_at_once(ours: Ours) -> None:
    """A program that answers while it is still being sent to must not wait for us, who wait for it."""
    text = "0123456789abcde\n" * 1_000_000
    assert ours.docker("run", "-i", "--rm", "busybox", "cat", stdin=text) == text
    ours.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    assert ours.docker("exec", "-i", "one", "cat", stdin=text) == text


def test_a_terminal_is_one_and_is_left_by_its_keys(ours: Ours) -> None:
    """Raw keys go in, the size is that of ours, and ctrl-p ctrl-q leaves it running."""
    import fcntl
    import struct
    import termios

    pid, master = pty.fork()
    if pid == 0:
        with suppress(BaseException):
            words = ours.command("run", "-it", "--name", "shell", "busybox", "sh")
            os.execvp(words[0], words)
        os._exit(125)
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 30
        while text not in seen and time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 4096)
        assert text in seen, seen

    try:
        read_until(b"# ")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 44, 123, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        deadline = time.monotonic() + 30
        while b"44 123" not in seen and time.monotonic() < deadline:
            os.write(master, b"stty size\n")
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 4096)
        os.write(master, b"echo $((6*7))\n")
        read_until(b"42")
        os.write(master, b"\x10\x11")
        with suppress(OSError):
            while os.read(master, 4096):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(master)
    assert ours.docker("inspect", "-f", "{{.State.Status}}", "shell") == "running\n"


def test_signals_are_passed_on(ours: Ours) -> None:
    """Ctrl-C of a client is for the program."""
    words = ours.command(
        "run",
        "--rm",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done",
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        # nsenter is replaced by our program, so it is that which gets the signal.
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 9


def test_logs_are_followed_cut_and_stamped(ours: Ours) -> None:
    """As `docker logs`."""
    ours.docker("run", "-di", "--name", "one", "busybox", "sh", "-c", "echo 1; echo 2; echo 3; read x; echo last")
    ours.until_logged("one", "3")
    assert ours.docker("logs", "--tail", "2", "one") == "2\n3\n"
    assert ours.docker("logs", "-t", "-n", "1", "one")[10] == "T"
    assert ours.docker("logs", "--since", "10m", "one") == "1\n2\n3\n"
    assert ours.docker("logs", "--until", "10m", "one") == ""
    with subprocess.Popen(ours.command("logs", "-f", "one"), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        assert following.stdout.readline() == "1\n"
        ours.docker("start", "-ai", "one", stdin="\n") if ours.state("one") == "exited" else ours.docker(
            "attach", "one", stdin="\n"
        )
        assert following.stdout.read() == "2\n3\nlast\n"


def test_a_containers_life_by_our_own_words(ours: Ours) -> None:
    """Each command once."""
    identity = ours.docker("create", "--name", "one", "-l", "a=b", "busybox", "sleep", "1000").strip()
    assert ours.docker("ps", "-q") == ""
    assert ours.docker("ps", "-aq", "--no-trunc").strip() == identity
    assert ours.docker("start", "one") == "one\n"
    assert ours.docker("ps", "--format", '{{.Names}} {{.Image}} {{.State}} {{.Label "a"}}') == "one busybox running b\n"
    assert json.loads(ours.docker("ps", "--format", "json"))["Names"] == "one"
    ours.docker("rename", "one", "two")
    ours.docker("pause", "two")
    ours.docker("unpause", "two")
    ours.docker("restart", "-t", "0", "two")
    assert "sleep 1000" in ours.docker("top", "two")
    ours.docker("kill", "-s", "KILL", "two")
    assert ours.docker("wait", "two") == "137\n"
    assert ours.docker("inspect", "-f", "{{.State.ExitCode}}", "two") == "137\n"
    assert ours.docker("rm", "two") == "two\n"
    assert ours.docker("rm", "-f", "two") == ""
    assert "No such container" in ours.refused("rm", "two")
    ours.docker("run", "busybox", "true")
    assert "Deleted Containers:" in ours.docker("container", "prune", "-f")


def test_ports_of_a_running_container_come_and_go(ours: Ours) -> None:
    """What sandboxes have, containers have."""
    ours.docker("run", "-d", "--name", "web", "-p", "18081:80", "busybox", "httpd", "-f", "-p", "80", "-h", "/www")
    assert ours.docker("port", "web") == "80/tcp -> 0.0.0.0:18081\n"
    ours.docker("publish", "web", "18082:80")
    assert "0.0.0.0:18082" in ours.docker("port", "web")
    assert "0.0.0.0:18081->80/tcp" in ours.docker("ps")
    ours.docker("unpublish", "web", "18082:80")
    assert "18082" not in ours.docker("port", "web")


def test_images_by_our_own_words(ours: Ours, tmp_path: Path) -> None:
    """Import, list, tag, remove."""
    tree = str(ours.host.directory / "rootfs.tar")
    said = ours.docker("import", "-c", 'CMD ["echo", "hello"]', "-m", "why", tree, "app:1")
    assert said.startswith("sha256:")
    assert ours.docker("run", "--rm", "app:1") == "hello\n"
    assert "app" in ours.docker("images")
    assert ours.docker("images", "--format", "{{.Repository}}:{{.Tag}}", "ap*") == "app:1\n"
    ours.docker("image", "tag", "app:1", "other")
    assert "why" in ours.docker("image", "history", "other")
    assert json.loads(ours.docker("image", "inspect", "other"))[0]["RepoTags"] == ["app:1", "other:latest"]
    assert ours.docker("rmi", "app:1") == "Untagged: app:1\n"
    (tmp_path / "bad").write_bytes(b"bad" * 999)
    assert "damaged" in ours.refused("load", "-i", str(tmp_path / "bad"))
    assert "Untagged: other:latest" in ours.docker("rmi", "other")


def test_a_directory_or_file_of_variables_and_mounts(ours: Ours, tmp_path: Path) -> None:
    """Flags that read files."""
    (tmp_path / "env").write_text("# comment\nA=1\n\nB=two words\n")
    (tmp_path / "data").write_text("there\n")
    flags = (
        "--env-file",
        str(tmp_path / "env"),
        "-e",
        "C=3",
        "-v",
        f"{tmp_path}:/mnt:ro",
        "--tmpfs",
        "/t",
        "-m",
        "64m",
    )
    assert (
        ours.docker("run", "--rm", *flags, "busybox", "sh", "-c", "echo $A $B $C; cat /mnt/data")
        == "1 two words 3\nthere\n"
    )
    ours.docker("run", "-d", "--cidfile", str(tmp_path / "cid"), "--name", "one", "busybox", "sleep", "1000")
    assert ours.docker("ps", "-q", "--no-trunc").strip() == (tmp_path / "cid").read_text()
    until(lambda: ours.attempt("exec", "one", "true").returncode == 0, "it does not run")
