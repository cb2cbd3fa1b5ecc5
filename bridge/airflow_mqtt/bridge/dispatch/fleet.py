"""What a message of a worker, or its silence, makes of the worker. Pure."""

from dataclasses import fields, replace
from operator import attrgetter

from airflow_mqtt.database.records import Job, Worker, replaced
from airflow_mqtt.protocol import OLDEST_PROTOCOL, PROTOCOL_VERSION
from airflow_mqtt.protocol.clocks import TOLERANCE, Clock
from airflow_mqtt.protocol.messages import Born, ReportedState, WorkerInfo, WorkerStatus
from airflow_mqtt.protocol.versions import Version, objection
from airflow_mqtt.protocol.workers import SILENT_AFTER_INTERVALS, WorkerState, derive, observe, wish_of

#: How many replaced journals of a worker are remembered.
PAST_JOURNALS = 8


def knows(worker: Worker, status: WorkerStatus) -> bool:
    """Whether `status` is of the process that introduced itself last, or of a worker that never did.

    A process says `Born` before its first status. A status of another one is a will that fired late, or has
    overtaken its Born and counts after that.
    """
    return not worker.journal or status.instance == worker.instance


def after_status(worker: Worker, status: WorkerStatus, *, live: bool, now: float) -> Worker:
    """Return `worker` after `status`.

    A status of an older connection, or of another process, is ignored: a will may fire late. One that the broker
    had retained (`live` is false) tells what was, not that the worker is alive now.
    """
    if not knows(worker, status) or status.connection < worker.connection:
        return worker
    counts = live and status.state != ReportedState.OFFLINE
    return replaced(
        worker,
        clock=worker.clock.hear(status.ts, now) if counts else worker.clock,
        status=_known(worker.status, status),
        connection=status.connection,
        birth=worker.birth if status.connection == worker.connection else 0,
        instance=status.instance,
        seen_at=now if counts else worker.seen_at,
    )


def _known(before: WorkerStatus | None, status: WorkerStatus) -> WorkerStatus:
    """Return `status` with what the same process said last of its device, when it says nothing of it now.

    It is `before` itself when nothing is new but the time: most heartbeats are like that, and then nobody needs to
    compare more, or to write more than when the worker was heard.
    """
    if status.health or before is None or before.instance != status.instance:
        return status
    if _but_time(before) == _but_time(status):
        return before
    return replace(status, health=before.health) if before.health else status


#: What a status says, but for when it was made, by whom, and of the device.
_but_time = attrgetter(*(one.name for one in fields(WorkerStatus) if one.name not in ("ts", "instance", "health")))


def after_info(worker: Worker, info: WorkerInfo) -> Worker:
    """Return `worker` after `info`, which is for people: what places jobs is said by the acknowledged `Born` alone."""
    if not worker.journal:
        return replaced(worker, info=info)
    if info.instance != worker.instance or worker.info is None:
        return worker  # the broker had retained it, or it has overtaken its Born
    said = worker.info
    return replaced(worker, info=replace(info, queues=said.queues, kinds=said.kinds, protocol=said.protocol))


def after_birth(worker: Worker, born: Born, now: float) -> Worker:
    """Return `worker` after `born`, with its position in the stream of events settled.

    A new journal starts a new stream. A position before `born.first` means that we forgot numbers that were
    acknowledged once (a database restored from a copy): what the worker no longer has cannot be waited for.
    """
    seq = worker.seq if worker.journal == born.journal else born.first - 1
    return replaced(
        worker,
        info=_info(worker, born),
        journal=born.journal,
        past_journals=_past(worker, born),
        seq=max(seq, born.first - 1, 0),
        instance=born.instance,
        clock=worker.clock if born.instance == worker.instance else Clock(),  # it may have been set since
        connection=born.connection,
        birth=born.number,
        seen_at=now,
        features=tuple(born.features),
    )


def refusal(protocol: int) -> str:
    """Return why this bridge does not take a worker that speaks `protocol`, and who must be updated."""
    late = "update the bridge" if protocol > PROTOCOL_VERSION else "update airflow-mqtt on the device"
    return (
        f"the worker speaks protocol {protocol}, the bridge understands {OLDEST_PROTOCOL} to {PROTOCOL_VERSION}: {late}"
    )


def should_hold(job: Job, born: Born) -> bool:
    """Whether the worker held `job`, which is bound to it, when it said `born`, unless it has forgotten it.

    It may have accepted the job since: a `Born` can be overtaken by all that was said after it.
    """
    if job.accept_journal != born.journal:
        return True  # not accepted, or by a journal that is no more
    return job.accept_seq is not None and job.accept_seq <= born.last


