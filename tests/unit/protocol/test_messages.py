"""Every message: what is sent arrives, and what nobody should send raises `PayloadError` and nothing else."""

import dataclasses
import json
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mqtt.protocol import codec, messages
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import MAX_INTEGER, Message, checks, orders, reports
from airflow_mqtt.protocol.messages.health import is_health
from airflow_mqtt.protocol.topics import JOB_ID

CLASSES = sorted(Message.__subclasses__(), key=lambda cls: cls.__name__)
DECODERS = [*(cls.decode for cls in CLASSES), messages.decode_order, messages.decode_report]

NAMES = st.from_regex(JOB_ID, fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
BODY = st.text(max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | BODY
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(BODY, inner, max_size=2),
    max_leaves=4,
)
COUNT = st.integers(0, MAX_INTEGER)
HELD = st.fixed_dictionaries(
    {
        "job": NAMES,
        "attempt": st.integers(0, messages.MAX_INT32),
        "state": st.sampled_from([state.value for state in messages.HeldState]),
    }
)
EXTRA = st.dictionaries(TEXT, st.floats(-messages.MAX_FIGURE, messages.MAX_FIGURE) | TEXT, max_size=2)
HEALTH = st.fixed_dictionaries(
    {},
    optional={"extra": EXTRA}
    | {
        name: st.integers(check.least, check.greatest)
        | (st.floats(check.least, check.greatest) if isinstance(check, messages.Real) else st.nothing())
        for name, check in messages.FIGURES.items()
    },
)

#: The checks of fields, and what passes them.
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    checks.text: TEXT,
    checks.body: BODY,
    checks.path: TEXT,
    checks.flag: st.booleans(),
    checks.json_object: st.dictionaries(BODY, JSON, max_size=2),
    checks.texts: st.lists(TEXT, max_size=2),
    checks.text_map: st.dictionaries(TEXT, TEXT, max_size=2),
    is_health: HEALTH,
    orders._log_marks: st.dictionaries(NAMES, COUNT, max_size=2),
    reports._held_list: st.lists(HELD, max_size=2, unique_by=lambda held: held["job"]),
    checks.objects: st.lists(st.dictionaries(BODY, JSON, max_size=2), max_size=2),
    checks.job_id: NAMES,
    checks.worker_name: NAMES,
}


def _passing(check: Any, field: str, default: Any) -> st.SearchStrategy[Any]:
    """Return values that pass `check`; the closures of `messages` say what they were made of."""
    if check in STRATEGIES:
        return STRATEGIES[check]
    if isinstance(check, messages.Maybe):
        return st.none() | _passing(check.inside, field, default)
    if isinstance(check, messages.Whole):
        return st.integers(check.least, check.greatest)
    if isinstance(check, messages.Real):
        return st.floats(check.least, check.greatest) | st.integers(check.least, check.greatest)
    inside = {
        name: cell.cell_contents for name, cell in zip(check.__code__.co_freevars, check.__closure__ or (), strict=True)
    }
    if "values" in inside:
        return st.sampled_from(sorted(str(value) for value in inside["values"]))
    assert field == "type", f"no strategy for {field}"
    return st.just(default)


def _valid(cls: type[Message]) -> st.SearchStrategy[Message]:
    required, optional = {}, {}
    for spec in dataclasses.fields(cls):
        values = _passing(spec.metadata["check"], spec.name, spec.default)
        has_default = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        (optional if has_default else required)[spec.name] = values
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: cls(**values))


MESSAGES = st.one_of([_valid(cls) for cls in CLASSES])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_message_comes_back_as_it_went(cls):
    @settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(_valid(cls))
    def round_trip(message):
        assert cls.decode(message.encode()) == message

    round_trip()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_is_checked_and_every_default_passes_its_check(cls):
    for spec in dataclasses.fields(cls):
        check = spec.metadata["check"]
        if spec.default is not dataclasses.MISSING:
            assert check(spec.default), spec.name
        if spec.default_factory is not dataclasses.MISSING:
            assert check(spec.default_factory()), spec.name
        if check is not checks.json_object:
            assert not check({"a": [object()]}), spec.name


@given(_valid(messages.Run) | _valid(messages.Cancel))
def test_an_order_is_known_by_its_type(order):
    assert messages.decode_order(order.encode()) == order


@given(_valid(messages.Event) | _valid(messages.Born))
def test_a_report_is_known_by_its_type(report):
    foreign = isinstance(report, messages.Born) and not messages.understands(report.protocol)
    expected = messages.UnsupportedBirth(report.journal, report.protocol) if foreign else report
    assert messages.decode_report(report.encode()) == expected


def test_of_a_birth_of_another_revision_only_two_fields_are_read():
    """All the others may have changed."""
    payload = b'{"type": "born", "journal": "j", "protocol": 99, "queues": {"now": "an object"}}'
    assert messages.decode_report(payload) == messages.UnsupportedBirth("j", 99)


@given(MESSAGES, st.dictionaries(st.text(min_size=1, max_size=8).map("x-".__add__), JSON, max_size=3))
def test_fields_that_are_not_known_are_ignored(message, more):
    payload = codec.encode({**more, **dataclasses.asdict(message)})
    assert type(message).decode(payload) == message


def _decode_all(payload: bytes) -> None:
    """Whoever gets `payload` on whatever topic: a message or a `PayloadError` of one line."""
    for decode in DECODERS:
        try:
            message = decode(payload)
        except PayloadError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500
        else:
            _use(message)


def _use(message: Message | messages.UnsupportedBirth) -> None:
    """Do with a message what its readers do: show it, keep it, read its bytes."""
    assert repr(message)
    if isinstance(message, messages.UnsupportedBirth):
        return  # nobody sends it on
    assert type(message).decode(message.encode()) == message
    if isinstance(message, messages.LogChunk):
        try:
            assert isinstance(message.data, bytes)
        except PayloadError as error:
            assert "\n" not in str(error)


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_payload_error(payload):
    _decode_all(payload)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted({f.name for c in CLASSES for f in dataclasses.fields(c)})), JSON))
def test_random_values_in_known_fields_raise_only_payload_error(value):
    _decode_all(orjson.dumps(value))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.data())
def test_one_wrong_field_raises_only_payload_error(message, data):
    value = json.loads(orjson.dumps(message))
    name = data.draw(st.sampled_from(sorted(value)))
    if data.draw(st.booleans()):
        del value[name]
    else:
        value[name] = data.draw(JSON)
    _decode_all(orjson.dumps(value))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.randoms(use_true_random=False), st.booleans())
def test_mutated_bytes_raise_only_payload_error(message, random, packed):
    payload = orjson.dumps(message)
    if packed:
        payload = zlib.compress(payload)
    for _ in range(20):
        at, cut = random.randrange(len(payload)), random.randrange(8)
        junk = bytes(random.choice(b'\x00\x78{}[]",:-e9\\\xed\xff') for _ in range(random.randrange(4)))
        _decode_all(payload[:at] + junk + payload[at + cut :])


@pytest.mark.parametrize(
    "item",
    [
        "9" * 400,
        "9" * 25,
        "-1",
        "1.5",
        "true",
        '"1"',
        "null",
        "[]",
        "9007199254740993",
        "[" * 90 + "]" * 90,
        "[" * 900 + "]" * 900,
        "NaN",
        "1e999",
        '"\\ud800"',
    ],
)
@pytest.mark.parametrize("field", ["seq", "attempt", "job", "type", "ts"])
def test_wrong_numbers_and_names_of_an_event_are_refused(field, item):
    good = {"type": '"started"', "journal": '"j"', "seq": "1", "job": '"x"', "attempt": "1", "ts": "1"}
    assert messages.decode_report(_object(good))
    if (field, item) in {("ts", "1.5"), ("job", '"1"'), ("ts", "9007199254740993")}:
        return
    with pytest.raises(PayloadError):
        messages.decode_report(_object({**good, field: item}))


def _object(fields: dict[str, str]) -> bytes:
    return ("{" + ",".join(f'"{name}":{item}' for name, item in fields.items()) + "}").encode()


