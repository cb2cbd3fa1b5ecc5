"""What the leader holds in memory: the living, which is what the database said last. Pure.

Scripts read and change a `draft.Draft` over it. Nothing in `Living` changes before a draft is committed.
"""

import heapq
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from airflow_mqtt.bridge.acks import Acks
from airflow_mqtt.bridge.bounds import Lines, Once
from airflow_mqtt.bridge.deadlines import Deadlines
from airflow_mqtt.bridge.dispatch import fleet, timeouts
from airflow_mqtt.bridge.dispatch.placement import Pause
from airflow_mqtt.bridge.groups import Groups
from airflow_mqtt.bridge.queues import Queue
from airflow_mqtt.bridge.roster import Entry, Roster
from airflow_mqtt.database.access import LISTED, OPEN, Access, in_force
from airflow_mqtt.database.labels import of_kinds
from airflow_mqtt.database.ledger import Group, Snapshot, Waiting
from airflow_mqtt.database.records import Job, Worker, replaced
from airflow_mqtt.protocol.jobs import HELD, TERMINAL, JobState
from airflow_mqtt.protocol.messages import PARCELS, WorkerStatus
from airflow_mqtt.protocol.versions import Version
from airflow_mqtt.protocol.workers import GONE

#: Ended jobs that are remembered, since the last of their log may come after their end.
_ENDED: Final = 4096

#: Seconds before something is looked at again that was due and could not be done.
_AGAIN: Final = 0.05

#: (minus free slots, a number that grows, worker): the freest comes first, and of those that has waited longest.
Offer = tuple[int, int, str]


