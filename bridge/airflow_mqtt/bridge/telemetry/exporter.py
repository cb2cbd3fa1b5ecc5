"""Sends OTLP messages to a collector, one after the other, and drops what it cannot keep up with."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import aiohttp

from airflow_mqtt.bridge.bounds import Bound, Quota
from airflow_mqtt.bridge.calls.execution_api import proxy_of
from airflow_mqtt.bridge.cancellation import raise_if_cancelled
from airflow_mqtt.bridge.telemetry.otlp import Otlp
from airflow_mqtt.bridge.telemetry.spans import Span

log = logging.getLogger(__name__)

#: Messages and spans that wait to be sent.
_WAITING: Final = Bound(2_000, 8 * 1024 * 1024)
_SPANS: Final = 2_000

#: Spans of one message.
_TOGETHER: Final = 500

#: Seconds in which spans gather, and those that a collector has for an answer.
_PAUSE: Final = 1.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)


class Exporter:
    """Keeps what is to be sent until `run` sends it. `dropped` counts messages and spans that were not."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], otlp: Otlp) -> None:
        self._url = endpoint + "v1/traces"
        self._headers = {**headers, "content-type": "application/x-protobuf"}
        self._otlp = otlp
        self._spans: deque[Span] = deque()
        self._messages: deque[bytes] = deque()
        self._quota = Quota(each=_WAITING)
        self._is_down = False
        self.dropped = 0

    def add(self, span: Span) -> None:
        """Have a span sent."""
        if len(self._spans) < _SPANS:
            self._spans.append(span)
        else:
            self.dropped += 1

    def relay(self, message: bytes) -> bool:
        """Have a message sent that is one already; return whether there was room for it."""
        if not self._quota.enter(None, len(message)):
            return False
        self._messages.append(message)
        return True

    async def run(self) -> None:
        """Send until cancelled. Nothing is sent twice: a collector that did not answer may have it."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            proxy = proxy_of(self._url)
            while True:
                await asyncio.sleep(_PAUSE)
                await self._send_all(session, proxy)

    async def _send_all(self, session: aiohttp.ClientSession, proxy: str | None) -> None:
        while self._spans or self._messages:
            for message, count in self._next():
                if not await self._post(session, proxy, message):
                    self.dropped += count
                    return  # the rest waits for the next round, as far as there is room

    def _next(self) -> Iterator[tuple[bytes, int]]:
        """Take what is sent next, and how much that is: spans of our own, and a message, so that neither waits long."""
        if self._spans:
            taken = [self._spans.popleft() for _ in range(min(_TOGETHER, len(self._spans)))]
            yield self._otlp.encoded(taken), len(taken)
        if self._messages:
            message = self._messages.popleft()
            self._quota.leave(None, len(message))
            yield message, 1

    async def _post(self, session: aiohttp.ClientSession, proxy: str | None, message: bytes) -> bool:
        try:
            async with session.post(self._url, data=message, headers=self._headers, proxy=proxy) as response:
                why = "" if response.status < 300 else f"status {response.status}"
                await response.content.read(1024)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise_if_cancelled()
            why = f"{type(error).__name__}: {error}"
        if why and not self._is_down:
            log.warning("otlp_endpoint %s does not take spans, which are dropped: %.300s", self._url, why)
        elif self._is_down and not why:
            log.info("otlp_endpoint %s takes spans again; %d were dropped", self._url, self.dropped)
        self._is_down = bool(why)
        return not why
