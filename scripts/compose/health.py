"""Health of a bridge or worker container: `health.py bridge`, `health.py worker`. Exit code 0 is healthy.

Asks the broker, with the container's own account, what everybody else can see of it: that a process exists says
nothing. What nobody can see there is whether a bridge that stands by still turns: that is in its `health_file`. The
reason is printed once for each change, also into the container's log.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from airflow_mqtt.config.broker_url import BrokerUrl, parse_broker_url

#: Seconds to wait for what the broker keeps.
PATIENCE = 4.0

#: Seconds in which retained messages of others would arrive, if they were allowed to.
GRACE = 0.3

#: Seconds that a bridge's loop may stand still beyond its `lease_ttl`, which is longer than its turns take.
STANDSTILL = 15.0

#: Where the reason of the last check is kept, so that the log gets each once.
LAST = Path("/tmp/health")  # noqa: S108  a tmpfs of the container's own

Statuses = Mapping[str, dict[str, Any]]


def of_loop(file: Path, lease_ttl: float, now: float) -> str:
    """Return what is wrong, or nothing: this bridge, leading or standing by, has looked at its database just now."""
    if not file.exists():
        return "it has not found its database yet"
    age = now - file.stat().st_mtime
    if age > lease_ttl + STANDSTILL:
        return f"it has stood still for {age:.0f} s: its database does not answer, or the process hangs (restart it)"
    return ""


def of_leader(statuses: Statuses, root: str, account: str | None) -> str:
    """Return what is wrong, or nothing: some bridge leads, and the broker knows it."""
    status = statuses.get(f"{root}/v1/bridge/status")
    if status is None:
        return (
            f"the broker knows of no bridge: it must let the account {account} write and read {root}/# (mosquitto/acl)"
        )
    if status.get("state") != "leading":
        return f"no bridge leads; {status.get('instance')} was the last"
    return ""


def of_worker(statuses: Statuses, root: str, name: str, now: float) -> str:
    """Return what is wrong, or nothing: its own status is fresh, and it sees nobody else's."""
    own = f"{root}/v1/worker/{name}/status"
    foreign = sorted(topic for topic in statuses if topic != own)
    if foreign:
        return f"the broker shows {name} what is not its own ({foreign[0]}): it needs the access rules of mosquitto/acl"
    status = statuses.get(own)
    if status is None:
        return f"the broker has no status of {name}: is the account's name the worker's name, as mosquitto/acl wants?"
    if status.get("state") == "offline":
        return f"{name} is offline ({status.get('reason') or 'no reason given'})"
    age = now - status.get("ts", 0)
    if age > 3 * status.get("interval", 30) + 5:
        return f"the last status of {name} is {age:.0f} s old: its process hangs, or cannot send"
    return ""


class Look:
    """One short connection: what the broker keeps on `filters`."""

    def __init__(self, url: BrokerUrl, filters: list[str], wanted: str) -> None:
        self._filters = filters
        self._wanted = wanted
        self._found = threading.Event()
        self.answer = ""
        self.statuses: dict[str, dict[str, Any]] = {}
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.username_pw_set(url.username, url.password)
        self._client.on_connect = self._connected
        self._client.on_message = self._received
        if url.tls:
            authorities, certificate, key = (
                os.environ.get(f"AIRFLOW_MQTT_TLS_{name}_FILE") for name in ("CA", "CERT", "KEY")
            )
            self._client.tls_set(authorities, certificate, key)
        self._url = url

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.answer = str(reason)
            self._found.set()
            return
        client.subscribe([(name, 1) for name in self._filters])

    def _received(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self.statuses[message.topic] = dict(json.loads(message.payload))
        except (ValueError, TypeError):
            self.statuses[message.topic] = {}
        if message.topic == self._wanted:
            self._found.set()

    def take(self) -> str:
        """Fill `statuses`; return why that was not possible."""
        place = f"the broker {self._url.host}:{self._url.port}"
        try:
            self._client.connect(self._url.host, self._url.port, keepalive=10)
        except OSError as error:
            return f"{place} cannot be reached ({error})"
        self._client.loop_start()
        self._found.wait(PATIENCE)
        time.sleep(GRACE)
        self._client.disconnect()
        self._client.loop_stop()
        if self.answer:
            return (
                f"{place} refuses the account {self._url.username} ({self.answer}): its password is not the one that"
                " .env gave the broker; docker compose up --detach --force-recreate broker sets it"
            )
        return ""


def judge(part: str, environment: Mapping[str, str]) -> str:
    url = parse_broker_url(environment["AIRFLOW_MQTT_BROKER_URL"])
    root = environment.get("AIRFLOW_MQTT_ROOT", "airflow")
    if part == "bridge":
        file = Path(environment["AIRFLOW_MQTT_HEALTH_FILE"])
        lease_ttl = float(environment.get("AIRFLOW_MQTT_LEASE_TTL", "3"))
        look = Look(url, [f"{root}/v1/bridge/status"], f"{root}/v1/bridge/status")
        return of_loop(file, lease_ttl, time.time()) or look.take() or of_leader(look.statuses, root, url.username)
    name = environment.get("AIRFLOW_MQTT_NAME", url.username or "")
    own = f"{root}/v1/worker/{name}/status"
    # The second is what only the monitor may read: of other workers, and of queues once a bridge leads.
    look = Look(url, [own, f"{root}/v1/+/+/status"], own)
    return look.take() or of_worker(look.statuses, root, name, time.time())


def tell(part: str, reason: str) -> None:
    """Print `reason`, and put it into the container's log if the last check said something else."""
    print(reason or "healthy")
    before = LAST.read_text() if LAST.exists() else ""
    if reason == before:
        return
    LAST.write_text(reason)
    line = f"{part}: unhealthy: {reason}" if reason else f"{part}: healthy again"
    try:
        Path("/proc/1/fd/2").write_text(line + "\n")
    except OSError as error:
        print(f"(not in the log: {error})")


def main() -> int:
    part = sys.argv[1]
    reason = judge(part, os.environ)
    tell(part, reason)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
