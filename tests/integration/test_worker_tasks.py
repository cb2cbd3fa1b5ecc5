"""Real tasks through the Task SDK, on a worker that reaches only Mosquitto."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from airflow_mqtt.protocol.task_log import LONGEST
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.job_files import JobFiles
from log_schema import check
from servers import running, wait_for
from worker_bench import SDK, FakeBridge, WorkerProcess, workload

NAME = "edge-1"


@pytest.fixture
def worker(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> Iterator[WorkerProcess]:
    process = WorkerProcess(tmp_path / "worker", broker.url(NAME), slots=2, drain_timeout=2, kill_grace=3, keepalive=4)
    process.start()
    try:
        bridge.status("idle")  # it has subscribed: nothing sent to it from here on is lost
        yield process
    finally:
        process.stop()
        print(process.tail())


def test_a_task_runs_to_its_end(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("quick")
    bridge.event(job, "accepted")
    bridge.event(job, "started")
    finished = bridge.event(job, "finished")
    assert (finished.outcome, finished.exit_code) == ("succeeded", 0)
    assert bridge.calls(job) == ["PATCH run", "PUT rtif", "POST return_value", "PATCH state"]
    bridge.log(job, "hello from the device")
    wait_for(lambda: len(bridge.logs[job]) == finished.log_size, what="the whole log")


@pytest.mark.skipif(SDK.startswith(("1.1.", "1.2.")), reason="its Task SDK names no trace in its calls")
@pytest.mark.parametrize("sampled", [True, False])
def test_the_calls_of_a_task_name_its_trace_where_that_is_recorded(
    bridge: FakeBridge, worker: WorkerProcess, sampled: bool
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    order = workload("quick")
    flags = "01" if sampled else "00"
    order["ti"]["context_carrier"] = {"traceparent": f"00-{trace}-b7ad6b7169203331-{flags}", "tracestate": "a=b"}
    job = bridge.run("quick", workload=order)
    bridge.event(job, "finished")
    named = {request.path.split("/")[0]: request.headers for request in bridge.requests if request.job == job}
    found = {name: headers["traceparent"].split("-")[1] for name, headers in named.items() if "traceparent" in headers}
    assert found.get("xcoms") == (trace if sampled else None)
    assert sampled or not found


def test_a_failing_task_is_a_job_well_done(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("fails")
    finished = bridge.event(job, "finished")
    assert finished.outcome == "succeeded"
    states = [json.loads(request.body)["state"] for request in bridge.requests if request.path.endswith("/state")]
    assert states == ["failed"]
    assert "as planned" in bridge.log(job, "as planned")


def test_a_refused_gate_runs_nothing(bridge: FakeBridge, worker: WorkerProcess) -> None:
    refusal = {"detail": {"reason": "invalid_state", "message": "no", "previous_state": "running"}}
    bridge.overrides.append(lambda request: (409, refusal) if request.path.endswith("/run") else None)
    job = bridge.run("quick")
    finished = bridge.event(job, "finished")
    assert finished.outcome == "failed"
    told = "Airflow refused the start of the task with status 409: invalid_state: the task is running: no"
    assert finished.reason == told
    assert bridge.calls(job) == ["PATCH run"]
    log = bridge.log(job, told)
    assert "hello" not in log
    (ours,) = [line for line in log.splitlines() if "airflow_mqtt.runner" in line]
    assert "ServerResponseError" in [error["exc_type"] for error in check(ours.encode())["error_detail"]]


def test_a_start_that_is_refused_for_its_size_says_so(bridge: FakeBridge, worker: WorkerProcess) -> None:
    refusal = {"detail": {"reason": "too_large", "message": "The answer is larger than a message may be."}}
    bridge.overrides.append(lambda request: (413, refusal) if request.path.endswith("/run") else None)
    job = bridge.run("quick")
    told = "Airflow refused the start of the task with status 413: too_large: The answer is larger than"
    assert told in bridge.event(job, "finished").reason
    bridge.log(job, told)


EXECUTORS = """
from airflow.sdk import dag, task

