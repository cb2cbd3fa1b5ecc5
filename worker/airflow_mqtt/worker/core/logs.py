"""Log chunks: from the acknowledged offset on, rate-limited, and after everything else on the link.

Of a log that is long and has ended, its end goes first: an error stands there, and who opens the log looks there.
"""

from collections.abc import Mapping

from airflow_mqtt.protocol.messages import LogChunk, LogPart
from airflow_mqtt.worker.core import parcels
from airflow_mqtt.worker.core.effects import Publish, ReadLog, SaveLogMark
from airflow_mqtt.worker.core.jobs import NO_TAIL, Job, Phase
from airflow_mqtt.worker.core.state import State, plan

CHUNK = 16 * 1024

#: How much of the end of a log goes before its middle.
TAIL = 32 * 1024

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
        # At the end that went before, the bridge's mark says whether it has it.
        return job.log_sent < job.log_size and not job.log_acked < job.log_sent == job.log_tail[0]
    return job.alive and job.phase is Phase.RUNNING


def tick(state: State, now: float) -> None:
    """Ask for what is to be sent next: one chunk, of the log that waits longest. The next is asked for when it went."""
    if not state.connected:
        return
    _refill(state, now)
    for job in state.jobs.values():
        _rewind_stalled(state, job, now)
    if state.log_budget <= 0 or not _link_is_free(state):
        return
    if waiting := [job for job in state.jobs.values() if _unsent(job, now)]:
        job = min(waiting, key=lambda job: job.log_due)
        job.log_due = now + job.run.log_interval
        state.reading += 1
        state.out.append(ReadLog(job.id, job.attempt, *_next(job)))


def _next(job: Job) -> tuple[int, int]:
    """Return offset and size of what is to be read next."""
    if _tail_is_due(job):
        return job.log_size - TAIL, TAIL
    begin, _ = job.log_tail
    return job.log_sent, min(CHUNK, begin - job.log_sent) if job.log_sent < begin else CHUNK


def _tail_is_due(job: Job) -> bool:
    return job.phase is Phase.ENDED and job.log_tail == NO_TAIL and job.log_size - job.log_sent > TAIL + CHUNK


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
        _begin_again(job, now, now)


def _begin_again(job: Job, now: float, due: float) -> None:
    job.log_sent = job.log_acked
    job.log_tail = NO_TAIL
    job.log_progress = now
    job.log_due = due


def read(state: State, job: Job, offset: int, data: bytes, now: float, *, size: int) -> None:
    """Send what was read of a log of `size` bytes, unless an acknowledgement has made it another offset's turn."""
    if offset != _next(job)[0] or not state.connected:
        return
    if _tail_is_due(job):
        _send_tail(state, job, offset, data, now)
        return
    if not data:
        _vanished(job)
        return
    data = _whole_lines(data, last=job.phase is Phase.ENDED)
    if not data:
        return  # half a line; its end is still to come
    if job.log_sent == job.log_acked:
        job.log_progress = now
    data, chunk, payload = _packed(state, job, offset, data, size)
    if len(data) <= parcels.SMALL_LOG:
        state.chunks.append(LogPart(job=job.id, **vars(chunk)))
        state.log_budget -= len(payload)
        plan(state, now)
    else:
        _send(state, job, payload)
    job.log_sent += len(data)
    if job.phase is Phase.ENDED or len(data) > CHUNK // 2:
        job.log_due = now  # there is more


def _packed(state: State, job: Job, offset: int, data: bytes, size: int) -> tuple[bytes, LogChunk, bytes]:
    """Return as much of `data` as has a way to the bridge, and its chunk and payload; the log has `size` bytes."""
    while True:
        chunk = LogChunk.of(job.attempt, offset, data, left=max(0, size - offset - len(data)))
        payload = chunk.encode()
        if len(payload) <= state.max_message_bytes or len(data) == 1:
            return data, chunk, payload
        half = data[: len(data) // 2]
        data = half[: half.rfind(b"\n") + 1] or half


def _send_tail(state: State, job: Job, offset: int, data: bytes, now: float) -> None:
    """Send the end of a log, of whole lines where there are some, and as much of it as has a way to the bridge."""
    begin = data.find(b"\n") + 1
    while True:
        payload = LogChunk.of(job.attempt, offset + begin, data[begin:], tail=True).encode()
        if len(payload) <= state.max_message_bytes or len(data) - begin <= 1:
            break
        half = begin + (len(data) - begin) // 2
        begin = data.find(b"\n", half) + 1 or half
    job.log_tail = offset + begin, offset + len(data)
    job.log_due = now
    if data[begin:]:
        _send(state, job, payload)


def _send(state: State, job: Job, payload: bytes) -> None:
    state.out.append(Publish(state.topics.logs(state.config.name, job.id), payload))
    state.log_budget -= len(payload)  # what it costs the link: text packs well


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
        if job is None or not job.log_acked < end or not (end <= job.log_sent or _in_tail(job, end)):
            continue
        job.log_acked = end
        job.log_sent = max(job.log_sent, end)
        job.log_progress = now
        job.log_stalls = 0
        state.out.append(SaveLogMark(job.id, end))


def _in_tail(job: Job, end: int) -> bool:
    """Whether `end` is in what went before: the bridge has all that is between, and this behind it."""
    begin, upto = job.log_tail
    return begin <= end <= upto


def rewind(state: State, now: float) -> None:
    """Begin again at the acknowledged offsets: a new connection, or a new leader."""
    for number, job in enumerate(state.jobs.values()):
        _begin_again(job, now, now + number * SPREAD)
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
