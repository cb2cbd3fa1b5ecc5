"""One name, one worker: a newcomer stops with a clear line, and the one that lives is not disturbed."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import servers
from airflow_mqtt.protocol.messages import WorkerStatus
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.unix_sockets import connect
from mqtt_peer import Peer
from worker_bench import TOPICS, FakeBridge, WorkerProcess

NAME = "edge-1"


@pytest.fixture
def worker(tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge) -> Iterator[WorkerProcess]:
    with servers.running(WorkerProcess(tmp_path / "one", broker.url(NAME))) as process:
        bridge.status("idle")
        yield process


def _last_line(process: WorkerProcess) -> str:
    return process.log.read_text().strip().splitlines()[-1]


def _secret(process: WorkerProcess) -> str:
    with Journal(process.state_dir / "journal.sqlite") as journal:
        return journal.load().meta["client"]


def test_a_second_worker_of_the_name_stops(
    bridge: FakeBridge, worker: WorkerProcess, tmp_path: Path, broker: servers.Mosquitto
) -> None:
    second = WorkerProcess(tmp_path / "two", broker.url(NAME))
    second.launch()
    assert second.wait() == 3
    assert "the name 'edge-1' is in use by another living worker" in _last_line(second)
    assert worker.alive
    assert [status.state for status, _ in bridge.statuses if status.state == "offline"] == []


def test_a_second_worker_on_the_state_directory_stops(
    worker: WorkerProcess, tmp_path: Path, broker: servers.Mosquitto
) -> None:
    second = WorkerProcess(tmp_path / "one", broker.url(NAME))
    second.log = tmp_path / "second.log"
    second.launch()
    assert second.wait() == 1
    assert "another worker runs on" in _last_line(second)


@pytest.mark.parametrize("broken", ["cut", "stall"])
def test_a_worker_that_was_replaced_while_it_was_away_waits_for_its_name(
    bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto, broken: str
) -> None:
    with servers.Proxy(broker.port) as link, ExitStack() as stack:
        url = broker.url(NAME, port=link.port)
        first = stack.enter_context(servers.running(WorkerProcess(tmp_path / "one", url, keepalive=2)))
        bridge.status("idle")
        getattr(link, broken)()
        bridge.status("offline", reason="lost")
        second = stack.enter_context(servers.running(WorkerProcess(tmp_path / "two", broker.url(NAME), keepalive=2)))
        seen = len(bridge.statuses)
        replaced = bridge.status("idle", since=seen)
        servers.wait_for(lambda: "no connection" in first.log.read_text(), what="the first to notice")
        link.heal()
        told = "the name 'edge-1' is in use by another living worker"
        servers.wait_for(lambda: told in first.log.read_text(), what="the first to find the second")
        assert first.alive
        assert second.alive
        later = [status for status, _ in bridge.statuses[seen:] if status.state != "offline"]
        assert {status.instance for status in later} == {replaced.instance}
        assert "another client came" not in second.log.read_text()
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
        seen = len(bridge.statuses)
        assert bridge.status("idle", since=seen).instance != replaced.instance
        assert "Traceback" not in first.log.read_text()


def test_a_worker_that_is_thrown_off_goes_on(
    bridge: FakeBridge, worker: WorkerProcess, broker: servers.Mosquitto
) -> None:
    """By any client that has its client id, on the same account; it ended with an exit code that nobody restarts."""
    before, _ = bridge.statuses[-1]
    client_id = f"airflow-worker-{NAME}-{_secret(worker)}"
    for _ in range(3):
        seen = len(bridge.statuses)
        with Peer(broker.url(NAME), client_id):
            pass
        assert bridge.status("idle", since=seen).instance == before.instance
    assert worker.alive
    assert bridge.event(bridge.run("quick"), "finished").outcome == "succeeded"


def test_a_worker_whose_link_was_down_for_long_goes_on(
    bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto
) -> None:
    with servers.Proxy(broker.port) as link:
        url = broker.url(NAME, port=link.port)
        with servers.running(WorkerProcess(tmp_path / "one", url, keepalive=1)) as worker:
            before = bridge.status("idle")
            link.cut()
            bridge.status("offline", reason="lost")
            servers.wait_for(lambda: "no connection" in worker.log.read_text(), what="it to notice")
            seen = len(bridge.statuses)
            link.heal()
            assert bridge.status("idle", since=seen).instance == before.instance


def test_a_worker_that_died_is_followed_at_once(bridge: FakeBridge, worker: WorkerProcess) -> None:
    worker.kill()
    seen = len(bridge.statuses)
    worker.start()
    bridge.status("idle", since=seen)
    assert "asking whether it lives" not in worker.log.read_text()


def test_the_name_of_a_dead_worker_is_free(
    bridge: FakeBridge, worker: WorkerProcess, tmp_path: Path, broker: servers.Mosquitto
) -> None:
    last, _ = bridge.statuses[-1]
    worker.process.terminate()
    worker.wait()
    bridge.status("offline")
    bridge.publish(TOPICS.worker(NAME, TopicKind.STATUS), last.encode(), retain=True)  # as if nobody had said so
    seen = len(bridge.statuses)
    with servers.running(WorkerProcess(tmp_path / "two", broker.url(NAME))):
        bridge.status("idle", since=seen + 1)


def test_a_worker_is_stopped_while_it_waits_for_a_silent_broker(tmp_path: Path) -> None:
    """Who stops a container kills it after ten seconds; a broker that says nothing is waited for longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        worker = WorkerProcess(tmp_path / "one", f"mqtt://{NAME}@127.0.0.1:{silent.getsockname()[1]}")
        with servers.running(worker):
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(1000)
                worker.signal(signal.SIGTERM)
                assert worker.wait() == 0
    log = worker.log.read_text()
    assert "Traceback" not in log
    assert "no connection" not in log  # so it is said when it has been waited for


