"""What `airflow mqtt check` finds at the broker, by what arrives: brokers grant what they then withhold.

What is forbidden is published first, and then something that is allowed: when the latter has arrived and the former
has not, it will not. Each has a connection of its own, since some brokers end that of who publishes what is forbidden.
All is published on topics of a worker that nobody has, as far as a test of a device allows.
"""

import ssl
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from airflow_mqtt.config.bridge import SETTINGS, airflow_sources
from airflow_mqtt.config.broker_url import BrokerUrl
from airflow_mqtt.config.settings import from_environment, resolve
from airflow_mqtt.executor.cli.check import BrokerFacts, DeviceFacts
from airflow_mqtt.executor.cli.mqtt_client import Client, ConnectError, connected, random_name
from airflow_mqtt.protocol.topics import TopicKind, Topics

#: Messages for a client that does not acknowledge them: more than a Mosquitto keeps that was told nothing.
_BURST: Final = 1200

#: The last message of a test.
_END: Final = b"airflow mqtt check: the end"

#: Any other. Whoever listens to these topics drops what is none of the protocol's.
_WORD: Final = b"airflow mqtt check"

#: The smallest `max_message_bytes`.
_SMALLEST: Final = 4096


@dataclass(frozen=True)
class Account:
    """How the bridge comes to the broker, by its settings on this machine."""

    url: BrokerUrl
    tls: ssl.SSLContext | None
    version: str
    topics: Topics
    max_message_bytes: int

    def of(self, url: BrokerUrl) -> "Account":
        """Return the way of another account."""
        return Account(url, self.tls, self.version, self.topics, self.max_message_bytes)

    def connect(self) -> AbstractContextManager[Client]:
        return connected(self.url, self.tls, self.version)


def bridge_account(environment: Mapping[str, str]) -> Account | None:
    """Return the bridge's account, or None where this machine has none. Raises `SettingError`."""
    wanted = [setting for setting in SETTINGS if setting.name in _NAMES]
    sources = [from_environment(wanted, environment, _Every()), *airflow_sources(environment)]
    if not any(source.values.get("broker_url") for source in sources):
        return None
    values = resolve(wanted, sources)
    tls = None
    if values["broker_url"].tls:
        tls = ssl.create_default_context(cafile=values["tls_ca_file"])
        if values["tls_cert_file"]:
            tls.load_cert_chain(values["tls_cert_file"], values["tls_key_file"])
    return Account(
        values["broker_url"], tls, values["mqtt_version"], Topics(values["root"]), values["max_message_bytes"]
    )


_NAMES: Final = frozenset(
    {"broker_url", "root", "max_message_bytes", "mqtt_version", "tls_ca_file", "tls_cert_file", "tls_key_file"}
)


class _Every(set[str]):
    """Settings of other commands are no mistake here."""

    def __contains__(self, name: object) -> bool:
        return True


def of_broker(account: Account) -> BrokerFacts:
    """Look at what the broker does with what the bridge publishes."""
    shown = str(account.url)
    try:
        with account.connect() as reader:
            echo = account.topics.bridge_echo(random_name())
            reader.subscribe([echo])
            largest = _largest(account, reader, echo)
            return BrokerFacts(
                url=shown,
                version=reader.version,
                warning=account.url.warning,
                anonymous=_lets_in_anybody(account),
                missing=_missing(account),
                retains=_retains(account),
                largest=largest,
                wanted=account.max_message_bytes,
                kept=_kept(account, echo),
                sent=_BURST,
            )
    except ConnectError as error:
        return BrokerFacts(url=shown, error=str(error), cure=error.cure)


def _publish(account: Account, topic: str, payload: bytes = _WORD, *, retain: bool = False) -> None:
    """Publish by a connection that may end of it."""
    with account.connect() as writer:
        writer.publish(topic, payload, retain=retain)


def _missing(account: Account) -> list[str]:
    """Return the kinds of topics of which nothing arrives."""
    name, topics = random_name(), account.topics
    kinds = {
        "echo": topics.bridge_echo(name),
        "jobs": topics.jobs(name, name),
        "queue status": topics.queue_status(name),
        "job status": topics.job_status(name),
    }
    of_worker = (TopicKind.ACK, TopicKind.DESIRED, TopicKind.RESPONSE, TopicKind.PROBE)
    kinds |= {kind.value: topics.worker(name, kind) for kind in of_worker}
    last = topics.bridge_echo(random_name())
    with account.connect() as reader:
        reader.subscribe([*kinds.values(), last])
        for topic in kinds.values():
            _publish(account, topic)
        _publish(account, last, _END)
        reader.wait_for_payload(_END)
        return [kind for kind, topic in kinds.items() if topic not in reader.topics()]


def _lets_in_anybody(account: Account) -> bool:
    if account.url.username is None:
        return False  # the bridge itself comes so
    url = account.url
    try:
        with account.of(BrokerUrl(url.host, url.port, url.tls, None, None)).connect():
            return True
    except ConnectError:
        return False


