"""Where a setting's value comes from, and the one line that a person gets when it is wrong."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_mqtt.config import settings
from airflow_mqtt.config.broker_url import parse_broker_url
from airflow_mqtt.config.settings import Setting, Source, from_environment, from_table, resolve
from airflow_mqtt.protocol.errors import SettingError

SLOTS = Setting("slots", settings.integer(1, 99), "1 to 99", "how many", default="1")
NAME = Setting("name", settings.text, "any text", "who", required=True)
URL = Setting("broker_url", parse_broker_url, "mqtt://… or mqtts://…", "where", required=True, secret=True)
LABELS = Setting("labels", settings.pairs, "key=value,…", "what", default="")
NOTE = Setting("note", settings.text, "any text", "optional")
ALL = (SLOTS, NAME, URL, LABELS, NOTE)
KNOWN = {setting.name for setting in ALL} | {"database_url", "config"}


def _flags(**values: str) -> Source:
    return Source(lambda setting: f"the flag {setting.flag}", values)


def _failure(call, *args) -> str:
    with pytest.raises(SettingError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


@given(st.lists(st.none() | st.integers(1, 99), min_size=1, max_size=4))
def test_the_first_source_that_has_a_value_wins(values):
    sources = [Source(lambda _: "somewhere", {} if value is None else {"slots": str(value)}) for value in values]
    expected = next((value for value in values if value is not None), 1)
    assert resolve([SLOTS], sources) == {"slots": expected}


def test_a_flag_goes_before_environment_file_and_default():
    environment = from_environment(ALL, {"AIRFLOW_MQTT_SLOTS": "3", "AIRFLOW_MQTT_NAME": "env", "PATH": "x"}, KNOWN)
    table = from_table(ALL, {"slots": 4, "name": "file", "labels": {"a": 1}}, "worker.toml", KNOWN)
    got = resolve((SLOTS, NAME, LABELS, NOTE), [_flags(slots="2"), environment, table])
    assert got == {"slots": 2, "name": "env", "labels": {"a": "1"}, "note": None}


def test_a_wrong_value_in_a_source_that_is_not_reached_does_no_harm():
    assert resolve([SLOTS], [_flags(slots="2"), _flags(slots="many")]) == {"slots": 2}


def test_names_of_flag_and_variable():
    assert (URL.flag, URL.env) == ("--broker-url", "AIRFLOW_MQTT_BROKER_URL")


def test_a_missing_setting_is_named_with_every_place_where_it_can_be_given():
    text = _failure(resolve, [NAME], [])
    assert text.startswith("name is missing: ")
    for part in ("--name", "AIRFLOW_MQTT_NAME", "--config", "any text"):
        assert part in text


@pytest.mark.parametrize(
    ("source", "where"),
    [
        (_flags(slots="many"), "the flag --slots"),
        (
            from_environment(ALL, {"AIRFLOW_MQTT_SLOTS": "0"}, KNOWN),
            "the environment variable AIRFLOW_MQTT_SLOTS",
        ),
        (from_table(ALL, {"slots": 4.5}, "worker.toml", KNOWN), "slots in worker.toml"),
        (from_table(ALL, {"slots": True}, "worker.toml", KNOWN), "slots in worker.toml"),
    ],
)
def test_a_malformed_value_is_shown_with_its_place_and_what_is_allowed(source, where):
    text = _failure(resolve, [SLOTS], [source])
    assert text.startswith(f"slots from {where}: {source.values['slots']!r} does not fit")
    assert text.endswith("allowed: 1 to 99")


def test_a_malformed_default_says_that_it_is_one():
    broken = Setting("slots", settings.integer(1, 99), "1 to 99", "", default="0")
    assert "its default" in _failure(resolve, [broken], [])


def test_an_unknown_variable_is_a_mistake_and_another_commands_is_not():
    text = _failure(from_environment, ALL, {"AIRFLOW_MQTT_SLOT": "secret!"}, KNOWN)
    assert text.startswith("AIRFLOW_MQTT_SLOT in the environment is no setting; allowed: ")
    assert "AIRFLOW_MQTT_SLOTS" in text
    assert "secret!" not in text
    assert from_environment(ALL, {"AIRFLOW_MQTT_DATABASE_URL": "x", "AIRFLOW__MQTT__X": "y"}, KNOWN).values == {}


def test_an_unknown_key_is_a_mistake_and_another_commands_is_not():
    text = _failure(from_table, ALL, {"slot": "secret!"}, "worker.toml", KNOWN)
    assert text.startswith("'slot' in worker.toml is no setting; allowed: ")
    assert "secret!" not in text
    assert from_table(ALL, {"database_url": "x"}, "worker.toml", KNOWN).values == {}


@given(st.text(max_size=200))
@example("a\nb")
@example("\u2028")
@example("9" * 5000)
def test_any_text_gives_a_value_or_one_line(value):
    for setting in ALL:
        try:
            resolve([setting], [_flags(**{setting.name: value})])
        except SettingError as error:
            assert len(str(error).splitlines()) == 1
            assert str(error).startswith(f"{setting.name} from the flag {setting.flag}: ")
            assert str(error).endswith(f"allowed: {setting.allowed}")


@given(st.text("abcXYZ019!$%&*()_-+=/?#[]@:;,.~", min_size=1, max_size=20).map("s3cr3t".__add__))
@example("s3cr3t/x")
@example("s3cr3t\u2100")
def test_a_password_is_never_shown_whether_the_url_is_right_or_not(password):
    for url in (
        f"mqtt://user:{password}@host:1883",
        f"mqtt://user:{password}",
        f"mqtt://user:{password}@",
        f"mqtt://user:{password}@host:port",
        f"mqtt://user:{password}@host:99999",
        f"mqtt://user:{password}@host/path",
        f"amqp://user:{password}@host",
        f"user:{password}@host",
        f"{password}@host",
        password,
    ):
        try:
            found = resolve([URL], [_flags(broker_url=url)])["broker_url"]
        except SettingError as error:
            assert "s3cr3t" not in str(error)
        else:
            assert "s3cr3t" not in str(found) + repr(found)


# --- parsers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (settings.text, " a b ", "a b"),
        (settings.flag, "Yes", True),
        (settings.flag, "off", False),
        (settings.integer(1, 3), "3", 3),
        (settings.seconds(0, 9), "0.5", 0.5),
        (settings.choice("auto", "5"), "auto", "auto"),
        (settings.names, "a, b,,a", ("a", "b")),
        (settings.pairs, "a=1, b = x=y ,", {"a": "1", "b": "x=y"}),
        (settings.pairs, "", {}),
        (settings.durations, "default=60,slow=1.5", {"default": 60.0, "slow": 1.5}),
    ],
)
def test_what_a_parser_takes(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (settings.text, "  "),
        (settings.flag, "perhaps"),
        (settings.integer(1, 3), "4"),
        (settings.integer(1, 3), "1.0"),
        (settings.seconds(0, 9), "nan"),
        (settings.seconds(0, 9), "inf"),
        (settings.seconds(0, 9), "-1"),
        (settings.choice("auto", "5"), "Auto"),
        (settings.names, " , "),
        (settings.pairs, "a"),
        (settings.pairs, "=1"),
        (settings.durations, "a="),
        (settings.durations, "a=nan"),
        (settings.durations, "a=inf"),
        (settings.durations, "a=-1"),
    ],
)
def test_what_a_parser_refuses(parse, text):
    with pytest.raises((SettingError, ValueError)):
        parse(text)


def test_a_file_holds_values_as_people_write_them():
    values = from_table(
        (SLOTS, NAME, LABELS, NOTE),
        {"slots": 2, "name": True, "labels": {"a": 1, "b": "x"}, "note": ["a", "b"]},
        "f",
        KNOWN,
    ).values
    assert values == {"slots": "2", "name": "true", "labels": "a=1,b=x", "note": "a,b"}
