"""Execution API calls on behalf of jobs: authorised, gated, given their token, forwarded.

A device never holds a token. What reaches the Execution API is what the job of the asking worker, in its current
attempt, may ask for. All that decides this is in the leader's memory: a call reads nothing. What its answer changes is
a script of the writer, and the worker hears the answer once that has been committed.

It awaits only what it is given (the API, the writer, a pause): the simulation runs this class.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from itertools import takewhile
from typing import Any, Final, Protocol

import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from airflow_mqtt.bridge.bounds import Bound, Once, Quota, Recent
from airflow_mqtt.bridge.calls import gate, routes
from airflow_mqtt.bridge.calls.execution_api import Answer, MalformedError, UnavailableError
from airflow_mqtt.bridge.calls.gate import Call, Early
from airflow_mqtt.bridge.calls.routes import Refusal
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.messages import Request, Response

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024

#: Answers that are remembered, since QoS 1 may deliver a request twice: in all, and of one worker.
_REMEMBERED: Final = Bound(50_000, 64 * _MIB)
_REMEMBERED_OF_A_WORKER: Final = Bound(1_000, 8 * _MIB)

#: Calls that wait for their answers: in all, of a worker, of a job. A worker of ours makes one of a job at a time;
#: after an end of its task there may be one or two that nobody waits for any more.
_PENDING: Final = Bound(10_000, 64 * _MIB)
_PENDING_OF_A_WORKER: Final = Bound(1_000, 16 * _MIB)
_PENDING_OF_A_JOB: Final = Bound(4)

#: Bytes of the answers that go in one message, unpacked.
_TOGETHER: Final = 64 * 1024

#: What a payload leaves of a message for its topic and header.
_ENVELOPE: Final = 1024

#: Pauses, in seconds, in which a request for the gate waits for the report of acceptance that it has overtaken.
_GATE_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)

#: Longest pause between two tries of a call, in seconds.
_RETRY_MAX: Final = 10.0

#: A call to which the API server answers 500 is tried so often: the fault may be the call's own.
_SERVER_ERROR_TRIES: Final = 6

_REQUEST_HEADERS: Final = ("content-type", "airflow-api-version")
_RESPONSE_HEADERS: Final = ("content-type", "content-range")

#: What a request's header may hold. The Task SDK's are a type and a date.
_HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")

Key = tuple[str, str, str]


def _key(call: Call) -> Key:
    return call.worker, call.request.journal, call.request.id


def _is_success(status: int) -> bool:
    return 200 <= status < 300


class EarlyError(Exception):
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


class Api(Protocol):
    """As much of `ExecutionApi` as is needed here."""

    async def call(
        self, token: str, method: str, path: str, *, query: str = "", headers: dict[str, str], body: bytes | None
    ) -> Answer: ...


class Gateway:
    """Answers the requests of workers, each once."""

    def __init__(
        self,
        writer: Writer,
        api: Api,
        messages: Messages,
        *,
        publish: Callable[[list[Outgoing]], object],
        sleep: Callable[[float], Awaitable[None]],
        max_message_bytes: int,
    ) -> None:
        self._writer = writer
        self._living = writer.living
        self._api = api
        self._messages = messages
        self._publish = publish
        self._sleep = sleep
        self._max = max_message_bytes
        self._together = min(_TOGETHER, max_message_bytes // 2)
        self._busy: set[Key] = set()
        self._answers = Recent(total=_REMEMBERED, each=_REMEMBERED_OF_A_WORKER)
        self._quota = Quota(total=_PENDING, each=_PENDING_OF_A_WORKER)
        self._quota_of_jobs = Quota(each=_PENDING_OF_A_JOB)
        self._ending: set[str] = set()
        self._unsaid = Once()

    def is_ending(self, job_id: str) -> bool:
        """Whether the final state of this job's task is on its way to Airflow: then a heartbeat is refused too."""
        return job_id in self._ending

    def take(self, *calls: Call) -> Coroutine[Any, Any, None] | None:
        """Return the work of answering requests of one job that came together, or None when nothing is to be done.

        What is being answered already is left to that, with all behind it; what was, is answered again. Those for which
        there is no room are dropped: their worker sends them again, where a 429 would reach the task and fail it.
        """
        chain = list(takewhile(lambda call: _key(call) not in self._busy, calls))
        if not chain:
            return None
        if not self._enter(chain):
            if self._unsaid(chain[0].worker, "room"):
                log.warning("worker %s: dropped a call, since too many of its calls or of all wait", chain[0].worker)
            return None
        self._busy.update(map(_key, chain))
        self._living.calling[chain[0].worker] += 1
        return self._handle(chain)

    def _enter(self, chain: list[Call]) -> bool:
        worker, job = chain[0].worker, chain[0].request.job
        if not self._quota_of_jobs.enter((worker, job), 0):
            return False
        if self._quota.enter(worker, sum(call.size for call in chain)):
            return True
        self._quota_of_jobs.leave((worker, job), 0)
        return False

    async def _handle(self, chain: list[Call]) -> None:
        """Answer the calls in their order, up to the first that has no success, and say all answers together."""
        worker, job = chain[0].worker, chain[0].request.job
        answers: list[bytes] = []
        try:
            for call in chain:
                payload, is_success = await self._payload(call)
                answers.append(payload)
                if not is_success:
                    break
        except EarlyError:
            pass  # its report of acceptance got lost; it will send both again
        finally:
            self._busy.difference_update(map(_key, chain))
            self._quota.leave(worker, sum(call.size for call in chain))
            self._quota_of_jobs.leave((worker, job), 0)
            self._living.calling[worker] -= 1
            if not self._living.calling[worker]:
                del self._living.calling[worker]
        self._say(worker, answers)

    async def _payload(self, call: Call) -> tuple[bytes, bool]:
        """Return the answer to `call`, made or remembered, and whether it is a success."""
        payload = self._answers.get(call.worker, _key(call))
        if payload is not None:
            return payload, _is_success(codec.decode(payload)["status"])
        response = await self._answer(call)
        if isinstance(response, Refusal):  # made again as easily as it is remembered
            return self._encoded(self._refuse(call, response)), False
        payload = self._encoded(response)
        self._answers.add(call.worker, _key(call), payload)
        return payload, _is_success(response.status)

    def _say(self, worker: str, payloads: list[bytes]) -> None:
        """Publish answers, at each delivery of their requests: the first may be lost.

        They go in one message, with what else the worker is to hear, where it takes that and they are not large.
        """
        plain = [codec.unpack(payload) for payload in payloads]
        alone = len(payloads) == 1 and worker not in self._living.acks
        if payloads and not alone and self._living.gathers(worker) and sum(map(len, plain)) <= self._together:
            self._publish(self._writer.reports.answers(self._living, worker, [orjson.loads(text) for text in plain]))
        else:
            self._publish([self._messages.response(worker, payload) for payload in payloads])

    def _encoded(self, response: Response) -> bytes:
        """Return the payload of `response`, or of a 413 where the broker or the worker would not take it."""
        plain = response.plain()
        if len(plain) > codec.MAX_DECODED_BYTES:  # of such an answer `ExecutionApi.call` has not read all
            size = f"over {codec.MAX_DECODED_BYTES} bytes unpacked"
        else:
            payload = codec.pack(plain)
            if len(payload) <= self._max - _ENVELOPE:
                return payload
            size = f"{len(payload)} bytes, {len(plain)} unpacked"
        message = f"the answer is too large ({size}); max_message_bytes of the bridge is {self._max}"
        return Response(id=response.id, journal=response.journal, **_error(413, "too_large", message)).encode()

    async def _answer(self, call: Call) -> Response | Refusal:
        request = call.request
        path = routes.normalise(request.path)
        if path is None:
            return Refusal(403, "forbidden", "the path is malformed")
        if not all(_HEADER_VALUE.fullmatch(value) for value in _forwarded_headers(request).values()):
            return Refusal(400, "malformed", "a header is not of 1 to 256 printable ASCII characters")
        is_gate = routes.is_gate(request.method, path)
        admitted = await self._start(call, path) if is_gate else self._admit(call, path)
        if isinstance(admitted, Refusal):
            return admitted
        if routes.CALLBACK_GATE.fullmatch(path):
            return _response(request, 204)
        try:
            if routes.is_final_state(request.method, path):
                return await self._end(admitted, request, path)
            return await self._forward(admitted, request, path, is_gate=is_gate)
        except MalformedError as error:
            return Refusal(400, "malformed", f"the call cannot be made: {error}")

    def _admit(self, call: Call, path: str) -> Job | Refusal:
        job = self._living.job(call.request.job)
        rights = self._living.access.rights(job.queue) if job is not None else None
        return gate.admit(job, call, path, gate=False, rights=rights)

    async def _start(self, call: Call, path: str) -> Job | Refusal:
        """Let the job start, once, after the commit that says so. Raises `EarlyError`."""
        for pause in _GATE_PAUSES:
            verdict = await self._writer.submit(call.worker, lambda draft: gate.open_gate(draft, call, path))
            if not isinstance(verdict, Early):
                return verdict  # type: ignore[no-any-return]
            await self._sleep(pause)
        raise EarlyError

    async def _end(self, job: Job, request: Request, path: str) -> Response:
        """Forward a final state, and note it before the worker hears that it was accepted."""
        self._ending.add(job.id)
        try:
            return await self._forward(job, request, path, is_gate=False)
        finally:
            self._ending.discard(job.id)

    def _refuse(self, call: Call, refusal: Refusal) -> Response:
        """Say why a request is refused, to the worker and once in our log."""
        request = call.request
        if self._unsaid(call.worker, request.job, refusal.reason):
            log.warning(
                "refused %s %.200r of worker %s for job %s attempt %d (logged once per job and reason): %.300r",
                request.method, request.path, call.worker, request.job, request.attempt, refusal.message,
            )  # fmt: skip
        return _refusal(request, refusal)

    async def _forward(self, job: Job, request: Request, path: str, *, is_gate: bool) -> Response:
        """Make the call, and again until the API answers: the worker waits, and nothing else can answer it.

        Raises `MalformedError`. Between two tries nothing is held that another call needs.
        """
        headers, body = _forwarded_headers(request), _forwarded_body(job, request, path)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_random_exponential(multiplier=0.2, max=_RETRY_MAX),
            before_sleep=lambda state: _note_retry(request, state),
            sleep=self._sleep,
            reraise=True,
        )
        async for attempt in retrying:
            number = attempt.retry_state.attempt_number
            with attempt:
                current = self._current(job)
                if current is None:
                    return _refusal(request, Refusal(409, "invalid_state", "the job has ended in the meantime"))
                answer = await self._api.call(
                    current.token, request.method, request.path.removeprefix("/"), query=request.query,
                    headers=headers, body=body,
                )  # fmt: skip
                if answer.status_code == 500 and number < _SERVER_ERROR_TRIES:
                    raise UnavailableError("status 500")
        response = _answer_of(request, path, answer)
        accepted = _is_success(response.status)
        ended = await self._note(job, request, path, answer.token, accepted=accepted, is_gate=is_gate)
        if accepted and request.brief:
            return replace(_response(request, response.status), ended=ended)
        return replace(response, ended=ended)

    async def _note(
        self, job: Job, request: Request, path: str, token: str | None, *, accepted: bool, is_gate: bool
    ) -> bool:
        """Have the writer note what the answer says of the job, if it says anything; return whether that ended it."""
        final_state = None
        if accepted and routes.is_final_state(request.method, path):
            final_state = gate.storable(gate.json_object(request.body).get("state"), 100) or "unknown"
        started = accepted and is_gate
        if not started and final_state is None and token is None:
            return False
        worker = job.worker or ""

        def note(draft: Draft) -> bool:
            gate.note_answer(draft, job, started=started, final_state=final_state, token=token)
            ends = request.ends and final_state is not None
            return ends and self._writer.reports.end(draft, worker, request)

        return bool(await self._writer.submit(worker, note))

    def _current(self, job: Job) -> Job | None:
        """The job as it is now, if the worker still holds the attempt for which a call is made."""
        now = self._living.jobs.get(job.id)
        held = now is not None and (now.worker, now.attempt) == (job.worker, job.attempt) and now.state in gate.STARTED
        return now if held else None


def _note_retry(request: Request, state: RetryCallState) -> None:
    """Log the first try that failed, the second, the fourth, and so on: a call may be tried for days."""
    if state.attempt_number & (state.attempt_number - 1):
        return
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "Execution API: job %s: %s %.200r: %.300r; trying again (%d)",
        request.job, request.method, request.path, str(error), state.attempt_number,
    )  # fmt: skip


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
        body = gate.json_object(request.body)
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
        if detail.get("previous_state") == gate.json_object(request.body).get("state"):
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


def _error(status: int, reason: str, message: str) -> dict[str, Any]:
    body = orjson.dumps({"detail": {"reason": reason, "message": message}}).decode()
    return {"status": status, "headers": {"content-type": "application/json"}, "body": body}


def _refusal(request: Request, refusal: Refusal) -> Response:
    return Response(id=request.id, journal=request.journal, **_error(refusal.status, refusal.reason, refusal.message))


def _response(request: Request, status: int) -> Response:
    return Response(id=request.id, journal=request.journal, status=status)
