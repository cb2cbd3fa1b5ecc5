"""Execution API calls on behalf of jobs: authorised, gated, and answered, each once. `forwarder` makes them.

A device never holds a token. What reaches the Execution API is what the job of the asking worker, in its current
attempt, may ask for. All that decides this is in the leader's memory: a call reads nothing. What its answer changes is
a script of the writer, and the worker hears the answer once that has been committed.

It awaits only what it is given (the API, the writer, a pause): the simulation runs this class.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from itertools import takewhile
from typing import Any, Final

import orjson

from airflow_mqtt.bridge.bounds import Bound, Once, Quota, Recent, Share
from airflow_mqtt.bridge.calls import gate, responses
from airflow_mqtt.bridge.calls.execution_api import MalformedError
from airflow_mqtt.bridge.calls.forwarder import Api, Forwarder, Spans, has_proper_headers
from airflow_mqtt.bridge.calls.gate import Call, Early, Refusal
from airflow_mqtt.bridge.mqtt.outbox import Messages, Outgoing
from airflow_mqtt.bridge.writer import Writer
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import codec, execution_api
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

Key = tuple[str, str, str]


def _key(call: Call) -> Key:
    return call.worker, call.request.journal, call.request.id


class EarlyError(Exception):
    """A job wants to start that its worker, with this journal, has not been heard to accept."""


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
        self._forwarder = Forwarder(writer, api, sleep=sleep, spans=spans)
        self._messages = messages
        self._publish = publish
        self._sleep = sleep
        self._clock = clock
        self._elsewhere = elsewhere
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
            is_success = responses.is_success(codec.decode(payload)["status"])
        else:
            match, began = self._match(call), self._clock()
            response = await self._answer(call, match)
            self._writer.tally.call(call.request, match, response.status, self._clock() - began)
            if isinstance(response, Refusal):  # made again as easily as it is remembered
                self._writer.tally.refused[response.reason] += 1
                return await self._encode(call.worker, self._refuse(call, response)), False
            is_success = responses.is_success(response.status)
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
        return responses.failed(id_, journal, Refusal(413, "too_large", message)).encode()

    async def _answer(self, call: Call, match: Match | Miss) -> Response | Refusal:
        request = call.request
        if isinstance(match, Miss):
            return gate.refuse_miss(match, request)
        if not has_proper_headers(request):
            return Refusal(400, "malformed", "a header is not of 1 to 256 printable ASCII characters")
        is_gate = match.route.does is Does.START
        admitted = await self._start(call, match) if is_gate else self._admit(call, match)
        if isinstance(admitted, Refusal):
            # A leader that has slept knows what was, and its word would fail a task: only one that still leads refuses.
            await self._writer.confirm()
            return admitted
        if match.route.ours:
            return responses.empty(request, 204)
        try:
            if match.route.does is Does.END:
                return await self._end(admitted, request, match)
            return await self._forwarder.forward(admitted, request, match)
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
            return await self._forwarder.forward(job, request, match)
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
        return responses.refused(request, refusal)
