"""The journal: what a worker must not forget, in SQLite on the device.

One connection, write-ahead log, `synchronous=FULL`: a committed transaction survives a power cut.

A commit writes each page that it changes to flash as a whole, though most change a few bytes. So pages are as small as
SQLite makes them. What never changes of a job, its order with the workload, has a row of its own, which is written
once. Jobs and calls are in tables with row ids, whose pages hold a row of some hundred bytes as a whole; in a table
without, what exceeds a fifth of a page has a page besides (https://sqlite.org/fileformat2.html, section 1.6).
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import orjson

from airflow_mqtt.protocol.errors import RefusedError, StorageError
from airflow_mqtt.worker.core.effects import (
    DropCall,
    DropEvents,
    DropJob,
    JournalEffect,
    SaveCall,
    SaveEvent,
    SaveJob,
    SaveLogMark,
    SaveMeta,
)
from airflow_mqtt.worker.core.state import Restored

SCHEMA_VERSION = 2

#: What is read besides. In a journal of schema 1 a job's record held its order as well.
_OLDER_VERSIONS = frozenset({"1"})

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS job (id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS run (job TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS log_mark (job TEXT PRIMARY KEY, acked INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS call (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, position INTEGER NOT NULL, record TEXT NOT NULL
);
"""

_SET_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
# Not `INSERT OR REPLACE`: that makes another row, and writes the index anew.
_SET_JOB = "INSERT INTO job VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
_SET_CALL = "INSERT INTO call VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"

_JOBS = "SELECT job.record, run.record FROM job LEFT JOIN run ON run.job = job.id ORDER BY job.id"

#: What SQLite says of a file that is no journal (any more). All else may pass: a full disk, a bad cable.
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def broken(path: Path, cause: object) -> RefusedError:
    return RefusedError(
        f"the journal {path} cannot be used ({cause}): mend that, give another --state-dir, or remove the file"
        " (the jobs of which it knew are then lost)"
    )


class Journal:
    """An open journal. `path` is made where it is missing; its directory must exist.

    From each method `StorageError` when the disk does not do its part, `RefusedError` when the file is no journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._named():
            path.touch(mode=0o600)  # and the files that SQLite puts beside it get the same mode
            self._db = sqlite3.connect(path, isolation_level=None)
            self._open()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                raise broken(self._path, error) from None
            raise StorageError(f"the journal {self._path} cannot be used ({error})") from None

    def _open(self) -> None:
        # A small cache: the whole journal is a few pages, and the device has little memory. A journal that is there
        # keeps the size of its pages.
        for pragma in (
            "page_size=512", "journal_mode=WAL", "synchronous=FULL", "cache_size=-256", "wal_autocheckpoint=1600",
        ):  # fmt: skip
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._begin()

    def _begin(self) -> None:
        """Name a new journal. The name is random, so that numbers of a lost one are never taken for these."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('journal', ?)", (os.urandom(16).hex(),))
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        # Part of the client id at the broker: who knew it could take this worker's connection over.
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('client', ?)", (os.urandom(8).hex(),))
        # Connections are counted from the time of day on, so that those of a new disk come after those of the old.
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('connection', ?)", (str(int(time.time())),))
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if found in _OLDER_VERSIONS:
            self._db.execute(_SET_META, ("schema", found := str(SCHEMA_VERSION)))
        self._db.execute("COMMIT")
        if found != str(SCHEMA_VERSION):
            raise RefusedError(
                f"the journal in the state directory is of another version (schema {found}, this one reads"
                f" {SCHEMA_VERSION}): install the version that wrote it, or give another --state-dir"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def load(self) -> Restored:
        """Return everything that is in the journal."""
        rows = self._db.execute
        try:
            with self._named():
                return Restored(
                    meta=dict(rows("SELECT key, value FROM meta").fetchall()),
                    jobs=[_joined(record, run) for record, run in rows(_JOBS)],
                    events=dict(rows("SELECT seq, payload FROM event ORDER BY seq").fetchall()),
                    calls=[
                        (job, orjson.loads(record))
                        for job, record in rows("SELECT job, record FROM call ORDER BY position")
                    ],
                    log_marks=dict(rows("SELECT job, acked FROM log_mark").fetchall()),
                )
        except orjson.JSONDecodeError as error:
            raise broken(self._path, error) from None

    def write(self, effects: Sequence[JournalEffect]) -> None:
        """Commit `effects`, in order, all or none."""
        if not effects:
            return
        with self._named():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for effect in effects:
                    self._apply(effect)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                    self._db.execute("ROLLBACK")
                raise

    def _apply(self, effect: JournalEffect) -> None:
        match effect:
            case SaveMeta(key, value):
                self._db.execute(_SET_META, (key, value))
            case SaveJob(job, record):
                self._save_job(job, record)
            case DropJob(job):
                self._db.execute("DELETE FROM job WHERE id = ?", (job,))
                self._db.execute("DELETE FROM run WHERE job = ?", (job,))
                self._db.execute("DELETE FROM log_mark WHERE job = ?", (job,))
            case SaveLogMark(job, acked):
                self._db.execute("INSERT OR REPLACE INTO log_mark VALUES (?, ?)", (job, acked))
            case SaveEvent(seq, payload):
                self._db.execute("INSERT OR REPLACE INTO event VALUES (?, ?)", (seq, payload))
            case DropEvents(upto):
                self._db.execute("DELETE FROM event WHERE seq <= ?", (upto,))
                self._db.execute(_SET_META, ("acked", str(upto)))
            case SaveCall(call, job, position, record):
                self._db.execute(_SET_CALL, (call, job, position, orjson.dumps(record)))
            case DropCall(call):
                self._db.execute("DELETE FROM call WHERE id = ?", (call,))

    def _save_job(self, job: str, record: Mapping[str, Any]) -> None:
        """Write what may have changed. The order of an attempt has not: another attempt's comes after a `DropJob`."""
        if "run" in record:
            self._db.execute("INSERT OR IGNORE INTO run VALUES (?, ?)", (job, orjson.dumps(record["run"])))
        changing = {name: value for name, value in record.items() if name != "run"}
        self._db.execute(_SET_JOB, (job, orjson.dumps(changing)))


def _joined(record: bytes, run: bytes | None) -> dict[str, Any]:
    """Return the record of a job as it was saved."""
    changing: dict[str, Any] = orjson.loads(record)
    return changing if run is None else changing | {"run": orjson.loads(run)}
