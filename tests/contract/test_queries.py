"""What operators look at, on each database: who is found, in which order, and what it costs with much in the tables."""

import json
from contextlib import contextmanager

import pytest
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

import plans
from airflow_mqtt.database import tables
from airflow_mqtt.database.access import OPEN, Access
from airflow_mqtt.database.queries import jobs, logs, overview, queues, workers
from airflow_mqtt.database.queries.jobs import Jobs
from airflow_mqtt.database.queries.paging import Page
from airflow_mqtt.database.queries.workers import Workers
from airflow_mqtt.protocol.errors import PayloadError
from schema import engine_of, upgrade

JOB = {
    "team_name": "", "kind": "airflow", "workload_type": "ExecuteTask", "workload": "{}", "token": "t", "token_at": 1.0,
    "queue": "a", "priority": 1, "slots": 1, "subject": "ti", "owner": "42", "attempt": 1, "state": "queued",
    "labels": "{}", "queued_at": 1.0, "worker": None, "finished_at": None, "dag_id": "", "reason": "", "log_bytes": 0, "log_size": 0,
}  # fmt: skip
BY_NAME = Page(sort="name")
BY_AGE = Page(sort="queued_at")
MARKUP = "<b>[/red]\x1b[2J%_*'\"\\"


@pytest.fixture
def engine(database_url):
    made = engine_of(database_url)
    upgrade(made)
    yield made
    made.dispose()


def worker(name, queues=("a",), state="idle", wished=None, **values):
    status = {"slots": 4, "free": 4, "running": 0, **values.pop("status", {})}
    info = {"queues": list(queues), "version": "1.0", "labels": values.pop("labels", {}), **values.pop("info", {})}
    row = {
        "name": name, "state": state, "seen_at": 5.0, "status": json.dumps(status), "info": json.dumps(info),
        "desired": json.dumps(wished or {}), "revision": 3, "removal": False, "clock_offset": None, "team_name": "",
        "journal": "j", "note": "",
    }  # fmt: skip
    return row | values


def add(session, table, *rows):
    if rows:
        session.execute(insert(table), list(rows))
    session.commit()


def add_workers(session, *rows):
    add(session, tables.worker, *rows)


def add_jobs(session, *rows):
    add(session, tables.job, *({**JOB, **row} for row in rows))


def names(session, wanted=None, page=BY_NAME, access=OPEN):
    found = workers.list_workers(session, "", wanted or Workers(), page, access)
    return [row["name"] for row in found.rows]


def held(job_id, by, slots=1, queue="a"):
    return {"id": job_id, "worker": by, "state": "running", "slots": slots, "queue": queue}


def test_a_worker_as_it_is_shown(session):
    add_workers(
        session,
        worker(
            "edge-1",
            ["a", "b"],
            labels={"arch": "arm64"},
            wished={"maintenance": True, "comment": MARKUP},
            status={"reason": "the disk is full", "own_maintenance": True, "health": {"cpu": 12.5}},
            info={"kinds": ["ExecuteTask"], "platform": {"machine": "aarch64"}},
            removal=True,
            clock_offset=-7200.0,
            note="its version is below 0.2.0",
        ),
    )
    add_jobs(session, held("j1", "edge-1", slots=3))
    (row,) = workers.list_workers(session, "", Workers(), BY_NAME, Access(listed=True, serve=(("*", "a"),))).rows
    assert row == {
        "name": "edge-1", "team_name": "", "state": "idle", "maintenance": True, "shutdown": False, "removal": True,
        "revision": 3, "comment": MARKUP, "notes": ["its version is below 0.2.0", "its clock is 2:00:00 ahead", "to be forgotten"],
        "queues": ["a", "b"], "not_allowed": ["b"], "slots": 4, "used": 3, "free": 1, "running": 1, "version": "1.0",
        "labels": {"arch": "arm64"}, "platform": {"machine": "aarch64"}, "kinds": ["ExecuteTask"], "seen_at": 5.0,
        "clock_offset": -7200.0, "reason": "the disk is full", "own_maintenance": True, "health": {"cpu": 12.5},
    }  # fmt: skip
    assert workers.find_worker(session, "", "edge-1", OPEN)["name"] == "edge-1"
    assert workers.find_worker(session, "north", "edge-1", OPEN) is None


