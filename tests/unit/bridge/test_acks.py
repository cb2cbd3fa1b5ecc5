"""When a worker is told how far its reports have come: soon where it may wait for that, seldom where it goes on."""

from airflow_mqtt.bridge.acks import CALM, DELAY, MANY, PATIENCE, Acks

NOW = 1_000.0
NEVER, ALWAYS = (lambda _: False), (lambda _: True)


def put(acks, now=NOW, worker="edge-1", marks=None, reports=1, calm=False):
    acks.put(worker, marks or {}, now, reports=reports, calm=calm)


def test_what_comes_within_the_delay_is_one_message():
    acks = Acks()
    put(acks, marks={"a": 1})
    put(acks, NOW + DELAY / 2, marks={"a": 5, "b": 2})
    assert acks.due(NOW + DELAY / 2, NEVER) == []
    assert acks.next_due == NOW + DELAY
    assert acks.due(NOW + DELAY, NEVER) == ["edge-1"]
    assert acks.pop("edge-1") == {"a": 5, "b": 2}
    assert (len(acks), acks.next_due, acks.pop("edge-1")) == (0, None, None)


def test_one_that_goes_on_with_a_job_hears_it_seldom():
    acks = Acks()
    for step in range(10):
        put(acks, NOW + step * CALM / 10, calm=True)
    assert acks.due(NOW + CALM - 0.01, NEVER) == [] and acks.next_due == NOW + CALM
    assert acks.due(NOW + CALM, NEVER) == ["edge-1"]


def test_one_whose_last_job_has_ended_hears_of_all_soon():
    acks = Acks()
    put(acks, calm=True)
    put(acks, NOW + 1)
    assert acks.next_due == NOW + 1 + DELAY and len(acks) == 1
    assert acks.due(NOW + 1 + DELAY, NEVER) == ["edge-1"]


def test_one_that_would_soon_stop_to_report_hears_it_before():
    acks = Acks()
    for _ in range(MANY - 1):
        put(acks, calm=True)
    assert acks.next_due == NOW + CALM
    put(acks, calm=True)
    assert acks.next_due == NOW + DELAY
    put(acks, NOW + DELAY / 2, calm=True)  # it is on its way already
    assert acks.next_due == NOW + DELAY and len(acks) == 1


def test_many_at_once_are_not_left_waiting():
    acks = Acks()
    put(acks, reports=MANY, calm=True)
    assert acks.next_due == NOW + DELAY


def test_it_goes_with_the_answer_to_a_call_for_a_while():
    acks = Acks()
    put(acks)
    assert acks.due(NOW + DELAY, ALWAYS) == []
    assert acks.due(NOW + PATIENCE - 0.01, ALWAYS) == []
    assert acks.due(NOW + PATIENCE + DELAY, ALWAYS) == ["edge-1"]


def test_one_that_has_introduced_itself_hears_it_at_once():
    acks = Acks()
    put(acks)
    acks.send_now("edge-1")
    assert acks.due(NOW, ALWAYS) == ["edge-1"]


def test_the_first_in_line_is_due_first_of_both_lines():
    acks = Acks()
    put(acks, worker="calm", calm=True)
    put(acks, NOW + CALM, worker="waits")
    assert acks.due(NOW + CALM, NEVER) == ["calm"]
    acks.pop("calm")
    assert acks.due(NOW + CALM + DELAY, NEVER) == ["waits"]


def test_a_clock_that_is_set_back_keeps_none_waiting():
    acks = Acks()
    put(acks)
    put(acks, worker="calm", calm=True)
    acks.turn_back(NOW - 3600)
    assert acks.due(NOW - 3600 + DELAY, NEVER) == ["edge-1"]
    acks.pop("edge-1")
    assert acks.due(NOW - 3600 + CALM, NEVER) == ["calm"]
