"""The faults: each function injects one, once, and says when it was over and where to look for the recovery."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from demo.processes import Server, wait_for
from faults.links import Link
from faults.rig import BRIDGES, WORKERS, Database, Rig
from proxy import Direction


@dataclass(frozen=True)
class Injected:
    """One injection: since when jobs could flow again (wall clock), and on which worker, if it hit one."""

    over: float
    worker: str | None = None


Inject = Callable[[Rig, random.Random], Injected]


@dataclass(frozen=True)
class Fault:
    """A row of the table. `prepare` is entered once the rig exists and before anything runs on its workers."""

    name: str
    inject: Inject
    times: int = 4
    pauses: tuple[float, float] = (2.0, 5.0)
    overrides: dict[str, str] = field(default_factory=dict)
    around: Callable[[Rig], contextlib.AbstractContextManager[None]] | None = None
    root: bool = False
    #: Set where tasks may fail for the fault's own sake: what of them is then not our doing.
    may_fail: str = ""


def _now(worker: str | None = None) -> Injected:
    return Injected(time.time(), worker)


def nothing(_rig: Rig, _rng: random.Random) -> Injected:
    return _now()


# --- killed and started again -----------------------------------------------------------------------------


def _kill(rig: Rig, server: Server, down: float, between: Callable[[], None] = lambda: None) -> None:
    with rig.keeper.holding(server):
        server.kill()
        between()
        time.sleep(down)
        server.start()


def kill_broker(rig: Rig, rng: random.Random) -> Injected:
    _kill(rig, rig.broker, rng.uniform(0.2, 2))
    return _now()


def kill_broker_and_store(rig: Rig, rng: random.Random) -> Injected:
    _kill(rig, rig.broker, rng.uniform(0.2, 2), rig.broker.forget)
    return _now()


def kill_leader(rig: Rig, rng: random.Random) -> Injected:
    """The standby takes over while the old leader is down: the time counts from the kill."""
    server = _leader(rig)
    killed = time.time()
    _kill(rig, server, rng.uniform(3, 5))
    return Injected(killed)


def kill_worker(rig: Rig, rng: random.Random) -> Injected:
    name = rng.choice(WORKERS)
    _kill(rig, rig.workers[name], rng.uniform(0.1, 3))
    return _now(name)


def kill_database(rig: Rig, rng: random.Random) -> Injected:
    _kill(rig, rig.database, rng.uniform(0.2, 2))
    return _now()


def _leader(rig: Rig) -> Server:
    name = wait_for(rig.leader, what="a leading bridge")
    return rig.bridges[name]


# --- asleep -----------------------------------------------------------------------------------------------


def _pause(server: Server, seconds: float) -> None:
    server.pause()
    try:
        time.sleep(seconds)
    finally:
        server.resume()


def pause_broker(rig: Rig, rng: random.Random) -> Injected:
    _pause(rig.broker, rng.uniform(2, 10))
    return _now()


def pause_leader(rig: Rig, rng: random.Random) -> Injected:
    server, since = _leader(rig), time.time()
    _pause(server, rng.uniform(4, 8))
    return Injected(since)


def pause_worker(rig: Rig, rng: random.Random) -> Injected:
    """Long enough for the bridge to call it gone and to give what it had not started to another."""
    name = rng.choice(WORKERS)
    _pause(rig.workers[name], rng.uniform(3, 10))
    return _now(name)


def pause_database(rig: Rig, rng: random.Random) -> Injected:
    _pause(rig.database, rng.uniform(2, 6))
    return _now()


# --- the network ------------------------------------------------------------------------------------------


def one_direction(rig: Rig, rng: random.Random) -> Injected:
    """Nothing gets through in one direction of one link; the connection stands."""
    links: list[tuple[str | None, Link]] = [(name, rig.worker_links[name]) for name in WORKERS]
    links += [(None, rig.bridge_links[name]) for name in BRIDGES]
    links += [(None, rig.database_links[name]) for name in BRIDGES]
    worker, link = rng.choice(links)
    link.stall(rng.choice([Direction.UP, Direction.DOWN]))
    time.sleep(rng.uniform(3, 9))
    link.heal()
    return _now(worker)


def resets(rig: Rig, rng: random.Random) -> Injected:
    """For some seconds 30 % of new connections are reset, and all that stand are reset now and then."""
    for link in rig.proxies:
        link.reset(0.3)
    until = time.monotonic() + rng.uniform(4, 7)
    while time.monotonic() < until:
        rng.choice(rig.proxies).drop()
        time.sleep(rng.uniform(0.1, 0.5))
    for link in rig.proxies:
        link.heal()
    return _now()


# --- the device -------------------------------------------------------------------------------------------


def same_name(rig: Rig, rng: random.Random) -> Injected:
    """A second worker with a name that is in use, from a disk of its own. It must leave; the first goes on."""
    name = rng.choice(WORKERS)
    state = rig.directory / name / f"state-second-{rng.randrange(1 << 30)}"
    state.mkdir(parents=True)
    second = rig.worker(name, rig.worker_links[name].port, state=state, label=f"{name}-second")
    second.launch()
    try:
        code = second.wait(30)
    finally:
        second.stop()
    if code != 3 or not rig.workers[name].alive:
        raise AssertionError(f"the second worker ended with {code}, the first lives: {rig.workers[name].alive}")
    return _now(name)


def wrong_clock(rig: Rig, rng: random.Random) -> Injected:
    """The device's clock jumps by an hour, forth or back, while it runs; now and then it is started again there."""
    name = rng.choice(WORKERS)
    rig.clock(name).write_text(str(rng.choice([3600, -3600, 0])))
    if rng.random() < 0.5:
        _kill(rig, rig.workers[name], rng.uniform(0.1, 1))
    time.sleep(rng.uniform(1, 3))
    return _now(name)


