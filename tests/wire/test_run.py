"""`isthmus run` and `create` beside Docker's own client: for the same flags, the same body.

The daemon is the scripted one of `test_cli`, which attaches nobody.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.test_cli import DOCKER, Daemon, Request, Result, needs_docker, run

MEANT = {
    "ConsoleSize": "we tell the size of our terminal when it is attached, and whenever it changes",
    "MemorySwappiness": "-1 leaves it as it is, and so does saying nothing",
}
"""The keys of HostConfig in which we differ from Docker's client, and why.

Not compared is the order of `-e`, either: Docker's client 28 gives them in that of one of Go's maps, which is chance.
"""

POINTERS = frozenset({"Init", "MaskedPaths", "ReadonlyPaths", "StopTimeout"})
"""The keys of which Docker's daemon tells what is empty from what is not there."""

OURS = (sys.executable, "-m", "isthmus.cli.main")

FILES = {
    "env": b"# comment\n  A=1  \nTZ\nISTHMUS_NOT_SET\n\nB=two words\n\t# another\nC=\nA=2\nD=a=b\n",
    "dos": b"\xef\xbb\xbfE=5\t\r\nA=3\r\n",
    "labels": b"# comment\n  one=1 \ntwo\nTZ\n",
    "blank": b"A B=1\n",
    "nameless": b"OK=1\n=1\n",
    "taken": b"an ID",
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A scripted daemon, with files beside it."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    with Daemon(tmp_path / "d.sock").running() as running:
        yield running


class Asked:
    """What one client asked for, and how it ended."""

    def __init__(self, daemon: Daemon, program: str, words: str, there: Path) -> None:
        command, *flags = words.format(there=there).split()
        daemon.requests.clear()
        # Ours pulls nothing unless it is told to.
        never = ["--pull", "never"] if program else []
        self.result: Result = daemon.ask(command, *never, *flags, program=program)
        self.creations: list[Request] = [one for one in daemon.requests if one.path == "/containers/create"]


SAME = [
    "create image",
    "create image sh -c true",
    "create -it image",
    "create -i image",
    "create -a stdout image",
    "create -a STDERR -a stdin image",
    "run image",
    "run -i image",
    "run -t image",
    "run -d image",
    "run -dit --name web image",
    "run -a stdout image",
    "run -a stderr -i image",
    "run -a stdin -i --rm image",
    "create --env-file {there}/env image",
    "create --env-file {there}/env --env-file {there}/dos -e Z=1 -e TZ -e ISTHMUS_NOT_SET -e A=9 image",
    "create -l a=b -l c --label-file {there}/labels -l one=x image",
    "create --init=false image",
    "create --no-healthcheck --restart= image",
    "create --no-healthcheck=false image",
    "create --cpu-period 100000 --cpu-quota 50000 --cpuset-mems 0-1 --cpuset-cpus 0,1 -c 512 image",
    "create --cpus 0.29 -m 1.1m --memory-swap -1 --memory-reservation 32m --shm-size 1g image",
    "create --cap-add NET_ADMIN --cap-add cap_sys_admin --cap-add net_admin --cap-drop all --cap-drop net_raw image",
    "create --entrypoint /bin/sh image -c true",
    "create --entrypoint= image",
    "create --restart on-failure:3 --stop-signal SIGINT --stop-timeout 0 --pids-limit -1 --oom-score-adj -500 image",
    "create --restart on-failure: --pids-limit 0 image",
    "create --restart no --rm image",
    "create --tmpfs /t --tmpfs /u:size=1m,ro -v /a:/b:ro,z -v ./x:/y -v /c -v data:/d image",
    "create --mount type=bind,src=./a,dst=/b,ro,bind-propagation=rslave,consistency=cached image",
    "create --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777 --mount source=v,target=/b image",
    "create --device /dev/fuse --device /dev/null:/dev/x --device /dev/zero:/dev/y:r --device /dev/full:rw image",
    "create --ulimit nofile=10:20 --ulimit nproc=5 --ulimit core=-1 --ulimit nofile=30 image",
    "create --log-driver json-file --log-opt max-size=1m --log-opt max-file=2 --annotation a=b image",
    "create --security-opt no-new-privileges:true --security-opt seccomp=unconfined --sysctl kernel.shmmax=5 image",
    "create --security-opt systempaths=unconfined --security-opt label:disable image",
    "create --group-add 5 --group-add audio --privileged --read-only --pid host --ipc host --uts host image",
    "create --pid container:x --ipc shareable --cgroupns private -u app:app -w /tmp image",
    "create -h h --domainname d --network front --network back --ip 10.5.0.9 --network-alias a -p 8080:80 image",
    "create -P --expose 90 --dns 1.1.1.1 --dns-search . --add-host a:1.2.3.4 --link x:y image",
    "create --network container:other --mac-address 02:42:0a:05:00:09 image",
]


@needs_docker
@pytest.mark.parametrize("words", SAME)
def test_the_same_flags_make_the_same_container(daemon: Daemon, tmp_path: Path, words: str) -> None:
    """Whoever changes the client gets the container that they had."""
    ours, theirs = (Asked(daemon, program, words, tmp_path).creations for program in ("", str(DOCKER)))

    assert [one.query for one in ours] == [one.query for one in theirs]
    assert [meaning(one.body) for one in ours] == [meaning(one.body) for one in theirs]
    assert len(ours) == 1


def meaning(body: object) -> object:
    """What Docker's daemon takes *body* for."""
    assert isinstance(body, dict)
    config = {key: value for key, value in body["HostConfig"].items() if key not in MEANT}
    # Docker's client has what -v says in a map, so their order is another each time.
    config["Binds"] = sorted(config.get("Binds") or ())
    variables = {word.partition("=")[0]: word for word in body["Env"] or ()}
    return said({**body, "HostConfig": config, "Env": variables})


def said(value: object) -> object:
    """*value*, without what is as good as not there."""
    if isinstance(value, list):
        return [said(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: said(item) for key, item in value.items()}
    return {key: item for key, item in inner.items() if item or (key in POINTERS and item is not None)}


REFUSED = [
    "create -a foo image",
    "create -a stdin,stdout image",
    "run -d -a stdout image",
    "create -e =1 image",
    "create --rm --restart always image",
    "run -d --rm --restart always image",
    "create -m -1 image",
    "create --env-file {there}/nosuch image",
    "create --env-file {there}/blank image",
    "create --env-file {there}/nameless image",
    "create --label-file {there}/nosuch image",
    "create --cidfile {there}/taken image",
    "run --cidfile {there}/taken image",
    "run --cidfile {there}/nosuch/id image",
]


@needs_docker
@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_meant_gets_dockers_sentence(daemon: Daemon, tmp_path: Path, words: str) -> None:
    """And nothing is made."""
    ours, theirs = (Asked(daemon, program, words, tmp_path) for program in ("", str(DOCKER)))

    assert ours.result.err.splitlines()[0] == theirs.result.err.splitlines()[0].removeprefix("docker: ")
    assert (ours.result.code, ours.creations, theirs.creations) == (125, [], [])
    assert (tmp_path / "taken").read_bytes() == FILES["taken"]


@pytest.mark.parametrize("words", ["create --cidfile {there}/id image", "run -d --cidfile {there}/id image"])
def test_the_id_is_in_the_file(daemon: Daemon, tmp_path: Path, words: str) -> None:
    """Without a line's end, so that it can be read into a variable by whatever program."""
    asked = Asked(daemon, "", words, tmp_path)

    assert (tmp_path / "id").read_text() == asked.result.out.strip() == "f" * 64


def test_no_container_leaves_no_file_for_its_id(daemon: Daemon, tmp_path: Path) -> None:
    """It would be in the way of the next attempt."""
    result = run([*OURS, "-H", f"{daemon.host}.no", "create", "--cidfile", str(tmp_path / "id"), "image"])

    assert (result.code, (tmp_path / "id").exists()) == (1, False)


def test_variables_keep_their_order(daemon: Daemon, tmp_path: Path) -> None:
    """The last of a name holds: one of the command line before one of a file, the later before the earlier."""
    (creation,) = Asked(daemon, "", "create -e C=1 --env-file {there}/dos -e B=2 -e C=3 image", tmp_path).creations

    assert isinstance(creation.body, dict)
    assert creation.body["Env"] == ["E=5\t", "A=3", "C=1", "B=2", "C=3"]


def test_variables_that_are_no_text_are_refused(daemon: Daemon, tmp_path: Path) -> None:
    """With the line, for the file may be long."""
    (tmp_path / "bytes").write_bytes(b"A=1\nB=\xff\n")
    asked = Asked(daemon, "", "create --env-file {there}/bytes image", tmp_path)

    assert asked.result.err.startswith(f"invalid env file ({tmp_path}/bytes): invalid utf8 bytes at line 2\n")
    assert asked.creations == []
