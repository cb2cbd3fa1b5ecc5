import pytest
from airflow.configuration import AirflowConfigParser
from sqlalchemy.engine import make_url

from airflow_mqtt.config.bridge import SETTINGS, BridgeSettings, airflow_sources
from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.config.settings import Source, resolve
from airflow_mqtt.protocol.errors import SettingError

NEEDED = {
    "broker_url": "mqtt://u:secret@h",
    "database_url": "postgresql+psycopg2://u:p@h/d",
    "execution_api_url": "http://h:8080/execution",
}


def values(**given):
    return resolve(SETTINGS, [Source(lambda s: s.flag, {**NEEDED, **given})])


def test_defaults_make_a_bridge():
    settings = BridgeSettings.of(values())
    assert settings.execution_api_url == "http://h:8080/execution/"
    assert settings.instance
    assert settings.lost_after_of("any") == 900
    assert settings.broker_url.port == 1883


def test_retention_is_a_month_and_can_be_for_ever():
    assert BridgeSettings.of(values()).retention == 30 * 86400
    assert BridgeSettings.of(values(retention="0")).retention == 0


def test_lost_after_per_queue():
    settings = BridgeSettings.of(values(queue_lost_after="solar=86400, lte=60"))
    assert (settings.lost_after_of("solar"), settings.lost_after_of("lte"), settings.lost_after_of("x")) == (
        86400,
        60,
        900,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("broker_url", "http://h"), ("database_url", "mysql://h/d"), ("execution_api_url", "h:8080"), ("root", "a//b"),
        ("lease_ttl", "0"), ("accept_tries", "many"), ("mqtt_version", "4"), ("queue_lost_after", "solar"),
        ("database_url", "sqlite://airflow.db"), ("database_url", "sqlite://"), ("database_url", "sqlite:///:memory:"),
        ("database_url", "postgresql+nosuch://u:secret@h/d"), ("database_url", "sqlite+psycopg2:////tmp/airflow.db"),
        ("database_url", "postgresql://u:secret@x@h/d"), ("database_url", "postgresql://u:x@h:secret/d"), ("queue_lost_after", "solar=0"),
        ("queue_lost_after", "lte=60,solar=2592001"), ("tls_ca_file", "/nonexistent/ca.pem"), ("tls_cert_file", "/"),
        ("tls_key_file", " "), ("tls_ca_file", "~nobody-of-this-name/ca.pem"), ("retention", "60"), ("retention", "-1"), ("retention", "nan"), ("retention", "30d"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_the_setting(name, value):
    with pytest.raises(SettingError) as caught:
        values(**{name: value})
    text = str(caught.value)
    assert text.startswith(name) and "allowed:" in text and "\n" not in text and "secret" not in text


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg2://h/d", "postgresql+psycopg://h/d", "postgresql+asyncpg://h/d", "postgres://h/d",
     "postgresql:///d?host=/run/postgresql", "sqlite:////a.db", "sqlite+pysqlite:////a.db", "sqlite+aiosqlite:////a.db"],
)  # fmt: skip
def test_whatever_airflow_connects_with_is_a_database(url):
    assert BridgeSettings.of(values(database_url=url)).database_url == url


@pytest.mark.parametrize("character", '[]{}|^ /#?\\"<>`%')
def test_a_password_may_hold_what_airflow_takes(character):
    url = f"postgresql://u:a{character}b@h:5432/d"
    assert BridgeSettings.of(values(database_url=url)).database_url == url
    assert make_url(url).password == f"a{character}b"


@pytest.mark.parametrize(("url", "hint"), [("postgresql://u:a@b@h/d", "%40"), ("postgresql://u/x:p@h/d", "%2F")])
def test_what_a_database_url_cannot_hold_is_named(url, hint):
    with pytest.raises(SettingError, match=hint):
        values(database_url=url)


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqldb", "mariadb", "mssql+pyodbc"])
def test_a_database_that_is_not_supported_is_named_with_those_that_are(scheme):
    with pytest.raises(SettingError, match=r"is not supported by airflow-mqtt.*postgresql://.*sqlite:///"):
        values(database_url=f"{scheme}://u:p@h/d")


