"""How the leader's statements find their rows: a long history costs none of them anything."""

import asyncio

import orjson
import pytest
import sqlalchemy as sa

import ledger_site
import plans
from airflow_mqtt.database import postgres, sqlite, tables
from airflow_mqtt.database.ledger import Chunk, Committed, Writes
from airflow_mqtt.protocol.jobs import JobEvent
from airflow_mqtt.protocol.messages import Desired
from bridge_samples import NOW, worker
from ledger_site import change_of, record_of
from schema import engine_of, upgrade

#: Jobs that ended long ago. Some must be there, or a database reads all of a small table.
HISTORY = 3000


def as_migrated(url):
    """Between indexes that are as good, SQLite takes the one that came last."""
    made = engine_of(url)
    upgrade(made)
    return made


@pytest.fixture
async def site(database_url, monkeypatch):
    monkeypatch.setattr(ledger_site, "with_tables", as_migrated)
    made = await asyncio.to_thread(ledger_site.Site, database_url)
    yield made
    await made.ledger.close()
    made.others.dispose()


def make_history(site, jobs=HISTORY, *, analyzed=True):
    site.add("old", "succeeded", finished_at=NOW, log_bytes=1)
    columns = [column.name for column in tables.job.c if column.name != "id"]
    numbers = "generate_series(1, :n) AS s(n)" if site.url.startswith("postgres") else (
        "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :n) SELECT n FROM s)"
    )  # fmt: skip
    names = ", ".join(columns)
    copies = f"INSERT INTO mqtt_job (id, {names}) SELECT 'old-' || n, {names} FROM mqtt_job, {numbers}"
    site.do(sa.text(copies).bindparams(n=jobs))
    if analyzed and site.url.startswith("postgres"):  # autovacuum does that; nobody does it in a file of SQLite
        with site.others.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


class Explained:
    """Explains each statement of a ledger before it is executed, and notes those that read half of the jobs or more."""

    def __init__(self, monkeypatch, jobs=HISTORY):
        self.half = jobs / 2
        self.seen, self.whole = [], []
        for ledger, name in (
            (postgres.PostgresLedger, "_fetch"), (postgres.PostgresLedger, "_execute"), (sqlite.SqliteLedger, "_execute")
        ):  # fmt: skip
            real = getattr(ledger, name)
            explain = self.in_sqlite if ledger is sqlite.SqliteLedger else self.in_postgres
            monkeypatch.setattr(ledger, name, explain(real))

    def in_postgres(self, real):
        async def explained(ledger, connection, statement, *values):
            await connection.execute("SAVEPOINT plan")
            ((plan,),) = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
            await connection.execute("ROLLBACK TO plan")
            self.note(statement, plan, [read >= self.half for _, read in plans._reads(orjson.loads(plan)[0]["Plan"])])
            return await real(ledger, connection, statement, *values)

        return explained

    def in_sqlite(self, real):
        def explained(ledger, connection, statement, values):
            lines = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            self.note(statement, lines, [plans._is_whole(line) for line in lines])
            return real(ledger, connection, statement, values)

        return explained

    def note(self, statement, plan, whole):
        self.seen.append(statement)
        if any(whole):
            self.whole.append(f"{statement}\n{plan}")


async def test_the_leader_reads_nothing_of_what_has_ended(site, monkeypatch):
    await asyncio.to_thread(make_history, site)
    for number in range(3):
        site.add(f"waits-{number}", news=True)
        site.add(f"held-{number}", "accepted")
    explained = Explained(monkeypatch)
    assert len((await site.ledger.snapshot()).jobs) == 3
    assert len((await site.ledger.news()).jobs) == 3
    ids = [f"{name}-{number}" for name in ("waits", "held") for number in range(3)]
    jobs = await site.ledger.jobs(ids)
    assert len(await site.ledger.workloads(ids)) == 6
    writes = Writes(
        [change_of(job, JobEvent.DISPATCH if job.state == "queued" else JobEvent.START, worker="w") for job in jobs],
        list(map(record_of, jobs)), workers=[worker(name="new")], positions={"known": (7, NOW)},
        chunks=[Chunk("held-0", 1, 0, b"log")], forgotten=["gone"], followed={"edge": Desired(revision=1)}, excused=1.0,
        now=NOW,
    )  # fmt: skip
    assert isinstance(await site.ledger.commit(writes), Committed)
    assert len(set(explained.seen)) >= 10
    assert explained.whole == [], "\n".join(explained.whole)


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("jobs", [100, 500])
async def test_a_batch_does_not_read_all_jobs_of_a_table_that_is_small(site, monkeypatch, jobs, analyzed):
    """There are many batches, and each job is in some of them: what each reads of the others is jobs times jobs."""
    await asyncio.to_thread(make_history, site, jobs, analyzed=analyzed)
    for number in range(3):
        site.add(f"held-{number}", "accepted")
    explained = Explained(monkeypatch, jobs)
    held = await site.ledger.jobs([f"held-{number}" for number in range(3)])
    explained.whole.clear()
    writes = Writes([change_of(job, JobEvent.START) for job in held], list(map(record_of, held)), now=NOW)
    assert isinstance(await site.ledger.commit(writes), Committed)
    assert explained.whole == [], "\n".join(explained.whole)
