import pytest

from airflow_mqtt.bridge.dispatch.outage import Outage
from bridge_samples import NOW


def connected() -> Outage:
    outage = Outage(NOW)
    outage.connect(NOW)
    return outage


def test_time_in_which_messages_arrive_counts():
    outage = connected()
    for second in range(100):
        outage.look(NOW + second)
    assert outage.unheard == 0


@pytest.mark.parametrize("gap", [5.0, 3600.0, -0.1, -3600.0])
def test_a_process_that_was_stopped_or_a_clock_that_was_set_does_not(gap):
    outage = connected()
    outage.look(NOW + gap)
    outage.look(NOW + gap + 1)
    assert outage.unheard == pytest.approx(gap)


def test_nor_does_time_without_a_connection():
    outage = connected()
    outage.look(NOW + 1)
    outage.lose(NOW + 2)
    outage.look(NOW + 3)
    outage.connect(NOW + 4)
    outage.look(NOW + 5)
    assert outage.unheard == 2
