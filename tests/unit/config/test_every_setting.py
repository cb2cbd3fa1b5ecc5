"""What holds for each setting of worker, bridge and `top`."""

import pytest

from airflow_mqtt.config.bridge import SETTINGS as BRIDGE
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.monitor.settings import SETTINGS as MONITOR
from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.worker.settings import SETTINGS as WORKER

EVERY = [
    pytest.param(one, id=f"{part}-{one.name}")
    for part, settings in (("worker", WORKER), ("bridge", BRIDGE), ("top", MONITOR))
    for one in settings
]

WRONG = ("", " ", "\n", "no\nsuch\nvalue", "\x00", "-1", "1e99", "nan", "{}", "ä" * 300)

#: Mistakes that people make with URLs.
MISTAKES = (
    "s3cr3t",
    "user:s3cr3t@host",
    "user:s3cr3t@host/name",
    "mqtt://user:s3cr3t",
    "mqtt://user:s3cr3t@host:port",
    "mqtt://user:s3cr3t/x@host",
    "mqtt://user:s3cr3t@host/topic",
    "oracle://user:s3cr3t@host/name",
    "postgresql://user:s3cr3t@host:port/name",
    "postgresql:/user:s3cr3t@host",
)


def _resolve(setting, text: str):
    return resolve([setting], [Source(lambda one: f"the flag {one.flag}", {setting.name: text})])[setting.name]


@pytest.mark.parametrize("setting", EVERY)
def test_it_can_be_understood_and_left_out(setting):
    assert setting.help.strip()
    assert setting.allowed.strip()
    if setting.required:
        assert setting.default is None
    else:
        resolve([setting], [])


@pytest.mark.parametrize("setting", EVERY)
def test_a_wrong_value_gets_one_line(setting):
    for text in WRONG:
        try:
            _resolve(setting, text)
        except SettingError as error:
            assert len(str(error).splitlines()) == 1
            assert str(error).startswith(f"{setting.name} from the flag {setting.flag}: ")
            assert str(error).endswith(f"allowed: {setting.allowed}")


@pytest.mark.parametrize("setting", [one for one in EVERY if one.values[0].secret])
@pytest.mark.parametrize("text", MISTAKES)
def test_a_secret_is_not_shown(setting, text):
    try:
        _resolve(setting, text)
    except SettingError as error:
        assert "s3cr3t" not in str(error)


def test_what_holds_a_password_is_a_secret():
    secrets = {"broker_url", "database_url", "listen_url", "otlp_headers"}
    assert {one.name for one in (*WORKER, *BRIDGE) if one.secret} == secrets
