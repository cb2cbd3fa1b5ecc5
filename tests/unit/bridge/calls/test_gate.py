"""Who may make which call: decisions over a job as it is, without a database."""

import dataclasses

import pytest

from airflow_mqtt.bridge.calls.gate import Call, admit, refuse_miss
from airflow_mqtt.database.records import Job
from airflow_mqtt.protocol import execution_api, kinds
from airflow_mqtt.protocol.execution_api import RIGHTS, Miss, Needs
from airflow_mqtt.protocol.jobs import JobState
from airflow_mqtt.protocol.messages import Request
from bridge_samples import job

RUNNING = job(state=JobState.RUNNING, worker="edge-1", gate_request="gate")


def call(method="GET", path="variables/x", worker="edge-1", attempt=1, id_="r", query=""):
    request = Request(id=id_, journal="j", job="job-1", attempt=attempt, method=method, path=path, query=query)
    return Call(worker, request)


def admitted(j, c, rights=None):
    match = execution_api.find(c.request.method, c.request.path)
    return refuse_miss(match, c.request) if isinstance(match, Miss) else admit(j, c, match, rights)


ALLOWED = [
    ("PATCH", "task-instances/ti-1/state"), ("PUT", "task-instances/ti-1/rtif"),
    ("PATCH", "task-instances/ti-1/skip-downstream"), ("GET", "task-instances/count"),
    ("GET", "task-instances/previous/dag/task"), ("GET", "connections/site"), ("GET", "variables/a/b"),
    ("PUT", "variables/a"), ("POST", "xcoms/dag/run/task/return_value"), ("GET", "xcoms/other/run/task/key"),
    ("HEAD", "xcoms/dag/run/task/key"), ("GET", "xcoms/dag/run/task/key/item/3"), ("POST", "dag-runs/dag/run"),
    ("GET", "task-reschedules/ti-1/start_date"), ("POST", "hitlDetails/ti-1"), ("GET", "store/ti/ti-1/a%2Fb"),
    ("GET", "assets/by-name"), ("GET", "store/asset/by-uri/value"), ("GET", "dags/dag"), ("GET", "variables/keys"),
    ("GET", "variables//config/x"), ("GET", "variables/a//b"), ("GET", "variables/https://host/x"),
    ("GET", "variables/C%3A%5Ctemp"), ("GET", "variables/100%25"), ("GET", "variables/x%3Fy%23z"),
    ("GET", "variables/.hidden/a..b/..."), ("GET", "variables/a%20%C3%BC"), ("POST", "xcoms/dag/run/task//a//b/"),
    ("GET", "xcoms/dag/run/task/"), ("PUT", "store/ti/ti-1/a%09%252e%252e"),
]  # fmt: skip

FORBIDDEN = [
    ("PATCH", "task-instances/ti-2/state"),
    ("PUT", "task-instances/ti-2/heartbeat"),
    ("POST", "xcoms/dag/run/other/key"),
    ("DELETE", "xcoms/other/run/task/key"),
    ("GET", "hitlDetails/ti-2"),
    ("DELETE", "store/ti/ti-2"),
    ("GET", "connection-tests/x/connection"),
    ("PATCH", "connection-tests/x"),
    ("GET", "connection-tests/ti-1/connection"),
    ("PATCH", "connection-tests/ti-1"),
    ("DELETE", "dag-runs/dag/run"),
    ("POST", "variables/x"),
    ("PATCH", "callbacks/ti-1/run"),
    ("PATCH", "airflow-mqtt/callbacks/ti-1/start"),
    ("GET", "task-reschedules/ti-2/start_date"),
    ("GET", "variables/../connections"),
    ("GET", "variables/%2e%2e/x"),
    ("GET", "variables/."),
    ("DELETE", "xcoms/dag/run/task/../x"),
]

