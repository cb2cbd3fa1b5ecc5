"""Task logs, as Airflow's own reader shows them on an API server that shares no disk with anybody."""

import json
import logging
import time
import tracemalloc

import pytest
from sqlalchemy import insert

from airflow_mqtt.database import tables
from airflow_mqtt.protocol.jobs import JobEvent
from integration.executor.world import TO_RUNNING


def line(event, second=0):
    at = f"2026-01-01T00:00:{second:02}Z"
    return json.dumps({"timestamp": at, "level": "info", "event": event, "logger": "task"}) + "\n"


@pytest.fixture
def job_of(world):
    """Queue a task and bring it to running on a worker."""

    def make(state="running", **changes):
        ti, job = world.queue(world.executor(), **changes)
        world.drive(job.id, JobEvent.DISPATCH, worker="edge-1")
        world.drive(job.id, *TO_RUNNING[1:])
        world.set_task(ti, state=state)
        return world.task(ti.id), job

    return make


@pytest.fixture
def ours(monkeypatch):
    """Our reader, where the plugin puts it."""
    return with_ours(monkeypatch, None)


def use_remote_log(monkeypatch, remote):
    """Have `remote` be what Airflow has found by its logging configuration, as in a process without our plugin."""
    from airflow import logging_config

    if "_ActiveLoggingConfig" not in vars(logging_config):  # 3.1 answers None for any name
        monkeypatch.setattr(logging_config, "REMOTE_TASK_LOG", remote, raising=False)
        return
    from airflow.sdk import log

    monkeypatch.setattr(logging_config, "get_remote_task_log", lambda: remote)
    monkeypatch.setattr(log, "load_remote_log_handler", lambda: remote)


def with_ours(monkeypatch, other):
    """Load our plugin where `other` is the site's own reader, and return what is asked from then on."""
    from airflow_mqtt.executor import remote_logs
    from airflow_mqtt.executor.plugin import MqttPlugin

    use_remote_log(monkeypatch, other)
    MqttPlugin.on_load()
    return remote_logs.reader()


def shown(world, ti):
    """Return (sources and messages, log lines) as the user interface would show them."""
    from airflow.utils.log.file_task_handler import FileTaskHandler

    handler = FileTaskHandler(base_log_folder=str(world.home / "an-empty-disk"))
    stream, _ = handler.read(ti, ti.try_number)
    messages = [message.model_dump() for message in stream]
    ends = [at for at, message in enumerate(messages) if message["event"] == "::endgroup::"]
    cut = ends[0] + 1 if ends else 1
    sources = json.dumps(messages[:cut], default=str)
    return sources, [message["event"] for message in messages[cut:]]


def test_while_it_runs_and_after(world, job_of, ours):
    ti, job = job_of()
    world.log(job.id, 0, line("one").encode())
    sources, lines = shown(world, ti)
    assert lines == ["one"]
    assert "on worker edge-1" in sources
    assert "Could not read served logs" not in sources
    world.log(job.id, len(line("one")), line("two", 1).encode())
    assert shown(world, ti)[1] == ["one", "two"]
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    world.set_task(ti, state="success")
    sources, lines = shown(world, world.task(ti.id))
    assert lines == ["one", "two"]
    assert "Could not read served logs" not in sources


def test_a_running_task_is_readable_without_our_plugin(world, job_of, monkeypatch):
    use_remote_log(monkeypatch, None)
    ti, job = job_of()
    world.log(job.id, 0, line("one").encode())
    sources, lines = shown(world, ti)
    assert lines == ["one"]
    assert "on worker edge-1" in sources


def test_a_task_without_any_log_yet(world, job_of, ours):
    ti, _ = job_of()
    sources, lines = shown(world, ti)
    assert lines == []
    assert "no log of it has arrived yet" in sources


def test_a_task_that_waits_for_a_worker_says_so_where_its_log_will_be(world, ours):
    executor = world.executor()
    ti, _ = world.queue(executor, queue="edge")
    assert "no worker serves this queue now" in shown(world, ti)[0]
    world.worker("edge-1", "edge")
    assert "no worker serves" not in shown(world, ti)[0]


