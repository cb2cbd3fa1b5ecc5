"""Rows made of workloads."""

import json
from types import SimpleNamespace

import pytest

from airflow_mqtt.executor.workload import FIRST, Dispatch, row_of

DISPATCH = Dispatch("job-1", "7", "team", "gateways", "usual", 5.0)


class Workload(SimpleNamespace):
    def model_dump_json(self, exclude):
        return json.dumps({"type": self.type, "token": self.token} | dict.fromkeys(exclude))


def task(**changes):
    ti = {
        "id": "0198", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 3, "try_number": 2,
        "queue": "edge", "priority_weight": 11, "pool_slots": 4,
    }  # fmt: skip
    return Workload(type="ExecuteTask", token="secret", log_path="a/b.log", ti=SimpleNamespace(**ti | changes))


def test_a_task():
    row = row_of(task(), DISPATCH)
    assert row["id"] == "job-1"
    assert (row["owner"], row["team_name"], row["token_at"]) == ("7", "team", 5.0)
    assert (row["queue"], row["priority"], row["slots"]) == ("edge", 11, 4)
    assert (row["subject"], row["map_index"], row["try_number"]) == ("0198", 3, 2)
    assert row["log_path"] == "a/b.log"


def test_the_token_is_beside_the_document_and_not_in_it():
    row = row_of(task(), DISPATCH)
    assert row["token"] == "secret"
    assert "secret" not in row["workload"]


def test_every_task_takes_a_slot():
    assert row_of(task(pool_slots=0), DISPATCH)["slots"] == 1


def test_a_callback_goes_to_its_own_queue_before_all_tasks():
    callback = Workload(type="ExecuteCallback", token="x", log_path=None, callback=SimpleNamespace(id="c-1"))
    row = row_of(callback, DISPATCH)
    assert (row["queue"], row["priority"], row["slots"]) == ("gateways", FIRST, 1)
    assert (row["subject"], row["log_path"], row["kind"]) == ("c-1", "", "airflow")


@pytest.mark.parametrize(("named", "queue"), [("edge", "edge"), (None, "usual")])
def test_a_connection_test_goes_where_its_user_wants_it_to_a_worker_that_knows_such_work(named, queue):
    test = Workload(type="TestConnection", token="x", connection_test_id="t-1", connection_id="c", queue=named)
    row = row_of(test, DISPATCH)
    assert (row["queue"], row["priority"], row["slots"]) == (queue, FIRST, 1)
    assert (row["subject"], row["log_path"], row["kind"]) == ("t-1", "", "airflow-connection-test")
