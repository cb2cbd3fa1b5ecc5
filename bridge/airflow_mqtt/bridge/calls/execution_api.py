"""Calls of Airflow's Execution API, with the token of a job."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx
import orjson

from airflow_mqtt.bridge.store import SqlTx
from airflow_mqtt.database.engine import Database
from airflow_mqtt.database.errors import is_transient
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import codec

log = logging.getLogger(__name__)

#: Calls made at a time for workers. The API server has its own limits; the rest waits here.
CALLS: Final = 64

#: Heartbeats made at a time. They have connections of their own: no call of a worker holds them up.
HEARTBEATS: Final = 16

#: Jobs of which the version of the API is remembered.
_REMEMBERED: Final = 10_000

#: Statuses by which a server, or a proxy before it, says "not now".
_NOT_NOW: Final = frozenset({429, 502, 503, 504})

_REFRESHED: Final = "refreshed-api-token"


class UnavailableError(Exception):
    """The Execution API did not answer, or not as itself: try again."""


class MalformedError(Exception):
    """The call cannot be put into HTTP. It never will be: who made it must hear so."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Execution API answered. A `content` over `codec.MAX_DECODED_BYTES` is only the beginning of it."""

    status_code: int
    headers: httpx.Headers
    content: bytes

    @property
    def text(self) -> str:
        """The content as UTF-8, as JSON is.

        In another charset, the beginning of an answer could become a text so short that it passed for all of it.
        """
        return self.content.decode("utf-8", "replace")


class ExecutionApi:
    """Calls of the Execution API with a job's token."""

    def __init__(self, url: str, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        connections = CALLS + HEARTBEATS
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
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
        token: str | None = None,
    ) -> Answer:
        """Make one call, with the job's `token`, which is looked up where it is not given.

        Raises `UnavailableError` when it is worth trying again, and `MalformedError` when it never is.
        """
        if token is None:
            async with self._database.read() as connection:
                token = await SqlTx(connection, self._database.team_name).token(job.id) or ""
        url = f"{path}?{query}" if query else path
        try:
            answer = await self._send(method, url, body, {**headers, "authorization": f"Bearer {token}"})
        except (httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError) as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from None
        except httpx.HTTPError as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from None
        if answer.status_code in _NOT_NOW or _token_refused(answer):
            raise UnavailableError(f"status {answer.status_code} {answer.text[:200]}")
        if fresh := answer.headers.get(_REFRESHED):
            await self._keep_token(job, fresh)
        return answer

    async def _send(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Make the request, and read its answer until it is over what a worker would unpack.

        The connection of an answer that is read to its end serves the next call, any other is closed. Airflow's GZip
        is declined: 64 KiB of it, which is what is read at a time, may be 64 MiB.
        """
        headers = {**headers, "accept-encoding": "identity"}
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > codec.MAX_DECODED_BYTES:
                    break
            return Answer(response.status_code, response.headers, bytes(content))

    async def _keep_token(self, job: Job, token: str) -> None:
        """Store the token that came with an answer. Without it the old one goes on; the answer counts either way."""
        try:
            async with self._database.write() as connection:
                await SqlTx(connection, self._database.team_name).set_token(job, token, self._clock())
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("job %s: its new token could not be stored, the old one stays: %.200r", job.id, error)

    def speaks(self, job_id: str, version: str) -> None:
        self._versions[job_id] = version
        if len(self._versions) > _REMEMBERED:
            self._versions.popitem(last=False)

    async def heartbeat(self, job: Job, token: str) -> Answer:
        """Tell Airflow that the task of `job` is alive. Raises as `call` does."""
        headers = {"content-type": "application/json"}
        if version := self._versions.get(job.id):
            headers["airflow-api-version"] = version
        body = orjson.dumps({"hostname": job.worker, "pid": job.pid})
        path = f"task-instances/{job.subject}/heartbeat"
        return await self.call(job, "PUT", path, headers=headers, body=body, token=token)


def _token_refused(answer: Answer) -> bool:
    """Whether the job's token has expired (`JWTBearer` in `airflow.api_fastapi.execution_api.security`).

    After a long outage of the whole site that is so until the executor has made a new one.
    """
    return answer.status_code in (401, 403) and b"Invalid auth token" in answer.content