#: What the API has no place for either.
NOWHERE = [
    "", "/", "health", "openapi.json", "task-instances", "connections/a/b", "connections/", "//host/variables/x",
    "variables", "variables\\x", "task-instances/ti-1/run%0A", "xcoms/dag/run//key", "dags/a%2Fb", "Variables/x",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_what_a_job_may_call(method, path):
    assert admitted(RUNNING, call(method, path)) is RUNNING


@pytest.mark.parametrize(("method", "path"), FORBIDDEN)
def test_what_a_job_may_not_call(method, path):
    assert admitted(RUNNING, call(method, path)).status == 403


#: What names no map index, or several, or one that a server and we may read differently.
SUSPECT_INDEXES = [
    "map_index=", "map_index=4", "map_index=3&map_index=4", "map_index=4&map_index=3", "map_index=3&map_index=3",
    "map%5findex=4", "%6dap_index=3&map_index=4", "map_index=%2B3", "map_index=03", "map_index=3.0", "map_index=+3",
    "x=#&map_index=3", "map_index=3#", "map_index=3;map_index=4", "map_index=-2",
]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("index", [-1, 3])
def test_an_xcom_is_written_for_the_own_map_index_alone(method, index):
    def verdict(query):
        return admitted(mapped, call(method, "xcoms/dag/run/task/a/b", query=query))

    mapped = dataclasses.replace(RUNNING, map_index=index)
    for query in (f"map_index={index}", f"mapped_length=2&map_index={index}", f"map%5Findex={index}&dag_result=true"):
        assert verdict(query) is mapped
    for query in ("", "mapped_length=2", "Map_Index=4"):  # how the Task SDK says -1
        assert (verdict(query) is mapped) == (index == -1)
    for query in [*SUSPECT_INDEXES, f"map_index={2 - index}"]:
        assert verdict(query).status == 403


def test_xcoms_of_siblings_may_be_read():
    mapped = dataclasses.replace(RUNNING, map_index=3)
    assert admitted(mapped, call("GET", "xcoms/dag/run/task/key", query="map_index=4")) is mapped


@pytest.mark.parametrize("path", NOWHERE)
def test_what_is_nowhere_is_not_found(path):
    """As in the API: a key that leads out of it gives the default of a Variable."""
    for method in ("GET", "PATCH"):
        assert admitted(RUNNING, call(method, path)).status == 404


def test_foreign_old_and_ended():
    assert admitted(None, call()).status == 403
    assert admitted(RUNNING, call(worker="edge-2")).status == 403
    assert admitted(job(state=JobState.RUNNING, worker="edge-1", attempt=2), call()).status == 409
    for state in JobState:
        allowed = state in (JobState.RUNNING, JobState.CANCELLING)
        verdict = admitted(job(state=state, worker="edge-1"), call())
        assert isinstance(verdict, Job) == allowed
        assert allowed or verdict.status == 409


def test_the_gate_opens_once():
    gate = call("PATCH", "task-instances/ti-1/run", id_="gate")
    other = call("PATCH", "task-instances/ti-1/run", id_="other")
    for state in JobState:
        opens = state in (JobState.DISPATCHED, JobState.ACCEPTED)
        assert isinstance(admitted(job(state=state, worker="edge-1"), gate), Job) == opens
    assert admitted(RUNNING, gate) is RUNNING  # the same request, delivered again
    assert admitted(RUNNING, other).status == 409


def test_the_gate_of_callbacks():
    callback = job(state=JobState.ACCEPTED, worker="edge-1", workload_type="ExecuteCallback", subject="cb")
    assert admitted(callback, call("PATCH", "airflow-mqtt/callbacks/cb/start")) is callback
    assert admitted(callback, call("PATCH", "airflow-mqtt/callbacks/other/start")).status == 403
    running = dataclasses.replace(callback, state=JobState.RUNNING)
    assert admitted(running, call("PATCH", "callbacks/cb/run")) is running
    assert admitted(running, call("PATCH", "callbacks/other/run")).status == 403


def test_a_connection_test_may_ask_for_its_own_connection_and_nothing_else():
    test = job(state=JobState.ACCEPTED, worker="edge-1", workload_type="TestConnection", subject="ct")
    running = dataclasses.replace(test, state=JobState.RUNNING, gate_request="gate")
    assert admitted(test, call("GET", "connection-tests/ct/connection")) is test
    assert admitted(running, call("GET", "connection-tests/ct/connection", id_="again")).status == 409
    assert admitted(test, call("PATCH", "connection-tests/ct")).status == 409
    assert admitted(running, call("PATCH", "connection-tests/ct")) is running
    for method, path in (*ALLOWED, ("GET", "connection-tests/other/connection"), ("PATCH", "task-instances/ct/run")):
        assert admitted(running, call(method, path)).status == 403


def test_work_of_a_later_version_of_ours_calls_nothing():
    strange = job(state=JobState.RUNNING, worker="edge-1", workload_type="ExecuteDream")
    assert {admitted(strange, call(method, path)).status for method, path in ALLOWED} == {403}


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_work_starts_by_a_route_of_its_own(kind):
    (gate,) = (row for row in execution_api.ROUTES if row.does is execution_api.Does.START and kind in row.kinds)
    assert (gate.path, gate.kinds, gate.whose) == (kind.gate, (kind,), execution_api.Whose.SUBJECT)
    match = execution_api.find(gate.methods[0], execution_api.gate_of(kind, "a-b"))
    assert (match.route, match.subject) == (gate, "a-b")


# --- what a queue's jobs may call ---------------------------------------------------------------------------


def lacking(method, path, rights, query="", of=RUNNING):
    verdict = admitted(of, call(method, path, query=query), frozenset(rights))
    assert verdict is of or (verdict.status, verdict.reason) == (403, "not_allowed")
    return verdict is not of


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_what_is_its_own_a_job_may_always_call_and_all_else_needs_one_right(method, path):
    assert not lacking(method, path, RIGHTS)
    needs = [right for right in map(Needs, RIGHTS) if not lacking(method, path, {right})]
    own = not lacking(method, path, ())
    assert own or needs in ([needs[0]], [Needs.RUN_XCOMS, Needs.OTHER_XCOMS])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_xcoms_of_its_own_run_are_less_than_those_of_any(method):
    def reach(path, query=""):
        return [not lacking(method, path, {right}, query) for right in (Needs.RUN_XCOMS, Needs.OTHER_XCOMS)]

    assert not lacking(method, "xcoms/dag/run/task/key", ())
    assert reach("xcoms/dag/run/other/key") == [True, True]
    assert reach("xcoms/dag/run2/task/key") == reach("xcoms/dag2/run/task/key") == [False, True]
    for query in ("include_prior_dates=true", "x=1&include_prior_dates=", "include%5Fprior_dates=1"):
        assert reach("xcoms/dag/run/task/key", query) == [False, True]
