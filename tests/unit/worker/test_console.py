"""What a person asks on the device: the command without a worker, the worker's side of it, and logs as text."""

import contextlib
import io
import json
import os
import select
import selectors
import socket
import threading
from pathlib import Path

import orjson
import pytest

from airflow_mqtt.cli.main import main
from airflow_mqtt.protocol.errors import RefusedError
from airflow_mqtt.worker import console
from airflow_mqtt.worker.core.commands import Act, Command
from airflow_mqtt.worker.core.effects import Answer
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.local_api import LocalApi
from airflow_mqtt.worker.log_printer import follow, text_of
from airflow_mqtt.worker.unix_sockets import connect, listen

EVIL = "\x1b[31m<b>\u202e" + "x" * 50


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AIRFLOW_MQTT_")]:
        monkeypatch.delenv(name)


def asked(device, act: Act, comment: str = "") -> dict:
    device.core.command(Command(7, "1", act, comment), device.now, link="connected to nowhere")
    device.settle()
    answer = device.of(Answer)[-1]
    assert (answer.token, answer.id, answer.status) == (7, "1", 200)
    return orjson.loads(answer.body)


# --- the worker's side ------------------------------------------------------------------------------------


def test_a_worker_says_what_it_does(device) -> None:
    device.start("a", workload={"type": "ExecuteTask", "ti": {"dag_id": "d", "task_id": EVIL, "try_number": 2}})
    found = asked(device, Act.STATUS)
    assert (found["name"], found["state"], found["slots"], found["free"], found["maintenance"]) == (
        "edge-1", "running", 2, 1, False,
    )  # fmt: skip
    (job,) = found["jobs"]
    assert (job["job"], job["state"], job["dag_id"], job["task_id"]) == ("a", "running", "d", EVIL)


def test_a_job_is_named_as_far_as_it_has_a_name(device) -> None:
    ti = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": 3, "try_number": 1}
    device.start("a", workload={"type": "ExecuteTask", "ti": ti})
    device.start("b", workload={"type": "ExecuteCallback"})
    jobs = asked(device, Act.STATUS)["jobs"]
    assert [console._job(job) for job in jobs] == ["a attempt 1, running: d.t[3] of r", "b attempt 1, running"]


def test_maintenance_that_was_set_on_the_device_outlives_it(device) -> None:
    device.forget()
    assert asked(device, Act.MAINTENANCE_ON, "new SD card")["maintenance"]
    device.wait(1)
    status = device.statuses()[-1]
    assert (status.maintenance, status.own_maintenance, status.reason) == (True, True, "set on the device: new SD card")
    device.crash()
    device.connect()
    assert device.statuses()[-1].reason == "set on the device: new SD card"
    device.run("a")
    assert device.said("a") == ["rejected"]
    device.desire(1, maintenance=True)
    assert asked(device, Act.MAINTENANCE_OFF)["maintenance"]  # an operator's is no affair of theirs
    device.desire(2)
    device.crash()
    device.connect()
    assert not device.statuses()[-1].maintenance


def test_a_comment_is_made_to_fit(device) -> None:
    found = asked(device, Act.MAINTENANCE_ON, "\0" + "x" * 10_000)
    assert len(found["reason"]) < 300
    assert asked(device, Act.MAINTENANCE_ON, " ")["reason"] == "set on the device"


def test_a_stop_begins_a_drain_once(device) -> None:
    device.start("a")
    assert asked(device, Act.STOP)["state"] == "terminating"
    stage = device.core.state.stage
    asked(device, Act.STOP)  # another signal would go on to TERM
    assert device.core.state.stage is stage


