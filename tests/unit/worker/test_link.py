"""The link to the broker where no broker is needed: what cannot be set up, what is said, and how long it was away."""

import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.worker.mqtt import connection as connections
from airflow_mqtt.worker.mqtt import dial
from airflow_mqtt.worker.mqtt.connection import DIAL_TIMEOUT, KEEP_ALIVE_TIMEOUT, Connection, Phase
from airflow_mqtt.worker.mqtt.link import CUT_OFF_TIMES, Link, LinkEvent
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings
from servers import wait_for


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


def _serve(link: Link, now: float = 0.0) -> None:
    for key, mask in link._selector.select(0.05):
        key.data(mask)
    link.service(now)


def test_a_certificate_that_is_broken_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("renewed badly")
    files = {"tls_cert_file": str(tmp_path / "cert.pem"), "tls_key_file": str(tmp_path / "key.pem")}
    link = _link(broker_url="mqtts://127.0.0.1:1", **files)
    link.connect(0.0)
    assert link.deadline(0.0) == 0.0
    link.service(0.0)
    assert link.take()[1] == [LinkEvent.DOWN]
    assert "no connection to mqtts://127.0.0.1:1: SSLError" in caplog.text
    assert link.due(60.0)


def test_a_reason_is_said_once_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for reason in ("refused", "unreachable", "refused", "unreachable"):
        link.failed(reason, 0.0)
    assert caplog.text.count("no connection") == 2
    link._came_up(0.0)
    link.failed("refused", 0.0)
    assert caplog.text.count("no connection") == 3


@pytest.mark.parametrize(("silent", "away"), [(False, [False, False, True]), (True, [True, True, True])])
@pytest.mark.usefixtures("no_broker")
def test_a_name_may_be_anothers_after_a_keep_alive_without_a_link(silent: bool, away: list[bool]) -> None:
    link = _link()
    assert not link.was_away(1000.0)  # it was never there
    _let_in(link, 990.0)
    link._connection._on_disconnect(None, None, Code(), Code(KEEP_ALIVE_TIMEOUT if silent else 0x80), None)
    link.service(1000.0)
    found = [link.was_away(1000.0), link.was_away(1029.0)]
    link.failed("refused", 1029.0)
    assert [*found, link.was_away(1030.0)] == away
    link._came_up(1031.0)
    assert not link.was_away(2000.0)


# --- cut off ----------------------------------------------------------------------------------------------


class Client:
    """A client of paho whose socket the broker has closed in the end."""

    def __init__(self) -> None:
        self.open = True

    def subscribe(self, _filters: object) -> None: ...

    def loop_misc(self) -> None: ...

    def want_write(self) -> bool:
        return False

    def socket(self) -> socket.socket | None:
        return None


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts get as far as CONNECT, and to nobody."""

    def begin(self: Connection, client: Client, _will: object) -> None:
        self.client, self.phase, self._greeted_at = client, Phase.GREETING, self._began

    monkeypatch.setattr(connections, "build_client", lambda *_, **__: Client())
    monkeypatch.setattr(connections, "Dial", lambda *_: None)
    monkeypatch.setattr(Connection, "_prepare", begin)


def _let_in(link: Link, now: float) -> Connection:
    link.connect(now)
    connection = link._connection
    connection._on_connect(connection.client, None, None, Code(), None)
    connection._on_subscribe(None, None, 1, [Code()], None)
    link._came_up(now)
    return connection


def _cut_off(link: Link, now: float, *, after: float) -> None:
    """Make a connection that the broker ends `after` seconds from its CONNACK, at `now`."""
    connection = _let_in(link, now)
    connection.let_in_at = now if after else None
    connection._on_disconnect(None, None, Code(), Code(0x80), None)
    link.service(now + after)


@pytest.mark.usefixtures("no_broker")
@pytest.mark.parametrize("after", [0.0, 0.5])
def test_who_is_cut_off_again_and_again_is_told_where_to_look(caplog: pytest.LogCaptureFixture, after: float) -> None:
    link = _link()
    for number in range(CUT_OFF_TIMES):
        assert "mosquitto/acl" not in caplog.text
        _cut_off(link, 60.0 * number, after=after)
    assert "; check account and access rules (mosquitto/acl)" in caplog.messages[-1]


@pytest.mark.usefixtures("no_broker")
def test_links_that_are_lost_now_and_then_are_no_matter_of_access(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for number in range(4 * CUT_OFF_TIMES):
        _cut_off(link, 60.0 * number, after=0.5 if number % CUT_OFF_TIMES else 5.0)
    assert "connection lost" in caplog.text
    assert "mosquitto/acl" not in caplog.text


@pytest.mark.usefixtures("no_broker")
def test_a_broker_that_says_what_it_denies_is_not_guessed_about(caplog: pytest.LogCaptureFixture) -> None:
    link = _link()
    for number in range(CUT_OFF_TIMES + 1):
        link.connect(60.0 * number)
        connection = link._connection
        connection._on_connect(connection.client, None, None, Code(), None)
        connection._on_subscribe(None, None, 1, [Code(0x87)], None)
        link.service(60.0 * number)
    assert "the broker denies a; check its access rules" in caplog.text
    assert "check account" not in caplog.text


# --- dialing ----------------------------------------------------------------------------------------------


def test_small_packets_are_sent_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = _link(broker_url=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        link.connect(0.0)
        wait_for(lambda: _serve(link) or link.phase is Phase.GREETING, what="a socket", every=0)
        channel = link._connection.client.socket()
        assert channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        link.drop()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A resolver that hangs until it is let go, as glibc's may for minutes. Only a double can be made to."""
    go, asked = threading.Event(), []
    real = socket.getaddrinfo

    def hang(*arguments: object, **more: object) -> object:
        asked.append(arguments[0])
        go.wait(60)
        return real("127.0.0.1", *arguments[1:], **more)

    monkeypatch.setattr(dial, "_left", [])
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield SimpleNamespace(go=go, asked=asked)
    go.set()


def test_a_resolver_that_hangs_is_given_up_and_asked_again(resolver, caplog: pytest.LogCaptureFixture) -> None:
    """Its thread cannot be ended; so they are counted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        link = _link(broker_url=f"mqtt://somewhere:{server.getsockname()[1]}")
        for number in range(dial.MAX_DIALS):
            link.connect(100.0 * number)
            link.service(100.0 * number + DIAL_TIMEOUT)
            assert link.phase is Phase.DIALING
            link.service(100.0 * number + DIAL_TIMEOUT + 1)
            assert link.phase is Phase.ENDED
        assert "somewhere was not found, or not reached, within 30 s" in caplog.text
        link.connect(1000.0)
        link.service(1000.0)
        assert "4 attempts before this one still wait for the resolver" in caplog.text
        assert len(resolver.asked) == dial.MAX_DIALS
        resolver.go.set()
        for _ in range(dial.MAX_DIALS):  # what was found too late is closed
            late, _ = server.accept()
            with late:
                late.settimeout(60)
                assert late.recv(1) == b""
        wait_for(lambda: not any(thread.is_alive() for thread in dial._left), what="the threads to end")
        link.connect(2000.0)
        wait_for(lambda: _serve(link, 2000.0) or link.phase is Phase.GREETING, what="a socket", every=0)
        link.drop()
