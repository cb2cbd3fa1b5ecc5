"""Broker URLs taken apart; a password is never shown."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mqtt.config.broker_url import BrokerUrl, parse_broker_url
from airflow_mqtt.protocol.errors import SettingError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtt://host", BrokerUrl("host", 1883, False, None, None)),
        ("mqtts://host", BrokerUrl("host", 8883, True, None, None)),
        ("mqtts://host/", BrokerUrl("host", 8883, True, None, None)),
        ("MQTT://Host:1", BrokerUrl("host", 1, False, None, None)),
        ("mqtt://u@host", BrokerUrl("host", 1883, False, "u", None)),
        ("mqtt://u:p@host", BrokerUrl("host", 1883, False, "u", "p")),
        ("mqtt://u:p%40%2F%3A@host", BrokerUrl("host", 1883, False, "u", "p@/:")),
        ("mqtt://u:p@ss@host", BrokerUrl("host", 1883, False, "u", "p@ss")),
        ("mqtt://u:@host", BrokerUrl("host", 1883, False, "u", "")),
        ("mqtt://[::1]:1884", BrokerUrl("::1", 1884, False, None, None)),
        ('mqtt://u:a[b]c{d}e|f^g h%20i"<>\\`@host', BrokerUrl("host", 1883, False, "u", 'a[b]c{d}e|f^g h i"<>\\`')),
        ("mqtt://u:50%@[::1]:1884", BrokerUrl("::1", 1884, False, "u", "50%")),
    ],
)
def test_the_parts(text, url):
    assert parse_broker_url(text) == url


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "scheme"),
        ("host", "scheme"),
        ("host:1883", "scheme"),
        ("http://host", "scheme"),
        ("mqtt://", "no host"),
        ("mqtt://:1883", "no host"),
        ("mqtt://a b", "no host"),
        ("mqtt://host:0", "port"),
        ("mqtt://host:65536", "port"),
        ("mqtt://host:-1", "port"),
        ("mqtt://host:x", "port"),
        ("mqtt://[::1", "malformed"),
        ("mqtt://host/topic", "nothing may follow"),
        ("mqtt://host?x=1", "nothing may follow"),
        ("mqtt://host#x", "nothing may follow"),
        ("mqtt://user:secret", "malformed"),
        ("mqtt://user:se/cret@host", "'/' in a user's name or password is written %2F"),
        ("mqtt://user:se?cret@host", "'\\?' .* is written %3F"),
        ("mqtt://us#er:secret@host", "'#' .* is written %23"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_an_example(text, what):
    with pytest.raises(SettingError, match=what) as caught:
        parse_broker_url(text)
    assert "expected mqtt://user:password@host:1883" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@given(st.text(min_size=1, max_size=12), st.text(max_size=12), st.integers(1, 65535), st.booleans())
def test_any_user_and_password_arrive_when_they_are_percent_encoded(user, password, port, tls):
    scheme = "mqtts" if tls else "mqtt"
    text = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@host.example:{port}"
    assert parse_broker_url(text) == BrokerUrl("host.example", port, tls, user, password)


@given(
    st.sampled_from(["host", "::1", "10.0.0.1"]),
    st.integers(1, 65535),
    st.booleans(),
    st.none() | st.just("user"),
)
def test_what_is_shown_is_a_url_without_the_password(host, port, tls, user):
    url = BrokerUrl(host, port, tls, user, "s3cr3t" if user else None)
    assert "s3cr3t" not in f"{url} {url!r} {[url]}"
    assert parse_broker_url(str(url)) == BrokerUrl(host, port, tls, user, None)


@given(st.text(max_size=40) | st.text("mqts:/@[]%#?1aé", max_size=20).map("mqtt://".__add__))
def test_any_text_gives_parts_or_a_setting_error(text):
    try:
        assert parse_broker_url(text).host
    except SettingError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("mqtt://edge-1:secret@broker.example", True),
        ("mqtt://edge-1:secret@10.0.0.7:1883", True),
        ("mqtt://edge-1:secret@[fe80::1]", True),
        ("mqtt://edge-1@broker.example", False),
        ("mqtt://broker.example", False),
        ("mqtts://edge-1:secret@broker.example", False),
        ("mqtt://edge-1:secret@localhost", False),
        ("mqtt://edge-1:secret@127.0.0.1:18830", False),
        ("mqtt://edge-1:secret@[::1]", False),
    ],
)
def test_a_password_that_everybody_on_the_way_can_read_is_warned_of(url: str, warns: bool) -> None:
    warning = parse_broker_url(url).warning
    assert bool(warning) == warns
    assert "secret" not in warning
