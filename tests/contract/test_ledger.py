"""The leader's ledger on each database: one batch is one transaction of few statements, and a compare-and-set."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from airflow_mqtt.bridge.calls.gate import Call, open_gate
from airflow_mqtt.bridge.dispatch import placement
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database import ledger as module
from airflow_mqtt.database import operations, records, tables, transitions
from airflow_mqtt.database import postgres as postgres_module
from airflow_mqtt.database import sqlite as sqlite_module
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.errors import DeposedError, is_transient
from airflow_mqtt.database.ledger import (
    Change,
    Chunk,
    Committed,
    Conflict,
    Seen,
    Transition,
    Waiting,
    Writes,
    fields_of,
)
from airflow_mqtt.database.postgres import PostgresLedger
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol import execution_api
from airflow_mqtt.protocol.jobs import HELD, TABLE, JobEvent, JobState
from airflow_mqtt.protocol.messages import Desired, Request
from airflow_mqtt.protocol.versions import Version
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, RULES, info, status, worker

EPOCH = 3


def new_ledger(url, epoch=EPOCH, team=""):
    if url.startswith("sqlite"):
        return SqliteLedger(str(make_url(url).database), team, epoch, renewed=lambda: None)
    return PostgresLedger(url, team, epoch, instance="one", idle_limit=60)


class Site:
    """The tables, the ledger of the leader, and `others`: an engine of those who write beside it."""

    def __init__(self, url):
        self.url = url
        self.others = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
        tables.metadata.create_all(self.others)
        self.do(*(sa.insert(tables.bridge).values(team_name=team, epoch=EPOCH, beat=0) for team in ("", "b")))
        self.ledger = new_ledger(url)

    def do(self, *statements):
        """Execute as somebody else, and commit; return how many rows the last one changed."""
        with self.others.begin() as connection:
            return [connection.execute(statement) for statement in statements][-1].rowcount

    def add(self, id_, state="queued", **values):
        row = {
            "id": id_, "kind": "airflow", "workload_type": "ExecuteTask", "workload": f'{{"of":"{id_}"}}', "token": "t",
            "token_at": 1.0, "queue": "default", "priority": 1, "slots": 1, "subject": f"ti-{id_}", "owner": "1",
            "team_name": values.pop("team_name", ""),
        }  # fmt: skip
        held = {"worker": "edge-1"} if JobState(state) in HELD else {}
        change = sa.update(tables.job).where(tables.job.c.id == id_)
        changed = {"state": state, "news": False} | held | values
        self.do(*transitions.creation(row, now=NOW, by="test"), change.values(**changed))

    def change(self, id_, **values):
        self.do(sa.update(tables.job).where(tables.job.c.id == id_).values(**values))

    def rows(self, table=tables.job):
        with self.others.connect() as connection:
            return [row._mapping for row in connection.execute(sa.select(table).order_by(*table.primary_key))]

    def row(self, id_):
        return next(row for row in self.rows() if row["id"] == id_)

    async def job(self, id_):
        (found,) = await self.ledger.jobs([id_])
        return found


@pytest.fixture
async def site(database_url):
    made = await asyncio.to_thread(Site, database_url)
    yield made
    await made.ledger.close()
    made.others.dispose()


def change_of(job, event, *, token=None, **values):
    after = job.after(event, now=NOW + 5, **values)
    seen = Seen(job.state, job.attempt, job.cancel_reason)
    return Change(job.id, seen, fields_of(after), token, NOW + 5 if token else None)


def record_of(job, event="x"):
    return Transition(job.id, job.attempt, NOW + 5, "test", event, job.state.value, "after", "why")


async def moved(site, id_, event, **values):
    """Commit one transition of a job as it is now."""
    job = await site.job(id_)
    return await site.ledger.commit(Writes([change_of(job, event, **values)], [record_of(job)]))


# --- one transaction of few statements ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dispatch", "all"])
async def test_a_batch_has_as_many_statements_however_much_is_in_it(site, kind):
    for number in range(201):
        site.add(f"j{number}", "queued" if kind == "dispatch" else "accepted")

    async def statements(ids):
        jobs = await site.ledger.jobs(ids)
        assert len(jobs) == len(ids)
        before = site.ledger.statements
        event = JobEvent.DISPATCH if kind == "dispatch" else JobEvent.START
        writes = Writes([change_of(job, event, worker="edge-1") for job in jobs], list(map(record_of, jobs)), now=NOW)
        if kind == "all":
            writes.workers = [worker(name=f"new-{id_}") for id_ in ids]
            writes.positions = {f"known-{id_}": (7, NOW) for id_ in ids}
            writes.chunks = [Chunk(id_, 1, 0, b"log") for id_ in ids]
            writes.forgotten = [f"gone-{id_}" for id_ in ids]
            writes.excused = 1.0
        outcome = await site.ledger.commit(writes)
        assert isinstance(outcome, Committed)
        assert set(outcome.dispatched) == (set(ids) if kind == "dispatch" else set())
        return site.ledger.statements - before

    few = await statements(["j0"])
    assert await statements([f"j{number}" for number in range(1, 201)]) == few
    assert few <= 8
    assert len(site.rows(tables.job_event)) == 201 * 2
    if kind == "all":
        assert len(site.rows(tables.worker)) == len(site.rows(tables.job_log)) == 201


@pytest.mark.parametrize("count", [1, 200])
async def test_what_is_read_takes_as_many_statements_however_much_it_is(site, count):
    for number in range(count):
        site.add(f"j{number}", news=True)
    counts = []
    for read in (
        site.ledger.snapshot, site.ledger.news, lambda: site.ledger.jobs([f"j{n}" for n in range(count)]),
        lambda: site.ledger.workloads([f"j{n}" for n in range(count)]),
    ):  # fmt: skip
        before = site.ledger.statements
        assert await read()
        counts.append(site.ledger.statements - before)
    assert counts == [5, 3, 2, 2]  # with that which asks whose the lease is


async def test_what_is_dispatched_comes_back_with_all_that_its_message_needs(site):
    site.add("one", attempt=4, cancel_by="")
    outcome = await moved(site, "one", JobEvent.DISPATCH, worker="edge-7", publishes=1, published_at=NOW)
    ((job, workload),) = outcome.dispatched.values()
    assert (job, workload) == (await site.job("one"), '{"of":"one"}')
    assert (job.worker, job.attempt, job.publishes, job.dispatched_at) == ("edge-7", 4, 1, NOW + 5)
    assert (await site.ledger.workloads(["one", "none"])) == {"one": '{"of":"one"}'}


# --- compare-and-set ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{"state": "cancelling"}, {"attempt": 2}, {"cancel_reason": "operator: enough"}], ids=lambda other: next(iter(other))
)  # fmt: skip
async def test_what_is_not_as_it_was_seen_is_a_conflict_and_nothing_is_written(site, other):
    for id_ in ("one", "two"):
        site.add(id_, "accepted")
    jobs = await site.ledger.jobs(["one", "two"])
    site.change("two", **other)
    before = site.rows(), site.rows(tables.job_event)
    writes = Writes([change_of(job, JobEvent.START) for job in jobs], list(map(record_of, jobs)), now=NOW + 5)
    writes.workers, writes.chunks, writes.excused = [worker()], [Chunk("one", 1, 0, b"x")], 5.0
    assert await site.ledger.commit(writes) == Conflict(frozenset({"two"}))
    assert (site.rows(), site.rows(tables.job_event)) == before
    assert site.rows(tables.worker) == site.rows(tables.job_log) == []
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)  # and the ledger is usable


async def test_a_job_that_is_gone_is_a_conflict(site):
    site.add("one", "accepted")
    job = await site.job("one")
    site.do(sa.delete(tables.job))
    assert await site.ledger.commit(Writes([change_of(job, JobEvent.START)])) == Conflict(frozenset({"one"}))


async def test_another_teams_job_is_not_there(site):
    site.add("theirs", "accepted", team_name="b", news=True)
    assert await site.ledger.jobs(["theirs"]) == [] and await site.ledger.workloads(["theirs"]) == {}
    (job,) = await (theirs := new_ledger(site.url, team="b")).jobs(["theirs"])
    await theirs.close()
    assert await site.ledger.commit(Writes([change_of(job, JobEvent.START)])) == Conflict(frozenset({"theirs"}))
    assert (await site.ledger.news()).jobs == [] and (await site.ledger.snapshot()).jobs == []


async def test_a_wish_that_commits_first_beats_the_gate(site):
    """Whoever wishes a job away before it started can be sure that it never starts."""
    site.add("one", "accepted", accept_journal="j")
    site.do(sa.insert(tables.worker).values(name="edge-1", state="idle", seen_at=NOW, journal="j", instance="i"))
    living = Living.of(await site.ledger.snapshot(), lambda _: RULES, allow="all")
    draft = Draft(living, NOW)
    path = "task-instances/ti-one/run"
    request = Request(id="r", journal="j", job="one", attempt=1, method="PATCH", path=path)
    opened = open_gate(draft, Call("edge-1", request), execution_api.find("PATCH", path))
    assert opened.state is JobState.RUNNING
    assert site.do(transitions.wish_for_end("one", JobState.ACCEPTED, 1, by="operator", reason="enough")) == 1
    assert await site.ledger.commit(draft.writes()) == Conflict(frozenset({"one"}))
    assert (site.row("one")["state"], site.row("one")["gate_request"]) == ("accepted", None)
    (job,) = (await site.ledger.news()).jobs
    assert (job.cancel_reason, job.cancel_by) == ("enough", "operator")


async def test_a_gate_that_commits_first_beats_a_wish_of_a_job_that_has_not_started(site):
    site.add("one", "accepted")
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    assert site.do(transitions.wish_for_end("one", JobState.ACCEPTED, 1, by="operator", reason="enough")) == 0


async def test_a_scheduler_ends_a_job_that_is_dispatched_at_that_moment(site):
    """One of the two wins, whichever comes first."""
    for first in ("bridge", "scheduler"):
        site.add(first)
        job = await site.job(first)
        end = transitions.move(first, JobState.QUEUED, 1, JobEvent.CANCEL, now=NOW, by="scheduler")
        if first == "bridge":
            assert isinstance(await site.ledger.commit(Writes([change_of(job, JobEvent.DISPATCH)])), Committed)
            assert site.do(end.statement) == 0
        else:
            assert site.do(end.statement) == 1
            assert await site.ledger.commit(Writes([change_of(job, JobEvent.DISPATCH)])) == Conflict(frozenset({first}))


async def test_a_row_that_somebody_holds_is_not_waited_for(postgres_url):
    """A scheduler may hold it for seconds, and all devices would wait with it."""
    site = await asyncio.to_thread(Site, postgres_url)
    for id_ in ("free", "held"):
        site.add(id_, "accepted", news=True)
    jobs = await site.ledger.jobs(["free", "held"])
    changes = [change_of(job, JobEvent.START) for job in jobs]
    with site.others.begin() as connection:
        connection.execute(sa.select(tables.job).where(tables.job.c.id == "held").with_for_update())
        async with asyncio.timeout(5):
            assert await site.ledger.commit(Writes(changes)) == Conflict(frozenset({"held"}))
            assert [job.id for job in (await site.ledger.news()).jobs] == ["free"]  # the other stays news
            assert len(await site.ledger.jobs(["free", "held"])) == 2  # reading waits for nobody
            assert isinstance(await site.ledger.commit(Writes(changes[:1])), Committed)
    assert isinstance(await site.ledger.commit(Writes(changes[1:])), Committed)
    assert [job.id for job in (await site.ledger.news()).jobs] == ["held"]
    await site.ledger.close()
    site.others.dispose()


# --- the lease ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [EPOCH + 1, EPOCH - 1, None])
async def test_who_does_not_lead_neither_writes_nor_reads(site, epoch):
    site.add("one", "accepted", news=True)
    job = await site.job("one")
    before = site.rows()
    lease = sa.update(tables.bridge).values(epoch=epoch) if epoch else sa.delete(tables.bridge)
    site.do(lease.where(tables.bridge.c.team_name == ""))
    for work in (
        lambda: site.ledger.commit(Writes([change_of(job, JobEvent.START)])), site.ledger.snapshot, site.ledger.news,
        lambda: site.ledger.jobs(["one"]), lambda: site.ledger.workloads(["one"]),
    ):  # fmt: skip
        with pytest.raises(DeposedError):
            await work()
    assert site.rows() == before


async def test_a_batch_keeps_a_lease_of_sqlite_alive(sqlite_url):
    """There is one lock: a leader whose renewals wait for its own batches would lose its lease to nobody."""
    site, renewed = Site(sqlite_url), []
    site.ledger._renewed = lambda: renewed.append(threading.current_thread())
    site.add("one", "accepted")
    await moved(site, "one", JobEvent.START)
    beats = {row["team_name"]: row["beat"] for row in site.rows(tables.bridge)}
    assert beats == {"": 2, "b": 0} and len(renewed) == 2
    before = len(renewed)
    assert isinstance(await moved(site, "one", JobEvent.SUCCEED), Committed)
    job = replace(await site.job("one"), attempt=9)
    stale = change_of(replace(job, state=JobState.RUNNING), JobEvent.FAIL)
    assert isinstance(await site.ledger.commit(Writes([stale])), Conflict)
    assert len(renewed) == before + 3  # what was rolled back has renewed nothing
    await site.ledger.close()
    site.others.dispose()


async def test_a_batch_of_postgres_holds_up_no_renewal(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    async with site.ledger._transaction():
        await asyncio.wait_for(asyncio.to_thread(site.do, sa.update(tables.bridge).values(beat=7)), 5)
    await site.ledger.close()
    site.others.dispose()


# --- news ---------------------------------------------------------------------------------------------------


async def test_news_is_taken_once_and_again_after_a_second_write(site):
    site.add("one", "running")
    assert (await site.ledger.news()).jobs == []
    for reason in ("first", "second"):
        site.change("one", cancel_reason=reason, news=True)
        assert [job.cancel_reason for job in (await site.ledger.news()).jobs] == [reason]
        assert (await site.ledger.news()).jobs == []


async def test_what_the_leader_writes_is_no_news_to_it_and_takes_no_news_away(site):
    site.add("one", "accepted")
    await moved(site, "one", JobEvent.START)
    assert (await site.ledger.news()).jobs == []
    site.change("one", token="new", news=True)
    await moved(site, "one", JobEvent.SUCCEED)
    assert [(job.token, job.state) for job in (await site.ledger.news()).jobs] == [
        ("", "succeeded")
    ]  # an ended job needs none


async def test_an_old_ended_job_is_no_news(site):
    """Those of an executor of 0.1.0 would be read again and again: it does not know the mark."""
    site.add("old", "succeeded", finished_at=NOW, news=True)
    site.add("unheard", "succeeded", finished_at=NOW, report_pending=True, news=True)
    assert [job.id for job in (await site.ledger.news()).jobs] == ["unheard"]


async def test_a_new_job_is_news_and_a_wish_is(site):
    texts = ("id", "kind", "workload_type", "workload", "token", "queue", "subject", "owner")
    row = {**dict.fromkeys(texts, "new"), "token_at": 1.0, "priority": 1, "slots": 1}
    site.do(*transitions.creation(row, now=NOW, by="test"))
    site.add("one", "running")
    assert site.do(transitions.wish_for_end("one", JobState.RUNNING, 1, by="operator", reason="enough")) == 1
    assert {job.id for job in (await site.ledger.news()).jobs} == {"new", "one"}


async def test_more_news_than_are_read_at_a_time(site, monkeypatch):
    for number in range(7):
        site.add(f"j{number}", news=True)
    for there in ("sqlite", "postgres"):
        monkeypatch.setattr(f"airflow_mqtt.database.{there}.NEWS_LIMIT", 3)
        name = f"airflow_mqtt.database.{there}._NEWS"
        statement = {"sqlite": sqlite_module, "postgres": postgres_module}[there]._NEWS
        monkeypatch.setattr(name, statement.replace(f"LIMIT {module.NEWS_LIMIT}", "LIMIT 3"))
    found = [await site.ledger.news() for _ in range(3)]
    assert [(len(news.jobs), news.more) for news in found] == [(3, True), (3, True), (1, False)]
    assert len({job.id for news in found for job in news.jobs}) == 7


async def test_what_is_wished_of_a_worker_is_news(site):
    row = {"state": "idle", "seen_at": NOW, "revision": 4, "desired": '{"maintenance":true}', "news": True}
    site.do(
        sa.insert(tables.worker).values(name="edge-1", **row),
        sa.insert(tables.worker).values(name="edge-2", removal=True, **row),
        sa.insert(tables.worker).values(name="edge-3", **{**row, "news": False}),
    )
    news = await site.ledger.news()
    assert {one.name: one.desired for one in news.workers} == dict.fromkeys(
        ("edge-1", "edge-2"), Desired(revision=4, maintenance=True)
    )
    assert news.removals == {"edge-2"}
    assert (await site.ledger.news()).workers == []


async def test_others_who_commit_are_noticed_in_sqlite(sqlite_url):
    site = Site(sqlite_url)
    site.add("one", "accepted")
    assert await site.ledger.changed()
    assert not await site.ledger.changed()
    await moved(site, "one", JobEvent.START)
    assert not await site.ledger.changed()  # that was the leader
    site.change("one", cancel_reason="x")
    assert await site.ledger.changed() and not await site.ledger.changed()
    await site.ledger.close()
    site.others.dispose()


# --- what is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), sorted(TABLE))
async def test_the_executor_is_told_of_running_and_of_ends_alone(site, state, event):
    site.add("one", state.value)
    await moved(site, "one", event)
    after = TABLE[state, event]
    assert site.row("one")["state"] == after
    assert site.row("one")["report_pending"] == (after in records.REPORTED)


async def test_a_report_that_waits_goes_on_to_wait_and_is_made_once(site):
    """What the executor has heard, it does not hear again because of what else is written."""
    site.add("one", "running", report_pending=True)
    job = await site.job("one")
    noted = Change("one", Seen(job.state, 1, None), fields_of(replace(job, final_state="success")))
    await site.ledger.commit(Writes([noted]))
    assert site.row("one")["report_pending"] and site.row("one")["final_state"] == "success"
    site.change("one", report_pending=False)
    await site.ledger.commit(Writes([noted]))
    assert not site.row("one")["report_pending"]
    site.change("one", report_pending=True)
    await moved(site, "one", JobEvent.CANCEL)
    assert site.row("one")["report_pending"]


async def test_a_token_is_only_replaced_when_one_is_given(site):
    site.add("one", "accepted")
    job = await site.job("one")
    site.change("one", token="of a scheduler", token_at=3.0)
    await site.ledger.commit(Writes([change_of(job, JobEvent.START)]))
    assert (site.row("one")["token"], site.row("one")["token_at"]) == ("of a scheduler", 3.0)
    await moved(site, "one", JobEvent.CANCEL, token="of Airflow")
    assert (site.row("one")["token"], site.row("one")["token_at"]) == ("of Airflow", NOW + 5)


async def test_a_job_that_ends_loses_its_token_at_once(site):
    site.add("one", "running", token="of Airflow")
    await moved(site, "one", JobEvent.SUCCEED, token="another")
    assert site.row("one")["token"] == ""


async def test_each_column_of_a_job_is_written_as_it_is(site):
    """Lists travel as JSON: large numbers, texts of all kinds, and nothing at all."""
    site.add("one", "accepted")
    job = await site.job("one")
    text = "ü\"\\'\n\t\u2028😀" + "x" * 5000
    full = replace(
        job, reason=text, worker=text, accept_journal=text, accept_seq=2**53 - 1, gate_request=text, api_version=text,
        unixname=text, pid=2**31 - 1, final_state=text, exit_code=-9, log_bytes=2**40, log_size=2**53, log_tail=2**41, publishes=7,
        published_at=NOW + 0.123456789, dispatched_at=1.5, accepted_at=2.5, started_at=3.5, running_since=4.5,
        finished_at=5.5, state=JobState.CANCELLING, attempt=2,
    )  # fmt: skip
    seen = Seen(JobState.ACCEPTED, 1, None)
    assert isinstance(await site.ledger.commit(Writes([Change("one", seen, fields_of(full))])), Committed)
    assert await site.job("one") == replace(full, token="")  # `finished_at` says that it has ended
    empty = replace(
        full, reason="", worker=None, accept_journal=None, accept_seq=None, gate_request=None, unixname=None, pid=None,
        final_state=None, exit_code=None, published_at=None, started_at=None, finished_at=None,
    )  # fmt: skip
    seen = Seen(JobState.CANCELLING, 2, None)
    assert isinstance(await site.ledger.commit(Writes([Change("one", seen, fields_of(empty))])), Committed)
    assert await site.job("one") == replace(empty, token="")


async def test_transitions_and_logs_are_written_as_they_are(site):
    site.add("one", "running")
    job = await site.job("one")
    data = bytes(range(256)) * 40
    writes = Writes([change_of(job, JobEvent.SUCCEED)], [record_of(job, "first"), record_of(job, "second")])
    writes.chunks = [Chunk("one", 1, 0, data), Chunk("one", 1, len(data), b"end")]
    await site.ledger.commit(writes)
    events = [row for row in site.rows(tables.job_event) if row["event"] != "queue"]
    assert [(row["event"], row["by"], row["before"], row["after"], row["reason"]) for row in events] == [
        ("first", "test", "running", "after", "why"), ("second", "test", "running", "after", "why")
    ]  # fmt: skip
    assert [(row["offset"], row["data"]) for row in site.rows(tables.job_log)] == [(0, data), (len(data), b"end")]


async def test_workers_are_written_and_what_operators_wish_of_them_stays(site):
    seen = worker(past_journals=("a", "b"), seq=2**40, connection=3, birth=2)
    await site.ledger.commit(Writes(workers=[seen, worker(name="edge-2", status=None, info=None)]))
    snapshot = await site.ledger.snapshot()
    assert {one.name: one for one in snapshot.workers} == {
        "edge-1": seen, "edge-2": worker(name="edge-2", status=None, info=None)
    }  # fmt: skip
    row = tables.worker.c
    site.do(
        sa.update(tables.worker).where(row.name == "edge-1").values(
            desired='{"maintenance":true}', revision=9, removal=True, news=True
        )
    )  # fmt: skip
    await site.ledger.commit(Writes(workers=[replace(seen, state=WorkerState.OFFLINE, status=status(slots=5))]))
    (after,) = [one for one in site.rows(tables.worker) if one["name"] == "edge-1"]
    assert (after["state"], after["revision"], after["removal"], after["news"]) == ("offline", 9, True, True)
    assert (await site.ledger.snapshot()).removals == {"edge-1"}


async def test_positions_excuses_and_who_is_forgotten(site):
    fleet = [worker(name=name, seen_at=at) for name, at in (("a", NOW - 100), ("b", NOW - 5), ("c", 0.0), ("d", NOW))]
    await site.ledger.commit(Writes(workers=fleet))
    before = {row["name"]: row for row in site.rows(tables.worker)}
    await site.ledger.commit(Writes(positions={"a": (8, NOW + 1), "nobody": (9, NOW)}, forgotten=["d", "nobody"]))
    rows = {row["name"]: row for row in site.rows(tables.worker)}
    assert {**rows["a"], "seq": 0, "seen_at": NOW - 100} == before["a"]
    assert (rows["a"]["seq"], rows["a"]["seen_at"]) == (8, NOW + 1)
    assert set(rows) == {"a", "b", "c"} and (rows["b"], rows["c"]) == (before["b"], before["c"])
    await site.ledger.commit(Writes(excused=50.0, now=NOW + 20))
    assert [row["seen_at"] for row in site.rows(tables.worker)] == [NOW + 20, NOW + 20, 0.0]  # nobody was heard later
    await site.ledger.commit(Writes(excused=10.0, now=NOW + 100, positions={"b": (1, NOW + 99)}))
    assert [row["seen_at"] for row in site.rows(tables.worker)] == [NOW + 30, NOW + 99, 0.0]  # and then who was


# --- a new leader -------------------------------------------------------------------------------------------


async def test_a_snapshot_has_all_that_lives(site):
    site.add("waits", priority=7, attempt=3, news=True)
    site.add("wished away", cancel_reason="why", news=True)
    for state in sorted(HELD):
        site.add(state.value, state.value, slots=2)
    site.add("ended", "succeeded", finished_at=NOW)
    site.add("unheard", "failed", finished_at=NOW, report_pending=True)
    site.add("theirs", team_name="b")
    site.do(sa.insert(tables.worker).values(name="edge-1", state="idle", seen_at=NOW, removal=True))
    site.do(sa.insert(tables.worker).values(name="edge-1", team_name="b", state="idle", seen_at=NOW))
    snapshot = await site.ledger.snapshot()
    assert snapshot.waiting == [Waiting("waits", "default", "airflow", 1, 7, NOW, 3)]
    assert {job.id for job in snapshot.jobs} == {"wished away", *(state.value for state in HELD)}
    for job in snapshot.jobs:
        assert job == await site.job(job.id)
    assert [one.name for one in snapshot.workers] == ["edge-1"] and snapshot.removals == {"edge-1"}
    living = Living.of(snapshot, lambda _: RULES)
    assert (set(living.waiting), set(living.wishes)) == ({"waits"}, {"wished away"})
    assert living.used == {"edge-1": 2 * len(HELD)}
    living.put_job((await site.ledger.news()).jobs[0])  # what is in both is in it once
    assert len(living.waiting) + len(living.jobs) == 2 + len(HELD)


async def test_what_a_job_asks_for_is_read_by_a_new_leader_and_as_news(site):
    asked = (("camera", "yes"), ("site", "north"))
    site.add("waits", labels='{"site":"north","camera":"yes"}', not_after=NOW + 60, news=True)
    site.add("damaged", labels="{")
    snapshot = await site.ledger.snapshot()
    assert snapshot.waiting == [
        Waiting("waits", "default", "airflow", 1, 1, NOW, 1, labels=asked, not_after=NOW + 60)
    ]  # fmt: skip
    (job,) = (await site.ledger.news()).jobs
    assert (job.labels, job.not_after, Waiting.of(job)) == (asked, NOW + 60, snapshot.waiting[0])


async def test_jobs_go_to_workers_that_have_their_labels_as_the_database_has_them(site):
    """From the rows of a snapshot, through placement, and back: none of those that fit nowhere is written."""
    for number in range(20):
        site.add(f"sees-{number}", labels='{"camera":"yes"}')
        site.add(f"nowhere-{number}", labels='{"camera":"no"}')
    for name, labels in (("plain", {}), ("edge-1", {"camera": "yes"})):
        has = worker(name=name, info=info(labels=labels), status=status(slots=15))
        await site.ledger.commit(Writes(workers=[has]))
    living = Living.of(await site.ledger.snapshot(), lambda _: RULES, allow="all")
    draft = Draft(living, NOW)
    placement.place(draft, by="test")
    committed = await site.ledger.commit(draft.writes())
    draft.apply(committed.dispatched)
    placed = {row["id"]: row["worker"] for row in site.rows() if row["state"] == "dispatched"}
    assert set(placed.values()) == {"edge-1"} and len(placed) == 15
    assert all(id_.startswith("sees") for id_ in placed)
    assert len(living.waiting) == 25


async def test_a_job_that_is_late_in_its_queue_is_failed_once(site):
    site.add("late", not_after=NOW - 1)
    living = Living.of(await site.ledger.snapshot(), lambda _: RULES)
    draft = Draft(living, NOW)
    draft.end_waiting(await site.job("late"), by="test", reason="too late")
    assert isinstance(await site.ledger.commit(draft.writes()), Committed)
    row = site.row("late")
    assert (row["state"], row["reason"], row["finished_at"], row["report_pending"]) == ("failed", "too late", NOW, True)
    assert isinstance(await site.ledger.commit(draft.writes()), Conflict)


async def test_why_a_worker_is_given_no_jobs_is_written(site):
    await site.ledger.commit(Writes(workers=[worker(note="its version is below 0.2.0")]))
    (found,) = (await site.ledger.snapshot()).workers
    assert found.note == site.rows(tables.worker)[0]["note"] == "its version is below 0.2.0"
    least = Version.of("0.0.1")
    living = Living.of(await site.ledger.snapshot(), lambda _: RULES, least=least)  # now it is none any more
    assert living.workers["edge-1"].note == "" and living.unsaved == {"edge-1": True}


async def test_a_row_that_cannot_be_understood_is_set_aside(site, caplog, monkeypatch):
    """One of a newer version, or damaged, must not stop the work for all others."""
    monkeypatch.setattr(records, "_logged", set())
    for id_, state in (("good", "running"), ("strange", "running")):
        site.add(id_, state, news=True)
    site.change("strange", state="levitating")
    site.do(sa.insert(tables.worker).values(name="good", state="idle", seen_at=NOW, news=True))
    for number, damage in enumerate(({"state": "?"}, {"status": "{"}, {"info": '{"queues":3}'}, {"desired": "[]"})):
        row = {"name": f"bad-{number}", "state": "idle", "seen_at": NOW, "news": True}
        site.do(sa.insert(tables.worker).values(**row | damage))
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            snapshot = await site.ledger.snapshot()
            assert ([job.id for job in snapshot.jobs], [one.name for one in snapshot.workers]) == (["good"], ["good"])
            assert [job.id for job in await site.ledger.jobs(["good", "strange"])] == ["good"]
        news = await site.ledger.news()
        assert ([job.id for job in news.jobs], [one.name for one in news.workers]) == (["good"], ["good"])
    said = sorted(record.args[0] for record in caplog.records)
    assert said == ["bad-0", "bad-1", "bad-2", "bad-3", "strange"]  # once each


# --- faults -------------------------------------------------------------------------------------------------


async def test_what_one_batch_holds_that_no_column_takes_is_no_fault_of_the_database(site):
    site.add("one", "running")
    job = await site.job("one")
    before = site.rows()
    change = change_of(job, JobEvent.SUCCEED)
    with pytest.raises(Exception) as raised:
        await site.ledger.commit(Writes([replace(change, fields={**change.fields, "state": None})]))
    assert not is_transient(raised.value)
    assert site.rows() == before
    assert isinstance(await moved(site, "one", JobEvent.SUCCEED), Committed)


async def test_a_connection_that_the_server_ends_is_made_again(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    job = await site.job("one")
    for _ in range(2):
        ours = "pg_stat_activity WHERE application_name = 'airflow-mqtt one' AND datname = current_database()"
        site.do(sa.text(f"SELECT pg_terminate_backend(pid) FROM {ours}"))
        while not site.ledger._connection.is_closed():
            await asyncio.sleep(0.01)
        assert await site.job("one") == job
    await site.ledger.close()
    site.others.dispose()


async def test_a_connection_that_ends_in_a_batch_is_a_fault_that_passes(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    with pytest.raises(Exception) as raised:
        async with site.ledger._transaction() as connection:
            with contextlib.suppress(Exception):
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            await connection.execute("SELECT 1")
    assert is_transient(raised.value)
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()


async def test_a_batch_that_is_cancelled_leaves_a_ledger_that_works(postgres_url):
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    with site.others.begin() as connection:
        connection.exec_driver_sql("LOCK mqtt_job")
        task = asyncio.ensure_future(site.ledger.jobs(["one"]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()


async def test_a_lock_that_is_held_too_long_passes_and_leaves_nothing_open(sqlite_url, monkeypatch):
    site = Site(sqlite_url)
    site.add("one", "accepted")
    monkeypatch.setattr("airflow_mqtt.database.sqlite.SQLITE_BUSY", 0.05)
    with contextlib.closing(sqlite3.connect(make_url(sqlite_url).database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as raised:
            await site.job("one")
        assert is_transient(raised.value)
        other.execute("ROLLBACK")
    assert isinstance(await moved(site, "one", JobEvent.START), Committed)
    await site.ledger.close()
    site.others.dispose()


# --- what operators say -------------------------------------------------------------------------------------


async def test_what_is_allowed_is_read_at_the_takeover_and_when_it_has_changed(site):
    assert (await site.ledger.snapshot()).access == Access()
    statements = site.ledger.statements
    assert (await site.ledger.news()).access is None
    quiet = site.ledger.statements - statements

    def allow(worker):
        with Session(site.others) as session:
            operations.allow(session, "", worker, ["a"])
            session.commit()

    for number in (1, 2):
        await asyncio.to_thread(allow, f"edge-{number}")
        access = (await site.ledger.news()).access
        assert access is not None and access.revision == number and access.may_serve(f"edge-{number}", "a")
        statements = site.ledger.statements
        assert (await site.ledger.news()).access is None
        assert site.ledger.statements - statements == quiet  # nobody pays for it who has nothing to hear
    other = new_ledger(site.url)
    assert (await other.snapshot()).access == access
    await other.close()
    site.do(sa.update(tables.access).values(document="[]", revision=9))
    damaged = (await site.ledger.news()).access
    assert damaged is not None and not damaged.may_serve("edge-1", "a")  # and nobody else stands still


async def test_a_shutdown_that_was_followed_is_withdrawn_unless_somebody_wishes_something_else(site):
    wishes = {"desired": '{"shutdown":true,"comment":"x"}', "revision": 4}
    site.do(
        sa.insert(tables.worker).values([{"name": name, "state": "idle", "seen_at": NOW} | wishes for name in "ab"])
    )
    seen = {one.name: one.desired for one in (await site.ledger.snapshot()).workers}
    site.do(sa.update(tables.worker).where(tables.worker.c.name == "b").values(revision=5, desired='{"shutdown":true}'))
    assert await site.ledger.commit(Writes(followed=seen)) == Committed({})
    (after,) = (await site.ledger.news()).workers
    assert (after.name, after.desired) == ("a", Desired(revision=5, comment="x"))
    (other,) = [row for row in site.rows(tables.worker) if row["name"] == "b"]
    assert (other["revision"], other["desired"]) == (5, '{"shutdown":true}')
