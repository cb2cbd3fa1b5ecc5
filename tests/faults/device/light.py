"""Stands in for `airflow_mqtt.worker.runner.compat`: makes the calls of a task, without the Task SDK.

Everything around it is real: the warm host forks a supervisor for each job, which is this, and its calls go through
the real transport to the real worker. As the SDK's supervisor does, it heartbeats each second and ends at a 404, 409
or 410.

What it did is on the disk of the test, not in the messages that are being tested: `<evidence>/<subject>.starts` gets a
line whenever user code starts, `.taken` one when the worker has taken the final state, `.stopped` one when it was told
to end, `.errors` one for whatever else happened.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from airflow_mqtt.worker.runner.transport import BASE_URL, WorkerTransport

HEARTBEAT = 1.0
STOP = frozenset({404, 409, 410})


class StoppedError(Exception):
    """Airflow does not want the task to run."""


def warm_up() -> None:
    make_client(None).close()  # type: ignore[arg-type]


def make_client(transport: WorkerTransport) -> httpx.Client:
    return httpx.Client(base_url=BASE_URL, transport=transport)


def rehearse(_channel: socket.socket) -> None:
    """Nothing to do: who waits here is who works."""


def hear_of_ends(_end_the_rest: Callable[[], None]) -> None:
    """Nothing to do: who waits here is who works."""


def parse_ahead(_bundle_name: str, _path: str) -> tuple[str, dict[str, Any]]:
    return "a light job has no Dag file", {}


def part_from_parent() -> None:
    """Nothing to do: nobody draws random numbers."""


def refusal(_error: BaseException) -> str:
    return ""


def run_task(workload: dict[str, Any], client: httpx.Client, log_path: Path) -> int:
    """Run the job to its end; return its exit code. Raises when the start is refused, as the SDK does."""
    task = _Task(workload, client, log_path)
    task.start()
    try:
        task.work()
        task.end(workload["light"]["outcome"])
    except StoppedError as stopped:
        task.witness("stopped", str(stopped))
        return -15
    return 0


class _Task:
    def __init__(self, workload: dict[str, Any], client: httpx.Client, log_path: Path) -> None:
        self._ti = workload["ti"]
        self._light = workload["light"]
        self._client = client
        self._log = log_path
        self._attempt = log_path.parent.name.rpartition("-")[2]

    def witness(self, kind: str, text: str = "") -> None:
        line = f"{time.monotonic():.3f} {os.environ.get('FAULTS_WORKER')} pid={os.getpid()} attempt={self._attempt} {text}\n"
        path = Path(self._light["evidence"]) / f"{self._ti['id']}.{kind}"
        with path.open("a") as file:
            file.write(line)

    def _call(self, method: str, path: str, body: Any) -> httpx.Response:
        return self._client.request(method, path, json=body)

    def _own(self, method: str, last: str, body: Any) -> httpx.Response:
        return self._call(method, f"task-instances/{self._ti['id']}/{last}", body)

    def start(self) -> None:
        me = {"hostname": socket.gethostname(), "unixname": "light", "pid": os.getpid()}
        answer = self._own("PATCH", "run", {"state": "running", "start_date": "2026-01-01T00:00:00Z", **me})
        if answer.is_error:
            self.witness("errors", f"start refused with {answer.status_code} {answer.text[:200]}")
        answer.raise_for_status()
        self.witness("starts")

    def work(self) -> None:
        self._must(self._own("PUT", "rtif", {"templated": "x"}))
        until = time.monotonic() + self._light["seconds"]
        lines = self._light["lines"]
        pause = self._light["seconds"] / max(lines, 1)
        beaten = time.monotonic()
        for number in range(lines):
            self._write(f'{{"event": "line {number} {"." * 80}"}}\n')
            time.sleep(max(0.0, min(pause, until - time.monotonic())))
            if time.monotonic() - beaten >= HEARTBEAT:
                beaten = time.monotonic()
                self._beat()
        ti = self._ti
        path = f"xcoms/{ti['dag_id']}/{ti['run_id']}/{ti['task_id']}/return_value"
        self._must(self._call("POST", path, os.urandom(self._light["xcom"] // 2).hex()))

    def _beat(self) -> None:
        answer = self._own("PUT", "heartbeat", {"hostname": socket.gethostname(), "pid": os.getpid()})
        if answer.status_code in STOP:
            raise StoppedError(f"heartbeat {answer.status_code} {answer.text[:200]}")

    def _must(self, answer: httpx.Response) -> None:
        if answer.status_code == 410:
            raise StoppedError(f"{answer.request.url.path} 410 {answer.text[:200]}")
        if answer.is_error:
            self.witness(
                "errors", f"{answer.request.method} {answer.request.url.path} {answer.status_code} {answer.text[:200]}"
            )

    def end(self, outcome: str) -> None:
        answer = self._own("PATCH", "state", {"state": outcome, "end_date": "2026-01-01T00:00:01Z"})
        if answer.is_success:
            self.witness("taken", outcome)
        else:
            self._must(answer)
            answer.raise_for_status()

    def _write(self, line: str) -> None:
        """Append to the task's log. A full disk costs the line, as it would cost the SDK's."""
        try:
            with self._log.open("a") as file:
                file.write(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.witness("unlogged", str(error))
