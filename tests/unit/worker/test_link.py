"""The link to the broker where no broker is needed: what cannot be set up, what is said, and how long it was away."""

import selectors
from pathlib import Path

import pytest

from airflow_mqtt.protocol.settings import Source, resolve
from airflow_mqtt.worker.link import KEEP_ALIVE_TIMEOUT, Link, LinkEvent
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings


class Code:
    """A reason code as paho gives it."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.is_failure = value >= 0x80
        self.is_disconnect_packet_from_server = False


def _link(**values: str) -> Link:
    flags = {"broker_url": "mqtt://127.0.0.1:1", "name": "edge-1", "keepalive": "30", **values}
    settings = WorkerSettings.of(resolve(SETTINGS, [Source(lambda setting: setting.flag, flags)]))
    return Link(settings, ["a"], selectors.DefaultSelector(), lambda: ("will", b"{}"))


def test_a_certificate_that_is_broken_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("renewed badly")
    files = {"tls_cert_file": str(tmp_path / "cert.pem"), "tls_key_file": str(tmp_path / "key.pem")}
    link = _link(broker_url="mqtts://127.0.0.1:1", **files)
    link.connect(0.0)
    assert link.take()[1] == [LinkEvent.DOWN]
    assert "no connection to mqtts://127.0.0.1:1: SSLError" in caplog.text
    assert link.due(60.0)


def test_what_the_last_connection_said_does_not_end_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    link = _link()
    link._why = "connection lost"
    monkeypatch.setattr("airflow_mqtt.worker.link.connect", lambda *_, **__: None)
    link.connect(0.0)
    assert not link._why


def test_a_reason_is_said_once_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for reason in ("refused", "unreachable", "refused", "unreachable"):
        link.failed(reason, 0.0)
    assert caplog.text.count("no connection") == 2
    link._on_subscribe(None, None, 1, [Code()], None)
    link.failed("refused", 0.0)
    assert caplog.text.count("no connection") == 3


@pytest.mark.parametrize(("silent", "away"), [(False, [False, False, True]), (True, [True, True, True])])
def test_a_name_may_be_anothers_after_a_keep_alive_without_a_link(silent: bool, away: list[bool]) -> None:
    link = _link()
    assert not link.was_away(1000.0)  # it was never there
    link._on_subscribe(None, None, 1, [Code()], None)
    if silent:
        link._on_disconnect(None, None, Code(), Code(KEEP_ALIVE_TIMEOUT), None)
    link.failed("lost", 1000.0)
    found = [link.was_away(1000.0), link.was_away(1029.0)]
    link.failed("refused", 1029.0)
    assert [*found, link.was_away(1030.0)] == away
    link._on_subscribe(None, None, 1, [Code()], None)
    assert not link.was_away(2000.0)
