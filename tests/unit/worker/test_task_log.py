"""Every line that worker and runner write into a task's log has the fields and types that Airflow's page shows."""

import ast
import sys
from pathlib import Path

import pytest
from structlog.tracebacks import ExceptionDictTransformer

from airflow_mqtt.protocol.messages import FinishOutcome
from airflow_mqtt.worker import task_log
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.runner import supervise
from demo.client import _line
from log_schema import check

WORKER = Path(task_log.__file__).parent


def _raised():
    try:
        try:
            raise KeyError("first \x00 \ud800")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        error.add_note("a note")
        return error


def test_an_exception_has_the_fields_that_the_sdk_writes():
    error = _raised()
    line = task_log.line(1.5, "error", "what happened", "airflow_mqtt.runner", error)
    ours = check(line)["error_detail"]
    theirs = ExceptionDictTransformer(show_locals=False)((ValueError, error, error.__traceback__))
    assert [set(entry) for entry in ours] == [set(entry) for entry in theirs]
    kept = ("exc_type", "is_cause", "is_group", "exceptions", "frames", "exc_notes")
    assert [[entry[name] for name in kept] for entry in ours] == [[entry[name] for name in kept] for entry in theirs]


@pytest.mark.parametrize("error", [RecursionError(), type("Dumb", (Exception,), {"__str__": lambda _: 1 / 0})()])
def test_any_exception_makes_a_line(error):
    error.__context__ = error  # such circles exist
    check(task_log.line(0.0, "error", "x" * 100_000, "airflow_mqtt.runner", error))


def test_a_supervisor_that_fails_says_so_in_such_a_line(tmp_path):
    files = JobFiles(tmp_path, "a", 1)
    order = {"job": "a", "attempt": 1, "max_call_bytes": 1000, "key": "", "workload": {"type": "ExecuteTask"}}
    stdout, sys.stdout = sys.stdout, sys.__stdout__
    try:
        result = supervise._run(tmp_path, order, files)
    finally:
        sys.stdout = stdout
    assert not result["returned"]
    assert check(files.task_log.read_bytes())["error_detail"][0]["exc_type"] == "KeyError"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"detail": {"reason": "invalid_state", "message": "no"}}', "invalid_state: no"),
        (
            '{"detail": {"reason": "invalid_state", "message": "no", "previous_state": "success"}}',
            "invalid_state: the task is success: no",
        ),
        ('{"detail": "Token expired"}', "Token expired"),
        ('{"detail": [{"msg": "Field required"}]}', '[{"msg":"Field required"}]'),
        ('{"detail": {}}', '{"detail": {}}'),
        ("<html>", "<html>"),
        ("[]", "[]"),
        ("", "it gave no reason"),
    ],
)
def test_the_reason_of_a_refusal_stands_in_the_line(body, told):
    text = task_log.refusal("PATCH", "task-instances/1/run", 409, body)
    assert text == f"Airflow refused the start of the task with status 409: {told}"


def test_a_refused_write_is_told_with_its_reason(device):
    device.start("a")
    device.disconnect()
    write = device.call("a", "POST", "xcoms/d/r/t/k", "1")
    device.connect()
    device.respond(write, 413, '{"detail": {"reason": "too_large", "message": "more than it takes"}}')
    (line,) = device.logs["a"].splitlines()
    assert check(line)["event"] == ("Airflow refused POST xcoms/d/r/t/k with status 413: too_large: more than it takes")


def test_lines_are_made_in_one_place():
    """The test device checks each line of a core (`conftest.Device`); no other way leads into a task's log."""
    makers, writers = set(), set()
    for file in WORKER.rglob("*.py"):
        tree = ast.parse(file.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        makers |= {file.name} if "AppendLog" in calls else set()
        writers |= {file.name} if "append_log" in names else set()
    assert (makers, writers) == ({"state.py"}, {"loop.py", "supervise.py"})


@pytest.mark.parametrize("detail", ["Traceback …", None, {"exc_type": "E"}, [{"exc_type": "E"}, "text"], [None], 7])
def test_the_demo_shows_any_log(detail):
    assert _line({"event": "hello", "error_detail": detail}).startswith("hello")
    assert _line(["no", "object"])


def test_an_outcome_names_the_reason(device):
    device.start("a")
    device.call("a", "PATCH", "task-instances/1/state", '{"state": "failed", "end_date": "x"}', id="final")
    device.end("a")
    device.respond("final", 404, '{"detail": {"reason": "not_found", "message": "gone"}}')
    (finished,) = [event for event in device.reports() if event.type == "finished"]
    assert finished.outcome == FinishOutcome.FAILED
    assert finished.reason.endswith("with status 404: not_found: gone")
