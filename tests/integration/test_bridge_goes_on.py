"""What a bridge meets that it cannot mend: it says so once, and goes on with all the rest."""

import sqlalchemy as sa

from airflow_mqtt.database import tables
from mqtt_peer import Peer
from servers import wait_for


def test_a_row_that_cannot_be_understood_stops_nobody_else(site, worker):
    site.start_bridge()
    broken = [site.queue(workload=workload) for workload in ("no JSON", "[1]", '{"a":' * 200 + "1" + "}" * 200)]
    for job in broken:
        site.wait_state(job, "failed")
        assert "its workload cannot be sent" in site.job(job).reason
    strange = site.queue(queue="other")
    with site.engine.begin() as connection:
        connection.execute(sa.update(tables.job).where(tables.job.c.id == strange).values(state="of the future"))
        values = {"name": "strange", "state": "of the future", "journal": "j", "seen_at": 0.0, "news": True}
        connection.execute(sa.insert(tables.worker).values(**values))
    good = site.queue()
    assert worker.order().job == good
    wait_for(lambda: "'strange' is set aside" in site.log_text(0), what="the worker's row to be set aside")
    assert "Traceback" not in site.log_text(0)


def trigger(dialect, job):
    """Return statements after which the table of logs takes none of `job`."""
    insert = f"CREATE TRIGGER refuse BEFORE INSERT ON mqtt_job_log FOR EACH ROW WHEN (NEW.job_id = '{job}')"
    if dialect == "sqlite":
        return [f"{insert} BEGIN SELECT RAISE(ABORT, 'refused'); END"]
    body = "BEGIN RAISE SQLSTATE '22000'; END"
    function = f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"
    return [function, f"{insert} EXECUTE FUNCTION refuse()"]


def test_a_message_that_the_database_does_not_take_spoils_no_batch(site, worker):
    """Whatever gets past the protocol: here a table that refuses one job's log."""
    site.start_bridge()
    jobs = [site.queue(), site.queue()]
    runs = {run.job: run for run in (worker.order(), worker.order())}
    with site.engine.begin() as connection:
        for statement in trigger(connection.dialect.name, jobs[0]):
            connection.exec_driver_sql(statement)
    for _ in range(3):
        for number, job in enumerate(jobs):
            worker.log(runs[job], 0, f"log of {number}\n".encode())
        if worker.seq == 0:
            worker.event("accepted", runs[jobs[0]])
    wait_for(lambda: site.log_of(jobs[1]) == b"log of 1\n", what="the other log")
    site.wait_state(jobs[0], "accepted")
    assert site.log_of(jobs[0]) == b""


def test_a_wish_is_told_again_when_the_broker_has_lost_it(site, worker, broker):
    """A retained message does not outlive the broker's store; a device that comes back after that must know it."""
    site.start_bridge("--accept-timeout", "1")
    wait_for(lambda: worker.acks.qsize(), what="the bridge")
    with site.engine.begin() as connection:
        wish = {"desired": '{"maintenance": true}', "revision": 7, "news": True}
        connection.execute(sa.update(tables.worker).values(**wish))
    topic = f"airflow/v1/worker/{worker.name}/desired"
    with Peer(broker.url("bridge")) as peer:
        peer.subscribe(topic)
        peer.wait(topic)
        peer.publish(topic, b"", retain=True)
        count = len(peer.received)
        worker.status()  # of revision 0: it does not know the wish
        wait_for(lambda: any(payload for _, payload, _ in peer.received[count:]), what="the wish, once more")
