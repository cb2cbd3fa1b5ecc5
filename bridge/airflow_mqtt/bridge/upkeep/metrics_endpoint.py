"""`/metrics` for Prometheus, over the bridge's own loop: `metrics_address`.

What is in memory is looked at in the loop, in a moment, and made into text in a thread: a scrape of a large fleet holds
up nobody for longer than a thread is let run. Who scrapes more often than once in `_FRESH` gets the same text again.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from airflow_mqtt.bridge.upkeep.metrics import Seen, text
from airflow_mqtt.protocol.errors import RefusedError

#: Seconds for which a text is given out.
_FRESH: Final = 1.0

#: Seconds for a scrape that is under way when the bridge ends.
_FAREWELL: Final = 1.0


@asynccontextmanager
async def serving(address: tuple[str, int] | None, look: Callable[[], Seen]) -> AsyncIterator[None]:
    """Serve what `look` returns while the body runs; nothing without an address.

    Raises `RefusedError` where nobody can listen there.
    """
    if address is None:
        yield
        return
    host, port = address
    app = web.Application()
    app.router.add_get("/metrics", _Page(look).answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_FAREWELL)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise RefusedError(
                f"metrics_address: nobody can listen on {host}:{port} ({why}); give a free port of this machine"
            ) from None
        yield
    finally:
        await runner.cleanup()


class _Page:
    """The page, made when it is asked for."""

    def __init__(self, look: Callable[[], Seen]) -> None:
        self._look = look
        self._lock = asyncio.Lock()
        self._made_at = float("-inf")
        self._text = b""

    async def answer(self, _request: web.Request) -> web.Response:
        async with self._lock:  # one is made at a time
            if time.monotonic() - self._made_at > _FRESH:
                self._text = await asyncio.to_thread(text, self._look())
                self._made_at = time.monotonic()
        return web.Response(body=self._text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})
