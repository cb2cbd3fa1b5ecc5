"""`Ledger` over PostgreSQL: asyncpg, one connection, each statement planned once (behind a pooler: each time).

A batch never waits for a row that somebody else holds (`SKIP LOCKED`): a scheduler may hold some for seconds, in an
order of its own, and all devices would wait with it, or the two for each other. Such a job is a `Conflict`.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import orjson

from airflow_mqtt.database import desired, tables
from airflow_mqtt.database.connections import Session, connect_by_url, session_settings
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
from airflow_mqtt.database.records import JOB_COLUMNS, WORKER_COLUMNS, Job, Worker, understood
from airflow_mqtt.protocol.errors import AirflowMqttError

_JOBS: Final = ", ".join(f"j.{name}" for name in JOB_COLUMNS)
_WORKERS: Final = ", ".join(WORKER_COLUMNS)
_OBSERVED: Final = ", ".join(OBSERVED_COLUMNS)

#: And whether something else is allowed than before: looked up by its key, in the statement that each batch makes.
_FENCE: Final = """
SELECT epoch, COALESCE((SELECT a.revision FROM mqtt_access a WHERE a.team_name = $1), 0)
FROM mqtt_bridge WHERE team_name = $1 FOR KEY SHARE
"""

#: Whoever is dispatched comes back with all that a message to its worker needs; of the others the id says it all.
#: Their history goes with them: where a row is not as it was seen, all of the batch is rolled back.
#: PostgreSQL takes what a document has for a hundred rows. While there are not very many jobs it would rather read all
#: of them than look up a hundred, in each batch. Of a column that is compared with an expression it takes one in 200 to
#: fit, so it looks them up. As an expression, the team is sought in no index: to one who knows nothing of a table yet,
#: an index that begins with the team is as good as that of the ids, and would read all jobs of the team for each.
_CHANGE: Final = f"""
WITH c AS MATERIALIZED (
    SELECT * FROM json_to_recordset($2::json) AS c(
        id text, seen_state text, seen_attempt integer, seen_cancel text, report boolean, token text,
        token_at double precision, {", ".join(f"{name} {kind}" for name, kind in WRITTEN.items())})
    WHERE c.seen_attempt = c.seen_attempt + 0
), unchanged AS MATERIALIZED (
    SELECT j.id FROM c JOIN mqtt_job j ON j.id = c.id
    WHERE j.team_name || '' = $1 AND j.state = c.seen_state AND j.attempt = c.seen_attempt
        AND j.cancel_reason IS NOT DISTINCT FROM c.seen_cancel
    FOR UPDATE OF j SKIP LOCKED
), recorded AS (
    INSERT INTO mqtt_job_event (job_id, attempt, at, "by", event, "before", "after", reason)
    SELECT job_id, attempt, at, "by", event, "before", "after", reason FROM json_to_recordset($3::json) AS e(
        job_id text, attempt integer, at double precision, "by" text, event text, "before" text, "after" text,
        reason text)
)
UPDATE mqtt_job j SET {", ".join(f"{name} = c.{name}" for name in WRITTEN)},
    token = CASE WHEN c.finished_at IS NULL THEN COALESCE(c.token, j.token) ELSE '' END,
    token_at = COALESCE(c.token_at, j.token_at),
    report_pending = j.report_pending OR c.report
FROM c JOIN unchanged ON unchanged.id = c.id
WHERE j.id = c.id
RETURNING {_JOBS}, CASE WHEN c.seen_state = 'queued' AND c.state = 'dispatched' THEN j.workload END
"""  # noqa: S608  names of columns, none of them anybody's words

_CHUNKS: Final = """
INSERT INTO mqtt_job_log (job_id, attempt, "offset", data)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bytea[])
"""

#: Rows of workers are locked in the order in which operators write them, that of Python: see `acts.on_workers`.
_IN_ORDER: Final = 'ORDER BY name COLLATE "C" FOR NO KEY UPDATE'

_HOLD: Final = f"SELECT FROM mqtt_worker WHERE team_name = $1 AND name = ANY($2::text[]) {_IN_ORDER}"
_HOLD_ALL: Final = f"SELECT FROM mqtt_worker WHERE team_name = $1 {_IN_ORDER}"

#: Workers that are written whole ($2), and positions of others ($3 to $5); $6 are the names of all.
_OBSERVE: Final = f"""
WITH held AS MATERIALIZED (
    SELECT name FROM mqtt_worker WHERE team_name = $1 AND name = ANY($6::text[]) {_IN_ORDER}
), moved AS (
    UPDATE mqtt_worker w SET seq = p.seq, seen_at = p.seen_at
    FROM unnest($3::text[], $4::bigint[], $5::double precision[]) AS p(name, seq, seen_at) JOIN held USING (name)
    WHERE w.team_name = $1 AND w.name = p.name
)
INSERT INTO mqtt_worker (team_name, name, {_OBSERVED})
SELECT $1, name, {_OBSERVED} FROM json_to_recordset($2::json) AS w(
    name text, state text, status text, info text, instance text, connection bigint, seen_at double precision,
    journal text, past_journals text, seq bigint, birth bigint, clock_offset double precision, note text)
