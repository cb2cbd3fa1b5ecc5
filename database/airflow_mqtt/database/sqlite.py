"""`Ledger` over SQLite: one connection, in a thread of its own.

SQLite has one lock for all who write. Each batch takes it at its beginning, so that nothing that it reads can change
before it commits, and raises the lease's `beat` on the way: a leader that is kept from renewing it by its own batches
would lose it to nobody.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import orjson

from airflow_mqtt.database import desired
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.engine import SQLITE_BUSY, sqlite_uri
from airflow_mqtt.database.errors import DeposedError, UnfitError, is_unfit
from airflow_mqtt.database.ledger import (
    JOB_LIST,
    NEWS_LIMIT,
    OBSERVED_COLUMNS,
    WAITING_COLUMNS,
    WRITTEN,
    Committed,
    Conflict,
    News,
    Snapshot,
    Waiting,
    Writes,
    access_of,
)
from airflow_mqtt.database.records import WORKER_COLUMNS, Job, Worker, understood
from airflow_mqtt.protocol.errors import AirflowMqttError

T = TypeVar("T")

_WORKERS: Final = ", ".join(WORKER_COLUMNS)
_NEWS_HOLDS: Final = "news = 1 AND (finished_at IS NULL OR report_pending = 1)"  # as its index says it

_FENCE: Final = "UPDATE mqtt_bridge SET beat = beat + 1 WHERE team_name = ? AND epoch = ?"


def _extract(names: Collection[str]) -> str:
    return ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)


_CHANGE: Final = f"""
UPDATE mqtt_job AS j SET {", ".join(f"{name} = c.{name}" for name in WRITTEN)},
    token = CASE WHEN c.finished_at IS NULL THEN COALESCE(c.token, j.token) ELSE '' END,
    token_at = COALESCE(c.token_at, j.token_at),
    report_pending = j.report_pending OR c.report
FROM (SELECT {_extract(("id", "seen_state", "seen_attempt", "seen_cancel", "report", "token", "token_at", *WRITTEN))}
    FROM json_each(?)) AS c
WHERE j.id = c.id AND +j.team_name = ? AND j.state = c.seen_state AND j.attempt = c.seen_attempt
    AND j.cancel_reason IS c.seen_cancel