def test_workers_are_found_by_their_names(session):
    add_workers(session, *(worker(name) for name in ("edge-1", "edge-2", "Edge-3", "edge_1", "north")))
    assert names(session, Workers(name="edge-1")) == ["edge-1"]
    assert sorted(names(session, Workers(name="edge-*"))) == ["edge-1", "edge-2"]  # letters are as they are
    assert sorted(names(session, Workers(name="*1"))) == ["edge-1", "edge_1"]
    assert names(session, Workers(name="edge_*")) == ["edge_1"]
    assert names(session, Workers(name="edge?1")) == names(session, Workers(name="[e]*")) == []
    assert names(session, Workers(name="%")) == names(session, Workers(name="\\*")) == []
    assert len(workers.names_of(session, "", Workers(name="*"))) == 5


def test_workers_are_found_by_what_they_are(session):
    add_workers(
        session,
        worker("one", ["a"], labels={"site": "north", "k=": "x"}),
        worker("two", ["a"], state="offline", wished={"queues": ["b", "c"]}, labels={"site": "south"}),
        worker("three", [], state="maintenance mode", labels={"it's \"$.x": "y"}),
        worker("new", info={"queues": None}, status={}),
        worker("elsewhere", team_name="north"),
    )
    assert names(session, Workers(states=["offline", "maintenance mode"])) == ["three", "two"]
    assert names(session, Workers(queue="a")) == ["one"]  # of what is wished, not of what it was started with
    assert names(session, Workers(queue="b")) == names(session, Workers(queue="*c")) == ["two"]
    assert names(session, Workers(labels=["site=north"])) == ["one"]
    assert names(session, Workers(labels=["site"])) == ["one", "two"]
    assert names(session, Workers(labels=["it's \"$.x=y"])) == ["three"]
    assert names(session, Workers(labels=["site=north", "nothing"])) == []
    assert names(session, Workers(queue=MARKUP, labels=[MARKUP])) == []


def test_workers_are_sorted(session):
    add_workers(
        session,
        worker("b", status={"slots": 8}, info={"version": "1.2"}, seen_at=1.0),
        worker("a", status={"slots": 2}, info={"version": "1.1"}, seen_at=3.0, state="running"),
        worker("c", status={"slots": 16}, info={"version": "1.1"}, seen_at=2.0, state="unknown"),
    )
    add_jobs(session, held("1", "a"), held("2", "b"), held("3", "b"), {"id": "4", "worker": "c", "finished_at": 1.0})
    found = {sort: names(session, page=Page(sort=sort)) for sort in workers.SORTS}
    assert found == {
        "name": ["a", "b", "c"], "state": ["b", "a", "c"], "seen_at": ["b", "c", "a"], "free": ["c", "a", "b"],
        "running": ["c", "a", "b"], "version": ["a", "c", "b"],
    }  # fmt: skip
    assert names(session, page=Page(sort="free", descending=True, offset=1, limit=1)) == ["a"]
    with pytest.raises(PayloadError, match="nothing is sorted by 'nonsense': name, state"):
        names(session, page=Page(sort="nonsense"))


def test_what_workers_hold(session):
    add_workers(session, worker("one"), worker("two", state="offline"), worker("three"))
    add_jobs(session, held("1", "one"), held("2", "one"), held("3", "three"))
    assert workers.held_jobs(session, "", ["one", "two", "nobody"]) == [("one", "idle", 2), ("two", "offline", 0)]


