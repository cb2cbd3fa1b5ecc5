"""Runners, as the worker sees them: the warm host, the attempts under way, and what is left of them."""

import contextlib
import logging
import os
import selectors
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mqtt.config.settings import ENV_PREFIX
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Run
from airflow_mqtt.worker import job_files, processes
from airflow_mqtt.worker.core.effects import Force
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.job_files import JobFiles
from airflow_mqtt.worker.keys import Keys
from airflow_mqtt.worker.processes import ProcessId

log = logging.getLogger(__name__)

#: How often runners that another worker process started are looked at. Our own report through their host.
POLL_INTERVAL = 0.5

#: How long a worker that keeps its host warm waits until it starts another in the place of one that ended.
WARM_PAUSE = 60.0

Attempt = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ended:
    """A runner is gone."""

    job: str
    attempt: int
    result: Result | None
    log_size: int


class Runners:
    """Starts and watches runners. Deterministic parts of this are in `core.endings`."""

    def __init__(
        self,
        state_dir: Path,
        python: str,
        idle_timeout: float,
        selector: selectors.BaseSelector,
        *,
        max_call_bytes: int,
        keep_warm: bool = False,
        warm_dags_memory: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment or {}  # what tasks find there beside what is in ours
        self._warm_dags_memory = warm_dags_memory  # bytes of parsed Dags that the host holds; 0: each task parses
        self._max_call_bytes = max_call_bytes
        self._keep_warm = keep_warm  # a host from the first `tick` on, whether or not there are tasks
        self._warm_at = 0.0  # when it may be started, if there is none
        self._state_dir = state_dir
        self.keys = Keys(state_dir)
        self._python = python
        self._idle_timeout = idle_timeout
        self._selector = selector
        self._host: _Host | None = None
        self._ours: set[Attempt] = set()  # started through the host that runs now
        self._others: dict[Attempt, ProcessId] = {}  # found, or left by a host that died
        self._removed: set[Attempt] = set()  # whose runner had yet to leave when their files went
        self._ended: list[Ended] = []
        self._polled_at = 0.0
        self._idle_since: float | None = None
        self._complaint = ""

    def files(self, job: str, attempt: int) -> JobFiles:
        return JobFiles(self._state_dir, job, attempt)

    def disk_free(self) -> int | None:
        """Return how many bytes are free where jobs are kept, None when that cannot be told."""
        try:
            found = os.statvfs(self._state_dir)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    # --- at the start -------------------------------------------------------------------------------------

    def find(self, job: str, attempt: int) -> tuple[bool, Result | None, int]:
        """Return whether the runner of a journaled job lives, the result that it wrote, and its log's size.

        What is left of one that died without a result is ended: Airflow's retry must not run beside it.
        """
        files = self.files(job, attempt)
        process = files.read_runner()
        living = process is not None and processes.alive(process)
        result = files.read_result()  # after the look at its process: it writes this and ends
        if result is not None:
            living = False
        elif living and process is not None:
            processes.wake(process)  # `kill_attempt` may have stopped it, and died itself before it killed it
            self._others[job, attempt] = process
        else:
            processes.kill_attempt(files.mark, process, python=self._python)
        return living, result, files.log_size()

    def sweep(self, known: set[Attempt]) -> None:
        """End and delete what no journaled job explains."""
        for files in job_files.directories(self._state_dir):
            if (files.job, files.attempt) not in known:
                processes.kill_attempt(files.mark, files.read_runner(), python=self._python)
                files.remove()

    # --- start and end ------------------------------------------------------------------------------------

    def launch(self, run: Run) -> None:
        """Start a runner. One that cannot be started has ended without a result: the core decides what follows."""
        attempt = (run.job, run.attempt)
        files = self.files(*attempt)
        order: dict[str, Any] = {
            "op": "start",
            "job": run.job,
            "attempt": run.attempt,
            "workload": run.workload,
            "max_call_bytes": self._max_call_bytes,
        }
        self._ours.add(attempt)
        self._idle_since = None
        try:
            files.directory.mkdir(parents=True, exist_ok=True)
            (files.directory / "result.json").unlink(missing_ok=True)
            order["key"] = self.keys.give(*attempt)
            self._started_host().send(order)
        except ConnectionError as error:  # it died since it was last looked at
            self._host_died(str(error))
        except OSError as error:
            self._complain(f"cannot start a runner with {self._python}: {error}")
            self._ours.discard(attempt)
            self._look_at(attempt)

    def _started_host(self) -> "_Host":
        if self._host is None:
            self._host = _Host(
                self._python,
                self._state_dir,
                self._warm_dags_memory,
                self._selector,
                self._host_ready,
                environment={**task_environment(os.environ), **self._environment},
            )
        return self._host

    def _complain(self, text: str) -> None:
        """Say why no runner can be started, once for each reason."""
        if text != self._complaint:
            self._complaint = text
            log.error("%s", text)

    def signal(self, job: str, attempt: int, force: Force) -> None:
        files = self.files(job, attempt)
        process = files.read_runner()
        if force is not Force.TERM:
            spare_leader = force is Force.KILL_TASK
            processes.kill_attempt(files.mark, process, spare_leader=spare_leader, python=self._python)
        elif process is not None:
            processes.terminate(process)

    def remove(self, job: str, attempt: int) -> None:
        """Delete the directory of an attempt; again when its runner, killed just now, has left."""
        self.files(job, attempt).remove()
        self.keys.forget(job, attempt)
        self._others.pop((job, attempt), None)
        if (job, attempt) in self._ours:
            self._removed.add((job, attempt))

    # --- watching -----------------------------------------------------------------------------------------

    def take(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def tick(self, now: float) -> None:
        """Look at runners that nobody reports, and end a host that has had nothing to do for long."""
        if self._others and now - self._polled_at >= POLL_INTERVAL:
            self._polled_at = now
            for attempt, process in list(self._others.items()):
                if not processes.alive(process):
                    del self._others[attempt]
                    self._look_at(attempt)
        if self._keep_warm:
            self._warm_up(now)
        elif self._host is None or self._ours:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self._idle_timeout:
            log.info("the runner host has been idle for %g s and is ended", self._idle_timeout)
            self._drop_host()

    def _warm_up(self, now: float) -> None:
        if self._host is not None or now < self._warm_at:
            return
        self._warm_at = now + WARM_PAUSE
        try:
            self._started_host()
        except OSError as error:
            self._complain(f"cannot start a runner with {self._python}: {error}")

    def deadline(self, now: float) -> float:
        if self._ended:
            return now
        times = [float("inf")]
        if self._others:
            times.append(self._polled_at + POLL_INTERVAL)
        if self._keep_warm:
            times.append(self._warm_at if self._host is None else float("inf"))
        elif self._idle_since is not None:
            times.append(self._idle_since + self._idle_timeout)
        elif self._host is not None and not self._ours:
            times.append(now)
        return min(times)

    def _look_at(self, attempt: Attempt) -> None:
        living, result, log_size = self.find(*attempt)
        if not living:
            self._ended.append(Ended(*attempt, result, log_size))

    def _host_ready(self, _mask: int) -> None:
        if self._host is None:
            return
        try:
            reports = self._host.receive()
        except (OSError, PayloadError) as error:
            self._host_died(str(error))
            return
        for report in reports or ():
            self._take_report(report)
        if reports is None:
            self._host_died("it ended")

    def _take_report(self, report: dict[str, Any]) -> None:
        if report.get("op") == "ready":
            log.debug("the runner host is ready")
            self._complaint = ""
        elif report.get("op") == "unusable":
            self._complain(f"the Task SDK cannot be loaded by {self._python}: {report.get('reason')}")
        elif report.get("op") == "exited":
            self._exited((str(report["job"]), int(report["attempt"])))

    def _exited(self, attempt: Attempt) -> None:
        """A child of the host ended. When it left since another runs this attempt, that one is watched."""
        if attempt not in self._ours:
            return
        self._ours.discard(attempt)
        if attempt in self._removed:
            self._removed.discard(attempt)
            self.files(*attempt).remove()
            return
        self._look_at(attempt)

    def _host_died(self, why: str) -> None:
        """Its children go on without it; those that never began are started again by the core."""
        if self._ours and not self._complaint:
            log.warning("the runner host is gone (%s); its runners are watched without it", why)
        self._drop_host()
        for attempt in list(self._ours):
            self._ours.discard(attempt)
            self._look_at(attempt)

    def _drop_host(self) -> None:
        if self._host is not None:
            self._host.close()
        self._host = None
        self._idle_since = None

    def close(self) -> None:
        self._drop_host()


def _private(path: Path) -> Any:
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))


