"""A worker process, and a bridge made of a plain MQTT client that answers what the Execution API would."""

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from airflow_mqtt.protocol.messages import (
    Ack,
    Born,
    Cancel,
    Desired,
    Event,
    LogChunk,
    Request,
    Response,
    Run,
    WorkerStatus,
    decode_report,
)
from airflow_mqtt.protocol.topics import TopicKind, Topics
from airflow_mqtt.worker.packages import installed_version
from airflow_mqtt.worker.processes import ProcessId, identify
from demo.processes import Server, wait_for
from mqtt_peer import Peer

TOPICS = Topics()

#: That of Airflow 3.1 takes no field that it does not know.
SDK = installed_version("apache-airflow-task-sdk") or ""

RUN_CONTEXT = {
    "dag_run": {
        "dag_id": "bench",
        "run_id": "run_1",
        "logical_date": "2026-01-01T00:00:00Z",
        "data_interval_start": None,
        "data_interval_end": None,
        "run_after": "2026-01-01T00:00:00Z",
        "start_date": "2026-01-01T00:00:00Z",
        "end_date": None,
        "run_type": "manual",
        "state": "running",
        "conf": {},
        "consumed_asset_events": [],
        **({} if SDK.startswith("1.1.") else {"partition_key": None}),
    },
    "max_tries": 0,
    "should_retry": False,
}

DAG = """
import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

@dag(schedule=None)
def bench():
    @task
    def quick():
        print("hello from the device")
        return 42

    @task
    def wait_for_file(path: str = "{go}"):
        print("waiting", flush=True)
        while not Path(path).exists():
            time.sleep(0.05)
        print("went on")
        return "went on"

    @task
    def fails():
        raise ValueError("as planned")

    @task
    def runs_a_command():
        # As BashOperator does: in a session of its own. Nothing but a KILL ends it, nor this.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        command = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={})
        print("processes", os.getpid(), command.pid, "environment", *os.environ, flush=True)
        command.wait()

    @task
    def big():
        print("x" * 200_000)
        for number in range(2000):
            print("line", number)

    @task
    def says_much(way):
        text = "ä" * 1_250_000
        if way == "raises":
            raise ValueError(text)
        print(text)
        return text

    for way in ("raises", "returns"):
        says_much.override(task_id="says_much_" + way)(way)

    @task
    def leaves_children(way):
        quiet = {} if way == "holds_its_output" else dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={})
        found = [subprocess.Popen(["sleep", "600"], start_new_session=own, **quiet).pid for own in (True, False)]
        print("children", *found, "end", flush=True)
        if way == "fails":
            raise ValueError("as planned")
        if way == "times_out":
            time.sleep(600)

    for way in ("fails", "succeeds", "holds_its_output"):
        leaves_children.override(task_id="leaves_children_" + way)(way)
    leaves_children.override(task_id="leaves_children_times_out", execution_timeout=timedelta(seconds=1))("times_out")
    command = "sleep 600 > /dev/null 2>&1 & echo children $! end; exit 1"
    BashOperator(task_id="leaves_a_command", bash_command=command)

    quick()
    wait_for_file()
    fails()
    big()
    runs_a_command()

bench()
"""


