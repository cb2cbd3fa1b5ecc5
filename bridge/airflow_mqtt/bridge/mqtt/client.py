"""One connection to the broker: aiomqtt's, which reads and writes many messages with one look at the socket."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiomqtt
from paho.mqtt.client import MQTT_ERR_CONN_LOST, MQTT_ERR_PROTOCOL

from airflow_mqtt.bridge.bounds import Bound, Quota
from airflow_mqtt.bridge.mqtt import control_packets
from airflow_mqtt.bridge.mqtt.control_packets import KIND, PUBACK, PUBLISH, Packet
from airflow_mqtt.bridge.mqtt.outbox import Outgoing
from airflow_mqtt.protocol import packets
from airflow_mqtt.protocol.packets import PacketLimit

#: Seconds within which the broker must acknowledge what somebody waits for.
_ACK_TIMEOUT: Final = 20.0

#: Reason code of a DISCONNECT (MQTT 5 section 3.14.2.1), and what paho says of a PINGREQ that was not answered.
_TAKEN_OVER: Final = 0x8E
_KEEP_ALIVE_TIMEOUT: Final = 0x8D

#: What is on its way to the broker and not acknowledged. What is dropped past it is sent again later. It is the only
#: bound: with one of paho's own (`max_inflight_messages`), each PUBACK looks through all that wait for theirs.
UNDER_WAY: Final = Bound(50_000, 64 * 1024 * 1024)

#: Bytes that are read at once: some dozens of messages, which are handed on without a break. Of a message that is
#: larger so many at most.
_READ: Final = 8 * 1024
_READ_AT_MOST: Final = 256 * 1024

#: Bytes of packets that are written at once, if they are not one packet.
_WRITTEN: Final = 64 * 1024

#: The highest number of a message that waits for its PUBACK.
_LAST_NUMBER: Final = 65_535

Receive = Callable[[str, bytes, bool], None]


class _Sent(NamedTuple):
    """A message that waits for its PUBACK: bytes of its payload and its packet; and what tells whoever waits, too."""

    size: int
    packet: int
    known: asyncio.Future[None] | None


class Client(aiomqtt.Client):
    """Notices a connection that ends before CONNACK (aiomqtt 2 would wait for the whole timeout), and leaves none open.

    When connecting is cancelled or takes too long, aiomqtt keeps the socket and answers for it: a second client of our
    id. So it does when DISCONNECT cannot be written.
    """

    def __init__(self, *arguments: Any, receive: Receive, limit: PacketLimit, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limit = limit
        self.taken_over = False
        self.learnt = False  # its end may be due to a packet that was too large
        self._abandoned = False
        self._receive = receive
        self._quota = Quota(each=UNDER_WAY)
        self._under_way: dict[int, _Sent] = {}
        self._number = 0
        self._is_of_five = options["protocol"] is aiomqtt.ProtocolVersion.V5
        self._client.disable_logger()  # it is asked for each packet, and what is to be said is said here
        # paho has no public way to these.
        self._receive_bytes = self._client._sock_recv  # noqa: SLF001
        self._client._sock_recv = self._left_to_paho  # type: ignore[assignment] # noqa: SLF001
        self._unread = bytearray()  # what has been read, and is not yet a whole packet
        self._for_paho = b""
        self._missing = 0  # bytes of the packet that has begun, at least
        self._unwritten: list[bytes] = []  # packets that the next turn of the loop writes
        self._is_writing = False
        self._is_waiting = False  # for the socket to take more
        self._thread = threading.get_ident()

    # --- messages -----------------------------------------------------------------------------------------

    def send(self, message: Outgoing) -> bool:
        """Publish without waiting for the PUBACK; return whether there was room for one message more to wait for it.

        Raises `ValueError` for what MQTT has no form for.
        """
        if self._client.socket() is None:
            return True  # the end of the connection is about to be heard of, and what matters is sent again
        if message.qos == 0:
            self._write_soon(self._packet(message, None))
            return True
        size = len(message.payload)
        if not self._quota.enter(None, size):
            return False
        try:
            self._put_under_way(message, None)
        except BaseException:
            self._quota.leave(None, size)
            raise
        return True

    async def deliver(self, messages: Sequence[Outgoing]) -> None:
        """Publish `messages` with QoS 1, in their order, and wait for their PUBACKs. Raises `MqttError`, `ValueError`.

        There is always room for them: they are few, and tell whether the connection is good.
        """
        all_known: list[asyncio.Future[None]] = [self._loop.create_future() for _ in messages]
        if self._client.socket() is not None:
            for message, known in zip(messages, all_known, strict=True):
                self._put_under_way(message, known)
        waiting = asyncio.gather(*all_known)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may look
        try:
            ends: set[asyncio.Future[Any]] = {waiting, self._disconnected}
            await asyncio.wait(ends, timeout=_ACK_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                why = "the connection ended" if self._disconnected.done() else f"none within {_ACK_TIMEOUT:g} s"
                raise aiomqtt.MqttError(f"not acknowledged by the broker: {why}")
        finally:
            waiting.cancel()

    def _put_under_way(self, message: Outgoing, known: "asyncio.Future[None] | None") -> None:
        number = self._next_number()
        packet = self._packet(message, number)
        self._under_way[number] = _Sent(len(message.payload), packets.size_of(message.topic, message.payload), known)
        self._write_soon(packet)

    def _packet(self, message: Outgoing, number: int | None) -> bytes:
        return control_packets.publish(
            message.topic,
            message.payload,
            number=number,
            retain=message.retain,
            expiry=message.expiry,
            has_properties=self._is_of_five,
        )

    def _next_number(self) -> int:
        """Return a number that is not in use: the bound leaves some. paho's SUBSCRIBE was answered before we send."""
        while True:
            self._number = self._number % _LAST_NUMBER + 1
            if self._number not in self._under_way:
                return self._number

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def _take_puback(self, body: bytearray) -> None:
        number, reason = control_packets.acknowledged(body)
        found = self._under_way.pop(number, None)
        if found is None:
            return
        if found.known is None:
            self._quota.leave(None, found.size)
        elif not found.known.done():
            found.known.set_result(None)
        if reason == packets.TOO_LARGE:
            self._limit.refused(found.packet)
        else:
            self._limit.acknowledged(found.packet)

    def _take_publication(self, command: int, body: bytearray) -> None:
        found = control_packets.publication(command, body, has_properties=self._is_of_five)
        self._receive(found.topic, found.payload, found.retained)
        if found.number is not None:
            self._write_soon(control_packets.puback(found.number))

    # --- what comes ---------------------------------------------------------------------------------------

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._look)  # in the place of aiomqtt's

    def _look(self) -> None:
        """Take what has arrived, with one look at the socket."""
        try:
            while self._read_some() and self._has_arrived():
                pass
        except Exception as error:
            self._break(error)

    def _read_some(self) -> bool:
        """Take what one look at the socket brings; return whether the connection stands."""
        try:
            data = self._receive_bytes(min(max(_READ, self._missing), _READ_AT_MOST))
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._client._loop_rc_handle(MQTT_ERR_CONN_LOST)  # noqa: SLF001
            return False
        self._unread += data
        self._client._ping_t = 0.0  # noqa: SLF001  it lives: a PINGRESP may come behind much else
        try:
            self._take_packets()
        except ValueError:
            self._client._loop_rc_handle(MQTT_ERR_PROTOCOL)  # noqa: SLF001
            return False
        return self._client.socket() is not None

    def _has_arrived(self) -> bool:
        """Whether there is more to take, of which no loop would tell us."""
        sock: Any = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _take_packets(self) -> None:
        """Take the packets that are there as a whole. Raises `ValueError`."""
        read, at, self._missing = self._unread, 0, 0
        while at < len(read):
            packet = control_packets.packet_at(read, at)
            if not isinstance(packet, Packet):
                self._missing = packet
                break
            kind = packet.command & KIND
            if kind == PUBLISH:
                self._take_publication(packet.command, read[packet.start : packet.end])
            elif kind == PUBACK:
                self._take_puback(read[packet.start : packet.end])
            else:
                self._for_paho = bytes(read[at : packet.end])
                self._client.loop_read()
            at = packet.end
        del read[:at]

    def _left_to_paho(self, size: int) -> bytes:
        """Let paho read what is for it, in the place of the socket."""
        if not self._for_paho:
            raise BlockingIOError
        taken, self._for_paho = self._for_paho[:size], self._for_paho[size:]
        return taken

    # --- what goes ----------------------------------------------------------------------------------------

    def _write_soon(self, packet: bytes) -> None:
        """Write `packet` at the next turn of the loop, with what else is there by then."""
        if not self._unwritten:
            sock = self._client.socket()
            if sock is None:
                return
            self._loop.call_soon(self._write, sock)
        self._unwritten.append(packet)

    def _hand_over(self) -> None:
        """Give what is to be written to paho, which writes it between its own. It writes each piece by itself."""
        packed, size = [], 0
        for packet in self._unwritten:
            packed.append(packet)
            size += len(packet)
            if size >= _WRITTEN:
                self._to_paho(packed)
                packed, size = [], 0
        self._unwritten.clear()
        if packed:
            self._to_paho(packed)

    def _to_paho(self, packed: list[bytes]) -> None:
        """As one packet with QoS 1: of those paho does nothing but to write them."""
        self._client._packet_queue(PUBLISH, b"".join(packed), 0, 1)  # noqa: SLF001

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Write at the next turn of the loop what is there by then; wait for the socket only when it takes no more."""
        if self._is_writing:
            return
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._write, sock)
        else:  # the one that connects
            super()._on_socket_register_write(client, userdata, sock)

    def _write(self, sock: Any) -> None:
        self._is_writing = True
        try:
            self._hand_over()
            self._client.loop_write()
        except Exception as error:
            self._break(error)
        finally:
            self._is_writing = False
        is_behind = self._client.socket() is sock and self._client.want_write()
        if is_behind and not self._is_waiting:
            self._is_waiting = True
            self._loop.add_writer(sock.fileno(), self._write, sock)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        self._is_waiting = False
        super()._on_socket_unregister_write(client, userdata, sock)

    # --- its end ------------------------------------------------------------------------------------------

    def _break(self, error: Exception) -> None:
        """It is usually a sign that the connection broke."""
        if not self._disconnected.done():
            self._disconnected.set_exception(error)

    async def until_lost(self) -> None:
        """Wait until the connection has ended; raise `MqttError` from what aiomqtt noticed."""
        await asyncio.wait([self._disconnected])
        raise aiomqtt.MqttError("the connection ended") from self._disconnected.exception()

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self._abandoned = True
            self._loop.call_soon(self._hang_up)  # after what the connecting thread has scheduled
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._hand_over()  # before the DISCONNECT
            await super().__aexit__(kind, error, traceback)
        finally:
            self._hang_up()
            if not self._disconnected.done():
                self._disconnected.set_result(None)

    def _client_connect(self) -> None:
        """In a thread, which no cancellation ends."""
        super()._client_connect()
        if self._abandoned:
            self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        self._client._sock_close()  # noqa: SLF001  paho has no public way

    def _on_connect(self, *arguments: Any) -> None:
        if not self._connected.done():
            self._limit.connected(getattr(arguments[4], "MaximumPacketSize", None))
        super()._on_connect(*arguments)

    def _on_disconnect(self, *arguments: Any) -> None:
        self._learn(value(arguments[3]))
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError("the connection ended before CONNACK"))
        super()._on_disconnect(*arguments)

    def _learn(self, code: int) -> None:
        """Take from the end of a connection what it says of the broker; 0 is our own end."""
        self.taken_over = self.taken_over or code == _TAKEN_OVER
        largest = max((sent.packet for sent in self._under_way.values()), default=0)
        if code == packets.TOO_LARGE:
            self._limit.refused(largest)
            self.learnt = True
        elif code not in (0, _KEEP_ALIVE_TIMEOUT):
            self.learnt = self._limit.cut_off(largest) or self.learnt
        self._under_way.clear()


def value(code: Any) -> int:
    """Return a reason code as a number, however paho shows it."""
    return int(getattr(code, "value", code or 0))
