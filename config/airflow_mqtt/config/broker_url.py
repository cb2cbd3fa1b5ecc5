"""`mqtt[s]://user:password@host:port` taken apart."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from airflow_mqtt.protocol.errors import SettingError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
EXPECTED = "mqtt://user:password@host:1883 or mqtts://user:password@host:8883"

#: Host, port, and what may follow. Of the host more is not asked: the resolver knows it.
_SERVER = re.compile(
    r"(?:\[(?P<address>[^]]*)\]|(?P<name>[^:/?#@\[\]]*))(?::(?P<port>[^/?#]*))?(?P<rest>[/?#].*)?", re.DOTALL
)


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
    scheme, _, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS:
        raise SettingError(f"the scheme is not mqtt or mqtts; expected {EXPECTED}")
    account, at, server = rest.rpartition("@")
    if odd := next((character for character in account if character in "/?#"), None):
        raise SettingError(
            f"a {odd!r} in a user's name or password is written {quote(odd, safe='')}; expected {EXPECTED}"
        )
    found = _SERVER.fullmatch(server)
    if found is None:
        raise SettingError(f"the host is malformed; expected {EXPECTED}")
    host, port = (found["address"] or found["name"] or "").lower(), found["port"] or ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise SettingError(f"host or port is malformed: a port is 1 to 65535; expected {EXPECTED}")
    if not host or any(character.isspace() for character in host):
        raise SettingError(f"no host; expected {EXPECTED}")
    if found["rest"] not in (None, "/"):
        raise SettingError(f"nothing may follow the port; expected {EXPECTED}")
    user, colon, password = account.partition(":")
    return BrokerUrl(
        host=host,
        port=int(port) if port else DEFAULT_PORTS[scheme],
        tls=scheme == "mqtts",
        username=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )
