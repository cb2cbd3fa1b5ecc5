"""Events: numbered, kept until acknowledged, sent again, in order, within a window."""

from airflow_mqtt.worker.core.outbox import WINDOW, Outbox


def _box(count: int) -> Outbox:
    box = Outbox()
    for number in range(count):
        box.add(b"%d" % (number + 1))
    return box


def test_events_are_sent_once_in_order():
    box = _box(3)
    assert box.to_send(0) == [b"1", b"2", b"3"]
    assert box.to_send(0) == []


def test_an_acknowledgement_drops_all_up_to_it():
    box = _box(3)
    box.to_send(0)
    assert box.acknowledge(2, 1)
    assert list(box.events) == [3]
    assert not box.acknowledge(1, 1)
    assert not box.acknowledge(2, 1)


def test_an_acknowledgement_of_what_was_never_sent_is_ignored():
    box = _box(3)
    assert not box.acknowledge(4, 1)
    assert len(box.events) == 3


def test_no_progress_means_a_gap_but_not_at_once():
    box = _box(3)
    box.to_send(0)
    box.acknowledge(1, 0)
    box.acknowledge(1, 1)
    assert box.to_send(1) == []
    box.acknowledge(1, 2.5)
    assert box.to_send(2.5) == [b"2", b"3"]


def test_a_long_outage_does_not_flood_the_link():
    box = _box(WINDOW + 10)
    assert len(box.to_send(0)) == WINDOW
    box.acknowledge(4, 1)
    assert box.to_send(1) == [b"%d" % n for n in range(WINDOW + 1, WINDOW + 5)]


def test_events_wait_for_a_link_and_survive_a_crash(device_of):
    device = device_of()
    device.run("a")
    device.cancel("a")
    assert device.reports() == []
    device.crash()
    device.connect()
    assert [(event.seq, event.type) for event in device.reports()] == [(1, "accepted"), (2, "cancelled")]
    assert (device.births()[-1].first, device.births()[-1].last) == (1, 2)


def test_numbers_go_on_after_a_crash_even_when_all_was_acknowledged(device):
    device.run("a")
    device.ack()
    assert device.events == {}
    device.crash(alive=("a",))
    device.connect()
    device.cancel("b")
    assert device.reports()[-1].seq == 2
    assert device.births()[-1].first == 2


def test_birth_goes_before_what_waits(device):
    device.run("a")
    device.disconnect()
    device.forget()
    device.connect()
    from airflow_mqtt.protocol.topics import TopicKind

    assert [report.type for report in device.sent(TopicKind.EVENTS)] == ["born", "accepted"]


def test_a_new_leader_gets_everything_again(device):
    device.lead(1, retained=True)
    device.run("a")
    device.forget()
    device.lead(2)
    assert len(device.births()) == 1
    assert device.said("a") == ["accepted"]


def test_a_leader_that_connects_again_gets_everything_again(device):
    device.lead(1, retained=True)
    device.run("a")
    device.forget()
    device.lead(1, retained=True)
    assert device.births() == []
    device.lead(1)
    assert len(device.births()) == 1
    assert device.said("a") == ["accepted"]


def test_the_first_leader_that_comes_after_us_gets_everything(device):
    device.run("a")
    device.forget()
    device.lead(1)
    assert device.said("a") == ["accepted"]


def test_silence_sends_again(device):
    device.run("a")
    device.wait(31)
    assert device.said("a") == ["accepted", "accepted"]
    device.ack()
    device.wait(100)
    assert device.said("a") == ["accepted", "accepted"]


def test_an_acknowledgement_of_another_journal_is_not_ours(device):
    from airflow_mqtt.protocol.messages import Ack

    device.run("a")
    device.message("airflow/v1/worker/edge-1/ack", Ack(journal="other", seq=1, epoch=1).encode())
    assert len(device.events) == 1


def test_an_introduction_that_nobody_heard_is_made_again(device_of):
    device = device_of().connect(heard=False)
    device.wait(31)
    assert [birth.number for birth in device.births()] == [1, 2]
    device.ack()
    device.wait(60)
    assert len(device.births()) == 2


def test_an_acknowledgement_with_an_older_introduction_says_that_the_last_was_lost(device):
    from airflow_mqtt.protocol.messages import Ack

    device.disconnect()
    device.connect(heard=False)
    device.wait(5)
    device.forget()
    old = Ack(journal="journal-1", seq=0, epoch=1, connection=1, birth=1).encode()
    device.message("airflow/v1/worker/edge-1/ack", old)
    device.message("airflow/v1/worker/edge-1/ack", old)
    assert [(birth.connection, birth.number) for birth in device.births()] == [(2, 2)]
