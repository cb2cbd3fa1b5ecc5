"""Execution API calls on behalf of jobs: authorised, gated, given their token, forwarded.

A device never holds a token. What reaches the Execution API is what the job of the asking worker, in its current
attempt, may ask for.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from airflow_mqtt.bridge.bounds import Bound, Once, Recent, Room
from airflow_mqtt.bridge.calls import routes
from airflow_mqtt.bridge.calls.execution_api import CALLS, Answer, ExecutionApi, MalformedError, UnavailableError
from airflow_mqtt.bridge.calls.routes import Refusal
from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.bridge.mqtt.inbox import Call
from airflow_mqtt.bridge.mqtt.outbox import Outgoing, Post
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database.engine import Database
from airflow_mqtt.database.errors import is_transient
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.jobs import JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import Request, Response, sanitise
from airflow_mqtt.protocol.topics import TopicKind, Topics

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024

#: Answers that are remembered, since QoS 1 may deliver a request twice.
_REMEMBERED: Final = Bound(10_000, 64 * _MIB)

#: Calls that wait for their answers: in all, of a worker, of a job. A worker of ours makes one of a job at a time;
#: after an end of its task there may be one or two that nobody waits for any more.
_PENDING: Final = Bound(10_000, 64 * _MIB)
_PENDING_OF_A_WORKER: Final = Bound(1_000, 16 * _MIB)
_PENDING_OF_A_JOB: Final = Bound(4)

#: What a payload leaves of a message for its topic and header.
_ENVELOPE: Final = 1024

#: Pauses, in seconds, in which a request for the gate waits for the report of acceptance that it has overtaken.
_GATE_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)

#: Longest pause between two tries of a call, in seconds.
_RETRY_MAX: Final = 10.0

#: Seconds before a call is handled again that failed since the database did not answer.
_DATABASE_PAUSE: Final = 1.0

#: A call to which the API server answers 500 is tried so often: the fault may be the call's own.
_SERVER_ERROR_TRIES: Final = 6

_REQUEST_HEADERS: Final = ("content-type", "airflow-api-version")
_RESPONSE_HEADERS: Final = ("content-type", "content-range")

#: What a request's header may hold. The Task SDK's are a type and a date.
_HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")

Key = tuple[str, str, str]


class EarlyError(Exception):
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


class Gateway:
    """Answers the requests of workers, each once."""

    def __init__(
        self,
        database: Database,
        api: ExecutionApi,
        *,
        topics: Topics,
        publish: Callable[[Outgoing], Awaitable[None]],
        clock: Callable[[], float],
        max_message_bytes: int,
    ) -> None:
        self._database = database
        self._api = api
        self._topics = topics
        self._publish = publish
        self._clock = clock
        self._max = max_message_bytes
        self._post = Post(topics, 60)
        self._busy: set[Key] = set()
        self._answers = Recent(_REMEMBERED)
        self._room = Room(total=_PENDING, each=_PENDING_OF_A_WORKER)
        self._room_of_jobs = Room(each=_PENDING_OF_A_JOB)
        self._slots = asyncio.Semaphore(CALLS)
        self._ending: set[str] = set()
        self._unsaid = Once()

    def is_ending(self, job_id: str) -> bool:
        """Whether the final state of this job's task is on its way to Airflow: then a heartbeat is refused too."""
        return job_id in self._ending

    def take(self, call: Call) -> Coroutine[Any, Any, None] | None:
        """Return the work of answering one request, or None when nothing is to be done.

        What is being answered already is left to that; what was, is answered again. One for which there is no room
        is dropped: its worker sends it again, where a 429 would reach the task and fail it.
        """
        key = (call.worker, call.request.journal, call.request.id)
        if key in self._busy:
            return None
        if not self._enter(call):
            if self._unsaid(call.worker, "room"):
                log.warning("worker %s: dropped a call, since too many of its calls or of all wait", call.worker)
            return None
        self._busy.add(key)
        return self._handle(call, key)

    def _enter(self, call: Call) -> bool:
        if not self._room_of_jobs.enter((call.worker, call.request.job), 0):
            return False
        if self._room.enter(call.worker, call.size):
            return True
        self._room_of_jobs.leave((call.worker, call.request.job), 0)
        return False

    async def _handle(self, call: Call, key: Key) -> None:
        try:
            payload = self._answers.get(key)
            if payload is None:
                payload = self._encoded(await self._answer_in_the_end(call))
                self._answers.add(key, payload)
            self._busy.discard(key)  # published at each delivery: the first may be lost
            await self._publish(Outgoing(self._topics.worker(call.worker, TopicKind.RESPONSE), payload))
        except EarlyError:
            pass  # its report of acceptance got lost; it will send both again
        finally:
            self._busy.discard(key)
            self._room.leave(call.worker, call.size)
            self._room_of_jobs.leave((call.worker, call.request.job), 0)

    async def _answer_in_the_end(self, call: Call) -> Response:
        """Answer, however long the database is away: the worker would ask again only after `resend_after`."""
        while True:
            try:
                return await self._answer(call)
            except Exception as error:
                raise_if_cancelled()
                if not is_transient(error):
                    raise
                if self._unsaid(call.worker, call.request.job, "database"):
                    log.warning("a call of worker %s waits, since the database does not answer", call.worker)
            await asyncio.sleep(_DATABASE_PAUSE)

    def _encoded(self, response: Response) -> bytes:
        """Return the payload of `response`, or of a 413 where the broker or the worker would not take it."""
        plain = orjson.dumps(response)
        if len(plain) > codec.MAX_DECODED_BYTES:  # of such an answer `ExecutionApi.call` has not read all
            size = f"over {codec.MAX_DECODED_BYTES} bytes unpacked"
        else:
            payload = codec.pack(plain)
            if len(payload) <= self._max - _ENVELOPE:
                return payload
            size = f"{len(payload)} bytes, {len(plain)} unpacked"
        message = f"the answer is too large ({size}); max_message_bytes of the bridge is {self._max}"
        return Response(id=response.id, journal=response.journal, **_error(413, "too_large", message)).encode()

    async def _answer(self, call: Call) -> Response:
        request = call.request
        path = routes.normalise(request.path)
        if path is None:
            return self._refuse(call, Refusal(403, "forbidden", "the path is malformed"))
        if not all(_HEADER_VALUE.fullmatch(value) for value in _forwarded_headers(request).values()):
            return self._refuse(
                call, Refusal(400, "malformed", "a header is not of 1 to 256 printable ASCII characters")
            )
        admitted = await self._admit(call, path)
        if isinstance(admitted, Refusal):
            return self._refuse(call, admitted)
        if routes.CALLBACK_GATE.fullmatch(path):
            return _response(request, 204)
        try:
            if routes.is_final_state(request.method, path):
                return await self._end(admitted, request, path)
            answer = await self._forward(admitted, request, path)
        except MalformedError as error:
            return self._refuse(call, Refusal(400, "malformed", f"the call cannot be made: {error}"))
        if routes.is_gate(request.method, path) and 200 <= answer.status < 300:
            async with self._database.write() as connection:
                await SqlTx(connection, self._database.team_name).set_running_since(admitted, self._clock())
        return answer

    async def _end(self, job: Job, request: Request, path: str) -> Response:
        """Forward a final state, and note it before the worker hears that it was accepted."""
        self._ending.add(job.id)
        try:
            answer = await self._forward(job, request, path)
            if 200 <= answer.status < 300:
                await self._note_final_state(job, request)
            return answer
        finally:
            self._ending.discard(job.id)

    def _refuse(self, call: Call, refusal: Refusal) -> Response:
        request = call.request
        if self._unsaid(call.worker, request.job, refusal.reason):
            log.warning(
                "refused %s %.200r of worker %s for job %s attempt %d (logged once per job and reason): %.300r",
                request.method, request.path, call.worker, request.job, request.attempt, refusal.message,
            )  # fmt: skip
        return _refusal(request, refusal)

    async def _admit(self, call: Call, path: str) -> Job | Refusal:
        """Return the job for which the call may be forwarded; the start gate lets through here, and only once."""
        request = call.request
        gate = routes.is_gate(request.method, path)
        for pause in _GATE_PAUSES:
            async with self._database.read() as connection:
                tx = SqlTx(connection, self._database.team_name)
                jobs = await tx.jobs([request.job])
                journal = await tx.journal_of(call.worker) if gate else None
            verdict = admit(jobs.get(request.job), call, path, gate=gate)
            if isinstance(verdict, Refusal) or not gate or verdict.state is JobState.RUNNING:
                return verdict
            if verdict.state is JobState.ACCEPTED and journal == request.journal:
                started = await self._start(verdict, call)
                if started is not None:
                    return started
            await asyncio.sleep(pause)
        raise EarlyError

    async def _start(self, job: Job, call: Call) -> Job | None:
        body = _json(call.request.body)
        now = self._clock()
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._database.team_name)
            values = {"gate_request": call.request.id, **_identity(body)}
            after = await tx.move(job, JobEvent.START, now=now, by=f"worker:{call.worker}", reason="", **values)
        if after is not None:
            log.info("job %s: running on worker %s", job.id, call.worker)
            for status in self._post.statuses([after], now):
                await self._publish(status)
        return after

    async def _forward(self, job: Job, request: Request, path: str) -> Response:
        """Make the call, and again until the API answers: the worker waits, and nothing else can answer it.

        Raises `MalformedError`. Between two tries nothing is held that another call needs.
        """
        headers = _forwarded_headers(request)
        if version := headers.get("airflow-api-version"):
            self._api.speaks(job.id, version)
        body = _forwarded_body(job, request, path)
        raw_path = request.path.removeprefix("/")
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_random_exponential(multiplier=0.2, max=_RETRY_MAX),
            before_sleep=lambda state: _note_retry(request, state),
            reraise=True,
        )
        async for attempt in retrying:
            raise_if_cancelled()
            number = attempt.retry_state.attempt_number
            with attempt:
                if number > 1 and not await self._is_current(job):
                    return _refusal(request, Refusal(409, "invalid_state", "the job has ended in the meantime"))
                async with self._slots:
                    answer = await self._api.call(
                        job, request.method, raw_path, query=request.query, headers=headers, body=body
                    )
                if answer.status_code == 500 and number < _SERVER_ERROR_TRIES:
                    raise UnavailableError("status 500")
        return _answer_of(request, path, answer)

    async def _is_current(self, job: Job) -> bool:
        """Whether the worker still holds the attempt for which a call is being tried."""
        async with self._database.read() as connection:
            now = (await SqlTx(connection, self._database.team_name).jobs([job.id])).get(job.id)
        held = (JobState.RUNNING, JobState.CANCELLING)
        return now is not None and (now.worker, now.attempt) == (job.worker, job.attempt) and now.state in held

    async def _note_final_state(self, job: Job, request: Request) -> None:
        state = _text(_json(request.body).get("state"), 100)
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._database.team_name)
            await tx.set_final_state(job, state or "unknown")