RETURNING id
"""  # noqa: S608  names of columns, none of them anybody's words

_RECORD: Final = """
INSERT INTO mqtt_job_event (job_id, attempt, at, "by", event, "before", "after", reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_CHUNKS: Final = 'INSERT INTO mqtt_job_log (job_id, attempt, "offset", data) VALUES (?, ?, ?, ?)'
_OBSERVE: Final = f"""
INSERT INTO mqtt_worker (team_name, name, {", ".join(OBSERVED_COLUMNS)})
VALUES (:team, :name, {", ".join(f":{name}" for name in OBSERVED_COLUMNS)})
ON CONFLICT (team_name, name) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in OBSERVED_COLUMNS)}
"""  # noqa: S608
_POSITIONS: Final = "UPDATE mqtt_worker SET seq = ?, seen_at = ? WHERE team_name = ? AND name = ?"
_EXCUSE: Final = "UPDATE mqtt_worker SET seen_at = MIN(seen_at + ?, ?) WHERE team_name = ? AND seen_at > 0"
_FORGET: Final = "DELETE FROM mqtt_worker WHERE team_name = ? AND name = ?"
_FOLLOWED: Final = """
UPDATE mqtt_worker SET desired = ?, revision = revision + 1, news = 1 WHERE team_name = ? AND name = ? AND revision = ?
"""
_ACCESS: Final = "SELECT document, revision FROM mqtt_access WHERE team_name = ?"
_NEWS: Final = f"""
UPDATE mqtt_job SET news = 0 WHERE id IN (
    SELECT id FROM mqtt_job WHERE team_name = ? AND {_NEWS_HOLDS} LIMIT {NEWS_LIMIT})
RETURNING {JOB_LIST}
"""  # noqa: S608
_WORKER_NEWS: Final = f"""
UPDATE mqtt_worker SET news = 0 WHERE team_name = ? AND name IN (
    SELECT name FROM mqtt_worker WHERE team_name = ? AND news = 1 LIMIT {NEWS_LIMIT})
RETURNING {_WORKERS}, removal
"""  # noqa: S608
_HAS_NEWS: Final = f"""
SELECT EXISTS (SELECT 1 FROM mqtt_job WHERE team_name = ? AND {_NEWS_HOLDS})
    OR EXISTS (SELECT 1 FROM mqtt_worker WHERE team_name = ? AND news = 1),
    COALESCE((SELECT revision FROM mqtt_access WHERE team_name = ?), 0) <> ?
"""  # noqa: S608
_WAITING: Final = f"""
SELECT {", ".join(WAITING_COLUMNS)} FROM mqtt_job
WHERE team_name = ? AND finished_at IS NULL AND state = 'queued' AND cancel_reason IS NULL
"""  # noqa: S608
_LIVING: Final = f"""
SELECT {JOB_LIST} FROM mqtt_job
WHERE team_name = ? AND finished_at IS NULL AND NOT (state = 'queued' AND cancel_reason IS NULL)
"""  # noqa: S608
_FLEET: Final = f"SELECT {_WORKERS}, removal FROM mqtt_worker WHERE team_name = ?"  # noqa: S608
#: With a plus, a column is sought in no index: SQLite would take one that begins with the team, and read all history.
#: https://www.sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_
_BY_ID: Final = (
    f"SELECT {JOB_LIST}, workload FROM mqtt_job WHERE +team_name = ? AND id IN (SELECT value FROM json_each(?))"  # noqa: S608
)


class SqliteLedger:
    """`Ledger` of the bridge that leads with `epoch`, for one team, over the file at `path`."""

    def __init__(self, path: str, team_name: str, epoch: int, *, renewed: Callable[[], None]) -> None:
        """`renewed` is called, in the ledger's thread, when a batch has renewed the lease."""
        self._path = path
        self._team = team_name
        self._epoch = epoch
        self._renewed = renewed
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._allowed = 0  # the revision of `mqtt_access` that was read last
        self.statements = 0

    async def snapshot(self) -> Snapshot:
        snapshot = await self._run(self._snapshot)
        self._allowed = snapshot.access.revision
        return snapshot

    async def commit(self, writes: Writes) -> Committed | Conflict:
        return await self._run(lambda connection: self._commit(connection, writes))

    async def news(self) -> News:
        """As `Ledger.news`. The lock of all writers is taken only when there are any."""
        has_news, is_changed = await self._in_thread(self._has_news)
        if not has_news and not is_changed:
            return News([], [], frozenset(), more=False)
        news = await self._run(lambda connection: self._news(connection, is_changed=is_changed))
        if news.access is not None:
            self._allowed = news.access.revision
        return news

    async def changed(self) -> bool:
        """Whether somebody else has committed since this was asked last. It costs some microseconds.

        https://www.sqlite.org/pragma.html#pragma_data_version: the commits of this very connection do not count.
        """
        return await self._in_thread(self._look)

    async def jobs(self, ids: Collection[str]) -> list[Job]:
        return await self._run(lambda connection: understood(Job.of, self._by_id(connection, ids)))

    async def workloads(self, ids: Collection[str]) -> dict[str, str]:
        return await self._run(lambda connection: {row[0]: row[-1] for row in self._by_id(connection, ids)})

    async def close(self) -> None:
        """Close once what runs has ended; the thread must not outlive the loop that waits for it."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with self._transaction() as connection:
                return work(connection)

        return await self._in_thread(run)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- in the thread ------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(
                sqlite_uri(self._path), uri=True, timeout=SQLITE_BUSY, isolation_level=None, check_same_thread=False
            )
        return self._connection

    def _look(self) -> bool:
        (version,) = self._connected().execute("PRAGMA data_version").fetchone()
        changed: bool = version != self._version
        self._version = version
        return changed

    def _has_news(self) -> tuple[bool, bool]:
        """Whether somebody has written jobs or workers, and whether something else is allowed."""
        found = self._connected().execute(_HAS_NEWS, (self._team, self._team, self._team, self._allowed)).fetchone()
        return bool(found[0]), bool(found[1])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._execute(connection, _FENCE, (self._team, self._epoch)).rowcount != 1:
                raise DeposedError(f"the lease is another's, this bridge held epoch {self._epoch}")
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")
                self._renewed()
        except BaseException as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            known = isinstance(error, (sqlite3.Error, AirflowMqttError, OSError)) or is_unfit(error)
            if known or not isinstance(error, Exception):
                raise
            raise ConnectionError(f"{type(error).__name__}: {error}") from error  # no message is to blame: it may pass

    def _snapshot(self, connection: sqlite3.Connection) -> Snapshot:
        waiting = understood(Waiting.read, self._execute(connection, _WAITING, (self._team,)))
        jobs = understood(Job.of, self._execute(connection, _LIVING, (self._team,)))
        workers, removals = _fleet(self._execute(connection, _FLEET, (self._team,)).fetchall())
        return Snapshot(waiting, jobs, workers, removals, self._access(connection))

    def _commit(self, connection: sqlite3.Connection, writes: Writes) -> Committed | Conflict:
        if writes.excused:
            self._execute(connection, _EXCUSE, (writes.excused, writes.now, self._team))
        if writes.changes:
            document = _json([change.row() for change in writes.changes])
            written = {row[0] for row in self._execute(connection, _CHANGE, (document, self._team)).fetchall()}
            if len(written) < len(writes.changes):
                connection.execute("ROLLBACK")
                return Conflict(frozenset({change.id for change in writes.changes} - written))
        self._add(connection, writes)
        given = [c.id for c in writes.changes if (c.seen.state, c.fields["state"]) == ("queued", "dispatched")]
        rows = self._by_id(connection, given) if given else []
        return Committed({row[0]: (Job.of(row), row[-1]) for row in rows})

    def _add(self, connection: sqlite3.Connection, writes: Writes) -> None:
        for statement, rows in (
            (
                _RECORD,
                [(t.job_id, t.attempt, t.at, t.by, t.event, t.before, t.after, t.reason) for t in writes.transitions],
            ),
            (_CHUNKS, [(chunk.job_id, chunk.attempt, chunk.offset, chunk.data) for chunk in writes.chunks]),
            (_OBSERVE, [{"team": self._team, "name": w.name, **w.observed_columns()} for w in writes.workers]),
            (_POSITIONS, [(seq, at, self._team, name) for name, (seq, at) in writes.positions.items()]),
            (
                _FOLLOWED,
                [
                    (desired.render(desired.end_shutdown(before)), self._team, name, before.revision)
                    for name, before in writes.followed.items()
                ],
            ),
            (_FORGET, [(self._team, name) for name in writes.forgotten]),
        ):
            if rows:
                self.statements += 1
                connection.executemany(statement, rows)

    def _news(self, connection: sqlite3.Connection, *, is_changed: bool) -> News:
        rows = self._execute(connection, _NEWS, (self._team,)).fetchall()
        workers, removals = _fleet(self._execute(connection, _WORKER_NEWS, (self._team, self._team)).fetchall())
        access = self._access(connection) if is_changed else None
        return News(understood(Job.of, rows), workers, removals, len(rows) == NEWS_LIMIT, access)

    def _access(self, connection: sqlite3.Connection) -> Access:
        return access_of(self._execute(connection, _ACCESS, (self._team,)).fetchall())

    def _by_id(self, connection: sqlite3.Connection, ids: Collection[str]) -> list[Any]:
        return self._execute(connection, _BY_ID, (self._team, _json(list(ids)))).fetchall()

    def _execute(self, connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        self.statements += 1
        return connection.execute(statement, values)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise UnfitError(str(error)) from None


def _fleet(rows: list[Any]) -> tuple[list[Worker], frozenset[str]]:
    workers = understood(lambda row: Worker.of(row[:-1]), rows)
    return workers, frozenset(row[0] for row in rows if row[-1])
