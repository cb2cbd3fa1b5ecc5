"""A PUBLISH is read as paho reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTv5, MQTTv311
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from airflow_mqtt.bridge.mqtt.publications import Publication, parse


def packet(topic, payload, *, qos=1, retain=False, number=7, properties=None):
    """The first byte of a PUBLISH, and what follows its length."""
    body = len(topic).to_bytes(2, "big") + topic
    if qos:
        body += number.to_bytes(2, "big")
    if properties is not None:
        body += properties.pack()
    return 0x30 | qos << 1 | retain, body + payload


def said(*, pairs=0):
    properties = Properties(PacketTypes.PUBLISH)
    for pair in range(pairs):
        properties.UserProperty = (f"name {pair}", "value")
    if pairs:
        properties.MessageExpiryInterval = 60
    return properties


@given(
    st.text(min_size=1, max_size=300).filter(lambda text: text.isprintable()), st.binary(max_size=300),
    st.sampled_from([0, 1]), st.booleans(), st.integers(1, 65_535), st.sampled_from([None, 0, 1, 5, 2_000]),
)  # fmt: skip
def test_what_a_broker_sends_is_read(topic, payload, qos, retain, number, pairs):
    of_five = None if pairs is None else said(pairs=pairs)
    command, body = packet(topic.encode(), payload, qos=qos, retain=retain, number=number, properties=of_five)
    found = parse(command, bytearray(body), has_properties=pairs is not None)
    assert found == Publication(topic, payload, retain, number if qos else None)
    assert type(found.payload) is bytes


@given(st.integers(0x30, 0x3F), st.binary(max_size=40), st.booleans())
def test_whatever_comes_is_read_or_refused(command, body, has_properties):
    try:
        found = parse(command, body, has_properties=has_properties)
    except ValueError:
        return
    assert body.endswith(found.payload)


@pytest.mark.parametrize("version", [MQTTv311, MQTTv5])
def test_what_ends_too_early_is_refused(version):
    command, body = packet(b"t", b"", properties=said(pairs=3) if version == MQTTv5 else None)
    for end in range(len(body)):
        with pytest.raises(ValueError, match="a PUBLISH"):
            parse(command, body[:end], has_properties=version == MQTTv5)
    assert parse(command, body, has_properties=version == MQTTv5) == Publication("t", b"", False, 7)


def test_a_topic_that_is_no_text_is_one_that_nobody_has():
    assert parse(*packet(b"a/\xff", b"x"), has_properties=False).topic == "a/\N{REPLACEMENT CHARACTER}"