def admit(job: Job | None, call: Call, path: str, *, gate: bool) -> Job | Refusal:
    """Return `job` when its worker may make this call now, else why not. Pure.

    A job that is only dispatched may pass the gate once its acceptance is heard: the caller waits for that.
    """
    request = call.request
    if job is None or job.worker != call.worker:
        return Refusal(403, "forbidden", f"worker {call.worker} does not hold job {request.job}")
    if job.attempt != request.attempt:
        return Refusal(409, "stale_attempt", f"the job is in attempt {job.attempt}, not {request.attempt}")
    callback = routes.CALLBACK_GATE.fullmatch(path)
    if callback is not None and not job.is_task and callback["subject"] == job.subject:
        refusal = None
    else:
        refusal = routes.check(job, request.method, path, request.query)
    if refusal is not None:
        return refusal
    return _gate_verdict(job, request) if gate else _running_verdict(job)


def _gate_verdict(job: Job, request: Request) -> Job | Refusal:
    if (
        job.state is JobState.DISPATCHED
        or settle(job.state, job.attempt, JobEvent.START, request.attempt) is Verdict.APPLY
    ):
        return job
    if job.state is JobState.RUNNING and job.gate_request == request.id:
        return job  # the same request again: its answer was lost, and Airflow takes it for the same too
    return Refusal(409, "already_started", f"the job is {job.state} and cannot be started")


