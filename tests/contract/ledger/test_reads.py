"""What a leader reads on each database: all that lives at its takeover, and then what others have written."""

import asyncio
import logging

import sqlalchemy as sa
from sqlalchemy.orm import Session

from airflow_mqtt.bridge.dispatch import placement
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database import ledger as module
from airflow_mqtt.database import operations, records, tables, transitions
from airflow_mqtt.database import postgres as postgres_module
from airflow_mqtt.database import sqlite as sqlite_module
from airflow_mqtt.database.access import Access
from airflow_mqtt.database.ledger import Committed, Conflict, Waiting, Writes
from airflow_mqtt.protocol.jobs import HELD, JobEvent, JobState
from airflow_mqtt.protocol.messages import Desired
from airflow_mqtt.protocol.versions import Version
from bridge_samples import NOW, RULES, info, status, worker
from ledger_site import Site, moved, new_ledger

# --- a new leader


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


# --- news


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
