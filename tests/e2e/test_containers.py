"""Containers, as users of the stock docker client have them: run, looked at, on networks, ended; nothing is left."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isthmus.containers import groups
from tests.e2e.boxes import Box, box, bring_image, needs_containers
from tests.e2e.hosts import World, until

pytestmark = needs_containers

IMAGE = "busybox"
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")
_FETCH = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"


def fetched(here: Box, url: str, *flags: str) -> str:
    """What a container with these *flags* gets there; busybox's own wget does not do in a static program."""
    return here.attempt("run", "--rm", *flags, "host", "python3", "-c", _FETCH, url).stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One host for all tests of this file that leave its daemon alone."""
    with World(tmp_path_factory.mktemp("world")) as world, box(world.host().start()) as made:
        bring_image(made)
        yield made


@pytest.fixture
def here(shared: Box) -> Iterator[Box]:
    """The shared host, without containers before and after; what they left would be found."""
    yield shared
    shared.note()
    shared.clear()
    until(lambda: not shared.leftovers(), "something is left", 5)


# Running.


def test_output_and_exit_code_are_the_programs(here: Box) -> None:
    """A container is a program: what it writes, where, and how it ends is what its user gets."""
    done = here.attempt("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_standard_input_reaches_the_program_and_its_end_does_too(here: Box) -> None:
    """`docker run -i` is used in pipes."""
    text = "".join(f"line {number}\n" for number in range(20_000))
    assert here.docker("run", "-i", "--rm", IMAGE, "cat", stdin=text) == text


def test_a_missing_program_is_127_and_one_that_cannot_be_run_126(here: Box) -> None:
    """Scripts tell these apart."""
    assert "executable file not found" in here.refused("run", "--rm", IMAGE, "nosuchprogram", code=127)
    assert "permission denied" in here.refused("run", "--rm", IMAGE, "/etc", code=126)


def test_a_terminal_has_its_size_and_follows_it(here: Box) -> None:
    """Programs draw by the size of the terminal."""
    pid, master = pty.fork()
    if pid == 0:
        with suppress(BaseException):
            words = here.command("run", "-it", "--rm", IMAGE, "sh", "-c", "while read x; do stty size; done")
            os.execvp(words[0], words)
        os._exit(125)
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        seen = b""
        deadline = time.monotonic() + 30
        while b"33 111" not in seen and time.monotonic() < deadline:
            os.write(master, b"\n")
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 4096)
        assert b"33 111" in seen
        os.write(master, b"\x04")
        # A client whose output nobody reads cannot end.
        with suppress(OSError):
            while os.read(master, 4096):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(master)


def test_detach_keys_leave_the_program_running(here: Box) -> None:
    """Who looks into a container must be able to leave it."""
    here.docker("run", "-dit", "--name", "shell", IMAGE, "sh")
    pid, master = pty.fork()
    if pid == 0:
        with suppress(BaseException):
            words = here.command("attach", "shell")
            os.execvp(words[0], words)
        os._exit(125)
    try:
        os.write(master, b"echo $((6*7))\n")
        seen = b""
        while b"42" not in seen:
            assert select.select([master], [], [], 30)[0], seen
            seen += os.read(master, 4096)
        os.write(master, b"\x10\x11")
        with suppress(OSError):
            while os.read(master, 4096):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in {0, 1}
    finally:
        os.close(master)
    assert here.state("shell") == "running"


def test_logs_have_streams_times_tails_and_can_be_followed(here: Box) -> None:
    """What a container said is asked for in many ways."""
    script = "for n in 1 2 3; do echo out$n; done; read x; echo last"
    here.docker("run", "-di", "--name", "talker", IMAGE, "sh", "-c", script)
    here.until_logged("talker", "out3")
    done = here.attempt("logs", "talker")
    assert (done.stdout, done.stderr) == ("out1\nout2\nout3\n", "")
    assert here.docker("logs", "--tail", "2", "talker") == "out2\nout3\n"
    stamped = here.docker("logs", "-t", "--tail", "1", "talker")
    assert stamped[10] == "T"
    assert stamped.split(" ", 1)[1] == "out3\n"
    with subprocess.Popen(here.command("logs", "-f", "talker"), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout
        assert [following.stdout.readline() for _ in range(3)] == ["out1\n", "out2\n", "out3\n"]
        here.docker("attach", "talker", stdin="\n")
        assert following.stdout.read() == "last\n"
    assert following.returncode == 0


def test_exec_has_its_own_code_user_environment_and_directory(here: Box) -> None:
    """A second program in a container is a program of its own."""
    here.docker("run", "-d", "--name", "one", "-e", "A=1", IMAGE, "sleep", "1000")
    said = here.docker("exec", "-u", "app", "-e", "B=2", "-w", "/tmp", "one", "sh", "-c", "id -un; echo $A$B; pwd")
    assert said == "app\n12\n/tmp\n"
    assert here.attempt("exec", "one", "sh", "-c", "exit 9").returncode == 9
    assert here.docker("exec", "-i", "one", "cat", stdin="through\n") == "through\n"
    assert here.attempt("exec", "one", "nosuch").returncode in {126, 127}
    here.docker("exec", "-d", "one", "touch", "/tmp/there")
    until(lambda: here.attempt("exec", "one", "ls", "/tmp/there").returncode == 0, "exec -d did nothing")


def test_stop_asks_and_then_forces(here: Box) -> None:
    """A program may end well, but cannot refuse to."""
    polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    here.docker("run", "-d", "--name", "polite", IMAGE, "sh", "-c", polite)
    here.until_logged("polite", "ready")
    here.docker("stop", "polite")
    assert here.inspect("polite")["State"]["ExitCode"] == 5
    assert "bye" in here.docker("logs", "polite")
    here.docker(
        "run", "-d", "--name", "deaf", IMAGE, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    )
    here.until_logged("deaf", "ready")
    here.docker("stop", "-t", "0", "deaf")
    assert here.inspect("deaf")["State"]["ExitCode"] == 137


def test_kill_sends_any_signal(here: Box) -> None:
    """Programs reload on HUP."""
    here.docker(
        "run", "-d", "--name", "one", IMAGE, "sh", "-c", "trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done"
    )
    here.until_logged("one", "ready")
    here.docker("kill", "-s", "HUP", "one")
    here.until_logged("one", "hup")
    assert here.state("one") == "running"
    assert "invalid signal" in here.refused("kill", "-s", "NOSUCH", "one")
    here.docker("kill", "one")
    assert here.docker("wait", "one") == "137\n"
    assert "is not running" in here.refused("kill", "one")


def test_pause_stands_still_and_goes_on(here: Box) -> None:
    """Docker's freezer."""
    here.docker("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    here.docker("pause", "one")
    assert here.state("one") == "paused"
    assert "paused" in here.refused("exec", "one", "true")
    here.docker("unpause", "one")
    assert here.docker("exec", "one", "echo", "awake") == "awake\n"
    here.docker("pause", "one")
    here.docker("rm", "-f", "one")


def test_restart_policies(here: Box) -> None:
    """Always, on failure and so many times, unless stopped, and not at all."""
    here.docker("run", "-d", "--name", "fails", "--restart", "on-failure:2", IMAGE, "sh", "-c", "echo began; exit 3")
    until(lambda: here.inspect("fails")["RestartCount"] == 2 and here.state("fails") == "exited", "it never gave up")
    assert here.docker("logs", "fails") == "began\n" * 3
    here.docker("run", "-d", "--name", "always", "--restart", "always", IMAGE, "sh", "-c", "exit 0")
    until(lambda: here.inspect("always")["RestartCount"] >= 2, "it is not restarted")
    here.docker("stop", "always")
    count = here.inspect("always")["RestartCount"]
    assert here.state("always") == "exited"
    here.docker("run", "--name", "never", IMAGE, "false", code=1)
    assert here.inspect("never")["RestartCount"] == 0
    assert here.inspect("always")["RestartCount"] == count


def test_containers_are_listed_and_filtered(here: Box) -> None:
    """`docker ps` is asked for a few of many."""
    here.docker("run", "-d", "--name", "up", "-l", "tier=front", IMAGE, "sleep", "1000")
    here.docker("run", "--name", "down", IMAGE, "sh", "-c", "exit 4", code=4)
    here.docker("create", "--name", "new", IMAGE, "true")

    def listed(*flags: str) -> list[str]:
        return here.docker("ps", "--format", "{{.Names}}", *flags).split()

    assert listed() == ["up"]
    assert listed("-a") == ["new", "down", "up"]
    assert listed("-f", "status=exited") == ["down"]
    assert listed("-a", "-f", "status=created") == ["new"]
    assert listed("-f", "label=tier=front") == ["up"]
    assert listed("-f", "exited=4") == ["down"]
    assert listed("-n", "1") == ["new"]
    assert listed("-a", "-f", "before=new", "-f", "since=up") == ["down"]
    assert listed("-a", "-f", f"ancestor={IMAGE}") == ["new", "down", "up"]
    assert "Exited (4)" in here.docker("ps", "-a")
    assert sorted(here.docker("container", "prune", "-f").split()[2:4])
    assert listed("-a") == ["up"]


def test_a_name_is_had_once_and_can_be_changed(here: Box) -> None:
    """Names are how users find their containers."""
    here.docker("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    assert 'The container name "/one" is already in use' in here.refused("create", "--name", "one", IMAGE, code=1)
    here.docker("rename", "one", "two")
    assert here.inspect("two")["Name"] == "/two"
    here.docker("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    here.docker("restart", "-t", "0", "two")
    assert {here.state("one"), here.state("two")} == {"running"}


def test_a_running_container_is_removed_only_by_force(here: Box) -> None:
    """A slip of the finger must not cost a service."""
    here.docker("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    assert "stop the container before removing or force remove" in here.refused("rm", "one")
    here.docker("rm", "-f", "one")
    assert "No such container" in here.refused("container", "inspect", "one")


def test_events_tell_a_containers_whole_life(here: Box) -> None:
    """Tools watch these."""
    since = str(time.time())
    here.docker("run", "--rm", "--name", "one", IMAGE, "sh", "-c", "exit 6", code=6)
    lines = here.docker(
        "events", "--since", since, "--until", str(time.time() + 0.2), "--format", "{{json .}}"
    ).splitlines()
    events = [json.loads(line) for line in lines]
    told = [one["Action"] for one in events if one["Type"] == "container"]
    assert told == ["create", "attach", "start", "die", "destroy"]
    assert [one["Action"] for one in events if one["Type"] == "network"] == ["connect", "disconnect"]
    died = next(one for one in events if one["Action"] == "die")
    assert died["Actor"]["Attributes"]["exitCode"] == "6"


def test_what_was_asked_for_is_done_though_who_asked_goes_away(here: Box) -> None:
    """Half a start, or half a removal, helps nobody."""
    path = f"/proc/{here.host.pid}/root/run/isthmus/isthmus.sock"

    def ask_and_go(method: str, what: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(
                f"{method} /v1.44/containers/one{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
            )

    here.docker("create", "--name", "one", IMAGE, "sleep", "1000")
    ask_and_go("POST", "/start")
    here.becomes("one", "running")
    here.note()
    ask_and_go("DELETE", "?force=1")
    until(lambda: "one" not in here.docker("ps", "-a"), "it is not removed")


# Isolation.


def test_a_program_has_dockers_capabilities_and_nothing_else(here: Box) -> None:
    """What a container may do is what users of Docker expect."""
    status = here.docker(
        "run", "--rm", IMAGE, "grep", "-E", "Cap(Eff|Bnd|Inh)|Seccomp:|NoNewPrivs", "/proc/self/status"
    )
    facts = dict(line.split(":\t") for line in status.splitlines())
    assert facts["CapEff"] == facts["CapBnd"] == "00000000a80425fb"
    assert facts["CapInh"] == "0" * 16
    assert (facts["Seccomp"], facts["NoNewPrivs"]) == ("2", "0")
    dropped = here.docker(
        "run", "--rm", "--cap-drop", "ALL", "--cap-add", "CHOWN", IMAGE, "grep", "CapEff", "/proc/self/status"
    )
    assert dropped.split()[1] == "0000000000000001"
    other = here.docker(
        "run", "--rm", "-u", "1000", "--security-opt", "no-new-privileges", IMAGE, "cat", "/proc/self/status"
    )
    facts = dict(line.split(":\t", 1) for line in other.splitlines() if ":\t" in line)
    assert (facts["CapEff"], facts["NoNewPrivs"]) == ("0" * 16, "1")


def test_what_seccomp_forbids_is_refused(here: Box) -> None:
    """A program that could make namespaces or mounts could leave."""
    refused = here.attempt("run", "--rm", IMAGE, "unshare", "-n", "true")
    assert refused.returncode != 0
    assert "not permitted" in refused.stderr
    assert here.attempt("run", "--rm", IMAGE, "mount", "-t", "tmpfs", "x", "/tmp").returncode != 0


def test_files_of_the_kernel_are_masked_or_cannot_be_written(here: Box) -> None:
    """/proc tells of the host and changes it."""
    assert here.docker("run", "--rm", IMAGE, "sh", "-c", "wc -c < /proc/keys") == "0\n"
    assert "Read-only" in here.attempt("run", "--rm", IMAGE, "sh", "-c", "echo 1 > /proc/sys/kernel/panic").stderr
    assert (
        "Read-only" in here.attempt("run", "--rm", IMAGE, "sh", "-c", "echo x > /proc/irq/default_smp_affinity").stderr
    )


def test_the_machines_own_root_is_read_only_and_without_its_secrets(here: Box) -> None:
    """`host` lends the machine's programs, not its keys."""
    script = "cat /etc/shadow | wc -c; ls /root /home | wc -l; touch /usr/x 2>&1; touch /tmp/x && echo own; hostname"
    lines = here.docker("run", "--rm", "-h", "guest", "host", "sh", "-c", script).splitlines()
    assert lines[0] == "0"
    assert "Read-only file system" in lines[2]
    assert lines[3:] == ["own", "guest"]
    assert not Path("/tmp/x").exists()


def test_limits_are_the_kernels(here: Box) -> None:
    """A limit that is not there is found out when it is needed."""
    here.docker(
        "run",
        "-d",
        "--name",
        "small",
        "-m",
        "64m",
        "--pids-limit",
        "20",
        "--cpus",
        "0.5",
        "--ulimit",
        "nofile=99:100",
        "--ulimit",
        "core=51200:102400",
        IMAGE,
        "sleep",
        "1000",
    )
    identity = here.inspect("small")["Id"]
    values = {place.name: place.read_text().strip() for place in _limits(identity)}
    assert values.get("memory.limit_in_bytes", values.get("memory.max")) == str(64 << 20)
    assert values["pids.max"] == "20"
    assert values.get("cpu.cfs_quota_us", values.get("cpu.max", "").split(" ")[0]) == "50000"
    own = Path(f"/proc/{here.pid('small')}/limits").read_text()
    assert re.search(r"^Max open files +99 +100 ", own, re.MULTILINE)
    # Not the soft one of files: what runc before 1.1.13 execs has the hard limit for it now and then (its issue 4195).
    script = "ulimit -Hn; ulimit -Sc; ulimit -Hc"  # the latter in blocks of 512 bytes
    assert here.docker("exec", "small", "sh", "-c", script).split() == ["100", "100", "200"]


def _limits(identity: str) -> list[Path]:
    names = ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max")
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    return [path for top in tops for name in names if (path := top / groups.path(identity)[1:] / name).exists()]


def test_directories_of_the_host_are_bound_and_memory_is_mounted(here: Box, tmp_path: Path) -> None:
    """Bind mounts are how data comes in and stays."""
    (tmp_path / "file").write_text("from the host\n")
    script = "cat /mnt/file; echo back > /mnt/new; mount | grep -c 'on /scratch type tmpfs'"
    flags = ("-v", f"{tmp_path}:/mnt", "--mount", "type=tmpfs,target=/opt", "--tmpfs", "/srv")
    said = here.docker("run", "--rm", *flags, IMAGE, "sh", "-c", script.replace("/scratch", "/opt"))
    assert said == "from the host\n1\n"
    assert (tmp_path / "new").read_text() == "back\n"
    assert "Read-only" in here.attempt("run", "--rm", "-v", f"{tmp_path}:/mnt:ro", IMAGE, "touch", "/mnt/x").stderr
    missing = here.refused(
        "run", "--rm", "--mount", f"type=bind,src={tmp_path}/nosuch,target=/mnt", IMAGE, "true", code=125
    )
    assert "bind source path does not exist" in missing


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("-v", "data:/data"), "volumes are not supported"),
        (("-v", "/data"), "volumes are not supported"),
        (("--init",), "HostConfig.Init"),
        (("--log-driver", "syslog"), "log driver syslog"),
        (("--volumes-from", "other"), "HostConfig.VolumesFrom"),
        (("--gpus", "all"), "HostConfig.DeviceRequests"),
        (("--health-cmd", "true"), "Healthcheck"),
        (("--ipc", "container:x"), "HostConfig.IpcMode"),
        (("--cgroup-parent", "/x"), "HostConfig.CgroupParent"),
    ],
)
def test_what_is_not_done_is_said(here: Box, flags: tuple[str, ...], word: str) -> None:
    """Never a silent wrong thing."""
    assert word in here.refused("run", "--rm", *flags, IMAGE, "true", code=125)
    assert here.docker("ps", "-aq") == ""


# Networks.


def test_each_mode_of_the_network(here: Box) -> None:
    """bridge, a user's own, host, none, and another container's."""
    here.docker("network", "create", "front")
    here.docker("run", "-d", "--name", "web", "--network", "front", "-h", "myhost", IMAGE, *SERVE)

    def said(mode: str, *command: str) -> str:
        return here.docker("run", "--rm", "--network", mode, IMAGE, *command)

    until(lambda: fetched(here, "http://web/", "--network", "front") == "it works\n", "web does not serve")
    assert said("container:web", "hostname") == "myhost\n"
    assert fetched(here, "http://127.0.0.1/", "--network", "container:web") == "it works\n"
    assert said("none", "ls", "/sys/class/net").split() == ["lo"]
    assert set(said("host", "ls", "/sys/class/net").split()) >= {"lo", "isthmus0"}
    assert said("bridge", "cat", "/sys/class/net/eth0/operstate") == "up\n"
    inspected = here.inspect("web")["NetworkSettings"]
    assert inspected["Networks"]["front"]["IPAddress"]
    assert here.inspect("web")["Id"] in json.loads(here.docker("network", "inspect", "front"))[0]["Containers"]


def test_ports_addresses_names_and_all_that_goes_with_a_network(here: Box) -> None:
    """One of each flag that users have for networks."""
    here.docker("network", "create", "--subnet", "10.77.0.0/24", "front")
    here.docker(
        "run", "-d", "--name", "web", "--network", "name=front,ip=10.77.0.9,mac-address=02:00:00:00:00:09,alias=www",
        "-p", "18080:80", "--expose", "81", "-P", "--add-host", "far:192.0.2.7", "--dns", "192.0.2.53", "--dns-search",
        "corp.example", "--sysctl", "net.ipv4.ip_default_ttl=77", IMAGE, *SERVE,
    )  # fmt: skip
    ours = "http://127.0.0.1:18080/"
    until(lambda: fetched(here, ours, "--network", "host") == "it works\n", "the port leads nowhere")
    assert here.docker("port", "web", "80") == "0.0.0.0:18080\n"
    assert here.docker("port", "web", "81").startswith("0.0.0.0:")
    assert here.docker("exec", "web", "cat", "/sys/class/net/eth0/address") == "02:00:00:00:00:09\n"
    assert here.docker("exec", "web", "cat", "/proc/sys/net/ipv4/ip_default_ttl") == "77\n"
    assert "192.0.2.7\tfar" in here.docker("exec", "web", "cat", "/etc/hosts")
    assert "search corp.example" in here.docker("exec", "web", "cat", "/etc/resolv.conf")
    for name in ("www", "web", "linked"):
        assert fetched(here, f"http://{name}/", "--network", "front", "--link", "web:linked") == "it works\n"


def test_networks_are_joined_and_left_while_it_runs_and_that_lasts(here: Box) -> None:
    """A container keeps its networks over a restart."""
    for name in ("front", "back"):
        here.docker("network", "create", name)
    here.docker("run", "-d", "--name", "web", "--network", "front", IMAGE, "sleep", "1000")
    here.docker("network", "connect", "--alias", "other", "back", "web")
    assert set(here.inspect("web")["NetworkSettings"]["Networks"]) == {"front", "back"}
    here.docker("network", "disconnect", "front", "web")
    here.docker("restart", "-t", "0", "web")
    networks = here.inspect("web")["NetworkSettings"]["Networks"]
    assert set(networks) == {"back"}
    assert networks["back"]["Aliases"] == ["other"]
    here.docker("stop", "-t", "0", "web")
    here.docker("network", "connect", "front", "web")
    here.docker("start", "web")
    assert set(here.inspect("web")["NetworkSettings"]["Networks"]) == {"front", "back"}


def test_who_joined_keeps_the_namespace_while_its_owner_restarts(here: Box) -> None:
    """A sidecar must not fall off the network."""
    here.docker("network", "create", "front")
    here.docker("run", "-d", "--name", "web", "--network", "front", IMAGE, "sleep", "1000")
    here.docker("run", "-d", "--name", "side", "--network", "container:web", IMAGE, *SERVE)
    here.docker("restart", "-t", "0", "web")
    assert ":80 " in here.docker("exec", "web", "netstat", "-ltn")
    assert fetched(here, "http://web/", "--network", "front") == "it works\n"
    here.docker("stop", "-t", "0", "web", "side")
    assert "non running container" in here.refused("start", "side")


def test_a_container_on_the_parents_wire(here: Box) -> None:
    """A macvlan works for containers as it does for sandboxes."""
    here.host.ip("link add wire0 type veth peer name wire1")
    here.host.batch("link set wire0 up", "link set wire1 up", "address add 10.0.36.1/24 dev wire1")
    here.docker("network", "create", "-d", "macvlan", "--subnet", "10.0.36.0/24", "-o", "parent=wire0", "lan")
    said = here.docker("run", "--rm", "--network", "lan", "--ip", "10.0.36.7", IMAGE, "cat", "/proc/net/fib_trie")
    assert "10.0.36.7" in said


# What outlives whom.


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Box]:
    """A host of the test's own, whose daemon it may kill."""
    with World(tmp_path / "world") as world, box(world.host().start()) as made:
        bring_image(made)
        yield made


def test_containers_output_and_exit_codes_outlive_the_daemon(own: Box) -> None:
    """A daemon's death is nobody's outage."""
    own.docker("run", "-d", "--name", "lives", IMAGE, "sh", "-c", "n=0; while :; do echo $((n=n+1)); sleep 0.02; done")
    own.docker("run", "-di", "--name", "ends", IMAGE, "sh", "-c", "read x; echo last words; exit 42")
    pid = own.pid("lives")
    attached = subprocess.Popen(own.command("attach", "ends"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    own.until_logged("lives", "3")
    own.host.stop(signal.SIGKILL)
    os.kill(pid, 0)
    attached.communicate(timeout=30)
    own.host.start()
    assert own.pid("lives") == pid
    own.becomes("lives", "running")
    lines = [int(line) for line in own.docker("logs", "lives").split()]
    assert lines == list(range(1, len(lines) + 1))
    if own.state("ends") == "running":
        own.docker("attach", "ends", stdin="\n", code=42)
    assert own.docker("wait", "ends") == "42\n"
    assert "last words" in own.docker("logs", "ends")
    own.note()
    own.clear()
    assert not own.leftovers()


def test_what_ended_without_a_daemon_is_known_to_the_next_one(own: Box) -> None:
    """The monitor tells how it ended, to whoever comes."""
    own.docker("run", "-d", "--name", "gone", IMAGE, "sh", "-c", "read x < /tmp/fifo 2>/dev/null; sleep 0.3; exit 33")
    own.docker("run", "-d", "--name", "again", "--restart", "always", IMAGE, "sh", "-c", "sleep 0.3; exit 1")
    own.docker("run", "-d", "--rm", "--name", "brief", IMAGE, "sleep", "0.3")
    pid = own.pid("gone")
    own.host.stop(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}/ns").exists() or not _lives(pid), "it does not end")
    own.host.start()
    assert (own.state("gone"), own.inspect("gone")["State"]["ExitCode"]) == ("exited", 33)
    until(lambda: own.inspect("again")["RestartCount"] >= 1, "it is not restarted")
    assert "brief" not in own.docker("ps", "-a")


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    return False


def test_a_container_outlives_a_power_failure_that_takes_how_it_was(own: Box) -> None:
    """There are file systems that have a file's name by then, and not its content."""
    own.docker("run", "-d", "--name", "old", "--restart", "always", IMAGE, "sleep", "1000")
    own.docker("rename", "old", "one")
    pid = own.pid("one")
    own.host.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not _lives(pid), "it does not end")
    place = own.host.data / "containers" / _identity(own)
    os.truncate(place / "state.json", 0)
    (own.host.data / "exits" / place.name).unlink(missing_ok=True)
    own.host.start()
    own.becomes("one", "running")
    own.docker("stop", "-t", "0", "one")
    own.docker("start", "one")
    assert own.state("one") == "running"


def test_after_a_reboot_owners_of_namespaces_start_before_those_who_join(own: Box) -> None:
    """Restart policies bring all back, in an order that works."""
    own.docker("run", "-d", "--name", "zz-owner", "--restart", "always", IMAGE, "sleep", "1000")
    own.docker(
        "run",
        "-d",
        "--name",
        "aa-side",
        "--restart",
        "always",
        "--network",
        "container:zz-owner",
        IMAGE,
        "sleep",
        "1000",
    )
    own.docker("run", "-d", "--name", "once", IMAGE, "sleep", "1000")
    own.docker("run", "-d", "--name", "resting", "--restart", "unless-stopped", IMAGE, "sleep", "1000")
    own.docker("stop", "-t", "0", "resting")
    _reboot(own)
    for name in ("zz-owner", "aa-side"):
        own.becomes(name, "running")
    assert (own.state("once"), own.state("resting")) == ("exited", "exited")
    assert own.docker("exec", "aa-side", "hostname") == own.docker("exec", "zz-owner", "hostname")


def _reboot(own: Box) -> None:
    """Kill all that runs, and empty what a reboot empties."""
    pids = [own.pid(name) for name in own.docker("ps", "--format", "{{.Names}}").split()]
    own.host.stop(signal.SIGKILL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(_lives, pids)), "they do not end")
    for name in own.host.run("ls /run/isthmus/runtime").split():
        own.host.run(f"runc --root /run/isthmus/runtime delete --force {name}")
    own.host.run(
        "sh -c 'for m in $(grep -o \"/run/isthmus/netns[^ ]*\" /proc/mounts | sort -r); do umount -l $m; done'"
    )
    own.host.run(f"sh -c 'for m in $(grep -o \"{own.host.data}/[^ ]*\" /proc/mounts | sort -r); do umount -l $m; done'")
    own.host.run("rm -rf /run/isthmus")
    for place in (own.host.data / "exits").iterdir():
        place.unlink()
    own.host.start()


def test_a_sandbox_and_a_container_do_not_take_each_others_name(here: Box) -> None:
    """To clients both are containers."""
    here.host.isthmus("sandbox create plain")
    assert "already in use" in here.refused("create", "--name", "plain", IMAGE, "true")
    here.docker("run", "-d", "--name", "full", IMAGE, "sleep", "1000")
    assert "already in use" in here.host.refused("sandbox create full")
    assert "is a container" in here.host.refused("sandbox rm full")
    assert "plain is a sandbox" in here.refused("stop", "plain")
    here.host.isthmus("sandbox rm plain")


# Crashes.


def _identity(own: Box) -> str:
    """The ID of the only container, as its directory tells."""
    return next((place.name for place in (own.host.data / "containers").iterdir()), "")


def _monitor_runs(own: Box) -> bool:
    return (own.host.data / "containers" / _identity(own) / "conmon.pid").exists()


BEGINNING: dict[str, Callable[[Box], object]] = {
    "its directory": _identity,
    "its record": lambda own: (own.host.data / "containers" / (_identity(own) or "-") / "container.json").exists(),
    "its namespace": lambda own: bool(own.host.run("ls /run/isthmus/netns")),
    "its root": lambda own: str(own.host.data / "containers") in own.host.run("cat /proc/self/mounts"),
    "its bundle": lambda own: (own.host.data / "containers" / (_identity(own) or "-") / "config.json").exists(),
    "its monitor": _monitor_runs,
    "its state": lambda own: bool(own.host.run("ls /run/isthmus/runtime")),
    "its process": lambda own: (own.host.data / "containers" / (_identity(own) or "-") / "pid").exists(),
    "its output": lambda own: "began" in _log(own),
}
"""What there is to be seen as a container comes to run, one after another."""


def _log(own: Box) -> str:
    with suppress(OSError):
        return (own.host.data / "containers" / _identity(own) / "log").read_text()
    return ""


LATE = ("its root", "its monitor", "its output")


@pytest.mark.parametrize(
    ("seen", "flags"),
    [
        *((seen, ()) for seen in BEGINNING),
        *((seen, ("--rm",)) for seen in LATE),
        *((seen, ("--restart", "always")) for seen in LATE),
    ],
)
def test_a_crash_while_it_starts_leaves_nothing_that_is_not_known(own: Box, seen: str, flags: tuple[str, ...]) -> None:
    """Wherever the daemon dies, the next one has the whole container or nothing, and removing it removes all."""
    words = own.command("run", "-d", "--name", "one", *flags, IMAGE, "sh", "-c", "echo began; exec sleep 1000")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        until(lambda: BEGINNING[seen](own), f"{seen} is never there")
        own.host.stop(signal.SIGKILL)
    own.host.start()
    own.note()
    if own.docker("ps", "-aq"):
        until(lambda: own.state("one") != "restarting", "it hangs")
        if own.state("one") == "running":
            assert own.docker("exec", "one", "echo", "alive") == "alive\n"
    own.clear()
    until(lambda: not own.leftovers(), f"something is left: {own.leftovers()}", 10)


ENDING: dict[str, Callable[[Box], object]] = {
    "its end": lambda own: (own.host.data / "exits" / (_identity(own) or "-")).exists(),
    "its namespace": lambda own: not own.host.run("ls /run/isthmus/netns"),
    "its root": lambda own: str(own.host.data / "containers") not in own.host.run("cat /proc/self/mounts"),
    "its record": lambda own: not (own.host.data / "containers" / (_identity(own) or "-") / "container.json").exists(),
    "its directory": lambda own: not _identity(own),
}
"""What there is to be seen as a container is removed."""


@pytest.mark.parametrize("seen", ENDING)
def test_a_crash_while_it_is_removed_leaves_nothing(own: Box, seen: str) -> None:
    """What was to be removed is, by the next daemon at the latest."""
    own.docker("run", "-d", "--name", "one", IMAGE, "sleep", "1000")
    own.note()
    with subprocess.Popen(own.command("rm", "-f", "one"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        until(lambda: ENDING[seen](own), f"{seen} never goes")
        own.host.stop(signal.SIGKILL)
    own.host.start()
    assert own.docker("ps", "-aq") == ""
    until(lambda: not own.leftovers(), f"something is left: {own.leftovers()}", 10)


def test_who_has_no_overlayfs_gets_copies(tmp_path: Path) -> None:
    """A plain copy does, where the kernel or the file system has nothing better."""
    with World(tmp_path / "world") as world, box(world.host()) as made:
        # On an overlay file system no other can be stacked for writing.
        data = made.host.data
        for name in ("low", "up", "work"):
            (tmp_path / name).mkdir()
        data.mkdir()
        made.host.run(
            f"mount -t overlay -o lowerdir={tmp_path}/low,upperdir={tmp_path}/up,workdir={tmp_path}/work none {data}"
        )
        made.host.start()
        bring_image(made)
        made.docker(
            "run", "-d", "--name", "one", IMAGE, "sh", "-c", "rm /etc/group; echo one > /etc/mine; exec sleep 1000"
        )
        until(lambda: made.attempt("exec", "one", "cat", "/etc/mine").stdout == "one\n", "it does not write")
        made.docker("restart", "-t", "0", "one")
        assert made.docker("exec", "one", "cat", "/etc/mine") == "one\n"
        assert "app" in made.docker("run", "--rm", IMAGE, "cat", "/etc/group")
        made.note()
        made.clear()
        until(lambda: not made.leftovers(), "something is left", 5)
