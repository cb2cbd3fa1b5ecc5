"""The settings of `airflow-mqtt top`, as the command reads them."""

import pytest

from airflow_mqtt.cli import main
from airflow_mqtt.monitor.settings import MonitorSettings

BROKER = "--broker-url=mqtt://monitor:hush@127.0.0.1:1"


@pytest.fixture
def given(monkeypatch):
    values = {}
    monkeypatch.setattr("airflow_mqtt.monitor.main.run", lambda found: values.update(found) or 0)
    return values


def test_a_switch_needs_no_value_and_may_have_one(given):
    for arguments, once in (([], False), (["--once"], True), (["--once=true"], True), (["--once", "false"], False)):
        assert main(["top", BROKER, *arguments]) == 0
        assert given["once"] is once


def test_an_order_is_a_column_of_the_table(given):
    main(["top", BROKER, "--view", "jobs", "--sort=-for"])
    (order,) = MonitorSettings.of(given).orders().values()
    assert (order.column, order.descending) == ("FOR", False)
    assert MonitorSettings.of({**given, "sort": None}).orders() == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "broker_url is missing"),
        (["--broker-url", "http://x"], "the scheme is not mqtt"),
        ([BROKER, "--view", "tasks"], "allowed: workers, queues, jobs"),
        ([BROKER, "--sort", "colour"], "the table workers has no column 'COLOUR'; it has WORKER, STATE"),
        ([BROKER, "--interval", "0"], "allowed: 0.5 to 60 seconds"),
        ([BROKER, "--onec"], "unrecognized arguments: --onec; see airflow-mqtt top --help"),
        ([BROKER, "run"], "unrecognized arguments: run; see airflow-mqtt top --help"),
        ([BROKER, "--root", "a/#"], "root"),
        ([BROKER, "--tls-ca-file", "/nowhere"], "there is no such file"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys, monkeypatch):
    monkeypatch.delenv("AIRFLOW_MQTT_BROKER_URL", raising=False)
    assert main(["top", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert "hush" not in lines[0]


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["top", "--help"])
    said = capsys.readouterr().out
    for word in ("--broker-url", "--once", "--filter", "--root", "AIRFLOW_MQTT_BROKER_URL", "Exit codes"):
        assert word in said