def test_the_error_names_message_and_field():
    with pytest.raises(PayloadError, match="Probe: field 'instance' is missing"):
        messages.Probe.decode(b"{}")
    with pytest.raises(PayloadError, match="Probe: field 'instance' holds 'a/b'"):
        messages.Probe.decode(b'{"instance":"a/b"}')


def _born(*holds):
    return messages.Born(
        journal="j", first=1, last=0, instance="i", connection=1, number=1, queues=[], kinds=[], holds=list(holds)
    )


def test_a_birth_lists_each_job_once():
    twice = _born(*({"job": "x", "attempt": attempt, "state": "ended"} for attempt in (1, 2)))
    with pytest.raises(PayloadError, match="lists a job twice"):
        messages.decode_report(twice.encode())


def test_a_birth_lists_no_more_than_a_worker_may_hold():
    held = [{"job": f"j{number}", "attempt": 1, "state": "running"} for number in range(messages.MAX_HELD + 1)]
    assert len(messages.decode_report(_born(*held[1:]).encode()).held()) == messages.MAX_HELD
    with pytest.raises(PayloadError, match="field 'holds'"):
        messages.decode_report(_born(*held).encode())


def test_what_a_birth_lists_is_decoded_once(monkeypatch):
    born = messages.decode_report(_born({"job": "x", "attempt": 1, "state": "ended"}).encode())
    monkeypatch.setattr(messages.Held, "from_object", None)
    assert born.held() is born.held()
    assert b"_held" not in born.encode()


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**53, True])
def test_an_exit_code_fits_its_column(number):
    event = {"type": '"finished"', "journal": '"j"', "seq": "1", "job": '"x"', "attempt": "1", "ts": "1"}
    assert messages.decode_report(_object({**event, "exit_code": str(-(2**31))})).exit_code == -(2**31)
    with pytest.raises(PayloadError, match="exit_code"):
        messages.decode_report(_object({**event, "exit_code": json.dumps(number)}))


def test_a_birth_with_a_wrong_list_is_refused_as_a_whole():
    born = messages.Born(
        journal="j", first=1, last=0, instance="i", connection=1, number=1, queues=[], kinds=[], holds=[{"job": "x"}]
    )
    with pytest.raises(PayloadError, match="Held: field 'attempt' is missing"):
        messages.decode_report(born.encode())


@given(st.integers(0, 9), st.integers(0, 2**40), st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_log_bytes_come_back_whatever_they_are(attempt, offset, data):
    chunk = messages.LogChunk.decode(messages.LogChunk.of(attempt, offset, data).encode())
    assert (chunk.attempt, chunk.offset, chunk.data) == (attempt, offset, data)


def test_what_another_version_stored_is_brought_within_bounds():
    value = {"state": "idle", "connection": 2**60, "instance": "i", "ts": -1, "interval": 1e10, "slots": 2**40,
             "free": 0, "running": -3, "reason": "x"}  # fmt: skip
    stored = messages.WorkerStatus.stored(value)
    assert (stored.connection, stored.ts, stored.interval) == (MAX_INTEGER, 0, 3600)
    assert (stored.slots, stored.running, stored.reason) == (messages.MAX_SLOTS, 0, "x")
    assert messages.Desired.stored({"revision": 1, "slots": 5000}).slots == messages.MAX_SLOTS
    with pytest.raises(PayloadError, match="maintenance"):
        messages.Desired.stored({"revision": 1, "maintenance": 7})


def test_what_is_within_bounds_is_looked_through_once(monkeypatch):
    """A new leader reads that of a whole fleet before anybody gets a job."""
    looks = []
    read = messages.Desired.from_object.__func__
    monkeypatch.setattr(
        messages.Desired, "from_object", classmethod(lambda cls, value: looks.append(value) or read(cls, value))
    )
    value = {"revision": 1, "slots": 5}
    assert messages.Desired.stored(value) == messages.Desired(revision=1, slots=5)
    assert len(looks) == 1 and looks[0] is value  # and as it is: no copy was made


def test_a_run_has_no_place_for_a_token():
    assert "token" not in {spec.name for spec in dataclasses.fields(messages.Run)}
