"""Execution API calls on behalf of jobs: authorised, gated, given their token, forwarded.

A device never holds a token. What reaches the Execution API is what the job of the asking worker, in its current
attempt, may ask for. All that decides this is in the leader's memory: a call reads nothing. What its answer changes is
a script of the writer, and the worker hears the answer once that has been committed.

It awaits only what it is given (the API, the writer, a pause): the simulation runs this class.
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from itertools import count, takewhile
from typing import Any, Final, Protocol

import orjson

from airflow_mqtt.bridge.bounds import Bound, Once, Quota, Recent, Share
from airflow_mqtt.bridge.calls import gate
from airflow_mqtt.bridge.calls.execution_api import Answer, MalformedError, UnavailableError
from airflow_mqtt.bridge.calls.gate import Call, Early, Refusal
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import clocks, codec, execution_api, trace_context
from airflow_mqtt.protocol.execution_api import Does, Match, Miss
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

#: What a worker may have answered in a second, and in how many seconds at once: calls, and bytes of the answers' text.
#: Past it, its calls wait: to pack a megabyte costs more than to carry it to a device.
_CALLS: Final = 500
_ANSWERED_BYTES: Final = 4 * _MIB
_BURST: Final = 4.0

#: Characters of an answer from which on it is encoded outside of the loop.
_LARGE: Final = 32 * 1024

#: What a payload leaves of a message for its topic and header.
_ENVELOPE: Final = 1024

#: Pauses, in seconds, in which a request for the gate waits for the report of acceptance that it has overtaken.
_GATE_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)

#: Seconds between two tries of a call, at random up to twice this after the first, doubled each time up to the longest.
_RETRY_FIRST: Final = 0.1
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
        self,
        token: str,
        method: str,
        path: str,
        *,
        worker: str,
        query: str = "",
        headers: dict[str, str],
        body: bytes | None,
    ) -> Answer: ...


class Spans(Protocol):
    """As much of `telemetry.CallSpans` as is needed here."""

    def begin(self, headers: dict[str, str]) -> Any: ...
    def end(self, begun: Any, name: str, status: int, *, job: str, worker: str) -> None: ...


class Gateway:
    """Answers the requests of workers, each once.

    `clock` is one that is never set; `elsewhere` does what takes long where it holds up nobody; `spans` hears of calls
    whose trace is recorded.
    """

    def __init__(
        self,
        writer: Writer,
        api: Api,
        messages: Messages,
        *,
        publish: Callable[[list[Outgoing]], object],
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        elsewhere: Callable[[Callable[[], bytes]], Awaitable[bytes]],
        max_message_bytes: int,
        spans: Spans | None = None,
    ) -> None:
        self._writer = writer
        self._living = writer.living
        self._api = api
        self._messages = messages
        self._publish = publish
        self._sleep = sleep
        self._clock = clock
        self._elsewhere = elsewhere
        self._spans = spans
        self.max_message_bytes = max_message_bytes
        self._busy: set[Key] = set()
        self._answers = Recent(total=_REMEMBERED, each=_REMEMBERED_OF_A_WORKER)
        self._quota = Quota(total=_PENDING, each=_PENDING_OF_A_WORKER)
        self._quota_of_jobs = Quota(each=_PENDING_OF_A_JOB)
        self._share = Share(pieces=_CALLS, size=_ANSWERED_BYTES, burst=_BURST)
        self._ending: Counter[str] = Counter()  # jobs, and how many of their calls say a final state
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
        await self._wait_for_share(call.worker)
        payload = self._answers.get(call.worker, _key(call))
        if payload is not None:
            self._share.use(call.worker, self._clock(), size=len(payload))
            is_success = _is_success(codec.decode(payload)["status"])
        else:
            match, began = self._match(call), self._clock()
            response = await self._answer(call, match)
            self._writer.tally.call(call.request, match, response.status, self._clock() - began)
            if isinstance(response, Refusal):  # made again as easily as it is remembered
                self._writer.tally.refused[response.reason] += 1
                return await self._encode(call.worker, self._refuse(call, response)), False
            is_success = _is_success(response.status)
            payload = await self._encode(call.worker, response)
            self._answers.add(call.worker, _key(call), payload)
        if len(payload) > self.max_message_bytes - _ENVELOPE:  # the broker takes less than we knew
            payload = self._too_large(call.request.id, call.request.journal, f"{len(payload)} bytes")
        return payload, is_success

    def _say(self, worker: str, payloads: list[bytes]) -> None:
        """Publish answers, at each delivery of their requests: the first may be lost.

        They go in one message, with what else the worker is to hear, where it takes that and they are not large.
        """
        alone = len(payloads) == 1 and worker not in self._living.acks
        if payloads and not alone and self._living.gathers(worker):
            plain = [codec.unpack(payload) for payload in payloads]
            if sum(map(len, plain)) <= min(_TOGETHER, self.max_message_bytes // 2):
                answers = [orjson.loads(text) for text in plain]
                self._publish(self._writer.reports.answers(self._living, worker, answers))
                return
        self._publish([self._messages.response(worker, payload) for payload in payloads])

    async def _wait_for_share(self, worker: str) -> None:
        """Wait until what `worker` was answered before is paid for."""
        while (seconds := self._share.wait(worker, self._clock())) > 0:
            await self._sleep(seconds)

    async def _encode(self, worker: str, response: Response) -> bytes:
        """Return the payload of `response`, which `worker` pays for."""
        size = len(response.body or "")
        self._share.use(worker, self._clock(), size=size)
        if size < _LARGE:
            return self._encoded(response)
        return await self._elsewhere(lambda: self._encoded(response))

    def _encoded(self, response: Response) -> bytes:
        """Return the payload of `response`, or of a 413 where the broker or the worker would not take it."""
        plain = response.plain()
        if len(plain) > codec.MAX_DECODED_BYTES:  # of such an answer `ExecutionApi.call` has not read all
            size = f"over {codec.MAX_DECODED_BYTES} bytes unpacked"
        else:
            payload = codec.pack(plain)
            if len(payload) <= self.max_message_bytes - _ENVELOPE:
                return payload
            size = f"{len(payload)} bytes, {len(plain)} unpacked"
        return self._too_large(response.id, response.journal, size)

    def _too_large(self, id_: str, journal: str, size: str) -> bytes:
        limit = self.max_message_bytes
        message = (
            f"the answer is too large ({size}): {limit} bytes are the least of max_message_bytes of the bridge and of"
            " what the broker takes"
        )
        return Response(id=id_, journal=journal, **_error(413, "too_large", message)).encode()

    async def _answer(self, call: Call, match: Match | Miss) -> Response | Refusal:
        request = call.request
        if isinstance(match, Miss):
            return gate.refuse_miss(match, request)
        if not all(_HEADER_VALUE.fullmatch(value) for value in _forwarded_headers(request).values()):
            return Refusal(400, "malformed", "a header is not of 1 to 256 printable ASCII characters")
        is_gate = match.route.does is Does.START
        admitted = await self._start(call, match) if is_gate else self._admit(call, match)
        if isinstance(admitted, Refusal):
            # A leader that has slept knows what was, and its word would fail a task: only one that still leads refuses.
            await self._writer.confirm()
            return admitted
        if match.route.ours:
            return _response(request, 204)
        try:
            if match.route.does is Does.END:
                return await self._end(admitted, request, match)
            return await self._traced(admitted, request, match)
        except MalformedError as error:
            return Refusal(400, "malformed", f"the call cannot be made: {error}")

    def _match(self, call: Call) -> Match | Miss:
        """Return what `call` is a call of."""
        match = execution_api.find(call.request.method, call.request.path)
        if isinstance(match, Match):
            job = self._living.job(call.request.job)
            started = job is not None and job.state in gate.STARTED and job.gate_request != call.request.id
            return execution_api.as_meant(match, started=started)
        return match

    def _admit(self, call: Call, match: Match) -> Job | Refusal:
        job = self._living.job(call.request.job)
        return gate.admit(job, call, match, self._living.access.rights(job.queue) if job is not None else None)

    async def _start(self, call: Call, match: Match) -> Job | Refusal:
        """Let the job start, once, after the commit that says so. Raises `EarlyError`."""
        for pause in _GATE_PAUSES:
            verdict = await self._writer.submit(call.worker, lambda draft: gate.open_gate(draft, call, match))
            if not isinstance(verdict, Early):
                return verdict  # type: ignore[no-any-return]
            await self._sleep(pause)
        raise EarlyError

    async def _end(self, job: Job, request: Request, match: Match) -> Response:
        """Forward a final state, and note it before the worker hears that it was accepted."""
        self._ending[job.id] += 1
        try:
            return await self._traced(job, request, match)
        finally:
            self._ending[job.id] -= 1
            if not self._ending[job.id]:
                del self._ending[job.id]

    def _refuse(self, call: Call, refusal: Refusal) -> Response:
        """Say why a request is refused, to the worker and once in our log."""
        request = call.request
        if self._unsaid(call.worker, request.job, refusal.reason):
            log.warning(
                "refused %s %.200r of worker %s for job %s attempt %d (logged once per job and reason): %.300r",
                request.method, request.path, call.worker, request.job, request.attempt, refusal.message,
            )  # fmt: skip
        return _refusal(request, refusal)

    async def _traced(self, job: Job, request: Request, match: Match) -> Response:
        """Forward a call; where its trace is recorded, as a span of that, which is the parent of what the API does."""
        begun = None if self._spans is None else self._spans.begin(request.headers)
        if self._spans is None or begun is None:
            return await self._forward(job, request, match)
        status = 0
        try:
            headers = {**request.headers, **begun.context.headers()}
            response = await self._forward(job, replace(request, headers=headers), match)
            status = response.status
            return response
        finally:
            name = f"{request.method} {match.route.path}"
            self._spans.end(begun, name, status, job=job.id, worker=job.worker or "")

    async def _forward(self, job: Job, request: Request, match: Match) -> Response:
        """Make the call, and again until the API answers: the worker waits, and nothing else can answer it.

        Raises `MalformedError`. Between two tries nothing is held that another call needs.
        """
        offset = self._offset(job)
        headers, body = _forwarded_headers(request), _forwarded_body(job, request, match, offset)
        answer = await self._answered(job, request, match, headers, body)
        if answer is None:
            return _refusal(request, Refusal(409, "invalid_state", "the job has ended in the meantime"))
        response = _answer_of(request, match, answer, offset)
        started = match.route.does is Does.START
        why = gate.unwanted(response.status, gate.json_object(response.body)) if started else ""
        if why:
            by = f"worker:{job.worker}"
            await self._writer.submit(job.worker or "", lambda draft: gate.give_up(draft, job, why, by=by))
        ended = await self._note(job, request, match, answer.token, accepted=_is_success(response.status))
        if request.brief and _is_success(response.status):
            return replace(_response(request, response.status), ended=ended)
        return replace(response, ended=ended)

    async def _answered(
        self, job: Job, request: Request, match: Match, headers: dict[str, str], body: bytes | None
    ) -> Answer | None:
        """Make the call, and again until the API answers; None once the job has ended.

        A loop of our own: `AsyncRetrying` costs a call that succeeds at once, as nearly all do, a twentieth of its CPU.
        """
        for tries in count(1):
            current = self._current(job)
            if current is None:
                break
            try:
                answer = await self._api.call(
                    current.token, request.method, match.path, worker=current.worker or "",
                    query=request.query, headers=headers, body=body,
                )  # fmt: skip
                if answer.status_code != 500 or tries >= _SERVER_ERROR_TRIES:
                    return answer
                failure = "status 500"
            except UnavailableError as error:
                failure = str(error)
            self._note_retry(request, tries, failure)
            longest = min(_RETRY_MAX, _RETRY_FIRST * 2 ** min(tries, 16))
            await self._sleep(random.uniform(0, longest))  # noqa: S311  # not a secret
        return None

    def _offset(self, job: Job) -> float:
        """Return by how many seconds times that the job's worker says are to be moved."""
        worker = self._living.workers.get(job.worker or "")
        return worker.clock.correction if worker is not None else 0.0

    async def _note(self, job: Job, request: Request, match: Match, token: str | None, *, accepted: bool) -> bool:
        """Have the writer note what the answer says of the job, if it says anything; return whether that ended it."""
        final_state = None
        if accepted and match.route.does is Does.END:
            final_state = gate.storable(gate.json_object(request.body).get("state"), 100) or "unknown"
        started = accepted and match.route.does is Does.START
        if not started and final_state is None and token is None:
            return False
        worker = job.worker or ""

        def note(draft: Draft) -> bool:
            gate.note_answer(draft, job, started=started, final_state=final_state, token=token)
            ends = request.ends and final_state is not None
            return ends and self._writer.reports.end(draft, worker, request)

        return bool(await self._writer.submit(worker, note))

    def _note_retry(self, request: Request, tries: int, failure: str) -> None:
        """Log the first try that failed, the second, the fourth, and so on: a call may be tried for days."""
        self._writer.tally.call_tries_failed += 1
        if tries & (tries - 1) or not self._living.lines(request.job):
            return
        log.warning(
            "Execution API: job %s: %s %.200r: %.300r; trying again (%d)",
            request.job, request.method, request.path, failure, tries,
        )  # fmt: skip

    def _current(self, job: Job) -> Job | None:
        """The job as it is now, if the worker still holds the attempt for which a call is made."""
        now = self._living.jobs.get(job.id)
        held = now is not None and (now.worker, now.attempt) == (job.worker, job.attempt) and now.state in gate.STARTED
        return now if held else None


