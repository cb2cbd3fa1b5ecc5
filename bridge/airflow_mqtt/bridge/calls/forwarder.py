"""One admitted call of the Execution API: how it goes to Airflow, again until it is answered, and what is noted then.

Whether it may be made, and how the worker hears its answer, is the business of `gateway`. It awaits only what it is
given (the API, the writer, a pause): the simulation runs this class.
"""

import logging
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any, Final, Protocol

import orjson

from airflow_mqtt.bridge.calls import gate, responses
from airflow_mqtt.bridge.calls.execution_api import Answer, MalformedError, UnavailableError
from airflow_mqtt.bridge.calls.gate import Refusal
from airflow_mqtt.bridge.draft import Draft
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import clocks, trace_context
from airflow_mqtt.protocol.execution_api import Does, Match
from airflow_mqtt.protocol.messages import Request, Response

log = logging.getLogger(__name__)

#: Seconds between two tries of a call, at random up to twice this after the first, doubled each time up to the longest.
_RETRY_FIRST: Final = 0.1
_RETRY_MAX: Final = 10.0

#: A call to which the API server answers 500 is tried so often: the fault may be the call's own.
_SERVER_ERROR_TRIES: Final = 6

_REQUEST_HEADERS: Final = ("content-type", "airflow-api-version")
_RESPONSE_HEADERS: Final = ("content-type", "content-range")

#: What a request's header may hold. The Task SDK's are a type and a date.
_HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")


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


class Forwarder:
    """Makes calls that are admitted. `spans` hears of those whose trace is recorded."""

    def __init__(
        self, writer: Writer, api: Api, *, sleep: Callable[[float], Awaitable[None]], spans: Spans | None = None
    ) -> None:
        self._writer = writer
        self._living = writer.living
        self._api = api
        self._sleep = sleep
        self._spans = spans

    async def forward(self, job: Job, request: Request, match: Match) -> Response:
        """Forward a call; where its trace is recorded, as a span of that, which is the parent of what the API does."""
        begun = None if self._spans is None else self._spans.begin(request.headers)
        if self._spans is None or begun is None:
            return await self._call(job, request, match)
        status = 0
        try:
            headers = {**request.headers, **begun.context.headers()}
            response = await self._call(job, replace(request, headers=headers), match)
            status = response.status
            return response
        finally:
            name = f"{request.method} {match.route.path}"
            self._spans.end(begun, name, status, job=job.id, worker=job.worker or "")

    async def _call(self, job: Job, request: Request, match: Match) -> Response:
        """Make the call, and again until the API answers: the worker waits, and nothing else can answer it.

        Raises `MalformedError`. Between two tries nothing is held that another call needs.
        """
        offset = self._offset(job)
        headers, body = _forwarded_headers(request), _forwarded_body(job, request, match, offset)
        answer = await self._answered(job, request, match, headers, body)
        if answer is None:
            return responses.refused(request, Refusal(409, "invalid_state", "the job has ended in the meantime"))
        response = _answer_of(request, match, answer, offset)
        started = match.route.does is Does.START
        why = gate.unwanted(response.status, gate.json_object(response.body)) if started else ""
        if why:
            by = f"worker:{job.worker}"
            await self._writer.submit(job.worker or "", lambda draft: gate.give_up(draft, job, why, by=by))
        ended = await self._note(job, request, match, answer.token, accepted=responses.is_success(response.status))
        if request.brief and responses.is_success(response.status):
            return replace(responses.empty(request, response.status), ended=ended)
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


def has_proper_headers(request: Request) -> bool:
    """Whether what goes on of the headers of `request` can be put into HTTP."""
    return all(_HEADER_VALUE.fullmatch(value) for value in _forwarded_headers(request).values())


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
            return responses.empty(request, 204)
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
