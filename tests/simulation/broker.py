"""A broker that misbehaves."""

from collections.abc import Callable
from dataclasses import dataclass, field

from world import Simulation


@dataclass
class Client:
    """A connection to the broker. `persistent` ones have a session that outlives it."""

    name: str
    filters: Callable[[str], bool]
    receive: Callable[[str, bytes, bool], None]
    will: tuple[str, bytes]
    lost: Callable[[], None]
    alive: bool = True


@dataclass
class Broker:
    """Delivers late, twice, out of order, or not at all, while `chaos` is on."""

    sim: Simulation
    chaos: bool = True
    up: bool = True
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    sessions: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    last_delivery: dict[tuple[str, str], float] = field(default_factory=dict)

    def connect(self, client: Client, *, persistent: bool) -> bool:
        if not self.up:
            return False
        before = self.clients.get(client.name)
        if before is not None:
            self.disconnect(before, will=not persistent)
        self.clients[client.name] = client
        for topic, payload in list(self.retained.items()):
            if client.filters(topic):
                self._deliver(client, topic, payload, retained=True)
        for topic, payload in self.sessions.pop(client.name, []):
            self._deliver(client, topic, payload, retained=False)
        if persistent:
            self.sessions[client.name] = []
        return True

    def disconnect(self, client: Client, *, will: bool) -> None:
        """End a connection. The will comes at once, late, or (`will` false) never."""
        if not client.alive:
            return
        client.alive = False
        if self.clients.get(client.name) is client:
            del self.clients[client.name]
        client.lost()
        if will:
            late = self.chaos and self.sim.chance(0.3, "late will")
            delay = self.sim.random.uniform(0.0, 30.0) if late else 0.05
            self.sim.at(delay, lambda: self.publish("", *client.will, retain=True))

    def publish(self, sender: str, topic: str, payload: bytes, *, retain: bool) -> None:
        if not self.up:
            return
        if retain:
            self.retained[topic] = payload
        if sender and self.chaos and self.sim.chance(0.04, "dropped"):
            return
        for client in list(self.clients.values()):
            if client.filters(topic):
                self._deliver(client, topic, payload, retained=False)
        for name, queue in self.sessions.items():
            if name not in self.clients and topic.endswith(f"/jobs/{name}") and len(queue) < 50:
                queue.append((topic, payload))

    def _deliver(self, client: Client, topic: str, payload: bytes, *, retained: bool) -> None:
        copies = 2 if self.chaos and self.sim.chance(0.05, "doubled") else 1
        for copy in range(copies):
            if copy and self.sim.chance(0.3, "copy came late"):
                self.sim.at(self.sim.random.uniform(0.0, 40.0), lambda: self._arrive(client, topic, payload, retained))
                continue
            delay = self.sim.random.uniform(0.002, 0.05)
            if self.chaos and self.sim.chance(0.05, "delayed"):
                delay += self.sim.random.expovariate(0.5)
            arrival = self.sim.now + delay
            lane = (client.name, topic)
            if not (self.chaos and self.sim.chance(0.05, "reordered")):
                arrival = max(arrival, self.last_delivery.get(lane, 0.0) + 1e-6)
                self.last_delivery[lane] = arrival
            self.sim.at(arrival - self.sim.now, lambda: self._arrive(client, topic, payload, retained))

    def _arrive(self, client: Client, topic: str, payload: bytes, retained: bool) -> None:
        if client.alive:
            client.receive(topic, payload, retained)

    def restart(self, *, forget: bool) -> None:
        """Die and come back, with or without what was stored."""
        self.sim.note(f"broker dies{' and forgets' if forget else ''}")
        self.sim.faults["broker killed, store lost" if forget else "broker killed"] += 1
        clients = list(self.clients.values())
        self.up = False
        for client in clients:
            self.disconnect(client, will=False)
        if forget:
            self.retained.clear()
            self.sessions.clear()
        self.sim.at(self.sim.random.uniform(0.5, 10.0), self._rise)

    def _rise(self) -> None:
        self.up = True
