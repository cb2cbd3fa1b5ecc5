"""What `airflow mqtt check` makes of what it has found: one line for each thing that a new site gets wrong. Pure.

`site_facts` and `broker_facts` look; a fact that could not be had is a `Fault`, whose text stands in the line.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from airflow_mqtt.protocol.clocks import Clock

#: Names that a line shows; of more it says how many.
_SHOWN: Final = 5

#: Seconds between the clocks of this machine and of the database that are worth a word.
_CLOCKS_APART: Final = 2.0

#: Seconds past which Airflow's tokens are not believed any more: `[api_auth] jwt_leeway`.
_CLOCKS_WRONG: Final = 10.0


class Result(StrEnum):
    """What a line says of its subject."""

    OK = "ok"
    WARNING = "warning"  # works, or may
    FAULT = "fault"
    SKIPPED = "skipped"  # could not be looked at from here


class Line(NamedTuple):
    """One line. `todo` is what to do about it."""

    subject: str
    result: Result
    says: str
    todo: str = ""


def exit_code(lines: Iterable[Line]) -> int:
    """Return 1 when one of `lines` is a fault, else 0."""
    return int(any(line.result is Result.FAULT for line in lines))


# --- the site ---------------------------------------------------------------------------------------------------


class Name(NamedTuple):
    """One of the executors that are configured."""

    path: str
    alias: str | None = None
    team: str | None = None


def executor(names: Sequence[Name] | str) -> Line:
    """`names` in their order, or what Airflow has to say against the setting."""
    if isinstance(names, str):
        return Line("executor", Result.FAULT, f"Airflow cannot use [core] executor: {names}", "mend that setting")
    ours = [(at, name) for at, name in enumerate(names) if name.path.startswith("airflow_mqtt.executor.")]
    if not ours:
        found = ", ".join(name.path for name in names)
        todo = "set [core] executor = airflow_mqtt.executor.MqttExecutor, or add it to the list, on every machine"
        return Line("executor", Result.FAULT, f"MqttExecutor is not among the executors: {found}", todo)
    said = "; ".join(_named(name, default=at == 0) for at, name in ours)
    return Line("executor", Result.OK, said)


def _named(name: Name, *, default: bool) -> str:
    team = f" of team {name.team}" if name.team else ""
    alias = f", alias {name.alias}" if name.alias else ""
    use = "the default executor" if default else f'for tasks with executor="{name.alias or name.path}"'
    return f"MqttExecutor{team}{alias}, {use}"


class Revision(NamedTuple):
    """Where the tables are, and where this version would have them. `known` are all migrations it knows of."""

    current: str | None
    head: str
    known: Collection[str]
    manager_is_found: bool = True


def tables(revision: Revision) -> Line:
    """Whether the tables are there, and of this version."""
    migrate = "run `airflow db migrate`"
    if not revision.manager_is_found:
        migrate = f"set [database] external_db_managers = airflow_mqtt.executor.db.MqttDBManager, then {migrate}"
    if revision.current == revision.head:
        return Line("tables", Result.OK, f"there, at migration {revision.head}")
    if revision.current is None:
        return Line("tables", Result.FAULT, "the tables of airflow-mqtt are not in Airflow's database", migrate)
    if revision.current in revision.known:
        said = f"at migration {revision.current}, and this airflow-mqtt needs {revision.head}"
        return Line("tables", Result.FAULT, said, migrate)
    said = f"at migration {revision.current}, which this airflow-mqtt does not know: it is older than they are"
    return Line("tables", Result.WARNING, said, "install the same version of airflow-mqtt on every machine")


class LogReaders(NamedTuple):
    """What a process here would show logs with. `handler` is one that reads logs in a way of its own."""

    is_in_place: bool
    plugin_error: str = ""
    handler: str = ""


def logs(readers: LogReaders) -> Line:
    """Whether the UI shows the logs of our tasks, as far as this machine's configuration says so."""
    if readers.plugin_error:
        said = f"our plugin cannot be loaded, so logs of ended tasks are not shown: {readers.plugin_error}"
        return Line("logs", Result.FAULT, said, "install airflow-mqtt[airflow] anew on API servers")
    if not readers.is_in_place:
        todo = "configure MqttExecutor, or set [logging] logging_config_class, see docs/how-to/configure-airflow.md"
        return Line("logs", Result.FAULT, "nothing here shows the logs of ended tasks", todo)
    if readers.handler:
        said = f"{readers.handler} reads logs in a way of its own and asks nobody else: ours are not shown"
        return Line("logs", Result.FAULT, said, "use a handler derived from Airflow's FileTaskHandler")
    return Line("logs", Result.OK, "shown in the UI while tasks run and after, where API servers are set up like this")