@dag(schedule=None)
def named():
    @task
    def hello():
        print("hello from", {executor!r})

    hello.override(executor={executor!r})()

named()
"""


@pytest.mark.parametrize("executor", ["edge", "airflow_mqtt.executor.MqttExecutor", "MqttExecutor"])
def test_a_task_may_name_an_executor_that_only_the_site_knows(
    bridge: FakeBridge, worker: WorkerProcess, executor: str
) -> None:
    """As `configure-airflow.md` has it, without a line in the device's configuration."""
    (worker.state_dir.parent / "dags/named.py").write_text(EXECUTORS.format(executor=executor))
    order = workload("hello")
    order["ti"]["dag_id"] = "named"
    job = bridge.run("hello", workload=order | {"dag_rel_path": "named.py"})
    assert bridge.event(job, "finished").exit_code == 0
    bridge.log(job, f"hello from {executor}")


def test_logs_arrive_while_the_task_runs(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("wait_for_file")
    bridge.event(job, "started")
    bridge.log(job, "waiting")
    assert not [event for event in bridge.events if event.type == "finished"]
    worker.go.touch()
    bridge.event(job, "finished")
    bridge.log(job, "went on")


def test_a_long_log_arrives_whole(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("big")
    finished = bridge.event(job, "finished")
    log = bridge.log(job, '"line 1999"', timeout=60)
    wait_for(lambda: len(bridge.logs[job]) == finished.log_size, what="the whole log")
    assert log.count('"line ') == 2000
    wait_for(lambda: not list((worker.state_dir / "jobs").iterdir()), what="the files of the job to be deleted")


@pytest.mark.parametrize("way", ["raises", "returns"])
def test_a_line_of_megabytes_is_shortened_on_the_device(bridge: FakeBridge, worker: WorkerProcess, way: str) -> None:
    """Nobody could read it, and its link would carry it. Before: it was cut where it is shown alone."""
    job = bridge.run(f"says_much_{way}")
    size = bridge.event(job, "finished").log_size
    wait_for(lambda: len(bridge.logs.get(job, b"")) == size, what="the whole log", timeout=60)
    lines = bridge.logs[job].splitlines()
    entries = [json.loads(line) for line in lines]
    assert max(map(len, lines)) <= LONGEST
    assert all(entry["timestamp"] and entry["level"] and "event" in entry for entry in entries)
    cut = [line for line in lines if "characters are left out" in line.decode()]
    assert cut and all("ä" * 1000 in line.decode() for line in cut)
    if way == "raises":
        (errors,) = [entry["error_detail"] for entry in entries if "error_detail" in entry]
        assert [error["exc_type"] for error in errors] == ["ValueError"]


def test_two_tasks_at_once_and_a_third_is_rejected(bridge: FakeBridge, worker: WorkerProcess) -> None:
    first, second = bridge.run("wait_for_file"), bridge.run("wait_for_file")
    bridge.event(first, "accepted")
    bridge.event(second, "accepted")
    third = bridge.run("wait_for_file")
    assert bridge.event(third, "rejected").reason == "full"
    bridge.status("running", running=2, free=0)
    worker.go.touch()
    bridge.event(first, "finished")
    bridge.event(second, "finished")
    bridge.status("idle", free=2)


def test_a_cancelled_task_ends_and_says_why(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    bridge.cancel(job, reason="airflow: the task was cleared")
    event = bridge.event(job, "cancelled")
    assert event.reason == "airflow: the task was cleared"
    assert "Task killed!" in bridge.log(job, "Task killed!")
    assert "PATCH state" not in bridge.calls(job)


def test_the_result_of_a_task_survives_the_worker(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    worker.kill()
    bridge.status("offline", reason="lost")  # 1.5 keep-alives of 4 s
    worker.go.touch()
    worker.launch()
    finished = bridge.event(job, "finished")
    assert finished.outcome == "succeeded"
    (held,) = bridge.births[-1].holds
    assert (held["job"], held["attempt"]) == (job, 1)
    assert bridge.calls(job).count("PATCH run") == 1
    bridge.log(job, "went on")


@pytest.mark.parametrize("while_down", [True, False])
def test_a_task_whose_supervisor_died_is_reported_and_does_not_go_on(
    bridge: FakeBridge, worker: WorkerProcess, while_down: bool
) -> None:
    job = bridge.run("runs_a_command")
    task, command = bridge.processes(job)
    runner = JobFiles(worker.state_dir, job, 1).read_runner()
    if while_down:
        worker.kill()
    os.kill(runner.pid, signal.SIGKILL)
    if while_down:
        worker.launch()
    finished = bridge.event(job, "finished")
    assert (finished.outcome, finished.reason) == ("failed", "the runner died")
    assert not processes.alive(task)
    assert not processes.alive(command)
    bridge.log(job, "The runner died")


def test_a_task_that_is_killed_takes_its_command_along(bridge: FakeBridge, worker: WorkerProcess) -> None:
    """As when the kernel is out of memory, or when the SDK has waited long enough after a TERM."""
    job = bridge.run("runs_a_command")
    task, command = bridge.processes(job)
    os.kill(task.pid, signal.SIGKILL)
    finished = bridge.event(job, "finished")
    assert finished.exit_code == -9
    assert not processes.alive(command)


@pytest.mark.parametrize(
    "task", ["leaves_children_fails", "leaves_children_times_out", "leaves_children_succeeds", "leaves_a_command"]
)
def test_what_a_task_started_ends_with_it_whatever_its_exit_code(
    bridge: FakeBridge, worker: WorkerProcess, task: str
) -> None:
    """The SDK's process exits 0 once it has reported a failure; a retry must not run beside what is left of the last try."""
    job = bridge.run(task)
    children = bridge.children(job)
    assert bridge.event(job, "finished").exit_code == 0
    assert [child for child in children if processes.alive(child)] == []


@pytest.mark.parametrize("task", ["quick", "leaves_children_holds_its_output"])
def test_the_end_of_a_task_is_heard_at_once(
    bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto, task: str
) -> None:
    """Not with the supervisor's next heartbeat, nor when it gives up on those who hold the task's output open."""
    worker = WorkerProcess(tmp_path / "worker", broker.url(NAME))
    worker.env["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"] = worker.env["AIRFLOW__WORKERS__SOCKET_CLEANUP_TIMEOUT"] = (
        "60"
    )
    with running(worker):
        bridge.status("idle")
        job = bridge.run(task)
        bridge.event(job, "started")
        assert bridge.event(job, "finished").outcome == "succeeded"


def test_the_last_resort_of_a_drain_ends_the_command_too(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("runs_a_command")
    task, command = bridge.processes(job)
    for _ in range(2):
        os.kill(worker.pid, signal.SIGTERM)
        bridge.status("terminating")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0
    assert not processes.alive(task)
    assert not processes.alive(command)
    assert bridge.event(job, "finished").outcome == "succeeded"  # the supervisor lived to tell Airflow


def test_a_cancel_ends_the_command_too(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("runs_a_command")
    task, command = bridge.processes(job)
    bridge.cancel(job)
    bridge.event(job, "cancelled")
    assert not processes.alive(task)
    assert not processes.alive(command)


def test_tasks_do_not_see_the_workers_settings(bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto) -> None:
    worker = WorkerProcess(tmp_path / "worker", broker.url(NAME), kill_grace=1, drain_timeout=0)
    place = worker.command.index("--broker-url")
    worker.env["AIRFLOW_MQTT_BROKER_URL"] = worker.command[place + 1]
    del worker.command[place : place + 2]
    with running(worker):
        bridge.status("idle")
        job = bridge.run("runs_a_command")
        seen = bridge.log(job, "environment").split()
        assert "AIRFLOW_HOME" in seen
        assert processes.MARK in seen
        assert [name for name in seen if name.startswith("AIRFLOW_MQTT_")] == []


def test_a_broker_outage_costs_nothing(bridge: FakeBridge, worker: WorkerProcess, broker: servers.Mosquitto) -> None:
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    broker.stop()
    worker.go.touch()
    files = JobFiles(worker.state_dir, job, 1)
    wait_for(files.read_result, what="the runner to end without a broker")
    broker.start()
    with FakeBridge(broker.url("bridge"), NAME) as after:
        after.journal, after.seq, after.logs = bridge.journal, bridge.seq, bridge.logs
        assert after.event(job, "finished").outcome == "succeeded"
        writes = dict.fromkeys(request.id for request in after.requests if not request.path.endswith("/run"))
        assert len(writes) == 2  # each under one id, however often it was sent
        assert list(dict.fromkeys(after.calls(job))) == ["POST return_value", "PATCH state"]
        after.log(job, "went on")


def test_a_drain_waits_then_ends_what_runs(bridge: FakeBridge, worker: WorkerProcess) -> None:
    job = bridge.run("wait_for_file")
    bridge.log(job, "waiting")
    os.kill(worker.pid, signal.SIGTERM)
    bridge.status("terminating")
    late = bridge.run("quick")
    assert bridge.event(late, "rejected").reason == "draining"
    assert worker.wait() == 0
    finished = bridge.event(job, "finished")
    assert finished.outcome == "succeeded"  # the supervisor outlived its task, and told Airflow
    assert "PATCH state" in bridge.calls(job)
    assert "The worker is stopping (waited 2 s); the task is sent TERM." in bridge.log(job, "is sent TERM")
    bridge.status("offline", reason="stopped")


def test_a_drain_lets_a_task_end(bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto) -> None:
    with running(WorkerProcess(tmp_path / "worker", broker.url(NAME))) as worker:
        bridge.status("idle")
        job = bridge.run("wait_for_file")
        bridge.log(job, "waiting")
        os.kill(worker.pid, signal.SIGTERM)
        bridge.status("terminating")
        worker.go.touch()
        assert worker.wait() == 0
        assert bridge.event(job, "finished").outcome == "succeeded"
        bridge.log(job, "went on")


def test_an_operators_shutdown_is_followed_once(bridge: FakeBridge, worker: WorkerProcess) -> None:
    bridge.desire(revision=3, shutdown=True)
    assert worker.wait() == 0
    seen = len(bridge.statuses)
    worker.start()
    bridge.status("idle", since=seen, revision=3)
    assert worker.alive


TEST_ID = "01990000-0000-7000-8000-00000000abcd"


@pytest.mark.parametrize(("path", "state"), [("/", "success"), ("/not/there", "failed")])
def test_a_connection_test_runs_on_the_device(bridge: FakeBridge, worker: WorkerProcess, path: str, state: str) -> None:
    pytest.importorskip("airflow.sdk.execution_time.connection_test_supervisor", reason="Airflow 3.3 and later")
    connection = {"conn_id": "disk", "conn_type": "fs", "extra": json.dumps({"path": path})}
    bridge.overrides.append(lambda request: (200, connection) if request.path.endswith("/connection") else None)
    bridge.overrides.append(lambda request: (204, None) if request.method == "PATCH" else None)
    assert "airflow-connection-test" in bridge.births[-1].kinds
    order = {"type": "TestConnection", "connection_test_id": TEST_ID, "connection_id": "disk", "timeout": 60}
    job = bridge.run("", kind="airflow-connection-test", workload=order)
    bridge.event(job, "started")
    assert bridge.event(job, "finished").outcome == "succeeded"
    calls = [request for request in bridge.requests if request.job == job]
    paths = [("GET", f"connection-tests/{TEST_ID}/connection"), ("PATCH", f"connection-tests/{TEST_ID}")]
    assert [(request.method, request.path) for request in calls] == paths
    result = json.loads(calls[1].body)
    assert (result["state"], path in result["result_message"]) == (state, True)
