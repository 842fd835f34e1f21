"""What is asked of a container and what a runtime is told of it: pure, so every case costs nothing."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from isthmus.api import body, containers
from isthmus.containers import logs, policy, seccomp
from isthmus.containers.manager import record_in
from isthmus.containers.model import Device, Limits, Mount, Record, Restart, Wish
from isthmus.containers.spec import (
    ALL_CAPABILITIES,
    CAPABILITIES,
    DeviceNode,
    Place,
    User,
    arguments,
    capabilities,
    environment,
    spec,
    user_of,
    variables,
    with_swap,
)
from isthmus.errors import InvalidRequest, IsthmusError, NotImplementedHere

HERE = Place(id="f" * 64, root="/r", machine="x86_64", netns="/run/isthmus/netns/one", hostname="one")
JSON = {"content-type": "application/json"}


def asked(**fields: object) -> body.ContainerCreate:
    """What a body with these fields asks for."""
    host = fields.pop("HostConfig", {})
    content = msgspec.json.encode({"Image": "i", "Cmd": ["x"], **fields, "HostConfig": host})
    return containers.decode(JSON, content)


def told(wish: Wish, place: Place = HERE, **more: Any) -> Any:  # noqa: ANN401 - JSON may be anything
    """What a runtime is told, as it reads it."""
    return msgspec.json.decode(msgspec.json.encode(spec(wish, place, more.pop("user", User()), **more)))


# What is run.


def test_a_users_entry_point_makes_the_images_command_void() -> None:
    """Docker's rule, which images are written for."""
    image = {
        "Entrypoint": ["/entry"],
        "Cmd": ["serve"],
        "Env": ["A=image", "B=image"],
        "WorkingDir": "/srv",
        "User": "app",
    }

    def words(create: body.ContainerCreate) -> tuple[str, ...]:
        return arguments(containers.wish(containers.merged(create, image)))

    assert words(asked(Cmd=None)) == ("/entry", "serve")
    assert words(asked(Cmd=["other"])) == ("/entry", "other")
    assert words(asked(Cmd=None, Entrypoint=["sh"])) == ("sh",)
    assert words(asked(Cmd=["-c", "x"], Entrypoint=["sh"])) == ("sh", "-c", "x")
    assert words(asked(Cmd=["x"], Entrypoint=[""])) == ("x",)
    merged = containers.merged(asked(Env=["A=user"], User="me"), image)
    assert merged.env == ["B=image", "A=user"]
    assert (merged.working_dir, merged.user) == ("/srv", "me")


def test_nothing_to_run_is_refused() -> None:
    """An image without a command needs one."""
    with pytest.raises(InvalidRequest, match="no command specified"):
        arguments(Wish("i"))


def test_a_name_without_a_value_takes_a_variable_away() -> None:
    """As `docker exec -e NAME` does, where NAME is not set."""
    assert variables(("A=1", "B=2=3", "A", "C=", "D")) == {"B": "2=3", "C": ""}


def test_an_environment_has_dockers_own_and_each_name_once() -> None:
    """The last one counts; a name alone takes one away."""
    wish = Wish("i", environment=("A=1", "PATH=/x", "A=2", "GONE=1", "GONE"), tty=True)
    values = environment(wish, User(home="/root"), "box")
    assert set(values) == {"PATH=/x", "HOSTNAME=box", "TERM=xterm", "A=2", "HOME=/root"}


def test_capabilities_are_dockers_with_what_is_added_and_dropped() -> None:
    """`--cap-drop ALL --cap-add X` leaves X."""
    assert set(capabilities(Wish("i"))) == set(CAPABILITIES)
    assert len(CAPABILITIES) == 14
    assert capabilities(Wish("i", capabilities_dropped=("all",), capabilities_added=("net_admin",))) == (
        "CAP_NET_ADMIN",
    )
    assert set(capabilities(Wish("i", capabilities_added=("ALL",), capabilities_dropped=("CAP_SYS_ADMIN",)))) == {
        *ALL_CAPABILITIES
    } - {"CAP_SYS_ADMIN"}
    with pytest.raises(InvalidRequest, match="CAP_NOSUCH"):
        capabilities(Wish("i", capabilities_added=("nosuch",)))
    assert capabilities(Wish("i", privileged=True), ("CAP_KILL",)) == ("CAP_KILL",)


