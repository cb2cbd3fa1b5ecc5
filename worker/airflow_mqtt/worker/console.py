"""`airflow-mqtt worker status | maintenance | stop | logs`: asks the worker that runs here, over its local socket.

It needs neither root nor network, only to be the worker's user: the state directory is closed to others.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import orjson

from airflow_mqtt.config.printing import plain
from airflow_mqtt.protocol.errors import PayloadError, RefusedError
from airflow_mqtt.worker.core.commands import Act
from airflow_mqtt.worker.frames import Unpacker, pack
from airflow_mqtt.worker.log_printer import follow
from airflow_mqtt.worker.settings import SETTINGS as WORKER_SETTINGS
from airflow_mqtt.worker.settings import default_state_dir, host_name
from airflow_mqtt.worker.unix_sockets import connect

#: What finds the worker: the rest of its settings is of no use here.
SETTINGS = tuple(setting for setting in WORKER_SETTINGS if setting.name in ("name", "state_dir"))

#: Seconds that a worker may take to answer: its loop may be in a commit to a slow disk.
ANSWER_TIMEOUT = 15.0

#: Seconds between two looks at one that stops.
LOOK_PAUSE = 0.5

INTERRUPTED = 130  # as a shell counts SIGINT

ON_OFF = (
    "on: no more jobs are taken, those that run go on; it outlives a restart. off: takes back what was set here;"
    " what an operator wishes, and maintenance_when, go on to hold."
)
EPILOG = "Exit codes: 0 done, 1 refused, or no worker runs, 2 a wrong setting, 130 interrupted."


def add_actions(actions: Any) -> list[argparse.ArgumentParser]:
    """Add the sub-commands to `airflow-mqtt worker`; return their parsers."""
    status = _action(actions, "status", "Say what the worker on this device does.", _status)
    status.add_argument("--output", "-o", choices=("text", "json"), default="text", help="Default: text.")
    maintenance = _action(actions, "maintenance", "Take this device out of service, or back.", _maintenance)
    maintenance.add_argument("wish", metavar="on|off", choices=("on", "off"), help=ON_OFF)
    maintenance.add_argument("--comment", "-c", default="", help="Why; operators see it.")
    stop = _action(actions, "stop", "Stop the worker as SIGTERM does: what runs may end.", _stop)
    stop.add_argument("--wait", "-w", action="store_true", help="Wait until it is gone, and say how far it is.")
    logs = _action(actions, "logs", "Print the logs of tasks that are kept here.", _logs)
    logs.add_argument(
        "job", nargs="?", default="", metavar="JOB", help="The id of a job, or how it begins. Default: all."
    )
    logs.add_argument(
        "--follow", "-f", action="store_true", help="Go on with what is written: of JOB until it is gone."
    )
    return [status, maintenance, stop, logs]


def _action(actions: Any, name: str, text: str, do: Callable[..., int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=f"{text} Run it as the worker's user; it needs no network.", epilog=EPILOG
    )
    parser.set_defaults(do=do)
    return parser


def run(chosen: argparse.Namespace, values: dict[str, Any]) -> int:
    """Do what was chosen; return the exit code. `RefusedError` says in one line why not."""
    state_dir = (values["state_dir"] or default_state_dir(values["name"] or host_name())).absolute()
    try:
        code: int = chosen.do(chosen, state_dir)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


class Gone(Exception):  # noqa: N818  no error: it may be what is waited for
    """The worker has closed the connection."""


class Client:
    """A connection to the worker on `state_dir`; `RefusedError` when none runs there."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._numbers = itertools.count(1)
        self._unpacker = Unpacker()
        try:
            self._channel = connect(state_dir / "worker.sock")
        except PermissionError:
            raise _not_ours(state_dir) from None
        except OSError:
            raise RefusedError(
                f"no worker runs on {plain(str(state_dir))}; start it, or give the --state-dir or --name of one"
            ) from None
        self._channel.settimeout(ANSWER_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, act: Act, **more: str) -> dict[str, Any]:
        """Return what the worker is after `act`; `Gone` when it ends instead of answering."""
        frame = {"command": act.value, "id": str(next(self._numbers)), **more}
        try:
            self._channel.sendall(pack(frame))
            while data := self._channel.recv(65536):
                for answer in self._unpacker.feed(data):
                    return self._understood(answer)
        except TimeoutError:
            raise RefusedError(
                f"the worker on {self._state_dir} has not answered within {ANSWER_TIMEOUT:g} s; see its log"
            ) from None
        except (OSError, PayloadError):
            pass
        raise Gone

    @staticmethod
    def _understood(answer: dict[str, Any]) -> dict[str, Any]:
        if answer.get("status") != 200:
            raise RefusedError("the worker that runs is of another version than this command; start it anew")
        found: dict[str, Any] = orjson.loads(answer["body"])
        return found


def _not_ours(state_dir: Path) -> RefusedError:
    return RefusedError(f"{plain(str(state_dir))} is not yours to read; run this as the worker's user: sudo -u USER …")