def test_a_command_needs_no_key_and_a_call_does(tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    with selectors.DefaultSelector() as selector:
        api = LocalApi(path, selector, admits=lambda *_: False, max_bytes=2**20)
        assert path.stat().st_mode & 0o777 == 0o600
        for frame, taken in [
            ({"command": "status", "id": "1"}, True),
            ({"command": "reboot", "id": "1"}, False),
            ({"command": ["status"], "id": "1"}, False),
            ({"command": "maintenance-on", "id": "1", "comment": 3}, False),
            ({"command": "stop"}, False),
        ]:
            with contextlib.closing(connect(path)) as channel:
                channel.sendall(pack(frame))
                while not (found := api.take_commands()) and not select.select([channel], [], [], 0)[0]:
                    for key, mask in selector.select(1):
                        key.data(mask)
                assert bool(found) == taken, frame
                if not taken:
                    (answer,) = Unpacker().feed(channel.recv(65536))
                    assert answer["status"] == 400
        api.close()


# --- without a worker -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [["status"], ["maintenance", "on"], ["stop"], ["stop", "--wait"], ["logs"]])
def test_without_a_worker_it_is_one_line(tmp_path: Path, capsys, action: list[str]) -> None:
    assert main(["worker", *action, "--state-dir", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "--state-dir" in said.err


def test_a_socket_at_which_nobody_listens_is_no_worker(tmp_path: Path, capsys) -> None:
    listen(tmp_path / "worker.sock").close()
    assert main(["worker", "status", "--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"airflow-mqtt: no worker runs on {tmp_path}; start it")


def test_another_users_state_directory_is_said(tmp_path: Path, capsys, monkeypatch) -> None:
    """Root may read it, so that it is played."""

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("airflow_mqtt.worker.console.connect", closed)
    assert main(["worker", "status", "--state-dir", str(tmp_path)]) == 1
    assert "run this as the worker's user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "maintenance"], "required: on|off; see airflow-mqtt worker maintenance --help"),
        (["worker", "maintenance", "of"], "invalid choice: 'of'"),
        (
            ["worker", "status", "--broker-url", "x"],
            "unrecognized arguments: --broker-url; see airflow-mqtt worker status",
        ),
        (["worker", "sotp"], "invalid choice: 'sotp'"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_worker_of_another_version_is_said(tmp_path: Path, capsys) -> None:
    with listen(tmp_path / "worker.sock") as listener:
        listener.setblocking(True)

        def refuse() -> None:
            channel, _ = listener.accept()
            with channel:
                channel.recv(65536)
                channel.sendall(pack({"id": "", "status": 400, "body": "{}"}))

        thread = threading.Thread(target=refuse)
        thread.start()
        assert main(["worker", "status", "--state-dir", str(tmp_path)]) == 1
        thread.join()
    assert "of another version" in capsys.readouterr().err


def _plays(tmp_path: Path, worker: dict, done: threading.Event) -> threading.Thread:
    """A worker that answers everything with `worker`, and is gone when `done`."""
    listener = listen(tmp_path / "worker.sock")
    listener.setblocking(True)

    def answer() -> None:
        with listener, contextlib.closing(listener.accept()[0]) as channel:
            unpacker = Unpacker()
            channel.settimeout(0.05)
            while not done.is_set():
                with contextlib.suppress(socket.timeout):
                    for frame in unpacker.feed(channel.recv(65536)):
                        body = json.dumps(worker)
                        channel.sendall(pack({"id": frame["id"], "status": 200, "body": body}))

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_what_a_status_holds_is_shown_as_text(tmp_path: Path, capsys, device) -> None:
    device.core.figures({"cpu": 3.5, "extra": {EVIL[:20]: EVIL}}, device.now)
    device.start("a", workload={"type": "ExecuteTask", "ti": {"dag_id": EVIL, "task_id": 5}})
    worker = asked(device, Act.MAINTENANCE_ON, EVIL)
    done = threading.Event()
    for output in ("text", "json"):
        thread = _plays(tmp_path, worker, done)
        assert main(["worker", "status", "--state-dir", str(tmp_path), "--output", output]) == 0
        done.set()
        thread.join()
        done.clear()
    text, _, last = capsys.readouterr().out[:-1].rpartition("\n")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "maintenance  set on the device: \\x1b[31m<b>" in text
    assert json.loads(last) == worker


# --- logs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"timestamp":"2026-01-01T00:00:00Z","level":"info","event":"hello","logger":"x"}', "2026-01-01T00:00:00Z info     hello"),
        (b'{"event":"a\\u001b[31m\\nb","level":"error","n":1}', "error    a\\x1b[31m\\nb n=1"),
        (b"plain \x1b[31m \xff", "plain \\x1b[31m \N{REPLACEMENT CHARACTER}"),
        (b'["event"]', '["event"]'),
        (b'{"event":[1],"level":{}}', "{}       [1]"),
        (b'{"event":"e","level":"info","error_detail":[{"exc_type":"E","exc_value":"v\\r"},3]}', "info     e\n    E: v\\r"),
        (b'{"event":"e","level":"info","error_detail":"no list"}', "info     e"),
    ],
)  # fmt: skip
def test_a_line_of_a_log_is_text(line: bytes, text: str) -> None:
    assert text_of(line) == text


def _logged(state_dir: Path, job: str, *texts: str) -> JobFiles:
    files = JobFiles(state_dir, job, 1)
    for text in texts:
        files.append_log(text.encode())
    return files


def test_logs_of_all_jobs_have_heads(tmp_path: Path) -> None:
    _logged(tmp_path, "job-a", "one\n", "no end")
    _logged(tmp_path, "job-b", "two\n")
    out = io.StringIO()
    follow(tmp_path, "", {"job-a": f"job-a {EVIL[:6]}"}, out, goes_on=False)
    assert (
        out.getvalue()
        == "==> job-a \\x1b[31m< <==\none\n==> job-b attempt 1 <==\ntwo\n==> job-a \\x1b[31m< <==\nno end\n"
    )


def test_the_log_of_one_job_is_followed_until_it_is_gone(tmp_path: Path) -> None:
    files = _logged(tmp_path, "job-a", "one\n", "half ")
    _logged(tmp_path, "other", "not this\n")
    looked = threading.Event()

    class Out(io.StringIO):
        def flush(self) -> None:
            looked.set()

    out = Out()
    thread = threading.Thread(target=follow, args=(tmp_path, "job", {}, out), kwargs={"goes_on": True})
    thread.start()
    assert looked.wait(60)
    files.append_log(b"line\nlast\n")
    files.remove()  # what is read can be read on
    thread.join(60)
    assert not thread.is_alive()
    assert out.getvalue() == "one\nhalf line\nlast\n"


def test_a_log_that_leads_elsewhere_is_not_read(tmp_path: Path) -> None:
    files = _logged(tmp_path, "job-a", "one\n")
    files.task_log.unlink()
    files.task_log.symlink_to("/etc/passwd")
    out = io.StringIO()
    follow(tmp_path, "", {}, out, goes_on=False)
    assert out.getvalue() == ""


@pytest.mark.parametrize(("wanted", "said"), [("nope", "there are job-a"), ("", "no job's log")])
def test_no_log_is_said(tmp_path: Path, wanted: str, said: str) -> None:
    if wanted:
        _logged(tmp_path, "job-a", "one\n")
    with pytest.raises(RefusedError, match=said):
        follow(tmp_path, wanted, {}, io.StringIO(), goes_on=False)
