"""The HTTP API as Airflow's api-server serves it: found as a plugin, behind Airflow's own accounts and permissions."""

import json
import subprocess
import sys

import pytest
from sqlalchemy import select

from airflow_mqtt.database import tables
from airflow_mqtt.executor import page_files
from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING

API = "/mqtt/api/v1"
MARKUP = "<script>alert(1)</script>\x1b[2J" + "x" * 1000


@pytest.fixture(scope="module")
def server(world):
    """Airflow's application, with all plugins that it finds."""
    from airflow.api_fastapi import app
    from fastapi.testclient import TestClient

    app.purge_cached_app()
    made = app.create_app(apps="core")
    yield lambda: TestClient(made, raise_server_exceptions=False)
    app.purge_cached_app()


@pytest.fixture
def client(server):
    """Make a client of an account with this role; None: without an account."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def made(role="OP"):
        one = server()
        if role is not None:
            user = SimpleAuthManagerUser(username="anna", role=role)
            one.headers["Authorization"] = f"Bearer {get_auth_manager().generate_jwt(user)}"
        return one

    return made


@pytest.fixture
def get(client):
    def ask(path, role="VIEWER", status=200, **parameters):
        answered = client(role).get(API + path, params=parameters)
        assert answered.status_code == status, answered.text
        return answered.json()

    return ask


@pytest.fixture
def post(client):
    def ask(path, role="OP", status=200, **body):
        answered = client(role).post(API + path, json=body)
        assert answered.status_code == status, answered.text
        return answered.json()

    return ask


def wished(world):
    with world.session() as session:
        return json.loads(session.scalar(select(tables.worker.c.desired)))


def audit(world):
    from airflow.models.log import Log

    with world.session() as session:
        rows = session.execute(
            select(Log.event, Log.owner, Log.dag_id, Log.task_id, Log.extra).where(Log.event.like("mqtt %"))
        ).all()
    return [(*row[:-1], json.loads(row.extra)["outcome"]) for row in rows]


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)  # no database is in this
def test_no_process_pays_for_it_before_it_is_asked(world):
    look = (
        "import sys, airflow_mqtt.executor.plugin;"
        "print(*(one for one in sys.modules if one.startswith(('fastapi', 'airflow_mqtt.executor.ui'))))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


# --- the page's own files ---------------------------------------------------------------------------------------


@pytest.fixture
def page(client):
    """What the plugin tells Airflow's page: where ours is."""
    (app,) = [one for one in client().get("/api/v2/plugins").json()["plugins"] if one["name"] == "mqtt"]
    return app["react_apps"][0]


def test_its_files_are_served_as_what_they_are(client, page):
    addresses = [page["bundle_url"], page["icon"], page["bundle_url"].replace("main.js", "page.css")]
    answers = [client(None).get(address) for address in addresses]
    assert [answered.headers["content-type"] for answered in answers] == [
        "text/javascript; charset=utf-8", "image/svg+xml", "text/css; charset=utf-8",
    ]  # fmt: skip
    for missing in ("%2e%2e/%2e%2e/app.py", "..%2fapp.py", "../app.py", "", "api"):
        assert client(None).get(page["bundle_url"].replace("main.js", missing)).status_code == 404


def test_a_browser_keeps_its_files_until_they_are_others(client, page):
    first = client(None).get(page["bundle_url"])
    assert first.headers["cache-control"] == "public, max-age=31536000, immutable"
    seen = {"If-None-Match": first.headers["etag"]}
    again = client(None).get(page["bundle_url"], headers=seen)
    assert (again.status_code, again.content) == (304, b"")
    # A tab that was opened before an upgrade, and a server that is upgraded after another: not to be kept.
    address = page["bundle_url"].replace(page_files.version(), "0" * 16)
    older = client(None).get(address)
    assert (older.content, older.headers["cache-control"]) == (first.content, "no-cache")


def test_generators_of_clients_are_told_what_there_is(client):
    described = client(None).get("/mqtt/openapi.json").json()["paths"]
    assert {f"{API.removeprefix('/mqtt')}{path}" for path in ("/workers/{act}", "/jobs/cancel", "/acts")} <= set(
        described
    )


