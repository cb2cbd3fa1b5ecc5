"""Rules by which a device takes itself out of service: what may be written, when they hold, and what follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol.errors import SettingError
from airflow_mqtt.protocol.messages import EventType, RejectReason, WorkerStatus
from airflow_mqtt.worker.core import rules
from airflow_mqtt.worker.core.effects import Say
from airflow_mqtt.worker.core.rules import MAX_CONDITIONS, Condition, Rules, conditions

MB = 10**6


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("disk_free < 200 MB", Condition("disk_free", above=False, limit=200 * MB)),
        ("disk_free<1.5gb", Condition("disk_free", above=False, limit=1500 * MB)),
        ("disk_free < 5 %", Condition("disk_free", above=False, limit=5, of="disk_total")),
        ("memory_used > 95%", Condition("memory_used", above=True, limit=95, of="memory_total")),
        ("journal > 1 MiB", Condition("journal", above=True, limit=2**20)),
        ("temperature > 80", Condition("temperature", above=True, limit=80)),
        ("temperature < -20 °C", Condition("temperature", above=False, limit=-20)),
        ("battery < 20 %", Condition("battery", above=False, limit=20)),
        ("cpu > 99", Condition("cpu", above=True, limit=99)),
        ("extra.wind_speed > 25", Condition("extra.wind_speed", above=True, limit=25)),
    ],
)
def test_a_condition(text: str, condition: Condition) -> None:
    assert conditions(f" , {text},") == (condition,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disk_free", "is not like"),
        ("disk_free <= 1", "is not like"),
        ("disk_free < much", "is not like"),
        ("disk < 1", "'disk' is no figure; there are cpu"),
        ("temperature > 80 MB", "has no unit of temperature"),
        ("temperature > 80 %", "has no unit of temperature"),
        ("journal > 5 %", "has no unit of journal"),
        ("disk_free < 9999999 TB", "too large"),
        ("extra. > 1", "is no figure"),
        (",".join(["cpu > 1"] * (MAX_CONDITIONS + 1)), "more than"),
        ("\x1b[31m > 1", "is not like"),
    ],
)
def test_what_is_no_condition_is_said(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        conditions(text)


def test_nothing_is_no_rule() -> None:
    assert conditions("") == ()
    assert rules.of((), ()).decide({}, {"cpu": 100.0}) == {}


@pytest.mark.parametrize(
    ("when", "until", "said"),
    [
        ("temperature > 80", "disk_free > 1 GB", "nothing in maintenance_when is about disk_free"),
        ("temperature > 80", "temperature > 90", "is no way back from temperature > 80"),
        ("temperature > 80", "temperature < 81", "is so already when temperature > 80 begins"),
        ("", "cpu < 1", "nothing in maintenance_when is about cpu"),
    ],
)
def test_a_way_back_leads_back(when: str, until: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        rules.of(conditions(when), conditions(until))


def held(made: Rules, *figures: dict) -> list[list[str]]:
    """Return what holds after each of `figures`."""
    now: dict[Condition, str] = {}
    seen = []
    for one in figures:
        now = made.decide(now, one)
        seen.append([str(condition) for condition in now])
    return seen


def test_a_condition_holds_until_its_figure_is_back_by_the_margin() -> None:
    made = rules.of(conditions("temperature > 80, disk_free < 200 MB"), ())
    hot, room = "temperature > 80", "disk_free < 200 MB"
    assert held(made, *({"temperature": value} for value in (80, 80.1, 79, 72.1, 72, 80))) == [
        [], [hot], [hot], [hot], [], [],
    ]  # fmt: skip
    assert held(made, *({"disk_free": value * MB} for value in (200, 199, 219, 220))) == [[], [room], [room], []]


def test_the_way_back_that_is_given_goes_before_the_margin() -> None:
    made = rules.of(conditions("disk_free < 200 MB, cpu > 90"), conditions("disk_free > 1 GB"))
    assert held(made, *({"disk_free": value * MB, "cpu": 1} for value in (100, 900, 1001))) == [
        ["disk_free < 200 MB"], ["disk_free < 200 MB"], [],
    ]  # fmt: skip


def test_a_figure_that_is_not_told_changes_nothing() -> None:
    made = rules.of(conditions("temperature > 80, memory_used > 95 %, extra.door > 0"), ())
    assert held(made, {}, {"memory_used": 9, "extra": {"door": "open"}}, {"temperature": 90}, {}, {"temperature": 70}) == [
        [], [], ["temperature > 80"], ["temperature > 80"], [],
    ]  # fmt: skip


def test_it_says_why() -> None:
    made = rules.of(conditions("disk_free < 200 MB, memory_used > 95 %, extra.wind > 25"), ())
    figures = {"disk_free": 150 * MB, "memory_used": 97, "memory_total": 100, "extra": {"wind": 31.5}}
    why = rules.reason(made.decide({}, figures))
    assert why == "disk_free < 200 MB (150 MB); memory_used > 95 % (97 %); extra.wind > 25 (31.5)"
    assert rules.reason(made.decide(made.decide({}, figures), figures | {"disk_free": 149 * MB})) == why


NUMBERS = st.floats(-1000, 1000)


@given(st.booleans(), st.floats(-500, 500), st.lists(st.none() | NUMBERS, max_size=20))
def test_no_figure_makes_it_flap(above: bool, limit: float, values: list[float | None]) -> None:
    """From one end of a condition to its next beginning, the figure has crossed the margin both ways."""
    condition = Condition("temperature", above=above, limit=limit)
    made, now = Rules((condition,)), {}
    for value in values:
        before, now = now, made.decide(now, {} if value is None else {"temperature": value})
        if now and not before:
            assert condition.passed(value)
        if before and not now:
            assert condition.back(value) and not condition.passed(value)
        assert before == now or value is not None


# --- the device -------------------------------------------------------------------------------------------

HOT = rules.of(conditions("temperature > 80"), ())


def figures(device, **values) -> None:
    device.core.figures(values, device.now)
    device.settle()


def test_a_hot_device_takes_no_jobs_and_says_why_until_it_is_cool(device_of) -> None:
    device = device_of(rules=HOT).connect()
    device.start("a")
    device.forget()
    figures(device, temperature=81)
    device.run("b")
    device.wait(1)
    (status,) = device.statuses()
    assert (status.maintenance, status.own_maintenance, status.running) == (True, True, 1)
    assert status.reason == "temperature > 80 (81)"
    assert [(event.job, event.type, event.reason) for event in device.reports()] == [
        ("b", EventType.REJECTED, RejectReason.DRAINING)
    ]
    figures(device, temperature=79)
    device.wait(1)
    figures(device, temperature=60)
    device.wait(1)
    assert [(status.maintenance, status.reason) for status in device.statuses()[1:]] == [(False, "")]
    device.run("c")
    assert device.said("c") == [EventType.ACCEPTED]
    assert [say.text for say in device.of(Say)] == [
        "no more jobs are taken, by maintenance_when: temperature > 80 (81)",
        "maintenance_when: temperature > 80 is over",
    ]


def test_an_operators_maintenance_and_its_own_do_not_end_each_other(device_of) -> None:
    device = device_of(rules=HOT).connect()
    figures(device, temperature=90)
    device.desire(1, maintenance=True)
    figures(device, temperature=20)
    device.wait(1)
    assert (device.statuses()[-1].maintenance, device.statuses()[-1].own_maintenance) == (True, False)
    figures(device, temperature=90)
    device.desire(2, maintenance=False)
    device.wait(1)
    assert (device.statuses()[-1].maintenance, device.statuses()[-1].own_maintenance) == (True, True)


def test_the_will_is_no_reason(device_of) -> None:
    device = device_of(rules=HOT)
    device.core.figures({"temperature": 90}, device.now)
    _, will = device.core.connecting(device.now)
    assert (WorkerStatus.decode(will).state, WorkerStatus.decode(will).reason) == ("offline", "lost")