class FakeBridge(Peer):
    """Acknowledges events and logs, and answers requests by `answers`, as a bridge with an Airflow behind it would."""

    def __init__(self, url: str, worker: str) -> None:
        super().__init__(url, "fake-bridge")
        self.worker = worker
        self.epoch = 1
        self.acking = True
        self.answering = True
        self.events: list[Event] = []
        self.births: list[Born] = []
        self.requests: list[Request] = []
        self.statuses: list[tuple[WorkerStatus, bool]] = []
        self.logs: dict[str, bytes] = {}
        self.seq = 0
        self.journal = ""
        self.remembered: dict[str, Response] = {}
        self.overrides: list[Callable[[Request], tuple[int, Any] | None]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.subscribe(
            *(TOPICS.worker(self.worker, kind) for kind in (TopicKind.EVENTS, TopicKind.REQUEST, TopicKind.STATUS)),
            TOPICS.logs(self.worker, "+"),
        )
        return self

    def _on_message(self, _client, _data, message) -> None:
        super()._on_message(_client, _data, message)
        topic = TOPICS.parse(message.topic)
        if topic.kind is TopicKind.EVENTS:
            self._report(decode_report(message.payload))
        elif topic.kind is TopicKind.REQUEST:
            self._request(Request.decode(message.payload))
        elif topic.kind is TopicKind.LOGS:
            self._log(topic.job, LogChunk.decode(message.payload))
        elif topic.kind is TopicKind.STATUS:
            self.statuses.append((WorkerStatus.decode(message.payload), message.retain))

    def _report(self, report: Event | Born) -> None:
        if isinstance(report, Born):
            self.births.append(report)
            if report.journal != self.journal:
                self.journal, self.seq = report.journal, report.first - 1
            self.ack()
            return
        if report.seq == self.seq + 1 and report.journal == self.journal and self.acking:
            self.seq = report.seq
            self.events.append(report)
        self.ack()

    def ack(self, logs: Mapping[str, int] | None = None) -> None:
        if self.acking:
            last = self.births[-1] if self.births else None
            message = Ack(
                journal=self.journal,
                seq=self.seq,
                epoch=self.epoch,
                connection=last.connection if last else 0,
                birth=last.number if last else 0,
                logs=dict(logs or {}),
            )
            self.client.publish(TOPICS.worker(self.worker, TopicKind.ACK), message.encode(), qos=1)

    def _log(self, job: str, chunk: LogChunk) -> None:
        held = self.logs.get(job, b"")
        if chunk.offset <= len(held):
            self.logs[job] = held[: chunk.offset] + chunk.data
        self.ack({job: len(self.logs.get(job, b""))})

    def _request(self, request: Request) -> None:
        self.requests.append(request)
        if not self.answering:
            return
        if request.id not in self.remembered:
            status, body = self.answer(request)
            text = None if body is None else json.dumps(body)
            headers = {"content-type": "application/json"}
            self.remembered[request.id] = Response(
                id=request.id, journal=request.journal, status=status, headers=headers, body=text
            )
        payload = self.remembered[request.id].encode()
        self.client.publish(TOPICS.worker(self.worker, TopicKind.RESPONSE), payload, qos=1)

    def answer(self, request: Request) -> tuple[int, Any]:
        for override in self.overrides:
            found = override(request)
            if found is not None:
                return found
        if request.path.endswith("/run"):
            return 200, RUN_CONTEXT
        if request.path.endswith(("/state", "/start")):  # … and our own gate of callbacks
            return 204, None
        if request.path.startswith("xcoms/") and request.method == "POST":
            return 201, {"message": "set"}
        if request.method == "PUT":
            return 201, {"message": "ok"}
        return 404, {"detail": {"reason": "not_found", "message": "nothing here"}}

    # --- orders -------------------------------------------------------------------------------------------

    def run(self, task: str, *, job: str = "", attempt: int = 1, queue: str = "default", **more: Any) -> str:
        job = job or str(uuid.uuid4())
        fields = {"kind": "airflow", "slots": 1, "log_interval": 0.2, "workload": workload(task), **more}
        order = Run(job=job, attempt=attempt, **fields)
        self.publish(TOPICS.jobs(queue, self.worker), order.encode())
        return job

    def cancel(self, job: str, attempt: int = 1, reason: str = "airflow: cleared") -> None:
        order = Cancel(job=job, attempt=attempt, reason=reason)
        self.publish(TOPICS.jobs("default", self.worker), order.encode())

    def desire(self, **wishes: Any) -> None:
        self.publish(TOPICS.worker(self.worker, TopicKind.DESIRED), Desired(**wishes).encode(), retain=True)

    # --- waiting ------------------------------------------------------------------------------------------

    def event(self, job: str, kind: str, timeout: float = 60) -> Event:
        def found() -> Event | None:
            return next((event for event in list(self.events) if event.job == job and event.type == kind), None)

        try:
            return wait_for(found, what=f"{kind} of {job}", timeout=timeout)
        except TimeoutError as error:
            seen = [(event.type, event.reason) for event in self.events if event.job == job]
            raise TimeoutError(f"{error}; events: {seen}") from None

    def status(self, state: str, timeout: float = 60, *, since: int = 0, **fields: Any) -> WorkerStatus:
        def found() -> WorkerStatus | None:
            for status, _ in self.statuses[since:]:
                if status.state == state and all(getattr(status, key) == value for key, value in fields.items()):
                    return status
            return None

        return wait_for(found, what=f"status {state} {fields}", timeout=timeout)

    def log(self, job: str, text: str, timeout: float = 60) -> str:
        wait_for(lambda: text.encode() in self.logs.get(job, b""), what=f"{text!r} in the log", timeout=timeout)
        return self.logs[job].decode()

    def processes(self, job: str) -> tuple[ProcessId, ProcessId]:
        """Return the task `runs_a_command` and its command."""
        words = re.search(r"processes (\d+) (\d+)", self.log(job, "environment")).groups()
        task, command = (identify(int(word)) for word in words)
        return task, command

    def children(self, job: str) -> list[ProcessId]:
        """Return what a task that `leaves_children` has started."""
        words = re.search(r"children ([\d ]+) end", self.log(job, " end")).group(1)
        return [identify(int(word)) for word in words.split()]

    def calls(self, job: str) -> list[str]:
        return [f"{request.method} {request.path.split('/')[-1]}" for request in self.requests if request.job == job]


def workload(task: str) -> dict[str, Any]:
    return {
        "type": "ExecuteTask",
        "ti": {
            "id": str(uuid.uuid4()),
            "task_id": task,
            "dag_id": "bench",
            "run_id": "run_1",
            "try_number": 1,
            "map_index": -1,
            "dag_version_id": str(uuid.uuid4()),
            "pool_slots": 1,
            "queue": "default",
            "priority_weight": 1,
        },
        "dag_rel_path": "bench.py",
        "bundle_info": {"name": "bench", "version": None},
        "log_path": "never/used.log",
    }


class WorkerProcess(Server):
    """`airflow-mqtt worker run` with an Airflow home of its own."""

    def __init__(self, directory: Path, url: str, name: str = "edge-1", **settings: Any) -> None:
        self.state_dir = directory / "state"
        self.go = directory / "go"
        dags = directory / "dags"
        dags.mkdir(parents=True, exist_ok=True)
        (dags / "bench.py").write_text(DAG.replace("{go}", str(self.go)))
        flags = {"broker_url": url, "name": name, "state_dir": self.state_dir, "log_level": "debug", **settings}
        command = [sys.executable, "-m", "airflow_mqtt.cli", "worker", "run"]
        for key, value in flags.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        super().__init__(
            f"worker {name}", command, log=directory / "worker.log", env=airflow_environment(directory), cwd=directory
        )

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, timeout: float = 60) -> int:
        return self.process.wait(timeout)


def airflow_environment(directory: Path) -> dict[str, str]:
    bundle = {
        "name": "bench",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(directory / "dags")},
    }
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW", "PYTHONDONT"))
    }
    return kept | {
        "AIRFLOW_HOME": str(directory / "airflow"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # A command that outlives its task holds the task's sockets open, and the SDK waits for those (60 s).
        "AIRFLOW__WORKERS__SOCKET_CLEANUP_TIMEOUT": "2",
        "PYTHONUNBUFFERED": "1",
    }
