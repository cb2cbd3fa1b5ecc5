"""Log chunks: from the acknowledged offset on, rate-limited, and after everything else on the link."""

from collections.abc import Mapping

from airflow_mqtt.protocol.messages import LogChunk, LogPart
from airflow_mqtt.worker.core import parcels
from airflow_mqtt.worker.core.effects import Publish, ReadLog
from airflow_mqtt.worker.core.jobs import Job, Phase
from airflow_mqtt.worker.core.state import State, plan, save

CHUNK = 16 * 1024

#: How much of a log may be under way. More waits in its file.
WINDOW = 8 * CHUNK

#: How many messages may be on their way to the broker when a chunk is sent.
MAX_UNDER_WAY = 4

#: Seconds between two logs that begin again: a broker with little room drops what comes at once, round after round.
SPREAD = 0.1


def _unsent(job: Job, now: float) -> bool:
    if job.log_sent - job.log_acked >= WINDOW or now < job.log_due:
        return False
    if job.phase is Phase.ENDED:
        return job.log_sent < job.log_size
    return job.alive and job.phase is Phase.RUNNING


def tick(state: State, now: float) -> None:
    """Ask for what is to be sent next."""
    if not state.connected:
        return
    _refill(state, now)
    for job in state.jobs.values():
        _rewind_stalled(state, job, now)
        if state.log_budget > 0 and _unsent(job, now) and _link_is_free(state):
            job.log_due = now + job.run.log_interval
            state.reading += 1
            state.out.append(ReadLog(job.id, job.attempt, job.log_sent, CHUNK))


def _refill(state: State, now: float) -> None:
    elapsed = max(0.0, now - state.log_budget_at)
    state.log_budget = min(float(state.config.log_rate), state.log_budget + elapsed * state.config.log_rate)
    state.log_budget_at = now


def _link_is_free(state: State) -> bool:
    """Logs yield: while events may not be sent, or much is on its way to the broker, none of theirs are.

    What is handed to the link goes out in order: on a narrow one, reports and calls would stand behind minutes of logs.
    """
    return not state.outbox.is_full and state.under_way < MAX_UNDER_WAY


def _rewind_stalled(state: State, job: Job, now: float) -> None:
    if job.log_sent > job.log_acked and now - job.log_progress >= state.config.resend_after:
        if state.ack_at > job.log_progress:  # else there is nobody: that is no refusal
            job.log_stalls += 1
        job.log_sent = job.log_acked
        job.log_progress = now
        job.log_due = now


def read(state: State, job: Job, offset: int, data: bytes, now: float) -> None:
    """Send what was read, unless an acknowledgement has made it another offset's turn."""
    if offset != job.log_sent or not state.connected:
        return
    if not data:
        _vanished(job)
        return
    data = _whole_lines(data, last=job.phase is Phase.ENDED)
    if not data:
        return  # half a line; its end is still to come
    if job.log_sent == job.log_acked:
        job.log_progress = now
    data, chunk, payload = _packed(state, job, offset, data)
    if len(data) <= parcels.SMALL_LOG:
        state.chunks.append(LogPart(job=job.id, **vars(chunk)))
        plan(state, now)
    else:
        state.out.append(Publish(state.topics.logs(state.config.name, job.id), payload))
    job.log_sent += len(data)
    state.log_budget -= len(data)
    if job.phase is Phase.ENDED or len(data) > CHUNK // 2:
        job.log_due = now  # there is more


def _packed(state: State, job: Job, offset: int, data: bytes) -> tuple[bytes, LogChunk, bytes]:
    """Return as much of `data` as has a way to the bridge, and the chunk and payload with it."""
    while True:
        chunk = LogChunk.of(job.attempt, offset, data)
        payload = chunk.encode()
        if len(payload) <= state.max_message_bytes or len(data) == 1:
            return data, chunk, payload
        half = data[: len(data) // 2]
        data = half[: half.rfind(b"\n") + 1] or half


def _vanished(job: Job) -> None:
    """The log of an ended job is shorter than it was: a line of ours was not written, or somebody cut or deleted it.

    There is nothing left to send. What is under way is waited for all the same.
    """
    if job.phase is Phase.ENDED:
        job.log_size = job.log_sent


def _whole_lines(data: bytes, *, last: bool) -> bytes:
    """Cut after the last line, so that a character is not cut in two; a line of a whole chunk is sent as it is."""
    if last and len(data) < CHUNK:
        return data
    end = data.rfind(b"\n") + 1
    return data[:end] if end or len(data) < CHUNK else data


def acknowledged(state: State, marks: Mapping[str, int], now: float) -> None:
    """Take the marks of an acknowledgement. One beyond what was sent is an earlier attempt's: a mark names none."""
    for name, end in marks.items():
        job = state.jobs.get(name)
        if job is None or not job.log_acked < end <= job.log_sent:
            continue
        job.log_acked = end
        job.log_progress = now
        job.log_stalls = 0
        save(state, job)


def rewind(state: State, now: float) -> None:
    """Begin again at the acknowledged offsets: a new connection, or a new leader."""
    for number, job in enumerate(state.jobs.values()):
        job.log_sent = job.log_acked
        job.log_progress = now
        job.log_due = now + number * SPREAD
        job.log_stalls = 0


def deadline(state: State, now: float) -> float:
    """Return when `tick` has something to do."""
    times = [float("inf")]
    if not state.connected:
        return times[0]
    budget_at = now if state.log_budget > 0 else now + (1 - state.log_budget) / state.config.log_rate
    for job in state.jobs.values():
        if job.log_sent > job.log_acked:
            times.append(job.log_progress + state.config.resend_after)
        if _unsent(job, max(now, job.log_due)) and _link_is_free(state):
            times.append(max(job.log_due, budget_at))
    return min(times)