class Lease(NamedTuple):
    """The lease, looked at for longer than it may stand still. `since` (seconds) and `version` are not always known."""

    holder: str
    host: str
    epoch: int
    moves: bool
    led_for: float | None = None
    version: str = ""


def lease(found: Lease | None, team_name: str, teams: Sequence[str]) -> Line:
    """Whether a bridge leads."""
    start = "start `airflow-mqtt bridge run`; its log says what it waits for"
    whose = f" of team {team_name}" if team_name else ""
    if found is None:
        others = f"; there is one of team {_some(teams)}" if teams else ""
        return Line("bridge", Result.FAULT, f"no bridge{whose} has ever led{others}", start)
    if not found.holder:
        return Line("bridge", Result.FAULT, f"no bridge{whose} leads: the last one was stopped", start)
    who = f"{found.holder} on {found.host}"
    if not found.moves:
        said = f"{who} does not renew its lease: it is gone, or hangs, or does not reach the database"
        return Line("bridge", Result.FAULT, said, start)
    since = f" for {_duration(found.led_for)}" if found.led_for is not None else ""
    return Line("bridge", Result.OK, f"{who} leads{since}, epoch {found.epoch}")


def database_clock(ahead: float) -> Line:
    """`ahead` is by how many seconds the database's clock is ahead of this machine's."""
    said = f"the database's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) < _CLOCKS_APART:
        return Line("clock", Result.OK, said)
    result = Result.WARNING if abs(ahead) < _CLOCKS_WRONG else Result.FAULT
    return Line("clock", result, said, "let NTP set the clocks of all machines of the site")


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What the site knows of a worker. `refused` are queues that it serves and may not."""

    name: str
    lives: bool
    version: str = ""
    clock_offset: float | None = None
    refused: Sequence[str] = ()


def workers(known: Sequence[WorkerFacts]) -> list[Line]:
    """Whether devices are there, may do what they offer, and have the time."""
    if not known:
        todo = "start `airflow-mqtt worker run` on a device, and let it in with `airflow mqtt allow`"
        return [Line("workers", Result.WARNING, "no worker has ever been heard of", todo)]
    living = [worker for worker in known if worker.lives]
    said = f"{len(living)} of {len(known)} are there"
    if living:
        lines = [Line("workers", Result.OK, said)]
    else:
        lines = [Line("workers", Result.WARNING, said, "their logs say why they do not reach the broker")]
    return [*lines, *_not_allowed(living), *_wrong_clocks(living)]


def _not_allowed(living: Sequence[WorkerFacts]) -> list[Line]:
    refused = [f"{worker.name} {queue}" for worker in living for queue in worker.refused]
    if not refused:
        return []
    said = f"workers offer queues that they may not serve: {_some(refused)}"
    return [Line("allowed", Result.WARNING, said, "airflow mqtt allow WORKER QUEUE")]


def _wrong_clocks(living: Sequence[WorkerFacts]) -> list[Line]:
    notes = [f"{worker.name}: {note}" for worker in living if (note := Clock.of(worker.clock_offset).note)]
    if not notes:
        return []
    said = f"of {len(notes)} devices the time is wrong, and put right in what they say: {_some(notes)}"
    return [Line("clocks", Result.WARNING, said, "give these devices NTP, or a clock with a battery")]


def versions(ours: str, bridge: str, known: Sequence[WorkerFacts]) -> Line:
    """Whether all parts are of one version, as far as they have said."""
    others: dict[str, list[str]] = {}
    if bridge and bridge != ours:
        others.setdefault(bridge, []).append("the bridge")
    for worker in known:
        if worker.lives and worker.version and worker.version != ours:
            others.setdefault(worker.version, []).append(worker.name)
    if not others:
        is_said = bridge or any(worker.lives and worker.version for worker in known)
        said = f"all that have said theirs are {ours}" if is_said else f"here it is {ours}, and nobody has said another"
        return Line("versions", Result.OK, said)
    said = "; ".join(f"{version}: {_some(names)}" for version, names in sorted(others.items()))
    todo = "they understand each other; bring them to one version, the site first (docs/how-to/upgrade.md)"
    return Line("versions", Result.WARNING, f"here it is {ours}, and elsewhere {said}", todo)


# --- the broker -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What the bridge's account was given by the broker. `missing` are kinds of topics of which nothing arrived."""

    url: str
    version: str = ""
    error: str = ""
    cure: str = ""
    warning: str = ""
    anonymous: bool = False
    missing: Sequence[str] = ()
    retains: bool = True
    largest: int = 0  # bytes of a payload that arrived
    wanted: int = 0  # max_message_bytes
    kept: int = 0  # messages that arrived of
    sent: int = 0  # so many, at a client that was slow to acknowledge them


