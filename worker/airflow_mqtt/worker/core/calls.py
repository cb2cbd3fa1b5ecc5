"""Calls of the Execution API: what is answered here, what is stored, what waits, and in which order they go out.

The calls of a job that go out together are a *chain*: the bridge makes them in their order, and none behind one that
is not answered with success. The next chain goes when this one is answered. So writes keep their order. To a bridge
that takes no parcels a chain is one call.

A write whose answer says nothing is stored and answered here: at once where it goes out in a chain, else while the
link is down. The final state waits for the end of its supervisor, and says that too. `docs/explanation/architecture.md`
says why heartbeats never leave the device and why a final state is stored before anybody has seen it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.codec import decode
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.execution_api import Does, Reply
from airflow_mqtt.protocol.messages import EventType, FinishOutcome, Part, Request, Response
from airflow_mqtt.worker import task_log
from airflow_mqtt.worker.core import completion
from airflow_mqtt.worker.core.effects import Answer, DropCall, SaveCall
from airflow_mqtt.worker.core.jobs import Call, Job, Phase
from airflow_mqtt.worker.core.state import GATHER, NEVER, State, note, plan, report, save, say

#: A body shorter than the limit by this factor fits, however JSON has to escape it.
ESCAPE_FACTOR = 6

#: A call that was sent and not answered is sent again after this, under the same id: the bridge answers once.
RESEND_CALL_AFTER = 30.0

#: A write that has waited this long for a bridge that does not answer is stored, as if the link were down.
STORE_AFTER = 30.0

#: Statuses that say "not now", of the API or of a proxy before it. Everything else below 500 is an answer.
NOT_NOW = frozenset({408, 425, 429, 502, 503, 504})

#: A stored write that was answered 500 this often is refused: the fault is the write's own. With the pauses in between,
#: and the tries of the bridge before each, that is about ten minutes.
MAX_SERVER_ERRORS = 10

LONGEST_PAUSE = 60.0

#: How many calls of a job are stored at most; `Config.store_limit` bounds their bytes.
MAX_STORED = 10_000

#: Bytes of the calls that go out together, about, and how many. A larger call goes by itself.
CHAIN_BYTES = 16 * 1024
CHAIN_CALLS = 32


@dataclass(frozen=True, kw_only=True)
class LocalCall:
    """A call as a runner makes it over the local socket. `token` is the shell's, to answer with."""

    token: int
    id: str
    job: str
    attempt: int
    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


# --- from the runner --------------------------------------------------------------------------------------


def submit(state: State, local: LocalCall, now: float) -> None:
    """Take a runner's call: answer it, store it, or queue it."""
    job = state.jobs.get(local.job)
    if job is None or job.attempt != local.attempt or job.phase is Phase.ENDED:
        _answer(state, local.token, local.id, 410, gone_body("This worker does not hold the job any more."))
        return
    if job.cancel is not None:
        _answer(state, local.token, local.id, 410, gone_body(job.cancel))
        return
    waiting = job.calls.get(local.id)
    if waiting is not None:
        _ask_again(state, waiting, local.token)
        return
    call = _call(local, now, started=job.phase is not Phase.ACCEPTED)
    if call.does is Does.LIVE:
        _answer_stored(state, call)
        return
    _enqueue(state, job, call, now)


def _call(local: LocalCall, now: float, *, started: bool) -> Call:
    return Call(
        id=local.id,
        method=local.method,
        path=local.path,
        query=local.query,
        headers=local.headers,
        body=local.body,
        token=local.token,
        asked_at=now,
        started=started,
    )


def _ask_again(state: State, call: Call, token: int) -> None:
    """A runner that lost its connection asks again under the same id."""
    call.token = token
    if call.stored:
        _answer_stored(state, call)