def _asked(state_dir: Path, act: Act, **more: str) -> dict[str, Any]:
    with Client(state_dir) as client:
        try:
            return client.ask(act, **more)
        except Gone:
            raise RefusedError(f"the worker on {state_dir} has ended before it answered") from None


def _say(text: str) -> None:
    print(plain(text), flush=True)  # noqa: T201  what a command line says


# --- status -----------------------------------------------------------------------------------------------


def _status(chosen: argparse.Namespace, state_dir: Path) -> int:
    worker = _asked(state_dir, Act.STATUS)
    if chosen.output == "json":
        _say(json.dumps(worker))  # all in ASCII
        return 0
    for name, text in _facts(worker):
        _say(f"{name:<12} {text}")
    return 0


def _facts(worker: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("worker", f"{worker['name']} (airflow-mqtt {worker['version'] or 'unknown'})"),
        ("state", worker["state"]),
        ("link", worker["link"]),
        ("queues", ", ".join(worker["queues"])),
        ("slots", f"{worker['slots']}, {worker['free']} free"),
        ("maintenance", _maintained(worker)),
        ("to report", f"{worker['reports']} events"),
    ]
    if worker["refused"]:
        facts.insert(3, ("refused", worker["refused"]))
    facts += [("job", _job(job)) for job in worker["jobs"]]
    facts += [("health", f"{name} {value}") for name, value in _figures(worker["health"])]
    return facts


def _maintained(worker: dict[str, Any]) -> str:
    by_operator = f"wished by an operator: {worker['comment']}" if worker["wished"] else ""
    return "; ".join(filter(None, (by_operator, worker["reason"]))) or "no"


def _job(job: dict[str, Any]) -> str:
    index = job["map_index"]
    mapped = f"[{index}]" if isinstance(index, int) and index >= 0 else ""
    of = ".".join(str(job[name]) for name in ("dag_id", "task_id") if job[name]) + mapped
    run_id = f" of {job['run_id']}" if job["run_id"] else ""
    return f"{job['job']} attempt {job['attempt']}, {job['state']}{': ' if of else ''}{of}{run_id}"


def _figures(health: dict[str, Any]) -> list[tuple[str, Any]]:
    own = health.get("extra", {})
    return [item for item in health.items() if item[0] != "extra"] + [(f"extra.{name}", own[name]) for name in own]


# --- maintenance ------------------------------------------------------------------------------------------


def _maintenance(chosen: argparse.Namespace, state_dir: Path) -> int:
    if chosen.wish == "off" and chosen.comment:
        raise RefusedError("a comment goes with `maintenance on`: at its end it is taken away")
    act = Act.MAINTENANCE_ON if chosen.wish == "on" else Act.MAINTENANCE_OFF
    worker = _asked(state_dir, act, comment=chosen.comment)
    running = f"; {worker['running']} jobs still run" if worker["running"] else ""
    if worker["maintenance"]:
        _say(f"worker {worker['name']} takes no jobs ({_maintained(worker)}){running}")
    else:
        _say(f"worker {worker['name']} takes jobs again")
    return 0


# --- stop -------------------------------------------------------------------------------------------------


def _stop(chosen: argparse.Namespace, state_dir: Path) -> int:
    with Client(state_dir) as client:
        try:
            worker = client.ask(Act.STOP)
            _say(_stopping(worker))
            if chosen.wait:
                _wait(client, worker)
        except Gone:
            pass
    if chosen.wait:
        _say("the worker is gone")
    return 0


def _wait(client: Client, worker: dict[str, Any]) -> None:
    """Say how far it is until it is gone, which `Gone` tells."""
    said = _stopping(worker)
    while True:
        time.sleep(LOOK_PAUSE)
        if (text := _stopping(client.ask(Act.STATUS))) != said:
            _say(text)
            said = text


def _stopping(worker: dict[str, Any]) -> str:
    running = [job["job"] for job in worker["jobs"] if job["state"] in ("accepted", "running")]
    listed = f" ({', '.join(running[:5])}{' …' if len(running) > 5 else ''})" if running else ""
    left = f"; {worker['reports']} reports are to be sent" if worker["reports"] else ""
    return f"worker {worker['name']} stops: {len(running)} jobs run{listed}{left}"


# --- logs -------------------------------------------------------------------------------------------------


def _logs(chosen: argparse.Namespace, state_dir: Path) -> int:
    try:
        (state_dir / "jobs").stat()
    except PermissionError:
        raise _not_ours(state_dir) from None
    except OSError:
        raise RefusedError(
            f"{plain(str(state_dir))} is no worker's state directory; give --state-dir, or --name, of the worker"
        ) from None
    names: dict[str, str] = {}
    with contextlib.suppress(RefusedError):
        names = {job["job"]: _job(job) for job in _asked(state_dir, Act.STATUS)["jobs"]}
    follow(state_dir, chosen.job, names, sys.stdout, goes_on=chosen.follow)
    return 0
