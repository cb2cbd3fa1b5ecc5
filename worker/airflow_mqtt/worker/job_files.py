"""The directory of one attempt: `<state_dir>/jobs/<job>-<attempt>/`. Worker and runner share it, across restarts."""

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard

import orjson

from airflow_mqtt.protocol.messages import MAX_INT32, MAX_INTEGER, sanitise
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.processes import ProcessId

#: Bytes of a file of ours but the log: a process id, or a result with its reason.
MAX_FILE = 64 * 1024


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
        pid, ticks, boot = (value.get(name) for name in ("pid", "ticks", "boot"))
        if not (_whole(pid, 2) and _whole(ticks, 0, MAX_INTEGER) and isinstance(boot, str)):
            return None
        return ProcessId(pid, ticks, boot)

    def write_result(self, result: dict[str, Any]) -> None:
        _write(self.directory / "result.json", result)

    def read_result(self) -> Result | None:
        value = _read(self.directory / "result.json")
        returned, exit_code, reason = (value.get(name) for name in ("returned", "exit_code", "reason"))
        fits = (
            isinstance(returned, bool)
            and (exit_code is None or _whole(exit_code, -MAX_INT32 - 1))
            and isinstance(reason, str)
        )
        return Result(bool(returned), exit_code, sanitise(str(reason))) if fits else None

    def add_key(self, digest: str) -> None:
        """Keep the digest of a runner's secret, see `keys`."""
        with _regular(self.directory / "keys", os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
            file.write(digest.encode() + b"\n")

    def read_keys(self) -> set[str]:
        try:
            with _regular(self.directory / "keys") as file:
                return set(file.read(MAX_FILE).decode(errors="replace").split())
        except OSError:
            return set()

    def append_log(self, line: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with _regular(self.task_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
            file.write(line)
            file.flush()
            os.fdatasync(file.fileno())

    def sync_log(self) -> None:
        """Bring the log from the kernel's memory to the disk."""
        with contextlib.suppress(OSError), _regular(self.task_log) as file:
            os.fdatasync(file.fileno())

    def restore_log(self, size: int) -> None:
        """Give a log that a power cut has shortened its length again, so that what follows is not taken for sent."""
        if self.log_size() < size:
            self.directory.mkdir(parents=True, exist_ok=True)
            with _regular(self.task_log, os.O_WRONLY | os.O_CREAT) as file:
                os.ftruncate(file.fileno(), size)

    def log_size(self) -> int:
        try:
            return min(self.task_log.lstat().st_size, MAX_INTEGER)
        except OSError:
            return 0

    def read_log(self, offset: int, limit: int) -> bytes:
        try:
            with _regular(self.task_log) as file:
                file.seek(offset)
                return file.read(limit)
        except OSError:
            return b""

    def open_log(self) -> IO[bytes] | None:
        """Return the log, open for reading; None when there is none."""
        try:
            return _regular(self.task_log)
        except OSError:
            return None

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _write(path: Path, value: dict[str, Any], *, sync: bool = True) -> None:
    """Write all or nothing, with `sync` to the disk: a power cut must not leave half a result."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with _regular(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
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


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a file of ours; an empty one where there is none.

    The task may have put anything in its place: it runs as the worker's user.
    """
    try:
        with _regular(path) as file:
            value = orjson.loads(file.read(MAX_FILE))
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(value: Any, least: int, most: int = MAX_INT32) -> TypeGuard[int]:
    """Whether `value` is a whole number within these bounds, which are those of process ids and exit codes."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _regular(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a file and nothing else: a link leads elsewhere, and a pipe that nobody fills would stop the worker."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "ab")


def directories(state_dir: Path) -> list[JobFiles]:
    """Return the attempts that have a directory."""
    found = []
    for entry in sorted((state_dir / "jobs").glob("*-*")):
        job, _, attempt = entry.name.rpartition("-")
        if attempt.isdigit():
            found.append(JobFiles(state_dir, job, int(attempt)))
    return found
