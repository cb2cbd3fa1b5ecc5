"""What waits for the link of spans and figures, and how much of it goes out."""

import selectors
import socket
import time
import urllib.error
import urllib.request
from threading import Thread

import pytest

from airflow_mqtt.protocol.messages import Telemetry
from airflow_mqtt.worker.core import gathered
from airflow_mqtt.worker.core.gathered import NEVER, Gathered
from airflow_mqtt.worker.relay import MOST_CONNECTIONS, Relay


def test_it_waits_for_more_and_goes_out_together():
    waiting = Gathered()
    assert waiting.due == NEVER and waiting.take(1e9) is None
    waiting.add_line("a:1|c", 100.0)
    waiting.add_line("b:1|c", 101.5)
    waiting.add_spans(b"one", 101.5)
    waiting.add_spans(b"two", 101.5)
    assert (waiting.due, waiting.take(101.9)) == (102.0, None)
    sent = Telemetry.decode(waiting.take(102.0))
    assert (sent.lines, sent.otlp) == (["a:1|c", "b:1|c"], b"onetwo")
    assert waiting.due == NEVER


def test_the_link_carries_so_much_of_it_and_no_more():
    waiting = Gathered()
    sent, now, end = 0, 0.0, 3600.0
    while now < end:
        for number in range(100):
            waiting.add_line(f"metric.{number}.{hash((now, number))}:1|c", now)
        waiting.add_spans(bytes(str(now), "ascii") * 1000, now)
        payload = waiting.take(now)
        sent += len(payload or b"")
        now += 1.0
    assert sent <= gathered.RATE * end + 128 * 1024
    assert waiting.dropped


def test_what_has_no_room_is_dropped():
    waiting = Gathered()
    for number in range(gathered.MOST_LINES + 5):
        waiting.add_line(f"x{number}:1|c", 0.0)
    for line in ("", "x" * 257, "a\0b"):
        waiting.add_line(line, 0.0)
    waiting.add_spans(b"x" * (gathered.MOST_SPANS + 1), 0.0)
    for _ in range(5):
        waiting.add_spans(b"x" * gathered.MOST_SPANS, 0.0)
    assert waiting.dropped == 5 + 3 + 1 + 1


@pytest.fixture
def ports():
    """The ports, served by a thread in place of the worker's loop."""
    with selectors.DefaultSelector() as selector:
        relay, over = Relay(selector), []

        def serve():
            while not over:
                for key, mask in selector.select(0.02):
                    key.data(mask)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield relay
        over.append(True)
        thread.join()
        relay.close()


def post(relay, body, path="/v1/traces", **headers):
    environment = relay.environment(lines=True, spans=True)
    request = urllib.request.Request(environment["OTEL_EXPORTER_OTLP_ENDPOINT"] + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def taken(relay):
    """Return what goes out next, however long after the last that is."""
    deadline, later = time.monotonic() + 60, 0
    while (payload := relay.take(time.monotonic() + later)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        later += 60
    return Telemetry.decode(payload)


def test_the_ports_take_what_exporters_send(ports):
    host, port = "127.0.0.1", int(ports.environment(lines=True, spans=False)["AIRFLOW__METRICS__STATSD_PORT"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"a:1|c\nb:2|g", (host, port))
    assert taken(ports).lines == ["a:1|c", "b:2|g"]
    assert post(ports, b"spans" * 10_000) == 200
    assert taken(ports).otlp == b"spans" * 10_000


def test_what_is_no_export_is_refused(ports):
    assert post(ports, b"x", path="/v1/logs") == 404
    assert post(ports, b"x", path="/") == 404
    assert post(ports, b"x" * 70_000) == 413
    assert post(ports, b"x", **{"content-encoding": "gzip"}) == 400
    assert ports.gathered.due == NEVER


def test_a_head_without_end_and_many_connections_take_little(ports):
    url = ports.environment(lines=False, spans=True)["OTEL_EXPORTER_OTLP_ENDPOINT"]
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    many = [socket.create_connection(address, 20) for _ in range(3 * MOST_CONNECTIONS)]
    try:
        with pytest.raises(OSError):
            for _ in range(1000):
                many[-1].sendall(b"x" * 4096)
                time.sleep(0.001)
        assert many[0].recv(1) == b""
        assert post(ports, b"spans") == 200
        assert len(ports._connections) <= MOST_CONNECTIONS
    finally:
        for one in many:
            one.close()


def test_each_is_set_up_only_where_its_library_is(ports):
    assert ports.environment(lines=False, spans=False) == {}
    assert not any(name.startswith("OTEL") for name in ports.environment(lines=True, spans=False))
