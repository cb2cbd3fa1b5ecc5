"""What a batch would make of the living. Pure.

A script reads and changes a `Draft`. One whose commit failed is thrown away: nothing in `Living` has changed then.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from airflow_mqtt.bridge.dispatch import fleet
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.database.ledger import Change, Chunk, Group, Seen, Transition, Waiting, Writes, fields_of
from airflow_mqtt.database.records import Job, Worker, replaced
from airflow_mqtt.protocol.jobs import TERMINAL, JobEvent, JobState, next_state
from airflow_mqtt.protocol.messages import Born, Desired

#: How often a job is given to a worker at most.
MAX_ATTEMPTS: Final = 1000

#: Bytes that a piece of log costs in the database beside its own: its row, and its entry in the index.
ROW: Final = 192

#: Bytes up to which pieces of one log are joined in one row.
_MERGED: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Given:
    """A job that waited, and the worker that gets it."""

    waiting: Waiting
    worker: str


class Draft:
    """The living as they will be if a batch commits, and all that follows from it."""

    def __init__(self, living: Living, now: float) -> None:
        self.living = living
        self.now = now
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.given: dict[str, Given] = {}
        self.waited: dict[str, Job] = {}  # those that wait and end in their queue, as they were
        self.forgotten: list[str] = []
        self.followed: dict[str, Desired] = {}  # shutdowns that workers have followed, with what is desired of them
        self.excused = 0.0
        self.transitions: list[Transition] = []
        self.chunks: list[Chunk] = []
        self._last_chunks: dict[str, int] = {}  # where in `chunks` the last one of a job is
        self.out: list[Outgoing] = []
        self.again: list[Job] = []  # whose orders are published once more
        self.marks: dict[str, dict[str, int]] = {}  # worker -> job -> bytes of its log that will be committed
        self.answered: dict[str, int] = {}  # workers that get an acknowledgement, and of how many reports
        self.awaiting: set[str] = set()  # … those that may do nothing before they have it
        self.births: dict[str, tuple[Born, Any]] = {}  # the newest of each worker, and whose work it is to settle it
        self.asked: set[str] = set()  # workers that are asked to introduce themselves
        self.moved: dict[str, None] = {}
        self.saved: dict[str, None] = {}  # workers that are written whole, since more than `seen_at` is new
        self.seen: dict[str, None] = {}  # … and those of which only that is
        self.saves_all = False  # whether these are all
        self.tokens: dict[str, str] = {}
        self.looked_at: set[Group] = set()  # groups of which nothing more can be placed now
        self.refused: list[str] = []  # why somebody was, to be counted
        self.log_bytes_lost = 0  # acknowledged and not kept
        self.skip: frozenset[str] = frozenset()  # jobs whose rows somebody else holds just now
        #: Whose work is going on, and what it touched: scripts whose jobs are in conflict are left out.
        self.script: Any = None
        self.touched: dict[str, set[Any]] = defaultdict(set)
        self._afterwards: list[Callable[[], object]] = []

    # --- what is there ------------------------------------------------------------------------------------

    def job(self, id_: str) -> Job | None:
        return self.jobs.get(id_) or self.living.job(id_)

    def worker(self, name: str) -> Worker:
        return self.workers.get(name) or self.living.workers.get(name) or Worker.unheard(name)

    def jobs_of(self, worker: str) -> list[Job]:
        jobs = (self.jobs.get(job.id, job) for job in self.living.jobs_of(worker))
        return [job for job in jobs if job.worker == worker and job.state not in TERMINAL]

    def free(self, name: str) -> int:
        """Slots of a worker that are free now. Those that this batch frees are, once it has committed."""
        return self.living.free(name) - sum(g.waiting.slots for g in self.given.values() if g.worker == name)

    # --- what it does -------------------------------------------------------------------------------------

    def move(self, job: Job, event: JobEvent, *, by: str, reason: str = "", **values: Any) -> Job:
        """Apply `event` to `job`, which is as this draft has it, and return the job after it.

        One that has been given back `MAX_ATTEMPTS` times ends: each attempt costs rows, and a worker can have as many
        as it likes.
        """
        if next_state(job.state, event) is JobState.QUEUED and job.attempt >= MAX_ATTEMPTS:
            event, reason = (
                JobEvent.FAIL,
                f"given to workers {job.attempt} times, and not started; the last time: {reason}",
            )
        if next_state(job.state, event) in TERMINAL:
            values["token"] = ""  # nobody calls for it any more, and what has ended is remembered
        after = job.after(event, now=self.now, reason=reason, **values)
        self.transitions.append(
            Transition(job.id, job.attempt, self.now, by, event.value, job.state.value, after.state.value, reason)
        )
        self.moved[job.id] = None
        self.put(after)
        return after

    def end_waiting(self, job: Job, *, by: str, reason: str) -> None:
        """Fail a job that waits in its queue."""
        self.waited[job.id] = job
        self.move(job, JobEvent.FAIL, by=by, reason=reason)

    def put(self, job: Job) -> None:
        """Write what is known of a job and is no transition."""
        self.jobs[job.id] = job
        self.touched[job.id].add(self.script)

    def publish_again(self, job: Job) -> None:
        """Publish what the job's worker was told last once more."""
        after = replaced(job, published_at=self.now, publishes=job.publishes + 1)
        self.put(after)
        self.again.append(after)

    def give(self, waiting: Waiting, worker: str, *, by: str) -> None:
        self.given[waiting.id] = Given(waiting, worker)
        self.touched[waiting.id].add(self.script)
        event, before, after = JobEvent.DISPATCH, JobState.QUEUED, JobState.DISPATCHED
        self.transitions.append(
            Transition(waiting.id, waiting.attempt, self.now, by, event.value, before.value, after.value, "")
        )

    def store_log(self, before: Job, after: Job, offset: int, data: bytes) -> None:
        """Store `data` at `offset` of a job's log, and what is known of the log `after` that.

        What continues a piece of this batch becomes one with it: a row costs much more than a byte.
        """
        stored = before.log_stored + len(data)
        last = self._last_chunks.get(before.id)
        if data and last is not None and self._continues(self.chunks[last], before.attempt, offset):
            self.chunks[last] = replace(self.chunks[last], data=self.chunks[last].data + data)
        elif data:
            self._last_chunks[before.id] = len(self.chunks)
            self.chunks.append(Chunk(before.id, before.attempt, offset, data))
            stored += ROW
        self.put(replaced(after, log_stored=stored))

    @staticmethod
    def _continues(chunk: Chunk, attempt: int, offset: int) -> bool:
        end = chunk.offset + len(chunk.data)
        return (chunk.attempt, end) == (attempt, offset) and len(chunk.data) < _MERGED

    def renew_token(self, job: Job, token: str) -> None:
        self.tokens[job.id] = token
        self.put(replaced(job, token=token))

    def save_worker(self, worker: Worker) -> None:
        self.workers[worker.name] = worker

    def forget_worker(self, name: str) -> None:
        self.forgotten.append(name)
        self.workers.pop(name, None)

    def excuse(self, seconds: float) -> None:
        """Count `seconds` as if they had not passed since any worker was heard: nobody could be."""
        self.excused = seconds
        for worker in self.living.workers.values():
            if worker.seen_at > 0:
                self.workers[worker.name] = replaced(worker, seen_at=min(self.now, worker.seen_at + seconds))

    def acknowledge(self, worker: str, *, waits: bool) -> None:
        """Tell `worker` that one more report has come; `waits`: it may do nothing before it knows that."""
        self.answered[worker] = self.answered.get(worker, 0) + 1
        if waits:
            self.awaiting.add(worker)

    def publish(self, *messages: Outgoing) -> None:
        self.out += messages

    def say(self, owner: str, write: Callable[..., None], text: str, *values: object) -> None:
        """Log a line of `owner`, a job or a worker, when the batch has committed; not more than is good of one."""
        # Not `self`: the draft, and all it holds, would be a circle, and wait for Python's collector.
        lines = self.living.lines

        def write_it() -> None:
            if lines(owner):
                write(text, *values)

        self.then(write_it)

    def then(self, work: Callable[[], object]) -> None:
        """Do this when the batch has committed."""
        self._afterwards.append(work)

    # --- the commit ---------------------------------------------------------------------------------------

    def writes(self) -> Writes:
        """Return what is to be written."""
        writes = Writes(excused=self.excused, now=self.now, transitions=self.transitions, chunks=self.chunks)
        writes.changes = [self._change(job) for job in self.jobs.values()]
        writes.changes += [self._dispatch(given) for given in self.given.values()]
        writes.forgotten = self.forgotten
        writes.followed = self.followed
        for worker in self.workers.values():
            self._note_worker(worker, writes)
        return writes

    def _change(self, job: Job) -> Change:
        before = self.living.job(job.id) or self.waited[job.id]
        token = self.tokens.get(job.id)
        seen = Seen(before.state, before.attempt, before.cancel_reason)
        return Change(job.id, seen, fields_of(job), token, self.now if token else None)

    def _dispatch(self, given: Given) -> Change:
        fields = {**_FRESH} | {
            "state": JobState.DISPATCHED, "attempt": given.waiting.attempt, "worker": given.worker,
            "dispatched_at": self.now, "published_at": self.now, "publishes": 1, "log_stored": given.waiting.log_stored,
        }  # fmt: skip
        return Change(given.waiting.id, Seen(JobState.QUEUED, given.waiting.attempt, None), fields)

    def _note_worker(self, worker: Worker, writes: Writes) -> None:
        before = self.living.workers.get(worker.name)
        if before is None or not fleet.is_saved_alike(before, worker) or worker.name in self.saved:
            writes.workers.append(worker)
        elif before.seq != worker.seq or worker.name in self.seen:
            writes.positions[worker.name] = (worker.seq, worker.seen_at)

    def apply(self, dispatched: Mapping[str, tuple[Job, str]]) -> None:
        """Make it so in memory, since the database has it."""
        living = self.living
        living.stirred -= self.looked_at
        for job in self.jobs.values():
            living.put_job(job)
        for job, _ in dispatched.values():
            living.put_job(job)
        for worker in self.workers.values():
            before = living.workers.get(worker.name)
            living.put_worker(worker)
            if before is not None:
                _note_unsaved(living, before, worker)
        for name in (*self.saved, *self.seen):
            living.unsaved.pop(name, None)
        for name in self.forgotten:
            living.forget_worker(name)
        for work in self._afterwards:
            work()
        for name, reports in self.answered.items():
            marks, waits = self.marks.get(name, {}), name in self.awaiting
            living.acknowledge(name, marks, self.now, reports=reports, waits=waits)
            if name in self.births:
                living.acks.send_now(name)


#: A job that is given to a worker for the first time, or again.
_FRESH: Final[Mapping[str, Any]] = {
    "reason": "", "accept_journal": None, "accept_seq": None, "gate_request": None, "api_version": "",
    "unixname": None, "pid": None, "final_state": None, "exit_code": None, "log_bytes": 0, "log_size": 0,
    "log_tail": None, "accepted_at": None,
    "started_at": None, "running_since": None, "finished_at": None,
}  # fmt: skip


def _note_unsaved(living: Living, before: Worker, worker: Worker) -> None:
    """Remember what of a worker is not written yet: its status, or only when it was heard."""
    if not fleet.is_saved_alike(before, worker):
        living.unsaved.pop(worker.name, None)
    elif before.status is not worker.status or before.clock.correction != worker.clock.correction:
        living.unsaved[worker.name] = True
    elif before.seen_at != worker.seen_at and before.seq == worker.seq:
        living.unsaved.setdefault(worker.name, False)