def _enqueue(state: State, job: Job, call: Call, now: float) -> None:
    if too_large(state, job, call):
        _answer(state, call.token, call.id, 413, _too_large_body(state))
        return
    if why := malformed(state, job, call):
        _answer(state, call.token, call.id, 400, detail_body("malformed", why))
        return
    job.calls.append(call)
    if call.does is Does.END:
        job.final = _final_state(call)
        if job.refused and job.final == "success":
            _fail_instead(state, job, call, now)
        save(state, job)
    if call.does is Does.END:
        store(state, job, call)
    elif state.gathers or not state.connected:
        _store_if_room(state, job, call, now)
    pump(state, job, now)


def too_large(state: State, job: Job, call: Call) -> bool:
    """Whether the bridge would not take `call`, which would then be sent again for ever."""
    limit = state.max_message_bytes
    if (len(call.body or "") + len(call.query) + len(call.path)) * ESCAPE_FACTOR + 4096 <= limit:
        return False
    plain = call.request(state.config.journal, job.id, job.attempt).plain()
    return len(codec.pack(plain)) > limit or len(plain) > codec.unpacked_limit(limit)


def refuse_too_large(state: State, job: Job, now: float) -> None:
    """Give up calls that were not too large before there was another limit: of this worker, or of the broker."""
    for call in [call for call in job.calls if too_large(state, job, call)]:
        job.calls.remove(call)
        if call.stored:
            answer = Response(id=call.wire_id, journal=call.journal, status=413, body=_too_large_body(state))
            state.out.append(DropCall(call.id))
            _refused(state, job, call, answer, now)
        else:
            _answer(state, call.token, call.id, 413, _too_large_body(state))


def malformed(state: State, job: Job, call: Call) -> str:
    """Return why the bridge would not understand `call`, which would then be sent again for ever; or nothing."""
    try:
        Request.from_object(vars(call.request(state.config.journal, job.id, job.attempt)))
    except PayloadError as error:
        return f"The call cannot be passed on to Airflow: {error}"
    return ""


def _final_state(call: Call) -> str:
    return str(_json_object(call.body).get("state", ""))


def _json_object(text: str | None) -> codec.JsonObject:
    """Return the object in `text`; an empty one when it holds none."""
    try:
        return decode((text or "").encode())
    except (PayloadError, UnicodeEncodeError):
        return {}


def _store_if_room(state: State, job: Job, call: Call, now: float) -> None:
    """Store a write. What has no room waits for the link, as a read does: so does the task, and no disk fills up."""
    if call.reply is None:
        return
    if _has_room(state, job, call):
        store(state, job, call)
    elif not state.connected and not job.store_full:
        job.store_full = True
        limit = state.config.store_limit
        text = f"No link to Airflow, and store_limit ({limit} bytes) is full of what the task wrote: it waits."
        note(state, job, now, text, "warning")


def _has_room(state: State, job: Job, call: Call) -> bool:
    return job.calls.stored < MAX_STORED and job.calls.stored_bytes + call.size <= state.config.store_limit


def store(state: State, job: Job, call: Call) -> None:
    """Keep `call` in the journal, and answer whoever waits for it."""
    if not call.stored:
        state.positions += 1
        call.position = state.positions
        job.calls.store(call)
        call.journal = state.config.journal
        state.out.append(SaveCall(call.id, job.id, call.position, call.record()))
    _answer_stored(state, call)


def _answer_stored(state: State, call: Call) -> None:
    reply = call.reply or Reply(204)
    _answer(state, call.token, call.id, reply.status, reply.body)
    call.token = None


def _answer(state: State, token: int | None, call_id: str, status: int, body: str | None = None) -> None:
    if token is not None:
        headers = {} if body is None else {"content-type": "application/json"}
        state.out.append(Answer(token, call_id, status, body, headers))


def gone_body(message: str) -> str:
    """Return what the Execution API says of a task instance that should not run (heartbeat: 404, 409, 410)."""
    return detail_body("not_found", message)


def _too_large_body(state: State) -> str:
    limit, own = state.max_message_bytes, state.config.max_message_bytes
    whose = f"max_message_bytes of the worker is {own}" if limit == own else f"the broker takes {limit} bytes"
    message = (
        f"The call is larger than a message may be on its way to Airflow: {whose}. Raise the limit (max_message_bytes"
        " of worker and bridge, max_packet_size of the broker), or pass less."
    )
    return detail_body("too_large", message)