def _forwarded_headers(request: Request) -> dict[str, str]:
    """Return the headers that go on. A trace that is malformed is left out: it must not fail a task's call."""
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    return headers | trace_context.headers_of(request.headers)


def _forwarded_body(job: Job, request: Request, match: Match, offset: float) -> bytes | None:
    """Return the body as it is forwarded. Raises `MalformedError`.

    Airflow knows a worker by its host name, shows it in the UI and compares it in heartbeats. Devices have host
    names like `raspberrypi`; the worker's name is the one that says which device. Times are those of the device's
    clock, which is `offset` seconds behind ours.
    """
    if request.body is None:
        return None
    says_host = match.route.does in (Does.START, Does.LIVE)
    if says_host or (offset and match.route.times):
        body = gate.json_object(request.body)
        changed = clocks.corrected(body, match.route.times, offset)
        if says_host and "hostname" in body:
            changed["hostname"] = job.worker
        if changed:
            return _dumped(body | changed)
    return request.body.encode("utf-8", "surrogatepass")


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:  # orjson reads deeper than it writes
        raise MalformedError(f"its body: {error}") from None


def _answer_of(request: Request, match: Match, answer: Answer, offset: float) -> Response:
    if answer.status_code == 409 and match.route.does is Does.END:
        # Airflow before 3.2 answers a repeated final state like this.
        detail = _detail(answer)
        if detail.get("previous_state") == gate.json_object(request.body).get("state"):
            return _response(request, 204)
    headers = {name: answer.headers[name] for name in _RESPONSE_HEADERS if name in answer.headers}
    body = answer.text if answer.content else None
    if offset and body is not None and match.route.answers:
        body = clocks.answered(body, match.route.answers, -offset)
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