def _running_verdict(job: Job) -> Job | Refusal:
    if job.state in (JobState.RUNNING, JobState.CANCELLING):
        return job
    return Refusal(409, "invalid_state", f"the job is {job.state}, not running")


def _note_retry(request: Request, state: RetryCallState) -> None:
    """Log the first try that failed, the second, the fourth, and so on: a call may be tried for days."""
    if state.attempt_number & (state.attempt_number - 1):
        return
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "Execution API: job %s: %s %.200r: %.300r; trying again (%d)",
        request.job, request.method, request.path, str(error), state.attempt_number,
    )  # fmt: skip


def _identity(body: dict[str, Any]) -> dict[str, Any]:
    """Who the task's process is, which Airflow compares in each heartbeat."""
    pid = body.get("pid")
    valid = isinstance(pid, int) and not isinstance(pid, bool) and 0 <= pid < 2**31
    return {"pid": pid if valid else 0, "unixname": _text(body.get("unixname"), 256)}


def _text(value: Any, length: int) -> str:
    """Return `value` as a database takes it: PostgreSQL has no place for NUL in a text."""
    return sanitise(value, length) if isinstance(value, str) else ""


def _forwarded_headers(request: Request) -> dict[str, str]:
    return {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}


def _forwarded_body(job: Job, request: Request, path: str) -> bytes | None:
    """Return the body as it is forwarded. Raises `MalformedError`.

    Airflow knows a worker by its host name, shows it in the UI and compares it in heartbeats. Devices have host
    names like `raspberrypi`; the worker's name is the one that says which device.
    """
    if request.body is None:
        return None
    if routes.is_gate(request.method, path) or routes.is_heartbeat(request.method, path):
        body = _json(request.body)
        if "hostname" in body:
            return _dumped({**body, "hostname": job.worker})
    return request.body.encode("utf-8", "surrogatepass")


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:  # orjson reads deeper than it writes
        raise MalformedError(f"its body: {error}") from None


