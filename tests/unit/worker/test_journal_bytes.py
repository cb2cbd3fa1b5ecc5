"""What tasks and logs cost the device's flash: bytes and commits, whatever the device does."""

import os

import pytest

from airflow_mqtt.protocol.messages import PARCELS, Ack, BridgeStatus, Response, Run
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.core.effects import DropJob, SaveJob, SaveLogMark
from airflow_mqtt.worker.core.jobs import Job
from airflow_mqtt.worker.core.logs import CHUNK
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.loop import JOURNAL_EFFECTS

#: What the same cost before the worker wrote lean: each step of a job wrote its workload again, in pages of 4 KiB.
#: Counted with the worker of commit fda93ea: this test's no-op, and whole jobs for a MB of log.
NO_OP_BEFORE = 109_580
MB_BEFORE = 844_320

#: What is written to the write-ahead log: pages, each with a header.
FRAME = 512 + 24

#: As large as one of Airflow's.
TI = {
    "id": "0199a7c2-5b1e-7d11-9c7e-2f6f3c1d9a10", "dag_version_id": "0199a7c2-5b1e-7d11-9c7e-2f6f3c1d9a11",
    "task_id": "noop", "dag_id": "lean", "run_id": "manual__2026-01-01T00:00:00.000000+00:00", "try_number": 1,
    "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1, "executor_config": {},
    "parent_context_carrier": {"traceparent": "00-" + "0123456789abcdef" * 3 + "-00"},
    "context_carrier": {"traceparent": "00-" + "0123456789abcdef" * 3 + "-00"},
}  # fmt: skip
WORKLOAD = {
    "type": "ExecuteTask", "ti": TI, "dag_rel_path": "lean.py", "bundle_info": {"name": "bench", "version": None},
    "log_path": f"dag_id=lean/run_id={TI['run_id']}/task_id=noop/attempt=1.log", "sentry_integration": "",
}  # fmt: skip
HEADERS = {"content-type": "application/json"}
SUCCESS = '{"state":"success","end_date":"2026-01-01T00:00:00.000000Z","task_outlets":[],"outlet_events":[]}'


def _job(number: int, workload=WORKLOAD) -> Job:
    run = Run(job=_name(number), attempt=1, kind="airflow", slots=1, workload=workload)
    return Job(run=run, queue="default")


def _name(number: int) -> str:
    return f"0199a7c2-5b1e-7d11-9c7e-2f6f3c1d{number:04}"


def _written() -> int:
    """Return how many bytes this process has written."""
    for line in open(f"/proc/{os.getpid()}/io"):  # noqa: SIM115
        if line.startswith("wchar"):
            return int(line.split()[1])
    raise AssertionError


class Flash:
    """A worker whose bridge takes parcels, with a journal on the disk, and what that has cost."""

    def __init__(self, device, journal: Journal) -> None:
        self.device, self.journal = device, journal
        self.commits = 0
        self._take = device.core.take
        device.core.take = self._commit
        self._before = _written()

    @property
    def size(self) -> int:
        return _written() - self._before

    def forget(self) -> None:
        self.commits, self._before = 0, _written()

    def _commit(self):
        """As the loop does."""
        effects = self._take()
        kept = [effect for effect in effects if isinstance(effect, JOURNAL_EFFECTS)]
        self.commits += bool(kept)
        self.journal.write(kept)
        return effects

    def run(self, number: int, log: bytes = b"x" * 3200) -> None:
        """Run a task that returns 1, and have all that it said acknowledged."""
        device, job = self.device, _name(number)
        device.run(job, workload=WORKLOAD)
        gate = device.call(job, "PATCH", f"task-instances/{job}/run", "{}", headers=HEADERS)
        self._answer((gate, 200))
        device.logs[job] = log
        writes = [
            device.call(job, "PUT", f"task-instances/{job}/rtif", '{"op_args":"()","op_kwargs":{}}', headers=HEADERS),
            device.call(job, "POST", f"xcoms/lean/{TI['run_id']}/noop/return_value", "1", headers=HEADERS),
            device.call(job, "PATCH", f"task-instances/{job}/state", SUCCESS, headers=HEADERS),
        ]
        device.end(job)
        self._answer(*((call, 204) for call in writes), ended=True, logs={job: len(log)})
        assert device.jobs == {} and device.calls == {}

    def _answer(self, *answers, ended=False, logs=None) -> None:
        state = self.device.core.state
        responses = [
            Response(id=id_, journal=self.device.journal, status=status, ended=ended).to_object()
            for id_, status in answers
        ]
        ack = Ack(
            journal=self.device.journal, seq=state.outbox.sent, epoch=1, connection=state.connection,
            birth=state.births, answers=responses, logs=logs or {},
        )  # fmt: skip
        self.device.message("airflow/v1/worker/edge-1/ack", ack.encode())


