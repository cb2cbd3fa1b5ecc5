"""The health of this device, as its kernel tells it: a few small files, read now and then.

A figure is left out where the platform does not tell it. Their names and units are those of `WorkerStatus.health`.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from airflow_mqtt.worker.health_function import HealthFunction

#: Seconds between two looks where somebody waits for what they find, and at least otherwise.
PERIOD = 10.0

#: Sensors that are not there often say such things.
_COLDEST, _HOTTEST = -100.0, 250.0

#: Bytes of memory and disk are told in steps of so many: what is below that is noise.
_STEP = -6

Figures = dict[str, Any]


class Readings:
    """Reads what belongs to the device. `root` holds `proc` and `sys`; `journal` is a file in the state directory."""

    def __init__(self, journal: Path, root: Path = Path("/")) -> None:
        self._journal = journal
        self._proc = root / "proc"
        self._sys = root / "sys/class"
        self._cpu = self._cpu_times()

    def read(self) -> Figures:
        """Return the figures that there are."""
        found: Figures = {}
        for figures in (
            self._busy, self._load, self._memory, self._disk, self._temperature, self._battery, self._uptime,
            self._journal_size,
        ):  # fmt: skip
            with contextlib.suppress(OSError, ValueError, LookupError):
                found |= figures()
        return found

    def _cpu_times(self) -> tuple[int, int]:
        """Return ticks of all cores together since boot: all, and idle (proc(5), /proc/stat)."""
        try:
            times = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
            return sum(times), times[3] + times[4]
        except (OSError, ValueError, LookupError):
            return 0, 0

    def _busy(self) -> Figures:
        before, self._cpu = self._cpu, self._cpu_times()
        spent, idle = self._cpu[0] - before[0], self._cpu[1] - before[1]
        if spent <= 0:
            return {}
        return {"cpu": round(min(100.0, max(0.0, 100.0 * (1 - idle / spent))), 1)}

    def _load(self) -> Figures:
        return {"load": round(float((self._proc / "loadavg").read_text().split()[0]), 2)}

    def _memory(self) -> Figures:
        lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
        sizes = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        total = sizes["MemTotal:"]
        return {
            "memory_used": round(max(0, total - sizes["MemAvailable:"]), _STEP),
            "memory_total": round(total, _STEP),
        }

    def _disk(self) -> Figures:
        found = os.statvfs(self._journal.parent)
        return {
            "disk_free": round(found.f_bavail * found.f_frsize, _STEP),
            "disk_total": round(found.f_blocks * found.f_frsize, _STEP),
        }

    def _temperature(self) -> Figures:
        zones = [number / 1000 for number in self._numbers("thermal", "thermal_zone*/temp")]
        return {"temperature": round(max(zone for zone in zones if _COLDEST < zone < _HOTTEST), 1)}

    def _battery(self) -> Figures:
        return {"battery": min(number for number in self._numbers("power_supply", "*/capacity") if 0 <= number <= 100)}

    def _numbers(self, kind: str, pattern: str) -> Iterator[int]:
        """Yield what these files hold; a sensor that is switched off cannot be read."""
        for file in sorted((self._sys / kind).glob(pattern)):
            with contextlib.suppress(OSError, ValueError):
                yield int(file.read_text())

    def _uptime(self) -> Figures:
        return {"uptime": int(float((self._proc / "uptime").read_text().split()[0]))}

    def _journal_size(self) -> Figures:
        files = (self._journal, self._journal.with_name(f"{self._journal.name}-wal"))
        return {"journal": sum(file.stat().st_size for file in files if file.exists())}


class Health:
    """Says when it is time to look, and looks: at the device, the link, and the values of the site's own function.

    Figures that only go with a heartbeat are looked at when there is one: a device is not woken for them. With
    `judged`, rules wait for them.
    """

    def __init__(
        self,
        readings: Readings,
        traffic: Callable[[], tuple[int, int] | None],
        function: HealthFunction | None,
        interval: float,
        *,
        judged: bool = False,
    ) -> None:
        self._readings = readings
        self._traffic = traffic
        self._function = function
        self._period = min(PERIOD, interval or PERIOD)
        self._awaited = judged or function is not None
        self._due = 0.0

    def deadline(self) -> float:
        return self._due if self._awaited else math.inf

    def look(self, now: float) -> Figures | None:
        """Return the figures if they are not those of just now, else None."""
        if now < self._due:
            return None
        self._due = now + self._period
        figures = self._readings.read()
        if (traffic := self._traffic()) is not None:
            figures |= {"link_in": traffic[0], "link_out": traffic[1]}
        if self._function is not None:
            self._function.tick(now)
            if self._function.values:
                figures["extra"] = self._function.values
        return figures

    def close(self) -> None:
        if self._function is not None:
            self._function.close()
