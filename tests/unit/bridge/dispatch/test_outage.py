import pytest

from airflow_mqtt.bridge.dispatch.outage import Listening
from bridge_samples import NOW


def connected() -> Listening:
    listening = Listening(NOW)
    listening.connect(NOW)
    return listening


def test_time_in_which_messages_arrive_counts():
    listening = connected()
    for second in range(100):
        listening.look(NOW + second)
    assert listening.deaf == 0


@pytest.mark.parametrize("gap", [5.0, 3600.0, -0.1, -3600.0])
def test_a_process_that_was_stopped_or_a_clock_that_was_set_does_not(gap):
    listening = connected()
    listening.look(NOW + gap)
    listening.look(NOW + gap + 1)
    assert listening.deaf == pytest.approx(gap)


def test_nor_does_time_without_a_connection():
    listening = connected()
    listening.look(NOW + 1)
    listening.lose(NOW + 2)
    listening.look(NOW + 3)
    listening.connect(NOW + 4)
    listening.look(NOW + 5)
    assert listening.deaf == 2
