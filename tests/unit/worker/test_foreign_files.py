"""Whatever a task leaves where our files are: it runs as the worker's user, and must not end or stop the worker."""

import json
import os
from pathlib import Path

import pytest

from airflow_mqtt.protocol.messages import decode_report
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.processes import ProcessId

RESULTS = [
    {},
    {"returned": True},
    {"returned": 1, "exit_code": 0, "reason": ""},
    {"returned": True, "exit_code": 2**31, "reason": ""},
    {"returned": True, "exit_code": True, "reason": ""},
    {"returned": True, "exit_code": 1.5, "reason": ""},
    {"returned": True, "exit_code": [], "reason": ""},
    {"returned": True, "exit_code": 0, "reason": None},
    {"returned": True, "exit_code": 0, "reason": "x" * 100_000},
]
RUNNERS = [
    {},
    {"pid": -1, "ticks": 0, "boot": ""},
    {"pid": 0, "ticks": 0, "boot": ""},
    {"pid": 1, "ticks": 0, "boot": ""},
    {"pid": 2**40, "ticks": 0, "boot": ""},
    {"pid": "7", "ticks": 0, "boot": ""},
    {"pid": 7, "ticks": -1, "boot": ""},
    {"pid": 7, "ticks": 1, "boot": 1},
]


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    found = JobFiles(tmp_path, "a", 1)
    found.directory.mkdir(parents=True)
    return found


@pytest.mark.parametrize("value", [*RESULTS, [], None, 1, "text"])
def test_a_result_that_is_none_of_ours_is_none(files: JobFiles, value) -> None:
    (files.directory / "result.json").write_text(json.dumps(value))
    assert files.read_result() is None


def test_the_words_of_a_result_are_made_to_fit(files: JobFiles) -> None:
    files.write_result({"returned": False, "exit_code": -9, "reason": "a\x00b" + "x" * 5000})
    result = files.read_result()
    assert (result.returned, result.exit_code, len(result.reason)) == (False, -9, 4096)
    assert "\x00" not in result.reason


@pytest.mark.parametrize("value", [*RUNNERS, [], None, 1])
def test_a_process_id_that_is_none_of_ours_is_none(files: JobFiles, value) -> None:
    """Above all 0, 1 and -1: to the kernel they mean more than one process."""
    (files.directory / "runner.json").write_text(json.dumps(value))
    assert files.read_runner() is None


def _made_pipe(path: Path) -> None:
    os.mkfifo(path)


def _made_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_text(json.dumps({"returned": True, "exit_code": 0, "reason": "", "pid": 7, "ticks": 1, "boot": ""}))
    path.symlink_to(elsewhere)


def _made_directory(path: Path) -> None:
    path.mkdir()


def _made_long(path: Path) -> None:
    path.write_bytes(b" " * 10_000_000 + b"{}")


@pytest.mark.parametrize("make", [_made_pipe, _made_link, _made_directory, _made_long])
def test_what_is_no_file_of_ours_is_not_read(files: JobFiles, make) -> None:
    for name in ("result.json", "runner.json"):
        make(files.directory / name)
        (files.directory.parent / "elsewhere").unlink(missing_ok=True) if make is not _made_link else None
    assert files.read_result() is None
    assert files.read_runner() is None


@pytest.mark.parametrize("make", [_made_pipe, _made_link, _made_directory])
def test_what_is_no_log_of_ours_is_neither_read_nor_written(files: JobFiles, make) -> None:
    make(files.task_log)
    assert files.read_log(0, 100) == b""
    with pytest.raises(OSError):  # the loop says that once, and goes on
        files.append_log(b"line\n")
    with pytest.raises(OSError):
        files.restore_log(10**9)
    files.sync_log()


def test_a_link_in_the_place_of_a_draft_is_not_followed(files: JobFiles, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    for name in ("result.new", "runner.new"):
        (files.directory / name).symlink_to(elsewhere)
    files.write_result({"returned": True, "exit_code": 0, "reason": ""})
    files.write_runner(ProcessId(7, 1, "boot"))
    assert elsewhere.read_text() == "precious"
    assert files.read_result() == Result(returned=True, exit_code=0)
    assert files.read_runner() == ProcessId(7, 1, "boot")


@pytest.mark.parametrize("log_size", [2**62, -(2**62)])
@pytest.mark.parametrize("exit_code", [2**40, -(2**40), 0])
def test_every_report_can_be_acknowledged(device, exit_code: int, log_size: int) -> None:
    device.start("a")
    device.call("a", "PATCH", "task-instances/1/state", '{"state": "success", "end_date": "x"}', id="final")
    device.respond("final", 204, None)
    device.core.ended("a", 1, Result(returned=True, exit_code=exit_code), log_size, device.now)
    device.settle()
    assert [decode_report(payload).type for payload in device.events.values()][-1] == "finished"