def test_another_user_than_root_has_no_capability_until_it_gains_one() -> None:
    """What a program could do by mistake, it cannot."""
    held = told(Wish("i", command=("x",)), user=User(1000, 1000))["process"]["capabilities"]
    assert (held["effective"], held["permitted"], len(held["bounding"])) == ([], [], 14)
    assert {"inheritable", "ambient"}.isdisjoint(held)


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (), "/root"),
        ("app", 1000, 1000, (2000,), "/srv"),
        ("1000", 1000, 1000, (2000,), "/srv"),
        ("app:extra", 1000, 2000, (), "/srv"),
        ("4242", 4242, 0, (), "/"),
        ("4242:4343", 4242, 4343, (), "/"),
    ],
)
def test_a_user_is_looked_up_in_the_containers_own_files(
    text: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    """Its numbers are those of the image, not of the host."""
    passwd = "root:x:0:0:root:/root:/bin/sh\nbroken line\napp:x:1000:1000::/srv:/bin/sh\n"
    group = "root:x:0:\nextra:x:2000:other,app\n"
    assert user_of(text, (), passwd, group) == User(uid, gid, groups, home)


def test_an_unknown_user_or_group_is_refused() -> None:
    """Docker's words."""
    for text, further in (("nobody", ()), ("0:nogroup", ()), ("", ("nogroup",))):
        with pytest.raises(InvalidRequest, match="no matching entries"):
            user_of(text, further, "", "")


# What a runtime is told.


def test_a_container_has_namespaces_of_its_own_but_for_those_it_shares() -> None:
    """What is shared has to be asked for."""
    kinds = {one["type"]: one.get("path") for one in told(Wish("i", command=("x",)))["linux"]["namespaces"]}
    assert kinds == {"mount": None, "network": HERE.netns, "pid": None, "ipc": None, "uts": None}
    shared = Wish("i", command=("x",), pid_mode="host", ipc_mode="host", uts_mode="host")
    whole = told(shared, Place(id="f" * 64, root="/r", machine="x86_64"))
    assert [one["type"] for one in whole["linux"]["namespaces"]] == ["mount"]
    assert "hostname" not in whole
    assert whole["linux"]["sysctl"] == {}


def test_users_mounts_take_the_place_of_ours_and_outer_ones_come_first() -> None:
    """A mount below another would be covered by it."""
    mounts = (
        Mount("bind", "/a", "/data/in"),
        Mount("bind", "/b", "/data"),
        Mount("tmpfs", "tmpfs", "/dev/shm", ("size=1",)),
    )
    targets = [one["destination"] for one in told(Wish("i", command=("x",), mounts=mounts))["mounts"]]
    assert targets.index("/data") < targets.index("/data/in")
    assert targets[0] == "/proc"
    assert targets.count("/dev/shm") == 1
    shm = next(
        one for one in told(Wish("i", command=("x",), mounts=mounts))["mounts"] if one["destination"] == "/dev/shm"
    )
    assert shm["options"] == ["size=1"]
    assert (
        "rprivate"
        in next(one for one in told(Wish("i", command=("x",), mounts=mounts))["mounts"] if one["source"] == "/a")[
            "options"
        ]
    )


def test_devices_are_allowed_one_by_one() -> None:
    """All others are refused."""
    fuse = DeviceNode(Device("/dev/fuse", "/dev/fuse", "rw"), "c", 10, 229, 0o666, 0, 0)
    resources = told(Wish("i", command=("x",)), devices=(fuse,))["linux"]["resources"]["devices"]
    assert resources[0] == {"allow": False, "access": "rwm"}
    assert {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"} in resources
    assert told(Wish("i", command=("x",), privileged=True))["linux"]["resources"]["devices"] == [
        {"allow": True, "access": "rwm"}
    ]


def test_a_memory_limit_brings_as_much_swap() -> None:
    """Docker's choice where a user makes none."""
    assert with_swap(Limits(memory=5, pids=3)) == Limits(memory=5, swap=10, pids=3)
    assert with_swap(Limits(memory=5, swap=-1)).swap == -1


def test_seccomp_depends_on_capabilities_and_processor() -> None:
    """Who may administer may make namespaces; nobody else."""
    plain, admin = seccomp.profile(CAPABILITIES, "x86_64"), seccomp.profile(ALL_CAPABILITIES, "x86_64")

    def names(profile: Any) -> set[str]:  # noqa: ANN401 - JSON may be anything
        return {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}

    assert {"unshare", "mount", "setns", "bpf", "keyctl", "add_key"}.isdisjoint(names(plain))
    assert {"unshare", "mount", "setns", "bpf"} <= names(admin)
    assert "keyctl" not in names(admin)
    assert "arch_prctl" in names(plain)
    assert "arch_prctl" not in names(seccomp.profile(CAPABILITIES, "aarch64"))
    assert any(rule["names"] == ["clone3"] and rule["errnoRet"] == 38 for rule in cast("Any", plain["syscalls"]))
    assert "architectures" not in seccomp.profile(CAPABILITIES, "vax")


def test_privileged_is_neither_masked_nor_filtered() -> None:
    """That is what the word means."""
    linux = told(Wish("i", command=("x",), privileged=True))["linux"]
    assert {"maskedPaths", "readonlyPaths", "seccomp"}.isdisjoint(linux)


# What bodies may say.


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}, "unknown policy 'sometimes'"),
        ({"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}}, "can't create 'AutoRemove'"),
        ({"HostConfig": {"Memory": 1000}}, "Minimum memory limit"),
        ({"HostConfig": {"MemorySwap": 1000}}, "Memory limit when using Memoryswap"),
        ({"HostConfig": {"NanoCpus": 5, "CpuQuota": 5}}, "Nano CPUs and CPU Period"),
        ({"HostConfig": {"Binds": ["/a"]}}, "invalid volume specification"),
        ({"HostConfig": {"Binds": ["/a:/b:odd"]}}, "invalid mode: odd"),
        ({"HostConfig": {"Binds": ["/a:b"]}}, "mount path must be absolute"),
        ({"HostConfig": {"Binds": ["/a:/../"]}}, "destination can't be '/'"),
        ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "a", "Target": "/b"}]}}, "mount path must be absolute"),
        ({"HostConfig": {"Mounts": [{"Type": "odd", "Target": "/b"}]}}, "mount type unknown"),
        ({"HostConfig": {"PidMode": "odd"}}, "invalid PID mode"),
        ({"HostConfig": {"LogConfig": {"Config": {"max-size": "many"}}}}, "max-size"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], word: str) -> None:
    """Before anything is made."""
    with pytest.raises(InvalidRequest, match=word.replace("(", "\\(")):
        containers.wish(asked(**fields))


