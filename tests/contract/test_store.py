"""What the engine relies on in a store; the same for every store, and what one on a disk owes besides."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from isthmus.errors import StoreUnavailable
from isthmus.store import Store
from isthmus.store.local import SCHEMA, LocalStore
from isthmus.store.memory import MemoryStore

Open = Callable[[], Store]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store on disk is."""
    return tmp_path / "root" / "isthmus.db"


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    """An empty store of every kind."""
    with ExitStack() as held:
        yield MemoryStore() if request.param == "memory" else held.enter_context(closing(LocalStore(path)))


def test_a_new_store_is_empty(store: Store) -> None:
    """The first start of a daemon finds nothing, and no error."""
    assert store.read().items == {}


def test_what_was_committed_is_read(store: Store) -> None:
    """A value is bytes, all of them."""
    values = {"network/a": bytes(range(256)), "endpoint/a/b": b"", "sandbox/c": b"\0" * 100_000, "setting/d": b"1"}
    store.commit(values)
    assert store.read().items == values


def test_a_commit_overwrites_and_forgets(store: Store) -> None:
    """Marking `removing`, then forgetting, is how everything ends."""
    store.commit({"network/a": b"1", "network/b": b"1", "sandbox/c": b"1"})
    store.commit({"network/a": b"2", "network/b": None, "network/d": b"2"})
    assert store.read().items == {"network/a": b"2", "network/d": b"2", "sandbox/c": b"1"}


def test_forgetting_what_is_not_there_is_success(store: Store) -> None:
    """Removal is asked for again after a crash."""
    store.commit({"network/a": None})
    assert store.read().items == {}


def test_a_prefix_takes_what_begins_with_it_and_nothing_else(store: Store) -> None:
    """`endpoint/a` must not find the endpoints of network `ab`, if it ends with a slash."""
    last = "endpoint/a/\U0010ffff\U0010ffff"
    keys = ["endpoint/a/1", "endpoint/a/2", "endpoint/ab/1", "endpoint/a", "endpoint", "f", last]
    store.commit(dict.fromkeys(keys, b"x"))
    assert list(store.read("endpoint/a/").items) == ["endpoint/a/1", "endpoint/a/2", last]
    assert list(store.read("endpoint/a").items) == sorted(key for key in keys if key.startswith("endpoint/a"))
    assert store.read("network/").items == {}
    assert list(store.read().items) == sorted(keys)


def test_wildcards_in_a_prefix_are_letters(store: Store) -> None:
    """Keys hold what users named."""
    store.commit({"setting/%": b"1", "setting/_": b"1", "setting/*": b"1", "setting/a": b"1"})
    for letter in "%_*":
        assert list(store.read(f"setting/{letter}").items) == [f"setting/{letter}"]


def test_each_commit_has_a_greater_revision(store: Store) -> None:
    """A reader tells by it whether it has missed something."""
    before = store.read().revision
    first = store.commit({"network/a": b"1"})
    second = store.commit({"network/a": None})
    assert before < first < second == store.read("sandbox/").revision


def test_a_commit_of_nothing_changes_nothing(store: Store) -> None:
    """A repair that finds all well has nothing to say."""
    revision = store.commit({"network/a": b"1"})
    assert store.commit({}) == revision == store.read().revision


def test_a_snapshot_stays_as_it_was_taken(store: Store) -> None:
    """The engine goes through one while it commits."""
    store.commit({"network/a": b"1"})
    snapshot = store.read()
    store.commit({"network/a": b"2", "network/b": b"2"})
    assert snapshot.items == {"network/a": b"1"}


def test_a_store_on_disk_is_there_after_reopening(path: Path) -> None:
    """A restart finds what was wanted, and its clients a revision that goes on."""
    with closing(LocalStore(path)) as store:
        store.commit({"network/a": b"1", "endpoint/a/b": b"2"})
        revision = store.commit({"network/c": b"3"})
    with closing(LocalStore(path)) as store:
        assert store.read().items == {"network/a": b"1", "endpoint/a/b": b"2", "network/c": b"3"}
        assert store.read().revision == revision
        assert store.commit({"network/c": None}) > revision


COMMITTER = """
    import sys
    from pathlib import Path
    from isthmus.store.local import LocalStore
    store = LocalStore(Path(sys.argv[1]))
    number = store.read().revision
    while True:
        number += 1
        value = str(number).encode()
        store.commit({f"endpoint/a/{at}": value * 200 for at in range(20)})
        print(number, flush=True)
"""


