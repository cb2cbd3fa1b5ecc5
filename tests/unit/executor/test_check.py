"""What `airflow mqtt check` says of what it has found."""

import pytest

pytest.importorskip("airflow_mqtt.executor.cli.check")

from airflow_mqtt.executor.cli import check
from airflow_mqtt.executor.cli.check import (
    BrokerFacts,
    DeviceFacts,
    Lease,
    Line,
    LogReaders,
    Name,
    Result,
    Revision,
    WorkerFacts,
)

OURS = "airflow_mqtt.executor.MqttExecutor"
LOCAL = "airflow.executors.local_executor.LocalExecutor"


@pytest.mark.parametrize(
    ("names", "result", "says"),
    [
        ([Name(OURS)], Result.OK, "MqttExecutor, the default executor"),
        ([Name(LOCAL), Name(OURS, "edge")], Result.OK, 'MqttExecutor, alias edge, for tasks with executor="edge"'),
        ([Name(LOCAL), Name(OURS, None, "north")], Result.OK, f'of team north, for tasks with executor="{OURS}"'),
        ([Name(LOCAL)], Result.FAULT, f"MqttExecutor is not among the executors: {LOCAL}"),
        ("ImportError: no module", Result.FAULT, "Airflow cannot use [core] executor: ImportError: no module"),
    ],
)
def test_executor(names, result, says) -> None:
    line = check.executor(names)
    assert (line.result, says in line.says) == (result, True)
    assert bool(line.todo) == (result is Result.FAULT)


@pytest.mark.parametrize(
    ("revision", "result", "todo"),
    [
        (Revision("0006", "0006", {"0001", "0006"}), Result.OK, ""),
        (Revision("0001", "0006", {"0001", "0006"}), Result.FAULT, "run `airflow db migrate`"),
        (Revision(None, "0006", {"0006"}), Result.FAULT, "run `airflow db migrate`"),
        (Revision(None, "0006", {"0006"}, manager_is_found=False), Result.FAULT, "external_db_managers"),
        (Revision("0009", "0006", {"0006"}), Result.WARNING, "the same version"),
    ],
)
def test_tables(revision, result, todo) -> None:
    line = check.tables(revision)
    assert (line.result, todo in line.todo) == (result, True)


@pytest.mark.parametrize(
    ("readers", "result", "says"),
    [
        (LogReaders(is_in_place=True), Result.OK, "shown"),
        (LogReaders(is_in_place=False), Result.FAULT, "nothing here shows"),
        (LogReaders(is_in_place=False, plugin_error="no fastapi"), Result.FAULT, "no fastapi"),
        (LogReaders(is_in_place=True, handler="ElasticsearchTaskHandler"), Result.FAULT, "ElasticsearchTaskHandler"),
    ],
)
def test_logs(readers, result, says) -> None:
    line = check.logs(readers)
    assert (line.result, says in line.says) == (result, True)


@pytest.mark.parametrize(
    ("lease", "result", "says"),
    [
        (None, Result.FAULT, "no bridge has ever led; there is one of team north"),
        (Lease("", "plant", 3, moves=False), Result.FAULT, "no bridge leads: the last one was stopped"),
        (Lease("b-1", "plant", 3, moves=False), Result.FAULT, "b-1 on plant does not renew its lease"),
        (Lease("b-1", "plant", 3, moves=True), Result.OK, "b-1 on plant leads, epoch 3"),
        (Lease("b-1", "plant", 3, moves=True, led_for=7300), Result.OK, "b-1 on plant leads for 2 h, epoch 3"),
    ],
)
def test_lease(lease, result, says) -> None:
    line = check.lease(lease, "", ["north"])
    assert (line.result, says in line.says) == (result, True)


@pytest.mark.parametrize(
    ("ahead", "result"), [(0.1, Result.OK), (-5, Result.WARNING), (60, Result.FAULT), (-3600, Result.FAULT)]
)
def test_clock_of_the_database(ahead, result) -> None:
    assert check.database_clock(ahead).result is result


def test_workers() -> None:
    assert check.workers([])[0].result is Result.WARNING
    assert check.workers([WorkerFacts("edge-1", lives=False)])[0].says == "0 of 1 are there"
    known = [
        WorkerFacts("edge-1", lives=True, clock_offset=7200, refused=["lathe", "press"]),
        WorkerFacts("edge-2", lives=False, clock_offset=7200, refused=["lathe"]),
        *(WorkerFacts(f"edge-{number}", lives=True, refused=["lathe"]) for number in range(3, 9)),
    ]
    there, refused, clocks = check.workers(known)
    assert (there.result, there.says) == (Result.OK, "7 of 8 are there")
    assert refused.says.endswith("edge-1 lathe, edge-1 press, edge-3 lathe, edge-4 lathe, edge-5 lathe and 3 more")
    assert clocks.says.endswith("edge-1: its clock is 2:00:00 behind")


def test_versions() -> None:
    same = [WorkerFacts("edge-1", lives=True, version="2"), WorkerFacts("edge-2", lives=False, version="1")]
    assert (
        check.versions("2", "2", same).says == check.versions("2", "", same).says == "all that have said theirs are 2"
    )
    assert check.versions("2", "", same[1:]) == Line("versions", Result.OK, "here it is 2, and nobody has said another")
    line = check.versions("2", "1", [*same, WorkerFacts("edge-3", lives=True, version="1")])
    assert (line.result, "here it is 2, and elsewhere 1: the bridge, edge-3" in line.says) == (Result.WARNING, True)


def results(lines):
    return {line.subject: line.result for line in lines}


def test_broker() -> None:
    good = {"url": "mqtts://bridge@b:8883", "version": "5", "largest": 9, "wanted": 9, "kept": 7, "sent": 7}
    assert set(results(check.broker(BrokerFacts(**good))).values()) == {Result.OK}
    bad = good | {"anonymous": True, "missing": ["ack"], "retains": False, "largest": 0, "kept": 3, "warning": "plain"}
    assert results(check.broker(BrokerFacts(**bad))) == {
        "broker": Result.WARNING, "anonymous": Result.WARNING, "rights": Result.FAULT, "retained": Result.FAULT,
        "size": Result.FAULT, "queued": Result.WARNING,
    }  # fmt: skip
    (line,) = check.broker(BrokerFacts(url="mqtt://b:1883", error="nothing listens there", cure="look"))
    assert line == Line("broker", Result.FAULT, "mqtt://b:1883: nothing listens there", "look")


def test_device() -> None:
    assert check.device(DeviceFacts("edge-1"))[0].result is Result.OK
    assert check.device(DeviceFacts("edge-1", error="access denied"))[0].says == "access denied"
    facts = DeviceFacts("edge-1", cannot_read=["ack"], cannot_write=["events"], reads_more=["jobs"], writes_more=["x"])
    lines = check.device(facts)
    assert [line.result for line in lines] == [Result.FAULT] * 4
    assert [what in line.says for line, what in zip(lines, ("events", "ack", "jobs", "x"), strict=True)] == [True] * 4


def test_only_a_fault_is_an_exit_code() -> None:
    lines = [Line("a", result, "") for result in (Result.OK, Result.WARNING, Result.SKIPPED)]
    assert check.exit_code(lines) == 0
    assert check.exit_code([*lines, Line("a", Result.FAULT, "")]) == 1
