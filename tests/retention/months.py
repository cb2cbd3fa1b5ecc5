"""A database that lives through days: each brings jobs, and the bridge's `Retention` takes old ones away.

Rows are made by the database itself, as a job leaves them: 1.6 KB of workload and token, five events, a log in two
chunks, and an update of the row for each of its transitions, since these are what makes PostgreSQL's tables grow.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from airflow_mqtt.bridge import lease
from airflow_mqtt.bridge.upkeep.retention import IDLE_PAUSE, Retention
from airflow_mqtt.database.engine import Database, make_engine
from schema import upgrade

DAY = 86400.0
START = 1.8e9

TABLES = ("mqtt_job", "mqtt_job_event", "mqtt_job_log")

#: What each database calls things.
SERIES = {
    "postgresql": "SELECT i FROM generate_series(1, :count) AS i",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) SELECT i FROM n",
}
NEW_ID = {"postgresql": "gen_random_uuid()::text", "sqlite": "lower(hex(randomblob(16)))"}
TEXT = {
    "postgresql": "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, {blocks}) WHERE i >= 0)",
    "sqlite": "hex(randomblob({blocks} * 16 + i * 0))",
}
BYTES = {"postgresql": "convert_to({text}, 'UTF8')", "sqlite": "CAST({text} AS BLOB)"}

STEPS = (
    ("dispatched", "worker = 'edge-' || (priority % 50), dispatched_at = queued_at + 1, published_at = queued_at + 1"),
    ("accepted", "accepted_at = queued_at + 2"),
    ("running", "started_at = queued_at + 3, running_since = queued_at + 3, report_pending = :yes"),
    ("running", "report_pending = :no"),
    ("running", "log_bytes = 1024"),
    ("succeeded", "finished_at = queued_at + 60, report_pending = :yes, final_state = 'success', exit_code = 0"),
    ("succeeded", "report_pending = :no"),
)


@dataclass(frozen=True)
class Size:
    """What the three tables take. `held` is what the file or files take on the disk, in bytes."""

    rows: dict[str, int]
    table_bytes: int
    index_bytes: int
    held: int


class Site:
    """Our tables in one database."""

    def __init__(self, url: str, *, retention: float) -> None:
        self.url, self.retention = url, retention
        self.engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
        upgrade(self.engine)  # of two indexes that seem equal, SQLite takes the one that was made last
        self.dialect = self.engine.dialect.name

    # --- a day's work

    def work(self, day: int, jobs: int) -> None:
        """Let `jobs` jobs come and end during `day`."""
        begin = START + day * DAY
        with self.engine.begin() as connection:
            connection.execute(sa.text(self._insert_jobs()), {"count": jobs, "begin": begin, "step": DAY / jobs})
        for state, change in STEPS:
            with self.engine.begin() as connection:
                values = {"state": state, "yes": True, "no": False, "begin": begin}
                wanted = {
                    name: value for name, value in values.items() if f":{name}" in change or name in ("state", "begin")
                }
                connection.execute(
                    sa.text(f"UPDATE mqtt_job SET state = :state, {change} WHERE queued_at >= :begin"), wanted
                )
        with self.engine.begin() as connection:
            connection.execute(sa.text(EVENTS), {"begin": begin})
            connection.execute(sa.text(self._insert_logs()), {"begin": begin})

    def _insert_jobs(self) -> str:
        text = TEXT[self.dialect]
        return (
            "INSERT INTO mqtt_job (id, kind, workload_type, workload, token, token_at, queue, priority, slots, state,"
            " attempt, subject, dag_id, run_id, task_id, map_index, try_number, log_path, owner, report_pending, queued_at)"
            f" SELECT {NEW_ID[self.dialect]}, 'airflow', 'ExecuteTask', {text.format(blocks=30)}, {text.format(blocks=20)},"
            " :begin, 'queue-' || (i % 5), i % 50, 1, 'queued', 1,"
            f" {NEW_ID[self.dialect]}, 'dag-' || (i % 100), 'run-' || :begin, 'task-' || i, -1, 1,"
            " 'dag_id=dag/run_id=run-' || :begin || '/task_id=task-' || i || '/attempt=1.log',"
            " '1', false, :begin + (i - 1) * :step"
            f" FROM ({SERIES[self.dialect]}) AS numbers"
        )

    def _insert_logs(self) -> str:
        data = BYTES[self.dialect].format(text=TEXT[self.dialect].format(blocks=16).replace("i ", "priority "))
        chunks = " UNION ALL ".join(f"SELECT {offset} AS start" for offset in (0, 512))
        return (
            'INSERT INTO mqtt_job_log (job_id, attempt, "offset", data)'
            f" SELECT id, 1, start, {data} FROM mqtt_job CROSS JOIN ({chunks}) AS chunks WHERE queued_at >= :begin"
        )

    def forget(self, now: float) -> int:
        """Run the retention of a leading bridge until it pauses; return how many transactions that took."""
        return asyncio.run(self._forget(now))

    async def _forget(self, now: float) -> int:
        engine = make_engine(self.url)
        try:
            database = Database(engine, "")
            held = await lease.take(database, await lease.read(database), "test", "here")
            assert held is not None
            database.epoch = held.epoch
            retention = Retention(database, self.retention)
            steps = 0
            while retention.pause < IDLE_PAUSE:
                await retention.step(now)
                steps += 1
            return steps
        finally:
            await engine.dispose()

    def vacuum(self) -> int:
        """Do what autovacuum with its defaults would have done in the meantime; return how many tables it took.

        `autovacuum_vacuum_threshold` 50, `autovacuum_vacuum_scale_factor` 0.2. SQLite reuses free pages by itself.
        """
        if self.dialect != "postgresql":
            return 0
        due = sa.text(
            "SELECT pg_class.relname FROM pg_stat_user_tables JOIN pg_class ON pg_class.oid = relid"
            " WHERE n_dead_tup > 50 + 0.2 * greatest(reltuples, 0) AND left(pg_class.relname, 4) = 'mqtt'"
        )
        self.engine.dispose()  # a session's figures of dead rows are published when it ends
        others = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while connection.scalar(others):  # it is on its way out
                time.sleep(0.01)
            names = list(connection.execute(due).scalars())
            for name in names:
                connection.execute(sa.text(f"VACUUM ANALYZE {name}"))
        return len(names)

    # --- figures

    def rows(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {name: connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES}

    def size(self) -> Size:
        with self.engine.connect() as connection:
            if self.dialect == "postgresql":
                table, index = (
                    connection.scalar(
                        sa.text(f"SELECT sum({of}(name::regclass)) FROM unnest(:names) AS name"),
                        {"names": list(TABLES)},
                    )
                    for of in ("pg_table_size", "pg_indexes_size")
                )
                return Size(self.rows(), int(table), int(index), int(table + index))
            query = "SELECT sum(s.pgsize) FROM dbstat AS s JOIN sqlite_master AS m ON m.name = s.name WHERE m.type = :type AND s.aggregate = 1"
            table, index = (connection.scalar(sa.text(query), {"type": kind}) or 0 for kind in ("table", "index"))
            pages, of = (connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
            return Size(self.rows(), table, index, pages * of)

    def close(self) -> None:
        self.engine.dispose()


EVENTS = (
    'INSERT INTO mqtt_job_event (job_id, attempt, at, "by", event, before, after, reason)'
    " SELECT id, 1, queued_at, 'bridge:here', step, 'queued', 'running', '' FROM mqtt_job CROSS JOIN ("
    + " UNION ALL ".join(f"SELECT '{name}' AS step" for name in ("queue", "dispatch", "accept", "start", "succeed"))
    + ") AS steps WHERE queued_at >= :begin"
)


@contextmanager
def site(url: str, *, retention: float) -> Iterator[Site]:
    made = Site(url, retention=retention)
    try:
        yield made
    finally:
        made.close()