@pytest.fixture
def flash(device, tmp_path):
    status = BridgeStatus(state="leading", instance="bridge-1", epoch=1, ts=0.0, features=[PARCELS])
    device.message("airflow/v1/bridge/status", status.encode(), retained=True)
    device.ack()
    with Journal(tmp_path / "journal.db") as journal:
        made = Flash(device, journal)
        made.run(0)
        made.forget()
        yield made


def test_a_no_op_costs_a_quarter_of_what_it_did(flash):
    for number in range(1, 11):
        flash.run(number)
    commits, size = flash.commits / 10, flash.size / 10
    print(f"a no-op: {commits} commits, {size} bytes")
    assert commits == 7  # acceptance, gate, three writes that were answered, end, acknowledgement
    assert size <= 40 * FRAME <= NO_OP_BEFORE / 4


def _mb(path, effect_of) -> int:
    """Return the bytes that acknowledging a MB of log writes, chunk by chunk."""
    jobs = [_job(number) for number in range(8)]
    with Journal(path) as journal:
        journal.write([SaveJob(job.id, job.record()) for job in jobs])
        before = _written()
        for number in range(1, 2**20 // CHUNK + 1):
            jobs[3].log_acked = number * CHUNK
            journal.write([effect_of(jobs[3])])
        return _written() - before


def test_a_mb_of_log_costs_a_quarter_of_what_it_did(tmp_path):
    marks = _mb(tmp_path / "marks.db", lambda job: SaveLogMark(job.id, job.log_acked))
    print(f"a MB of log: {marks} bytes")
    assert marks <= 2**20 // CHUNK * FRAME + 1024 <= MB_BEFORE / 4


def test_an_acknowledgement_writes_a_mark_alone(device):
    device.start("a")
    device.logs["a"] = b"one\n"
    device.wait(3)
    device.forget()
    device.ack(a=4)
    assert device.of(SaveLogMark) == [SaveLogMark("a", 4)] and device.of(SaveJob) == []


def test_the_order_is_written_once(tmp_path):
    """However large its workload is."""
    job = _job(1, {"type": "ExecuteTask", "executor_config": "x" * 200_000})
    with Journal(tmp_path / "journal.db") as journal:
        journal.write([SaveJob(job.id, job.record())])
        before = _written()
        for launches in range(1, 11):
            job.launches = launches
            journal.write([SaveJob(job.id, job.record())])
        assert _written() - before <= 10 * 2 * FRAME
        assert journal.load().jobs == [job.record()]


def test_a_new_attempt_has_its_own_order(tmp_path):
    first, second = _job(1), _job(1, {"type": "ExecuteTask", "of": "the second"})
    with Journal(tmp_path / "journal.db") as journal:
        journal.write([SaveJob(first.id, first.record())])
        journal.write([DropJob(first.id), SaveJob(second.id, second.record())])  # as `orders` does: one round
        assert journal.load().jobs == [second.record()]


def test_marks_are_found_again_and_end_with_their_job(tmp_path):
    with Journal(tmp_path / "journal.db") as journal:
        first, second = _job(1), _job(2)
        second.log_acked = 70  # as a release wrote it that knew no marks
        journal.write([SaveJob(job.id, job.record()) for job in (first, second)])
        journal.write([SaveLogMark(first.id, 50), SaveLogMark(second.id, 60)])
        config = Config(name="edge-1", instance="i", journal="j")
        found = Core(config, journal.load()).state.jobs
        assert [found[job.id].log_acked for job in (first, second)] == [50, 70]
        journal.write([DropJob(first.id)])
        assert set(journal.load().log_marks) == {second.id}