DISK = "4m"


@contextmanager
def small_disk(rig: Rig) -> Iterator[None]:
    """The state of the first worker is on a disk of its own."""
    name = WORKERS[0]
    state = rig.state_dir(name)
    server = rig.workers[name]
    with rig.keeper.holding(server):
        server.kill()
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "faults", str(state)], check=True)
        server.start()
    try:
        yield
    finally:
        with rig.keeper.holding(server):
            server.kill()
            subprocess.run(["umount", "--lazy", str(state)], check=False)


def full_disk(rig: Rig, rng: random.Random) -> Injected:
    name = WORKERS[0]
    ballast = rig.state_dir(name) / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    time.sleep(rng.uniform(3, 7))
    ballast.unlink()
    return _now(name)


# --- the database refuses ---------------------------------------------------------------------------------


def out_of_connections(rig: Rig, rng: random.Random) -> Injected:
    """Another client holds every connection; those of the bridges are ended, so that they need new ones."""
    held: list[object] = []
    url = rig.url
    until = time.monotonic() + rng.uniform(4, 7)
    proxied = tuple(_backends(rig))
    with rig.jobs.engine.connect() as connection:
        while time.monotonic() < until:
            with contextlib.suppress(psycopg2.OperationalError):
                while len(held) < Database.MAX_CONNECTIONS:
                    held.append(psycopg2.connect(url, application_name="hog"))
            for pid in proxied:
                connection.execute(sa.text(f"select pg_terminate_backend({pid})"))
            proxied = ()
            time.sleep(0.02)
    for one in held:
        one.close()  # type: ignore[attr-defined]
    return _now()


def _backends(rig: Rig) -> list[int]:
    """Return the server processes of the bridges."""
    with rig.jobs.engine.connect() as connection:
        found = connection.execute(
            sa.text(
                "select pid from pg_stat_activity where datname = current_database()"
                " and application_name like 'airflow-mqtt %'"
            )
        )
        return sorted(row.pid for row in found)


# --- the broker refuses -----------------------------------------------------------------------------------

#: What a mistake in the access rules may take away.
RULES = (
    "pattern write airflow/v1/worker/%u/events", "pattern write airflow/v1/worker/%u/request",
    "pattern read airflow/v1/worker/%u/response", "pattern read airflow/v1/queue/+/jobs/%u",
    "pattern read airflow/v1/worker/%u/ack", "pattern write airflow/v1/worker/%u/logs/+",
)  # fmt: skip


def lost_right(rig: Rig, rng: random.Random) -> Injected:
    """A right of all workers is taken away, and given back."""
    path = rig.broker.directory / "acl"
    whole = path.read_text()
    rule = rng.choice(RULES)
    _reload(rig, path, whole.replace(rule + "\n", ""))
    time.sleep(rng.uniform(3, 7))
    _reload(rig, path, whole)
    return _now()


