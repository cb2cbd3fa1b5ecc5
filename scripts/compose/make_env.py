"""Write `.env` for compose.yaml: generated passwords and keys, and free ports. One that is there is kept.

Lines that are missing in a kept one (of an older version, say) are added. Standard library only.
"""

import secrets
import socket
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER = (
    "# Written by `make env` for compose.yaml. Secret: do not commit it. Settings that may be added are there, too.\n"
)


def password() -> str:
    return secrets.token_hex(16)


def fernet_key() -> str:
    return urlsafe_b64encode(secrets.token_bytes(32)).decode()


def port(wanted: int) -> Callable[[], str]:
    """Return what finds a free port of 127.0.0.1: `wanted` if nothing listens there."""

    def find() -> str:
        for candidate in (wanted, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", candidate))
                except OSError:
                    continue
                return str(probe.getsockname()[1])
        raise SystemExit("make env: there is no free port")

    return find


VALUES: dict[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": password,
    "MQTT_BRIDGE_PASSWORD": password,
    "MQTT_MONITOR_PASSWORD": password,
    "MQTT_EDGE_1_PASSWORD": password,
    "MQTT_EDGE_2_PASSWORD": password,
    "AIRFLOW_ADMIN_PASSWORD": password,
    "AIRFLOW_FERNET_KEY": fernet_key,
    "AIRFLOW_SECRET_KEY": password,
    "AIRFLOW_JWT_SECRET": lambda: secrets.token_hex(32),
    "AIRFLOW_PORT": port(8080),
    "MQTT_PORT": port(1883),
}


def names(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("#")}


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".env"
    before = path.read_text() if path.exists() else HEADER
    missing = [name for name in VALUES if name not in names(before)]
    if not missing:
        print(f"{path.name} is there and complete; it is left as it is")
        return 0
    made = {name: VALUES[name]() for name in missing}
    separator = "" if before.endswith("\n") else "\n"
    path.touch(mode=0o600)
    path.write_text(before + separator + "".join(f"{name}={value}\n" for name, value in made.items()))
    print(f"{path.name}: wrote {', '.join(missing)}")
    for name, usual in (("AIRFLOW_PORT", "8080"), ("MQTT_PORT", "1883")):
        if made.get(name, usual) != usual:
            print(f"{path.name}: port {usual} is taken, so {name}={made[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
