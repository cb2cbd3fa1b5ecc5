"""Passes on what the tasks of workers have for a monitoring system, as far as each worker's budget reaches."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from airflow_mqtt.bridge.bounds import Names, Once, Share
from airflow_mqtt.bridge.telemetry import statsd
from airflow_mqtt.bridge.telemetry.exporter import Exporter
from airflow_mqtt.bridge.telemetry.otlp import Otlp
from airflow_mqtt.bridge.telemetry.statsd import Statsd
from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.messages import Telemetry

log = logging.getLogger(__name__)

#: What is passed on of one worker in a second, and in how many seconds at once: messages, and bytes of them unpacked.
_MESSAGES: Final = 1.0
_BYTES: Final = 8 * 1024
_BURST: Final = 30.0

#: Names of figures, with their tags, that are passed on of one worker and of all, as long as this bridge leads: each is
#: a series that a monitoring system keeps for good.
_NAMES_OF_A_WORKER: Final = 2_000
_NAMES: Final = 200_000


class Relay:
    """What workers say, with their names in it. `dropped` counts what was not passed on, by why."""

    def __init__(
        self,
        exporter: Exporter | None,
        otlp: Otlp | None,
        lines: Statsd | None,
        *,
        clock: Callable[[], float],
        dropped: Counter[str],
    ) -> None:
        self._exporter = exporter
        self._otlp = otlp
        self._lines = lines
        self._clock = clock
        self._share = Share(pieces=_MESSAGES, size=_BYTES, burst=_BURST)
        self._names = Names(total=_NAMES, each=_NAMES_OF_A_WORKER)
        self._unsaid = Once()
        self.dropped = dropped

    def take(self, worker: str, message: Telemetry) -> None:
        """Pass on what `worker` says, or drop it."""
        now = self._clock()
        if self._share.wait(worker, now) > 0:
            self.dropped["telemetry over its budget"] += 1
            return
        size = message.size
        if message.lines:
            self._take_lines(worker, message.lines)
        if message.spans:
            size += self._take_spans(worker, message)
        self._share.use(worker, now, size=size)

    def _take_lines(self, worker: str, lines: list[str]) -> None:
        if self._lines is None:
            return
        named = [statsd.attributed(line, worker) for line in lines]
        if None in named:
            self._refuse(worker, "a line that is not StatsD's")
        known = [line for line in named if line is not None and self._names(worker, statsd.series_of(line))]
        if beyond := len(lines) - named.count(None) - len(known):
            self.dropped["telemetry of too many names"] += beyond
            if self._unsaid(worker, "names"):
                log.warning("worker %s: dropped figures (logged once per worker): its tasks name too many", worker)
        if lost := self._lines.send(known):
            self.dropped["telemetry without room"] += lost

    def _take_spans(self, worker: str, message: Telemetry) -> int:
        """Pass on spans; return how many bytes there were, unpacked."""
        if self._otlp is None or self._exporter is None:
            return 0
        unpacked = 0
        try:
            payload = message.otlp
            unpacked = len(payload)
            spans = self._otlp.attributed(payload, worker)
        except PayloadError as error:
            self._refuse(worker, str(error))
        else:
            if not self._exporter.relay(spans):
                self.dropped["telemetry without room"] += 1
        return unpacked

    def _refuse(self, worker: str, why: str) -> None:
        self.dropped["telemetry"] += 1
        if self._unsaid(worker, why):
            log.warning("worker %s: dropped telemetry (logged once per worker and cause): %.200s", worker, why)
