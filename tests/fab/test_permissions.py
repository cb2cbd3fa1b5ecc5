"""Who may look and who may act with Flask-AppBuilder's auth manager: a real api-server, a token of each account."""

import json
import time
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import create_engine, delete, insert, select
from sqlalchemy.orm import Session

from airflow_mqtt.database import tables
from demo.site import AirflowSite

pytestmark = pytest.mark.timeout(600)

API = "/mqtt/api/v1"

#: Role -> whether it may look, and whether it may act.
MAY = {
    "Public": (False, False),
    "Viewer": (True, False),
    "User": (True, False),
    "Op": (True, True),
    "Admin": (True, True),
    "Looks": (True, False),
    "Pools": (False, False),  # nobody acts on what he may not see
}
READS = ("/teams", "/workers", "/workers/edge-1", "/jobs", "/queues", "/bridges", "/acts")


@pytest.fixture
def session(site: AirflowSite):
    engine = create_engine(site.database_url)
    with Session(engine) as made:
        made.execute(delete(tables.worker))
        made.execute(delete(tables.act))
        info = json.dumps({"version": "1", "queues": ["a"], "kinds": ["airflow"], "slots": 2})
        row = {"name": "edge-1", "state": "idle", "seen_at": time.time(), "journal": "j", "info": info}
        made.execute(insert(tables.worker).values(row))
        made.commit()
        yield made
    engine.dispose()


@pytest.mark.parametrize("role", MAY)
def test_what_one_may_do_is_said(client: Callable[[str], httpx.Client], session: Session, role: str) -> None:
    reads, acts = MAY[role]
    assert client(role).get(f"{API}/me").json() == {"user": role, "read": reads, "act": acts}


@pytest.mark.parametrize("role", MAY)
def test_who_may_look_looks(client: Callable[[str], httpx.Client], session: Session, role: str) -> None:
    wanted = 200 if MAY[role][0] else 403
    assert {path: client(role).get(API + path).status_code for path in READS} == dict.fromkeys(READS, wanted)


@pytest.mark.parametrize("role", MAY)
def test_who_may_act_acts_and_of_nobody_else_is_anything_done(
    client: Callable[[str], httpx.Client], session: Session, role: str
) -> None:
    answer = client(role).post(f"{API}/workers/set-comment", json={"names": ["edge-1"], "comment": "hot"})
    acts = list(session.execute(select(tables.act.c.by, tables.act.c.act, tables.act.c.subject)))
    revision = session.scalar(select(tables.worker.c.revision))
    if MAY[role][1]:
        assert (answer.status_code, acts, revision) == (200, [(f"api:{role}", "set-comment", "edge-1")], 1)
    else:
        assert (answer.status_code, acts, revision) == (403, [], 0)
        assert "You may not act" in answer.json()["detail"]


def test_without_an_account_nothing_is_shown_or_done(site: AirflowSite, session: Session) -> None:
    assert httpx.get(f"{site.url}{API}/workers", timeout=60).status_code == 401
    asked = {"names": ["edge-1"]}
    assert httpx.post(f"{site.url}{API}/workers/shutdown", json=asked, timeout=60).status_code == 401
    assert session.scalar(select(tables.act.c.id)) is None
