"""What a bridge says at its start of what its settings name and is not there."""

import sys
from types import SimpleNamespace

import pytest

from airflow_mqtt.bridge.telemetry.monitoring import Monitoring
from airflow_mqtt.config.bridge import SETTINGS, BridgeSettings
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.errors import SettingError

NEEDED = {
    "broker_url": "mqtt://localhost", "database_url": "sqlite:////tmp/x.db", "execution_api_url": "http://localhost/execution/",
}  # fmt: skip


def settings(**given):
    return BridgeSettings.of(resolve(SETTINGS, [Source(lambda setting: "a test", NEEDED | given)]))


def test_nothing_is_made_and_nothing_is_loaded_where_it_is_off():
    assert not settings().relays
    assert Monitoring.of(settings()) is None


def test_without_the_libraries_one_line_says_how_to_mend_that(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry.proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    with pytest.raises(SettingError, match=r"otlp_endpoint is set.*pip install 'airflow-mqtt\[otel\]'"):
        Monitoring.of(settings(otlp_endpoint="http://collector:4318"))


def test_a_server_that_has_no_address_is_said(monkeypatch):
    def unknown(*_, **__):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(
        "airflow_mqtt.bridge.telemetry.statsd.socket", SimpleNamespace(getaddrinfo=unknown, SOCK_DGRAM=2)
    )
    with pytest.raises(SettingError, match="statsd_address: nowhere is not found"):
        Monitoring.of(settings(statsd_address="nowhere:8125"))


@pytest.mark.parametrize("value", ["host", ":8125", "host:", "host:0", "host:70000", "host:x"])
def test_an_address_has_a_host_and_a_port(value):
    with pytest.raises(SettingError, match="statsd_address"):
        settings(statsd_address=value)


def test_addresses():
    assert settings(statsd_address="[::1]:8125").statsd_address == ("::1", 8125)
    assert settings(otlp_endpoint="http://c:4318").otlp_endpoint == "http://c:4318/"
    assert settings(otlp_headers="a=b, c=d=e").otlp_headers == {"a": "b", "c": "d=e"}


@pytest.mark.parametrize("value", ["a b=c", "a=b\r\nx: y", "ü=x", "a=\x00"])
def test_a_header_that_is_none_is_said_without_its_value(value):
    with pytest.raises(SettingError, match="otlp_headers.*a value does not fit"):
        settings(otlp_headers=value)
