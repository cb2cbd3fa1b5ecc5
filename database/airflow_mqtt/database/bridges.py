"""What bridges say of themselves, for pages and commands: who leads, who stands by, what was refused.

The leader's *word* is one document in the lease's row (`mqtt_bridge.word`): written when it takes over, and now and
then with a renewal of the lease. It counts while its epoch is that of the row: a leader of a version that does not know
the column says nothing, and what its predecessor said is over. A standby has a row of its own in `mqtt_standby`, which
it writes every `SAID_EVERY` seconds; times there are of the database's clock, so that none of two machines is compared.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import Double, Select, cast, literal_column, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from airflow_mqtt.database import tables

#: Seconds between two words of a leader, and between two of a standby; a standby that is silent for longer is gone.
SAID_EVERY: Final = 15.0
GONE_AFTER: Final = 60.0

#: The database's clock, in seconds since 1970.
_CLOCKS: Final = {
    "postgresql": "extract(epoch FROM clock_timestamp())",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
}


@dataclass(frozen=True, slots=True)
class Word:
    """What a leader says of itself. `since` and `at` are of its clock: when it took over, and when it said this.

    `refused` counts by why, `figures` are numbers by name; both since it took over.
    """

    epoch: int
    version: str
    since: float
    at: float
    refused: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def render(self) -> str:
        return orjson.dumps(self).decode()


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads. `since` and `version` are not known of a leader that says nothing; `seen_at` is when it last did."""

    instance: str
    host: str
    epoch: int
    since: float | None
    version: str
    seen_at: float | None


@dataclass(frozen=True, slots=True)
class Standby:
    """Who could lead."""

    instance: str
    host: str
    version: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class Bridges:
    """The bridges of a team. No leader: nobody holds the lease."""

    leader: Leader | None
    standby: list[Standby]
    refused: dict[str, int]
    figures: dict[str, float]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def bridges(session: Session, team_name: str) -> Bridges:
    """Return what the bridges of a team say. Two statements."""
    lease = tables.bridge.c
    row = session.execute(select(tables.bridge).where(lease.team_name == team_name)).one_or_none()
    word = _word(row.word, row.epoch) if row is not None else None
    leader = None
    if row is not None and row.holder:
        said = (word.since, word.version, word.at) if word is not None else (None, "", None)
        leader = Leader(row.holder, row.host, row.epoch, *said)
    refused, figures = (dict(word.refused), dict(word.figures)) if word is not None else ({}, {})
    return Bridges(leader, _standby(session, team_name), refused, figures)


def clock(dialect: str) -> ColumnElement[float]:
    """The clock of the database."""
    return cast(literal_column(_CLOCKS[dialect]), Double)


def _word(text: str, epoch: int) -> Word | None:
    """Return what the leader with `epoch` says; None where that is of another one, or of another version of ours."""
    try:
        word = Word(**orjson.loads(text))
    except (ValueError, TypeError):
        return None
    return word if word.epoch == epoch else None


def _standby(session: Session, team_name: str) -> list[Standby]:
    one = tables.standby.c
    now = clock(session.get_bind().dialect.name)
    query: Select[Any] = (
        select(one.instance, one.host, one.version, one.seen_at)
        .where(one.team_name == team_name, one.seen_at > now - GONE_AFTER)
        .order_by(one.instance)
    )
    return [Standby(*row) for row in session.execute(query)]
