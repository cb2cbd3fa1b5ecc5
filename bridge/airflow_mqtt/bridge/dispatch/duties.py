"""What the leader does by itself: wishes carried out, deadlines kept, jobs placed. Scripts over a `Draft`. Pure."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from airflow_mqtt.bridge.dispatch import fleet, placement, timeouts
from airflow_mqtt.bridge.dispatch.reports import because
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.database import notes
from airflow_mqtt.database.ledger import Group
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.jobs import JobEvent, JobState, next_state
from airflow_mqtt.protocol.workers import GONE

log = logging.getLogger(__name__)

#: Workers of which something is written in one batch, beside those that were heard.
_SAVED: Final = 5000


@dataclass(frozen=True, slots=True)
class Duties:
    """The scripts of the leader called `by`. `heed_after` is in seconds, `worker_retention` too; 0 keeps workers."""

    messages: Messages
    by: str
    rules: Callable[[Job], timeouts.Rules]
    heed_after: float
    worker_retention: float

    def carry_out_wishes(self, draft: Draft) -> None:
        """End the jobs whose end somebody wishes."""
        for id_ in list(draft.living.wishes):
            job = draft.job(id_)
            if id_ in draft.skip or job is None or job.cancel_reason is None:
                continue
            if next_state(job.state, JobEvent.CANCEL) is None:
                draft.then(lambda id_=id_: draft.living.wishes.pop(id_, None))  # type: ignore[misc]
                continue
            self.cancel(draft, job, job.cancel_reason, by=job.cancel_by or self.by)

    def cancel(self, draft: Draft, job: Job, reason: str, *, by: str = "") -> None:
        """Ask the worker of `job` to end it; one that waits ends here."""
        after = draft.move(job, JobEvent.CANCEL, by=by or self.by, reason=reason)
        if after.state is JobState.CANCELLING:
            draft.publish_again(after)
        draft.say(after.id, log.info, "job %s: %s%s", after.id, after.state, because(reason))

    def keep_deadlines(self, draft: Draft, jobs: list[Job], workers: list[Worker]) -> None:
        """Do what time asks for of these jobs and workers."""
        for worker in workers:
            self._judge(draft, draft.worker(worker.name))
        for job in jobs:
            current = draft.job(job.id)
            if current is not None and job.id not in draft.skip:
                self._keep_deadline(draft, current)

    def end_late(self, draft: Draft, jobs: Iterable[Job]) -> None:
        """Fail those of `jobs` that still wait in their queue, and should have begun."""
        waits: dict[tuple[Group, int], str] = {}
        for job in jobs:
            waiting = draft.living.waiting.get(job.id)
            if (
                waiting is None
                or (waiting.attempt, job.state) != (job.attempt, JobState.QUEUED)
                or job.id in draft.skip
            ):
                continue
            alike = waiting.group, waiting.slots
            if alike not in waits:
                waits[alike] = why_it_waits(draft.living, *alike)
            reason = f"{timeouts.missed(job)}: {waits[alike]}"
            draft.end_waiting(job, by=self.by, reason=reason)
            draft.say(job.id, log.warning, "job %s: %s%s", job.id, JobState.FAILED, because(reason))

    def _judge(self, draft: Draft, worker: Worker) -> None:
        after = fleet.judge(worker, now=draft.now)
        if after is not worker:
            draft.save_worker(after)
            draft.say(after.name, log.info, "worker %s: %s", after.name, after.state)

    def _keep_deadline(self, draft: Draft, job: Job) -> None:
        name = job.worker or ""
        worker = draft.worker(name)
        if draft.living.is_unallowed(job):
            self._take_back(draft, job, f"worker {name} may not serve queue {job.queue} any more: `airflow mqtt allow`")
            return
        due = timeouts.due(job, worker, self.rules(job), now=draft.now, connected_since=draft.living.connected_since)
        if due.resend is not None:
            draft.publish_again(job)
        elif due.event is not None:
            if (job.state is JobState.ACCEPTED or due.event is JobEvent.FAIL) and worker.state not in GONE:
                self._take_back(draft, job, due.reason, due.event)
            else:
                self._give_up(draft, job, due.event, due.reason)
            if worker.state not in GONE and due.event is not JobEvent.FAIL:
                living, now = draft.living, draft.now
                draft.then(lambda: living.pause(name, placement.after_silence(living.pauses.get(name), now)))

    def _give_up(self, draft: Draft, job: Job, event: JobEvent, reason: str) -> None:
        after = draft.move(job, event, by=self.by, reason=reason)
        draft.say(after.id, log.warning, "job %s: %s%s", after.id, after.state, because(reason))

    def _take_back(self, draft: Draft, job: Job, reason: str, event: JobEvent = JobEvent.RELEASE) -> None:
        """Put a job that has not started back into its queue, or fail it, and tell its worker, which lives, to let go
        of it.
        """
        self._give_up(draft, job, event, reason)
        draft.publish(self.messages.drop(job.worker or "", job.queue, job.id, job.attempt, reason[:1000]))

    def say_desired(self, draft: Draft) -> None:
        """Publish what an operator wishes: once for each change, and again until the worker says that it knows it.

        Retained messages do not outlive a broker's store. A new leader publishes all wishes that there are.
        """
        living = draft.living
        for name in list(living.unsaid):
            worker = draft.worker(name)
            if self._is_due(draft, worker):
                draft.publish(self.messages.desired(name, worker.desired))
                said = (worker.desired.revision, draft.now)
                draft.then(lambda name=name, said=said: self._note_said(draft, name, said))  # type: ignore[misc]
            else:
                draft.then(lambda name=name: living.unsaid.pop(name, None))  # type: ignore[misc]

    def _note_said(self, draft: Draft, name: str, said: tuple[int, float]) -> None:
        draft.living.desired_said[name] = said
        draft.living.unsaid.pop(name, None)
        draft.living.expect_heed(name, draft.now + self.heed_after)

    def _is_due(self, draft: Draft, worker: Worker) -> bool:
        revision = worker.desired.revision
        said, at = draft.living.desired_said.get(worker.name, (0, 0.0))
        if revision != said:
            return True
        unheard = worker.state not in GONE and worker.status is not None and worker.status.revision != revision
        return unheard and not at <= draft.now < at + self.heed_after

    def place(self, draft: Draft) -> None:
        placement.place(draft, by=self.by)

    @staticmethod
    def save_unsaved(draft: Draft) -> None:
        """Write what heartbeats said since the last time."""
        living = draft.living
        names = list(living.unsaved)[:_SAVED]
        for name in names:
            draft.save_worker(draft.worker(name))
            (draft.saved if living.unsaved[name] else draft.seen)[name] = None
        draft.saves_all = len(living.unsaved) == len(names)

    def forget_workers(self, draft: Draft) -> None:
        """Forget the workers that an operator wants forgotten, once they are gone and hold nothing."""
        for name in list(draft.living.removals):
            self._forget(draft, name)

    def forget_old_workers(self, draft: Draft) -> None:
        """Forget the workers of which nothing has been heard for `worker_retention`."""
        for worker in list(draft.living.workers.values()) if self.worker_retention else ():
            if 0 < worker.seen_at < draft.now - self.worker_retention:
                self._forget(draft, worker.name)

    @staticmethod
    def _forget(draft: Draft, name: str) -> None:
        worker = draft.worker(name)
        if worker.state in GONE and not draft.jobs_of(name):
            draft.forget_worker(name)
            draft.say(name, log.info, "worker %s is forgotten", name)


def why_it_waits(living: Living, group: Group, slots: int) -> str:
    """Return why a job of `group` that needs so many slots waits."""
    queue, labels = group
    serving = living.groups.members((queue, ()))
    # Of these only whether there are any is asked: a thousand jobs may be late at once, each in a group of its own.
    some = [living.workers[name] for name in islice(serving, 1)]
    return notes.of_wait(queue, labels, slots, some, living.members(group))
