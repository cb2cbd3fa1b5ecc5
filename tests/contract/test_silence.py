"""How long a worker was silent, over changes of the leader: on real databases."""

import sqlalchemy as sa

from airflow_mqtt.bridge.dispatch import fleet
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.leader import taken_over
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.database import tables
from airflow_mqtt.database.ledger import Committed
from bridge_samples import NOW, RULES
from contract.test_lease import lead, run_with_two
from ledger_site import new_ledger

#: Seconds for which the leader before may have heard a worker without writing it down.
UNSAVED = 5.0


async def _insert(database, **seen_at):
    async with database.engine.begin() as connection:
        for name, seen in seen_at.items():
            await connection.execute(sa.insert(tables.worker).values(name=name, state="idle", seen_at=seen))


def _silences(workers, now):
    return {one.name: fleet.silent_for(one, now=now) for one in workers if one.seen_at}


async def _take_over(ledger, now):
    """What a new leader does about the time before it: it excuses that with its first batch."""
    snapshot = await ledger.snapshot()
    living, outage = Living.of(snapshot, lambda _: RULES), taken_over(snapshot.workers, now, UNSAVED)
    await _excuse(ledger, living, outage.unheard, now)


async def _excuse(ledger, living, seconds, now):
    """Memory and database come to the same."""
    draft = Draft(living, now)
    draft.excuse(seconds)
    assert isinstance(await ledger.commit(draft.writes()), Committed)
    draft.apply({})
    assert _silences(living.workers.values(), now) == _silences((await ledger.snapshot()).workers, now)


def test_a_new_leader_counts_on_from_where_the_last_one_heard_anybody(database_url):
    """An hour without a bridge, by a clock that is an hour ahead, or behind: the dead is silent for as long as it was."""

    async def test(one, other):
        held = await lead(one, "one")
        await _insert(one, never=0.0, dead=NOW - 600, living=NOW - 2)
        ledger, now = new_ledger(database_url, held.epoch), NOW
        for number, hour in enumerate((3600.0, 2 * 3600.0, -3600.0), 1):
            now += hour
            await _take_over(ledger, now)
            silences = _silences((await ledger.snapshot()).workers, now)
            assert silences == {"dead": 598.0 - number * UNSAVED, "living": 0.0}
        await ledger.close()

    run_with_two(database_url, test)


def test_unheard_seconds_are_nobodys_silence_and_no_more_than_that(database_url):
    async def test(one, other):
        held = await lead(one, "one")
        await _insert(one, never=0.0, dead=NOW - 600, living=NOW - 2)
        ledger = new_ledger(database_url, held.epoch)
        await _excuse(ledger, Living.of(await ledger.snapshot(), lambda _: RULES), 50.0, NOW)
        assert _silences((await ledger.snapshot()).workers, NOW) == {"dead": 550.0, "living": 0.0}
        await ledger.close()

    run_with_two(database_url, test)