def _retains(account: Account) -> bool:
    topic = account.topics.bridge_echo(random_name())
    _publish(account, topic, retain=True)
    try:
        with account.connect() as reader:
            reader.subscribe([topic])
            return reader.wait_for_payload(_WORD)
    finally:
        _publish(account, topic, b"", retain=True)


def _largest(account: Account, reader: Client, topic: str) -> int:
    """Return the size of the largest payload that arrives, of some."""
    size = account.max_message_bytes
    while size >= _SMALLEST:
        _publish(account, topic, b"x" * size)
        end = _END + str(size).encode()
        _publish(account, topic, end)
        reader.wait_for_payload(end)
        if any(len(payload) == size for payload in reader.payloads()):
            return size
        size //= 4
    return 0


def _kept(account: Account, topic: str) -> int:
    """Return how many of a burst arrive at a client that acknowledges none of them until all are sent."""
    with account.connect() as slow, account.connect() as writer:
        slow.hold_acks()
        slow.subscribe([topic])
        writer.publish_all(topic, (f"{number}".encode() for number in range(_BURST)))
        slow.release_acks()
        slow.wait_for_count(_BURST)
        return min(_BURST, len(set(slow.payloads())))


# --- a device ---------------------------------------------------------------------------------------------------


def of_device(bridge: Account, account: Account, name: str) -> DeviceFacts:
    """Look at what a device's `account` may do as worker `name`, with the bridge's at the other end."""
    try:
        with account.connect():
            pass
        cannot_write, writes_more = _writes(bridge, account, name)
        cannot_read, reads_more = _reads(bridge, account, name)
    except ConnectError as error:
        return DeviceFacts(name, error=f"{account.url}: {error}", cure=error.cure)
    return DeviceFacts(
        name, cannot_read=cannot_read, cannot_write=cannot_write, reads_more=reads_more, writes_more=writes_more
    )


def _writes(bridge: Account, device: Account, name: str) -> tuple[list[str], list[str]]:
    """Return what the device should be able to write and cannot, and what it can and should not."""
    topics, other = bridge.topics, random_name()
    own = {f"{kind.value}": topics.worker(name, kind) for kind in _WRITTEN}
    own["logs"] = topics.logs(name, other)
    foreign = {f"{kind.value} of another worker": topics.worker(other, kind) for kind in _WRITTEN}
    foreign |= {f"its own {kind.value}": topics.worker(name, kind) for kind in (TopicKind.ACK, TopicKind.RESPONSE)}
    foreign |= {"jobs": topics.jobs(other, name), "queue status": topics.queue_status(other)}
    foreign |= {"job status": topics.job_status(other), "what the bridge says to itself": topics.bridge_echo(other)}
    end = topics.bridge_echo(random_name())
    with bridge.connect() as reader:
        reader.subscribe([*own.values(), *foreign.values(), end], qos=0)
        for topic in (*own.values(), *foreign.values()):
            _publish(device, topic)
        _publish(bridge, end, _END)
        reader.wait_for_payload(_END)
        return _split(own, foreign, reader.topics(_WORD))


def _reads(bridge: Account, device: Account, name: str) -> tuple[list[str], list[str]]:
    """Return what the device should be able to read and cannot, and what it can and should not."""
    topics, other = bridge.topics, random_name()
    own = {f"{kind.value}": topics.worker(name, kind) for kind in _READ}
    own["jobs"] = topics.jobs(other, name)
    foreign = {f"{kind.value} of another worker": topics.worker(other, kind) for kind in _READ}
    foreign |= {"jobs of another worker": topics.jobs(other, other), "job status": topics.job_status(other)}
    last = topics.worker(name, TopicKind.PROBE)
    with device.connect() as reader:
        reader.subscribe([*topics.of_worker(name), *foreign.values()])
        for topic in (*own.values(), *foreign.values()):
            _publish(bridge, topic)
        _publish(bridge, last, _END)
        reader.wait_for_payload(_END)
        return _split(own, foreign, reader.topics(_WORD))


#: What a worker writes and reads below its own name, besides its logs and its jobs (`mosquitto/acl`).
_WRITTEN: Final = (TopicKind.STATUS, TopicKind.INFO, TopicKind.EVENTS, TopicKind.REQUEST, TopicKind.PROBE)
_READ: Final = (TopicKind.ACK, TopicKind.DESIRED, TopicKind.RESPONSE, TopicKind.STATUS, TopicKind.PROBE)


def _split(own: Mapping[str, str], foreign: Mapping[str, str], arrived: Iterable[str]) -> tuple[list[str], list[str]]:
    seen = set(arrived)
    missing: Sequence[str] = [what for what, topic in own.items() if topic not in seen]
    return list(missing), [what for what, topic in foreign.items() if topic in seen]
