"""Execution API calls on behalf of jobs: authorised, gated, given their token, forwarded.

A device never holds a token. What reaches the Execution API is what the job of the asking worker, in its current
attempt, may ask for.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from airflow_mqtt.bridge import routes
from airflow_mqtt.bridge.database import Database
from airflow_mqtt.bridge.intake import Call
from airflow_mqtt.bridge.outgoing import Outgoing, Post
from airflow_mqtt.bridge.routes import Refusal
from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.bridge.values import Job
from airflow_mqtt.protocol.jobs import JobEvent, JobState, Verdict, settle
from airflow_mqtt.protocol.messages import Request, Response
from airflow_mqtt.protocol.topics import TopicKind, Topics

log = logging.getLogger(__name__)

#: Answers that are remembered, since QoS 1 may deliver a request twice.
_REMEMBERED: Final = 10_000

#: Requests forwarded at a time. The API server has its own limits; the rest waits here.
_CONCURRENCY: Final = 64

#: Pauses, in seconds, in which a request for the gate waits for the report of acceptance that it has overtaken.
_GATE_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 3.2)

#: Longest pause between two tries of a call, in seconds.
_RETRY_MAX: Final = 10.0

#: Statuses by which a server, or a proxy before it, says "not now".
_NOT_NOW: Final = frozenset({429, 502, 503, 504})

#: A call to which the API server answers 500 is tried so often: the fault may be the call's own.
_SERVER_ERROR_TRIES: Final = 6

_REQUEST_HEADERS: Final = ("content-type", "airflow-api-version")
_RESPONSE_HEADERS: Final = ("content-type", "content-range")
_REFRESHED: Final = "refreshed-api-token"

Key = tuple[str, str, str]


class UnavailableError(Exception):
    """The Execution API did not answer, or not as itself: try again."""


class EarlyError(Exception):
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


class ExecutionApi:
    """Calls of the Execution API with a job's token."""

    def __init__(self, url: str, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        limits = httpx.Limits(max_connections=_CONCURRENCY, max_keepalive_connections=_CONCURRENCY)
        self._client = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(30.0), limits=limits)
        #: The version of the API that each job's Task SDK speaks; our heartbeats speak it too.
        self._versions: OrderedDict[str, str] = OrderedDict()

    async def close(self) -> None:
        await self._client.aclose()

    async def call(
        self,
        job: Job,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: dict[str, str],
        body: bytes | None,
    ) -> httpx.Response:
        """Make one call. Raises `UnavailableError` when it is worth trying again."""
        async with self._database.read() as connection:
            credentials = await SqlTx(connection, self._database.team_name).credentials(job.id)
        token = credentials.token if credentials else ""
        url = f"{path}?{query}" if query else path
        try:
            response = await self._client.request(
                method, url, content=body, headers={**headers, "authorization": f"Bearer {token}"}
            )
        except httpx.HTTPError as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from None
        if response.status_code in _NOT_NOW or _token_refused(response):
            raise UnavailableError(f"status {response.status_code} {response.text[:200]}")
        if fresh := response.headers.get(_REFRESHED):
            async with self._database.write() as connection:
                await SqlTx(connection, self._database.team_name).set_token(job, fresh, self._clock())
        return response

    def speaks(self, job_id: str, version: str) -> None:
        self._versions[job_id] = version
        if len(self._versions) > _REMEMBERED:
            self._versions.popitem(last=False)

    async def heartbeat(self, job: Job) -> httpx.Response:
        """Tell Airflow that the task of `job` is alive. Raises `UnavailableError`."""
        headers = {"content-type": "application/json"}
        if version := self._versions.get(job.id):
            headers["airflow-api-version"] = version
        body = orjson.dumps({"hostname": job.worker, "pid": job.pid})
        path = f"task-instances/{job.subject}/heartbeat"
        return await self.call(job, "PUT", path, headers=headers, body=body)


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
        self._answers: OrderedDict[Key, Response] = OrderedDict()
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._ending: set[str] = set()

    def is_ending(self, job_id: str) -> bool:
        """Whether the final state of this job's task is on its way to Airflow: then a heartbeat is refused too."""
        return job_id in self._ending

    async def handle(self, call: Call) -> None:
        """Answer one request. What is being answered already is left to that; what was, is answered again."""
        key = (call.worker, call.request.journal, call.request.id)
        if key in self._busy:
            return
        response = self._answers.get(key)
        if response is None:
            self._busy.add(key)
            try:
                response = await self._answer(call)
            except EarlyError:
                return  # its report of acceptance got lost; it will send both again
            finally:
                self._busy.discard(key)
            self._remember(key, response)
        topic = self._topics.worker(call.worker, TopicKind.RESPONSE)
        await self._publish(Outgoing(topic, response.encode()))

    def _remember(self, key: Key, response: Response) -> None:
        self._answers[key] = response
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    async def _answer(self, call: Call) -> Response:
        request = call.request
        path = routes.normalise(request.path)
        if path is None:
            return self._refuse(call, Refusal(403, "forbidden", "the path is malformed"))
        admitted = await self._admit(call, path)
        if isinstance(admitted, Refusal):
            return self._refuse(call, admitted)
        if routes.CALLBACK_GATE.fullmatch(path):
            return _response(request, 204)
        if routes.is_final_state(request.method, path):
            return await self._end(admitted, request, path)
        async with self._slots:
            answer = await self._forward(admitted, request, path)
        if routes.is_gate(request.method, path) and 200 <= answer.status < 300:
            async with self._database.write() as connection:
                await SqlTx(connection, self._database.team_name).set_running_since(admitted, self._clock())
        return self._sized(answer)

    async def _end(self, job: Job, request: Request, path: str) -> Response:
        """Forward a final state, and note it before the worker hears that it was accepted."""
        self._ending.add(job.id)
        try:
            async with self._slots:
                answer = await self._forward(job, request, path)
            if 200 <= answer.status < 300:
                await self._note_final_state(job, request)
            return answer
        finally:
            self._ending.discard(job.id)

    def _refuse(self, call: Call, refusal: Refusal) -> Response:
        log.warning(
            "refused %s %s of worker %s for job %s attempt %d: %s",
            call.request.method, call.request.path[:200], call.worker, call.request.job, call.request.attempt,
            refusal.message,
        )  # fmt: skip
        return _refusal(call.request, refusal)

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
        """Make the call, and again until the API answers: the worker waits, and nothing else can answer it."""
        headers: dict[str, str] = {n: request.headers[n] for n in _REQUEST_HEADERS if n in request.headers}
        if version := headers.get("airflow-api-version"):
            self._api.speaks(job.id, version)
        body = _forwarded_body(job, request, path)
        raw_path = request.path.removeprefix("/")
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_random_exponential(multiplier=0.2, max=_RETRY_MAX),
            before_sleep=lambda state: _note_retry(request, state),
        )
        async for attempt in retrying:
            number = attempt.retry_state.attempt_number
            with attempt:
                if number > 1 and not await self._is_current(job):
                    return _refusal(request, Refusal(409, "invalid_state", "the job has ended in the meantime"))
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
        state = _json(request.body).get("state")
        async with self._database.write() as connection:
            tx = SqlTx(connection, self._database.team_name)
            await tx.set_final_state(job, str(state or "unknown")[:100])

    def _sized(self, response: Response) -> Response:
        if len(response.body or "") <= self._max - 1024:
            return response
        message = f"the answer has {len(response.body or '')} bytes; max_message_bytes of the bridge is {self._max}"
        return Response(id=response.id, journal=response.journal, **_error(413, "too_large", message))


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
        refusal = routes.check(job, request.method, path)
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
    error = state.outcome.exception() if state.outcome else None
    log.warning("Execution API: %s %s: %s; trying again", request.method, request.path[:200], error)


