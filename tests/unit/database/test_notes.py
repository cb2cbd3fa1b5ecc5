"""Why a job waits, and what one should know of a worker."""

import pytest

from airflow_mqtt.database import notes
from airflow_mqtt.protocol.workers import WorkerState
from bridge_samples import worker

CAMERA = (("camera", "yes"),)
IDLE, AWAY, RESTS = worker(), worker(state=WorkerState.OFFLINE), worker(state=WorkerState.MAINTENANCE_MODE)
OLD = worker(note="its version 0.1.0 is below 0.2.0")


@pytest.mark.parametrize(
    ("labels", "slots", "serving", "fitting", "why"),
    [
        ((), 1, [], [], "no worker serves queue 'q'"),
        (CAMERA, 1, [], [], "no worker serves queue 'q'"),
        (CAMERA, 1, [IDLE], [], "no worker of queue 'q' has camera=yes"),
        (CAMERA, 1, [IDLE, AWAY], [AWAY], "nothing is heard of the workers of queue 'q' with camera=yes"),
        ((), 1, [AWAY], [AWAY], "nothing is heard of the workers of queue 'q'"),
        ((), 1, [RESTS], [RESTS], "no worker of queue 'q' takes jobs now (1 are there)"),
        ((), 1, [OLD], [OLD], "no worker of queue 'q' takes jobs now (1 are there; edge-1: its version 0.1.0 is below 0.2.0)"),
        ((), 3, [IDLE], [IDLE], "it needs 3 slots; the largest worker of queue 'q' has 2"),
        ((), 2, [IDLE], [IDLE], "no worker of queue 'q' has taken it (1 are there)"),
    ],
)  # fmt: skip
def test_why_a_job_waits(labels, slots, serving, fitting, why):
    assert notes.of_wait("q", labels, slots, serving, fitting) == why


def test_notes_of_a_worker():
    assert notes.of_worker(note="", clock_offset=None, removal=False) == []
    assert notes.of_worker(note="old", clock_offset=3600.0, removal=True) == [
        "old", "its clock is 1:00:00 behind", "to be forgotten",
    ]  # fmt: skip