def test_two_slashes_of_sqlite_are_told_from_four():
    with pytest.raises(SettingError, match="a path needs sqlite:////absolute/path"):
        values(database_url="sqlite://airflow.db")


def test_certificate_and_key_go_together(tmp_path):
    (tmp_path / "cert.pem").touch()
    with pytest.raises(SettingError, match="tls_cert_file and tls_key_file go together"):
        BridgeSettings.of(values(tls_cert_file=str(tmp_path / "cert.pem")))


def test_airflow_cfg_and_its_environment(tmp_path):
    (tmp_path / "airflow.cfg").write_text("[core]\nx = %(broken)s\n[mqtt]\nbroker_url = mqtt://cfg\nroot = site\n")
    sources = airflow_sources({"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__MQTT__ROOT": "env"})
    given = {name: text for name, text in NEEDED.items() if name != "broker_url"}
    settings = BridgeSettings.of(resolve(SETTINGS, [Source(lambda s: s.flag, given), *sources]))
    assert settings.broker_url.host == "cfg"
    assert settings.root == "env"


@pytest.mark.parametrize(
    ("written", "password"),
    [("p%%40ss", "p@ss"), ("p%%%%ss", "p%%ss"), ("%(other)s", "x"), ("$EDGE_PASSWORD", "from a variable")],
)
def test_airflow_cfg_is_read_as_airflow_reads_it(tmp_path, monkeypatch, written, password):
    monkeypatch.setenv("EDGE_PASSWORD", "from a variable")
    path = tmp_path / "airflow.cfg"
    path.write_text(f"[mqtt]\nother = x\nbroker_url = mqtt://u:{written}@h\n")
    file = next(one for one in airflow_sources({"AIRFLOW_HOME": str(tmp_path)}) if "broker_url" in one.values)
    airflows = AirflowConfigParser()
    airflows.read(path)
    assert file.values["broker_url"] == airflows._get_option_from_config_file(None, None, "broker_url", "mqtt")
    url = resolve(SETTINGS, [file, Source(lambda s: s.flag, NEEDED)])["broker_url"]
    assert url.password == password


def test_a_percent_sign_that_airflow_cannot_read_is_named_with_its_place(tmp_path):
    (tmp_path / "airflow.cfg").write_text("[mqtt]\nbroker_url = mqtt://u:p%40ss@h\n")
    with pytest.raises(SettingError, match=r"\[mqtt\] broker_url in .*airflow.cfg: a '%' is written '%%'") as raised:
        airflow_sources({"AIRFLOW_HOME": str(tmp_path)})
    assert "ss@h" not in str(raised.value) and "\n" not in str(raised.value)


def airflows_parser() -> AirflowConfigParser:
    """Airflow's own, which takes `broker_url` for a secret as the provider declares it to be."""
    parser = AirflowConfigParser()
    parser.__dict__["sensitive_config_values"] = {("mqtt", "broker_url")}
    return parser


@pytest.mark.parametrize(
    "command",
    ["printf mqtt://u:%%s@h 'p w'", "sh -c 'echo mqtt://u:$EDGE_PASSWORD@h'", "printf mqtt://$EDGE_PASSWORD@h"],
)
def test_a_secret_may_come_from_a_command_as_airflow_runs_it(tmp_path, monkeypatch, command):
    monkeypatch.setenv("EDGE_PASSWORD", "from-a-variable")
    path = tmp_path / "airflow.cfg"
    path.write_text(f"[mqtt]\nbroker_url_cmd = {command}\n")
    airflows = airflows_parser()
    airflows.read(path)
    found = resolve([SETTINGS[0]], airflow_sources({"AIRFLOW_HOME": str(tmp_path)}))["broker_url"]
    theirs = airflows._get_option_from_commands(None, None, "broker_url", "mqtt")
    assert found == parse_broker_url(theirs.strip())
    in_environment = command.replace("%%", "%")
    monkeypatch.setenv("AIRFLOW__MQTT__BROKER_URL_CMD", in_environment)
    (there, *_) = resolve([SETTINGS[0]], airflow_sources({"AIRFLOW__MQTT__BROKER_URL_CMD": in_environment})).values()
    assert there == parse_broker_url(airflows._get_env_var_option("mqtt", "broker_url").strip())


