"""The teams that there are, who leads for one, and what people did."""

from typing import Any

from sqlalchemy import ColumnElement, select, union
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from airflow_mqtt.database.bridges import bridges
from airflow_mqtt.database.queries.paging import Found, Page, as_dict, page_of

_act = tables.act.c


def list_teams(session: Session) -> list[str]:
    """Return the teams that have workers, a bridge, or a word of an operator; the empty name is that of no team."""
    owners = (tables.worker, tables.bridge, tables.access)
    return sorted(session.scalars(union(*(select(table.c.team_name).distinct() for table in owners))))


def bridges_of(session: Session, team_name: str) -> dict[str, Any]:
    """Return who leads for a team, and what the bridges say of themselves."""
    return bridges(session, team_name).document()


def list_acts(session: Session, team_name: str, page: Page, subject: str = "") -> Found:
    """Return what people did, the last first; with `subject` only what was done to this worker or job."""
    which: list[ColumnElement[bool]] = [_act.team_name == team_name]
    if subject:
        which.append(_act.subject == subject)
    columns = (_act.at, _act.by, _act.act, _act.subject, _act.detail, _act.outcome)
    total, rows = page_of(session, select(*columns).where(*which).order_by(_act.id.desc()), page)
    return Found(total, [as_dict(row) for row in rows])
