"""Bridge processes between a broker and a database, and jobs that are committed as the executor commits them."""

import signal
import subprocess
import sys
import time
import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from airflow_mqtt.database import operations, tables, transitions
from schema import with_tables
from servers import wait_for

SUBJECT = "0198f0aa-0000-7000-8000-00000000000"


class Site:
    """Tables, and a bridge process on them."""

    def __init__(self, url, broker, api, tmp_path):
        self.url, self.broker, self.api, self.directory = url, broker, api, tmp_path
        self.engine = with_tables(url)
        self.bridges = []

    def start_bridge(self, *flags, program=("-m", "airflow_mqtt.cli")):
        arguments = [
            "--broker-url", self.broker.url("bridge"), "--database-url", self.url, "--execution-api-url", self.api.url,
            "--task-heartbeat-interval", "0.5", "--accept-timeout", "10", "--lease-ttl", "3", "--status-interval", "0.5",
            "--allow", "all", *flags,
        ]  # fmt: skip
        log = (self.directory / f"bridge-{len(self.bridges)}.log").open("w")
        process = subprocess.Popen([sys.executable, *program, "bridge", "run", *arguments], stderr=log, stdout=log)
        self.bridges.append(process)
        return process

    def close(self):
        for process in self.bridges:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.engine.dispose()

    def queue(self, **values):
        """Commit a job, as the executor does, and return its id."""
        number = len(self.jobs())
        job = {
            "id": str(uuid.uuid4()), "kind": "airflow", "workload_type": "ExecuteTask", "workload": '{"ti": {}}',
            "token": "workload-token", "token_at": time.time(), "queue": "default", "priority": 1, "slots": 1,
            "subject": SUBJECT + str(number), "dag_id": "dag", "run_id": "run", "task_id": f"task{number}",
            "owner": "1", **values,
        }  # fmt: skip
        with self.engine.begin() as connection:
            for statement in transitions.creation(job, now=time.time(), by="test"):
                connection.execute(statement)
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text(f"SELECT pg_notify('{tables.NOTIFY_CHANNEL}', '')"))
        return job["id"]

    def jobs(self):
        with self.engine.connect() as connection:
            return {row.id: row for row in connection.execute(sa.select(tables.job))}

    def job(self, id_):
        return self.jobs()[id_]

    def wait_state(self, id_, *states, timeout=60):
        wait_for(lambda: self.job(id_).state in states, what=f"job in {states}", timeout=timeout)

    def log_text(self, number):
        """What bridge `number` has said so far, counted from 0 in the order of their start."""
        return (self.directory / f"bridge-{number}.log").read_text()

    def log_of(self, id_):
        query = sa.select(tables.job_log.c.data).where(tables.job_log.c.job_id == id_).order_by(tables.job_log.c.offset)
        with self.engine.connect() as connection:
            return b"".join(connection.execute(query).scalars())

    def cancel(self, id_):
        """Wish for the end of a job, as the executor does."""
        with Session(self.engine) as session:
            operations.cancel(session, "", id_, now=time.time(), by="test", reason="revoked")
            session.commit()
