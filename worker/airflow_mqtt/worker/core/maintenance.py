"""Maintenance that is the device's own: by a rule of its settings, or set by hand on the device.

An operator's wish (`Desired.maintenance`) is another thing: none of them ends another.
"""

from collections.abc import Mapping
from typing import Any

from airflow_mqtt.protocol.messages import MAX_SHORT_TEXT, fitting, sanitise
from airflow_mqtt.worker.core import rules
from airflow_mqtt.worker.core.effects import SaveMeta
from airflow_mqtt.worker.core.state import State, say

#: Where the journal keeps the comment; an empty one: not in maintenance.
META = "maintenance"

BY_HAND = "set on the device"


def hear(state: State, health: Mapping[str, Any]) -> None:
    """Take the figures of the device, and judge them by the rules."""
    state.health = fitting(health)
    before = state.held
    state.held = state.config.rules.decide(before, state.health)
    for condition, why in state.held.items():
        if condition not in before:
            say(state, "warning", f"no more jobs are taken, by maintenance_when: {why}")
    for condition in before:
        if condition not in state.held:
            say(state, "info", f"maintenance_when: {condition} is over")


def set_by_hand(state: State, comment: str | None) -> None:
    """Begin maintenance with a comment, or end it (None); it outlives the process."""
    text = "" if comment is None else sanitise(comment.strip(), MAX_SHORT_TEXT) or BY_HAND
    if text == state.by_hand:
        return
    state.by_hand = text
    state.out.append(SaveMeta(META, text))
    say(state, "info", f"maintenance begins, {BY_HAND}: {text}" if text else f"maintenance that was {BY_HAND} ends")


def reason(state: State) -> str:
    """Return why the device takes no jobs by its own will; empty when it does not say so."""
    by_hand = state.by_hand if state.by_hand in ("", BY_HAND) else f"{BY_HAND}: {state.by_hand}"
    return "; ".join(filter(None, (by_hand, rules.reason(state.held))))