@pytest.mark.parametrize("key", sorted(containers.UNSUPPORTED))
def test_what_is_not_done_is_refused_by_its_key(key: str) -> None:
    """Never a silent wrong thing; what a client sends for nothing passes."""
    with pytest.raises(NotImplementedHere, match=f"HostConfig.{key}"):
        asked(HostConfig={key: ["x"]})
    asked(HostConfig={key: None})


@pytest.mark.parametrize(
    "fields",
    [
        {"Volumes": {"/data": {}}},
        {"Healthcheck": {"Test": ["CMD", "x"]}},
        {"HostConfig": {"Binds": ["data:/data"]}},
        {"HostConfig": {"Mounts": [{"Type": "volume", "Target": "/b"}]}},
        {"HostConfig": {"IpcMode": "container:x"}},
        {"HostConfig": {"LogConfig": {"Type": "syslog"}}},
        {"HostConfig": {"SecurityOpt": ["apparmor=mine"]}},
        {"HostConfig": {"MemorySwappiness": 5}},
    ],
)
def test_what_else_is_not_done_is_refused(fields: dict[str, Any]) -> None:
    """With 501 and a sentence."""
    with pytest.raises(NotImplementedHere):
        containers.wish(asked(**fields))


def test_limits_binds_and_options_are_read() -> None:
    """All that users of the client give."""
    wish = containers.wish(
        asked(
            HostConfig={
                "Binds": ["/a:/b:ro,rslave", "/c:/d"],
                "Tmpfs": {"/t": "size=5"},
                "NanoCpus": 1_500_000_000,
                "SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "label=disable"],
                "Devices": [{"PathOnHost": "/dev/fuse"}],
                "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "Sysctls": {"kernel.msgmax": "9", "net.ipv4.ip_forward": "1"},
            }
        )
    )
    assert wish.mounts[0] == Mount("bind", "/a", "/b", ("rbind", "ro", "rslave"), made=True)
    assert wish.mounts[2].options == ("nosuid", "nodev", "noexec", "size=5")
    assert (wish.limits.quota, wish.limits.period) == (150_000, 100_000)
    assert (wish.new_privileges, wish.seccomp, wish.log_size) == (False, False, 1 << 20)
    assert wish.devices == (Device("/dev/fuse", "/dev/fuse"),)
    assert wish.ulimits == (("nofile", 1, 2),)
    assert wish.sysctls == (("kernel.msgmax", "9"),)


