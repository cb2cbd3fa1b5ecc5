"""The settings of `airflow-mqtt worker run`."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from airflow_mqtt.config.broker_url import EXPECTED, BrokerUrl, parse_broker_url
from airflow_mqtt.config.settings import (
    Setting,
    choice,
    expanded,
    flag,
    integer,
    matching,
    names,
    pairs,
    seconds,
    text,
)
from airflow_mqtt.config.tls import TLS, raise_if_half
from airflow_mqtt.protocol.codec import MAX_DECODED_BYTES
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.messages import MAX_EXTRA, MAX_INTERVAL, MAX_SHORT_TEXT, MAX_SLOTS, MAX_TEXTS, sanitise
from airflow_mqtt.protocol.topics import MAX_QUEUE_LENGTH, ROOT, WORKER_NAME
from airflow_mqtt.worker.core import rules
from airflow_mqtt.worker.core.rules import Condition, conditions

#: Accounts of `mosquitto/acl`. A worker's name is its account, and its account is what it may do.
RESERVED = frozenset({"bridge", "monitor"})

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def _name(value: str) -> str:
    if value in RESERVED:
        raise SettingError("it is the name of an account that is no device's")
    return matching(WORKER_NAME)(value)


def _labels(value: str) -> dict[str, str]:
    labels = pairs(value)
    if len(labels) > 64 or any(sanitise(text, MAX_SHORT_TEXT) != text for pair in labels.items() for text in pair):
        raise SettingError(f"there are more than 64, or one is no text of at most {MAX_SHORT_TEXT} characters")
    return labels


def _interval(value: str) -> float:
    return 0.0 if float(value) == 0 else seconds(1, MAX_INTERVAL)(value)


def _function(value: str) -> str:
    if value and FUNCTION.fullmatch(value) is None:
        raise SettingError("it is not like `site_health:read`")
    return value


def _queues(value: str) -> tuple[str, ...]:
    found = names(value)
    if any(sanitise(queue, MAX_QUEUE_LENGTH) != queue for queue in found):
        raise SettingError(f"a queue's name is no text of at most {MAX_QUEUE_LENGTH} characters")
    if len(found) > MAX_TEXTS:
        raise SettingError(f"there are more than {MAX_TEXTS}")
    return found


def _path(value: str) -> Path:
    return expanded(text(value))


def _program(value: str) -> str:
    """Return the program's path, made absolute: runners start in directories of their own."""
    wanted = str(expanded(text(value)))
    found = shutil.which(wanted)
    if found is None:
        there = os.sep in wanted and Path(wanted).exists()
        raise SettingError("it is no program that may be run" if there else "no such program")
    return str(Path(found).absolute())  # not resolved: the link of a virtual environment is what makes it one


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "broker_url",
        parse_broker_url,
        EXPECTED,
        "Where the MQTT broker is. Give a password in the environment rather than as a flag.",
        required=True,
        secret=True,
    ),
    Setting(
        "name",
        _name,
        "1 to 64 letters, digits, _ and -, but not bridge or monitor",
        "The worker's name, one for each device; the broker must know it as user name. Default: the host name.",
    ),
    Setting("queues", _queues, "names, comma-separated", "Airflow queues whose tasks it takes.", "default"),
    Setting(
        "slots", integer(0, MAX_SLOTS), f"0 to {MAX_SLOTS}", "How many tasks run at once, counted by pool_slots.", "1"
    ),
    Setting(
        "state_dir",
        _path,
        "a directory that the worker may write",
        "Where journal and logs are. It must survive a restart. Default: ~/.local/state/airflow-mqtt/NAME.",
    ),
    Setting("root", matching(ROOT), "topic levels of letters, digits, _ and -", "First topic level.", "airflow"),
    Setting(
        "keepalive",
        integer(1, 65535),
        "1 to 65535 seconds",
        "MQTT keep-alive. The broker calls the worker offline after 1.5 of it without a sign of life. Longer than"
        " heartbeat_interval, it costs no messages of its own.",
        "40",
    ),
    Setting(
        "heartbeat_interval",
        seconds(1, 3600),
        "1 to 3600 seconds",
        "How often it publishes its status. Three missed ones make it unknown.",
        "30",
    ),
    Setting("mqtt_version", choice("auto", "5", "3.1.1"), "auto, 5 or 3.1.1", "auto tries 5, then 3.1.1.", "auto"),
    *TLS,
    Setting(
        "max_message_bytes",
        integer(16_384, MAX_DECODED_BYTES),
        f"16384 to {MAX_DECODED_BYTES} bytes",
        "The largest message that it sends; the broker and the bridge must allow as much.",
        "1044480",
    ),
    Setting(
        "store_limit",
        integer(0, 2**40),
        "0 to 1099511627776 bytes",
        "How much of what a task writes (XComs, rendered fields) is stored without a link. Beyond it the task waits.",
        "16777216",
    ),
    Setting(
        "disk_reserve",
        integer(0, 2**50),
        "0 to 1125899906842624 bytes",
        "With less free in state_dir it takes no jobs, so that those it has can end.",
        "67108864",
    ),
    Setting(
        "drain_timeout",
        seconds(0, 86_400 * 7),
        "0 to 604800 seconds",
        "After a first SIGTERM or SIGINT, how long running tasks may go on before they are sent TERM.",
        "60",
    ),
    Setting(
        "kill_grace",
        seconds(0.1, 3600),
        "0.1 to 3600 seconds",
        "How long a task may take to end after TERM before it is killed.",
        "10",
    ),
    Setting(
        "runner_idle_timeout",
        seconds(0, 86_400 * 7),
        "0 to 604800 seconds",
        "How long the warm process that has the Task SDK loaded is kept without tasks. It needs about 120 MB.",
        "300",
    ),
    Setting(
        "warm",
        choice("demand", "start"),
        "demand or start",
        "When the warm process is there: from the first task on, or from the worker's start, for good.",
        "demand",
    ),
    Setting(
        "warm_dags",
        flag,
        "true or false",
        "Whether Dag files are kept parsed, so that a task need not parse its own. Files that do more than define Dags"
        " are parsed by each task all the same.",
        "true",
    ),
    Setting(
        "warm_dags_memory",
        integer(1_048_576, 2**40),
        "1048576 to 1099511627776 bytes",
        "How much memory parsed Dag files may take. The least used go first.",
        "67108864",
    ),
    Setting(
        "log_rate",
        integer(1024, 1024**3),
        "1024 to 1073741824 bytes a second",
        "Limit for task logs, as they are packed for the link: some ten times as much text.",
        "65536",
    ),
    Setting(
        "relay_telemetry",
        flag,
        "true or false",
        "Whether spans and StatsD lines of tasks go to the bridge, which passes them on where it has otlp_endpoint or"
        " statsd_address. Up to 1 KiB/s of the link, the rest is dropped. Needs the extra otel beside the Task SDK.",
        "false",
    ),
    Setting(
        "labels",
        _labels,
        "key=value, comma-separated",
        "What the device has: shown with the worker, and jobs may ask for it.",
        "",
    ),
    Setting(
        "health_interval",
        _interval,
        f"0, or 1 to {MAX_INTERVAL} seconds",
        "How often the device's health (CPU, memory, disk, temperature …) goes with a heartbeat. 0: never.",
        "60",
    ),
    Setting(
        "health_function",
        _function,
        "module:function, or nothing",
        "A function of your own, called each health_interval in a process of its own, that returns a dict of up to"
        f" {MAX_EXTRA} numbers and short texts; they are sent as `extra` of the health.",
        "",
    ),
    Setting(
        "maintenance_when",
        conditions,
        "conditions, comma-separated, like disk_free < 200 MB, temperature > 80, memory_used > 95 %, battery < 20",
        "The worker takes no more jobs when one of them holds, says why, and takes jobs again by itself.",
        "",
    ),
    Setting(
        "maintenance_until",
        conditions,
        "conditions on the same figures, like disk_free > 1 GB, temperature < 60",
        "When it takes jobs again. Default: when the figure is back by a tenth of the limit.",
        "",
    ),
    Setting(
        "log_level",
        choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "What the worker says on stderr.",
        "info",
    ),
    Setting(
        "python",
        _program,
        "a Python interpreter with apache-airflow-task-sdk",
        "Runs the tasks. Default: the one that runs the worker.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The values of `SETTINGS`, with the defaults that depend on the machine filled in."""

    broker_url: BrokerUrl
    name: str
    queues: tuple[str, ...]
    slots: int
    state_dir: Path
    root: str
    keepalive: int
    heartbeat_interval: float
    mqtt_version: str
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    max_message_bytes: int
    store_limit: int
    disk_reserve: int
    drain_timeout: float
    kill_grace: float
    runner_idle_timeout: float
    warm: str
    warm_dags: bool
    warm_dags_memory: int
    log_rate: int
    relay_telemetry: bool
    labels: dict[str, str]
    health_interval: float
    health_function: str
    maintenance_when: tuple[Condition, ...]
    maintenance_until: tuple[Condition, ...]
    log_level: str
    python: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `config.settings.resolve` returns."""
        known = {field.name: values[field.name] for field in fields(cls)}
        known["name"] = known["name"] or host_name()
        known["state_dir"] = (known["state_dir"] or default_state_dir(known["name"])).absolute()
        known["python"] = known["python"] or sys.executable
        raise_if_half(known)
        rules.of(known["maintenance_when"], known["maintenance_until"])
        return cls(**known)


def host_name() -> str:
    """Return the host's name as a worker name."""
    found = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64]
    return found or "worker"


def default_state_dir(name: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base:
        try:
            base = str(Path.home() / ".local" / "state")
        except RuntimeError:
            raise SettingError(
                "state_dir is missing, and there is no home directory for it: give --state-dir"
            ) from None
    return Path(base) / "airflow-mqtt" / name