def test_of_several_ways_to_say_a_secret_airflows_first_one_counts(tmp_path):
    """And the command of another is not run."""
    ran = tmp_path / "ran"
    ways = [
        ("AIRFLOW__MQTT__BROKER_URL", "mqtt://variable"),
        ("AIRFLOW__MQTT__BROKER_URL_CMD", "echo mqtt://its-command"),
        ("broker_url", "mqtt://file"),
        ("broker_url_cmd", "echo mqtt://command-of-the-file"),
    ]
    found = []
    while ways:
        environment = {name: text for name, text in ways if name.isupper()}
        lines = [f"{name} = {text}" for name, text in ways if name.islower()]
        (tmp_path / "airflow.cfg").write_text("\n".join(["[mqtt]", *lines, f"database_url_cmd = touch {ran}"]))
        sources = airflow_sources({"AIRFLOW_HOME": str(tmp_path), **environment})
        found.append(resolve([SETTINGS[0]], sources)["broker_url"].host)
        del ways[0]
    assert found == ["variable", "its-command", "file", "command-of-the-file"]
    assert not ran.exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("sh -c 'echo s3cr3t; echo no such vault >&2; exit 4'", "the command ended with exit code 4: no such vault"),
        ("sh -c 'echo s3cr3t; exit 4'", "the command ended with exit code 4: it says nothing"),
        ("/no/such/program", "the command cannot be run: .*No such file"),
        ("sh -c 'unfinished", "the command cannot be run: No closing quotation"),
        ("echo s3cr3t", "a value does not fit"),
    ],
)
def test_a_command_that_gives_no_secret_is_one_line_that_names_its_place(tmp_path, command, told):
    (tmp_path / "airflow.cfg").write_text(f"[mqtt]\nbroker_url_cmd = {command}\n")
    with pytest.raises(SettingError, match=told) as raised:
        resolve([SETTINGS[0]], airflow_sources({"AIRFLOW_HOME": str(tmp_path)}))
    assert str(raised.value).startswith(f"broker_url from [mqtt] broker_url_cmd in {tmp_path}/airflow.cfg: ")
    assert "s3cr3t" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("where", ["AIRFLOW__MQTT__BROKER_URL_SECRET", "broker_url_secret"])
def test_a_secrets_backend_is_airflows_alone_and_that_is_said(tmp_path, where):
    (tmp_path / "airflow.cfg").write_text(f"[mqtt]\n{where} = edge\n" if where.islower() else "")
    environment = {"AIRFLOW_HOME": str(tmp_path)} | ({where: "edge"} if where.isupper() else {})
    with pytest.raises(SettingError, match=f"^broker_url from .*{where}.*: only Airflow itself can ask .*_cmd instead"):
        resolve([SETTINGS[0]], airflow_sources(environment))
    given = Source(lambda s: s.flag, {"broker_url": "mqtt://flag"})
    assert resolve([SETTINGS[0]], [given, *airflow_sources(environment)])["broker_url"].host == "flag"


def test_what_is_no_secret_has_no_command(tmp_path):
    """Nor has it with Airflow, which runs commands of options alone that are declared to be sensitive."""
    (tmp_path / "airflow.cfg").write_text(f"[mqtt]\nroot_cmd = touch {tmp_path}/ran\n")
    setting = next(one for one in SETTINGS if one.name == "root")
    assert resolve([setting], airflow_sources({"AIRFLOW_HOME": str(tmp_path)}))["root"] == "airflow"
    assert not (tmp_path / "ran").exists()


def test_a_broken_airflow_cfg_is_a_setting_error(tmp_path):
    (tmp_path / "airflow.cfg").write_text("no section\n")
    with pytest.raises(SettingError, match="airflow.cfg cannot be read"):
        airflow_sources({"AIRFLOW_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9883", "127.0.0.1", 9883),
        ("[::1]:9883", "::1", 9883),
        ("edge-site.example:1", "edge-site.example", 1),
    ],
)
def test_an_address_is_a_host_and_a_port(text, host, port):
    assert values(metrics_address=text)["metrics_address"] == (host, port)


@pytest.mark.parametrize("text", ["9883", ":9883", "host", "host:0", "host:65536", "host:port"])
def test_what_is_no_address_is_said(text):
    with pytest.raises(SettingError, match="metrics_address"):
        values(metrics_address=text)
