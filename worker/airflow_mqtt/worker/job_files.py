"""The directory of one attempt: `<state_dir>/jobs/<job>-<attempt>/`. Worker and runner share it, across restarts."""

import contextlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.processes import ProcessId


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one attempt."""

    state_dir: Path
    job: str
    attempt: int

    @property
    def directory(self) -> Path:
        return self.state_dir / "jobs" / f"{self.job}-{self.attempt}"

    @property
    def mark(self) -> str:
        """What tells the processes of this attempt from all others, see `processes.MARK`."""
        return str(self.directory)

    @property
    def task_log(self) -> Path:
        return self.directory / "task.log"

    @property
    def supervisor_log(self) -> Path:
        return self.directory / "supervisor.log"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    def write_runner(self, process: ProcessId) -> None:
        """Say which process runs the attempt. Not to the disk: after a power cut no process of before it is there."""
        _write(self.directory / "runner.json", asdict(process), sync=False)

    def read_runner(self) -> ProcessId | None:
        value = _read(self.directory / "runner.json")
        return None if value is None else ProcessId(value["pid"], value["ticks"], value["boot"])

    def write_result(self, result: dict[str, Any]) -> None:
        _write(self.directory / "result.json", result)

    def read_result(self) -> Result | None:
        value = _read(self.directory / "result.json")
        return None if value is None else Result(value["returned"], value["exit_code"], value["reason"])

    def append_log(self, line: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.task_log.open("ab") as file:
            file.write(line)
            file.flush()
            os.fdatasync(file.fileno())

    def sync_log(self) -> None:
        """Bring the log from the kernel's memory to the disk."""
        with contextlib.suppress(OSError), self.task_log.open("rb") as file:
            os.fdatasync(file.fileno())

    def restore_log(self, size: int) -> None:
        """Give a log that a power cut has shortened its length again, so that what follows is not taken for sent."""
        if self.log_size() < size:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.task_log.touch()
            os.truncate(self.task_log, size)

    def log_size(self) -> int:
        try:
            return self.task_log.stat().st_size
        except OSError:
            return 0

    def read_log(self, offset: int, limit: int) -> bytes:
        try:
            with self.task_log.open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except OSError:
            return b""

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _write(path: Path, value: dict[str, Any], *, sync: bool = True) -> None:
    """Write all or nothing, with `sync` to the disk: a power cut must not leave half a result."""
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(orjson.dumps(value))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    draft.replace(path)
    if not sync:
        return
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def directories(state_dir: Path) -> list[JobFiles]:
    """Return the attempts that have a directory."""
    found = []
    for entry in sorted((state_dir / "jobs").glob("*-*")):
        job, _, attempt = entry.name.rpartition("-")
        if attempt.isdigit():
            found.append(JobFiles(state_dir, job, int(attempt)))
    return found
