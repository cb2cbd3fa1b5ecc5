"""Retention on each database: what goes, what stays, and that sizes and query plans do not grow with history.

`python -m retention` in `tests/` is the same at full size: 300,000 jobs.
"""

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import plans as plans_module
from airflow_mqtt.bridge.upkeep.retention import BUSY_PAUSE, IDLE_PAUSE, Retention
from airflow_mqtt.database import sqlite, tables, transitions
from airflow_mqtt.database.engine import Database, make_engine
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.ledger import Change, Chunk, Seen, Transition, Writes, fields_of
from airflow_mqtt.database.retention import BATCH, UNHEARD, old_acts
from airflow_mqtt.protocol.jobs import JobEvent
from bridge_samples import worker
from ledger_site import new_ledger
from plans import Plans
from retention.months import DAY, START, Site

KEEP = 3 * DAY
NOW = START + 100 * DAY


@pytest.fixture
def site(database_url: str) -> Iterator[Site]:
    made = Site(database_url, retention=KEEP)
    yield made
    made.close()


def add(
    site: Site, id_: str, *, state: str = "succeeded", ended: float | None = NOW - 4 * DAY, **values: object
) -> None:
    """Commit a job with one event and two chunks of log, one of them a triggerer's."""
    row = {
        "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t", "token_at": 0.0,
        "queue": "default", "priority": 1, "slots": 1, "subject": id_, "owner": "1",
    }  # fmt: skip
    team = {"team_name": values.pop("team_name")} if "team_name" in values else {}
    with site.engine.begin() as connection:
        for statement in transitions.creation({**row, **team}, now=NOW - 5 * DAY, by="test"):
            connection.execute(statement)
        connection.execute(
            sa.update(tables.job).where(tables.job.c.id == id_).values(state=state, finished_at=ended, **values)
        )
        add_logs(connection, id_, 1, -7)


def add_logs(connection: sa.Connection, id_: str, *attempts: int) -> None:
    for attempt in attempts:
        row = {"job_id": id_, "attempt": attempt, "offset": 0, "data": b"x"}
        connection.execute(sa.insert(tables.job_log).values(**row))


def owners(site: Site) -> list[set[str]]:
    """Of which jobs there are jobs, events and logs."""
    columns = (tables.job.c.id, tables.job_event.c.job_id, tables.job_log.c.job_id)
    with site.engine.connect() as connection:
        return [set(connection.execute(sa.select(column)).scalars()) for column in columns]


def test_what_ended_long_ago_goes_with_all_that_belongs_to_it(site: Site) -> None:
    add(site, "old")
    add(site, "lost", state="lost")
    add(site, "new", ended=NOW - 2 * DAY)
    add(site, "running", state="running", ended=None)
    site.forget(NOW)
    assert owners(site) == [{"new", "running"}] * 3


def test_an_end_that_nobody_heard_stays_longer(site: Site) -> None:
    add(site, "unheard", report_pending=True)
    add(site, "forlorn", ended=NOW - UNHEARD - 1, report_pending=True)
    site.forget(NOW)
    assert owners(site) == [{"unheard"}] * 3


def test_another_teams_jobs_are_that_teams_business(site: Site) -> None:
    add(site, "theirs", team_name="b")
    site.forget(NOW)
    assert owners(site) == [{"theirs"}] * 3


def test_for_ever(site: Site) -> None:
    site.retention = 0
    add(site, "old", ended=START)
    add_acts(site, START)
    site.forget(NOW)
    assert owners(site) == [{"old"}] * 3
    assert acts(site) == [START]


def add_acts(site: Site, *times: float, team_name: str = "") -> None:
    row = {"team_name": team_name, "by": "cli:anna", "act": "shutdown", "subject": "edge-1", "outcome": "wished"}
    with site.engine.begin() as connection:
        connection.execute(sa.insert(tables.act), [{**row, "at": at} for at in times])


def acts(site: Site, team_name: str = "") -> list[float]:
    """When people did what is still recorded."""
    with site.engine.connect() as connection:
        act = tables.act.c
        return list(connection.scalars(sa.select(act.at).where(act.team_name == team_name).order_by(act.at)))


def test_what_people_did_long_ago_goes_too(site: Site) -> None:
    young = [NOW - KEEP + 1, NOW]
    add_acts(site, *young, *([NOW - KEEP - 1] * (BATCH + 1)))
    add_acts(site, START, team_name="b")
    assert site.forget(NOW) == 2  # some at a time
    assert acts(site) == young
    assert acts(site, "b") == [START]


def test_it_is_found_by_its_age(site: Site) -> None:
    """However many acts there are, and without statistics, which nobody makes on SQLite."""
    add_acts(site, *([NOW] * 2000), START)
    statement = str(old_acts("", NOW - DAY).compile(site.engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if site.dialect == "sqlite" else "EXPLAIN"
    with site.engine.connect() as connection:
        if site.dialect == "postgresql":
            connection.exec_driver_sql("ANALYZE mqtt_act")
        plan = "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}"))
    assert "ix_mqtt_act_at" in plan


