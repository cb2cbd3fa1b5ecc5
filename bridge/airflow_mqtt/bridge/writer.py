"""The one writer: gathers what waits, runs it over memory, commits it, then makes it so and says it.

Everything that changes state is a script over a `Draft`: a message of a worker, a call at the gate, a deadline, a
placement. A round takes all scripts that wait, commits what they write in one transaction, applies that to memory, and
only then publishes and answers. A round that does not commit leaves memory as it was; its scripts run again.

What may race, and who wins: a scheduler may write a row that a round changes too. The commit is a compare-and-set on
each row, so the round that meets this is a `Conflict`: the rows are read anew, and the scripts run again over what they
say now. A row that somebody holds at that moment is not waited for: scripts that touch it are put off, with all else
of the same worker, and everybody else goes on.

What waits is in a `Backlog`; what others wrote is read by `Refresh` at a round's beginning, and after a conflict.

It awaits nothing but its ledger, and takes its clock and its futures from outside: the simulation runs this class.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from airflow_mqtt.bridge.backlog import Backlog, Future, Script, Work
from airflow_mqtt.bridge.dispatch.duties import Duties
from airflow_mqtt.bridge.dispatch.outage import Outage
from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.living import Living
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.bridge.refresh import Refresh
from airflow_mqtt.bridge.tally import Tally
from airflow_mqtt.database.errors import DeposedError, is_transient, refusal
from airflow_mqtt.database.ledger import Committed, Conflict, Ledger
from airflow_mqtt.database.records import Job, Worker
from airflow_mqtt.protocol.errors import PayloadError, RefusedError
from airflow_mqtt.protocol.jobs import JobEvent, JobState

log = logging.getLogger(__name__)

#: Scripts of one round.
BATCH: Final = 1000

#: How often a round is tried again at once, when others have changed what it changes.
_TRIES: Final = 5

#: So many rounds in a row that the database does not take may be the fault of one script: then each runs by itself.
#: Among these, so many failures in a row are no script's fault.
_SUSPICIOUS: Final = 3

#: Seconds for which scripts wait whose rows somebody holds.
PUT_OFF: Final = 0.02

#: Seconds for which scripts wait that the database does not take.
_HELD: Final = 5.0

#: Seconds between two times that heartbeats are written, if `lost_after` allows so many.
SAVE_INTERVAL: Final = 15.0

#: Seconds between two looks for workers that nobody has heard of for long.
_OLD_WORKERS_INTERVAL: Final = 3600.0


class Writer:
    """Scripts in, messages out. `wake` is called when there is work for a round."""

    def __init__(
        self,
        ledger: Ledger,
        living: Living,
        reports: Reports,
        duties: Duties,
        outage: Outage,
        *,
        clock: Callable[[], float],
        future: Callable[[], Future],
        publish: Callable[[list[Outgoing]], object],
        wake: Callable[[], None],
        max_message_bytes: int,
        save_interval: float = SAVE_INTERVAL,
    ) -> None:
        self.living = living
        self.outage = outage
        self.tally = Tally()
        self._ledger = ledger
        self.reports = reports
        self._duties = duties
        self._clock = clock
        self._future = future
        self._publish = publish
        self._wake = wake
        self.max_message_bytes = max_message_bytes
        self._save_interval = save_interval
        self._backlog = Backlog()
        self._refresh = Refresh(ledger, living, reports)
        self._unsent: list[Job] = []  # whose orders are published once more
        self._late: list[Job] = []  # that wait, and should have begun
        self._is_asked = False  # whether somebody waits to know that this leader still leads
        self._saved_at = clock()
        self._old_at = clock()
        self._now = 0.0
        self._failed_rounds = 0
        #: Whether messages can be published, so that what is decided reaches somebody.
        self.connected = False

    # --- work comes in ------------------------------------------------------------------------------------

    def receive(self, heard: Heard) -> None:
        """Apply a message of a worker."""
        self._add(Work(heard.worker, lambda draft: self.reports.apply(draft, heard), heard=heard))

    def submit(self, worker: str, script: Script) -> Awaitable[Any]:
        """Run `script` for `worker`, and return its result once it has been committed."""
        work = Work(worker, script, future=self._future())
        self._add(work)
        assert work.future is not None
        return work.future

    def _add(self, work: Work) -> None:
        self._backlog.add(work)
        self._wake()

    def confirm(self) -> Awaitable[Any]:
        """Return once a read has shown that this leader still leads. The round of one that does not ends it."""
        self._is_asked = True
        return self.submit("", lambda _: None)

    def look_for_news(self) -> None:
        """Somebody else has written something."""
        self._refresh.look_for_news()
        self._wake()

    def connect(self, now: float) -> None:
        """There is a new connection to the broker."""
        self.connected = True
        self.outage.connect(now)
        self.living.connect(now)
        self._wake()

    def lose(self, now: float) -> None:
        """There is none any more."""
        self.connected = False
        self.outage.lose(now)

    async def save_now(self) -> None:
        """Write what heartbeats said, and return when that has committed."""
        self._saved_at = float("-inf")
        await self.submit("", lambda _: None)

    def stop_job(self, job: Job, reason: str) -> Awaitable[Any]:
        """Airflow wants `job` ended: ask its worker, unless it is ending by itself just now."""

        def stop(draft: Draft) -> None:
            current = draft.job(job.id)
            if current is None or (current.attempt, current.state) != (job.attempt, JobState.RUNNING):
                return
            if current.final_state is None:  # else it is ending by itself
                self._duties.cancel(draft, current, reason)

        return self.submit(job.worker or "", stop)

    def has_work(self, now: float) -> bool:
        """Whether a round at `now` would do something."""
        is_due = self._backlog.is_ready or self._refresh.is_due or bool(self._unsent) or now < self._now
        return is_due or self.next_deadline <= now

    def __len__(self) -> int:
        return len(self._backlog)

    @property
    def next_deadline(self) -> float:
        """When there is something to do if nothing comes in before."""
        times = [self._refresh.next_look, self.living.next_late]
        if (due := self.living.acks.next_due) is not None:
            times.append(due)
        if (until := self._backlog.put_off_until) is not None:
            times.append(until)
        if self.living.unsaved:
            times.append(self._saved_at + self._save_interval)
        if self.connected:
            living = self.living
            if living.stirred or living.wishes or living.unsaid or self._refresh.judged or self.outage.unheard:
                return 0.0
            times.append(living.next_deadline)
        return min(times)

    # --- a round ------------------------------------------------------------------------------------------

    async def round(self) -> None:
        """Do what waits, in one transaction.

        Raises `DeposedError`, `RefusedError`, and the database's error when that may pass: then everything waits on.
        """
        now = self._clock()
        if now < self._now:
            self._turn_back(now)
        self._now = now
        await self._make_sure()
        await self._refresh.read_news(now)
        await self._place_ahead(now)
        work = self._backlog.take(now, BATCH)
        is_asked, self._is_asked = self._is_asked, False
        jobs, workers = self._take_due(now)
        late = self.living.take_late(now, BATCH)
        try:
            self._late = await self._ledger.jobs(late) if late else []
            if is_asked:  # by whom this round answers: each read says whose the lease is
                await self._ledger.jobs([""])
            await self._refresh.load_unknown(work, now)
            await self._do(work, jobs, workers, now)
        except (DeposedError, RefusedError):
            raise
        except Exception as error:
            self._is_asked = self._is_asked or is_asked
            self._failed_rounds += 1
            self.tally.failures += 1
            passes = is_transient(error) or refusal(error)
            if passes and (isinstance(error, OSError) or self._failed_rounds < _SUSPICIOUS or len(work) < 2):
                self._backlog.put_back(work)
                raise
            await self._do_apart(work, error, now)
        else:
            self._failed_rounds = 0
        finally:
            self.living.watch(jobs, workers, now)
            self.living.watch_late(late, now)

    async def _place_ahead(self, now: float) -> None:
        """Give out what waits before the fleet is excused for what could not be heard, which is a write to each worker.

        They are as they were when they could be heard last. What cannot be placed so, the round itself places; and all,
        when some of it should have begun: that fails first.
        """
        living = self.living
        if not (self.connected and self.outage.unheard and living.stirred) or living.next_late <= now:
            return
        draft = Draft(self.living, self._clock())
        self._duties.place(draft)
        outcome = await self._commit(draft)
        if isinstance(outcome, Committed):
            self._finish(draft, [], outcome)

    def _take_due(self, now: float) -> tuple[list[Job], list[Worker]]:
        return self.living.take_due(now) if self.connected else ([], [])

    def _turn_back(self, now: float) -> None:
        """The clock was set back to `now`: what was to be done by the one before would wait for as long as that."""
        self._saved_at, self._old_at = min(self._saved_at, now), min(self._old_at, now)
        self._refresh.turn_back(now)
        self._backlog.turn_back(now)
        self.living.look_at_all(now)

    async def _do(self, work: list[Work], jobs: list[Job], workers: list[Worker], now: float) -> None:
        """Run and commit `work`; what is left out of it, since it fails or its rows are held, is taken care of."""
        locked: set[str] = set()
        for attempt in range(_TRIES):
            draft = self._draft(work, jobs, workers, frozenset(locked))
            outcome = await self._commit(draft)
            if isinstance(outcome, Committed):
                self._finish(draft, work, outcome)
                self._note_duties(draft)
                for id_ in sorted(locked):
                    self.living.hold_up(id_, now + PUT_OFF)
                return
            self.tally.conflicts += 1
            locked |= await self._refresh.after_conflict(outcome, last=attempt + 2 >= _TRIES)
            self._leave_out(work, draft, locked, now)
        log.warning("%d scripts wait, since others keep changing what they change", len(work))
        self._backlog.put_off(work, now + PUT_OFF)

    def _draft(self, work: list[Work], jobs: list[Job], workers: list[Worker], locked: frozenset[str]) -> Draft:
        """Run all scripts over a new draft. One that fails is taken out of `work`.

        Its time is now: a connection may have been made since the round began, and what is published on it is no older.
        """
        while True:
            draft = Draft(self.living, self._clock())
            draft.skip = locked
            failed = self._run(draft, work)
            if failed is None:
                break
            work.remove(failed)
        draft.script = None
        self._do_duties(draft, jobs, workers)
        self.reports.finish(draft)
        return draft

    def _run(self, draft: Draft, work: list[Work]) -> Work | None:
        if self.outage.unheard and self.connected:
            draft.excuse(self.outage.unheard)
        for one in work:
            draft.script = one
            try:
                one.result = one.script(draft)
            except Exception as error:
                self._fail(one, error)
                return one
        return None

    def _do_duties(self, draft: Draft, jobs: list[Job], workers: list[Worker]) -> None:
        duties = self._duties
        for name in sorted(self._refresh.judged):
            draft.save_worker(draft.worker(name))
        if draft.now >= self._saved_at + self._save_interval:
            duties.save_unsaved(draft)
        duties.end_late(draft, self._late)
        if not self.connected:
            return
        duties.carry_out_wishes(draft)
        duties.keep_deadlines(draft, jobs, workers)
        duties.say_desired(draft)
        duties.forget_workers(draft)
        if draft.now >= self._old_at + _OLD_WORKERS_INTERVAL:
            duties.forget_old_workers(draft)
        if self.living.stirred:
            duties.place(draft)

    async def _commit(self, draft: Draft) -> Committed | Conflict:
        writes = draft.writes()
        if not writes:
            return Committed({})
        touched = {*draft.jobs, *draft.given}
        try:
            return await self._ledger.commit(writes)
        except DeposedError:
            raise
        except BaseException:
            self._refresh.unsure |= touched  # the answer to COMMIT may be what got lost
            raise

    def _leave_out(self, work: list[Work], draft: Draft, locked: set[str], now: float) -> None:
        """Put off the scripts that touch rows which somebody holds, and all that follows of the same workers."""
        held = {one for id_ in locked for one in draft.touched.get(id_, ()) if one is not None}
        if not held:
            return
        blocked: set[str] = set()
        put_off: list[Work] = []
        for one in list(work):
            if one in held or one.worker in blocked:
                blocked.add(one.worker)
                work.remove(one)
                put_off.append(one)
        self._backlog.put_off(put_off, now + PUT_OFF)

    def _finish(self, draft: Draft, work: list[Work], committed: Committed) -> None:
        draft.apply(committed.dispatched)
        self.tally.batch(draft, committed, len(work), self._clock() - draft.now)
        self.outage.unheard -= draft.excused
        self._publish(self._messages(draft, committed))
        for one in work:
            if one.future is not None and not one.future.done():
                one.future.set_result(one.result)
        if draft.again:
            self.resend(draft.again)
        self._publish(self.reports.acks(self.living, draft.now))

    def _note_duties(self, draft: Draft) -> None:
        """Note what of a round's duties is done."""
        self._refresh.judged.clear()
        if draft.followed:
            self._refresh.look_for_news()  # what was withdrawn comes back as news
        if draft.saves_all:
            self._saved_at = draft.now
        if draft.now >= self._old_at + _OLD_WORKERS_INTERVAL:
            self._old_at = draft.now

    def _messages(self, draft: Draft, committed: Committed) -> list[Outgoing]:
        out = list(draft.out)
        told = {id_: self.living.job(id_) for id_ in draft.moved}
        for job, workload in committed.dispatched.values():
            told[job.id] = job
            out += self._order(job, workload)
        out += self.reports.messages.statuses((job for job in told.values() if job is not None), draft.now)
        if log.isEnabledFor(logging.INFO):
            for job, _ in committed.dispatched.values():
                if self.living.lines(job.id):
                    log.info("job %s: dispatched to worker %s, attempt %d", job.id, job.worker, job.attempt)
        return out

    def _order(self, job: Job, workload: str) -> list[Outgoing]:
        """Return the message that gives `job` to its worker; fail a job of which none can be made."""
        try:
            worker = self.living.workers.get(job.worker or "") or Worker.unheard("")
            return [self.reports.messages.run(job, workload, self.max_message_bytes, worker.clock)]
        except PayloadError as error:
            reason = str(error)

            def set_aside(draft: Draft) -> None:
                current = draft.job(job.id)
                if current is not None and current.attempt == job.attempt and current.state is JobState.DISPATCHED:
                    draft.move(current, JobEvent.FAIL, by=self._duties.by, reason=reason)

            self._add(Work("", set_aside))
            log.error("job %s: failed: %s", job.id, reason)
            return []

    # --- orders once more ---------------------------------------------------------------------------------

    def resend(self, jobs: list[Job]) -> None:
        """Publish the orders of `jobs` once more; a workload is read for it first."""
        messages = self.reports.messages
        self._publish([messages.cancel(job) for job in jobs if job.state is JobState.CANCELLING])
        self._unsent += [job for job in jobs if job.state is JobState.DISPATCHED]
        if self._unsent:
            self._wake()

    async def _make_sure(self) -> None:
        """Know what a commit did that nobody answered, and publish what is to be published once more."""
        await self._refresh.make_sure()
        await self._send_unsent()

    async def _send_unsent(self) -> None:
        if not self._unsent:
            return
        workloads = await self._ledger.workloads([job.id for job in self._unsent])
        jobs, self._unsent = self._unsent, []
        for job in jobs:
            if job.id in workloads and self.living.jobs.get(job.id) == job:
                self._publish(self._order(job, workloads[job.id]))

    # --- faults -------------------------------------------------------------------------------------------

    async def _do_apart(self, work: list[Work], error: Exception, now: float) -> None:
        """Do each script by itself, since together they cannot be committed.

        One that does not fit is dropped. With one that meets any other error its worker waits, and nothing is dropped:
        the error is the database's, or the driver's.
        """
        if not work:
            self._warn("what time asks for could not be done: %.300r", error, exc_info=error)
            return
        if len(work) == 1:
            self._fail(work[0], error)
            return
        self._warn("%d scripts could not be committed together, each runs by itself: %.300r", len(work), error)
        held: list[Work] = []
        failures = 0
        for number, one in enumerate(work):
            if any(one.worker == other.worker for other in held):
                held.append(one)
                continue
            try:
                await self._make_sure()
                await self._do([one], [], [], now)
                failures = 0
            except Exception as failure:
                passes = is_transient(failure) and not isinstance(failure, OSError)
                failures += 1
                if passes and failures < _SUSPICIOUS:
                    held.append(one)
                elif passes or isinstance(failure, (DeposedError, RefusedError, OSError)) or refusal(failure):
                    self._backlog.put_back([*held, *work[number:]])
                    raise
                else:
                    self._fail(one, failure)
        if held:
            self._warn("%d scripts wait, since the database does not take one of them: %.300r", len(held), error)
            self._backlog.put_off(held, now + _HELD, first=True)

    def _warn(self, text: str, *values: object, exc_info: Exception | None = None) -> None:
        """Say what concerns nobody's messages alone, at the rate of lines."""
        if self.living.lines(""):
            log.warning(text, *values, exc_info=exc_info)

    def _fail(self, work: Work, error: Exception) -> None:
        if self.living.lines(work.worker):
            text = "a message or call of worker %s could not be applied, and is dropped"
            log.error(text, work.worker, exc_info=error)
        if work.future is not None and not work.future.done():
            work.future.set_exception(error)
