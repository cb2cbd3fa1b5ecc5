"""Which traces a call names, and which headers are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.protocol.trace_context import TraceContext, headers_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


def test_a_trace_that_is_recorded_is_carried():
    state = "airflow/task_span_detail_level=2,rojo=00f067aa0ba902b7"
    carrier = {"traceparent": SAMPLED, "tracestate": state, "content-type": "application/json"}
    assert headers_of(carrier) == {"traceparent": SAMPLED, "tracestate": state}
    assert TraceContext.of(carrier) == TraceContext(TRACE, SPAN, state)


@pytest.mark.parametrize("more", ["", "-", "-what later versions add"])
def test_of_a_later_version_that_is_carried_which_is_known(more):
    """https://www.w3.org/TR/trace-context/#versioning-of-traceparent"""
    assert headers_of({"traceparent": f"cc-{TRACE}-{SPAN}-03{more}"}) == {"traceparent": SAMPLED}
    assert headers_of({"traceparent": f"cc-{TRACE}-{SPAN}-03more"}) == {}


def test_a_trace_that_nobody_records_costs_nothing():
    assert headers_of({"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=b"}) == {}
    assert headers_of({"tracestate": "a=b"}) == headers_of({}) == {}


@pytest.mark.parametrize(
    "parent",
    [
        "", "x", SAMPLED.upper(), SAMPLED + "\n", SAMPLED + "-more", f"{SAMPLED}, {SAMPLED}", "ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}-{SPAN}-01", "ü" + SAMPLED[1:], 7,
    ],
)  # fmt: skip
def test_what_is_no_trace_is_left_out(parent):
    assert headers_of({"traceparent": parent, "tracestate": "a=b"}) == {}


@pytest.mark.parametrize(
    "state",
    ["a", "=b", "A=b", "a=b\r\nx: y", "a=b=c", "a=\x7f", "a=ü", "a=" + "b" * 255, 7, None, "a=b\x00"],
)
def test_what_is_no_state_is_left_out_alone(state):
    assert headers_of({"traceparent": SAMPLED, "tracestate": state}) == {"traceparent": SAMPLED}


def test_needless_spaces_are_left_out():
    assert headers_of({"traceparent": SAMPLED, "tracestate": " a=b ,,\tc@d=e f "})["tracestate"] == "a=b,c@d=e f"


@given(st.text(max_size=300), st.text(alphabet="a=,@ \t0\n", max_size=40))
def test_what_is_carried_is_a_header(parent, state):
    for carrier in ({"traceparent": parent}, {"traceparent": SAMPLED, "tracestate": state}):
        for value in headers_of(carrier).values():
            assert 1 <= len(value) <= 256
            assert value.isascii() and value.isprintable() and value == value.strip()
