"""When to look at what: no time is lost, and what is held is a constant for each name."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.bridge.deadlines import Deadlines

NAMES = st.sampled_from("abc")
TIMES = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, TIMES),
    st.tuples(st.just("forget"), NAMES),
    st.tuples(st.just("take"), TIMES, st.sampled_from([1, inf])),
    st.tuples(st.just("bring_forward"), TIMES),
)


@given(st.lists(STEPS, max_size=200))
def test_it_does_what_a_look_at_all_of_them_would(steps):
    deadlines, times = Deadlines(), {}
    for what, *values in steps:
        found = getattr(deadlines, what)(*values)
        match what, values:
            case "put", (name, at):
                times[name] = min(at, times.get(name, inf))
            case "forget", (name,):
                times.pop(name, None)
            case "take", (now, most):
                due = sorted(at for at in times.values() if at <= now)
                assert [times.pop(name) for name in found] == due[: None if most is inf else most]
            case "bring_forward", (now,):
                times = {name: min(at, now) for name, at in times.items()}
        assert deadlines.times() == times and deadlines.next == min(times.values(), default=inf)


def test_it_does_not_grow_with_what_is_asked():
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.put("a", 10_000 - number)
        deadlines.put("b", number)
        deadlines.put(f"c{number}", number)
        deadlines.forget(f"c{number}")
        assert len(deadlines) <= 16 + 2 * 3
    assert deadlines.times() == {"a": 1, "b": 0}