def task_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what of our environment tasks get: all but our settings, one of which holds the broker's password."""
    return {name: text for name, text in ours.items() if not name.startswith(ENV_PREFIX) and name != processes.MARK}


class _Host:
    """The warm process and the socket to it."""

    def __init__(
        self,
        python: str,
        state_dir: Path,
        warm_bytes: int,
        selector: selectors.BaseSelector,
        ready: Any,
        *,
        environment: Mapping[str, str],
    ) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs, _private(state_dir / "host.log") as sink:
            arguments = [str(theirs.fileno()), str(state_dir), str(warm_bytes)]
            command = [python, "-m", "airflow_mqtt.worker.runner.host", *arguments]
            self._process = subprocess.Popen(  # noqa: S603  our own module, with the interpreter of the settings
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment,
            )
        self._channel.setblocking(False)
        self._unpacker = Unpacker()
        self._outgoing = bytearray()
        self._selector = selector
        self._ready = ready
        selector.register(self._channel, selectors.EVENT_READ, ready)

    def send(self, order: dict[str, Any]) -> None:
        self._outgoing += pack(order)
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = self._channel.send(self._outgoing)
            del self._outgoing[:sent]
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        self._selector.modify(self._channel, interest, self._ready)

    def receive(self) -> list[dict[str, Any]] | None:
        """Return what the host reports; None when it is gone."""
        if self._outgoing:
            self._flush()
        try:
            data = self._channel.recv(262144)
        except BlockingIOError:
            return []
        return list(self._unpacker.feed(data)) if data else None

    def close(self) -> None:
        self._selector.unregister(self._channel)
        self._channel.close()
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)  # it ends by itself; a reaper collects it if it takes longer
        _ZOMBIES.append(self._process)
        _ZOMBIES[:] = [process for process in _ZOMBIES if process.poll() is None]


_ZOMBIES: list[subprocess.Popen[bytes]] = []