class Living:
    """Workers, jobs that workers hold, jobs that wait; and what follows from them, kept up to date.

    `stirred` names the groups of which something may be placed that could not be before. `allow` is how far the site's
    list counts: see `access.in_force`. `least` is the least version of a worker that is given jobs.
    """

    def __init__(
        self, rules: Callable[[Job], timeouts.Rules], *, allow: str = LISTED, least: Version | None = None
    ) -> None:
        self._rules = rules
        self._allow = allow
        self.least = least
        self.access = OPEN
        self.groups = Groups()
        self.unallowed: dict[str, frozenset[str]] = {}  # worker -> queues that it says it serves and may not, if any
        self.told = Once()  # what was said of them
        self.workers: dict[str, Worker] = {}
        self.jobs: dict[str, Job] = {}
        self.ended: OrderedDict[str, Job] = OrderedDict()
        self.held: dict[str, dict[str, None]] = {}
        self.used: dict[str, int] = {}
        self.roster = Roster()
        self.waiting: dict[str, Waiting] = {}
        self.queues: dict[Group, Queue] = {}
        self.stirred: set[Group] = set()
        self.wishes: dict[str, None] = {}  # jobs whose end is wished and has not begun
        self.unsaid: dict[str, None] = {}  # workers whose desired document may have to be published
        self.removals: dict[str, None] = {}  # workers that an operator wants forgotten
        self.unsaved: dict[str, bool] = {}  # workers of which something is not written yet; true: more than `seen_at`
        self.acks = Acks()
        self.calling: Counter[str] = Counter()  # chains of calls under way, by worker
        self.connected_since = 0.0
        self.lines = Lines()
        # Conveniences: a new leader begins without them, and comes to the same end.
        self.pauses: dict[str, Pause] = {}
        self.early: dict[str, WorkerStatus] = {}
        self.refused: dict[str, str] = {}
        self.renewed: dict[str, str] = {}
        self.desired_said: dict[str, tuple[int, float]] = {}
        self.asked: dict[str, tuple[str, float]] = {}  # journal that a worker was asked to introduce, and when
        self._offers: dict[Group, list[Offer]] = defaultdict(list)
        self._number = 0
        self._due = Deadlines()  # jobs to which time may do something
        self._silent = Deadlines()  # workers that may be silent by then
        self._resting = Deadlines()  # … that are left alone until then
        self._unheeded = Deadlines()  # … that should follow by then what is desired of them
        self._held_up = Deadlines()  # jobs whose rows somebody holds, with what was to be done with them
        self._late = Deadlines()  # jobs that wait, by when they must have begun

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        rules: Callable[[Job], timeouts.Rules],
        *,
        allow: str = LISTED,
        least: Version | None = None,
    ) -> "Living":
        """Return what a new leader begins with."""
        living = cls(rules, allow=allow, least=least)
        living.set_access(snapshot.access)
        living.removals = dict.fromkeys(sorted(snapshot.removals))
        for worker in snapshot.workers:
            living.workers[worker.name] = noted = fleet.noted(worker, least)
            if noted is not worker:  # the leader before had another setting
                living.unsaved[worker.name] = True
        for job in snapshot.jobs:
            living.put_job(job)
        for worker in living.workers.values():  # now that it is known what they hold: each offers its room once
            living._let_serve(worker)
        for waiting in snapshot.waiting:
            living.add_waiting(waiting)
        return living

    # --- jobs ---------------------------------------------------------------------------------------------

    def job(self, id_: str) -> Job | None:
        """The job, if a worker holds it, or it has ended and is remembered."""
        return self.jobs.get(id_) or self.ended.get(id_)

    def put_job(self, job: Job) -> None:
        """Take in a job as the database has it now."""
        before = self.jobs.get(job.id)
        if before is not None and _is_held_alike(before, job):
            self._move_on(job)
            return
        self.take_out(job.id)
        if job.state in TERMINAL:
            self._remember(job)
            return
        if _is_wished_away(job):
            self.wishes[job.id] = None
        if job.state is JobState.QUEUED and job.cancel_reason is None:
            self.add_waiting(Waiting.of(job))
        else:
            self._hold(job)

    def _move_on(self, job: Job) -> None:
        """Take in a job of which its worker holds as much as before: there is no more room, and no less."""
        self.jobs[job.id] = job
        self.wishes.pop(job.id, None)
        if _is_wished_away(job):
            self.wishes[job.id] = None
        for deadlines in (self._due, self._held_up):
            deadlines.forget(job.id)
        self._watch_job(job)

    def add_waiting(self, waiting: Waiting) -> None:
        group = waiting.group
        self.waiting[waiting.id] = waiting
        self.queues.setdefault(group, Queue()).add(waiting)
        if self.groups.open(group):
            for name in self.groups.members(group):
                self._offer(name, self.room(name), group)
        self.stirred.add(group)
        if waiting.not_after is not None:
            self._late.put(waiting.id, waiting.not_after)

    def _hold(self, job: Job) -> None:
        self.jobs[job.id] = job
        if job.worker is not None:
            self.held.setdefault(job.worker, {})[job.id] = None
            self.used[job.worker] = self.used.get(job.worker, 0) + job.slots
            self.offer(job.worker)
        self._watch_job(job)

    def _remember(self, job: Job) -> None:
        self.ended[job.id] = replaced(job, token="") if job.token else job
        if len(self.ended) > _ENDED:
            self.ended.popitem(last=False)

    def take_out(self, id_: str) -> None:
        """Forget a job: its row is gone, or is about to be taken in anew."""
        self.wishes.pop(id_, None)
        self.ended.pop(id_, None)
        for deadlines in (self._due, self._held_up, self._late):
            deadlines.forget(id_)
        waiting = self.waiting.pop(id_, None)
        if waiting is not None:
            group = waiting.group
            self.queues[group].remove(waiting)
            if not self.queues[group].by_size:
                del self.queues[group]
                self._drop_offers(self.groups.rest(group))
        job = self.jobs.pop(id_, None)
        if job is not None and job.worker is not None:
            self._let_go(job, job.worker)

    def _let_go(self, job: Job, worker: str) -> None:
        del self.held[worker][job.id]
        self.used[worker] -= job.slots
        if not self.held[worker]:
            del self.held[worker], self.used[worker]
        self.offer(worker)

    def jobs_of(self, worker: str) -> list[Job]:
        """The jobs that `worker` holds."""
        return [self.jobs[id_] for id_ in self.held.get(worker, ())]

    # --- workers ------------------------------------------------------------------------------------------

    def put_worker(self, worker: Worker) -> None:
        """Take in a worker as the database has it, or soon will."""
        before = self.workers.get(worker.name)
        self.workers[worker.name] = worker
        if before is None or fleet.silent_at(worker) < fleet.silent_at(before):
            self._watch_worker(worker)
        if before is not None and fleet.is_placed_alike(before, worker):
            if before.clock.note != worker.clock.note:
                self._count(worker.name)
            return
        for job in self.jobs_of(worker.name):
            self._watch_job(job)
        self._let_serve(worker)

    def _let_serve(self, worker: Worker) -> None:
        self._serve(worker)
        self.unsaid[worker.name] = None
        self._watch_worker(worker)
        self.offer(worker.name)

    def set_access(self, access: Access) -> None:
        """Take in what the site allows. Jobs that a worker may not have any more, and has not started, are due."""
        self.access = in_force(access, self._allow)
        for worker in self.workers.values():
            self._serve(worker)
            self.offer(worker.name)
        for job in self.jobs.values():
            if self.is_unallowed(job):
                self._watch_job(job)

    def is_unallowed(self, job: Job) -> bool:
        """Whether a worker has been given `job`, has not started it, and may not: that was allowed when it was."""
        unstarted = job.state is JobState.DISPATCHED or job.state is JobState.ACCEPTED
        return unstarted and not self.access.may_serve(job.worker or "", job.queue)

    def _serve(self, worker: Worker) -> None:
        """Note which of its queues a worker may serve."""
        name, queues = worker.name, worker.queues
        allowed = frozenset(queue for queue in queues if self.access.may_serve(name, queue))
        had = {} if worker.info is None else {**worker.info.labels, **dict(of_kinds(worker.info.kinds))}
        self._drop_offers(*self.groups.serve(name, allowed, had))
        self.unallowed.pop(name, None)
        if allowed != queues:
            self.unallowed[name] = queues - allowed

    def _drop_offers(self, *groups: Group | None) -> None:
        for group in groups:
            if group is not None:
                self._offers.pop(group, None)

    def forget_worker(self, name: str) -> None:
        self.workers.pop(name, None)
        self._count(name)
        self._drop_offers(*self.groups.forget(name))
        remembered: tuple[dict[str, Any], ...] = (
            self.unallowed, self.removals, self.unsaved, self.unsaid, self.pauses, self.early, self.refused,
            self.renewed, self.desired_said, self.asked,
        )  # fmt: skip
        for known in remembered:
            known.pop(name, None)
        for deadlines in (self._silent, self._resting, self._unheeded):
            deadlines.forget(name)

    def pause(self, name: str, pause: Pause) -> None:
        """Leave a worker alone for a while."""
        self.pauses[name] = pause
        self._resting.put(name, pause.ends)

    def _end_rest(self, name: str, now: float) -> None:
        """Let a worker take jobs again, unless it was left alone once more meanwhile, and for longer."""
        pause = self.pauses.get(name)
        if pause is not None and pause.lasts(now):
            self._resting.put(name, pause.ends)
        else:
            self.offer(name)

    def resume(self, name: str) -> None:
        """It has shown that it takes jobs."""
        if self.pauses.pop(name, None) is not None:
            self.offer(name)

    # --- room ---------------------------------------------------------------------------------------------

    def members(self, group: Group) -> list[Worker]:
        """The workers that may be given jobs of `group`, as long as it is open."""
        return [self.workers[name] for name in self.groups.members(group)]

    def free(self, name: str) -> int:
        """Slots of a worker that none of our rows holds. Not what it reports: a report is older than a claim."""
        worker = self.workers.get(name)
        return worker.slots - self.used.get(name, 0) if worker else 0

    def offer(self, name: str) -> None:
        """Note that what a worker can take may have changed."""
        self._count(name)
        groups = self.groups.of(name)
        if groups and (room := self.room(name)):
            for group in groups:
                self._offer(name, room, group)
                self.stirred.add(group)

    def _count(self, name: str) -> None:
        """Keep the figures of its queues up to date."""
        worker = self.workers.get(name)
        if worker is None or worker.state in GONE:
            self.roster.note(name, None)
        else:
            self.roster.note(name, Entry(self.groups.queues_of(name), self.room(name), worker.clock.note))

    def room(self, name: str) -> int:
        """Slots in which a worker may be given jobs."""
        worker = self.workers.get(name)
        if worker is None or not worker.may_be_given_jobs:
            return 0
        return max(0, worker.slots - self.used.get(name, 0))

    def _offer(self, name: str, room: int, group: Group) -> None:
        if not room:
            return
        offers = self._offers[group]
        heapq.heappush(offers, (-room, self.next_number(), name))
        if len(offers) > 16 + 4 * len(self.groups.members(group)):
            self._rebuild(group)

    def next_number(self) -> int:
        """Return the number of an offer: of two workers with as much room the one goes first that was offered first."""
        self._number += 1
        return self._number

    def _rebuild(self, group: Group) -> None:
        """Leave out what is no longer so: seldom enough to cost each offer a constant."""
        newest = {name: (free, number, name) for free, number, name in sorted(self._offers[group], key=lambda o: o[1])}
        self._offers[group] = [offer for name, offer in newest.items() if self.free(name) == -offer[0]]
        heapq.heapify(self._offers[group])

    def offers(self, group: Group) -> list[Offer]:
        """The heap of what the workers of `group` can take. An entry counts while it is still so: see `can_take`."""
        return self._offers[group]

    def can_take(self, name: str, group: Group, now: float) -> bool:
        """Whether a worker may be given jobs of `group` now, if it has free slots."""
        worker = self.workers.get(name)
        if worker is None or group not in self.groups.of(name) or not worker.may_be_given_jobs:
            return False
        return not (name in self.pauses and self.pauses[name].lasts(now))

    # --- time ---------------------------------------------------------------------------------------------

    def _watch_job(self, job: Job, not_before: float = 0.0) -> None:
        worker = self.workers.get(job.worker or "") or Worker.unheard(job.worker or "")
        if self.is_unallowed(job):
            at: float | None = 0.0
        else:
            at = timeouts.next_look(job, worker, self._rules(job), connected_since=self.connected_since)
        if at is not None:
            self._due.put(job.id, max(at, not_before))

    def _watch_worker(self, worker: Worker, not_before: float = 0.0) -> None:
        self._silent.put(worker.name, max(fleet.silent_at(worker), not_before))

    def connect(self, now: float) -> None:
        """There is a new connection to the broker: what was sent on the last one may be lost.

        Of workers nothing is looked at: all are judged when they are excused for the time without one.
        """
        self.connected_since = now
        self._bring_forward(now, self._due, self._resting, self._unheeded, self._held_up)

    def look_at_all(self, now: float) -> None:
        """Look now at all that time may do something to: a clock that was set back made times that would not come."""
        self._bring_forward(now, self._due, self._silent, self._resting, self._unheeded, self._held_up)

    def _bring_forward(self, now: float, *deadlines: Deadlines) -> None:
        """Keep nothing waiting longer than it would from now on. A job that has no deadline needs none."""
        for one in deadlines:
            one.bring_forward(now)
        self.acks.turn_back(now)

    def take_due(self, now: float) -> tuple[list[Job], list[Worker]]:
        """Take out of the heaps what time may have done something to: jobs, and workers that may be silent.

        Whoever asks gives them back to `watch`, whatever becomes of them.
        """
        names = self._silent.take(now)
        ids = self._due.take(now)
        for name in self._resting.take(now):
            self._end_rest(name, now)
        self.unsaid.update(dict.fromkeys(name for name in self._unheeded.take(now) if name in self.workers))
        for id_ in self._held_up.take(now):
            self._go_on(id_)
        return [self.jobs[id_] for id_ in ids], [self.workers[name] for name in names]

    def hold_up(self, id_: str, until: float) -> None:
        """Leave a job alone, whose row somebody holds: it is neither placed nor ended before `until`."""
        if id_ in self.jobs or id_ in self.waiting:
            self.wishes.pop(id_, None)
            self._held_up.put(id_, until)

    def _go_on(self, id_: str) -> None:
        if id_ in self.waiting:
            self.stirred.add(self.waiting[id_].group)
        elif _is_wished_away(self.jobs[id_]):
            self.wishes[id_] = None

    def watch(self, jobs: Iterable[Job], workers: Iterable[Worker], now: float) -> None:
        """Look at these again when it is time."""
        for job in jobs:
            if job.id in self.jobs:
                self._watch_job(self.jobs[job.id], now + _AGAIN)
        for worker in workers:
            if worker.name in self.workers and self.workers[worker.name].state not in GONE:
                self._watch_worker(self.workers[worker.name], now + _AGAIN)

    def expect_heed(self, name: str, at: float) -> None:
        """Look at `at` whether the worker follows what is desired of it."""
        self._unheeded.put(name, at)

    def acknowledge(self, name: str, marks: Mapping[str, int], now: float, *, reports: int, waits: bool) -> None:
        """Acknowledge so many more reports of a worker; `waits`: it may do nothing before it hears that."""
        self.acks.put(name, marks, now, reports=reports, calm=not waits and not marks and name in self.held)

    def due_acks(self, now: float) -> list[str]:
        """The workers whose acknowledgement is due."""
        return self.acks.due(now, lambda name: self.calling[name] > 0 and self.gathers(name))

    def gathers(self, name: str) -> bool:
        """Whether a worker takes several messages in one."""
        worker = self.workers.get(name)
        return worker is not None and PARCELS in worker.features

    def take_late(self, now: float, limit: int) -> list[str]:
        """Take out of their heap the jobs that wait and should have begun, `limit` at most.

        Whoever asks gives them back to `watch_late`, whatever becomes of them.
        """
        return self._late.take(now, limit)

    def watch_late(self, ids: Iterable[str], now: float) -> None:
        """Look at those of them again that still wait."""
        for id_ in ids:
            if id_ in self.waiting:
                self._late.put(id_, now + _AGAIN)

    @property
    def next_late(self) -> float:
        """When a job that waits may be late."""
        return self._late.next

    @property
    def next_deadline(self) -> float:
        """When `take_due` finds something, if nothing changes before."""
        return min(d.next for d in (self._due, self._silent, self._resting, self._unheeded, self._held_up))


def _is_held_alike(before: Job, after: Job) -> bool:
    """Whether a worker that holds `before` holds `after` in the same slots."""
    return after.state in HELD and after.worker == before.worker and after.slots == before.slots


def _is_wished_away(job: Job) -> bool:
    """Whether somebody wishes the end of a living job, and that has not begun."""
    return job.cancel_reason is not None and job.state is not JobState.CANCELLING