#: What a hand, or a disk, may have made of a worker's documents.
DAMAGE = [
    {"info": "nothing that one could read", "status": "[]", "desired": "{"},
    {"info": "", "status": "", "desired": ""},
    {"info": '{"queues": 3, "labels": [1], "version": {}}', "status": '{"slots": "many"}', "desired": "[]"},
    {"info": '{"queues": "a", "labels": "site", "version": "1\\u0000"}', "status": '"x"', "desired": '{"queues": {}}'},
    {"info": '{"queues": [3, null]}', "status": '{"health": 7, "slots": 1e400}', "desired": '{"queues": [1]}'},
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_hides_no_other(session, damage):
    labels = {"site": "north"}
    add_workers(session, worker("ok", labels=labels), worker("broken", desired='{"maintenance": 3}', labels=labels))
    add_workers(session, worker("worse") | damage)
    for sort in workers.SORTS:
        assert sorted(names(session, page=Page(sort=sort))) == ["broken", "ok", "worse"]
    for wanted in (Workers(queue="a"), Workers(queue="a*"), Workers(labels=["site"]), Workers(labels=["site=north"])):
        assert names(session, wanted) == ["broken", "ok"]
        assert workers.names_of(session, "", wanted) == ["broken", "ok"]
    add_jobs(session, {"id": "1"})
    assert {row["queue"]: row["workers"] for row in queues.list_queues(session, "", OPEN)} == {"a": 2}
    assert queues.is_served(session, "", "a", OPEN)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_said(session, damage):
    add_workers(session, worker("broken", desired='{"maintenance": 3}'), worker("worse") | damage)
    broken, worse = (workers.find_worker(session, "", name, OPEN) for name in ("broken", "worse"))
    assert len(broken["notes"]) == 1
    assert "its row is damaged: status and info cannot be read" in "; ".join(worse["notes"])
    assert (worse["queues"], worse["slots"], worse["free"], worse["labels"], worse["health"]) == ([], 0, 0, {}, {})


def test_queues(session):
    add_workers(
        session,
        worker("one", ["a", "b"]),
        worker("two", ["a"], state="maintenance mode"),
        worker("gone", ["a", "c"], state="offline"),
        worker("stranger", ["d"]),
    )
    add_jobs(
        session,
        {"id": "1", "queue": "a", "queued_at": 20.0},
        {"id": "2", "queue": "a", "queued_at": 10.0},
        held("3", "one", slots=3),
        {"id": "4", "queue": "c"},
        {"id": "5", "queue": "d"},
        {"id": "6", "queue": "ended", "finished_at": 1.0, "state": "failed"},
    )
    access = Access(listed=True, serve=(("one", "*"), ("two", "*"), ("gone", "*")))
    found = {row.pop("queue"): row for row in queues.list_queues(session, "", access)}
    idle = {"waiting": 0, "oldest_at": None, "running": 0, "workers": 0, "free": 0, "note": ""}
    assert found == {
        "a": {**idle, "waiting": 2, "oldest_at": 10.0, "running": 1, "workers": 2, "free": 1},
        "b": {**idle, "workers": 1, "free": 1},
        "c": {**idle, "waiting": 1, "oldest_at": 1.0, "note": "jobs wait: nothing is heard of the workers of queue 'c'"},
        "d": {
            **idle, "waiting": 1, "oldest_at": 1.0,
            "note": "jobs wait: no worker serves queue 'd'; not allowed to: stranger (airflow mqtt allow)",
        },
    }  # fmt: skip


CAMERA = '{"camera":"yes"}'


@pytest.mark.parametrize(
    ("jobs", "workers", "note"),
    [
        ([{}], [worker("w")], ""),
        ([{"labels": CAMERA}], [worker("w")], "jobs wait: no worker of queue 'a' has camera=yes"),
        ([{"labels": CAMERA}, {"id": "2"}], [worker("w", labels={"camera": "yes"})], ""),
        ([{"labels": CAMERA, "slots": 5}, {"id": "2", "slots": 4}], [worker("v", status={"slots": 9}), worker("w", labels={"camera": "yes"})],
         "jobs wait: it needs 5 slots; the largest worker of queue 'a' with camera=yes has 4"),
        ([{"slots": 5}], [worker("w")], "jobs wait: it needs 5 slots; the largest worker of queue 'a' has 4"),
        ([{}], [worker("w", note="its version is below 0.2.0")],
         "jobs wait: no worker of queue 'a' takes jobs now (1 are there; w: its version is below 0.2.0)"),
        ([{}], [worker("w", journal="")], "jobs wait: no worker of queue 'a' takes jobs now (1 are there)"),
        ([{}], [worker("w", info={"protocol": 10**6})], "jobs wait: no worker of queue 'a' takes jobs now (1 are there)"),
        ([{}], [worker("w", state="maintenance mode")], "jobs wait: no worker of queue 'a' takes jobs now (1 are there)"),
        ([{}], [worker("w", info={"queues": 3}), worker("x", desired="{")], ""),
        ([{"labels": "nonsense"}], [], ""),
    ],
)  # fmt: skip
def test_why_jobs_wait_is_said_as_the_bridge_says_it(session, jobs, workers, note):
    """It knows labels, slots, and whom the leading bridge gives no jobs."""
    add_jobs(session, *({"id": "1", **job} for job in jobs))
    add_workers(session, *workers)
    (row,) = queues.list_queues(session, "", OPEN)
    assert (row["note"], row["waiting"]) == (note, len(jobs))
    assert (row["free"] == 0) == ("takes jobs now" in note or not workers)


def test_why_one_job_waits(session):
    add_workers(session, worker("w"), worker("x", ["b"], labels={"camera": "yes"}))
    asked = (("camera", "yes"),)
    assert queues.why_it_waits(session, "", ("a", asked), 1, OPEN) == "no worker of queue 'a' has camera=yes"
    assert queues.why_it_waits(session, "", ("b", asked), 1, Access(listed=True)) == "no worker serves queue 'b'"
    assert queues.is_served(session, "", "a", OPEN)
    assert not queues.is_served(session, "", "a", Access(listed=True))
    assert not queues.is_served(session, "", "c", OPEN)


def ids(session, wanted=None, page=BY_AGE):
    return [row["id"] for row in jobs.list_jobs(session, "", wanted or Jobs(), page).rows]


def test_jobs_are_found_and_sorted(session):
    add_jobs(
        session,
        {"id": "1", "queued_at": 3.0, "dag_id": "etl_%", "queue": "b"},
        {**held("2", "edge-1"), "queued_at": 1.0, "dag_id": "etl_x"},
        {"id": "3", "queued_at": 2.0, "state": "failed", "finished_at": 9.0, "worker": "edge-2"},
        {"id": "4", "team_name": "north"},
    )
    assert ids(session) == ["2", "3", "1"]
    assert ids(session, page=Page(sort="queued_at", descending=True, limit=2)) == ["1", "3"]
    assert ids(session, Jobs(states=["failed", "running"])) == ["2", "3"]
    assert ids(session, Jobs(states=["queued"])) == ["1"]
    assert ids(session, Jobs(dag_id="etl_%")) == ["1"]
    assert ids(session, Jobs(dag_id="etl_*", queue="a")) == ["2"]
    assert ids(session, Jobs(worker="edge-*")) == ["2", "3"]
    assert ids(session, Jobs(worker="edge-1", states=["running"])) == ["2"]
    assert jobs.list_jobs(session, "", Jobs(), Page(sort="worker", limit=1)).total == 3
    assert not {"token", "workload"} & set(jobs.find_job(session, "", "1"))
    assert jobs.find_job(session, "north", "1") is None


def test_what_happened_to_a_job(session):
    rows = [
        {"job_id": "1", "attempt": 1, "at": float(at), "by": "x", "event": "queue", "before": None, "after": "queued"}
        for at in range(1200)
    ]
    add(session, tables.job_event, *rows)
    found = jobs.events_of(session, "1")
    assert [found[0]["at"], found[-1]["at"], len(found)] == [200.0, 1199.0, 1000]


def chunk(offset, data, attempt=1):
    return {"job_id": "1", "attempt": attempt, "offset": offset, "data": data}


def read(session, offset=0, attempt=None):
    return tuple(logs.read_log(session, "", "1", attempt, offset))


def test_a_log_is_read_piece_by_piece(session):
    add_jobs(session, {"id": "1", "state": "running", "worker": "w", "log_bytes": 7, "log_size": 7})
    add(session, tables.job_log, chunk(0, b"one\n"), chunk(4, "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode()[:3]))
    assert read(session) == ("one\nzw", 6, False)  # half a letter waits for its other half
    assert read(session, 2) == ("e\nzw", 6, False)
    add(session, tables.job_log, chunk(7, b"\xb6lf\n"))
    assert read(session, 6) == ("\N{LATIN SMALL LETTER O WITH DIAERESIS}lf\n", 11, False)
    assert read(session, 11) == ("", 11, False)
    assert logs.read_log(session, "north", "1", None, 0) is None


def test_a_log_of_an_ended_job_is_read_to_its_end(session):
    add_jobs(session, {"id": "1", "state": "failed", "finished_at": 1.0, "log_bytes": 4, "log_size": 40, "attempt": 2})
    add(session, tables.job_log, chunk(0, b"one\n", 2), chunk(20, b"end", 2), chunk(0, b"first \xc3", 1))
    assert read(session) == ("one\n", 4, False)  # its middle will come
    assert read(session, attempt=1) == ("first \N{REPLACEMENT CHARACTER}", 7, True)
    session.execute(tables.job.update().values(log_bytes=40))
    assert read(session) == ("one\nend", 23, True)  # and this never will: `log_limit`


def test_a_large_log_comes_in_parts(session):
    add_jobs(session, {"id": "1", "state": "succeeded", "finished_at": 1.0, "log_bytes": 4000, "log_size": 4000})
    add(session, tables.job_log, *(chunk(100 * number, b"x" * 100) for number in range(40)))
    text, offset, complete = "", 0, False
    parts = 0
    while not complete:
        piece, offset, complete = read(session, offset)
        text, parts = text + piece, parts + 1
    assert (len(text), parts) == (4000, 3)


def test_teams_bridges_and_acts(session):
    add_workers(session, worker("one"), worker("two", team_name="north"))
    assert overview.list_teams(session) == ["", "north"]
    assert overview.bridges_of(session, "")["leader"] is None
    row = {"team_name": "", "holder": "b1", "epoch": 7, "beat": 1, "host": "h"}
    add(session, tables.bridge, row)
    leader = overview.bridges_of(session, "")["leader"]
    assert (leader["instance"], leader["host"], leader["epoch"]) == ("b1", "h", 7)
    session.execute(tables.bridge.update().values(holder=""))
    assert overview.bridges_of(session, "")["leader"] is None
    act = {"team_name": "", "at": 1.0, "by": "cli:x", "act": "shutdown", "detail": "", "outcome": "wished"}
    add(session, tables.act, *({**act, "subject": subject} for subject in ("one", "two", "one")))
    found = overview.list_acts(session, "", Page(limit=2))
    assert (found.total, [row["subject"] for row in found.rows]) == (3, ["one", "two"])
    assert overview.list_acts(session, "", Page(), subject="two").total == 1


# --- what it costs ----------------------------------------------------------------------------------------------

#: What there is; the largest sites have ten times as many jobs and workers as each of these in CI.
WORKERS, HELD, WAITING, ENDED = 2000, 2000, 4000, 6000


@contextmanager
def costs(engine):
    """The statements of this time that look at rows."""
    seen = []

    def note(_connection, _cursor, statement, parameters, *_):
        if "SAVEPOINT" not in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def crowd(request, tmp_path_factory):
    """A database of each kind with much in it, for those who only look."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('crowd')}/airflow.db"
    else:
        url = request.getfixturevalue("shared_postgres").new_database()
    engine = engine_of(url)
    upgrade(engine)
    with Session(engine) as session:
        add_workers(session, *(worker(f"edge-{number:05}", [f"q{number % 20}"]) for number in range(WORKERS)))
        add_jobs(
            session,
            *(held(f"h{number}", f"edge-{number:05}", queue=f"q{number % 20}") for number in range(HELD)),
            *(
                {"id": f"w{number}", "queue": f"q{number % 20}", "queued_at": float(number)}
                for number in range(WAITING)
            ),
            *({"id": f"e{number}", "state": "succeeded", "finished_at": 1.0, "worker": "x"} for number in range(ENDED)),
        )
        act = {"team_name": "", "at": 1.0, "by": "cli:x", "act": "shutdown", "detail": "", "outcome": "wished"}
        add(session, tables.act, *({**act, "subject": f"edge-{number % WORKERS:05}"} for number in range(2 * WORKERS)))
    if request.param == "postgresql":  # autovacuum does that; nobody does it in a file of SQLite
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    yield engine
    engine.dispose()


LOOKS = {
    "workers": (lambda session: workers.list_workers(session, "", Workers(), Page("name", limit=50), OPEN), 2, 50),
    "workers that serve": (
        lambda session: workers.list_workers(session, "", Workers(queue="q3"), Page("free", limit=50), OPEN), 2, 50,
    ),
    "a worker": (lambda session: workers.find_worker(session, "", "edge-00007", OPEN), 1, 1),
    "jobs": (lambda session: jobs.list_jobs(session, "", Jobs(), Page("queued_at", limit=50)), 2, 50),
    "jobs of a worker": (
        lambda session: jobs.list_jobs(session, "", Jobs(states=jobs.LIVING, worker="edge-00007"), BY_AGE), 1, 1,
    ),
    "jobs of a dag": (lambda session: jobs.list_jobs(session, "", Jobs(dag_id="nothing"), BY_AGE), 1, 0),
    "acts": (lambda session: overview.list_acts(session, "", Page(limit=50)), 2, 50),
    "acts on a worker": (lambda session: overview.list_acts(session, "", Page(limit=50), "edge-00007"), 1, 2),
    "queues": (lambda session: queues.list_queues(session, "", OPEN), 3, 20 + HELD + WORKERS),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_costs_a_few_statements_and_the_rows_of_a_page(crowd, look, monkeypatch):
    ask, statements, rows = LOOKS[look]
    read = []
    decoded = []
    monkeypatch.setattr(
        workers, "_shown", lambda row, access, shown=workers._shown: decoded.append(row) or shown(row, access)
    )

    def count(*arguments):
        read.append(arguments[-1])

    with costs(crowd) as seen, Session(crowd) as session:
        ask(session)
    assert len(seen) == statements
    assert len(decoded) <= 50
    with crowd.connect() as connection:
        for statement, parameters in seen:
            found = connection.exec_driver_sql(statement, parameters).fetchall()
            read.append(len(found))
    assert sum(read) <= rows + 1  # the count is a row


SMALL = (
    "ix_mqtt_job_held", "ix_mqtt_job_waiting", "ix_mqtt_job_asking", "ix_mqtt_job_queued", "ix_mqtt_act_subject",
    "ix_mqtt_act_team",
)  # fmt: skip


@pytest.mark.parametrize(
    ("look", "indexes"),
    [
        ("workers", {"ix_mqtt_job_held"}),
        ("a worker", {"ix_mqtt_job_held"}),
        ("jobs", {"ix_mqtt_job_queued"}),
        ("jobs of a worker", {"ix_mqtt_job_held"}),
        ("queues", {"ix_mqtt_job_waiting", "ix_mqtt_job_asking", "ix_mqtt_job_held"}),
        ("acts", {"ix_mqtt_act_team"}),
        ("acts on a worker", {"ix_mqtt_act_subject"}),
    ],
)
def test_a_look_finds_its_jobs_by_an_index(crowd, look, indexes):
    with costs(crowd) as seen, Session(crowd) as session:
        LOOKS[look][0](session)
    explain = "EXPLAIN QUERY PLAN" if crowd.dialect.name == "sqlite" else "EXPLAIN"
    lines = []
    with crowd.connect() as connection:
        for statement, parameters in seen:
            lines += [str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)]
    plan = "\n".join(lines)
    if look == "queues" and crowd.dialect.name == "postgresql":
        assert "Seq Scan on mqtt_job" not in plan  # any small index will do: all that lives is read
        return
    if look == "acts" and crowd.dialect.name == "postgresql":
        assert "Sort" not in plan  # the primary key is in this order, too
        return
    assert {index for index in SMALL if index in plan} >= indexes, plan
    if look in ("queues", "jobs"):
        assert "TEMP B-TREE FOR ORDER BY" not in plan
    if look == "queues" and crowd.dialect.name == "sqlite":  # no row is read to count them
        assert {line for line in plan.splitlines() if "ix_mqtt_job_" in line and "COVERING" not in line} <= {
            line for line in plan.splitlines() if "ix_mqtt_job_asking" in line
        }


@pytest.mark.parametrize("crowd", ["sqlite"], indirect=True)  # see the index's reason in `tables`
@pytest.mark.parametrize(
    "states",
    [["failed"], ["lost"], ["succeeded"], ["failed", "lost", "cancelled"], ["running"], ["queued"], jobs.LIVING],
    ids=",".join,
)
@pytest.mark.parametrize("descending", [False, True])
def test_a_list_by_state_reads_no_job_of_the_rest_of_the_history(crowd, states, descending):
    page = Page("queued_at", descending=descending, limit=50)
    with costs(crowd) as seen, Session(crowd) as session:
        jobs.list_jobs(session, "", Jobs(states=states), page)
    with crowd.connect() as connection:
        lines = [
            str(row[-1])
            for statement, parameters in seen
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert not any(map(plans._is_whole, lines)), "\n".join(lines)
    if len(states) == 1 and states[0] not in jobs.LIVING:
        assert "TEMP B-TREE" not in "".join(lines)