def test_a_log_that_is_not_complete_says_so_at_its_end(world, job_of, ours):
    ti, job = job_of()
    data = line("one").encode()
    world.log(job.id, 0, data)
    world.set_job(job.id, log_bytes=len(data), log_size=len(data) + 5000)
    sources, lines = shown(world, ti)
    assert lines == ["one"] and "; 5000 bytes more are on the device" in sources
    world.drive(job.id, JobEvent.SUCCEED, final_state="failed")
    world.set_task(ti, state="failed")
    end = line("the error", 9).encode()
    world.log(job.id, 5000, end)
    world.set_job(job.id, log_size=5000 + len(end), log_tail=5000)
    missing = 5000 - len(data)
    lines = shown(world, world.task(ti.id))[1]
    assert [text.split(".")[0] for text in lines] == [
        "one", f"{missing} bytes of this log are missing here", "the error",
        f"This log is not complete yet: {missing} bytes of it are missing",
    ]  # fmt: skip
    middle = "two" + "x" * (missing - len(line("two", 5)))
    world.log(job.id, len(data), line(middle, 5).encode())
    world.set_job(job.id, log_bytes=5000 + len(end))
    assert shown(world, world.task(ti.id))[1] == ["one", middle, "the error"]


def test_a_job_that_was_revoked_before_it_wrote_a_log_says_why(world, ours):
    executor = world.executor()
    ti, job = world.queue(executor)
    world.set_job(job.id, queued_at=time.time() - 700)
    executor.revoke_task(ti=ti)
    world.set_task(ti, state="failed")
    sources, lines = shown(world, world.task(ti.id))
    (said,) = lines
    assert "was cancelled before it wrote one: revoked by the scheduler, since it had not begun after 7" in said
    assert said.endswith("([scheduler] task_queued_timeout): no worker serves queue 'default'")
    assert "no worker serves queue" in sources


def test_half_a_line_waits_for_the_rest(world, job_of, ours):
    ti, job = job_of()
    text = (line("one") + line("two", 1)).encode()
    world.log(job.id, 0, text[:-20])
    assert shown(world, ti)[1] == ["one"]
    world.log(job.id, len(text) - 20, text[-20:])
    assert shown(world, ti)[1] == ["one", "two"]


def test_more_chunks_than_a_page(world, job_of, ours):
    ti, job = job_of()
    offset = 0
    for number in range(150):
        data = line(f"line {number}").encode()
        world.log(job.id, offset, data)
        offset += len(data)
    assert shown(world, ti)[1] == [f"line {number}" for number in range(150)]


def test_both_jobs_of_a_try_that_deferred(world, job_of, ours):
    ti, first = job_of()
    world.log(first.id, 0, line("before").encode())
    world.drive(first.id, JobEvent.SUCCEED, final_state="deferred")
    world.set_task(ti, external_executor_id=None, state="queued")
    _, second = world.queue(world.executor(), world.task(ti.id))
    world.drive(second.id, *TO_RUNNING)
    world.set_task(ti, state="running")
    world.log(second.id, 0, line("after", 9).encode())
    assert shown(world, world.task(ti.id))[1] == ["before", "after"]


def rescheduled(world, ti, job, looks):
    """Let a sensor look again for each of `looks`, in a dispatch of its own, and return the last one's job."""
    for number in looks:
        world.drive(job.id, JobEvent.SUCCEED, final_state="up_for_reschedule")
        world.set_task(ti, external_executor_id=None, state="queued")
        _, job = world.queue(world.executor(), world.task(ti.id))
        world.drive(job.id, *TO_RUNNING)
        world.log(job.id, 0, line(f"look {number}", 1 + number % 50).encode())
    world.set_task(ti, state="running")
    return job


def test_the_reader_asks_no_more_often_for_a_try_of_many_dispatches(world, job_of, ours):
    ti, job = job_of()
    world.log(job.id, 0, line("first").encode())
    counts = []
    for looks in (range(2), range(2, 30)):
        job = rescheduled(world, ti, job, looks)
        with world.statements() as seen:
            lines = shown(world, world.task(ti.id))[1]
        assert lines == ["first", *(f"look {number}" for number in range(looks.stop))]
        counts.append(sum("mqtt_" in statement for statement in seen))
    assert counts[0] == counts[1] <= 4


def test_a_try_of_many_dispatches_is_read_in_pages_of_bytes(world, job_of, ours, monkeypatch):
    from airflow_mqtt.executor import task_log

    monkeypatch.setattr(task_log, "_PAGE_BYTES", 300)
    monkeypatch.setattr(task_log, "_PAGE", 2)
    ti, job = job_of()
    for number in range(5):  # larger than a page, in more chunks than one
        data = line("x" * 50).encode()
        world.log(job.id, number * len(data), data)
    rescheduled(world, ti, job, range(9))
    lines = shown(world, world.task(ti.id))[1]
    assert lines == ["x" * 50, *(f"look {number}" for number in range(9))]  # Airflow shows equal lines once


