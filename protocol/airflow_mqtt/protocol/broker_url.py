"""`mqtt[s]://user:password@host:port` taken apart."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from airflow_mqtt.protocol.errors import SettingError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
EXPECTED = "mqtt://user:password@host:1883 or mqtts://user:password@host:8883"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker is and who we are to it."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None

    def __str__(self) -> str:
        """Without the password: this is what logs and error messages show."""
        user = f"{self.username}@" if self.username else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerUrl({self})"


def parse_broker_url(text: str) -> BrokerUrl:
    """Return the parts of `text`; `SettingError` says what is wrong with it, without repeating its password."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SettingError(f"not a URL ({error}); expected {EXPECTED}") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise SettingError(f"scheme {parts.scheme!r} is not mqtt or mqtts; expected {EXPECTED}")
    if not parts.hostname:
        raise SettingError(f"no host; expected {EXPECTED}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingError(f"nothing may follow the port; expected {EXPECTED}")
    return BrokerUrl(
        host=parts.hostname,
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "mqtts",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
