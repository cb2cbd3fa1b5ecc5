"""`airflow mqtt check`: look at everything that a new site gets wrong."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_mqtt.config.bridge import SETTINGS, airflow_sources
from airflow_mqtt.config.broker_url import BrokerUrl, parse_broker_url
from airflow_mqtt.config.settings import ENV_PREFIX, resolve
from airflow_mqtt.executor.cli import broker_facts, check, site_facts
from airflow_mqtt.executor.cli.check import Line, Result
from airflow_mqtt.executor.cli.output import print_rows, refuse, say
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.topics import WORKER_NAME

_LEASE_TTL: Final = next(setting for setting in SETTINGS if setting.name == "lease_ttl")

#: Of a device's account: better than a flag, which everybody on the machine sees.
DEVICE_URL: Final = f"{ENV_PREFIX}DEVICE_URL"


def run(args: Namespace) -> None:
    """Print one line for each thing. Exit code 1 when one of them is a fault, else 0."""
    suppress_logs_and_warning(providers_configuration_loaded(_run))(args)


def _run(args: Namespace) -> None:
    lines = []
    for line in _look(args):
        lines.append(line)
        if args.output == "table":  # some take seconds
            say(_as_text(line))
    if args.output != "table":  # what programs read
        print_rows([{**line._asdict(), "result": line.result.value} for line in lines], args.output)
    if check.exit_code(lines):
        sys.exit(1)


def _as_text(line: Line) -> str:
    todo = f" → {line.todo}" if line.todo else ""
    return f"{line.result.value:8}{line.subject}: {line.says}{todo}"


def _look(args: Namespace) -> Iterator[Line]:
    device = _device_of(args)
    yield from site_facts.look(args.team_name, _lease_ttl())
    try:
        bridge = broker_facts.bridge_account(os.environ)
    except (SettingError, OSError) as error:
        yield Line("broker", Result.FAULT, str(error), "mend that setting")
        return
    if bridge is None:
        todo = "run this where AIRFLOW_MQTT_BROKER_URL or [mqtt] broker_url is set, as for the bridge"
        yield Line("broker", Result.SKIPPED, "this machine has no broker_url", todo)
        return
    found = broker_facts.of_broker(bridge)
    yield from check.broker(found)
    if device is not None and not found.error:
        yield from check.device(broker_facts.of_device(bridge, bridge.of(device[1]), device[0]))


def _device_of(args: Namespace) -> tuple[str, BrokerUrl] | None:
    """Return name and broker URL of the device that is to be looked at."""
    url = args.broker_url or os.environ.get(DEVICE_URL)
    if args.device is None:
        if args.broker_url:
            refuse("--broker-url is that of a device's account: say which with --device")
        return None
    if not WORKER_NAME.fullmatch(args.device):
        refuse(f"{args.device[:50]!r} is no worker's name: 1 to 64 letters, digits, '_' or '-'")
    if not url:
        refuse(f"Say how device {args.device} comes to the broker: {DEVICE_URL} in the environment, or --broker-url")
    try:
        return args.device, parse_broker_url(url)
    except SettingError as error:
        refuse(f"The broker URL of device {args.device} is wrong: {error}")


def _lease_ttl() -> float:
    """Return for how long a lease may stand still: the bridge's setting, where it is known here."""
    try:
        values = resolve([_LEASE_TTL], airflow_sources(os.environ))
    except SettingError:  # the bridge's line says so
        values = resolve([_LEASE_TTL], [])
    return float(values["lease_ttl"])
