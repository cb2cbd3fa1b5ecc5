"""Thousands of random and mutated messages: nothing raises, nothing stops, and each kind is said once."""

import zlib
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mqtt.protocol.messages import Ack, BridgeStatus, Cancel, Desired, Probe, Response, Run, WorkerStatus
from airflow_mqtt.protocol.topics import Topics
from airflow_mqtt.worker.core import Config, Core
from airflow_mqtt.worker.core.effects import Launch, Publish, Say

NAME = "edge-1"
TOPICS = Topics()
TOPIC_LIST = [
    TOPICS.jobs("default", NAME),
    TOPICS.jobs("caf\u00e9/#", NAME),
    *(f"{TOPICS.base}/worker/{NAME}/{level}" for level in ("ack", "desired", "response", "status", "probe", "events")),
    TOPICS.bridge_status,
    f"{TOPICS.base}/worker/other/ack",
    "elsewhere/x",
    "",
]
SAMPLES: list[dict[str, Any]] = [
    orjson.loads(orjson.dumps(message))
    for message in (
        Run(job="a", attempt=1, kind="airflow", slots=1, workload={"type": "ExecuteTask"}),
        Cancel(job="a", attempt=1, reason="why"),
        Ack(journal="journal", seq=1, epoch=1, logs={"a": 10}),
        Desired(revision=1, maintenance=True, slots=3, queues=["x"]),
        Response(id="call", journal="journal", status=200, body="{}"),
        WorkerStatus(state="offline", connection=1, instance="me", ts=1, slots=1, free=1, running=0),
        Probe(instance="you"),
        BridgeStatus(state="leading", instance="b", epoch=2, ts=1),
    )
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message of ours with a field changed, dropped or added."""
    sample = dict(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(sample)) | st.text(max_size=5)) if sample else "x"
        if draw(st.booleans()):
            sample[key] = draw(JSON)
        else:
            sample.pop(key, None)
    try:
        payload = orjson.dumps(sample)
    except (TypeError, orjson.JSONEncodeError):
        payload = b"{}"
    return zlib.compress(payload) if draw(st.booleans()) else payload


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    payload = draw(st.binary(max_size=60) | mutated() | mutated())
    if draw(st.integers(0, 4)) == 0:
        cut = draw(st.integers(0, len(payload)))
        payload = payload[:cut]
    return payload


MESSAGES = st.lists(st.tuples(st.sampled_from(TOPIC_LIST), payloads(), st.booleans()), min_size=5, max_size=40)


def new_core() -> Core:
    core = Core(Config(name=NAME, instance="me", journal="journal", slots=2))
    core.connecting(0)
    core.connected(0)
    core.take()
    return core


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES)
def test_no_message_stops_the_core(messages: list[tuple[str, bytes, bool]]) -> None:
    core = new_core()
    said: list[str] = []
    for number, (topic, payload, retained) in enumerate(messages):
        now = float(number)
        core.message(topic, payload, now, retained=retained)
        core.tick(now)
        assert core.deadline(now) >= 0
        said += [
            effect.text for effect in core.take() if isinstance(effect, Say) and "dropped a message" in effect.text
        ]
    assert len(said) == len(core.state.dropped)
    assert_still_works(core, float(len(messages)))


def assert_still_works(core: Core, now: float) -> None:
    """After all that, a wish to work and a good order are followed."""
    core.message(TOPICS.worker(NAME, _kind("desired")), Desired(revision=9, slots=10_000).encode(), now)
    for name in ("late-1", "late-2"):
        order = Run(job=name, attempt=1, kind="airflow", slots=1, workload={})
        core.message(TOPICS.jobs("default", NAME), order.encode(), now)
    effects = core.take()
    assert any(isinstance(effect, Publish) for effect in effects)
    launched = {effect.run.job for effect in effects if isinstance(effect, Launch)}
    assert launched == {"late-1", "late-2"} or core.state.stage  # a mutated wish may have begun a drain


def _kind(name: str) -> Any:
    from airflow_mqtt.protocol.topics import TopicKind

    return TopicKind(name)


def test_each_kind_is_said_once_and_counted() -> None:
    core = new_core()
    for _ in range(5):
        core.message(TOPICS.jobs("default", NAME), b"no JSON", 1)
        core.message("elsewhere", b"{}", 1)
    said = [effect for effect in core.take() if isinstance(effect, Say)]
    assert len(said) == 2
    assert core.state.dropped == {"jobs": 5, "unknown": 5}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 50), max_size=5))
def test_no_bytes_break_the_local_socket(data: bytes, cuts: list[int]) -> None:
    """Frames of any content, cut anywhere, are calls, wait for their end, or close the connection."""
    from airflow_mqtt.protocol.errors import PayloadError
    from airflow_mqtt.worker.frames import Unpacker
    from airflow_mqtt.worker.local_api import parse_call

    unpacker = Unpacker()
    framed = len(data).to_bytes(4, "big") + data
    try:
        for cut in [*cuts, len(framed)]:
            for frame in unpacker.feed(framed[:cut]):
                parse_call(1, frame)
            framed = framed[cut:]
    except PayloadError:
        pass


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_no_frame_is_a_wrong_call(frame: Any) -> None:
    from airflow_mqtt.protocol.errors import PayloadError
    from airflow_mqtt.worker.local_api import parse_call

    good = {"id": "x", "job": "a", "attempt": 1, "method": "GET", "path": "variables/x"}
    for key in good:
        try:
            call = parse_call(1, good | {key: frame})
        except PayloadError:
            continue
        assert isinstance(call.attempt, int)
