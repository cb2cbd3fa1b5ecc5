"""PUBLISH and PUBACK, read and written as paho does."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import CallbackAPIVersion, MQTTv5, MQTTv311
from paho.mqtt.client import Client as Paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from airflow_mqtt.bridge.mqtt import control_packets
from airflow_mqtt.bridge.mqtt.control_packets import Packet, Publication, acknowledged, packet_at, publication


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
    found = publication(command, bytearray(body), has_properties=pairs is not None)
    assert found == Publication(topic, payload, retain, number if qos else None)
    assert type(found.payload) is bytes


@given(st.integers(0x30, 0x3F), st.binary(max_size=40), st.booleans())
def test_whatever_comes_is_read_or_refused(command, body, has_properties):
    try:
        found = publication(command, body, has_properties=has_properties)
    except ValueError:
        return
    assert body.endswith(found.payload)


@pytest.mark.parametrize("version", [MQTTv311, MQTTv5])
def test_what_ends_too_early_is_refused(version):
    command, body = packet(b"t", b"", properties=said(pairs=3) if version == MQTTv5 else None)
    for end in range(len(body)):
        with pytest.raises(ValueError, match="a PUBLISH"):
            publication(command, body[:end], has_properties=version == MQTTv5)
    assert publication(command, body, has_properties=version == MQTTv5) == Publication("t", b"", False, 7)


def test_a_topic_that_is_no_text_is_one_that_nobody_has():
    assert publication(*packet(b"a/\xff", b"x"), has_properties=False).topic == "a/\N{REPLACEMENT CHARACTER}"


# --- where a packet is --------------------------------------------------------------------------------------


def framed(command, body):
    return bytes((command, *control_packets._digits(len(body)))) + body


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=400)), max_size=10), st.data())
def test_packets_are_found_and_what_is_missing_is_told(packets, data):
    whole = b"".join(framed(*one) for one in packets)
    cut = data.draw(st.integers(0, len(whole)))
    read, at, found = bytearray(whole[:cut]), 0, []
    while at < len(read) and isinstance(packet := packet_at(read, at), Packet):
        found.append((packet.command, bytes(read[packet.start : packet.end])))
        at = packet.end
    assert found == packets[: len(found)]
    if at < len(read):
        missing = packet_at(read, at)
        next_one = framed(*packets[len(found)])
        assert 0 < missing <= len(next_one) - (len(read) - at)  # no more than there is to come
        assert missing == len(next_one) - (len(read) - at) or len(read) - at < 4


@pytest.mark.parametrize("length", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_are_those_of_the_standard(length):
    """The bounds of one, two, three and four bytes (section 1.5.5)."""
    assert bytes(control_packets._digits(length)) == bytes(Paho._pack_remaining_length(None, bytearray(), length))


def test_a_length_of_five_bytes_is_none():
    with pytest.raises(ValueError, match="four bytes"):
        packet_at(b"\x30\xff\xff\xff\xff\x01", 0)


# --- what is written ----------------------------------------------------------------------------------------


def of_paho(version, *arguments, **options):
    """What paho would write."""
    client = Paho(CallbackAPIVersion.VERSION2, protocol=version)
    client._sock, written = socket.socket(), []
    client._packet_queue = lambda command, packet, *_: written.append(bytes(packet))
    client._send_publish(*arguments, **options) if arguments[1:] else client._send_puback(*arguments)
    return written[0]


@given(
    st.text(min_size=1, max_size=300).filter(lambda text: not set(text) & set("+#\0") and text.isprintable()),
    st.binary(max_size=300), st.one_of(st.none(), st.integers(1, 65_535)), st.booleans(),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)), st.sampled_from([MQTTv311, MQTTv5]),
)  # fmt: skip
def test_a_message_is_written_as_paho_does(topic, payload, number, retain, expiry, version):
    properties = None
    if expiry is not None and version == MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = expiry
    ours = control_packets.publish(
        topic, payload, number=number, retain=retain, expiry=expiry, has_properties=version == MQTTv5
    )
    said = {"qos": 0 if number is None else 1, "retain": retain, "properties": properties}
    assert ours == of_paho(version, number or 0, topic.encode(), payload, **said)


@pytest.mark.parametrize("topic", ["", "a/#", "a/+/b", "a\0", "x" * 65_536, "\ud800"], ids=range(6))
def test_what_mqtt_has_no_topic_for_is_refused(topic):
    with pytest.raises(ValueError):
        control_packets.publish(topic, b"", number=1, retain=False, expiry=None, has_properties=True)


def test_a_message_that_is_larger_than_mqtt_allows_is_refused(monkeypatch):
    monkeypatch.setattr(control_packets, "_LONGEST", 20)
    with pytest.raises(ValueError, match="larger than MQTT"):
        control_packets.publish("t", b"x" * 20, number=1, retain=False, expiry=None, has_properties=True)


@given(st.integers(1, 65_535))
def test_an_acknowledgement_is_written_as_paho_does_and_read(number):
    ours = control_packets.puback(number)
    assert ours == of_paho(MQTTv5, number)
    assert acknowledged(ours[2:]) == (number, 0)
    assert acknowledged(ours[2:] + b"\x95\0") == (number, 0x95)
    with pytest.raises(ValueError, match="PUBACK"):
        acknowledged(ours[2:3])
