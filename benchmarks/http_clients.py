"""What one small call costs in each HTTP client: `python -m http_clients` in `benchmarks/`, from the project's .venv.

A server in a process of its own says yes; 16 calls are under way at a time, as a bridge makes them. Printed are
microseconds of this process's own processor time for a call, which are steady where times are not.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
from yarl import URL

CALLS = 2000
AT_A_TIME = 16
PATH = "execution/task-instances/0198f0aa-0000-7000-8000-000000000000/run"
BODY = b'{"state":"running","hostname":"edge-1","unixname":"airflow","pid":7}'
HEADERS = {"content-type": "application/json", "authorization": "Bearer " + "t" * 300}
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class _Yes(asyncio.Protocol):
    """Answers each request that has come whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            if len(rest) < len(BODY) and b"PATCH" in head[:8]:
                return
            self._data = rest[len(BODY) :]
            self._transport.write(ANSWER)


def _serve(ports: "multiprocessing.Queue[int]") -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Yes, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _cost(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Return the microseconds of processor time for a call, after some that warm up."""
    for _ in range(100):
        await call()
    left = iter(range(calls))

    async def some() -> None:
        for _ in left:
            await call()

    began = _cpu()
    await asyncio.gather(*(some() for _ in range(AT_A_TIME)))
    return (_cpu() - began) / calls * 1e6


async def _measure(base: str) -> None:
    async with httpx.AsyncClient() as client:
        cost = await _cost(lambda: client.request("PATCH", base + PATH, content=BODY, headers=HEADERS), CALLS // 4)
        print(f"httpx {httpx.__version__}: {cost:.0f} µs a call")
    url = URL(base + PATH, encoded=True)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def call() -> None:
            async with session.request("PATCH", url, data=BODY, headers=HEADERS) as response:
                await response.read()

        print(f"aiohttp {aiohttp.__version__}: {await _cost(call, CALLS):.0f} µs a call")


def main() -> None:
    """Measure against a server that is ended with us."""
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=_serve, args=(ports,), daemon=True)
    server.start()
    try:
        asyncio.run(_measure(f"http://127.0.0.1:{ports.get(timeout=10)}/"))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