def _past(worker: Worker, born: Born) -> tuple[str, ...]:
    if worker.journal in ("", born.journal):
        return worker.past_journals
    return (*worker.past_journals, worker.journal)[-PAST_JOURNALS:]


def _info(worker: Worker, born: Born) -> WorkerInfo:
    """What places jobs comes with the acknowledged `Born`; the rest is shown when it has arrived.

    A worker of before says its version and its labels in the rest alone.
    """
    if worker.info is not None and worker.info.instance == born.instance:
        before = worker.info
    else:
        before = WorkerInfo(version="", instance=born.instance, queues=[], kinds=[], slots=worker.slots)
    return replace(
        before,
        protocol=born.protocol,
        queues=born.queues,
        kinds=born.kinds,
        version=born.version or before.version,
        labels=born.labels or before.labels,
    )


def is_late(worker: Worker, born: Born) -> bool:
    """Whether `born` is not newer than the last one: delivered twice, or overtaken.

    Connections are counted in a journal. A new journal (a new disk) begins anew; one that it has replaced is past.
    """
    if born.journal in worker.past_journals:
        return True
    return born.journal == worker.journal and (born.connection, born.number) <= (worker.connection, worker.birth)


def silent_for(worker: Worker, *, now: float) -> float:
    """Return for how many seconds nothing was heard of `worker`, in the time that we could have heard it.

    Time in which we could not is excused: `draft.Draft.excuse` has added it to `seen_at`.
    """
    return now - worker.seen_at


def silent_at(worker: Worker) -> float:
    """Return when `worker` will have been silent for so long that it is unknown, if it is not heard before."""
    interval = worker.status.interval if worker.status else 0.0
    return worker.seen_at + SILENT_AFTER_INTERVALS * max(interval, 1.0)


def noted(worker: Worker, least: Version | None) -> Worker:
    """Return `worker` with the note of why it is given no jobs: its version is below `least`. What it has goes on."""
    why = objection(worker.info.version, least) if least is not None and worker.info is not None else ""
    note = f"{why}: it is given no jobs until airflow-mqtt is updated there" if why else ""
    return worker if note == worker.note else replaced(worker, note=note)


def judge(worker: Worker, *, now: float) -> Worker:
    """Return `worker` with the state that it has now."""
    status = worker.status
    own = status is not None and status.own_maintenance  # it wishes that itself
    wish = wish_of(maintenance=worker.desired.maintenance or own, shutdown=worker.desired.shutdown)
    if status is None:
        state = WorkerState.UNKNOWN
    else:
        silent = worker.seen_at == 0.0 or now > silent_at(worker)
        state = derive(
            wish, observe(status.state, maintenance=status.maintenance, running=status.running, silent=silent)
        )
    return worker if state is worker.state else replaced(worker, state=state)


def has_shut_down(worker: Worker) -> bool:
    """Whether a shutdown that is wished of `worker` was followed, or is: then it is over.

    A worker that says the revision of a wish for shutdown has begun to drain, or had done so before it was started
    anew. So whoever starts it again gets it back, and no wish of last week is in the way.
    """
    status = worker.status
    return worker.desired.shutdown and status is not None and status.revision == worker.desired.revision


def is_placed_alike(before: Worker, after: Worker) -> bool:
    """Whether nothing has changed that placement, its jobs' deadlines or what is desired of it depend on."""
    return (
        before.state is after.state
        and before.info is after.info
        and before.desired is after.desired
        and before.journal == after.journal
        and (before.status is after.status or before.slots == after.slots)
        and before.note == after.note
    )


def is_saved_alike(before: Worker, after: Worker) -> bool:
    """Whether what has changed need not be written at once: when it was heard, and figures of its status."""
    return (
        before.state is after.state
        and before.info is after.info
        and before.journal == after.journal
        and before.birth == after.birth
        and before.connection == after.connection
        and before.instance == after.instance
        and before.past_journals == after.past_journals
        and before.note == after.note
        and abs(before.clock.offset - after.clock.offset) <= TOLERANCE
        and (before.status is after.status or _figures(before.status) == _figures(after.status))
    )


def _figures(status: WorkerStatus | None) -> tuple[object, ...] | None:
    if status is None:
        return None
    return status.state, status.slots, status.maintenance, status.reason, status.revision, status.interval
