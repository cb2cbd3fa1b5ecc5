"""Deliberate defects. Each takes one mechanism away, and the search must find what that breaks.

A defect is a rule that is switched off, or rows of `protocol.jobs.TABLE` that are changed. `COVERED` lists
mechanisms that others stand in for: nothing breaks in these instances when one of them alone is missing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from airflow_mqtt.protocol import jobs
from airflow_mqtt.protocol.jobs import JobEvent as E
from airflow_mqtt.protocol.jobs import JobState as S
from model import real
from model.instances import CALM, ONE_FAULT, ONE_WORKER, TWO_WORKERS
from model.search import Result, search
from model.state import Instance, Rules

Rows = Mapping[tuple[S, E], S | None]


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong, and the smallest instance in which it shows. A row of `rows` that is None is removed."""

    name: str
    instance: Instance
    rules: Rules = Rules()
    rows: Rows = field(default_factory=dict)


def hunt(defect: Defect) -> Result:
    """Search with the defect in place."""
    with _changed(defect.rows):
        return search(defect.instance, defect.rules)


@contextmanager
def _changed(rows: Rows) -> Iterator[None]:
    table = {key: after for key, after in (jobs.TABLE | dict(rows)).items() if after is not None}
    with patch.dict(jobs.TABLE, table, clear=True):
        real.forget()
        try:
            yield
        finally:
            real.forget()
    real.forget()


DEFECTS = (
    Defect("reports of older attempts count", ONE_WORKER, Rules(checks_attempt=False)),
    Defect(
        "the gate lets other requests through again, of any journal",
        ONE_FAULT,
        Rules(checks_gate_request=False, gate_checks_journal=False),
    ),
    Defect("the gate does not move the job", TWO_WORKERS, Rules(gate_moves_job=False)),
    Defect("anybody may report and ask", TWO_WORKERS, Rules(checks_worker=False, checks_attempt=False)),
    Defect("the worker does not wait for the gate", TWO_WORKERS, Rules(waits_for_gate=False)),
    Defect("acknowledged before it is committed", CALM, Rules(acks_after_commit=False)),
    Defect("the outbox is in memory", ONE_FAULT, Rules(keeps_outbox=False)),
    Defect("reports beyond a gap are applied", Instance("two calm jobs", 2, 1, 1, 0), Rules(stops_at_gap=False)),
    Defect("a deposed leader may write", Instance("takeover", 1, 1, 1, 2), Rules(fences=False)),
    Defect("a worker's row is written from an old read", ONE_FAULT, Rules(locks_row=False)),
    Defect("what ran before a power loss runs again", ONE_FAULT, Rules(knows_ended=False)),
    Defect("orders are published once", CALM, Rules(resends_orders=False)),
    Defect("a cancel of what is not there is not confirmed", ONE_FAULT, Rules(confirms_absent=False)),
    Defect("a birth ends what was accepted after it", ONE_FAULT, Rules(compares_acceptance=False)),
    Defect("a birth is sent once", ONE_FAULT, Rules(repeats_birth=False)),
    Defect("the gate opens for another journal", ONE_FAULT, Rules(gate_checks_journal=False)),
    Defect("a new disk's numbers look old", ONE_FAULT, Rules(new_disk_is_new=False)),
    Defect("an old disk's birth counts", ONE_WORKER, Rules(old_disk_is_old=False)),
    Defect("table: a job starts before it is accepted", ONE_FAULT, rows={(S.DISPATCHED, E.START): S.RUNNING}),
    Defect("table: a running job goes back", TWO_WORKERS, rows={(S.RUNNING, E.LOSE): S.QUEUED}),
    Defect("table: a lost job may succeed", ONE_FAULT, rows={(S.LOST, E.SUCCEED): S.SUCCEEDED}),
    Defect("table: what failed has succeeded", ONE_FAULT, rows={(S.RUNNING, E.FAIL): S.SUCCEEDED}),
    Defect("table: nobody confirms a cancel", ONE_FAULT, rows={(S.CANCELLING, E.CONFIRM): None}),
    Defect("table: a rejected job stays", ONE_FAULT, rows={(S.DISPATCHED, E.REJECT): None}),
)

_NO_WIPES = Instance("no empty disks", jobs=1, workers=1, attempts=2, disturbances=2, wipes=False)

COVERED = (
    Defect("the gate does not compare requests", ONE_FAULT, Rules(checks_gate_request=False)),
    Defect("reports and requests of any worker, of the right attempt", TWO_WORKERS, Rules(checks_worker=False)),
    Defect("no birth for a new leader", ONE_WORKER, Rules(born_to_new_leader=False)),
    Defect("late births count", _NO_WIPES, Rules(ignores_late_birth=False)),
)