WHERE (SELECT count(*) FROM held) >= 0
ORDER BY name COLLATE "C"
ON CONFLICT (team_name, name) DO UPDATE SET {", ".join(f"{name} = EXCLUDED.{name}" for name in OBSERVED_COLUMNS)}
"""  # noqa: S608

_EXCUSE: Final = """
UPDATE mqtt_worker SET seen_at = LEAST(seen_at + $2, $3) WHERE team_name = $1 AND seen_at > 0
"""

_FORGET: Final = "DELETE FROM mqtt_worker WHERE team_name = $1 AND name = ANY($2::text[])"

_FOLLOWED: Final = """
UPDATE mqtt_worker w SET desired = f.desired, revision = f.revision + 1, news = true
FROM unnest($2::text[], $3::text[], $4::integer[]) AS f(name, desired, revision)
WHERE w.team_name = $1 AND w.name = f.name AND w.revision = f.revision
"""

_ACCESS: Final = "SELECT document, revision FROM mqtt_access WHERE team_name = $1"

_NEWS: Final = f"""
UPDATE mqtt_job j SET news = false WHERE id IN (
    SELECT id FROM mqtt_job WHERE team_name = $1 AND {tables.NEWS} LIMIT {NEWS_LIMIT} FOR UPDATE SKIP LOCKED)
RETURNING {_JOBS}
"""  # noqa: S608

_WORKER_NEWS: Final = f"""
UPDATE mqtt_worker SET news = false WHERE team_name = $1 AND name IN (
    SELECT name FROM mqtt_worker WHERE team_name = $1 AND news LIMIT {NEWS_LIMIT} FOR UPDATE SKIP LOCKED)