def test_what_is_kept_means_the_same_when_it_is_read_again() -> None:
    """A container is run by what was stored, tomorrow as today."""
    create = asked(
        Hostname="h",
        Labels={"a": "b"},
        HostConfig={
            "NetworkMode": "front",
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
            "Sysctls": {"net.x": "1", "kernel.y": "2"},
        },
        NetworkingConfig={"EndpointsConfig": {"front": {"Aliases": ["www"]}}},
    )
    kept = containers.text_of(create)
    meant = containers.meaning("web", kept)
    assert containers.text_of(containers.create_of(kept)) == kept
    assert meant.sandbox.sysctls == (("net.x", "1"),)
    assert meant.sandbox.labels == (("a", "b"),)
    assert [name for name, _ in meant.sandbox.endpoints] == ["front"]
    assert [wish.port for wish in meant.sandbox.ports] == [80]


def test_a_power_failure_may_take_how_a_container_was_but_not_the_container(tmp_path: Path) -> None:
    """A state that cannot be read was being written, so it ran; what was asked for is on the disk."""

    def keep(name: str, record: Record) -> None:
        (tmp_path / name).write_bytes(msgspec.json.encode(record))

    made = Record("i" * 64, "old", 5, "{}", "image")
    with pytest.raises(FileNotFoundError):
        record_in(tmp_path)
    keep("container.json", made)
    assert record_in(tmp_path) == made
    keep("state.json", replace(made, wanted=True, started=7, restarts=2))
    assert record_in(tmp_path).restarts == 2
    keep("container.json", replace(made, name="new", asked='{"a": 1}'))
    found = record_in(tmp_path)
    assert (found.name, found.asked, found.started) == ("new", '{"a": 1}', 7)
    (tmp_path / "state.json").write_bytes(b"")
    found = record_in(tmp_path)
    assert (found.name, found.running) == ("new", True)


def test_networks_come_and_go_in_what_is_kept() -> None:
    """So a restart has what was connected; compose takes a container off its first network and puts it on all."""
    kept = containers.text_of(containers.placed(asked(HostConfig={"NetworkMode": "front"})))

    def networks(text: str) -> tuple[str, list[str]]:
        request = containers.meaning("web", text).sandbox
        return request.mode, [name for name, _ in request.endpoints]

    assert networks(kept) == ("front", ["front"])
    more = containers.with_network(kept, "back", body.EndpointConfig(aliases=["b"]))
    assert networks(more) == ("front", ["front", "back"])
    less = containers.without_network(more, "front", "f" * 64)
    assert networks(less) == ("back", ["back"])
    nothing = containers.without_network(less, "back")
    assert networks(nothing) == ("none", [])
    assert networks(containers.with_network(nothing, "front", body.EndpointConfig())) == ("front", ["front"])
    assert networks(containers.text_of(containers.placed(asked()))) == ("bridge", ["bridge"])
    assert networks(containers.text_of(containers.placed(asked(HostConfig={"NetworkMode": "host"})))) == ("host", [])


