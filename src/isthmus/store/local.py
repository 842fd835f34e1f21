"""The store of one host: an SQLite database that one daemon has to itself.

A write-ahead log makes a commit one short write. What differs is when it reaches the disk (`PRAGMA synchronous`):

- Changes to networks and settings are waited for (FULL), since they must outlive a power failure.
- All others are handed to the kernel and not waited for (NORMAL), at a tenth of the cost. They outlive the death of the
  program. A power failure may take the last of them, but it takes the namespaces that they speak of, too; the
  database stays whole, and a later commit that is waited for brings all earlier ones to the disk.

The lock is `flock` on a file beside the database and not SQLite's own, so that it says who holds it, is gone with its
holder, and lets an administrator read the database with `sqlite3` while the daemon runs.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import takewhile
from pathlib import Path

from isthmus.errors import StoreUnavailable
from isthmus.store import Snapshot

SCHEMA = 1
"""The layout of the database (its `user_version`); it grows with every change of the tables."""

_PATIENCE = 1.0
"""How many seconds a commit waits for somebody who holds the database with a tool of his own."""

_LASTING = ("network/", "setting/")

_TABLES = """
    BEGIN IMMEDIATE;
    CREATE TABLE item (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE revision (number INTEGER NOT NULL);
    INSERT INTO revision VALUES (0);
    PRAGMA user_version = 1;
    COMMIT;
"""

_LOCKED = "some other program holds it locked: end that program"
_WRITABLE = "make the file and its directory writable, or name another directory with --data-root"
_DAMAGED = "it is damaged: restore it from a backup, or move it away to start without its networks"
_WAYS_OUT = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _WRITABLE,
    sqlite3.SQLITE_PERM: _WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _WRITABLE,
    sqlite3.SQLITE_FULL: "free some space on its disk",
    sqlite3.SQLITE_IOERR: "its disk fails or is full: see the kernel's log",
}


class LocalStore:
    """The `Store` in the database at *path*, which is made if it lacks, for its owner's eyes only.

    It may be used by several threads, one at a time; it is closed with `close`.

    Raises:
        StoreUnavailable: another daemon has it, a newer version wrote it, or it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lasting = False
        with ExitStack() as held, _telling(path):
            _hold(path, held)
            _make_private(path)
            self._database = held.enter_context(
                closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False))
            )
            self._revision = self._prepare()
            self._held = held.pop_all()

    def read(self, prefix: str = "") -> Snapshot:
        """All items whose key begins with *prefix*, sorted by key."""
        rows = "SELECT key, value FROM item WHERE key >= ? ORDER BY key"
        with _telling(self._path), closing(self._database.execute(rows, (prefix,))) as found:
            return Snapshot(self._revision, dict(takewhile(lambda row: row[0].startswith(prefix), found)))

    def commit(self, changes: Mapping[str, bytes | None]) -> int:
        """Set or forget each key in one transaction; return the new revision, or the old one for nothing."""
        if changes:
            with _telling(self._path):
                self._transact(changes)
            self._revision += 1
        return self._revision

    def close(self) -> None:
        """Let go of the database, so that another daemon can have it."""
        self._held.close()

    def _prepare(self) -> int:
        """Make the tables if they lack; return the revision."""
        [(schema,)] = self._database.execute("PRAGMA user_version").fetchall()
        [(tables,)] = self._database.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if schema > SCHEMA:
            raise StoreUnavailable(
                f"store {self._path} has schema {schema}, and this version knows schemas up to {SCHEMA}: start the "
                "version that wrote it, or name another directory with --data-root"
            )
        if tables and not schema:
            raise StoreUnavailable(
                f"store {self._path} is a database of some other program: name another directory with --data-root"
            )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            self._database.executescript(_TABLES)
        [(revision,)] = self._database.execute("SELECT number FROM revision").fetchall()
        return int(revision)

    def _transact(self, changes: Mapping[str, bytes | None]) -> None:
        run = self._database.execute
        self._wait_for_disk(changes)
        run("BEGIN IMMEDIATE")
        try:
            many = self._database.executemany
            many("DELETE FROM item WHERE key = ?", ((key,) for key, value in changes.items() if value is None))
            many("REPLACE INTO item VALUES (?, ?)", (item for item in changes.items() if item[1] is not None))
            run("UPDATE revision SET number = ?", (self._revision + 1,))
            run("COMMIT")
        finally:
            # SQLite itself rolls back after some errors, such as a full disk.
            if self._database.in_transaction:
                run("ROLLBACK")

    def _wait_for_disk(self, keys: Iterable[str]) -> None:
        """Let the next commit be waited for until it is on the disk if one of *keys* must outlive a power failure."""
        lasting = any(key.startswith(_LASTING) for key in keys)
        if lasting != self._lasting:
            self._database.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
            self._lasting = lasting


def _hold(path: Path, held: ExitStack) -> None:
    """Lock the database at *path* for as long as *held* stands, or tell who has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode(errors="replace").strip()
        who = f"process {holder}" if holder else "another process"
        raise StoreUnavailable(
            f"store {path} is in use by {who}: end that daemon, or name another directory with --data-root"
        ) from None
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())


def _make_private(path: Path) -> None:
    """Make the file at *path* if it lacks, and let nobody but its owner read it; its log takes its mode from it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tell what goes wrong with the store at *path*, and the way out."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"store {path} cannot be opened: {error.strerror}; {_WRITABLE}") from error
    except sqlite3.Error as error:
        # The low byte of SQLite's code is its kind; an error of the Python module itself has none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        raise StoreUnavailable(f"store {path} does not answer: {error}; {_WAYS_OUT.get(code, _DAMAGED)}") from error
