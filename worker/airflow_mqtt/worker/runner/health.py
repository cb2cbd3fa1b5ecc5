"""The process of the site's own `health_function`.

`python -m airflow_mqtt.worker.runner.health FD MODULE:FUNCTION`, started by the worker. It imports the module when
it is asked first. Frames in: `{"op": "ask"}`. Frames out: `{"values": {…}}`, or `{"error": …}`.
"""

import importlib
import signal
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

from airflow_mqtt.protocol.messages import MAX_EXTRA_NAME, MAX_EXTRA_TEXT, MAX_FIGURE, sanitise
from airflow_mqtt.worker import processes
from airflow_mqtt.worker.frames import Unpacker, pack

#: Of what a function returns, so many values are looked at.
MOST_VALUES = 64


def main(arguments: list[str]) -> int:
    processes.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the worker
    channel = socket.socket(fileno=int(arguments[0]))
    unpacker = Unpacker()
    function: Callable[[], Any] | None = None
    while data := channel.recv(4096):
        for _ in unpacker.feed(data):
            try:
                function = function or _load(arguments[1])
                answer = pack({"values": _values(function())})
            except Exception as error:  # whatever it is: it is the site's code
                answer = pack({"error": sanitise(f"{type(error).__name__}: {error}", 400)})
            channel.sendall(answer)
    return 0


def _load(name: str) -> Callable[[], Any]:
    module, _, path = name.partition(":")
    found: Callable[[], Any] = attrgetter(path)(importlib.import_module(module))
    return found


def _values(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError(f"it returns {type(answer).__name__}, not a dict")
    return {sanitise(str(name), MAX_EXTRA_NAME): _told(value) for name, value in list(answer.items())[:MOST_VALUES]}


def _told(value: Any) -> Any:
    """Return `value` as JSON has it; an empty list for what is no figure: the worker says so."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_FIGURE else []
    if isinstance(value, float):
        return float(value)
    if isinstance(value, datetime):
        value = value.isoformat()
    return sanitise(value, MAX_EXTRA_TEXT) if isinstance(value, str) else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
