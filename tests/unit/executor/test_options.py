"""What a task asks for in its `executor_config`, and what a mistake in it is answered with."""

import pytest

from airflow_mqtt.executor import options
from airflow_mqtt.executor.options import Options
from airflow_mqtt.protocol.errors import PayloadError, SettingError


def test_what_is_asked_for():
    config = {"mqtt": {"labels": {"site": "north", "camera": "yes"}, "start_within": 60}}
    assert options.read(config) == Options((("camera", "yes"), ("site", "north")), 60.0)


@pytest.mark.parametrize("config", [None, {}, {"pod_override": object()}, {"mqtt": None}, {"mqtt": {}}, "x", 3])
def test_who_asks_for_nothing_gets_nothing(config):
    assert options.read(config) == Options()


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ("camera=yes", "it is 'camera=yes'"),
        ({"label": {}}, "there is no 'label'"),
        ({"labels": ["camera"]}, "labels are a dictionary"),
        ({"labels": {"camera": True}}, "'True' is no label"),
        ({"start_within": "10 min"}, "a number of seconds, not '10 min'"),
        ({"start_within": True}, "a number of seconds"),
        ({"start_within": -1}, "0 to 1000000000 seconds"),
        ({"start_within": float("nan")}, "0 to 1000000000 seconds"),
        ({"start_within": 10**400}, "seconds"),
        ({"\x1b[31m": 1}, "there is no '\\x1b[31m'"),
    ],
)
def test_a_mistake_is_one_line_with_what_to_write(asked, what):
    with pytest.raises(PayloadError) as error:
        options.read({"mqtt": asked})
    said = str(error.value)
    assert what in said and '{"mqtt": {"labels"' in said and said.isprintable() and len(said) < 500


def test_the_deadline_of_a_task_goes_before_that_of_its_queue():
    by_queue = options.start_within("gateways=600, *=60")
    assert options.deadline(Options(), "gateways", by_queue, 5.0) == 605.0
    assert options.deadline(Options(), "other", by_queue, 5.0) == 65.0
    assert options.deadline(Options(start_within=7.0), "gateways", by_queue, 5.0) == 12.0
    assert options.deadline(Options(start_within=0.0), "gateways", by_queue, 5.0) is None
    assert options.deadline(Options(), "any", options.start_within("gateways=600"), 5.0) is None
    assert options.deadline(Options(), "slow", options.start_within("slow=0,*=60"), 5.0) is None


@pytest.mark.parametrize("text", ["600", "gateways", "gateways=soon", "gateways=-1", "gateways=nan"])
def test_a_mistake_in_the_option_says_what_is_allowed(text):
    with pytest.raises(SettingError, match=r"\[mqtt\] start_within: .*gateways=600"):
        options.start_within(text)
