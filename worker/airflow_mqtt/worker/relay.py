"""Where tasks leave what they have for a monitoring system: two ports on loopback, which no other machine reaches.

One takes StatsD lines by UDP, one OTLP by HTTP. Any process of the device may use them, and so may any user there: what
comes is bounded, goes out within the budget of `core.gathered`, and is said in the worker's name, which is what it is.
"""

import contextlib
import logging
import selectors
import socket
import time
from collections import OrderedDict

from airflow_mqtt.worker.core.gathered import MOST_SPANS, Gathered

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: Datagrams that are read at a time; their largest size.
DATAGRAMS = 64
MOST_DATAGRAM = 8192

#: Connections at a time, the oldest of which goes when there is one more; and bytes of the head of a request.
MOST_CONNECTIONS = 8
MOST_HEAD = 8192

#: Bytes of a request that are read although it was refused.
MOST_SKIPPED = 4 * 1024 * 1024

#: Seconds that a task may lose to us. We answer at once, or are not there.
EXPORT_TIMEOUT = 2


class Relay:
    """Both ports, registered with the selector of the worker's loop."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.gathered = Gathered()
        self._selector = selector
        self._said = False
        self._datagrams = _bound(socket.SOCK_DGRAM)
        self._listener = _bound(socket.SOCK_STREAM)
        self._listener.listen(MOST_CONNECTIONS)
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        selector.register(self._datagrams, selectors.EVENT_READ, self._read_lines)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def environment(self, *, lines: bool, spans: bool) -> dict[str, str]:
        """Return the settings with which tasks say their figures and spans here.

        Each only where the library is there: without it Airflow would complain in each task, or not start one.
        """
        found: dict[str, str] = {}
        if lines:
            found |= {
                "AIRFLOW__METRICS__STATSD_ON": "True",
                "AIRFLOW__METRICS__STATSD_HOST": LOOPBACK,
                "AIRFLOW__METRICS__STATSD_PORT": str(self._datagrams.getsockname()[1]),
            }
        if spans:
            found |= {
                "AIRFLOW__TRACES__OTEL_ON": "True",
                "AIRFLOW__TRACES__TASK_RUNNER_FLUSH_TIMEOUT_MILLISECONDS": str(1000 * EXPORT_TIMEOUT),
                "OTEL_TRACES_EXPORTER": "otlp_proto_http",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{LOOPBACK}:{self._listener.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
                "OTEL_EXPORTER_OTLP_TIMEOUT": str(EXPORT_TIMEOUT),
            }
        return found

    def take(self, now: float) -> bytes | None:
        """Return the payload that goes out now, if one does; say once that there is too much."""
        if self.gathered.dropped and not self._said:
            self._said = True
            log.warning("tasks say more figures or spans than are relayed; what is too much is dropped (said once)")
        return self.gathered.take(now)

    def _read_lines(self, _mask: int) -> None:
        now = time.monotonic()
        for _ in range(DATAGRAMS):
            try:
                data = self._datagrams.recv(MOST_DATAGRAM)
            except OSError:
                return
            for line in data.decode("ascii", "replace").splitlines():
                self.gathered.add_line(line, now)

    def _accept(self, _mask: int) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return
        channel.setblocking(False)
        connection = _Connection(channel, self.gathered)
        self._connections[channel.fileno()] = connection
        self._selector.register(channel, selectors.EVENT_READ, lambda _: self._serve(connection))
        if len(self._connections) > MOST_CONNECTIONS:
            self._close(next(iter(self._connections.values())))

    def _serve(self, connection: "_Connection") -> None:
        if not connection.serve():
            self._close(connection)

    def _close(self, connection: "_Connection") -> None:
        if self._connections.pop(connection.channel.fileno(), None) is not None:
            self._selector.unregister(connection.channel)
            connection.channel.close()

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._close(connection)
        for channel in (self._datagrams, self._listener):
            self._selector.unregister(channel)
            channel.close()


def _bound(kind: socket.SocketKind) -> socket.socket:
    channel = socket.socket(socket.AF_INET, kind)
    channel.bind((LOOPBACK, 0))
    channel.setblocking(False)
    return channel


class _Connection:
    """Takes requests as OpenTelemetry's exporter makes them (https://opentelemetry.io/docs/specs/otlp/#otlphttp)."""

    def __init__(self, channel: socket.socket, gathered: Gathered) -> None:
        self.channel = channel
        self._gathered = gathered
        self._received = bytearray()
        self._skip = 0  # bytes that are still to come of a request that is answered

    def serve(self) -> bool:
        """Read what there is, and answer it; return whether the connection goes on."""
        try:
            data = self.channel.recv(MOST_SPANS)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._received += data
        return bool(data) and self._take_all()

    def _take_all(self) -> bool:
        while True:
            skipped = min(self._skip, len(self._received))
            del self._received[:skipped]
            self._skip -= skipped
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return len(self._received) <= MOST_HEAD
            status, length = _judged(bytes(self._received[:end]))
            start = end + 4
            if status == 200:
                if len(self._received) < start + length:
                    return True  # the rest is still to come
                self._gathered.add_spans(bytes(self._received[start : start + length]), time.monotonic())
            elif status == 413:
                self._gathered.dropped += 1
            del self._received[:start]
            # What is refused is read all the same, if there is not too much: who sends it would not hear the answer.
            self._skip = length
            if not self._answer(status) or length > MOST_SKIPPED:
                return False

    def _answer(self, status: int) -> bool:
        """Answer. The kernel has room for so little, unless nobody reads: then it is nobody's loss."""
        with contextlib.suppress(OSError):
            text = f"HTTP/1.1 {status} \r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
            self.channel.send(text.encode())
            return True
        return False


def _judged(head: bytes) -> tuple[int, int]:
    """Return the status of a request with this head, and the length of its body; one that is not said is endless."""
    request, _, rest = head.decode("latin-1").partition("\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest.split("\r\n"))
    }
    said = fields.get("content-length", "")
    length = int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else MOST_SKIPPED + 1
    if not request.startswith("POST /v1/traces "):
        return 404, length
    if length > MOST_SPANS:
        return 413, length
    return (200 if fields.get("content-encoding", "identity") == "identity" else 400), length
