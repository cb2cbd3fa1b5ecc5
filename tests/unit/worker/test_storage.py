"""A disk that fails, a journal that is broken, a directory that is somebody else's: one line, and an exit code."""

import errno
import fcntl
import logging
import selectors
import socket
import sqlite3
from pathlib import Path

import pytest

from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.errors import RefusedError, SettingError, StorageError
from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.worker import main, unix_sockets
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.core.effects import AppendLog, SaveEvent, SaveJob, SaveMeta
from airflow_mqtt.worker.core.jobs import Job, Phase
from airflow_mqtt.worker.core.state import Restored
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.journal import Journal
from airflow_mqtt.worker.loop import Loop
from airflow_mqtt.worker.runners import Runners
from airflow_mqtt.worker.settings import SETTINGS


def _values(state_dir: Path) -> dict:
    flags = {"broker_url": "mqtt://127.0.0.1:1", "name": "edge-1", "state_dir": str(state_dir)}
    return resolve(SETTINGS, [Source(lambda setting: setting.flag, flags)])


@pytest.fixture
def full(tmp_path: Path) -> Journal:
    """A journal that has no room for more."""
    journal = Journal(tmp_path / "journal.sqlite")
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    return journal


def test_a_full_disk_is_one_error_and_nothing_is_half_written(full: Journal, tmp_path: Path) -> None:
    with full as journal:
        journal.write([SaveMeta("connection", "7")])
        with pytest.raises(StorageError, match="full") as caught:
            journal.write([SaveMeta("connection", "8"), SaveEvent(1, b"x" * 100_000)])
        assert str(tmp_path / "journal.sqlite") in str(caught.value)
        assert "remove" not in str(caught.value)
        assert journal.load().meta["connection"] == "7"
        journal.write([SaveMeta("connection", "9")])  # and goes on where there is room


def test_a_journal_that_is_held_by_another_is_one_error(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal, sqlite3.connect(tmp_path / "j", isolation_level=None) as other:
        journal._db.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            journal.write([SaveMeta("connection", "8")])  # BEGIN itself fails: there is nothing to roll back
        other.execute("ROLLBACK")
        journal.write([SaveMeta("connection", "8")])


def test_a_row_that_is_no_json_is_one_error_with_advice(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal._db.execute("INSERT INTO job VALUES ('a', '{\"x\"')")
        with pytest.raises(RefusedError, match="remove the file"):
            journal.load()


def test_the_journal_is_private(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write([SaveMeta("connection", "8")])
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("record", [{"run": 1}, {}, {"run": {"job": "a"}, "result": None}])
def test_a_row_that_is_no_job_ends_the_worker_in_one_line(tmp_path: Path, caplog, record: dict) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.write([SaveJob("a", record)])
    assert main.run(_values(tmp_path)) == main.EXIT_REFUSED
    assert "remove the file" in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


def test_a_disk_that_fails_ends_the_worker_in_one_line(tmp_path: Path, caplog, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Runners, "sweep", fail)
    assert main.run(_values(tmp_path)) == 74
    last = caplog.records[-1]
    assert last.levelno == logging.ERROR
    assert last.exc_info is None
    assert str(tmp_path) in last.getMessage()
    assert "No space left" in last.getMessage()
    assert "free" in last.getMessage()
    assert "tasks that run go on" in last.getMessage()


def test_a_line_that_cannot_be_logged_costs_the_line_only(tmp_path: Path, caplog, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JobFiles, "append_log", fail)
    with Journal(tmp_path / "j") as journal, selectors.DefaultSelector() as selector:
        runners = Runners(tmp_path, "python3", 1, selector, max_call_bytes=1)
        core = Core(Config(name="edge-1", instance="i", journal="j"))
        loop = Loop(core, journal, None, None, runners, selector, lambda: False, None)
        for _ in range(2):
            loop._act(AppendLog("job", 1, b"line\n"))
    assert len([text for text in caplog.messages if "No space left" in text]) == 1


def test_a_log_that_a_power_cut_shortened_keeps_its_offsets(tmp_path: Path) -> None:
    files = JobFiles(tmp_path, "job", 1)
    files.restore_log(0)
    assert not files.directory.exists()
    files.append_log(b"one\n")
    files.restore_log(100)
    files.append_log(b"the runner died\n")
    assert files.read_log(100, 1000) == b"the runner died\n"
    files.restore_log(50)
    assert files.log_size() == 116


def test_what_is_said_of_a_death_in_a_power_cut_is_sent(tmp_path: Path) -> None:
    """The bridge has 100 bytes of the log, of which the disk kept one line: the note comes after the 100."""
    files = JobFiles(tmp_path, "job", 1)
    files.append_log(b"one\n")
    run = Run(job="job", attempt=1, kind="airflow", slots=1, workload={})
    held = Job(run=run, queue="default", phase=Phase.RUNNING, log_acked=100)
    with Journal(tmp_path / "j") as journal, selectors.DefaultSelector() as selector:
        runners = Runners(tmp_path, "python3", 1, selector, max_call_bytes=1)
        core = Core(Config(name="edge-1", instance="i", journal="j"), Restored(jobs=[held.record()]))
        loop = Loop(core, journal, None, None, runners, selector, lambda: False, None)
        loop.recover()
        for effect in core.take():
            if isinstance(effect, AppendLog):
                loop._act(effect)
    note = files.read_log(100, 10_000)
    assert b"The runner died" in note
    assert core.state.jobs["job"].log_size == 100 + len(note)


# --- the state directory ----------------------------------------------------------------------------------


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    theirs = tmp_path / "jobs" / "backup-2026"
    theirs.mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SettingError, match=r"state_dir.*notes\.txt.*--state-dir") as caught:
        main.run(_values(tmp_path))
    assert "\n" not in str(caught.value)
    assert theirs.is_dir()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["jobs", "notes.txt"]


def test_the_mode_of_a_directory_that_was_there_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    main._own(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    main._own(tmp_path / "new").close()
    assert {place.stat().st_mode & 0o777 for place in (tmp_path / "new", tmp_path / "new" / "jobs")} == {0o700}


def test_a_directory_whose_journal_was_removed_is_still_ours(tmp_path: Path) -> None:
    main._own(tmp_path).close()
    (tmp_path / "host.log").touch()
    main._own(tmp_path).close()


def test_a_file_system_without_locks_is_a_mistake_in_the_settings(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(SettingError, match="No locks available.*local disk"):
        main.run(_values(tmp_path))


def test_a_file_system_without_sockets_is_a_mistake_in_the_settings(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> socket.socket:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(unix_sockets, "_address", fail)
    with pytest.raises(SettingError, match=r"no socket can be made.*local disk"):
        main.run(_values(tmp_path))
