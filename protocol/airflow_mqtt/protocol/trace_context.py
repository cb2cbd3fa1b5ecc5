"""The trace that a call belongs to, as W3C writes it in two headers (Trace Context, https://www.w3.org/TR/trace-context/).

Pure. Airflow gives every Dag run a trace, whether or not anybody records it, and the Task SDK names it in every call.
So only what is *sampled* is carried: a trace that nobody records costs a device's link nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

#: Version, trace, span, flags (section 3.2). Later versions may have more behind that; the four stay.
_TRACEPARENT: Final = re.compile(
    r"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)

#: `key=value` (section 3.3.1): a key, of a vendor's tenant too; printable ASCII without comma and equals sign.
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ !-+\--<>-~]{0,255}[!-+\--<>-~]")

#: W3C wants 512 characters to be passed on at least, and a longer one dropped whole. A header of a call has room for
#: half of it; what Airflow writes there has 32.
MAX_TRACESTATE: Final = 256

_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that is recorded somewhere, and what vendors keep beside it. `trace` and `span` are in hexadecimal."""

    trace: str
    span: str
    state: str = ""

    @classmethod
    def of(cls, carrier: Mapping[str, str]) -> Self | None:
        """Return what `carrier` (headers, or Airflow's `context_carrier`) names, if it is well-formed and sampled."""
        parent = carrier.get(TRACEPARENT)
        found = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
        if found is None or not int(found[3], 16) & _SAMPLED:
            return None
        return cls(found[1], found[2], _state(carrier.get(TRACESTATE)))

    def headers(self) -> dict[str, str]:
        """Return it as the headers of a call."""
        parent = {TRACEPARENT: f"00-{self.trace}-{self.span}-01"}
        return parent | {TRACESTATE: self.state} if self.state else parent


def _state(value: object) -> str:
    """Return a `tracestate` that may go on, without needless spaces. A malformed one is dropped alone (section 4.3)."""
    if not isinstance(value, str) or len(value) > MAX_TRACESTATE:
        return ""
    members = [member for part in value.split(",") if (member := part.strip(" \t"))]
    return ",".join(members) if all(map(_MEMBER.fullmatch, members)) else ""


def headers_of(carrier: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which a call of `carrier` names its trace: none where nobody records it."""
    if TRACEPARENT not in carrier:
        return {}
    context = TraceContext.of(carrier)
    return {} if context is None else context.headers()
