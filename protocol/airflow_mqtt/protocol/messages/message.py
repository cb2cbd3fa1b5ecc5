"""The base of all messages: how a field is declared, encoding, and decoding by the checks of the fields."""

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self, cast

import orjson

from airflow_mqtt.protocol import codec
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages.checks import Check, Maybe, Real, Whole


def must_be(check: Check, *, said: bool = False, **kwargs: Any) -> Any:
    """Declare a dataclass field whose payload value must pass `check`; a default makes it optional.

    `said`: it is sent at its default too, since that tells messages apart, or is another one in another release.
    """
    return field(metadata={"check": check, "said": said}, **kwargs)


@cache
def _fields_of(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Return each field of a message with the value at which it is left out; `...` for one that never is."""
    found = []
    for spec in dataclasses.fields(cls):
        unsaid: Any = spec.default
        if spec.default_factory is not dataclasses.MISSING:
            unsaid = spec.default_factory()
        if unsaid is dataclasses.MISSING or spec.metadata["said"]:
            unsaid = ...
        found.append((spec.name, unsaid))
    return tuple(found)


@cache
def _checks_of(cls: Any) -> tuple[tuple[str, Check, bool], ...]:
    """Return each field of a message with its check, and whether it must be there."""
    return tuple((spec.name, spec.metadata["check"], _is_required(spec)) for spec in dataclasses.fields(cls))


def _is_required(spec: "dataclasses.Field[Any]") -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages: encoding, and decoding by the checks of the fields."""

    #: Whether people read it as it is: then it is never packed.
    is_public: ClassVar[bool] = False

    def to_object(self) -> codec.JsonObject:
        """Return what is sent: the fields that are not at their defaults."""
        values, cls = vars(self), cast("Any", type(self))
        return {name: values[name] for name, unsaid in _fields_of(cls) if values[name] != unsaid}

    def plain(self) -> bytes:
        """Return the JSON text."""
        return orjson.dumps(self.to_object())

    def encode(self) -> bytes:
        return self.plain() if self.is_public else codec.pack(self.plain())

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls.from_object(codec.decode(payload))

    @classmethod
    def from_object(cls, value: codec.JsonObject) -> Self:
        known: dict[str, Any] = {}
        for name, check, is_required in _checks_of(cast("Any", cls)):
            if name in value:
                item = value[name]
                if not check(item):
                    raise PayloadError(f"{cls.__name__}: field {name!r} holds {str(item)[:80]!r}")
                known[name] = item
            elif is_required:
                raise PayloadError(f"{cls.__name__}: field {name!r} is missing")
        return cls(**known)

    @classmethod
    def stored(cls, value: codec.JsonObject) -> Self:
        """As `from_object`, for what another version may have stored: numbers are brought within their bounds."""
        try:
            return cls.from_object(value)
        except PayloadError:
            known = numbers(cls)
            return cls.from_object({name: _clamped(item, known.get(name)) for name, item in value.items()})


def numbers(cls: type[Message]) -> dict[str, Whole | Real]:
    """Return the fields of `cls` that hold a number, with their bounds."""
    checks = {spec.name: spec.metadata["check"] for spec in dataclasses.fields(cls)}
    inside = {name: check.inside if isinstance(check, Maybe) else check for name, check in checks.items()}
    return {name: check for name, check in inside.items() if isinstance(check, (Whole, Real))}


def _clamped(value: Any, bounds: Whole | Real | None) -> Any:
    if bounds is None or type(value) not in (int, float):
        return value
    return min(max(value, bounds.least), bounds.greatest)
