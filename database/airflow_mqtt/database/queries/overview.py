"""The teams that there are, who leads for one, and what people did."""

from typing import Any

from sqlalchemy import ColumnElement, select, union
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.queries.paging import Found, Page, as_dict, count_of, page_of

_act = tables.act.c
_bridge = tables.bridge.c


def list_teams(session: Session) -> list[str]:
    """Return the teams that have workers, a bridge, or a word of an operator; the empty name is that of no team."""
    owners = (tables.worker, tables.bridge, tables.access)
    return sorted(session.scalars(union(*(select(table.c.team_name).distinct() for table in owners))))


def bridges_of(session: Session, team_name: str) -> dict[str, Any]:
    """Return who leads for a team, and what the bridges say of themselves."""
    query = select(_bridge.holder, _bridge.host, _bridge.epoch).where(_bridge.team_name == team_name)
    row = session.execute(query).one_or_none()
    leads = row is not None and row.holder
    leader = {"instance": row.holder, "host": row.host, "epoch": row.epoch} if row is not None and leads else None
    return {"leader": leader, "standby": [], "refused": {}, "figures": {}}


def list_acts(session: Session, team_name: str, page: Page, subject: str = "") -> Found:
    """Return what people did, the last first; with `subject` only what was done to this worker or job."""
    which: list[ColumnElement[bool]] = [_act.team_name == team_name]
    if subject:
        which.append(_act.subject == subject)
    columns = (_act.at, _act.by, _act.act, _act.subject, _act.detail, _act.outcome)
    rows = page_of(session, select(*columns).where(*which).order_by(_act.id.desc()), page)
    return Found(count_of(session, select(_act.id).where(*which)), [as_dict(row) for row in rows])