def _answer_of(request: Request, path: str, answer: Answer) -> Response:
    if answer.status_code == 409 and routes.is_final_state(request.method, path):
        # Airflow before 3.2 answers a repeated final state like this.
        detail = _detail(answer)
        if detail.get("previous_state") == _json(request.body).get("state"):
            return _response(request, 204)
    headers = {name: answer.headers[name] for name in _RESPONSE_HEADERS if name in answer.headers}
    body = answer.text if answer.content else None
    return Response(id=request.id, journal=request.journal, status=answer.status_code, headers=headers, body=body)


def _detail(answer: Answer) -> dict[str, Any]:
    try:
        detail = orjson.loads(answer.content).get("detail")
    except (orjson.JSONDecodeError, AttributeError):
        return {}
    return detail if isinstance(detail, dict) else {}


def _json(body: str | None) -> dict[str, Any]:
    try:
        value = orjson.loads(body or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _error(status: int, reason: str, message: str) -> dict[str, Any]:
    body = orjson.dumps({"detail": {"reason": reason, "message": message}}).decode()
    return {"status": status, "headers": {"content-type": "application/json"}, "body": body}


def _refusal(request: Request, refusal: Refusal) -> Response:
    return Response(id=request.id, journal=request.journal, **_error(refusal.status, refusal.reason, refusal.message))


def _response(request: Request, status: int) -> Response:
    return Response(id=request.id, journal=request.journal, status=status)