@pytest.mark.parametrize("retention", [KEEP, 0])
def test_what_belongs_to_no_job_goes_page_by_page(site: Site, monkeypatch, retention: float) -> None:
    monkeypatch.setattr("airflow_mqtt.bridge.upkeep.retention.ORPHAN_PAGE", 3)
    site.retention = retention
    for number in range(5):
        add(site, f"new-{number}", ended=NOW)
    with site.engine.begin() as connection:
        add_logs(connection, "Gone", -3)
        add_logs(connection, "new", -3)
        add_logs(connection, "zzz", 1)
        event_row = {"job_id": "a", "attempt": 1, "at": 0.0, "by": "x", "event": "queue", "after": "queued"}
        connection.execute(sa.insert(tables.job_event).values(**event_row))
    pages = asyncio.run(walk(site))
    assert pages == 4  # 9 ids, three a page, and one look beyond the last
    assert owners(site) == [{f"new-{number}" for number in range(5)}] * 3


async def walk(site: Site) -> int:
    """Run a leader's retention until it has looked at everything once; return its steps."""
    async with Leading(site) as database:
        retention = Retention(database, site.retention)
        for steps in range(1, 20):
            await retention.step(NOW)
            assert retention.pause == IDLE_PAUSE
            if not retention._orphans_after:
                return steps
    raise AssertionError("it does not come to an end")


class Leading:
    """A `Database` that holds the lease."""

    def __init__(self, site: Site) -> None:
        self.engine = make_engine(site.url)

    async def __aenter__(self) -> Database:
        async with self.engine.begin() as connection:
            await connection.execute(sa.delete(tables.bridge))
            await connection.execute(sa.insert(tables.bridge).values(epoch=3, beat=0, holder="me"))
        database = Database(self.engine, "")
        database.epoch = 3
        return database

    async def __aexit__(self, *_: object) -> None:
        await self.engine.dispose()


def test_a_deposed_bridge_deletes_nothing(site: Site) -> None:
    add(site, "old")

    async def step() -> None:
        async with Leading(site) as database:
            database.epoch = 2
            with pytest.raises(DeposedError):
                await Retention(database, KEEP).step(NOW)

    asyncio.run(step())
    assert owners(site) == [{"old"}] * 3


def test_it_goes_in_small_transactions(site: Site) -> None:
    site.work(0, BATCH * 2 + 1)

    async def steps() -> list[tuple[int, float]]:
        async with Leading(site) as database:
            retention = Retention(database, KEEP)
            seen = []
            for _ in range(3):
                await retention.step(NOW)
                seen.append((site.rows()["mqtt_job"], retention.pause))
            return seen

    assert asyncio.run(steps()) == [(BATCH + 1, BUSY_PAUSE), (1, BUSY_PAUSE), (0, IDLE_PAUSE)]


def test_a_log_that_is_being_appended_leaves_no_orphan(shared_postgres) -> None:
    """Who appends holds the job's row, as the leader's batch does: retention leaves that job for the next time."""
    site = Site(shared_postgres.new_database(), retention=KEEP)
    add(site, "old")
    add(site, "older", ended=NOW - 9 * DAY)

    async def race() -> None:
        async with Leading(site) as database:
            ledger = new_ledger(site.url)
            (job,) = await ledger.jobs(["old"])
            change = Change("old", Seen(job.state, job.attempt, None), fields_of(job))
            add_to = ledger._add

            async def pauses(connection, writes):
                await add_to(connection, writes)
                await asyncio.wait_for(Retention(database, KEEP).step(NOW), 60)

            ledger._add = pauses  # the batch has written, and not committed
            await ledger.commit(Writes([change], chunks=[Chunk("old", 1, 100, b"tail")]))
            await ledger.close()

    asyncio.run(race())
    assert owners(site) == [{"old"}] * 3
    site.forget(NOW)
    assert owners(site) == [set()] * 3
    site.close()


def test_days_go_by_and_the_tables_stay_as_they_are(site: Site) -> None:
    sizes = []
    for day in range(10):
        site.work(day, 400)
        site.forget(START + (day + 1) * DAY)
        site.vacuum()
        sizes.append(site.size())
    counts = {"mqtt_job": 1200, "mqtt_job_event": 6000, "mqtt_job_log": 2400}
    assert [size.rows for size in sizes[3:]] == [counts] * 7
    assert sizes[-1].table_bytes <= 1.3 * sizes[4].table_bytes
    assert sizes[-1].index_bytes <= 1.3 * sizes[4].index_bytes
    assert sizes[-1].held <= 1.3 * sizes[4].held


