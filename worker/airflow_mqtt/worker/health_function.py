"""The site's own function, which adds figures to the device's health (setting `health_function`).

It runs in a process of its own (`runner.health`), which is kept: it may import Airflow, wait, or crash, and the worker
goes on without its figures.
"""

import contextlib
import logging
import os
import selectors
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import (
    MAX_EXTRA,
    MAX_EXTRA_NAME,
    MAX_EXTRA_SIZE,
    MAX_EXTRA_TEXT,
    extra_size,
    is_extra,
    sanitise,
)
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.runners import task_environment

log = logging.getLogger(__name__)

#: Seconds that a call may take. The first one imports its module, which may import Airflow, on a small board.
TIMEOUT = 30.0

#: Bytes of an answer: much more than is taken.
MAX_ANSWER = 64 * 1024

#: Different complaints that are said.
MAX_SAID = 8


class HealthFunction:
    """Asks each `interval` seconds; `values` are those of the last answer, empty when the last call failed."""

    def __init__(
        self, name: str, python: str, interval: float, selector: selectors.BaseSelector, *, timeout: float = TIMEOUT
    ) -> None:
        self.values: dict[str, Any] = {}
        self._name = name
        self._python = python
        self._interval = interval
        self._timeout = timeout
        self._selector = selector
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: list[subprocess.Popen[bytes]] = []  # that have yet to be reaped
        self._unpacker = Unpacker(MAX_ANSWER)
        self._asked_at: float | None = None  # while it has not answered
        self._due = 0.0
        self._said: set[str] = set()

    def tick(self, now: float) -> None:
        """Ask when it is time; end one that takes too long."""
        self._ended = [process for process in self._ended if process.poll() is None]
        if self._asked_at is not None:
            if now - self._asked_at >= self._timeout:
                self._failed(f"has not answered within {self._timeout:g} s")
        elif now >= self._due:
            self._due = now + self._interval
            self._ask(now)

    def _ask(self, now: float) -> None:
        try:
            if self._channel is None:
                self._start()
            assert self._channel is not None
            self._channel.send(pack({"op": "ask"}))
        except OSError as error:
            self._failed(f"cannot be asked: {error}")
        else:
            self._asked_at = now

    def _start(self) -> None:
        channel, theirs = socket.socketpair()
        with theirs:
            command = [self._python, "-m", "airflow_mqtt.worker.runner.health", str(theirs.fileno()), self._name]
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own module, with the interpreter of the settings
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=task_environment(os.environ),
                )
            except OSError:
                channel.close()
                raise
        channel.setblocking(False)
        self._channel = channel
        self._unpacker = Unpacker(MAX_ANSWER)
        self._selector.register(channel, selectors.EVENT_READ, self._ready)

    def _ready(self, _mask: int) -> None:
        if self._channel is None:
            return
        try:
            data = self._channel.recv(MAX_ANSWER)
            answers = list(self._unpacker.feed(data))
        except BlockingIOError:
            return
        except (OSError, PayloadError) as error:
            self._failed(f"has given no answer that can be read: {error}")
            return
        if not data:
            self._failed("has ended its process")
        for answer in answers:
            self._answered(answer)

    def _answered(self, answer: Mapping[str, Any]) -> None:
        self._asked_at = None
        values = answer.get("values")
        if isinstance(values, dict):
            self.values, left_out = taken(values)
            if left_out:
                self._complain(f"gives what is left out: {left_out}")
        else:
            self.values = {}
            self._complain(f"failed: {answer.get('error')}")

    def _failed(self, why: str) -> None:
        self._complain(why)
        self.values = {}
        self.close()

    def _complain(self, why: str) -> None:
        text = sanitise(f"health_function {self._name} {why}", 500)
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            log.warning("%s (said once)", text)

    def close(self) -> None:
        """End its process."""
        self._asked_at = None
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._ended.append(self._process)
            self._process = None


def taken(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what of `values` goes over the link, and in words what does not."""
    found: dict[str, Any] = {}
    left_out = []
    for name, value in values.items():
        if value is None:
            continue
        fitting = _fitting(value)
        key = sanitise(name, MAX_EXTRA_NAME)
        if not is_extra(key, fitting):
            left_out.append(f"{key} is no number up to 10^15 and no text")
        elif len(found) == MAX_EXTRA or extra_size(found | {key: fitting}) > MAX_EXTRA_SIZE:
            left_out.append(f"{key} is more than the {MAX_EXTRA} values of {MAX_EXTRA_SIZE} characters that are sent")
        else:
            found[key] = fitting
    return found, "; ".join(left_out[:3])


def _fitting(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return round(value, 3)
    return sanitise(value, MAX_EXTRA_TEXT) if isinstance(value, str) else value
