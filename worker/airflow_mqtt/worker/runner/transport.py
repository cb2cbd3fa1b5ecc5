"""The httpx transport with which the Task SDK talks to the worker instead of to an API server."""

import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from airflow_mqtt.protocol import execution_api, trace_context
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.execution_api import Does, Match
from airflow_mqtt.worker.frames import HEADER_BYTES, MAX_FRAME_BYTES, UNREAD, Unpacker, pack
from airflow_mqtt.worker.unix_sockets import connect

#: What the SDK believes the API server's address to be.
BASE_URL = "http://airflow-mqtt/execution/"
_ROOT = httpx.URL(BASE_URL).path

#: A heartbeat that the worker does not answer in this time is answered here: a supervisor that waits does not
#: drain the pipes of its task. The bridge tells Airflow that the task lives, see `docs/explanation`.
HEARTBEAT_WAIT = 1.0

RECONNECT_PAUSE = 0.5
HEADERS = ("content-type", "airflow-api-version")


class WorkerTransport(httpx.BaseTransport):
    """Carries requests over `worker.sock` in `state_dir`, for one attempt of one job.

    It ignores httpx's time limits and connects again for as long as it takes, under the same request id: the
    worker may be down for a while, and the bridge answers an id once.
    """

    def __init__(
        self,
        state_dir: Path,
        job: str,
        attempt: int,
        max_call_bytes: int = MAX_FRAME_BYTES,
        *,
        key: str = "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key
        self._max_call_bytes = max_call_bytes
        self._path = state_dir / "worker.sock"
        self._job = job
        self._attempt = attempt
        self._sleep = sleep
        self._socket: socket.socket | None = None
        self._owner = os.getpid()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        call = self._call(request, path.removeprefix(_ROOT), query)
        if not path.startswith(_ROOT):
            answer = _not_found()
        elif len(pack(call)) - HEADER_BYTES > self._max_call_bytes:
            answer = _too_large()
        elif _is_heartbeat(call):
            answer = self._try_within(call, HEARTBEAT_WAIT) or {"status": 204}
        else:
            answer = self._insist(call)
        body = answer.get("body")
        return httpx.Response(
            answer["status"],
            headers=answer.get("headers") or {},
            content=b"" if body is None else body.encode(),
            request=request,
        )

    def _call(self, request: httpx.Request, path: str, query: str) -> dict[str, Any]:
        body = request.read()
        return {
            "id": base64.urlsafe_b64encode(os.urandom(9)).decode(),
            "job": self._job,
            "attempt": self._attempt,
            "key": self._key,
            "method": request.method,
            "path": path,
            "query": query,
            "headers": {name: request.headers[name] for name in HEADERS if name in request.headers}
            | trace_context.headers_of(request.headers),
            "body": body.decode() if body else None,
        }

    def _insist(self, call: dict[str, Any]) -> dict[str, Any]:
        while True:
            answer = self._try_within(call, None)
            if answer is not None:
                return answer
            self._sleep(RECONNECT_PAUSE)

    def _try_within(self, call: dict[str, Any], timeout: float | None) -> dict[str, Any] | None:
        """Return the answer, or None when the worker is not there or does not answer in time."""
        try:
            channel = self._connected()
            channel.settimeout(timeout)
            channel.sendall(pack(call))
            return self._receive(channel, call["id"])
        except (OSError, PayloadError):
            self.close()
            return None

    def _receive(self, channel: socket.socket, call_id: str) -> dict[str, Any]:
        unpacker = Unpacker()
        while True:
            data = channel.recv(65536)
            if not data:
                raise ConnectionResetError
            for answer in unpacker.feed(data):
                if answer.get("id") in (call_id, UNREAD) and isinstance(answer.get("status"), int):
                    return answer

    def _connected(self) -> socket.socket:
        if self._owner != os.getpid():  # forked: the connection is the parent's
            self._socket = None
            self._owner = os.getpid()
        if self._socket is None:
            self._socket = connect(self._path)
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _is_heartbeat(call: dict[str, Any]) -> bool:
    match = execution_api.find(call["method"], call["path"])
    return isinstance(match, Match) and match.route.does is Does.LIVE


def _not_found() -> dict[str, Any]:
    """Return what an API server says of what is not under the Execution API: a key of dots leads out of there."""
    return {"status": 404, "headers": {"content-type": "application/json"}, "body": '{"detail":"Not Found"}'}


def _too_large() -> dict[str, Any]:
    """Return what the worker would say of a call that is only a little too large (`core.calls`)."""
    message = "The call is larger than a message may be on its way to Airflow (max_message_bytes). Pass less."
    body = json.dumps({"detail": {"reason": "too_large", "message": message}})
    return {"status": 413, "headers": {"content-type": "application/json"}, "body": body}
