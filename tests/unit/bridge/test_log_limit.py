"""`log_limit` is for a job: for all its attempts together, and for what its rows cost."""

from dataclasses import replace

from airflow_mqtt.bridge.dispatch.reports import Heard, Reports
from airflow_mqtt.bridge.draft import MAX_ATTEMPTS, ROW, Draft
from airflow_mqtt.bridge.mqtt.outbox import Messages
from airflow_mqtt.protocol.jobs import JobEvent, JobState
from airflow_mqtt.protocol.messages import LogChunk
from airflow_mqtt.protocol.topics import Topics
from bridge_samples import NOW, job, living_of, worker

LIMIT = 100_000
REPORTS = Reports(Messages(Topics("airflow"), 31), 1, "bridge:b", LIMIT)
ONE = job(state=JobState.ACCEPTED, worker="edge-1", accept_journal="j")


def stored(one, *chunks):
    """Say `chunks` in one batch; return what is written and the job after it."""
    draft = Draft(living_of(one, worker()), NOW)
    for offset, data in chunks:
        REPORTS.apply(draft, Heard("edge-1", LogChunk.of(one.attempt, offset, data), job=one.id))
    return draft.chunks, draft.job(one.id)


def flood(one, piece, times):
    """Say `piece` again and again, each in a batch of its own; return all that is written, and the job."""
    written = []
    for _ in range(times):
        chunks, one = stored(one, (one.log_bytes, piece))
        written += chunks
    return written, one


def test_small_pieces_of_one_batch_are_one_row():
    chunks, after = stored(ONE, *((number, b"x") for number in range(500)))
    assert [(chunk.offset, chunk.data) for chunk in chunks] == [(0, b"x" * 500)]
    assert (after.log_bytes, after.log_stored) == (500, 500 + ROW)


def test_pieces_are_joined_up_to_a_size_and_within_an_attempt():
    piece = b"x" * 16_384
    chunks, _ = stored(ONE, *((number * 16_384, piece) for number in range(5)))
    assert [len(chunk.data) for chunk in chunks] == [4 * 16_384, 16_384]


def test_pieces_of_one_byte_are_counted_with_their_rows():
    written, after = flood(ONE, b"x", 1_000)
    assert len(written) <= LIMIT / ROW + 1 and after.log_bytes == 1_000
    assert b"Log cut here" in written[-1].data
    assert sum(len(chunk.data) + ROW for chunk in written) < LIMIT + 1_000


def test_four_attempts_store_one_limit():
    one, written = ONE, []
    for _ in range(4):
        chunks, one = flood(one, b"x" * 9_000, 20)
        written += chunks
        one = replace(one, attempt=one.attempt + 1, log_bytes=0)
    assert sum(len(chunk.data) + ROW for chunk in written) < LIMIT + 4 * (ROW + 200)
    assert {chunk.attempt for chunk in written if b"Log cut here" in chunk.data} == {1, 2, 3, 4}


def test_a_job_that_is_given_back_for_ever_ends():
    draft = Draft(living_of(replace(ONE, attempt=MAX_ATTEMPTS - 1), worker()), NOW)
    after = draft.move(draft.job(ONE.id), JobEvent.REJECT, by="test", reason="full")
    assert (after.state, after.attempt) == (JobState.QUEUED, MAX_ATTEMPTS)
    draft = Draft(living_of(replace(ONE, attempt=MAX_ATTEMPTS), worker()), NOW)
    after = draft.move(draft.job(ONE.id), JobEvent.REJECT, by="test", reason="full")
    assert after.state is JobState.FAILED
    assert after.reason == f"given to workers {MAX_ATTEMPTS} times, and not started; the last time: full"
