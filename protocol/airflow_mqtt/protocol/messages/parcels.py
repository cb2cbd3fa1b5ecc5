"""Several messages of a worker in one, and what a message of an events topic may be."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Self

from airflow_mqtt.protocol import PROTOCOL_VERSION, codec
from airflow_mqtt.protocol.messages import checks
from airflow_mqtt.protocol.messages.calls import Request
from airflow_mqtt.protocol.messages.message import Message, must_be
from airflow_mqtt.protocol.messages.reports import Born, Event, LogChunk, UnsupportedBirth, understands

#: What a peer may announce: it takes several messages in one (`Parcel`, and `Ack.answers`).
PARCELS = "parcels"


class PartType(StrEnum):
    """What a part of a parcel is, where it is no event."""

    PARCEL = "parcel"  # the parcel itself
    LOG = "log"
    REQUEST = "request"


@dataclass(frozen=True, kw_only=True)
class LogPart(LogChunk):
    """A chunk of log in a parcel, where no topic names its job."""

    job: str = must_be(checks.job_id)


Part = Event | LogPart | Request

#: What a part leaves out where the part before says the same; `journal` also where the parcel does.
_REPEATED = ("journal", "job", "attempt")


@dataclass(frozen=True, kw_only=True)
class Parcel(Message):
    """Several messages of a worker, in their order."""

    type: str = must_be(lambda value: value == PartType.PARCEL, said=True, default=PartType.PARCEL.value)
    journal: str = must_be(checks.job_id)
    parts: list[codec.JsonObject] = must_be(checks.objects)

    @classmethod
    def of(cls, journal: str, parts: Iterable[Part]) -> Self:
        return cls(journal=journal, parts=list(_shortened(journal, parts)))

    def messages(self) -> tuple[Part, ...]:
        """Return `parts`, decoded; `PayloadError` when one of them is malformed."""
        return self._messages

    @cached_property
    def _messages(self) -> tuple[Part, ...]:
        known: codec.JsonObject = {"journal": self.journal}
        found: list[Part] = []
        for part in self.parts:
            whole = {**known, **part}
            known = {name: whole[name] for name in _REPEATED if name in whole}
            match whole.get("type"):
                case PartType.LOG:
                    found.append(LogPart.from_object(whole))
                case PartType.REQUEST:
                    found.append(Request.from_object(whole))
                case _:
                    found.append(Event.from_object(whole))
        return tuple(found)


def _shortened(journal: str, parts: Iterable[Part]) -> Iterable[codec.JsonObject]:
    known: codec.JsonObject = {"journal": journal}
    for part in parts:
        whole = part.to_object()
        if isinstance(part, LogPart):
            whole["type"] = PartType.LOG.value
        elif isinstance(part, Request):
            whole["type"] = PartType.REQUEST.value
        yield {name: value for name, value in whole.items() if name not in _REPEATED or known.get(name) != value}
        known |= {name: whole[name] for name in _REPEATED if name in whole}


def decode_report(payload: bytes) -> Event | Born | UnsupportedBirth | Parcel:
    """Decode a message of an events topic."""
    value = codec.decode(payload)
    if value.get("type") == PartType.PARCEL:
        parcel = Parcel.from_object(value)
        parcel.messages()
        return parcel
    if value.get("type") == "born":
        journal, protocol = value.get("journal"), value.get("protocol", PROTOCOL_VERSION)
        if checks.job_id(journal) and checks.ordinal(protocol) and not understands(protocol):
            return UnsupportedBirth(str(journal), protocol)
        born = Born.from_object(value)
        born.held()
        return born
    return Event.from_object(value)
