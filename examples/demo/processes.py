"""Child processes with a log file, free ports, and waiting for a condition."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Where servers live that are not on the PATH of everybody.
SYSTEM_PATH = "/usr/sbin:/usr/local/sbin:/sbin"


class MissingProgramError(Exception):
    """A program that is needed is not installed. The text names it and says how to get it."""


class StartError(Exception):
    """A process ended, or did not answer, when it should have come up. The text holds the end of its log."""


def find_program(name: str, hint: str) -> str:
    """Return the path of the program `name`, or raise `MissingProgramError` with `hint`."""
    found = shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise MissingProgramError(f"{name} is not installed: {hint}")
    return found


_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nothing listens now, another at each call."""
    while True:
        with socket.socket() as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def wait_for(condition: Callable[[], T | None], *, what: str, timeout: float = 60, every: float = 0.05) -> T:
    """Return the first true result of `condition`; `TimeoutError` says what was waited for in vain."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(every)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a TCP connection to `host`:`port` is taken."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Server:
    """A program that runs until it is stopped. It has a process group of its own, so Ctrl-C does not reach it.

    `ready` is asked after `start` until it is true; without it the process only has to exist.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[], bool] | None = None,
        start_timeout: float = 60,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = dict(os.environ if env is None else env)
        self.cwd = cwd
        self.ready = ready
        self.start_timeout = start_timeout
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise StartError(f"{self.name} is not started")
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start it without waiting until it is ready."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        try:
            wait_for(self._settled, what=f"{self.name} to come up", timeout=self.start_timeout)
        except TimeoutError as error:
            raise StartError(f"{error}\n{self.tail()}") from None
        if not self.alive:
            raise StartError(f"{self.name} ended with exit code {self.returncode}\n{self.tail()}")

    def _settled(self) -> bool:
        return not self.alive or self.ready is None or self.ready()

    def start(self) -> None:
        self.launch()
        self.await_ready()

    @property
    def returncode(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to its children."""
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """Return its exit code; `subprocess.TimeoutExpired` when it does not end."""
        if self.process is None:
            raise StartError(f"{self.name} is not started")
        return self.process.wait(timeout)

    def stop(self, timeout: float = 20) -> None:
        """Ask it to end; past `timeout` end it and what it started."""
        if self.process is None:
            return
        if self.alive:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        self._end_group()

    def kill(self) -> None:
        """SIGKILL it and what it started in its group, as a power cut would."""
        if self.process is not None:
            self._end_group()

    def _end_group(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def pause(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def tail(self, lines: int = 25) -> str:
        """Return the end of its log, with the log's path."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.log}\n" + "\n".join(text.splitlines()[-lines:])
