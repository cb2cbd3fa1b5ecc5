"""One state of the model, as values that hash, and the bounds and rules under which it moves.

Jobs and workers are numbered from 0. A launch of a runner is named `(journal, boot)`: it is the id of its gate
request, since each runner makes an id of its own.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from airflow_mqtt.protocol.jobs import INITIAL

#: (journal, start of the process in it) of the worker when it started the runner.
Launch = tuple[int, int]

#: (type, job, attempt); the position in the stream is its number.
Report = tuple[str, int, int]

#: What is under way and may arrive never, once, often, late, and before what was sent earlier:
#: ("run", worker, job, attempt), ("cancel", worker, job, attempt), ("ask", worker, job, attempt, launch),
#: ("pass", worker, job, attempt, launch), ("born", worker, number, journal, behind, holds).
Message = tuple[Any, ...]


class Row(NamedTuple):
    """A row of `mqtt_job`, and what really happened to the job (from `told` on), which nobody can read."""

    state: str = INITIAL.value  # plain text: the hash of an enum member is slow
    attempt: int = 1
    worker: int | None = None
    gate: Launch | None = None  # whose gate request let it through
    begun: bool = False  # `started_at` is set
    accepted_in: int | None = None  # the journal that said that it was accepted
    since: int = 0  # reports of it that were applied since, as far as a birth under way is older than they are
    pending: bool = False  # `report_pending`, of an end
    told: int = 0  # how often Airflow heard of the end
    starts: int = 0  # how often user code began
    ran_on: tuple[int, int] | None = None  # (worker, attempt) that began it last
    ended: bool = False  # user code came to its end there


class Hold(NamedTuple):
    """What a worker's journal says of an attempt. `phase`: accepted, running, stopping, ended."""

    attempt: int
    phase: str
    launch: Launch


class Worker(NamedTuple):
    """A worker, and its row of `mqtt_worker`.

    The position in the stream is kept as a difference: `applied` of the reports in `outbox` are in the database.
    While the database knows an older journal (`known` < `journal`), `old` are the reports of that one that may
    still arrive. `births` counts those that the database has not heard.
    """

    journal: int = 0
    boot: int = 0
    holds: tuple[Hold | None, ...] = ()
    gone: tuple[int, ...] = ()  # per job the newest attempt that ended here; in memory
    outbox: tuple[Report, ...] = ()
    births: int = 0
    epoch: int = 1  # the newest that it has seen
    known: int = 0
    applied: int = 0
    old: tuple[Report, ...] = ()


class State(NamedTuple):
    """All of it."""

    rows: tuple[Row, ...]
    workers: tuple[Worker, ...]
    net: frozenset[Message]
    epoch: int
    left: int  # disturbances that may still happen
    sleeper: tuple[int, int, int] | None = None  # (epoch, worker, reports applied to its row since it was read)
    broken: str = ""  # which promise the step before broke


@dataclass(frozen=True, slots=True)
class Instance:
    """A bounded instance: `disturbances` of any kind, at any moment, beside what happens to messages.

    A doubt of the bridge or a reject leads to no attempt above `attempts`.
    """

    name: str
    jobs: int
    workers: int
    attempts: int
    disturbances: int
    wipes: bool = True  # whether a disk may be emptied; that multiplies the states most

    def initial(self) -> State:
        worker = Worker(holds=(None,) * self.jobs, gone=(0,) * self.jobs)
        return State(
            rows=(Row(),) * self.jobs,
            workers=(worker,) * self.workers,
            net=frozenset(),
            epoch=1,
            left=self.disturbances,
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the protocol, each of which a defect may switch off."""

    checks_attempt: bool = True  # reports of an older attempt are stale
    checks_gate_request: bool = True  # only the same request passes the gate again
    gate_moves_job: bool = True  # passing the gate is a compare-and-set in the database
    checks_worker: bool = True  # a report or request counts only from the worker that holds the job
    waits_for_gate: bool = True  # a runner begins user code only after the gate's answer
    acks_after_commit: bool = True
    keeps_outbox: bool = True  # events wait in the journal, not in memory, until they are acknowledged
    stops_at_gap: bool = True  # a report beyond a gap is not applied
    fences: bool = True  # a write of a deposed leader fails
    locks_row: bool = True  # a worker's row is not written from an old read
    knows_ended: bool = True  # a runner that died after the gate is not started again
    resends_orders: bool = True  # `run` and `cancel` are published again
    born_to_new_leader: bool = True  # a higher epoch brings a birth
    ignores_late_birth: bool = True
    compares_acceptance: bool = True  # a birth ends no job that was accepted after it
    confirms_absent: bool = True  # a cancel of what a worker does not hold is confirmed
    repeats_birth: bool = True  # a birth that the bridge has not answered is sent again
    gate_checks_journal: bool = True  # a request of another journal than the one last born waits
    new_disk_is_new: bool = True  # a journal never seen is newer than all that were, whatever its numbers
    old_disk_is_old: bool = True  # a late birth of a journal that was followed by another changes nothing

    @property
    def guards_gate(self) -> bool:
        return self.checks_attempt and self.checks_gate_request and self.gate_moves_job and self.checks_worker

    @property
    def loses_no_position(self) -> bool:
        return self.fences and self.locks_row
