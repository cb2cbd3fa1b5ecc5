"""A database URL as libpq reads it, for asyncpg, which knows some of its options and sends the others to the server.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS

Every option that libpq documents is taken, translated, or ignored with a line. Any other name is that of a setting of
the server, such as `search_path`: asyncpg takes those in a URL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url

from airflow_mqtt.protocol.errors import SettingError

#: What asyncpg does as libpq does.
TAKEN: Final = frozenset(
    {
        "host", "port", "dbname", "user", "password", "passfile", "service", "sslmode", "sslcert", "sslkey",
        "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation", "ssl_min_protocol_version",
        "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    }
)  # fmt: skip

#: What `parse` makes something else of; `ssl` is SQLAlchemy's name of `sslmode`, with asyncpg.
TRANSLATED: Final = frozenset(
    {"ssl", "connect_timeout", "options", "hostaddr", "requiressl", "sslcertmode", "servicefile"}
)

_TIMEOUTS: Final = "each statement has a timeout of its own, which finds a dead connection sooner"
_NAME: Final = "sessions are called by the name of the bridge"
_ONE: Final = "one version of the protocol is spoken, 3.0"
_OAUTH: Final = "there is no OAuth here"

#: What is ignored, and why that does no harm.
IGNORED: Final[Mapping[str, str]] = {
    "application_name": _NAME,
    "fallback_application_name": _NAME,
    "client_encoding": "it is always UTF-8",
    "keepalives": _TIMEOUTS,
    "keepalives_idle": _TIMEOUTS,
    "keepalives_interval": _TIMEOUTS,
    "keepalives_count": _TIMEOUTS,
    "tcp_user_timeout": _TIMEOUTS,
    "channel_binding": "there is no channel binding here",
    "require_auth": "whatever the server asks for is answered",
    "requirepeer": "the owner of a socket is not looked at",
    "gssencmode": "TLS is used, by sslmode",
    "gssdelegation": "credentials are never delegated",
    "sslcompression": "TLS is never compressed",
    "sslcrldir": "give one file with sslcrl",
    "sslsni": "the server's name is always sent",
    "sslkeylogfile": "keys are not logged",
    "load_balance_hosts": "hosts are tried in their order",
    "replication": "it is no replica",
    "min_protocol_version": _ONE,
    "max_protocol_version": _ONE,
    "scram_client_key": "give the password",
    "scram_server_key": "give the password",
    "oauth_issuer": _OAUTH,
    "oauth_client_id": _OAUTH,
    "oauth_client_secret": _OAUTH,
    "oauth_scope": _OAUTH,
    "authtype": "it means nothing any more",
    "tty": "it means nothing any more",
    # Of SQLAlchemy's drivers, which people have in Airflow's URL.
    "async_fallback": "it is SQLAlchemy's",
    "prepared_statement_cache_size": "it is found out what the server can",
    "prepared_statement_name_func": "it is found out what the server can",
    "statement_cache_size": "it is found out what the server can",
    "prepare_threshold": "it is found out what the server can",
    "command_timeout": _TIMEOUTS,
}

#: Values that ask for safety which is not given here: a person should know. None: any.
_UNSAFE: Final[Mapping[str, frozenset[str] | None]] = {
    "channel_binding": frozenset({"require"}),
    "gssencmode": frozenset({"require"}),
    "sslcertmode": frozenset({"require"}),
    "require_auth": None,
    "requirepeer": None,
    "sslcrldir": None,
}

#: Seconds for one attempt to connect, where the URL has no other.
CONNECT_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says: `arguments` for `asyncpg.connect`, `settings` of the session, and lines for a person."""

    arguments: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def parse(url: str) -> Target:
    """Return what `url` says. Raises `SettingError` for an option that cannot be read."""
    parsed = make_url(url)
    given = {name: text for name, value in parsed.query.items() if (text := _text(name, value))}
    known = TAKEN | TRANSLATED | IGNORED.keys()
    settings = {name: value for name, value in given.items() if name not in known}
    return Target(
        arguments=_arguments(parsed, given),
        settings={**settings, **_server_options(given.get("options", ""))},
        notes=tuple(f"{name} is ignored: {IGNORED[name]}" for name in given if name in IGNORED),
        warnings=tuple(
            f"{name}={value} is not kept: {IGNORED.get(name, 'give sslcert and sslkey')}"
            for name, value in given.items()
            if name in _UNSAFE and ((values := _UNSAFE[name]) is None or value in values)
        ),
    )