def run(code: str, *arguments: object) -> list[str]:
    """The command line that runs Python *code*."""
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def test_a_commit_is_all_or_nothing_whenever_the_daemon_is_killed(path: Path) -> None:
    """SIGKILL at any moment: what was answered for is there, and no half of what was not."""
    answered = 0
    for round_ in range(6):
        with subprocess.Popen(run(COMMITTER, path), stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(20 + 7 * round_):
                answered = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            # What the child could still say before it died counts as answered, too.
            answered = max([answered, *(int(line) for line in child.stdout if line.endswith("\n"))])
        with closing(LocalStore(path)) as store:
            snapshot = store.read("endpoint/")
        values = set(snapshot.items.values())
        assert len(snapshot.items) == 20
        assert values in ({str(number).encode() * 200} for number in (answered, answered + 1))
        answered = snapshot.revision


def test_a_second_daemon_is_told_who_has_the_store(path: Path) -> None:
    """Two daemons with one data root would take each other's networks down."""
    with subprocess.Popen(run(COMMITTER, path), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(StoreUnavailable, match=rf"is in use by process {child.pid}: .*--data-root"):
            LocalStore(path)
        child.kill()
        child.stdout.read()
    LocalStore(path).close()


def test_nobody_else_can_read_a_store(path: Path) -> None:
    """It tells who talks to whom."""
    before = os.umask(0)
    try:
        with closing(LocalStore(path)) as store:
            store.commit({"network/a": b"1"})
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert {"isthmus.db", "isthmus.db-wal", "isthmus.db.lock"} <= set(modes)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """A step back to an older version must not spoil what the newer one wrote."""
    LocalStore(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=f"has schema {SCHEMA + 1}, .* start the version that wrote it"):
        LocalStore(path)
    assert path.read_bytes() == before


def test_a_database_of_some_other_program_is_refused_and_left_alone(path: Path) -> None:
    """A mistaken path must not cost anybody data."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE item (key, value)")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="some other program"):
        LocalStore(path)
    assert path.read_bytes() == before


def test_a_refused_store_is_let_go(path: Path) -> None:
    """Whoever mends it and tries again must not be told that it is in use."""
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="damaged"):
            LocalStore(path)
    path.unlink()
    LocalStore(path).close()


def test_a_damaged_page_is_told_when_it_is_read(path: Path) -> None:
    """Disks fail in the middle, too."""
    with closing(LocalStore(path)) as store:
        store.commit({f"network/{number}": b"x" * 500 for number in range(200)})
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096 * 8)
    with closing(LocalStore(path)) as store, pytest.raises(StoreUnavailable, match=f"{path} .*damaged"):
        store.read()


def test_a_locked_database_changes_nothing_and_works_again(path: Path) -> None:
    """An administrator may have it open in a tool of his own."""
    with closing(LocalStore(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        revision = store.commit({"network/a": b"1"})
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"locked.*end that program"):
            store.commit({"network/a": b"2", "endpoint/a/b": b"2"})
        assert store.read().items == {"network/a": b"1"}
        other.execute("ROLLBACK")
        assert store.commit({"network/a": b"3"}) == revision + 1


def test_a_path_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """A file where a directory should be, and a directory where the file should be."""
    (tmp_path / "file").touch()
    (tmp_path / "isthmus.db").mkdir()
    for path in (tmp_path / "file" / "isthmus.db", tmp_path / "isthmus.db"):
        with pytest.raises(StoreUnavailable, match=f"store {path} .*name another directory with --data-root"):
            LocalStore(path)


MOUNTED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]

FILL = """
    import sys
    from pathlib import Path
    from isthmus.errors import StoreUnavailable
    from isthmus.store.local import LocalStore
    store = LocalStore(Path(sys.argv[1]))
    number = 0
    try:
        while True:
            store.commit({f"endpoint/a/{number}": b"x" * 5000, f"endpoint/b/{number}": b"x"})
            number += 1
    except StoreUnavailable as error:
        print(error)
    print(number, *(len(store.read(f"endpoint/{side}/").items) for side in "ab"))
"""

READ_ONLY = """
    import sys
    from pathlib import Path
    from isthmus.errors import StoreUnavailable
    from isthmus.store.local import LocalStore
    try:
        LocalStore(Path(sys.argv[1]))
    except StoreUnavailable as error:
        print(error)
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Runs a shell script and then Python code in a mount namespace of their own; gives the lines of the output."""
    if (
        shutil.which("unshare") is None
        or subprocess.run([*MOUNTED, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("namespaces are not allowed here")

    def run_mounted(script: str, code: str) -> list[str]:
        command = [*MOUNTED, f'{script}\nshift\nexec "$@"', "sh", str(tmp_path), *run(code, tmp_path / "isthmus.db")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    return run_mounted


def test_a_full_disk_is_told_and_no_half_of_a_commit_is_kept(mounts: Callable[[str, str], list[str]]) -> None:
    """Disks fill up, and what is there must stay right."""
    error, counts = mounts('mount -t tmpfs -o size=1m none "$1"', FILL)
    assert "full" in error
    assert "free some space" in error
    assert len(set(counts.split())) == 1


def test_a_read_only_disk_is_told(mounts: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    """Linux makes a failing disk read-only."""
    LocalStore(tmp_path / "isthmus.db").close()
    [error] = mounts('mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"', READ_ONLY)
    assert "Read-only file system" in error
    assert "--data-root" in error