def test_mapped_tasks_do_not_share_a_log(world, job_of, ours):
    one, job_1 = job_of(task_id="mapped", map_index=0)
    two, job_2 = job_of(task_id="mapped", map_index=1)
    world.log(job_1.id, 0, line("of zero").encode())
    world.log(job_2.id, 0, line("of one").encode())
    assert shown(world, one)[1] == ["of zero"]
    assert shown(world, two)[1] == ["of one"]


def test_another_try_has_another_log(world, job_of, ours):
    ti, job = job_of(state="success")
    world.log(job.id, 0, line("first try").encode())
    world.set_task(ti, try_number=2)
    assert shown(world, world.task(ti.id))[1] == []


def test_the_log_of_a_triggerer_is_kept(world, job_of, ours):
    ti, job = job_of()
    world.log(job.id, 0, line("task").encode())
    relative = f"{job.log_path}.trigger.17.log"
    file = world.home / "logs" / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line("trigger", 1))
    ours.upload(relative, ti)
    file.write_text(line("trigger", 1) + line("trigger again", 2))
    ours.upload(relative, ti)
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    world.set_task(ti, state="success")
    sources, lines = shown(world, world.task(ti.id))
    assert lines == ["task", "trigger", "trigger again"]
    assert "log of triggerer 17" in sources


def test_the_log_of_a_triggerer_is_cut_at_the_limit(world, job_of, ours, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MQTT__LOG_LIMIT", "150000")
    ti, job = job_of()
    relative = f"{job.log_path}.trigger.17.log"
    file = world.home / "logs" / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line(f"{number}" + "x" * 1000) for number in range(1000)))
    ours.upload(relative, ti)
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    world.set_task(ti, state="success")
    lines = shown(world, world.task(ti.id))[1]
    assert 100 < len(lines) < 150 and "log_limit" in lines[-1]


def test_a_triggerers_log_of_another_task_is_not_ours(world, job_of):
    from airflow_mqtt.executor.log_io import MqttLogIO

    _, job = job_of(task_id="mapped", map_index=0)
    other_ti, _ = job_of(task_id="mapped", map_index=1)
    other = Other()
    relative = f"{job.log_path}.trigger.17.log"
    file = world.home / "logs" / relative
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line("trigger", 1))
    for ti in (other_ti, None):
        MqttLogIO(other).upload(relative, ti)
    assert other.uploads == [relative] * 2


class Other:
    """What `[logging] remote_logging` would use."""

    processors = ("a processor",)

    def __init__(self, *texts):
        self.uploads = []
        self.texts = texts or ("a line\nanother",)

    def read(self, relative_path, ti):
        return ["elsewhere"], list(self.texts)

    def upload(self, path, ti=None):
        self.uploads.append(path)


def test_what_is_not_ours_goes_where_it_went_before(world):
    from airflow_mqtt.executor.log_io import MqttLogIO

    ti = world.queued_task()
    other = Other()
    remote = MqttLogIO(other)
    assert remote.processors == ("a processor",)
    assert remote.read("x.log", ti) == remote.stream("x.log", ti) == (["elsewhere"], ["a line\nanother"])
    other.stream = lambda path, ti: (["by streams"], [])
    assert remote.stream("x.log", ti) == (["by streams"], [])
    remote.upload("x.log", ti)
    assert other.uploads == ["x.log"]


def test_a_log_that_is_not_ours_costs_one_query_by_an_index(world, monkeypatch):
    with_ours(monkeypatch, Other())
    ti = world.queued_task(state="success")
    with world.statements() as seen:
        assert shown(world, ti)[1] == ["a line", "another"]
    (query,) = [statement for statement in seen if "mqtt_" in statement]
    assert "mqtt_job.dag_id = " in query and "mqtt_job.run_id = " in query  # ix_mqtt_job_task


def test_what_the_plugin_puts_in_place_takes_nothing_from_others(world, monkeypatch):
    from airflow_mqtt.executor import remote_logs
    from airflow_mqtt.executor.log_io import MqttLogIO
    from airflow_mqtt.executor.plugin import MqttPlugin

    once = with_ours(monkeypatch, MqttLogIO())
    MqttPlugin.on_load()
    assert remote_logs.reader() is once, "not in front of itself"
    use_remote_log(monkeypatch, None)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    MqttPlugin.on_load()
    assert remote_logs.reader() is None
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,edge:airflow_mqtt.executor.MqttExecutor")
    MqttPlugin.on_load()
    assert isinstance(remote_logs.reader(), MqttLogIO)


def test_what_a_triggerer_uploads_by_is_ours_too(ours):
    from airflow.sdk.log import load_remote_log_handler

    from airflow_mqtt.executor.log_io import MqttLogIO

    assert isinstance(load_remote_log_handler(), MqttLogIO)


