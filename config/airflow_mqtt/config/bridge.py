"""Every setting of `airflow-mqtt bridge run`."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from airflow_mqtt.config import airflow_cfg
from airflow_mqtt.config.broker_url import EXPECTED, BrokerUrl, parse_broker_url
from airflow_mqtt.config.settings import (
    Setting,
    Source,
    choice,
    durations,
    integer,
    pairs,
    seconds,
    text,
)
from airflow_mqtt.config.tls import TLS, raise_if_half
from airflow_mqtt.protocol.errors import PayloadError, SettingError
from airflow_mqtt.protocol.topics import ROOT, WORKER_NAME
from airflow_mqtt.protocol.versions import Version

_DAY: Final = 86400.0
_LOST_AFTER: Final = (1.0, 30 * _DAY)
_SHORTEST_RETENTION: Final = 3600.0  # a log may arrive some time after the end of its job

#: Drivers that a URL of Airflow may name. The bridge has its own, whichever it is.
_POSTGRESQL: Final = frozenset({"", "asyncpg", "pg8000", "psycopg", "psycopg2", "psycopg2cffi", "psycopg_async"})
_DATABASES: Final = {
    "postgresql": _POSTGRESQL,
    "postgres": _POSTGRESQL,
    "sqlite": frozenset({"", "aiosqlite", "pysqlite"}),
}


DATABASES: Final = "postgresql://user:password@host/database or sqlite:////path/to/airflow.db"

#: As SQLAlchemy takes it apart (`sqlalchemy.engine.url`), and so Airflow: only '@' ends a password.
_URL: Final = re.compile(
    r"[\w+]+://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<host>\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?(?:/(?P<database>[^?]*))?(?:\?.*)?",
    re.DOTALL,
)


#: Databases of Airflow that airflow-mqtt has no part for.
_UNSUPPORTED: Final = frozenset({"mysql", "mariadb", "mssql"})


def _database_url(value: str) -> str:
    scheme, separator, _ = value.partition("://")
    backend, _, driver = scheme.partition("+")
    if not separator or backend not in _DATABASES:
        named = f" ({backend} is not supported by airflow-mqtt)" if backend in _UNSUPPORTED else ""
        raise SettingError(f"its scheme is none of them{named}")
    if driver not in _DATABASES[backend]:
        raise SettingError(f"there is no driver +{driver}; leave it out")
    parts = _URL.fullmatch(value)
    if parts is None:
        raise SettingError("it is malformed")
    before = value.partition("?")[0]
    if "@" in (parts["host"] or "") or (parts["user"] is None and "@" in before):
        raise SettingError("an '@' in a password is written %40, and a '/' in a user's name %2F")
    if not (parts["port"] or "0").isdecimal():
        raise SettingError("its port is no number")
    if backend == "sqlite" and (parts["host"] or (parts["database"] or "").strip("/") in ("", ":memory:")):
        raise SettingError("a path needs sqlite:////absolute/path")
    return value


def _listen_url(value: str) -> str:
    if not value.startswith(("postgresql", "postgres:")):
        raise SettingError("it is not PostgreSQL's")
    return _database_url(value)


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise SettingError("it does not start with http:// or https://")
    return value.rstrip("/") + "/"


#: A header of HTTP (RFC 9110, section 5.1 and 5.5).
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+=[!-~]([ -~]*[!-~])?")


def _headers(value: str) -> dict[str, str]:
    try:
        found = pairs(value)
    except SettingError:  # which names what it does not understand: it may be the password
        raise SettingError("one is not name=value") from None
    if not all(_HEADER.fullmatch(f"{name}={text}") for name, text in found.items()):
        raise SettingError("one is no header of HTTP")
    return found


def _address(value: str) -> tuple[str, int]:
    host, colon, port = text(value).rpartition(":")
    if not colon or not host:
        raise SettingError("it has no port")
    return host.removeprefix("[").removesuffix("]"), integer(1, 65535)(port)


def _root(value: str) -> str:
    if not ROOT.fullmatch(value):
        raise SettingError("it is no topic of letters, digits, '_', '-' and '/'")
    return value


def _discovery(value: str) -> str:
    return _root(value) if value.strip() else ""


def _retention(value: str) -> float:
    number = seconds(0, 3650 * _DAY)(value)
    if 0 < number < _SHORTEST_RETENTION:
        raise SettingError("it is shorter than an hour")
    return number


def _queue_lost_after(value: str) -> dict[str, float]:
    found = durations(value)
    for queue, number in found.items():
        if not _LOST_AFTER[0] <= number <= _LOST_AFTER[1]:
            raise SettingError(f"that of {queue} is out of range")
    return found


def _version(value: str) -> Version:
    try:
        return Version.of(value.strip())
    except PayloadError as error:
        raise SettingError(f"it is {error}") from None


def _health_file(value: str) -> Path:
    path = Path(text(value)).expanduser()
    if not os.access(path.parent, os.W_OK):
        raise SettingError("its directory is not there, or may not be written")
    return path


def _instance(value: str) -> str:
    if not WORKER_NAME.fullmatch(value):
        raise SettingError("it has other characters")
    return value


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        "broker_url",
        parse_broker_url,
        EXPECTED,
        "The MQTT broker, and the account of the bridge there.",
        required=True,
        secret=True,
    ),
    Setting(
        "database_url",
        _database_url,
        DATABASES,
        "Airflow's metadata database ([database] sql_alchemy_conn); `airflow db migrate` makes our tables there.",
        required=True,
        secret=True,
    ),
    Setting(
        "listen_url",
        _listen_url,
        "postgresql://user:password@host/database",
        "The database without the connection pooler that database_url leads through: new jobs are heard of there."
        " Only to listen. [database_url]",
        secret=True,
    ),
    Setting(
        "execution_api_url",
        _http_url,
        "http://host:8080/execution/ or https://…",
        "Airflow's Execution API, as [core] execution_api_server_url.",
        required=True,
    ),
    Setting(
        "allow",
        choice("once-listed", "listed", "all"),
        "once-listed, listed or all",
        "Which workers may serve a queue: those that `airflow mqtt allow` lists for it, or all that say so. Before"
        " anybody has listed one, once-listed is all. With all, whoever has one device's account can get the jobs of"
        " every queue.",
        "once-listed",
    ),
    Setting("root", _root, "a topic such as airflow or site1/airflow", "First levels of all topics.", "airflow"),
    Setting(
        "team_name",
        str,
        "the name of a team, or nothing",
        "Serve the jobs of this team of a multi-team Airflow; give each team's bridge a root of its own.",
        "",
    ),
    Setting(
        "instance",
        _instance,
        "1 to 64 letters, digits, '_' or '-'",
        "Name of this bridge among its standbys. [host name and process id]",
    ),
    Setting(
        "lease_ttl",
        seconds(0.5, 300),
        "0.5 to 300 seconds",
        "A standby takes over when the leader's lease has stood still for this long.",
        "3",
    ),
    Setting(
        "accept_timeout",
        seconds(0.5, 3600),
        "0.5 to 3600 seconds",
        "A job that its worker has not accepted after this long is published again.",
        "10",
    ),
    Setting(
        "accept_tries",
        integer(1, 100),
        "1 to 100",
        "After so many publications without an answer a job goes back to the queue.",
        "3",
    ),
    Setting(
        "start_timeout",
        seconds(1, 86400),
        "1 to 86400 seconds",
        "A job that its worker has accepted and not started after this long goes back to the queue. In line with"
        " [scheduler] task_queued_timeout, after which Airflow itself gives up a task that waits.",
        "600",
    ),
    Setting(
        "lost_after",
        seconds(*_LOST_AFTER),
        "1 to 2592000 seconds",
        "A running job whose worker has been silent for longer is failed as lost. Until then Airflow sees it run.",
        "900",
    ),
    Setting(
        "queue_lost_after",
        _queue_lost_after,
        "queue=seconds, comma-separated, each 1 to 2592000, such as solar=86400,lte=3600",
        "lost_after for single queues.",
        "",
    ),
    Setting(
        "least_worker_version",
        _version,
        "a version, such as 0.2.0",
        "A worker of an earlier version is given no jobs, and says why in its note; what it has goes on. [any]",
    ),
    Setting(
        "task_heartbeat_interval",
        seconds(0.5, 300),
        "0.5 to 300 seconds",
        "How often running tasks are heartbeaten to Airflow, and so how soon a cleared or failed task is noticed."
        " Below [scheduler] task_instance_heartbeat_timeout.",
        "10",
    ),
    Setting(
        "status_interval",
        seconds(0.5, 3600),
        "0.5 to 3600 seconds",
        "How often the figures of queues are published when they change.",
        "5",
    ),
    Setting(
        "home_assistant",
        _discovery,
        "a topic such as homeassistant, or nothing",
        "Make a device of each worker in Home Assistant, by messages below this prefix of its discovery (homeassistant,"
        " unless it was changed there). Nothing: do not.",
        "",
    ),
    Setting(
        "max_message_bytes",
        integer(4096, 8 * 1024 * 1024),
        "4096 to 8388608 bytes",
        "Largest MQTT payload taken or sent; not above the broker's own limit.",
        "1048576",
    ),
    Setting(
        "log_limit",
        integer(0, 2**40),
        "0 to 1099511627776 bytes",
        "Log bytes kept of one job, all its attempts together and with what rows cost; what comes after is acknowledged"
        " and not stored.",
        "67108864",
    ),
    Setting(
        "retention",
        _retention,
        "0, or 3600 to 315360000 seconds",
        "How long an ended job is kept, with its events and its log, which Airflow's UI then no longer shows, and the"
        " record of what people did. 0 keeps them for ever.",
        "2592000",
    ),
    Setting(
        "mqtt_version",
        choice("auto", "5", "3.1.1"),
        "auto, 5 or 3.1.1",
        "Version of MQTT; auto tries 5 first.",
        "auto",
    ),
    *TLS,
    Setting(
        "otlp_endpoint",
        _http_url,
        "http://host:4318 or https://…",
        "Where spans go, by OTLP over HTTP: those of the bridge, and those that workers relay. Without it nothing is"
        " traced. Needs the extra otel.",
    ),
    Setting(
        "otlp_headers",
        _headers,
        "name=value, comma-separated",
        "Headers with which the collector is called, such as authorization=Bearer ….",
        "",
        secret=True,
    ),
    Setting(
        "statsd_address",
        _address,
        "host:port",
        "Where StatsD lines go that workers relay, by UDP. Each begins with mqtt. and the worker's name.",
    ),
    Setting(
        "health_file",
        _health_file,
        "path of a file that the bridge may make",
        "Touched every few seconds by a bridge that leads, and by one that stands by and could take over. If its age is"
        " more than lease_ttl and 15 seconds, the bridge hangs, or its database does not answer.",
    ),
    Setting(
        "metrics_address",
        _address,
        "host:port, such as 127.0.0.1:9883 or [::1]:9883",
        "Serve figures for Prometheus at http://host:port/metrics, while this bridge leads and while it stands by. To"
        " whoever can reach it: there is no password. [not served]",
    ),
    Setting(
        "metrics_workers",
        integer(0, 100_000),
        "0 to 100000",
        "Of how many workers there are figures of their own at metrics_address: of the first by name.",
        "1000",
    ),
    Setting(
        "log_level",
        choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "What is logged to standard error.",
        "info",
    ),
)


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """The values of `SETTINGS`. Durations are in seconds, sizes in bytes."""

    broker_url: BrokerUrl
    database_url: str
    listen_url: str | None
    execution_api_url: str
    allow: str
    root: str
    team_name: str
    instance: str
    lease_ttl: float
    accept_timeout: float
    accept_tries: int
    start_timeout: float
    lost_after: float
    queue_lost_after: dict[str, float]
    least_worker_version: Version | None
    task_heartbeat_interval: float
    status_interval: float
    home_assistant: str
    max_message_bytes: int
    log_limit: int
    retention: float
    mqtt_version: str
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    otlp_endpoint: str | None
    otlp_headers: dict[str, str]
    statsd_address: tuple[str, int] | None
    health_file: Path | None
    metrics_address: tuple[str, int] | None
    metrics_workers: int
    log_level: str

    @property
    def relays(self) -> bool:
        """Whether there is somewhere to pass on what tasks have for a monitoring system."""
        return self.otlp_endpoint is not None or self.statsd_address is not None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make them of what `config.settings.resolve` returned."""
        known = {field.name: values[field.name] for field in fields(cls)}
        known["instance"] = known["instance"] or _default_instance()
        raise_if_half(known)
        return cls(**known)

    def lost_after_of(self, queue: str) -> float:
        return self.queue_lost_after.get(queue, self.lost_after)


def _default_instance() -> str:
    host = "".join(c if WORKER_NAME.fullmatch(c) else "-" for c in socket.gethostname())
    return f"{host[:48]}-{os.getpid()}"


def airflow_sources(environment: Mapping[str, str]) -> list[Source]:
    """Return what Airflow's own configuration says of the bridge, see `airflow_cfg`."""
    return airflow_cfg.sources(SETTINGS, environment)
