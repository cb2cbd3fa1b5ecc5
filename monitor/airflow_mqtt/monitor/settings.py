"""The settings of `airflow-mqtt top`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from airflow_mqtt.config.broker_url import EXPECTED, BrokerUrl, parse_broker_url
from airflow_mqtt.config.settings import Setting, choice, flag, matching, seconds
from airflow_mqtt.config.tls import TLS, raise_if_half
from airflow_mqtt.monitor.keys import INTERVALS, Order
from airflow_mqtt.monitor.tables import TABLES
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.topics import ROOT

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        "broker_url",
        parse_broker_url,
        EXPECTED,
        "Where the MQTT broker is, and an account that may read the status topics, such as monitor. Give a password in"
        " the environment rather than as a flag.",
        required=True,
        secret=True,
    ),
    Setting(
        "root",
        matching(ROOT),
        "topic levels of letters, digits, _ and -",
        "First levels of the topics. The bridge of a team has a root of its own: give that to see the team's fleet.",
        "airflow",
    ),
    *TLS,
    Setting(
        "once",
        flag,
        "true or false",
        "Print what the topics say, as plain text, and end. So it is also where input or output is no terminal.",
        "false",
        switch=True,
    ),
    Setting(
        "view",
        choice(*TABLES),
        ", ".join(TABLES),
        "Which table to begin with; with --once, the only one to print. Default: workers; with --once, all. A job is"
        " listed from its first change after the command began; how many wait and run is always whole.",
    ),
    Setting("filter", str, "words", "Show the rows that hold all of these words.", ""),
    Setting(
        "sort",
        str,
        "the head of a column of the table",
        "By which column; the other way with a - before it: --sort=-seen.",
    ),
    Setting("interval", seconds(*INTERVALS), "0.5 to 60 seconds", "How often the picture is drawn.", "2"),
)


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """The values of `SETTINGS`."""

    broker_url: BrokerUrl
    root: str
    tls_ca_file: Path | None
    tls_cert_file: Path | None
    tls_key_file: Path | None
    once: bool
    view: str | None
    filter: str
    sort: str | None
    interval: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `config.settings.resolve` returns."""
        known = cls(**{field.name: values[field.name] for field in fields(cls)})
        raise_if_half(values)
        known.orders()
        return known

    def orders(self) -> dict[str, Order]:
        """Return the order that was asked for; `SettingError` when the table has no such column."""
        if not self.sort:
            return {}
        table = TABLES[self.view or "workers"]
        name = self.sort.removeprefix("-").upper()
        column = next((column for column in table.columns if column.name == name), None)
        if column is None:
            heads = ", ".join(column.name for column in table.columns)
            raise SettingError(f"sort: the table {table.name} has no column {name[:40]!r}; it has {heads}")
        return {table.name: Order(name, column.descending != self.sort.startswith("-"))}
