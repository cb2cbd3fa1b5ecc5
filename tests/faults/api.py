"""An Execution API that keeps the states of task instances by Airflow's rules, in memory.

The rules are those of `airflow.api_fastapi.execution_api.routes.task_instances` (Airflow 3.3): a task starts only from
queued, or again for the same host, user and pid; a final state is idempotent and needs running; a heartbeat needs
running, and the same host and pid.
"""

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

Answer = tuple[int, Any]


@dataclass
class TaskInstance:
    """One row, and what happened to it."""

    state: str = "queued"
    who: tuple[Any, Any, Any] = ()  # type: ignore[assignment]
    runs: int = 0  # starts that were not repetitions
    beats: int = 0
    xcoms: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)

    def become(self, state: str, by: str) -> None:
        self.history.append(f"{time.time():.1f} {self.state} -> {state} by {by}")
        self.state = state


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients that are killed end their connections anyhow."""


class ExecutionApi:
    """Serves on a port of 127.0.0.1. `down` and `crashy` break it."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskInstance] = {}
        self.lock = threading.Lock()
        self.down = False  # 503 to everything
        self.crashy = False  # does the work, and is gone before it answers

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/execution/"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                content = self.rfile.read(length)
                if len(content) < length:
                    self.close_connection = True  # whoever asked was killed in the middle
                    return
                path = urlsplit(self.path).path.removeprefix("/execution/")
                status, body = (503, None) if api.down else api.answer(self.command, path, json.loads(content or b"{}"))
                if api.crashy:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._reply(status, body)

            def _reply(self, status: int, body: Any) -> None:
                content = b"" if body is None else json.dumps(body).encode()
                with contextlib.suppress(OSError):  # a bridge that was killed does not wait for its answer
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _do

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    # --- Airflow's rules ----------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: Any) -> Answer:
        levels = path.split("/")
        with self.lock:
            if levels[0] == "xcoms" and method == "POST":
                return self._xcom(levels, body)
            if levels[0] != "task-instances" or levels[1] not in self.tasks:
                return 404, {"detail": {"reason": "not_found", "message": path}}
            rules = {"run": self._run, "state": self._state, "heartbeat": self._heartbeat}
            rule = rules.get(levels[2])
            return (201, {"message": "ok"}) if rule is None else rule(self.tasks[levels[1]], body)

    def _run(self, task: TaskInstance, body: Any) -> Answer:
        who = (body["hostname"], body["unixname"], body["pid"])
        if task.state == "running" and task.who == who:
            return 200, {"max_tries": 0}
        if task.state not in ("queued", "restarting"):
            return _conflict("invalid_state", previous_state=task.state)
        task.who = who
        task.runs += 1
        task.become("running", "run")
        return 200, {"max_tries": 0}

    def _state(self, task: TaskInstance, body: Any) -> Answer:
        if task.state == body["state"]:
            return 200, None
        if task.state != "running":
            return _conflict("invalid_state", previous_state=task.state)
        task.become(body["state"], "state")
        return 204, None

    def _heartbeat(self, task: TaskInstance, body: Any) -> Answer:
        if (body["hostname"], body["pid"]) != (task.who[0], task.who[2]) if task.who else True:
            return _conflict("running_elsewhere")
        if task.state != "running":
            return _conflict("not_running", current_state=task.state)
        task.beats += 1
        return 204, None

    def _xcom(self, levels: list[str], body: Any) -> Answer:
        self.tasks[levels[3]].xcoms.append(body)
        return 201, {"message": "XCom successfully set"}

    def executor_says(self, subject: str, failed: bool, reason: str | None) -> None:
        """What the scheduler makes of an executor's report (`process_executor_events`): a mismatch fails the task."""
        with self.lock:
            task = self.tasks[subject]
            if task.state in ("queued", "running", "restarting"):
                task.become("failed", f"executor: {'failed' if failed else 'success'} {reason}")


def _conflict(reason: str, **more: Any) -> Answer:
    return 409, {"detail": {"reason": reason, "message": reason, **more}}