# When it starts again.


@pytest.mark.parametrize(
    ("name", "most", "code", "stopped", "count", "booted", "starts"),
    [
        ("no", 0, 1, False, 0, True, False),
        ("always", 0, 0, False, 9, False, True),
        ("always", 0, 0, True, 0, False, False),
        ("always", 0, 0, True, 0, True, True),
        ("unless-stopped", 0, 1, False, 0, True, True),
        ("unless-stopped", 0, 1, True, 0, True, False),
        ("on-failure", 0, 0, False, 0, False, False),
        ("on-failure", 2, 1, False, 1, False, True),
        ("on-failure", 2, 1, False, 2, False, False),
    ],
)
def test_restart_policies(  # noqa: PLR0917 - a table
    name: str, most: int, code: int, stopped: object, count: int, booted: object, starts: object
) -> None:
    """Docker's four, after an end and after a boot."""
    record = Record("i", "n", 1, "", started=2, ended=3, code=code, stopped=bool(stopped), restarts=count)
    assert policy.restarts(Restart(name, most), record, booted=bool(booted)) is starts


def test_a_free_name_is_free() -> None:
    """However many are taken."""
    taken: set[str] = set()
    numbers = iter(range(10_000))

    def random(count: int) -> bytes:
        return bytes((0, 0, next(numbers) % 256))[:count]

    for _ in range(200):
        name = policy.free_name(taken, random)
        assert name not in taken
        taken.add(name)


def test_signals_have_names_and_numbers() -> None:
    """With and without SIG."""
    assert policy.signal_number("9") == policy.signal_number("kill") == policy.signal_number("SIGKILL") == 9
    for text in ("nosuch", "0", "999", ""):
        with pytest.raises(InvalidRequest, match="invalid signal"):
            policy.signal_number(text)


# Output.


def test_lines_of_the_log_are_read_whole_and_in_parts() -> None:
    """However the file is cut."""
    text = (
        b"2026-11-27T16:32:47.394111535+00:00 stdout P par\n"
        b"2026-11-27T16:32:47.5+00:00 stdout F tial\n"
        b"garbage\n"
        b"2026-11-27T18:32:48+02:00 stderr F error with  spaces\n"
    )
    lines: list[logs.Line] = []
    for size in (1, 7, len(text)):
        cutter = logs.Cutter()
        lines = [line for at in range(0, len(text), size) for line in cutter.feed(text[at : at + size])]
        assert [(line.stream, line.text) for line in lines] == [
            (1, b"par"),
            (1, b"tial\n"),
            (2, b"error with  spaces\n"),
        ]
        assert lines[0].time == 1_795_797_167_394_111_535
        assert lines[2].time == 1_795_797_168_000_000_000
    assert [line.text for line in logs.last(lines, 2)] == [b"par", b"tial\n", b"error with  spaces\n"]
    assert [line.text for line in logs.last(lines, 1)] == [b"error with  spaces\n"]
    assert logs.last(lines, 0) == []


def test_pieces_of_output_are_framed_with_their_stream() -> None:
    """Docker's stdcopy."""
    assert containers.framed(2, b"hello") == b"\x02\0\0\0\0\0\0\x05hello"


@pytest.mark.parametrize("text", ["ctrl-", "alt-x", "ctrl-pp", "pq,x"])
def test_keys_that_are_none_are_refused(text: str) -> None:
    """A terminal that cannot be left is a trap."""
    with pytest.raises(IsthmusError, match="invalid detach keys"):
        containers.detach_keys(text)
