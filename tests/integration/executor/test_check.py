"""`airflow mqtt check` on a real database, and brokers that are set up well and badly."""

import json
import threading
import time

import pytest
from sqlalchemy import insert, text, update

import servers
from airflow_mqtt.database import tables
from airflow_mqtt.database.bridges import Word

DEVICE = "edge-1"


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command in this process; return subject -> result, subject -> what it says, and the exit code."""
    from airflow.cli import cli_parser

    monkeypatch.setenv("AIRFLOW__MQTT__LEASE_TTL", "0.5")
    parser = cli_parser.get_parser()

    def run_command(*arguments):
        capsys.readouterr()
        code = 0
        try:
            args = parser.parse_args(["mqtt", "check", "-o", "json", *arguments])
            args.func(args)
        except SystemExit as end:
            code = end.code
        lines = json.loads(capsys.readouterr().out)
        by_subject = {line["subject"]: line for line in lines}
        assert len(by_subject) == len(lines)
        results = {subject: line["result"] for subject, line in by_subject.items()}
        return results, {subject: line["says"] for subject, line in by_subject.items()}, code

    return run_command


@pytest.fixture
def leader(world):
    """A bridge that leads, as the database sees it."""
    word = Word(epoch=3, version="0.0.9", since=time.time() - 7300, at=time.time()).render()
    with world.session() as session:
        session.execute(insert(tables.bridge).values(holder="b-1", host="plant", epoch=3, beat=1, word=word))
    ended = threading.Event()

    def beat():
        while not ended.wait(0.1):
            with world.session() as session:
                session.execute(update(tables.bridge).values(beat=tables.bridge.c.beat + 1))

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_site_that_is_set_up(world, run, leader):
    world.worker(DEVICE, "edge")
    results, says, code = run()
    assert results == {
        "executor": "ok", "logs": "ok", "clock": "ok", "tables": "ok", "bridge": "ok", "workers": "ok",
        "versions": "warning", "broker": "skipped",
    }  # fmt: skip
    assert says["bridge"] == "b-1 on plant leads for 2 h, epoch 3"
    assert "0.0.9: the bridge; 1: edge-1" in says["versions"]
    assert code == 0


def test_a_site_where_everything_is_missing(world, run, monkeypatch):
    monkeypatch.setattr("airflow_mqtt.executor.cli.site_facts._executors", list)
    with world.session() as session:
        before = session.scalar(text("SELECT version_num FROM alembic_version_mqtt"))
        session.execute(text("UPDATE alembic_version_mqtt SET version_num = '0001'"))
    try:
        results, says, code = run()
    finally:
        with world.session() as session:
            session.execute(text("UPDATE alembic_version_mqtt SET version_num = :it"), {"it": before})
    assert (results["executor"], results["tables"], code) == ("fault", "fault", 1)
    assert says["tables"].startswith("at migration 0001, and this airflow-mqtt needs ")
    assert "bridge" not in results, "not looked for in tables that it may not fit"


def test_a_lease_that_stands_still(world, run):
    with world.session() as session:
        session.execute(insert(tables.bridge).values(holder="b-1", host="plant", epoch=3, beat=1))
    results, says, code = run()
    assert (results["bridge"], code) == ("fault", 1)
    assert "b-1 on plant does not renew its lease" in says["bridge"]


def test_workers_that_may_not_what_they_offer(world, run, leader):
    world.worker(DEVICE, "edge")
    world.worker("edge-2", "edge", "lathe")
    with world.session() as session:
        session.execute(update(tables.access).values(document='{"serve": [["edge-1", "edge"]], "calls": {}}'))
    results, says, _ = run()
    assert (results["allowed"], says["allowed"][-25:]) == ("warning", "edge-2 edge, edge-2 lathe"), says


def test_what_is_wished_of_a_worker_is_what_it_offers_and_a_damaged_row_hides_nobody(world, run, leader):
    world.worker(DEVICE, "edge", desired='{"queues": ["lathe"]}')
    world.worker("edge-2", "edge", info="nothing that one could read", desired="{")
    with world.session() as session:
        session.execute(update(tables.access).values(document='{"serve": [["*", "edge"]], "calls": {}}'))
    results, says, _ = run()
    assert (results["allowed"], says["allowed"][-12:]) == ("warning", "edge-1 lathe"), says
    assert says["workers"] == "2 of 2 are there"


def looked_at(results):
    """Leave the lines of the site out."""
    site = ("executor", "logs", "clock", "tables", "bridge", "workers", "versions")
    return {subject: result for subject, result in results.items() if subject not in site}


def test_the_site_with_its_broker_and_a_device(world, run, monkeypatch):
    monkeypatch.setattr("airflow_mqtt.executor.cli.mqtt_client._PATIENCE", 60)
    with servers.mosquitto(accounts=[DEVICE]) as broker:
        monkeypatch.setenv("AIRFLOW_MQTT_BROKER_URL", broker.url("bridge"))
        monkeypatch.setenv("AIRFLOW_MQTT_DEVICE_URL", broker.url(DEVICE))
        results, says, _ = run("--device", DEVICE)
    good = dict.fromkeys(("broker", "rights", "retained", "size", "queued", f"device {DEVICE}"), "ok")
    assert looked_at(results) == good, says


def test_a_broker_that_is_not_there(world, run, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL", f"mqtt://bridge:secret@127.0.0.1:{servers.free_port()}")
    results, says, code = run()
    assert (looked_at(results), code) == ({"broker": "fault"}, 1)
    assert "nothing listens there" in says["broker"] and "secret" not in says["broker"]
    monkeypatch.setenv("AIRFLOW_MQTT_BROKER_URL", "http://broker")
    assert "the scheme is not mqtt or mqtts" in run()[1]["broker"]


def test_at_a_terminal_each_thing_is_a_line(run, world, capsys):
    from airflow.cli import cli_parser

    args = cli_parser.get_parser().parse_args(["mqtt", "check"])
    with pytest.raises(SystemExit) as end:
        args.func(args)
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert "ok      executor: MqttExecutor, the default executor" in lines
    assert "fault   bridge: no bridge has ever led → start `airflow-mqtt bridge run`" in "\n".join(lines)


def test_a_device_needs_its_url(run, monkeypatch):
    from airflow.cli import cli_parser

    def refused(*arguments):
        args = cli_parser.get_parser().parse_args(["mqtt", "check", *arguments])
        with pytest.raises(SystemExit) as refusal:
            args.func(args)
        return refusal.value.code

    assert "AIRFLOW_MQTT_DEVICE_URL" in refused("--device", DEVICE)
    assert "say which with --device" in refused("--broker-url", "mqtt://b")
    assert "is no worker's name" in refused("--device", "a b", "--broker-url", "mqtt://b")
    assert "is wrong" in refused("--device", DEVICE, "--broker-url", "http://b")
