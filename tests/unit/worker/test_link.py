"""The link to the broker where no broker is needed: what cannot be set up, what is said, and how long it was away."""

import selectors
import socket
from pathlib import Path

import pytest

from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.worker.mqtt.link import CUT_OFF_TIMES, KEEP_ALIVE_TIMEOUT, Link, LinkEvent
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
    monkeypatch.setattr("airflow_mqtt.worker.mqtt.link.connect", lambda *_, **__: None)
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


class Client:
    """A client of paho whose socket the broker has closed."""

    on_disconnect = None

    def subscribe(self, _filters: object) -> None: ...

    def loop_misc(self) -> None: ...

    def socket(self) -> None:
        return None


def _cut_off(link: Link, now: float, *, after: float) -> None:
    """Make a connection that the broker ends `after` seconds from its CONNACK, at `now`."""
    link.connect(now)
    client = link._client = Client()
    link._on_connect(client, None, None, Code(), None)
    link._on_subscribe(None, None, 1, [Code()], None)
    if after:
        link._let_in_at = now
    link._on_disconnect(None, None, Code(), Code(0x80), None)
    link.service(now + after)


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_mqtt.worker.mqtt.link.connect", lambda *_, **__: None)


@pytest.mark.usefixtures("no_socket")
@pytest.mark.parametrize("after", [0.0, 0.5])
def test_who_is_cut_off_again_and_again_is_told_where_to_look(caplog: pytest.LogCaptureFixture, after: float) -> None:
    link = _link()
    for number in range(CUT_OFF_TIMES):
        assert "mosquitto/acl" not in caplog.text
        _cut_off(link, 60.0 * number, after=after)
    assert "; check account and access rules (mosquitto/acl)" in caplog.messages[-1]


@pytest.mark.usefixtures("no_socket")
def test_links_that_are_lost_now_and_then_are_no_matter_of_access(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for number in range(4 * CUT_OFF_TIMES):
        _cut_off(link, 60.0 * number, after=0.5 if number % CUT_OFF_TIMES else 5.0)
    assert "connection lost" in caplog.text
    assert "mosquitto/acl" not in caplog.text


@pytest.mark.usefixtures("no_socket")
def test_a_broker_that_says_what_it_denies_is_not_guessed_about(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for number in range(CUT_OFF_TIMES + 1):
        link.connect(60.0 * number)
        client = link._client = Client()
        link._on_connect(client, None, None, Code(), None)
        link._on_subscribe(None, None, 1, [Code(0x87)], None)
        link.service(60.0 * number)
    assert "the broker denies a; check its access rules" in caplog.text
    assert "check account" not in caplog.text


def test_small_packets_are_sent_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = _link(broker_url=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        link.connect(0.0)
        assert link._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        link.drop()
