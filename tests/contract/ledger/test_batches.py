"""The leader's ledger on each database: a batch is one transaction of few statements, and a compare-and-set."""

import asyncio
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from airflow_mqtt.bridge.calls.gate import Call, open_gate
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database import records, tables, transitions
from airflow_mqtt.database.errors import DeposedError
from airflow_mqtt.database.ledger import Change, Chunk, Committed, Conflict, Seen, Writes, fields_of
from airflow_mqtt.protocol import execution_api
from airflow_mqtt.protocol.jobs import TABLE, JobEvent, JobState
from airflow_mqtt.protocol.messages import Desired, Request
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import NOW, RULES, status, worker
from ledger_site import EPOCH, Site, change_of, moved, new_ledger, record_of

# --- few statements


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


async def test_the_usual_batch_of_postgres_is_three_statements(postgres_url):
    """Whose the lease is, jobs with their history, workers."""
    site = await asyncio.to_thread(Site, postgres_url)
    site.add("one", "accepted")
    job = await site.job("one")
    before = site.ledger.statements
    writes = Writes([change_of(job, JobEvent.START)], [record_of(job)], [worker()], {"edge-2": (7, NOW)})
    assert isinstance(await site.ledger.commit(writes), Committed)
    assert site.ledger.statements - before == 3
    await site.ledger.close()
    site.others.dispose()


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


# --- compare-and-set


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
        async with asyncio.timeout(60):
            assert await site.ledger.commit(Writes(changes)) == Conflict(frozenset({"held"}))
            assert [job.id for job in (await site.ledger.news()).jobs] == ["free"]  # the other stays news
            assert len(await site.ledger.jobs(["free", "held"])) == 2  # reading waits for nobody
            assert isinstance(await site.ledger.commit(Writes(changes[:1])), Committed)
    assert isinstance(await site.ledger.commit(Writes(changes[1:])), Committed)
    assert [job.id for job in (await site.ledger.news()).jobs] == ["held"]
    await site.ledger.close()
    site.others.dispose()


BATCHES = {
    "positions": Writes(positions={"b": (7, NOW), "a": (7, NOW)}),
    "whole": Writes(workers=[worker(name="b", seq=7), worker(name="a", seq=7)]),
    "both": Writes(workers=[worker(name="b", seq=7)], positions={"a": (7, NOW)}),
    "excused": Writes(excused=5.0, now=NOW, positions={"a": (7, NOW), "b": (7, NOW)}),
    "forgotten": Writes(workers=[worker(name="b", seq=7)], positions={"a": (7, NOW)}, forgotten=["a0", "c"]),
}


@pytest.mark.parametrize("batch", BATCHES)
async def test_a_batch_and_an_operator_who_acts_on_many_workers_do_not_wait_for_each_other(postgres_url, batch):
    """Both write in the order of the names: else PostgreSQL would end one of them."""
    site = await asyncio.to_thread(Site, postgres_url)
    await site.ledger.commit(Writes(workers=[worker(name=name) for name in ("c", "b", "a", "a0")]))
    with site.others.connect() as connection:
        for name in ("a", "b", "c"):
            connection.execute(sa.update(tables.worker).where(tables.worker.c.name == name).values(removal=True))
            if name == "a":
                under_way = asyncio.ensure_future(site.ledger.commit(BATCHES[batch]))
                await until_somebody_waits(site)
        connection.commit()
    assert isinstance(await under_way, Committed)
    seqs = {row["name"]: row["seq"] for row in site.rows(tables.worker)}
    assert (seqs["a"], seqs["b"]) == (7, 7)
    await site.ledger.close()
    site.others.dispose()


async def until_somebody_waits(site):
    waits = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with asyncio.timeout(10):
        while True:
            with site.others.connect() as other:
                if other.scalar(waits):
                    return
            await asyncio.sleep(0.01)


# --- the lease


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
        await asyncio.wait_for(asyncio.to_thread(site.do, sa.update(tables.bridge).values(beat=7)), 60)
    await site.ledger.close()
    site.others.dispose()


# --- what is written


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