RETURNING {_WORKERS}, removal
"""  # noqa: S608

_WAITING: Final = f"""
SELECT {", ".join(WAITING_COLUMNS)} FROM mqtt_job
WHERE team_name = $1 AND {tables.LIVES} AND state = 'queued' AND cancel_reason IS NULL
"""  # noqa: S608

_LIVING: Final = f"""
SELECT {JOB_LIST} FROM mqtt_job
WHERE team_name = $1 AND {tables.LIVES} AND NOT (state = 'queued' AND cancel_reason IS NULL)
"""  # noqa: S608

_FLEET: Final = f"SELECT {_WORKERS}, removal FROM mqtt_worker WHERE team_name = $1"  # noqa: S608
_BY_ID: Final = f"SELECT {JOB_LIST} FROM mqtt_job WHERE team_name = $1 AND id = ANY($2::text[])"  # noqa: S608
_WORKLOADS: Final = "SELECT id, workload FROM mqtt_job WHERE team_name = $1 AND id = ANY($2::text[])"


class PostgresLedger:
    """`Ledger` of bridge `instance`, which leads with `epoch`, for one team."""

    def __init__(self, url: str, team_name: str, epoch: int, *, instance: str, idle_limit: float) -> None:
        self._url = url
        self._team = team_name
        self._epoch = epoch
        self._settings = session_settings(instance, idle_limit)
        self._connection: Session | None = None
        self._lock = asyncio.Lock()
        self._allowed = 0  # the revision of `mqtt_access` that was read last, and the one that is there
        self._allowed_now = 0
        #: Statements that were executed since the start, those that begin and end a transaction left out.
        self.statements = 0

    async def snapshot(self) -> Snapshot:
        """Read the living. Others make new rows meanwhile, which are news, and move none that a worker holds."""
        async with self._transaction() as connection:
            waiting = understood(Waiting.read, await self._fetch(connection, _WAITING, self._team))
            jobs = understood(Job.of, await self._fetch(connection, _LIVING, self._team))
            workers, removals = _fleet(await self._fetch(connection, _FLEET, self._team))
            access = access_of(await self._fetch(connection, _ACCESS, self._team))
        self._allowed = access.revision
        return Snapshot(waiting, jobs, workers, removals, access)

    async def commit(self, writes: Writes) -> Committed | Conflict:
        async with self._transaction() as connection:
            dispatched: dict[str, tuple[Job, str]] = {}
            await self._hold(connection, writes)
            if writes.excused:
                await self._execute(connection, _EXCUSE, self._team, writes.excused, writes.now)
            if writes.changes or writes.transitions:
                changes, events = _json([c.row() for c in writes.changes]), _json(writes.transitions)
                rows = await self._fetch(connection, _CHANGE, self._team, changes, events)
                if len(rows) < len(writes.changes):
                    missing = {change.id for change in writes.changes} - {row[0] for row in rows}
                    await connection.execute("ROLLBACK")
                    return Conflict(frozenset(missing))
                dispatched = {row[0]: (Job.of(row), row[-1]) for row in rows if row[-1] is not None}
            await self._add(connection, writes)
        return Committed(dispatched)

    async def _hold(self, connection: Session, writes: Writes) -> None:
        """Lock the rows of workers that more than one statement writes, in an order that everybody keeps to."""
        if writes.excused:
            await self._execute(connection, _HOLD_ALL, self._team)
        elif writes.forgotten or writes.followed:
            names = [*writes.forgotten, *writes.followed, *writes.positions, *(one.name for one in writes.workers)]
            await self._execute(connection, _HOLD, self._team, names)

    async def _add(self, connection: Session, writes: Writes) -> None:
        if writes.chunks:
            columns = zip(*((c.job_id, c.attempt, c.offset, c.data) for c in writes.chunks), strict=True)
            await self._execute(connection, _CHUNKS, *map(list, columns))
        if writes.workers or writes.positions:
            whole = [{"name": worker.name, **worker.observed_columns()} for worker in writes.workers]
            seqs = [seq for seq, _ in writes.positions.values()]
            seen = [at for _, at in writes.positions.values()]
            names = list(writes.positions)
            held = names + [worker.name for worker in writes.workers]
            await self._execute(connection, _OBSERVE, self._team, _json(whole), names, seqs, seen, held)
        if writes.followed:
            after = [desired.render(desired.end_shutdown(before)) for before in writes.followed.values()]
            revisions = [before.revision for before in writes.followed.values()]
            await self._execute(connection, _FOLLOWED, self._team, list(writes.followed), after, revisions)
        if writes.forgotten:
            await self._execute(connection, _FORGET, self._team, writes.forgotten)

    async def news(self) -> News:
        """Read what others wrote, and take the mark from it, in one step: what is written after it is marked again."""
        async with self._transaction() as connection:
            rows = await self._fetch(connection, _NEWS, self._team)
            workers, removals = _fleet(await self._fetch(connection, _WORKER_NEWS, self._team))
            access = None
            if self._allowed_now != self._allowed:
                access = access_of(await self._fetch(connection, _ACCESS, self._team))
        if access is not None:
            self._allowed = access.revision
        return News(understood(Job.of, rows), workers, removals, len(rows) == NEWS_LIMIT, access)

    async def jobs(self, ids: Collection[str]) -> list[Job]:
        async with self._transaction() as connection:
            return understood(Job.of, await self._fetch(connection, _BY_ID, self._team, list(ids)))

    async def workloads(self, ids: Collection[str]) -> dict[str, str]:
        async with self._transaction() as connection:
            return dict(await self._fetch(connection, _WORKLOADS, self._team, list(ids)))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Session]:
        """A transaction under the lease's epoch. A connection that something went wrong with is not used again.

        The lock on the lease's row is the weakest there is, `FOR KEY SHARE`: only `lease.take` waits for it, and it
        keeps no renewal waiting.
        """
        async with self._lock:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = await connect_by_url(self._url, settings=self._settings)
            self._connection = None
            try:
                await connection.execute(connection.begin)
                rows = await self._fetch(connection, _FENCE, self._team)
                if not rows or rows[0][0] != self._epoch:
                    raise DeposedError(
                        f"the lease has epoch {rows[0][0] if rows else 0}, this bridge held {self._epoch}"
                    )
                self._allowed_now = rows[0][1]
                yield connection
                if connection.is_in_transaction():
                    await connection.execute("COMMIT")
            except Exception as error:
                connection.terminate()
                if isinstance(error, asyncpg.PostgresError):  # a whole row may stand there, with its token
                    error.detail = error.context = None
                if isinstance(error, (asyncpg.PostgresError, AirflowMqttError, OSError)) or is_unfit(error):
                    raise
                # Of a kind that nobody knows. It is the driver's or ours, and no message is to blame: it may pass.
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection

    async def _fetch(self, connection: Session, statement: str, *values: Any) -> list[Any]:
        self.statements += 1
        rows: list[Any] = await connection.fetch(statement, *values)
        return rows

    async def _execute(self, connection: Session, statement: str, *values: Any) -> None:
        self.statements += 1
        await connection.execute(statement, *values)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise UnfitError(str(error)) from None


def _fleet(rows: list[Any]) -> tuple[list[Worker], frozenset[str]]:
    workers = understood(lambda row: Worker.of(row[:-1]), [tuple(row) for row in rows])
    return workers, frozenset(row[0] for row in rows if row[-1])
