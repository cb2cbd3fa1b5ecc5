"""A journal that went back, or was replaced, takes a new name and loses nothing of what waits."""

import pytest

from airflow_mqtt.protocol.messages import Ack
from airflow_mqtt.protocol.topics import TopicKind
from airflow_mqtt.worker.core.effects import Say
from airflow_mqtt.worker.core.jobs import Result
from airflow_mqtt.worker.journal import Journal

ACK = "airflow/v1/worker/edge-1/ack"
STATE = '{"state":"success","end_date":"2026-01-01T00:00:00Z"}'


def tell(device, **ack) -> None:
    device.message(ACK, Ack(**{"journal": device.journal, "seq": 0, "epoch": 1, **ack}).encode())


def numbered(device) -> list[tuple[str, int, str]]:
    return [(event.journal, event.seq, event.type) for event in device.reports()]


def test_a_new_process_keeps_the_name(device):
    device.crash()
    assert device.journal == "journal-1"


def test_after_a_power_cut_the_name_is_new_and_numbers_begin_anew(device):
    device.run("a")
    device.ack()
    device.run("b")
    device.crash(boot="boot-2")
    assert device.journal != "journal-1"
    assert (device.meta["journal"], device.meta["acked"], list(device.events)) == (device.journal, "0", [1])
    device.forget()
    device.connect()
    born = device.births()[-1]
    assert (born.journal, born.first, born.last) == (device.journal, 1, 1)
    assert {held["job"] for held in born.holds} == {"a", "b"}
    assert numbered(device) == [(device.journal, 1, "accepted")]


def test_the_name_that_was_taken_is_kept_and_numbers_go_on(device):
    device.run("a")
    device.crash(boot="boot-2")
    taken = device.journal
    device.crash()
    assert device.journal == taken
    device.connect()
    device.ack()
    device.cancel("b")
    assert device.reports()[-1].seq == 2
    assert device.events.keys() == {2}


def test_where_the_system_does_not_name_its_boots_every_start_takes_a_name(device_of):
    device = device_of(boot="").connect()
    names = {device.journal}
    for _ in range(3):
        device.crash()
        names.add(device.journal)
    assert len(names) == 4


def test_a_job_that_is_done_is_forgotten_across_names(device):
    device.start("a")
    call = device.call("a", "PATCH", "task-instances/a/state", STATE)
    device.end("a")
    device.crash(boot="boot-2")
    device.connect()
    assert [(request.id, request.journal) for request in device.requests()][-1] == (call, "journal-1")
    from airflow_mqtt.protocol.messages import Response

    response = Response(id=call, journal="journal-1", status=204)
    device.message("airflow/v1/worker/edge-1/response", response.encode())
    assert device.reports()[-1].type == "finished"
    device.ack(a=len(device.logs.get("a", b"")))
    assert device.jobs == device.events == device.calls == {}


@pytest.mark.parametrize("ack", [{"past": True}, {"seq": 7}, {"connection": 99}])
def test_a_bridge_that_knows_more_of_the_journal_makes_it_take_a_new_name(device, ack):
    device.run("a")
    device.ack()
    device.cancel("b")
    device.forget()
    tell(device, **ack)
    assert device.journal not in ("journal-1", "")
    assert [birth.journal for birth in device.births()] == [device.journal]
    assert numbered(device) == [(device.journal, 1, "cancelled")]
    assert list(device.events) == [1]
    assert any(said.level == "error" and "journal-1" in said.text for said in device.of(Say))
    device.ack()
    assert device.events == {}


def test_the_next_connection_comes_after_the_other_lines(device):
    tell(device, connection=99)
    device.disconnect()
    device.connect()
    assert device.births()[-1].connection == 100
    tell(device, connection=200, past=True)
    device.crash()
    device.connect()
    assert device.births()[-1].connection == 201


def test_what_is_said_of_the_old_name_is_nothing_any_more(device):
    device.run("a")
    tell(device, past=True)
    name = device.journal
    device.forget()
    tell(device, journal="journal-1", past=True)
    tell(device, journal="journal-1", seq=1)
    tell(device, journal="other", past=True, connection=99)
    assert (device.journal, device.births(), list(device.events)) == (name, [], [1])


def test_a_call_under_way_is_asked_under_the_new_name_and_a_stored_one_as_it_was(device):
    device.start("a")
    read = device.call("a", "GET", "variables/x")
    device.forget()
    tell(device, past=True)
    assert [(request.id, request.journal) for request in device.requests()] == [(read, device.journal)]
    device.respond(read)
    assert device.answers()[read] == 200


def test_a_repeated_order_is_answered_under_the_new_name(device):
    device.run("a")
    device.ack()
    tell(device, past=True)
    device.forget()
    device.run("a")
    assert numbered(device) == [(device.journal, 1, "accepted")]


def test_a_journal_on_disk_takes_it_in_one_commit(device, tmp_path):
    device.start("a")
    device.ack()
    device.end("a", Result(returned=True, exit_code=0))
    with Journal(tmp_path / "journal.sqlite") as journal:
        core = device.core
        core.take()
        tell_effects = Ack(journal=device.journal, seq=0, epoch=1, past=True)
        journal.write([])
        core.message(device_topic(), tell_effects.encode(), device.now)
        from airflow_mqtt.worker.loop import JOURNAL_EFFECTS

        journal.write([effect for effect in core.take() if isinstance(effect, JOURNAL_EFFECTS)])
        restored = journal.load()
    assert restored.meta["journal"] == core.state.config.journal
    assert restored.meta["acked"] == "0"
    assert list(restored.events) == [1]
    assert restored.jobs[0]["last_seq"] == 1


def device_topic() -> str:
    from airflow_mqtt.protocol.topics import Topics

    return Topics().worker("edge-1", TopicKind.ACK)
