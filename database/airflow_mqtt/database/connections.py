"""Connections to PostgreSQL: by a URL as libpq takes it, to the server itself or through a pooler such as PgBouncer.

A pooler lends its clients a session of the server, for a transaction or for longer. What a client leaves in a session
another one finds there. So a session that is a pooler's is told our settings in each transaction, for that one
(`Session.begin`), and keeps no prepared statement. A session of our own is told once, and keeps its statements.
"""

from typing import Any, Final

import asyncpg

from airflow_mqtt.database import postgres_url
from airflow_mqtt.database.errors import is_unfit, refusal, said_by
from airflow_mqtt.protocol.errors import RefusedError

#: Seconds for one statement. A connection may be dead without a word (a firewall forgot it): TCP alone would notice
#: after a quarter of an hour, while this bridge kept a lease, or did not see that one is free.
STATEMENT_TIMEOUT: Final = 15.0

_NAME: Final = "application_name"


class Session(asyncpg.Connection):  # type: ignore[misc]
    """A connection, and how a transaction on it begins. `settings`, if any, must be told in each transaction."""

    pooled = False
    settings = ""

    @property
    def begin(self) -> str:
        """The text that begins a transaction, in one message."""
        return f"BEGIN; {self.settings}" if self.settings else "BEGIN"

    async def set_type_codec(self, *_: Any, **__: Any) -> None:
        """SQLAlchemy has codecs for JSON, which no column of ours is. Asyncpg would ask the server outside of a
        transaction, in two messages, of which a pooler may send each to another session.
        """


def session_name(instance: str) -> str:
    """Return the `application_name` of the sessions of bridge `instance`; PostgreSQL keeps 63 bytes of it."""
    return f"airflow-mqtt {instance}"[:63]


def session_settings(instance: str, idle_limit: float) -> dict[str, str]:
    """Return what PostgreSQL is told of a session of bridge `instance`: see `make_engine`."""
    limit = str(max(1, round(idle_limit * 1000)))
    return {
        _NAME: session_name(instance),
        "idle_in_transaction_session_timeout": limit,
        "tcp_user_timeout": limit,
        # Each of our statements has an index. A plan that was made while a table was small would read all of it later.
        "enable_seqscan": "off",
    }


async def connect_by_url(url: str, *, settings: dict[str, str]) -> Session:
    """Connect as libpq would by the same URL, and set `settings`, with those of the URL, which go behind ours.

    Raises `RefusedError` when the server does not take a setting of the URL.
    """
    target = postgres_url.parse(url)
    session = await _connect(target, settings)
    try:
        if await _is_pooled(session):
            session.terminate()
            session = await _connect(target, settings, statement_cache_size=0)
            session.pooled = True
        await _set(session, {**target.settings, **settings})
    except BaseException:
        session.terminate()
        raise
    return session


async def _connect(target: postgres_url.Target, settings: dict[str, str], **arguments: Any) -> Session:
    # The only one of our settings that each pooler takes at the beginning, and sets wherever it sends us.
    named = {_NAME: settings[_NAME]} if _NAME in settings else {}
    try:
        session: Session = await asyncpg.connect(
            **target.arguments,
            **arguments,
            command_timeout=STATEMENT_TIMEOUT,
            server_settings=named,
            connection_class=Session,
        )
    except asyncpg.ClientConfigurationError as error:
        raise RefusedError(f"the database cannot be reached by this database_url: {error}") from None
    return session


async def _is_pooled(session: Session) -> bool:
    """Whether a pooler is between: it answers with a number of its own, and the server has another.

    In a message of the simple protocol, whose answer says how many rows there are: nothing is prepared for it.
    """
    rows: str = await session.execute(f"SELECT WHERE pg_backend_pid() = {session.get_server_pid()}")
    return rows == "SELECT 0"


async def _set(session: Session, settings: dict[str, str]) -> None:
    wanted = {name: value for name, value in settings.items() if name != _NAME}
    if session.pooled:
        wanted.pop("tcp_user_timeout", None)  # the pooler's connection, not ours
    if not wanted:
        return
    statement = "SELECT " + ", ".join(
        f"set_config({_literal(name)}, {_literal(value)}, {'true' if session.pooled else 'false'})"
        for name, value in wanted.items()
    )
    try:
        await session.execute(statement)
    except asyncpg.PostgresError as error:
        if is_unfit(error) or refusal(error):
            raise RefusedError(f"the database does not take an option of database_url: {said_by(error)}") from None
        raise
    if session.pooled:
        session.settings = statement


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
