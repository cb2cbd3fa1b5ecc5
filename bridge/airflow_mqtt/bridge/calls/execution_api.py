"""Calls of Airflow's Execution API, with the token of a job.

aiohttp, of the clients that are well kept the one that costs least for many small calls: see
`docs/explanation/performance.md`.
"""

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from yarl import URL

from airflow_mqtt.bridge.calls.turns import Turns
from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import codec

log = logging.getLogger(__name__)

#: Calls made at a time for workers, and for one of them. The API server has its own limits; the rest waits here.
CALLS: Final = 64
CALLS_OF_A_WORKER: Final = 16

#: Bytes of an answer from which on it is large: so many of them are read at a time, and one of a worker.
_LARGE: Final = 256 * 1024
_LARGE_ONES: Final = 4

#: Heartbeats that `heartbeats.beat` makes at a time. They have connections of their own: no call of a worker holds
#: them up.
HEARTBEATS: Final = 16

#: Seconds until there is a connection, and between two pieces of an answer.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=30.0)

#: Statuses by which a server, or a proxy before it, says "not now".
_NOT_NOW: Final = frozenset({429, 502, 503, 504})

_REFRESHED: Final = "refreshed-api-token"

#: What stands for itself in the target of a request, beside letters and digits (RFC 3986, sections 2.2 and 2.3).
_TARGET: Final = "/:@-._~!$&'()*+,;="

#: A query comes as in a URL: what is encoded already stays so.
_QUERY: Final = _TARGET + "%?[]|"

#: Characters of a request's target. Servers refuse longer ones, and some in the middle of it.
_LONGEST: Final = 65_536


class UnavailableError(Exception):
    """The Execution API did not answer, or not as itself: try again."""


class MalformedError(Exception):
    """The call cannot be put into HTTP. It never will be: who made it must hear so."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Execution API answered. A `content` over `codec.MAX_DECODED_BYTES` is only the beginning of it.

    Names of `headers` are looked up in any case. `token` is the new one that came along.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes
    token: str | None = None

    @property
    def text(self) -> str:
        """The content as UTF-8, as JSON is.

        In another charset, the beginning of an answer could become a text so short that it passed for all of it.
        """
        return self.content.decode("utf-8", "replace")


class ExecutionApi:
    """Calls of the Execution API at `url`. To be made where a loop runs, and closed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CALLS + HEARTBEATS, keepalive_timeout=30.0),
            timeout=_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        #: Asked of the environment once: aiohttp would read it, and ~/.netrc, for each call.
        self._proxy = proxy_of(url)
        self._calls = Turns(CALLS, CALLS_OF_A_WORKER)
        self._large = Turns(_LARGE_ONES, 1)

    async def close(self) -> None:
        await self._session.close()

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
    ) -> Answer:
        """Make one call, for a worker. `path` is decoded, `query` as in a URL.

        Raises `UnavailableError` when it is worth trying again, and `MalformedError` when it never is.
        """
        url = self._target(path, query)
        async with self._calls.of(worker):
            return await self._call(worker, method, url, _with(token, headers), body)

    async def heartbeat(self, job: Job) -> Answer:
        """Tell Airflow that the task of `job` is alive. Raises as `call` does."""
        headers = {"content-type": "application/json"}
        if job.api_version:
            headers["airflow-api-version"] = job.api_version
        body = orjson.dumps({"hostname": job.worker, "pid": job.pid})
        url = self._target(f"task-instances/{job.subject}/heartbeat", "")
        return await self._call(job.worker or "", "PUT", url, _with(job.token, headers), body)

    def _target(self, path: str, query: str) -> URL:
        if any(character < " " or character == "\x7f" for character in query):
            raise MalformedError("its query holds a control character")
        try:
            text = self._url + quote(path, safe=_TARGET)
            if query:
                text += "?" + quote(query, safe=_QUERY)
        except UnicodeError as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from None
        if len(text) > _LONGEST:
            raise MalformedError(f"its address has {len(text)} characters")
        return URL(text, encoded=True)

    async def _call(self, worker: str, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> Answer:
        raise_if_cancelled()
        try:
            answer = await self._send(worker, method, url, headers, body)
        except (aiohttp.InvalidURL, ValueError) as error:
            raise MalformedError(f"{type(error).__name__}: {error}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_if_cancelled()
            raise UnavailableError(f"{type(error).__name__}: {error}") from None
        if answer.status_code in _NOT_NOW or _token_refused(answer):
            raise UnavailableError(f"status {answer.status_code} {answer.text[:200]}")
        return answer

    async def _send(self, worker: str, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> Answer:
        """Make the request, and read its answer until it is over what a worker would unpack.

        The connection of an answer that is read to its end serves the next call, any other is closed. Airflow's GZip
        is declined: 64 KiB of it, which is what is read at a time, may be 64 MiB.
        """
        async with self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False, proxy=self._proxy
        ) as response:
            content = await self._read(worker, response)
            return Answer(response.status, response.headers, content, response.headers.get(_REFRESHED))

    async def _read(self, worker: str, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async with AsyncExitStack() as stack:
            is_large = False
            while piece := await response.content.readany():
                content += piece
                if len(content) > codec.MAX_DECODED_BYTES:
                    response.close()
                    break
                if len(content) > _LARGE and not is_large:
                    is_large = True
                    await stack.enter_async_context(self._large.of(worker))
            return bytes(content)


def _with(token: str, headers: dict[str, str]) -> dict[str, str]:
    return {**headers, "authorization": f"Bearer {token}", "accept-encoding": "identity"}


def proxy_of(url: str) -> str | None:
    """Return the HTTP proxy by which `url` is reached, as the environment has it (`https_proxy`, `no_proxy`, …)."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        log.warning(
            "the proxy of the environment is no HTTP proxy (%s): the Execution API at %s is called without",
            urlsplit(proxy).scheme, parts.netloc.rpartition("@")[2],
        )  # fmt: skip
        return None
    return proxy


def _token_refused(answer: Answer) -> bool:
    """Whether the job's token has expired (`JWTBearer` in `airflow.api_fastapi.execution_api.security`).

    After a long outage of the whole site that is so until the executor has made a new one.
    """
    return answer.status_code in (401, 403) and b"Invalid auth token" in answer.content