def broker(facts: BrokerFacts) -> list[Line]:
    """Whether the broker is reached, and does with the bridge's messages what it should."""
    if facts.error:
        return [Line("broker", Result.FAULT, f"{facts.url}: {facts.error}", facts.cure)]
    if facts.warning:
        lines = [Line("broker", Result.WARNING, facts.warning, "mqtts:// in broker_url")]
    else:
        lines = [Line("broker", Result.OK, f"{facts.url} answers, MQTT {facts.version}")]
    return [*lines, *_anonymous(facts), _rights(facts), _retained(facts), _size(facts), _queued(facts)]


def _anonymous(facts: BrokerFacts) -> list[Line]:
    if not facts.anonymous:
        return []
    return [Line("anonymous", Result.WARNING, "the broker lets in who has no account", "allow_anonymous false")]


def _rights(facts: BrokerFacts) -> Line:
    if not facts.missing:
        return Line("rights", Result.OK, "what the bridge's account publishes arrives, on each kind of topic")
    said = f"what the bridge's account publishes does not arrive, of {_some(facts.missing)}"
    return Line("rights", Result.FAULT, said, "let it read and write all below the root (mosquitto/acl: user bridge)")


def _retained(facts: BrokerFacts) -> Line:
    if facts.retains:
        return Line("retained", Result.OK, "retained messages are kept")
    return Line("retained", Result.FAULT, "the broker does not keep retained messages", "retain_available true")


def _size(facts: BrokerFacts) -> Line:
    if facts.largest >= facts.wanted:
        return Line("size", Result.OK, f"messages of {facts.wanted} bytes (max_message_bytes) arrive")
    said = f"of messages, one of {facts.largest} bytes arrives, and none of {facts.wanted} (max_message_bytes)"
    todo = "raise max_packet_size (and take message_size_limit away) in the broker, or lower max_message_bytes"
    return Line("size", Result.FAULT, said, todo)


def _queued(facts: BrokerFacts) -> Line:
    if facts.kept >= facts.sent:
        return Line("queued", Result.OK, f"{facts.sent} messages wait for a slow client, and none is lost")
    said = f"of {facts.sent} messages for a slow client {facts.sent - facts.kept} are dropped without a word"
    return Line("queued", Result.WARNING, said, "max_queued_messages 0 and max_queued_bytes (mosquitto/mosquitto.conf)")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device's account may do, by what arrived. Each name is a topic as people know it."""

    name: str
    error: str = ""
    cure: str = ""
    cannot_read: Sequence[str] = ()
    cannot_write: Sequence[str] = ()
    reads_more: Sequence[str] = ()
    writes_more: Sequence[str] = ()


def device(facts: DeviceFacts) -> list[Line]:
    """Whether a device's account may do what a worker does, and not more."""
    subject = f"device {facts.name}"
    if facts.error:
        return [Line(subject, Result.FAULT, facts.error, facts.cure)]
    rules = "its access rules (mosquitto/acl); the account's name must be the worker's name"
    lines = []
    if facts.cannot_write:
        said = f"what it writes does not arrive: {_some(facts.cannot_write)}"
        lines.append(Line(subject, Result.FAULT, said, rules))
    if facts.cannot_read:
        said = f"what is sent to it does not arrive: {_some(facts.cannot_read)}"
        lines.append(Line(subject, Result.FAULT, said, rules))
    if facts.reads_more:
        said = f"it can read what is not its own: {_some(facts.reads_more)}"
        lines.append(Line(subject, Result.FAULT, said, rules))
    if facts.writes_more:
        said = f"it can write what is not its own: {_some(facts.writes_more)}"
        lines.append(Line(subject, Result.FAULT, said, rules))
    if lines:
        return lines
    return [Line(subject, Result.OK, "its account may do what a worker does, and no more")]


# --- words ------------------------------------------------------------------------------------------------------


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
