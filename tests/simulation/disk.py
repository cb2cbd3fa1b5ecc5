"""What outlives the power of a device: its journal, and what its runners wrote."""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from runner import Runner

from airflow_mqtt.worker.core import Restored
from airflow_mqtt.worker.core import effects as fx

Runners = dict[tuple[str, int], Runner]


@dataclass
class Disk:
    """A journal, as `worker.journal.Journal` keeps it."""

    meta: dict[str, str]
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[int, bytes] = field(default_factory=dict)
    calls: dict[str, tuple[str, int, dict[str, Any]]] = field(default_factory=dict)
    log_marks: dict[str, int] = field(default_factory=dict)

    def load(self) -> Restored:
        calls = sorted(self.calls.values(), key=lambda item: item[1])
        return Restored(
            meta=dict(self.meta),
            jobs=[json.loads(json.dumps(record)) for record in self.jobs.values()],
            events=dict(sorted(self.events.items())),
            calls=[(job, json.loads(json.dumps(record))) for job, _, record in calls],
            log_marks=dict(self.log_marks),
        )

    def keep(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SaveMeta(key, value):
                self.meta[key] = value
            case fx.SaveJob(job, record):
                self.jobs[job] = json.loads(json.dumps(record))
            case fx.DropJob(job):
                self.jobs.pop(job, None)
                self.log_marks.pop(job, None)
            case fx.SaveLogMark(job, acked):
                self.log_marks[job] = acked
            case fx.SaveEvent(seq, payload):
                self.events[seq] = payload
            case fx.DropEvents(upto):
                self.events = {seq: payload for seq, payload in self.events.items() if seq > upto}
                self.meta["acked"] = str(upto)
            case fx.SaveCall(call, job, position, record):
                self.calls[call] = (job, position, json.loads(json.dumps(record)))
            case fx.DropCall(call):
                self.calls.pop(call, None)


class Image:
    """A copy of a disk, as it was at one commit."""

    def __init__(self, disk: Disk, runners: Runners) -> None:
        self._disk = Disk(dict(disk.meta), dict(disk.jobs), dict(disk.events), dict(disk.calls), dict(disk.log_marks))
        self._files = [(key, runner, len(runner.log), runner.result) for key, runner in runners.items()]

    def copy(self) -> tuple[Disk, Runners]:
        """Return the disk, and what is left of the runners: files."""
        runners: Runners = {}
        for key, runner, size, result in self._files:
            runners[key] = remains = copy.copy(runner)
            remains.log = runner.log[:size]
            remains.result, remains.alive = result, False
        return copy.deepcopy(self._disk), runners
