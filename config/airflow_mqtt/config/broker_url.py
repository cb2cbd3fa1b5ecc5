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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{host}:{self.port}"

    @property
    def warning(self) -> str:
        """What to say of a password that everybody on the way can read; nothing where nobody is."""
        if self.tls or self.password is None or self.host in ("localhost", "::1") or self.host.startswith("127."):
            return ""
        return (
            f"the password of {self} goes over the network as it is, and so does all else: use mqtts://, unless"
            " everybody on the way is trusted"
        )

    def __repr__(self) -> str:
        return f"BrokerUrl({self})"


def parse_broker_url(text: str) -> BrokerUrl:
    """Return the parts of `text`; `SettingError` says what is wrong with it, without repeating any part of it.

    Which part is the password is known only of a URL that is right: in `mqtt://user:secret` it is the port.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise SettingError(
            f"host or port is malformed (a '/', '#', '?' or '@' in a password is written %2F, %23, %3F or %40);"
            f" expected {EXPECTED}"
        ) from None
    if parts.scheme not in DEFAULT_PORTS:
        raise SettingError(f"the scheme is not mqtt or mqtts; expected {EXPECTED}")
    if not parts.hostname or any(character.isspace() for character in parts.hostname):
        raise SettingError(f"no host; expected {EXPECTED}")
    if port == 0:
        raise SettingError(f"the port is not 1 to 65535; expected {EXPECTED}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingError(f"nothing may follow the port; expected {EXPECTED}")
    return BrokerUrl(
        host=parts.hostname,
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "mqtts",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