def detail_body(reason: str, message: str) -> str:
    """Return the body of an error as the Execution API has it."""
    return orjson.dumps({"detail": {"reason": reason, "message": message}}).decode()


# --- to and from the bridge -------------------------------------------------------------------------------


def pump(state: State, job: Job, now: float) -> None:
    """Have the calls of `job` sent when it is time."""
    if state.connected and (due := _due(state, job)) < NEVER:
        plan(state, max(now, due))


def _due(state: State, job: Job) -> float:
    """Return when the next calls of `job` are to be sent: never while some are under way."""
    head, last = job.calls.head, job.calls.last
    if head is None or last is None or head.sent_at is not None:
        return NEVER
    if not state.gathers or job.calls.waiting or job.phase is Phase.ENDED:
        return head.not_before
    return max(head.not_before, (last if last.does is Does.END else head).asked_at + GATHER)


def chains(state: State, now: float) -> list[list[Part]]:
    """Return the requests that go out now, those of each job together, and count them as sent."""
    return [chain for job in state.jobs.values() if (chain := _chain(state, job, now))]


def _chain(state: State, job: Job, now: float) -> list[Part]:
    if not _may_go(state, job, now):
        return []
    chain: list[Part] = []
    size = 0
    for call in job.calls:
        size += call.size
        if chain and (not state.gathers or size > CHAIN_BYTES or len(chain) == CHAIN_CALLS or call.not_before > now):
            break
        if call.does is Does.START:
            job.gate_sent = True
        end = {"ends": True, "exit_code": _exit_code(job)} if _ends(state, job, call) else {}
        request = call.request(state.config.journal, job.id, job.attempt, **end)
        call.sent(now, len(request.encode()))
        chain.append(request)
    return chain


def _may_go(state: State, job: Job, now: float) -> bool:
    """Whether calls of `job` go out with what goes out now: not a final state that waits for its supervisor's end."""
    head, last = job.calls.head, job.calls.last
    if head is None or last is None or head.sent_at is not None or head.not_before > now:
        return False
    return last.does is not Does.END or _due(state, job) <= now


def _ends(state: State, job: Job, call: Call) -> bool:
    """Whether the answer to `call`, a final state, leaves nothing to say of its attempt."""
    last = call.does is Does.END and call is job.calls.last and job.phase is Phase.ENDED and not job.closed
    if not last or not state.gathers or job.cancel is not None:
        return False
    return completion.outcome(job) == (FinishOutcome.SUCCEEDED, "")


def _exit_code(job: Job) -> int | None:
    return None if job.result is None else job.result.exit_code


def respond(state: State, responses: Iterable[Response], now: float) -> None:
    """Take answers that came together. One that nobody waits for is an ordinary duplicate."""
    answered = [job for response in responses if (job := _respond(state, response, now)) is not None]
    for job in answered:
        job.calls.unsend()  # what went with them and has no answer here, the bridge has not made
        pump(state, job, now)


def _respond(state: State, response: Response, now: float) -> Job | None:
    for job in state.jobs.values():
        call = job.calls.head
        if call and (call.journal or state.config.journal, call.wire_id) == (response.journal, response.id):
            _settle(state, job, call, response, now)
            return job
    return None


def _settle(state: State, job: Job, call: Call, response: Response, now: float) -> None:
    if call.stored and _try_again(call, response.status):
        call.retries += 1
        call.not_before = now + min(LONGEST_PAUSE, 2.0 ** min(call.retries, 10))
        call.sent_at = None
        state.out.append(SaveCall(call.id, job.id, call.position, call.record()))
        return
    job.calls.remove(call)
    if call.does is Does.START:
        _through_gate(state, job, response, now)
    if call.stored:
        state.out.append(DropCall(call.id))
        if response.status >= 400:
            _refused(state, job, call, response, now)
    elif call.token is not None:
        state.out.append(Answer(call.token, call.id, response.status, response.body, response.headers))
    if response.ended and job.phase is Phase.ENDED and not job.closed:
        job.closed = True
        save(state, job)
    pump(state, job, now)
    completion.close_if_ready(state, job, now)


