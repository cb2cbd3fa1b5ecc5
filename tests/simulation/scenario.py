"""One seed, one run: jobs flow while everything breaks, then the world heals, then the promises are held."""

import random
from collections import Counter
from dataclasses import dataclass, field

import orjson
from bridge import LOST_AFTER, SimBridge
from broker import Broker
from device import Device
from disk import Image
from execution_api import Airflow
from memory import MemoryDatabase, new_row
from world import EPOCH_TIME, Simulation

from airflow_mqtt.database.labels import fit
from airflow_mqtt.executor import core as executor_core
from airflow_mqtt.protocol import kinds
from airflow_mqtt.protocol.jobs import TERMINAL, JobState

CHAOS = 90.0
HEALED = 1500.0

#: Of twenty schedules, those in which jobs ask for more than a queue.
_ASKING = frozenset({4, 8, 11, 15, 19})


@dataclass
class Outcome:
    """What a run showed: faults injected, violations of each promise, and the trace to tell why."""

    seed: int
    faults: Counter[str]
    states: Counter[str]
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


class Scenario:
    def __init__(self, seed: int) -> None:
        self.sim = Simulation(seed)
        self.asks = seed % 20 in _ASKING  # whether jobs ask for labels, and have deadlines
        self.broker = Broker(self.sim)
        self.airflow = Airflow()
        self.db = MemoryDatabase()
        self.devices = [Device(self.sim, self.broker, f"edge-{n}") for n in range(self.sim.random.choice([1, 2, 3]))]
        self.bridges: list[SimBridge] = []
        self.heard: Counter[tuple[str, str]] = Counter()
        self.unwanted: set[str] = set()
        self.doubles: list[Device] = []  # second devices of a name
        self.off_disk: set[str] = set()  # jobs that were in a journal when its disk was lost, replaced, or went back
        self.alone_until = 0.0
        self.asleep: list[tuple[float, float]] = []  # from when to when there was a bridge, and it slept

    # --- the parts ----------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        sim = self.sim
        self._lead()
        for device in self.devices:
            sim.at(sim.random.uniform(0, 5), device.start)
        for number in range(sim.random.randint(2, 8)):
            sim.at(sim.random.uniform(0, CHAOS * 0.7), lambda n=number: self._queue(n))
        self._plan_faults()
        self._executor()
        sim.run_until(CHAOS)
        self._heal()
        sim.run_until(CHAOS + HEALED, done=self._settled)
        sim.run_until(sim.now + 30.0)
        # What was still on its way then, a stale order for a device that is back, may have begun a last exchange.
        sim.run_until(sim.now + HEALED, done=self._settled)
        return self._judge()

    def _lead(self) -> None:
        """Keep a bridge leading: whenever none lives, or the leader sleeps, the next takes over."""
        leader = self.bridges[-1] if self.bridges else None
        if leader is None or not leader.alive or (leader.asleep and self.sim.now >= self.alone_until):
            self.asleep = [(since, min(to, self.sim.now)) for since, to in self.asleep]
            self.bridges.append(SimBridge(self.sim, self.broker, self.db, self.airflow, len(self.bridges) + 1))
        self.sim.at(3.0, self._lead)

    def _queue(self, number: int) -> None:
        id_, subject = f"job-{number}", f"ti-{number}"
        now = EPOCH_TIME + self.sim.now
        row = new_row(id_, subject, now)
        if self.asks and number % 3 == 0:
            row["labels"] = (("camera", "yes"),)
        if self.asks and number % 3 == 1:
            row["not_after"] = now + 40.0
        row["workload"] = orjson.dumps({"type": "ExecuteTask", "subject": subject}).decode()
        self.db.rows[id_] = row
        self.airflow.states[subject] = "queued"
        self.sim.note(f"{id_} is queued")

    def _supersede(self) -> None:
        """A scheduler wishes for the end of a job that has not started, in a transaction that takes its time."""
        unstarted = ("queued", "dispatched", "accepted")
        ids = [id_ for id_, row in self.db.rows.items() if row["state"] in unstarted and id_ not in self.db.locked]
        if not ids:
            return
        id_ = self.sim.random.choice(ids)
        self.sim.faults["superseded by the scheduler"] += 1
        self.sim.note(f"{id_} is being superseded")
        self.db.locked.add(id_)

        def commit() -> None:
            self.db.locked.discard(id_)
            self.db.wish_for_end(id_, EPOCH_TIME + self.sim.now)

        self.sim.at(self.sim.random.choice([0.001, 0.05, 1.0]), commit)

    def _executor(self) -> None:
        """The executor: hears what is pending, once."""
        for row in self.db.rows.values():
            if row["report_pending"]:
                row["report_pending"] = False
                job = executor_core.Job(
                    row["id"],
                    kinds.TASK,
                    JobState(row["state"]),
                    row["reason"],
                    row["final_state"],
                    True,
                )
                decision = executor_core.decide(job)
                if decision.ended:
                    self.heard[row["id"], decision.report.value] += 1
        self.sim.at(1.0, self._executor)

    # --- faults -------------------------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        sim = self.sim
        for _ in range(sim.random.randint(0, 8)):
            fault = sim.random.choice(
                [self._kill_bridge, self._sleep_bridge, self._sleep_alone, self._kill_worker, self._cut_power, self._kill_broker,
                 self._empty_broker, self._cut_link, self._clear_task, self._api_outage, self._wipe,
                 self._go_back, self._forget_written, self._swap_disks, self._double, self._supersede, self._supersede]
            )  # fmt: skip
            sim.at(sim.random.uniform(0, CHAOS), fault)

    def _device(self) -> Device:
        return self.sim.random.choice(self.devices)

    def _kill_bridge(self) -> None:
        self.sim.faults["bridge killed"] += 1
        self.bridges[-1].die()

    def _sleep_bridge(self) -> None:
        leader, seconds = self.bridges[-1], self.sim.random.uniform(1.0, 20.0)
        if leader.alive and not leader.asleep:
            self.sim.faults["bridge asleep"] += 1
            leader.sleep(seconds)

    def _sleep_alone(self) -> None:
        """There is one bridge only, and it sleeps: for longer than a silent worker's jobs are kept."""
        leader, seconds = self.bridges[-1], self.sim.random.uniform(5.0, 2 * LOST_AFTER)
        if leader.alive and not leader.asleep:
            self.sim.faults["bridge asleep, and no other there"] += 1
            self.alone_until = self.sim.now + seconds
            self.asleep.append((self.sim.now, self.alone_until))
            leader.sleep(seconds)

    def _kill_worker(self) -> None:
        device = self._device()
        if device.up:
            device.crash(power=False)

    def _cut_power(self) -> None:
        device = self._device()
        if device.up:
            device.crash(power=True)

    def _wipe(self) -> None:
        """Power lost, and the disk with it."""
        device = self._device()
        if device.up and self.sim.chance(0.3, "disk wiped"):
            self._switch_off(device)
            device.insert_new_disk()

    def _go_back(self) -> None:
        """Power lost, and the disk restored from an old image."""
        device = self._device()
        if device.up:
            self._put_back(device, self.sim.random.choice(device.images), "disk restored from an old image")

    def _forget_written(self) -> None:
        """Power lost, and the card has not written what it said: the last commits are gone."""
        device = self._device()
        if device.up:
            commits = min(self.sim.random.randint(2, 5), len(device.images))
            self._put_back(device, device.images[-commits], "disk lost its last commits")

    def _swap_disks(self) -> None:
        """Power lost, a new disk put in; later the old one is put in again."""
        device = self._device()
        seconds = min(self.sim.random.uniform(5.0, 60.0), CHAOS - self.sim.now)
        if not device.up or seconds < 5.0:
            return
        old = device.image()
        self._switch_off(device)
        device.insert_new_disk()
        self.sim.at(seconds, lambda: self._put_back(device, old, "old disk back after a new one"))

    def _put_back(self, device: Device, image: Image, fault: str) -> None:
        self.sim.faults[fault] += 1
        self.sim.note(f"{device.name}: {fault}")
        self._switch_off(device)
        device.put_back(image)

    def _switch_off(self, device: Device) -> None:
        """Power lost; what the journal holds now is gone with its disk."""
        self.off_disk |= set(device.disk.jobs)
        if device.up:
            device.crash(power=True)
        else:
            device.lose_power()

    def _double(self) -> None:
        """A device is cut off, and goes on; another of its name takes its place; then that goes, and the first is back."""
        device = self._device()
        seconds = min(self.sim.random.uniform(10.0, 60.0), CHAOS - self.sim.now)
        if seconds < 10.0 or self.sim.now < device.cut_until:
            return
        self.sim.faults["second device of a name, and the first one back"] += 1
        device.cut(seconds)
        double = Device(self.sim, self.broker, device.name)
        double.disks += 1000  # its instances are its own
        self.doubles.append(double)
        self.sim.at(2.0, lambda: (self.off_disk.update(device.disk.jobs), double.start()))
        self.sim.at(seconds - 1.0, lambda: (self.off_disk.update(double.disk.jobs), double.retire()))

    def _kill_broker(self) -> None:
        self.broker.restart(forget=False)

    def _empty_broker(self) -> None:
        self.broker.restart(forget=True)

    def _cut_link(self) -> None:
        self._device().cut(self.sim.random.choice([2.0, 20.0, 100.0]))

    def _clear_task(self) -> None:
        running = [s for s, state in self.airflow.states.items() if state == "running"]
        if running:
            subject = self.sim.random.choice(running)
            self.sim.faults["task cleared in Airflow"] += 1
            self.sim.note(f"{subject} is cleared in Airflow")
            self.airflow.states[subject] = "removed"
            self.unwanted.add(subject.replace("ti", "job"))

    def _api_outage(self) -> None:
        self.sim.faults["api-server down"] += 1
        self.airflow.up = False
        self.sim.at(self.sim.random.uniform(1, 30), lambda: setattr(self.airflow, "up", True))

    # --- the end ------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.broker.chaos = False
        self.airflow.up = True
        for device in self.devices:
            device.cut_until = min(device.cut_until, self.sim.now + 30)

    def _settled(self) -> bool:
        return all(row["state"] in TERMINAL for row in self.db.rows.values()) and all(
            device.up and not (device.core.state.jobs or device.core.state.outbox.events) for device in self.devices
        )

    def _judge(self) -> Outcome:
        outcome = Outcome(
            0, self.sim.faults, Counter(row["state"] for row in self.db.rows.values()), trace=self.sim.trace
        )
        bad = outcome.violations
        starts: Counter[str] = sum((device.starts for device in self._all()), Counter())
        for id_, row in self.db.rows.items():
            self._check_job(id_, row, starts[id_], bad)
        for device in self.devices:
            if device.up and device.core.state.outbox.events:
                bad.append(f"3: {device.name} still holds events that nobody acknowledged")
        return outcome

    def _all(self) -> list[Device]:
        return self.devices + self.doubles

    def _check_job(self, id_: str, row: dict, starts: int, bad: list[str]) -> None:
        state, subject = row["state"], row["subject"]
        ended = {job for device in self._all() for job in device.ended_code}
        promised = {job for device in self._all() for job in device.promised}
        wished_away = self.unwanted | set(self.db.superseded)
        harmed = {job for device in self._all() for job in device.power_cuts} | self.off_disk | wished_away
        if state not in TERMINAL:
            bad.append(f"1: {id_} is {state} and forgotten")
        heard = sum(count for (job, _), count in self.heard.items() if job == id_)
        if state in TERMINAL and heard != 1:
            bad.append(f"1: Airflow heard {heard} times of the end of {id_}")
        started_at = min((at for device in self._all() for at in device.started_at.get(id_, ())), default=None)
        if id_ in self.db.superseded and started_at and started_at > self.db.superseded[id_] - EPOCH_TIME:
            bad.append(f"2: user code of {id_} started after the scheduler had superseded it")
        if starts > 1:
            bad.append(f"2: user code of {id_} started {starts} times")
        if any(device.starts[id_] and not fit(row["labels"], device.labels) for device in self._all()):
            bad.append(f"6: user code of {id_} started where its labels are not")
        late = row["reason"].startswith("not begun within")
        if row["not_after"] is not None and (row["started_at"] or 0) > row["not_after"]:
            bad.append(f"6: {id_} was let through the gate after its deadline")
        if late and (starts or row["finished_at"] < row["not_after"]):
            bad.append(f"6: {id_} is failed for its deadline, and had begun, or had time left")
        if state == JobState.SUCCEEDED and id_ not in ended:
            bad.append(f"3: {id_} succeeded without having run")
        if (
            id_ in promised
            and state != JobState.SUCCEEDED
            # Airflow had it, from a bridge that died before it noted that; its next heartbeat was refused for this.
            and not (state == JobState.CANCELLED and self.airflow.states[subject] == "success")
            and id_ not in wished_away | self.off_disk | self._lost_fairly(id_)
        ):
            bad.append(f"3: {id_} is {state} ({row['reason']}), though the worker took its result")
        if state in (JobState.FAILED, JobState.LOST) and not late and id_ not in harmed | self._lost_fairly(id_):
            bad.append(f"5: {id_} is {state} ({row['reason']}) for no good reason")
        if state == JobState.CANCELLED and not (
            self.airflow.states[subject] in ("removed", "success") or id_ in self.db.superseded
        ):
            bad.append(f"5: {id_} is cancelled ({row['reason']}) for no good reason")
        if state == JobState.SUCCEEDED and self.airflow.states[subject] != "success" and id_ not in self.unwanted:
            bad.append(f"3: {id_} succeeded, but Airflow says {self.airflow.states[subject]}")
        self._check_log(id_, row, bad)

    def _lost_fairly(self, id_: str) -> set[str]:
        """Whether the job's worker was out of reach for longer than `lost_after`: then losing it is the rule.

        A silence in which there was nobody to hear it is none.
        """
        row = self.db.rows[id_]
        if "has been silent for" not in row["reason"]:
            return set()
        name, ended = row["reason"].split()[1], row["finished_at"] - EPOCH_TIME
        heard = max(at for at in self.db.heard[name] if at <= ended)
        unheard = sum(max(0.0, min(to, ended) - max(since, heard)) for since, to in self.asleep)
        return {id_} if ended - heard - unheard >= LOST_AFTER - 2.0 else set()

    def _check_log(self, id_: str, row: dict, bad: list[str]) -> None:
        """The whole log has arrived, unless its disk was lost before. Of a disk that went back more may come: what its
        worker then writes into a log of which it does not know that it was done.
        """
        if row["state"] != JobState.SUCCEEDED or id_ in self.off_disk:
            return
        stored = self.db.logs.get((id_, row["attempt"]), b"")
        for device in self._all():
            for runner in device.written:
                if (runner.job, runner.attempt) != (id_, row["attempt"]) or not runner.started:
                    continue
                whole = bytes(runner.log)
                if stored != whole and not (id_ in device.went_back and stored.startswith(whole)):
                    bad.append(f"3: the log of {id_} has {len(stored)} of {len(whole)} bytes")


def run(seed: int) -> Outcome:
    random.seed(seed)  # tenacity's pauses
    outcome = Scenario(seed).run()
    outcome.seed = seed
    return outcome
