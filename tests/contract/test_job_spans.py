"""The spans of ended jobs, as each database finds them."""

import asyncio

from sqlalchemy import insert

from airflow_mqtt.bridge.telemetry import job_spans
from airflow_mqtt.bridge.telemetry.job_spans import JobSpans
from airflow_mqtt.database import tables
from airflow_mqtt.database.engine import Database, make_engine
from contract.test_queries import JOB
from schema import engine_of, upgrade

CARRIED = '{"ti": {"context_carrier": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}'


def test_each_job_has_its_history_however_long_that_of_another_is(database_url):
    engine, made = engine_of(database_url), []
    upgrade(engine)
    ends = {"workload": CARRIED, "state": "failed", "finished_at": 100.0, "run_id": "", "task_id": ""}
    rejected = [("a", "reject")] * (job_spans._EVENTS * job_spans._BATCH)
    history = [{"job_id": job, "attempt": 1, "at": 1.0, "by": "x", "event": event, "after": "y"} for job, event in (
        ("a", "queue"), *rejected, ("b", "queue"), ("b", "fail"),
    )]  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insert(tables.job), [{**JOB, **ends, "id": id_} for id_ in ("a", "b")])
        connection.execute(insert(tables.job_event), history)
    engine.dispose()

    async def look():
        database = Database(make_engine(database_url), "")
        await JobSpans(database, made.append, 100.0).look(200.0)
        await database.engine.dispose()

    asyncio.run(look())
    events = {span.attributes["airflow_mqtt.job"]: [one.name for one in span.events] for span in made}
    assert events == {"a": ["queue", *["reject"] * (job_spans._EVENTS - 1)], "b": ["queue", "fail"]}