def _reload(rig: Rig, path: Path, text: str) -> None:
    path.write_text(text)
    rig.broker.signal(signal.SIGHUP)
    time.sleep(0.2)


#: A broker with hardly any room: what comes in faster than a client takes it is dropped, and acknowledged.
QUOTA = {
    "max_inflight_messages": "3", "max_queued_messages": "3", "max_inflight_bytes": "0", "max_queued_bytes": "0",
    "persistence": "false",
}  # fmt: skip


def quota(rig: Rig, rng: random.Random) -> Injected:
    """A worker or the bridge is slow for a moment, and the broker drops what it has no room for."""
    name = rng.choice(WORKERS)
    link = rng.choice([rig.worker_links[name], *rig.bridge_links.values()])
    link.stall(Direction.DOWN)
    time.sleep(rng.uniform(1, 3))
    link.heal()
    return _now()


def message_size(rig: Rig, rng: random.Random) -> Injected:
    """The broker takes only small messages for a while; XComs of 12 KB (half of that when compressed) do not fit."""
    path = rig.broker.directory / "mosquitto.conf"
    whole = path.read_text()
    _reload(rig, path, whole + "message_size_limit 3000\n")
    time.sleep(rng.uniform(3, 7))
    _reload(rig, path, whole + "message_size_limit 0\n")
    return _now()


# --- the Execution API ------------------------------------------------------------------------------------


def api_down(rig: Rig, rng: random.Random) -> Injected:
    rig.api.down = True
    time.sleep(rng.uniform(2, 6))
    rig.api.down = False
    return _now()


def api_crashes(rig: Rig, rng: random.Random) -> Injected:
    """The API server does what it is asked, and is gone before it answers."""
    rig.api.crashy = True
    time.sleep(rng.uniform(1, 3))
    rig.api.crashy = False
    return _now()


FAULTS: dict[str, Fault] = {
    "none": Fault("no fault", nothing, times=0),
    "broker-kill": Fault("broker: SIGKILL, restart with its store", kill_broker),
    "broker-wipe": Fault("broker: SIGKILL, restart with an empty store", kill_broker_and_store),
    "leader-kill": Fault("leading bridge: SIGKILL, restart", kill_leader),
    "worker-kill": Fault("worker: SIGKILL, restart", kill_worker, times=8, pauses=(1.0, 3.0)),
    "database-kill": Fault("PostgreSQL: SIGKILL, restart", kill_database),
    "broker-pause": Fault("broker: SIGSTOP for 2 to 10 s", pause_broker, times=3),
    "leader-pause": Fault("leading bridge: SIGSTOP for 4 to 8 s", pause_leader, times=3),
    "worker-pause": Fault("worker: SIGSTOP for 3 to 10 s", pause_worker),
    "database-pause": Fault("PostgreSQL: SIGSTOP for 2 to 6 s", pause_database, times=3),
    "one-way": Fault("one direction of one link cut for 3 to 9 s", one_direction, times=6, pauses=(0.5, 2.0)),
    "resets": Fault("30 % of TCP connections reset", resets, times=4, pauses=(1.0, 3.0)),
    "same-name": Fault("two workers with one name", same_name, times=4, pauses=(0.5, 2.0)),
    "clock": Fault("worker's clock an hour off", wrong_clock, times=8, pauses=(0.5, 2.0)),
    "disk": Fault("worker's disk full for 3 to 7 s", full_disk, around=small_disk, root=True),
    "connections": Fault("database out of connections for 4 to 7 s", out_of_connections, times=3),
    "acl": Fault("broker refuses: a right taken away for 3 to 7 s", lost_right, times=5, pauses=(1.0, 3.0)),
    "quota": Fault("broker refuses: queues of 3 messages", quota, times=8, pauses=(0.5, 2.0), overrides=QUOTA),
    "size": Fault("broker refuses: message_size_limit for 3 to 7 s", message_size, times=3),
    "api-down": Fault("Execution API: 503 for 2 to 6 s", api_down),
    "api-crash": Fault("Execution API: dies before it answers", api_crashes),
}

#: What CI runs: one of each kind that recovers within seconds.
SLICE = ("broker-wipe", "leader-kill", "worker-kill", "one-way", "disk", "connections", "api-crash")


def available(fault: Fault) -> bool:
    return not fault.root or (os.geteuid() == 0 and shutil.which("mount") is not None)