def test_a_false_status_is_put_right(bridge: FakeBridge, worker: WorkerProcess) -> None:
    last, _ = bridge.statuses[-1]
    seen = len(bridge.statuses)
    false = WorkerStatus(**{**vars(last), "state": "offline", "reason": "lost", "instance": "someone"})
    bridge.publish(TOPICS.worker(NAME, TopicKind.STATUS), false.encode(), retain=True)
    bridge.status("idle", since=seen)


def test_a_wrong_password_is_one_clear_line(tmp_path: Path, broker: servers.Mosquitto) -> None:
    url = broker.url(NAME).replace(broker.passwords[NAME], "wrong")
    with servers.running(WorkerProcess(tmp_path / "one", url, log_level="info")) as worker:
        servers.wait_for(lambda: "no connection" in worker.log.read_text(), what="a refusal in the log")
    lines = [line for line in worker.log.read_text().splitlines() if "no connection" in line]
    assert len(lines) <= 2  # one for each version of MQTT
    assert "access denied (Not authorized); check user, password and client id of broker_url" in lines[0]
    assert "wrong" not in worker.log.read_text()


def test_an_account_that_is_not_the_name_is_said_and_where_to_look(tmp_path: Path, broker: servers.Mosquitto) -> None:
    with servers.running(WorkerProcess(tmp_path / "one", broker.url(NAME), "edge-2")) as worker:
        servers.wait_for(lambda: "check account and" in worker.log.read_text(), what="the advice", timeout=90)
    lines = worker.log.read_text().splitlines()
    warned = [number for number, line in enumerate(lines) if "is not the worker's name" in line]
    assert len(warned) == 1
    assert "the account 'edge-1' of broker_url is not the worker's name 'edge-2'" in lines[warned[0]]
    assert warned[0] < next(number for number, line in enumerate(lines) if "connected to" in line)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--name", "a b"], "name from the flag --name: 'a b' does not fit"),
        (["--broker-url", "http://x"], "broker_url from the flag --broker-url"),
        (["--nonsense", "1"], "unrecognized arguments: --nonsense"),
        ([], "broker_url is missing"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_and_exit_2(flags: list[str], expected: str) -> None:
    import sys

    if flags[:1] == ["--name"]:
        flags = ["--broker-url", "mqtt://localhost", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "airflow_mqtt.cli", "worker", "run", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["auto", "3.1.1"])
def test_a_broker_without_mqtt_5_will_do(tmp_path: Path, version: str) -> None:
    with (
        servers.nats(tmp_path / "broker", accounts=[NAME]) as broker,
        servers.running(WorkerProcess(tmp_path / "one", broker.url(NAME), mqtt_version=version)) as worker,
    ):
        servers.wait_for(lambda: "with MQTT 3.1.1" in worker.log.read_text(), what="a connection")


def test_mosquitto_with_mqtt_3_1_1(bridge: FakeBridge, tmp_path: Path, broker: servers.Mosquitto) -> None:
    with servers.running(WorkerProcess(tmp_path / "one", broker.url(NAME), mqtt_version="3.1.1")) as worker:
        bridge.status("idle")
        worker.kill()
        bridge.status("offline", reason="lost")


def test_a_link_that_ends_while_a_runner_connects_is_only_a_link_that_ends(
    tmp_path: Path, broker: servers.Mosquitto, bridge: FakeBridge
) -> None:
    """Both within one round of the loop: the new socket gets the number of the one that was closed."""
    with servers.Proxy(broker.port) as proxy:
        url = broker.url(NAME).replace(str(broker.port), str(proxy.port))
        with servers.running(WorkerProcess(tmp_path / "worker", url)) as worker:
            bridge.status("idle")
            os.kill(worker.pid, signal.SIGSTOP)
            proxy.cut()
            runner = connect(worker.state_dir / "worker.sock")
            os.kill(worker.pid, signal.SIGCONT)
            servers.wait_for(lambda: "no connection to" in worker.log.read_text(), what="the worker to notice")
            proxy.heal()
            servers.wait_for(lambda: worker.log.read_text().count("connected to") == 2, what="the next connection")
            assert worker.alive
            runner.close()