def test_a_log_that_is_here_and_in_the_sites_store_is_shown_once(world, job_of, monkeypatch):
    ti, job = job_of()
    here = [line(f"line {number}", number) for number in range(20)]
    there = [*here[3:17], line("only there", 30)]
    with_ours(monkeypatch, Other("".join(there), line("another file", 40)))
    world.log(job.id, 0, "".join(here).encode())
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    world.set_task(ti, state="success")
    sources, lines = shown(world, world.task(ti.id))
    assert lines == [*(f"line {number}" for number in range(20)), "only there", "another file"]
    assert "on worker edge-1" in sources and "elsewhere" in sources


def test_a_handler_that_reads_in_a_way_of_its_own(world, job_of, monkeypatch):
    from airflow.utils.log.file_task_handler import FileTaskHandler, StructuredLogMessage

    class OfAProvider(FileTaskHandler):
        def _read(self, ti, try_number, metadata=None):
            return [StructuredLogMessage(event="from its own index")], {"end_of_log": True}

    handler = OfAProvider(base_log_folder=str(world.home / "an-empty-disk"))
    monkeypatch.setattr(logging.getLogger("airflow.task"), "handlers", [handler])
    with_ours(monkeypatch, Other(line("kept there", 9)))
    ti, job = job_of(state="success")
    world.log(job.id, 0, line("one").encode())
    for found, expected in ((ti, ["one", "kept there"]), (world.queued_task(), ["from its own index"])):
        stream, _ = handler.read(found, found.try_number)
        events = [message.event for message in stream]
        assert events[-len(expected) :] == expected


def test_a_store_that_does_not_answer_hides_nothing(world, job_of, monkeypatch):
    class Broken(Other):
        def read(self, relative_path, ti):
            raise OSError("no such bucket")

    ti, job = job_of(state="success")
    with_ours(monkeypatch, Broken())
    world.log(job.id, 0, line("one").encode())
    sources, lines = shown(world, ti)
    assert lines == ["one"]
    assert "The remote log could not be read: no such bucket" in sources


def test_without_our_tables_the_logs_of_others_are_shown(world, monkeypatch):
    from sqlalchemy import text

    with_ours(monkeypatch, Other())
    ti = world.queued_task(state="success")
    for old, new in (("mqtt_job_log", "mqtt_away"), ("mqtt_away", "mqtt_job_log")):
        with world.session() as session:
            session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
        sources, lines = shown(world, ti)
        assert lines == ["a line", "another"]
        assert ("airflow-mqtt: its tables could not be read" in sources) == (new == "mqtt_away")


#: A log of 100 MB, in chunks as a worker sends them. Few lines: Airflow's parser takes most of the time.
_CHUNKS, _CHUNK, _LINES = 6400, 16 * 1024, 10_000


@pytest.fixture
def huge(world, job_of):
    ti, job = job_of()
    of_a_line = _CHUNKS * _CHUNK // _LINES - len(line("1234: "))
    data = "".join(line(f"{number:4}: {'x' * of_a_line}") for number in range(_LINES)).encode()
    with world.session() as session:
        for first in range(0, len(data), 500 * _CHUNK):
            offsets = range(first, min(first + 500 * _CHUNK, len(data)), _CHUNK)
            rows = [
                {"job_id": job.id, "attempt": 1, "offset": offset, "data": data[offset : offset + _CHUNK]}
                for offset in offsets
            ]
            session.execute(insert(tables.job_log), rows)
    world.drive(job.id, JobEvent.SUCCEED, final_state="success")
    world.set_task(ti, state="success")
    return world.task(ti.id)


def test_a_log_of_100_mb_is_streamed(world, huge, ours):
    assert shown_count(world, huge) == _LINES
    tracemalloc.start()
    try:
        with world.statements() as seen:
            _, (stream,) = ours.stream("", huge)
            assert sum(1 for _ in stream) == _LINES
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert sum("mqtt_" in statement for statement in seen) <= 1 + _CHUNKS // 64 + 1


def shown_count(world, ti):
    """Return how many lines Airflow's reader shows, which keeps what it has read on its disk."""
    from airflow.utils.log.file_task_handler import FileTaskHandler

    stream, _ = FileTaskHandler(base_log_folder=str(world.home / "an-empty-disk")).read(ti, ti.try_number)
    return sum("xxx" in message.event for message in stream)


def test_airflow_finds_it_by_the_setting_too(world):
    from airflow_mqtt.executor.log_io import MqttLogIO
    from airflow_mqtt.executor.logging_config import LOGGING_CONFIG, REMOTE_TASK_LOG

    assert "handlers" in LOGGING_CONFIG
    assert isinstance(REMOTE_TASK_LOG, MqttLogIO)
