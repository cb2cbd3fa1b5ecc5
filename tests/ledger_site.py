"""A database with the tables, the ledger of a leader, and others who write beside it."""

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from airflow_mqtt.database import tables, transitions
from airflow_mqtt.database.ledger import Change, Seen, Transition, Writes, fields_of
from airflow_mqtt.database.postgres import PostgresLedger
from airflow_mqtt.database.sqlite import SqliteLedger
from airflow_mqtt.protocol.jobs import HELD, JobState
from bridge_samples import NOW
from schema import with_tables

EPOCH = 3


def new_ledger(url, epoch=EPOCH, team=""):
    if url.startswith("sqlite"):
        return SqliteLedger(str(make_url(url).database), team, epoch, renewed=lambda: None)
    return PostgresLedger(url, team, epoch, instance="one", idle_limit=60)


class Site:
    """The tables, the ledger of the leader, and `others`: an engine of those who write beside it."""

    def __init__(self, url):
        self.url = url
        self.others = with_tables(url)
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