def _try_again(call: Call, status: int) -> bool:
    if status < 500 or status in NOT_NOW:
        return status in NOT_NOW
    call.server_errors += 1
    return call.server_errors < MAX_SERVER_ERRORS


def _through_gate(state: State, job: Job, response: Response, now: float) -> None:
    if 200 <= response.status < 300 and job.phase is Phase.ACCEPTED:
        job.gate_sent = False
        job.phase = Phase.RUNNING
        job.retries = _json_object(response.body).get("should_retry") is True
        job.log_due = now + job.run.log_interval
        job.last_seq = report(state, EventType.STARTED, job.run, now)
        save(state, job)


def _refused(state: State, job: Job, call: Call, response: Response, now: float) -> None:
    """A write that the runner was told had succeeded has not. A 409 on the state: Airflow has another already."""
    if call.does is Does.END and response.status == 409:
        return
    job.refused = task_log.refusal(call.method, call.path, response.status, response.body or "")
    job.final_refused = job.final_refused or call.does is Does.END
    note(state, job, now, job.refused)
    say(state, "warning", f"job {job.id}: {job.refused}")
    if job.final == "success":
        _fail_stored(state, job, now)
    save(state, job)


def _fail_stored(state: State, job: Job, now: float) -> None:
    for later in job.calls:
        if later.stored and later.does is Does.END and _final_state(later) == "success":
            _fail_instead(state, job, later, now)
            state.out.append(SaveCall(later.id, job.id, later.position, later.record()))


def _fail_instead(state: State, job: Job, call: Call, now: float) -> None:
    """Turn a stored success into a failure: what it rests on did not reach Airflow.

    The SDK would have said the same, had it heard: `TIRetryStatePayload` or `TITerminalStatePayload`.
    """
    success: dict[str, Any] = decode((call.body or "").encode())
    job.final = "up_for_retry" if job.retries else "failed"
    failure = {"state": job.final, "end_date": success.get("end_date")}
    if success.get("rendered_map_index") is not None:
        failure["rendered_map_index"] = success["rendered_map_index"]
    call.body = orjson.dumps(failure).decode()
    note(state, job, now, f"The task is failed instead of successful: {job.refused}")


# --- as time passes ---------------------------------------------------------------------------------------


def link_lost(state: State, now: float) -> None:
    """Store what can be stored; the rest waits, and is sent again."""
    for job in state.jobs.values():
        job.calls.unsend()
        for call in job.calls.waiting:
            _store_if_room(state, job, call, now)


def resend(state: State, now: float) -> None:
    """Send what is under way of every job again: a new connection, or a new leader."""
    for job in state.jobs.values():
        job.calls.unsend()
        pump(state, job, now)


def tick(state: State, now: float) -> None:
    for job in state.jobs.values():
        for call in job.calls.waiting:
            if now - call.asked_at >= STORE_AFTER:
                _store_if_room(state, job, call, now)
        head = job.calls.head
        if head is not None and _overdue(head, now):
            job.calls.unsend()
        pump(state, job, now)


def _overdue(call: Call, now: float) -> bool:
    return call.sent_at is not None and now - call.sent_at >= RESEND_CALL_AFTER


def deadline(state: State) -> float:
    """Return when `tick` has something to do."""
    times = [float("inf")]
    for job in state.jobs.values():
        waiting = [call for call in job.calls.waiting if call.reply and _has_room(state, job, call)]
        times += [call.asked_at + STORE_AFTER for call in waiting]
        head = job.calls.head
        if head is not None and state.connected:
            times.append(_due(state, job) if head.sent_at is None else head.sent_at + RESEND_CALL_AFTER)
    return min(times)


def refuse_waiting(state: State, job: Job, why: str) -> None:
    """Answer whoever waits that the job is gone, so that its supervisor comes to its next heartbeat."""
    for call in job.calls.waiting:
        _answer(state, call.token, call.id, 410, gone_body(why))
    job.calls.drop_waiting()