# --- plans --------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(site: Site) -> Site:
    """Much history, and a little that lives."""
    for day in range(4):
        site.work(day, 2000)
    for number, state in enumerate(["queued", "dispatched", "accepted", "running", "cancelling"] * 4):
        worker = None if state == "queued" else "edge-1"
        add(site, f"live-{number}", state=state, ended=None, worker=worker, running_since=1.0)
    if site.dialect == "postgresql":  # autovacuum does that; nobody does it in a file of SQLite
        with site.engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    return site


def test_the_bridge_reads_no_whole_table(busy: Site, monkeypatch) -> None:
    monkeypatch.setattr("airflow_mqtt.database.retention.BATCH", 20)  # small, as a batch is beside a real history

    async def retention() -> Plans:
        async with Leading(busy) as database:
            plans = Plans(database.engine.sync_engine)
            retention = Retention(database, KEEP)
            await retention.step(START + 3.5 * DAY)
            await retention._forget_orphans()
            return plans

    plans = asyncio.run(retention())
    plans.engine = busy.engine
    assert len(plans.statements) > 5
    assert plans.whole_reads() == []


def test_nor_does_the_ledger_of_the_leader(busy: Site) -> None:
    """However long the history is. The statements that it makes are explained as it makes them."""

    async def everything() -> None:
        async with Leading(busy):
            ledger = new_ledger(busy.url)
            explained = Explained(ledger, busy.dialect)
            await use(ledger)
            await ledger.close()
            assert len(explained.seen) >= (9 if busy.dialect == "sqlite" else 14)
            assert explained.whole == []

    asyncio.run(everything())


async def use(ledger) -> None:
    """All that the writer does with it."""
    await ledger.snapshot()
    jobs = {job.id: job for job in await ledger.jobs(["live-0", "live-2", "live-3"])}
    await ledger.workloads(["live-0"])
    events = {"live-0": JobEvent.DISPATCH, "live-2": JobEvent.START, "live-3": JobEvent.SUCCEED}
    changes = [
        Change(job.id, Seen(job.state, job.attempt, None), fields_of(job.after(events[id_], now=NOW)))
        for id_, job in jobs.items()
    ]
    records = [Transition(id_, 1, NOW, "test", "x", "before", "after", "") for id_ in jobs]
    writes = Writes(
        changes, records, [worker()], {"edge-1": (7, NOW)}, [Chunk("live-3", 1, 10, b"x")], ["edge-9"], excused=5.0
    )
    outcome = await ledger.commit(writes)
    assert set(outcome.dispatched) == {"live-0"}
    assert (await ledger.news()).jobs


class Explained:
    """Explains what a ledger executes, on its own connection and with its own values, before it is executed."""

    def __init__(self, ledger, dialect: str) -> None:
        self.seen: set[str] = set()
        self.whole: list[str] = []
        if dialect == "sqlite":
            self._execute = ledger._execute
            ledger._execute = self._sqlite
        else:
            ledger._fetch, ledger._execute = self._postgres(ledger._fetch), self._postgres(ledger._execute)

    def _sqlite(self, connection, statement, values):
        self.seen.add(statement)
        plan = [str(row[-1]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        if any(plans_module._is_whole(re.sub(r"^(SCAN|SEARCH) j\b", r"\1 mqtt_job", line)) for line in plan):
            self.whole.append(f"{statement}\n{plan}")
        return self._execute(connection, statement, values)

    def _postgres(self, execute):
        async def explained(connection, statement, *values):
            self.seen.add(statement)
            counts = {
                table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in plans_module.TABLES
            }
            await connection.execute("SAVEPOINT explained")
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
            await connection.execute("ROLLBACK TO explained")
            plan = json.loads(rows[0][0])[0]["Plan"]
            if any(read >= counts[table] / 2 for table, read in plans_module._reads(plan)):
                self.whole.append(f"{statement}\n{plan}")
            return await execute(connection, statement, *values)

        return explained


def test_the_look_at_the_plans_finds_what_it_must(busy: Site) -> None:
    job = tables.job.c
    plans = Plans(busy.engine)
    with Session(busy.engine) as session:
        session.execute(sa.select(job.id).where(job.log_path == "x").order_by(job.queued_at).limit(1)).all()
        session.execute(sa.select(job.id).where(job.team_name == "", job.workload_type == "x")).all()
        session.execute(sa.select(sa.func.count()).select_from(tables.job_log)).all()
        session.rollback()
    assert len(plans.whole_reads()) == 3


def test_nor_is_sqlite_asked_for_news_at_length(busy: Site) -> None:
    """That is asked often, and not in a transaction."""
    if busy.dialect == "sqlite":
        with busy.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sqlite._HAS_NEWS}", ("", "", "", 0))
            plan = [str(row[-1]) for row in rows]
        assert [line for line in plan if "ix_mqtt_job_news" in line or "ix_mqtt_worker_news" in line]
        assert not any(map(plans_module._is_whole, plan)), plan
