"""What a peer says again and again fills no log of ours."""

import itertools
import logging
from dataclasses import replace

import pytest

from airflow_mqtt.bridge import bounds
from airflow_mqtt.bridge.bounds import Lines
from airflow_mqtt.bridge.dispatch.reports import Heard
from airflow_mqtt.database.access import Access
from airflow_mqtt.protocol.messages import Born, Event, UnsupportedBirth
from bridge_samples import info, status, worker
from unit.bridge.writer_bench import Bench, accepted

TIMES = 300

#: Lines of one worker at once, and those of the one job that it has.
MOST = 2 * 30 + 2

BORN = Born(journal="j", first=1, last=0, instance="i", connection=2, number=1, queues=[], kinds=[])


def alternating_protocols(number):
    yield UnsupportedBirth("j", 50 + number % 2)
    yield replace(BORN, connection=2 + number)


def past_journals(number):
    yield replace(BORN, journal=f"past-{number % 2}", connection=2 + number)


def events_of_attempts_to_come(number):
    yield Event(type="accepted", journal="j", seq=1 + number, job="one", attempt=2 + number, ts=1.0)


def changing_states(number):
    yield status(state=("idle", "offline", "starting", "terminating")[number % 4])


def events_of_new_journals(number):
    yield Event(type="accepted", journal=f"new-{number}", seq=1, job="one", attempt=1, ts=1.0)


def births_of_new_journals(number):
    yield replace(BORN, journal=f"new-{number}")


def rejections(number):
    """As soon as it is given the job, it says that it takes jobs again, and rejects it."""
    yield Event(type="rejected", journal="j", seq=1 + number, job="one", attempt=1 + number, ts=1.0, reason="full")
    yield info(labels={"n": str(number)})


WAYS = [
    alternating_protocols, past_journals, events_of_attempts_to_come, changing_states, events_of_new_journals,
    births_of_new_journals, rejections,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_many_of_one_kind_say_little(way, caplog):
    known = worker(past_journals=("past-0", "past-1"), birth=0)
    bench = Bench(accepted("one"), known, connected=True)
    with caplog.at_level(logging.INFO):
        for number in range(TIMES):
            for message in way(number):
                bench.writer.receive(Heard("edge-1", message))
                await bench.turn(0.001)
    assert len(caplog.records) <= MOST
    if caplog.records:
        bench.living.lines.say_left_out()
        assert "lines are left out here" in caplog.records[-1].getMessage()
    caplog.clear()
    bench.living.lines.say_left_out()
    assert not caplog.records


async def test_a_message_that_cannot_be_applied_says_so_a_few_times(caplog):
    bench = Bench(worker(), connected=True)
    for _ in range(TIMES):
        outcome = bench.submit("edge-1", lambda _: 1 / 0)
        await bench.turn(0.001)
        with pytest.raises(ZeroDivisionError):
            await outcome
    assert 0 < len(caplog.records) <= 31


def test_lines_come_again_after_a_while(monkeypatch):
    clock = itertools.count(0.0, 0.0)
    monkeypatch.setattr(bounds.time, "monotonic", lambda: next(clock))
    lines = Lines()
    said = [lines("loud") for _ in range(100)]
    assert sum(said) == said.index(False) == 31
    assert lines("quiet")
    clock = itertools.count(50.0, 0.0)
    assert sum(lines("loud") for _ in range(100)) == 10
    assert lines.left_out == 69 + 90


# --- not before it is so ------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["j", "past-0"])
async def test_what_is_remembered_of_a_birth_is_so_after_its_commit_only(journal):
    known = worker(past_journals=("past-0",), birth=0)
    bench = Bench(accepted("one"), accepted("two"), known, connected=True)
    messages = [UnsupportedBirth("j", 99), replace(BORN, journal=journal)]
    for message, other in zip(messages, ("one", "two"), strict=True):
        before = dict(bench.living.refused), dict(bench.living.renewed)
        bench.ledger.fails.append((ConnectionError("away"), False))
        bench.writer.receive(Heard("edge-1", message))
        bench.start(other)  # so that there is something to commit
        with pytest.raises(ConnectionError):
            await bench.turn()
        assert (bench.living.refused, bench.living.renewed) == before
        await bench.turn()
        assert (bench.living.refused, bench.living.renewed) != before


async def test_that_a_worker_may_not_what_it_offers_is_said_once_its_birth_has_committed(caplog):
    bench = Bench(accepted("one"), worker(past_journals=(), birth=0), connected=True)
    bench.living.set_access(Access(listed=True))
    bench.ledger.fails.append((ConnectionError("away"), False))
    bench.writer.receive(Heard("edge-1", replace(BORN, journal="new", queues=["default"])))
    with pytest.raises(ConnectionError):
        await bench.turn()
    assert "says that it serves" not in caplog.text
    await bench.turn()
    await bench.turn()
    assert caplog.text.count("says that it serves") == 1
