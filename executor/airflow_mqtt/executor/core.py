"""What the scheduler is told of a job. Pure: values in, a decision out.

Airflow's scheduler holds an executor's report against the state of the task instance, and fails the task when the
two disagree (`SchedulerJobRunner.process_executor_events`, "state mismatch"). So the art is to say nothing: of an
older dispatch, and of a task that deferred and may be queued again by now.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from airflow_mqtt.protocol.jobs import TERMINAL, JobState
from airflow_mqtt.protocol.kinds import Kind


class Report(StrEnum):
    """What the scheduler hears."""

    SILENT = "silent"  # nothing; the key is let go if the job has ended
    RUNNING = "running"
    SUCCESS = "success"  # the job ended in order; what became of the task, the Execution API knows
    FAILED = "failed"  # the job ended out of order: the scheduler fails or retries a task that still waits for it


#: Final states after which the same try runs again. A success that arrives late fails the task when it has been
#: queued again by then: apache/airflow #66374, #67287, #72716, #71580, #71172.
RESUMABLE: Final = frozenset({"deferred", "up_for_reschedule", "awaiting_input"})

#: How a reason begins when Airflow itself no longer wanted the task (cleared, marked, gone).
BY_AIRFLOW: Final = "airflow:"

#: How a reason begins when a person ended the job with `airflow mqtt cancel-job`.
BY_OPERATOR: Final = "operator:"


class Job(NamedTuple):
    """What a decision depends on. A pass may make a thousand: a frozen dataclass takes three times as long to make.

    `newest` says whether Airflow still knows the subject by this dispatch. `final_state` is what the Execution
    API accepted as the end of the task, if anything.
    """

    id: str
    kind: Kind
    state: JobState
    reason: str
    final_state: str | None
    newest: bool


class Decision(NamedTuple):
    """What to report. `ended` says whether the executor forgets the job; `info` goes with the report."""

    report: Report
    ended: bool
    info: str | None = None


def decide(job: Job) -> Decision:
    """Return what the scheduler is told of `job`."""
    if job.state not in TERMINAL:
        return _of_live(job)
    if not job.newest or job.final_state in RESUMABLE:
        return Decision(Report.SILENT, ended=True)
    if job.final_state is not None or job.state is JobState.SUCCEEDED:
        # What the Execution API accepted stands, also when the worker was lost right after.
        return Decision(Report.SUCCESS, ended=True, info=job.reason or None)
    if job.kind.tracked and job.reason.startswith(BY_AIRFLOW):
        # A task that was cleared while it ran is RESTARTING; this is what lets the scheduler go on with it.
        return Decision(Report.SUCCESS, ended=True, info=job.reason)
    if job.state is JobState.CANCELLED:
        return _of_cancelled(job)
    return Decision(Report.FAILED, ended=True, info=job.reason or job.state.value)


def _of_live(job: Job) -> Decision:
    if job.state is JobState.RUNNING and job.newest:
        # The scheduler writes this info into the task instance's `external_executor_id`.
        return Decision(Report.RUNNING, ended=False, info=job.id)
    return Decision(Report.SILENT, ended=False)


def _of_cancelled(job: Job) -> Decision:
    if not job.kind.tracked or job.reason.startswith(BY_OPERATOR):
        # Nothing else ends what Airflow does not track. A task whose job was cancelled by hand would wait for its
        # timeout.
        return Decision(Report.FAILED, ended=True, info=job.reason or job.state.value)
    return Decision(Report.SILENT, ended=True)  # revoked by the scheduler: it wants to hear nothing