# --- who may ----------------------------------------------------------------------------------------------------

READS = [
    "/teams", "/workers", "/workers/edge-1", "/jobs", "/jobs/one", "/jobs/one/log", "/queues", "/bridges", "/acts",
]  # fmt: skip
ACTS = [
    ("/workers/shutdown", {"names": ["edge-1"]}),
    ("/workers/remove", {"names": ["edge-1"]}),
    ("/jobs/cancel", {"ids": ["one"]}),
]


@pytest.mark.parametrize("path", ["/me", *READS])
def test_nobody_looks_without_an_account(get, path):
    assert get(path, role=None, status=401)["detail"] == "Not authenticated"


@pytest.mark.parametrize("path", READS)
def test_nobody_looks_without_the_right_to(get, path, monkeypatch):
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_view", lambda self, **_: False)
    assert "You may not look" in get(path, status=403)["detail"]


@pytest.mark.parametrize(("path", "body"), ACTS)
def test_nobody_acts_without_the_right_to_and_nothing_is_done(post, world, path, body):
    world.worker("edge-1", "a")
    assert post(path, role=None, status=401, **body)
    for role in ("VIEWER", "USER"):
        assert "You may not act" in post(path, role=role, status=403, **body)["detail"]
    with world.session() as session:
        assert session.scalar(select(tables.worker.c.revision)) == 0
        assert session.scalar(select(tables.act.c.id)) is None
    assert audit(world) == []


def test_what_one_may_do_is_said(get):
    assert get("/me", role="VIEWER") == {"user": "anna", "read": True, "act": False}
    assert get("/me", role="OP") == {"user": "anna", "read": True, "act": True}


def test_a_log_is_for_who_may_read_the_logs_of_its_dag(get, world, monkeypatch):
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    _, job = world.queue(world.executor())
    world.log(job.id, 0, b"one\n")
    assert get(f"/jobs/{job.id}/log") == {"text": "one\n", "next_offset": 4, "complete": False}
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", lambda self, **_: False)
    assert "You may not read logs" in get(f"/jobs/{job.id}/log", status=403)["detail"]
    assert get(f"/jobs/{job.id}")["id"] == job.id