def _token_refused(answer: httpx.Response) -> bool:
    """Whether the job's token has expired (`JWTBearer` in `airflow.api_fastapi.execution_api.security`).

    After a long outage of the whole site that is so until the executor has made a new one.
    """
    return answer.status_code in (401, 403) and b"Invalid auth token" in answer.content


def _identity(body: dict[str, Any]) -> dict[str, Any]:
    """Who the task's process is, which Airflow compares in each heartbeat."""
    pid = body.get("pid")
    valid = isinstance(pid, int) and 0 <= pid < 2**31
    return {"pid": pid if valid else 0, "unixname": str(body.get("unixname", ""))[:256]}


def _forwarded_body(job: Job, request: Request, path: str) -> bytes | None:
    """Return the body as it is forwarded.

    Airflow knows a worker by its host name, shows it in the UI and compares it in heartbeats. Devices have host
    names like `raspberrypi`; the worker's name is the one that says which device.
    """
    if request.body is None:
        return None
    if routes.is_gate(request.method, path) or path.endswith("/heartbeat"):
        body = _json(request.body)
        if "hostname" in body:
            return orjson.dumps({**body, "hostname": job.worker})
    return request.body.encode("utf-8", "surrogatepass")


def _answer_of(request: Request, path: str, answer: httpx.Response) -> Response:
    if answer.status_code == 409 and routes.is_final_state(request.method, path):
        # Airflow before 3.2 answers a repeated final state like this.
        detail = _detail(answer)
        if detail.get("previous_state") == _json(request.body).get("state"):
            return _response(request, 204)
    headers = {name: answer.headers[name] for name in _RESPONSE_HEADERS if name in answer.headers}
    body = answer.text if answer.content else None
    return Response(id=request.id, journal=request.journal, status=answer.status_code, headers=headers, body=body)


def _detail(answer: httpx.Response) -> dict[str, Any]:
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
