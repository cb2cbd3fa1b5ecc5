"""`python -m fleet.stub PORT`: an Execution API that says yes to everything, at as little cost as can be."""

import asyncio
import sys
from typing import Final

_YES: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_DONE: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_LENGTH: Final = b"content-length:"


class Connection(asyncio.Protocol):
    """Answers each request of one connection."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._rest += data
        while (end := request_end(self._rest)) is not None:
            line = bytes(self._rest[: self._rest.index(b"\r\n")])
            del self._rest[:end]
            self._transport.write(_YES if b"/run " in line else _DONE)


def request_end(data: bytes | bytearray) -> int | None:
    """Return where the first request in `data` ends, its body included; None when it is not all there."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    lines = bytes(data[:head]).lower().split(b"\r\n")
    length = next((int(line[len(_LENGTH) :]) for line in lines if line.startswith(_LENGTH)), 0)
    end = head + 4 + length
    return end if len(data) >= end else None


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
