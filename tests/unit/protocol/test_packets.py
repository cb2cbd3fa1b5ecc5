"""What is known of the largest packet that a broker takes."""

import pytest

from airflow_mqtt.protocol.packets import CUT_OFF_TIMES, ENVELOPE, LEAST, PacketLimit, size_of

KIB = 1024


def cut_off(limit: PacketLimit, *sizes: int) -> list[bool]:
    found = []
    for size in sizes:
        limit.connected(None)
        found.append(limit.cut_off(size))
    return found


def test_nothing_is_known_at_first() -> None:
    limit = PacketLimit()
    assert limit.packet is None and limit.payload is None and limit.fits(10**9)


def test_what_the_broker_says_is_kept_and_may_change() -> None:
    limit = PacketLimit()
    limit.connected(64 * KIB)
    assert (limit.packet, limit.payload) == (64 * KIB, 64 * KIB - ENVELOPE)
    assert limit.fits(64 * KIB) and not limit.fits(64 * KIB + 1)
    limit.connected(None)
    assert limit.packet is None


def test_a_tiny_limit_leaves_a_payload() -> None:
    limit = PacketLimit()
    limit.connected(2000)
    assert limit.payload == 1000


def test_who_is_cut_off_again_and_again_under_a_large_packet_learns_half_of_it() -> None:
    limit = PacketLimit()
    assert cut_off(limit, *[900 * KIB] * (CUT_OFF_TIMES - 1)) == [True] * (CUT_OFF_TIMES - 1)
    assert limit.packet is None
    cut_off(limit, 800 * KIB)
    assert limit.packet == 400 * KIB
    cut_off(limit, *[300 * KIB] * CUT_OFF_TIMES)
    assert limit.packet == 150 * KIB


def test_connections_that_carry_nothing_large_teach_nothing() -> None:
    limit = PacketLimit()
    assert cut_off(limit, *[0, LEAST] * 20) == [False] * 40
    assert limit.packet is None


def test_a_large_packet_that_passes_clears_the_suspicion() -> None:
    limit = PacketLimit()
    for _ in range(10):
        cut_off(limit, *[900 * KIB] * (CUT_OFF_TIMES - 1))
        limit.connected(None)
        limit.acknowledged(900 * KIB)
        limit.acknowledged(1)
    assert limit.packet is None
    assert not limit.cut_off(800 * KIB)  # larger ones have passed on this connection


def test_an_acknowledgement_that_the_connection_does_not_outlive_is_none() -> None:
    """Mosquitto acknowledges what is above its `message_size_limit`, and ends the connection."""
    limit = PacketLimit()
    for _ in range(CUT_OFF_TIMES):
        limit.connected(None)
        limit.acknowledged(50 * KIB)
        assert limit.cut_off(0)
    assert limit.packet == 25 * KIB


def test_links_that_are_lost_later_teach_nothing() -> None:
    limit = PacketLimit()
    for _ in range(10):
        limit.connected(None)
        limit.acknowledged(50 * KIB)
        limit.acknowledged(0)
        assert not limit.cut_off(0)
    assert limit.packet is None


def test_one_that_says_its_limit_cuts_off_for_other_reasons() -> None:
    limit = PacketLimit()
    for _ in range(10):
        limit.connected(1024 * KIB)
        assert not limit.cut_off(900 * KIB)
    assert limit.packet == 1024 * KIB


def test_a_refusal_is_believed_at_once_and_never_below_what_has_passed() -> None:
    limit = PacketLimit()
    limit.connected(None)
    limit.acknowledged(70 * KIB)
    limit.refused(100 * KIB)
    assert limit.packet == 70 * KIB
    limit.connected(None)
    limit.refused(LEAST)
    assert limit.packet == 70 * KIB


@pytest.mark.parametrize("sizes", [[40 * KIB, 30 * KIB, 20 * KIB] * 20])
def test_no_limit_below_the_least_is_learnt(sizes: list[int]) -> None:
    limit = PacketLimit()
    cut_off(limit, *sizes)
    assert limit.packet == LEAST


def test_the_size_is_of_the_whole_packet() -> None:
    assert size_of("ü", b"1234") == 2 + 4 + 16
