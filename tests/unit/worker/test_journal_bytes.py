"""What a log costs the device's flash."""

import os

from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.core.effects import SaveJob, SaveLogMark
from airflow_mqtt.worker.core.jobs import Job
from airflow_mqtt.worker.core.logs import CHUNK
from airflow_mqtt.worker.journal import Journal

#: As large as one of Airflow's.
WORKLOAD = {"type": "ExecuteTask", "ti": {"id": "x" * 36, "dag_id": "dag" * 20}, "bundle": "b" * 1500}


def _job(number: int) -> Job:
    run = Run(
        job=f"0199a7c2-5b1e-7d11-9c7e-2f6f3c1d9a{number:02}", attempt=1, kind="airflow", slots=1, workload=WORKLOAD
    )
    return Job(run=run, queue="default")


def _written() -> int:
    """Return how many bytes this process has written."""
    for line in open(f"/proc/{os.getpid()}/io"):  # noqa: SIM115
        if line.startswith("wchar"):
            return int(line.split()[1])
    raise AssertionError


def _cost(path, effect_of) -> int:
    """Return the bytes that acknowledging a MB of log writes."""
    jobs = [_job(number) for number in range(8)]
    with Journal(path) as journal:
        journal.write([SaveJob(job.id, job.record()) for job in jobs])
        before = _written()
        for number in range(1, 2**20 // CHUNK + 1):
            jobs[3].log_acked = number * CHUNK
            journal.write([effect_of(jobs[3])])
        return _written() - before


def test_a_mb_of_log_costs_a_quarter_of_the_whole_job_each_time(tmp_path):
    """Before, each acknowledgement wrote the job with its workload, in pages of 4 KiB: 600 KiB a MB and more."""
    whole = _cost(tmp_path / "whole.db", lambda job: SaveJob(job.id, job.record()))
    marks = _cost(tmp_path / "marks.db", lambda job: SaveLogMark(job.id, job.log_acked))
    assert marks < 150 * 1024 and marks * 2 < whole


def test_an_acknowledgement_writes_a_mark_alone(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    device.wait(3)
    device.forget()
    device.ack(a=4)
    assert device.of(SaveLogMark) == [SaveLogMark("a", 4)] and device.of(SaveJob) == []


def test_marks_are_found_again_and_end_with_their_job(tmp_path):
    with Journal(tmp_path / "journal.db") as journal:
        first, second = _job(1), _job(2)
        second.log_acked = 70  # as a release wrote it that knew no marks
        journal.write([SaveJob(job.id, job.record()) for job in (first, second)])
        journal.write([SaveLogMark(first.id, 50), SaveLogMark(second.id, 60)])
        config = Config(name="edge-1", instance="i", journal="j")
        found = Core(config, journal.load()).state.jobs
        assert [found[job.id].log_acked for job in (first, second)] == [50, 70]
        from airflow_mqtt.worker.core.effects import DropJob

        journal.write([DropJob(first.id)])
        assert set(journal.load().log_marks) == {second.id}