def test_a_log_of_a_team_is_asked_for_as_that_teams(get, world, monkeypatch):
    """An auth manager that knows teams may give another answer for each."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    asked = []
    _, job = world.queue(world.executor())
    world.set_job(job.id, team_name="north")
    monkeypatch.setattr("airflow_mqtt.executor.compat.belongs_to_team", lambda *_: True)
    monkeypatch.setattr(
        SimpleAuthManager, "is_authorized_dag", lambda self, *, details, **_: asked.append(details) or False
    )
    get(f"/jobs/{job.id}/log", status=403, team_name="north")
    assert [(one.id, one.team_name) for one in asked] == [(job.dag_id, "north")]


# --- to look ----------------------------------------------------------------------------------------------------


def test_workers(get, world):
    world.worker("edge-1", "a", "b")
    world.worker("edge-2", "a", state="offline")
    found = get("/workers", name="edge-*", queue="a", sort="name", descending=True, limit=1)
    assert (found["total"], [row["name"] for row in found["rows"]]) == (2, ["edge-2"])
    assert get("/workers", state="idle")["rows"][0]["queues"] == ["a", "b"]
    assert get("/workers", label="site=north") == {"total": 0, "rows": []}
    assert get("/teams") == {"rows": [""]}


def test_one_worker_with_its_jobs_and_what_was_done_to_it(get, post, world):
    world.worker("edge-1", "a")
    _, job = world.queue(world.executor())
    world.drive(job.id, JobEvent.DISPATCH, worker="edge-1")
    post("/workers/set-comment", names=["edge-1"], comment=MARKUP)
    worker = get("/workers/edge-1")
    assert [one["id"] for one in worker["jobs"]] == [job.id]
    assert (worker["comment"], worker["running"]) == (MARKUP, 1)
    assert [(one["by"], one["act"], one["outcome"]) for one in worker["acts"]] == [
        ("api:anna", "set-comment", "wished")
    ]
    assert get("/workers/edge-9", status=404)["detail"] == "There is no worker edge-9"


def test_jobs_and_what_happened_to_one(get, world):
    ti, job = world.queue(world.executor(), queue="edge")
    world.queue(world.executor())
    world.drive(job.id, *TO_RUNNING)
    found = get("/jobs", state="running", dag_id=ti.dag_id, queue="e*")
    assert (found["total"], found["rows"][0]["task_id"]) == (1, ti.task_id)
    assert [event["event"] for event in get(f"/jobs/{job.id}")["events"]] == ["queue", "dispatch", "accept", "start"]
    assert get("/jobs/nothing", status=404)["detail"] == "There is no job nothing"


def test_why_a_job_waits(get, world):
    _, job = world.queue(world.executor(), queue="a")
    assert get(f"/jobs/{job.id}")["note"] == "no worker serves queue 'a'"
    assert (get(f"/jobs/{job.id}")["labels"], get(f"/jobs/{job.id}")["not_after"]) == ({}, None)
    world.drive(job.id, *TO_RUNNING)
    assert get(f"/jobs/{job.id}")["note"] == ""


def test_a_job_of_another_team_is_gone_and_its_task_is_not_told(post, get, world):
    _, job = world.queue(world.executor())
    world.set_job(job.id, team_name="north")
    post("/jobs/cancel", ids=[job.id], status=404)
    get(f"/jobs/{job.id}", status=404)
    assert audit(world) == [("mqtt cancel", "anna", None, None, "gone")]
    assert world.job(job.id).state == "queued"


def test_queues_and_bridges(get, world):
    world.worker("edge-1", "a")
    world.queue(world.executor(), queue="b")
    assert {row["queue"]: row["waiting"] for row in get("/queues")["rows"]} == {"a": 0, "b": 1}
    assert get("/bridges")["leader"] is None


def test_nothing_is_sent_twice(client, world):
    world.worker("edge-1", "a")
    one = client()
    first = one.get(f"{API}/workers")
    again = one.get(f"{API}/workers", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    world.worker("edge-2", "a")
    assert one.get(f"{API}/workers", headers={"If-None-Match": first.headers["ETag"]}).json()["total"] == 2


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/workers", {"limit": "all"}), ("/workers", {"limit": 10_000}), ("/workers", {"state": "nonsense"}),
        ("/workers", {"sort": "nonsense"}), ("/workers", {"name": "\x00"}), ("/jobs", {"dag_id": "x" * 10_000}),
        ("/jobs", {"sort": "token"}), ("/acts", {"offset": -1}), ("/workers", {"label": ["x"] * 17}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_in_one_text(get, path, parameters):
    assert isinstance(get(path, status=422, **parameters)["detail"], str)


LONG = "x" * 1000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/workers/shutdown", {"names": [LONG]}), ("/jobs/cancel", {"ids": [LONG]}), (f"/workers/{LONG}", {"names": ["a"]}),
        ("/workers/shutdown", {"names": ["a"], LONG: 1}), ("/workers/shutdown", {"names": ["a"], "seen": {LONG: "x"}}),
        ("/workers/add-queues", {"names": ["a"], "queues": [LONG]}),
    ],
)  # fmt: skip
def test_a_refusal_repeats_no_long_name(client, world, path, body):
    answered = client().post(API + path, json=body)
    assert answered.status_code in (404, 422)
    assert 10 < len(answered.json()["detail"]) < 500
    for missing in (f"/workers/{LONG}", f"/jobs/{LONG}", f"/jobs/{LONG}/log"):
        assert len(client().get(API + missing).json()["detail"]) < 300


# --- to act -----------------------------------------------------------------------------------------------------


def test_acts_are_done_recorded_and_in_the_audit_log(get, post, world):
    world.worker("edge-1", "a")
    done = post("/workers/request-maintenance", names=["edge-1", "edge-9"], comment="new battery")
    assert [(one["name"], one["outcome"]) for one in done["results"]] == [("edge-1", "wished"), ("edge-9", "gone")]
    assert wished(world)["comment"] == "new battery"
    assert [(one["subject"], one["by"], one["detail"]) for one in get("/acts")["rows"]] == [
        ("edge-9", "api:anna", "new battery"), ("edge-1", "api:anna", "new battery"),
    ]  # fmt: skip
    event = ("mqtt request-maintenance", "anna", None, None)
    assert audit(world) == [(*event, "wished"), (*event, "gone")]


def test_a_job_is_cancelled_and_its_task_has_it_in_its_audit_log(get, post, world):
    executor = world.executor()
    ti, job = world.queue(executor)
    post("/jobs/cancel", ids=[job.id], reason="wrong firmware")
    assert get(f"/jobs/{job.id}")["reason"] == "operator: wrong firmware"
    assert audit(world) == [("mqtt cancel", "anna", ti.dag_id, ti.task_id, "cancelled")]
    assert "already ended" in post("/jobs/cancel", ids=[job.id], status=409)["detail"]
    assert post("/jobs/cancel", ids=["nothing"], status=404)["detail"] == "there is no job nothing"
    executor.sync()
    assert executor.get_event_buffer() == {ti.key: ("failed", "operator: wrong firmware")}


def test_a_job_that_others_keep_moving_is_a_conflict(post, world, monkeypatch):
    _, job = world.queue(world.executor())
    monkeypatch.setattr("airflow_mqtt.database.operations._end", lambda *_, **__: None)
    told = post("/jobs/cancel", ids=[job.id], status=409)["detail"]
    assert told == f"others keep moving job {job.id}; try again"
    assert audit(world)[-1][-1] == "contested"


def test_queues_and_slots(post, world):
    world.worker("edge-1", "a", "b")
    post("/workers/add-queues", names=["edge-1"], queues=["c"])
    post("/workers/remove-queues", names=["edge-1"], queues=["a"])
    post("/workers/set-slots", names=["edge-1"], slots=7)
    assert (wished(world)["queues"], wished(world)["slots"]) == (["b", "c"], 7)
    post("/workers/reset-queues", names=["edge-1"])
    post("/workers/set-slots", names=["edge-1"])
    assert (wished(world)["queues"], wished(world)["slots"]) == (None, None)


def test_the_second_of_two_operators_sees_what_the_first_did(get, post, world):
    world.worker("edge-1", "a")
    seen = {"edge-1": get("/workers/edge-1")["revision"]}
    post("/workers/set-slots", names=["edge-1"], slots=3, seen=seen)
    told = post("/workers/shutdown", names=["edge-1"], seen=seen, status=409)["detail"]
    assert "somebody else has changed" in told
    assert not wished(world)["shutdown"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/workers/request-maintenance", {"names": ["edge-1"]}, 422),
        ("/workers/set-slots", {"names": ["edge-1"], "slots": -1}, 422),
        ("/workers/set-slots", {"names": ["edge-1"], "slots": 10**30}, 422),
        ("/workers/remove", {"names": ["edge-1"], "seen": {"edge-1": 10**30}}, 422),
        ("/workers/set-comment", {"names": ["edge-1"], "comment": "x" * 10_000}, 422),
        ("/workers/set-comment", {"names": ["edge-1"], "coment": "x"}, 422),
        ("/workers/add-queues", {"names": ["edge-1"], "queues": ["\x00"]}, 422),
        ("/workers/shutdown", {"names": []}, 422),
        ("/workers/shutdown", {"names": ["edge-9"]}, 404),
        ("/workers/cancel", {"names": ["edge-1"]}, 404),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_done(post, world, path, body, status):
    world.worker("edge-1", "a")
    assert isinstance(post(path, status=status, **body)["detail"], str)
    with world.session() as session:
        assert session.scalar(select(tables.worker.c.revision)) == 0


def test_a_request_of_another_kind_is_no_act(client, world):
    """What a page of somebody else's could send in an operator's name: a form."""
    world.worker("edge-1", "a")
    body = json.dumps({"names": ["edge-1"]})
    sent = client().post(f"{API}/workers/shutdown", content=body, headers={"Content-Type": "text/plain"})
    assert sent.status_code == 422
    assert not wished(world).get("shutdown")


def test_tables_that_are_not_there_are_said(get, world):
    with world.session() as session:
        tables.metadata.drop_all(session.connection())
    try:
        assert "airflow db migrate" in get("/workers", status=503)["detail"]
    finally:
        with world.session() as session:
            tables.metadata.create_all(session.connection())
