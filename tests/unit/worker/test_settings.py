"""The settings of a worker, and the command line made of them."""

import os
import sys
from pathlib import Path

import pytest

from airflow_mqtt.cli.main import main
from airflow_mqtt.config.bridge import SETTINGS as BRIDGE_SETTINGS
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.codec import MAX_DECODED_BYTES
from airflow_mqtt.protocol.errors import RefusedError, SettingError
from airflow_mqtt.worker import main as worker_main
from airflow_mqtt.worker.settings import SETTINGS, WorkerSettings, default_state_dir, host_name


def _settings(**values: str) -> WorkerSettings:
    source = Source(lambda setting: setting.flag, {"broker_url": "mqtt://u:p@h", **values})
    return WorkerSettings.of(resolve(SETTINGS, [source]))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Catches what `worker run` would run with."""
    seen: list[dict] = []
    monkeypatch.setattr(worker_main, "run", lambda values: seen.append(values) or 0)
    for name in [name for name in os.environ if name.startswith("AIRFLOW_MQTT_")]:
        monkeypatch.delenv(name)
    return seen


@pytest.mark.parametrize(
    ("url", "said"),
    [("mqtt://edge-1:p@h", 1), ("mqtt://edge-2:p@h", 0), ("mqtts://h", 0), ("mqtt://:p@h", 0)],
)
def test_an_account_that_is_not_the_name_is_a_warning(caplog: pytest.LogCaptureFixture, url: str, said: int) -> None:
    worker_main._warn_of_account(_settings(broker_url=url, name="edge-2"))
    assert caplog.text.count("the account 'edge-1' of broker_url is not the worker's name 'edge-2'") == said


def test_defaults_fit_the_machine() -> None:
    settings = _settings()
    assert settings.name == host_name()
    assert settings.state_dir == default_state_dir(settings.name)
    assert (settings.queues, settings.slots) == (("default",), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "a b"),
        ("name", "x" * 65),
        ("queues", " , "),
        ("queues", "q" * 300),
        ("queues", "caf\udce9"),  # bytes of the environment that are not UTF-8
        ("queues", "a\x00b"),
        ("labels", "site=K\udcf6ln"),
        ("queues", ",".join(map(str, range(300)))),
        ("slots", "-1"),
        ("slots", "many"),
        ("keepalive", "0"),
        ("mqtt_version", "4"),
        ("tls_ca_file", "/nowhere/ca.pem"),
        ("tls_ca_file", "~nosuchuser/ca.pem"),
        ("state_dir", "~nosuchuser/state"),
        ("root", "a/#"),
        ("broker_url", "amqp://h"),
        ("labels", "no-equals"),
        ("log_level", "loud"),
        ("max_message_bytes", "8388609"),
        ("python", " "),
        ("python", "/nowhere/python"),
        ("python", "no-such-python"),
        ("python", "~nosuchuser/python"),
        ("python", "/"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        _settings(**{name: value})


def test_without_a_home_the_state_directory_must_be_given(monkeypatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with pytest.raises(SettingError, match="--state-dir"):
        _settings()
    assert _settings(state_dir=str(tmp_path)).state_dir == tmp_path


def test_a_program_is_found_as_a_shell_finds_it(tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "python-of-tasks"
    program.symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in (str(program), "python-of-tasks", "./python-of-tasks", "~/python-of-tasks"):
        assert _settings(python=given).python == str(program)
    assert _settings().python == sys.executable


def test_a_program_that_may_not_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").touch(mode=0o644)
    with pytest.raises(SettingError, match="no program that may be run"):
        _settings(python=str(tmp_path / "python"))


def test_a_message_may_be_as_large_as_the_protocol_takes() -> None:
    """One that is larger would be refused by each bridge, and sent again for ever."""
    assert _settings(max_message_bytes=str(MAX_DECODED_BYTES)).max_message_bytes == MAX_DECODED_BYTES
    (bridges,) = (setting for setting in BRIDGE_SETTINGS if setting.name == "max_message_bytes")
    assert bridges.parse(str(MAX_DECODED_BYTES)) == MAX_DECODED_BYTES


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    with pytest.raises(SettingError, match="tls_key_file"):
        _settings(tls_cert_file=str(tmp_path / "c.pem"))


def test_a_flag_goes_before_the_environment_and_that_before_the_file(ran, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('broker_url = "mqtt://file"\nqueues = ["a", "b"]\nslots = 3\nkeepalive = 5\n')
    monkeypatch.setenv("AIRFLOW_MQTT_SLOTS", "4")
    monkeypatch.setenv("AIRFLOW_MQTT_KEEPALIVE", "6")
    assert main(["worker", "run", "--config", str(file), "--slots", "5"]) == 0
    values = ran[0]
    assert (values["slots"], values["keepalive"], values["queues"]) == (5, 6, ("a", "b"))
    assert values["broker_url"].host == "file"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["worker", "run"], "broker_url is missing"),
        (["worker", "run", "--broker-url", "mqtt://u:hidden@h:x"], "broker_url from the flag"),
        (["worker", "run", "--config", "/nowhere.toml"], "/nowhere.toml cannot be read"),
        (["worker", "run", "--broker-url"], "expected one argument"),
        (
            ["worker", "run", "--broker-url", "mqtt://h", "--python", "/nonexistent"],
            "python from the flag --python: '/nonexistent' does not fit (no such program)",
        ),
        (["nonsense"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments: --nonsense; see airflow-mqtt --help"),
        (["worker", "run", "--nmae", "x"], "unrecognized arguments: --nmae; see airflow-mqtt worker run --help"),
        (["bridge", "run", "--nmae", "x"], "unrecognized arguments: --nmae; see airflow-mqtt bridge run --help"),
        (["worker", "run", "--brokerurl", "mqtt://u:hidden@h"], "unrecognized arguments: --brokerurl; see"),
        (["worker", "run", "--brokerurl=mqtt://u:hidden@h"], "unrecognized arguments: --brokerurl; see"),
        (["worker", "--nmae"], "see airflow-mqtt worker run --help"),
        (["worker"], "give `run` or another: airflow-mqtt worker run …; see airflow-mqtt worker --help"),
        (["bridge"], "give `run`: airflow-mqtt bridge run …; see airflow-mqtt bridge --help"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(ran, capsys, arguments: list[str], said: str) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert "hidden" not in err


def test_a_wrong_key_in_the_file_is_named(ran, capsys, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('broker_ulr = "mqtt://h"\n')
    assert main(["worker", "run", "--config", str(file)]) == 2
    assert "'broker_ulr'" in capsys.readouterr().err


def test_a_wrong_variable_is_named_and_the_bridges_are_not_wrong(ran, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_MQTT_DATABASE_URL", "sqlite://")
    assert main(["worker", "run", "--broker-url", "mqtt://h"]) == 0
    monkeypatch.setenv("AIRFLOW_MQTT_BROKER_ULR", "mqtt://h")
    assert main(["worker", "run", "--broker-url", "mqtt://h"]) == 2
    assert "AIRFLOW_MQTT_BROKER_ULR" in capsys.readouterr().err


def test_a_missing_extra_says_what_to_install(ran, capsys, monkeypatch) -> None:
    def missing(_name: str) -> None:
        raise ModuleNotFoundError("No module named 'aiomqtt'", name="aiomqtt")

    monkeypatch.setattr(sys.modules["airflow_mqtt.cli.main"].importlib, "import_module", missing)
    assert main(["bridge", "run"]) == 2
    assert "pip install 'airflow-mqtt[bridge]'" in capsys.readouterr().err


def test_a_refusal_is_exit_1(ran, capsys, monkeypatch) -> None:
    def refuse(_values: dict) -> int:
        raise RefusedError("somebody else holds it")

    monkeypatch.setattr(worker_main, "run", refuse)
    assert main(["worker", "run", "--broker-url", "mqtt://h"]) == 1
    assert capsys.readouterr().err == "airflow-mqtt: somebody else holds it\n"


def test_help_teaches(ran, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["worker", "run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for setting in SETTINGS:
        assert setting.flag in text
        assert setting.env in text
    assert "74 disk full" in " ".join(text.split())