def _text(name: str, value: str | tuple[str, ...]) -> str:
    """The last of several values, as libpq has it; but SQLAlchemy gives each of several hosts a `host`."""
    if isinstance(value, str):
        return value
    return ",".join(value) if name in ("host", "port") else value[-1]


def _arguments(parsed: URL, given: Mapping[str, str]) -> dict[str, Any]:
    asked = {name: value for name, value in given.items() if name in TAKEN and name not in ("host", "port")}
    if given.get("requiressl") == "1":
        asked.setdefault("sslmode", "require")
    if mode := given.get("ssl"):
        asked["sslmode"] = {"true": "require", "false": "disable"}.get(mode.lower(), mode)
    if given.get("sslcertmode") == "disable":
        asked = {name: value for name, value in asked.items() if name not in ("sslcert", "sslkey")}
    hosts = parsed.host or given.get("host", "")
    if "hostaddr" in given and (not hosts or asked.get("sslmode") != "verify-full"):  # which checks the name
        hosts = given["hostaddr"]
    arguments: dict[str, Any] = {
        "dsn": f"postgresql:///?{urlencode(asked)}".rstrip("?"),
        "user": parsed.username,
        "password": parsed.password,
        "database": parsed.database or None,
        "timeout": _seconds(given.get("connect_timeout", "")),
        **_hosts(hosts, str(parsed.port or given.get("port", ""))),
    }
    if file := given.get("servicefile"):
        arguments["servicefile"] = file
    return arguments


def _hosts(hosts: str, ports: str) -> dict[str, Any]:
    """Return `host` and `port` for asyncpg. SQLAlchemy has the port behind each of several hosts, libpq in a list."""
    names: list[str] = []
    behind: list[str] = []
    for one in filter(None, hosts.split(",")):
        name, colon, port = one.rpartition(":")
        if colon and port.isdigit() and ":" not in name and not one.startswith("/"):
            names.append(name)
            behind.append(port)
        else:
            names.append(one)
    try:
        numbers = [int(port) for port in behind or filter(None, ports.split(","))]
    except ValueError:
        raise SettingError("database_url: a port is no number") from None
    return {"host": names or None, "port": (numbers if names else numbers[0]) if numbers else None}


def _seconds(value: str) -> float:
    """Seconds for one attempt to connect. libpq's 0 is for ever: then a bridge could not stand by."""
    try:
        seconds = float(value or 0)
    except ValueError:
        raise SettingError(f"database_url: connect_timeout={value} is no number of seconds") from None
    return seconds if seconds > 0 else CONNECT_TIMEOUT


def _server_options(text: str) -> dict[str, str]:
    """Return the settings in libpq's `options`: `-c name=value` or `--name=value`; a backslash keeps a space.

    They are set by a statement: a pooler takes no `options`.
    """
    found: dict[str, str] = {}
    words = iter(_words(text))
    for word in words:
        prefix = "--" if word.startswith("--") else "-c"
        setting = next(words, "") if word == "-c" else word.removeprefix(prefix)
        name, equals, value = setting.partition("=")
        if not word.startswith(prefix) or not equals or not name:
            raise SettingError("database_url: options are -c name=value or --name=value")
        found[name.replace("-", "_")] = value
    return found


def _words(text: str) -> list[str]:
    """Words between spaces, as PostgreSQL's `pg_split_opts`."""
    parts = re.findall(r"(?:\\.|[^\\\s])+", text, re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts]
