"""A supervisor with its task on a device."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_mqtt.worker.core import effects as fx
from airflow_mqtt.worker.core.calls import LocalCall
from airflow_mqtt.worker.core.jobs import Result

if TYPE_CHECKING:
    from device import Device


class Runner:
    """A supervisor with its task, as a script. It outlives the worker process, not its device's power."""

    def __init__(self, device: "Device", job: str, attempt: int, subject: str) -> None:
        self.device, self.job, self.attempt, self.subject = device, job, attempt, subject
        self.sim = device.sim
        self.pid = self.sim.random.randrange(1, 2**30)
        self.alive = True
        self.result: Result | None = None
        self.log = bytearray()
        self.started = False
        #: What it takes to end it before its time: nothing (it hears the 410 of its heartbeat), or a `Force`.
        self.obeys = self.sim.random.choices((0, fx.Force.TERM, fx.Force.KILL_TASK, fx.Force.KILL), (17, 1, 1, 1))[0]
        self._number = 0
        self._then: Callable[[int], None] | None = None
        self._pending: LocalCall | None = None
        self.sim.at(0.2, self._gate)

    def _ask(self, method: str, action: str, body: dict[str, Any], then: Callable[[int], None]) -> None:
        self._number += 1
        self._then = then
        self._pending = LocalCall(
            token=0, id=f"{self.pid:x}-{self._number}", job=self.job, attempt=self.attempt, method=method,
            path=f"task-instances/{self.subject}/{action}", body=json.dumps(body),
        )  # fmt: skip
        self._send()

    def _send(self) -> None:
        """Ask the worker, and again while it is not there: the transport insists."""
        if not self.alive or self._pending is None:
            return
        if not self.device.submit(self, self._pending):
            self.sim.at(0.5, self._send)

    def hung_up(self) -> None:
        self.sim.at(0.5, self._send)

    def answered(self, call_id: str, status: int) -> None:
        if self.alive and self._pending is not None and self._pending.id == call_id and self._then:
            then, self._then, self._pending = self._then, None, None
            then(status)

    def _gate(self) -> None:
        if self.alive:
            self._ask("PATCH", "run", {"hostname": "pi", "unixname": "u", "pid": self.pid}, self._through)

    def _through(self, status: int) -> None:
        if status >= 300:
            self.end(Result(returned=False, reason=f"the gate answered {status}"))
            return
        self.started = True
        self.device.starts[self.job] += 1
        self.device.started_at.setdefault(self.job, []).append(self.sim.now)
        self.sim.note(f"{self.device.name}: user code of {self.job} attempt {self.attempt} starts")
        self.log.extend(b"hello from %s\n" % self.job.encode())
        self._ask("PUT", "rtif", {}, self._work)

    def _work(self, status: int) -> None:
        self.finish_at = self.sim.now + self.sim.random.choice(
            [0.1, 1.0, 5.0, 20.0] if not self.obeys else [20.0, 60.0]
        )
        self._beat()

    def _beat(self) -> None:
        if not self.alive:
            return
        self.log.extend(b"still here %f\n" % self.sim.now)
        if self.sim.now >= self.finish_at:
            self.log.extend(b"bye\n")
            self.device.ended_code.add(self.job)
            self._ask("PATCH", "state", {"state": "success", "end_date": "x"}, self._ended)
            return
        status = self.device.heartbeat(self)
        if status == 410 and not self.obeys:
            self.log.extend(b"killed\n")
            self.end(Result(returned=True, exit_code=-15))
            return
        self.sim.at(1.0, self._beat)

    def _ended(self, status: int) -> None:
        if status < 300:
            self.device.promised.add(self.job)
        self.end(Result(returned=True, exit_code=0))

    def end(self, result: Result | None) -> None:
        if not self.alive:
            return
        self.alive = False
        self.result = result
        self.sim.at(0.05, lambda: self.device.runner_ended(self))

    def signal(self, force: fx.Force) -> None:
        """Be made to end. Its supervisor lives to say so, unless it is killed too."""
        if self.alive and force >= self.obeys:
            self.sim.faults[f"task ended by {force.name}"] += 1
            self.log.extend(b"ended by %s\n" % force.name.encode())
            self.end(None if force is fx.Force.KILL else Result(returned=True, exit_code=-15))

    def kill(self) -> None:
        """SIGKILL, or the power is gone: nothing is written down."""
        self.alive = False
