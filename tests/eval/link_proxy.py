"""A real shaped link on loopback: a token-bucket proxy that delays, holds back and loses real packets."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from dataclasses import dataclass

from eval.latency.link import Link

_HEAD = struct.Struct("!IHB")  # index of the packet, bytes of its payload, whether it ends a round
HEADER_BYTES = _HEAD.size
_NOTHING_MISSING = b"\0\0\0\0"


@dataclass(frozen=True)
class Transfer:
    """What happened: `seconds` from the first byte sent until the receiver had the last one and said so,
    `rounds` of sending, `wire_bytes` of all packets sent with their headers."""

    seconds: float
    rounds: int
    wire_bytes: int

    def modelled(self, link: Link) -> float:
        """Seconds that the link model gives to these rounds and bytes, the last report's way included."""
        return link.sending(self.wire_bytes) + self.rounds * link.round_trip


def send_through_proxy(link: Link, data: bytes, seed: int = 0) -> Transfer:
    """Sends bytes over TCP on loopback, through a proxy that lets packets pass as `link` says.

    The proxy drops a packet after it took its time on the wire, by a generator seeded with `seed`; ends of
    rounds and reports of what is missing are never lost. `link.packets.header` has to be `HEADER_BYTES`.
    Raises ValueError otherwise, and where the receiver did not get the very bytes.
    """
    if link.packets.header != HEADER_BYTES:
        raise ValueError(f"packets have a header of {HEADER_BYTES} bytes here, not {link.packets.header}")
    sender, entry = _connection()
    exit_, receiver = _connection()
    received: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=_forward, args=(link, entry, exit_, random.Random(seed)), daemon=True),
        threading.Thread(target=_return, args=(link, exit_, entry), daemon=True),
        threading.Thread(
            target=_receive, args=(receiver, link.packets.count(len(data)), received), daemon=True
        ),
    ]
    with sender, entry, exit_, receiver:
        for thread in threads:
            thread.start()
        transfer = _send(link, sender, data)
        sender.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    if b"".join(received[index] for index in sorted(received)) != data:
        raise ValueError("the receiver got other bytes than were sent")
    return transfer


def _connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        first = socket.create_connection(server.getsockname())
        second, _ = server.accept()
    for end in (first, second):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return first, second


def _send(link: Link, sender: socket.socket, data: bytes) -> Transfer:
    size = link.packets.payload
    missing = list(range(link.packets.count(len(data))))
    rounds = wire = 0
    begin = time.perf_counter()
    while missing:
        rounds += 1
        for place, index in enumerate(missing):
            payload = data[index * size : (index + 1) * size]
            wire += HEADER_BYTES + len(payload)
            sender.sendall(_HEAD.pack(index, len(payload), place == len(missing) - 1) + payload)
        (count,) = struct.unpack("!I", _exactly(sender, 4))
        missing = list(struct.unpack(f"!{count}I", _exactly(sender, 4 * count)))
    return Transfer(time.perf_counter() - begin, rounds, wire)


def _forward(link: Link, entry: socket.socket, exit_: socket.socket, chance: random.Random) -> None:
    """Packets leave one after another at the link's rate, and arrive half a round trip later."""
    free = 0.0  # when the wire has sent all that came before
    arrivals: list[tuple[float, bytes]] = []
    wake, done = threading.Condition(), threading.Event()

    def deliver() -> None:
        while True:
            with wake:
                wake.wait_for(lambda: arrivals or done.is_set())
                if not arrivals:
                    exit_.shutdown(socket.SHUT_WR)
                    return
                when, packet = arrivals.pop(0)
            time.sleep(max(0.0, when - time.perf_counter()))
            exit_.sendall(packet)

    courier = threading.Thread(target=deliver, daemon=True)
    courier.start()
    while head := _exactly(entry, HEADER_BYTES):
        index, length, last = _HEAD.unpack(head)
        payload = _exactly(entry, length)
        free = max(free, time.perf_counter()) + link.sending(HEADER_BYTES + length)
        lost = chance.random() < link.loss
        if lost and not last:
            continue
        packet = _HEAD.pack(index, 0, last) if lost else head + payload  # the end of a round gets through
        with wake:
            arrivals.append((free + link.round_trip / 2, packet))
            wake.notify()
    done.set()
    with wake:
        wake.notify()
    courier.join()


def _return(link: Link, exit_: socket.socket, entry: socket.socket) -> None:
    """Reports go back unshaped, half a round trip late."""
    while report := exit_.recv(1 << 16):
        time.sleep(link.round_trip / 2)
        entry.sendall(report)


def _receive(receiver: socket.socket, num_packets: int, received: dict[int, bytes]) -> None:
    """Takes packets, and at the end of each round reports which are missing."""
    while head := _exactly(receiver, HEADER_BYTES):
        index, length, last = _HEAD.unpack(head)
        payload = _exactly(receiver, length)
        if payload:
            received[index] = payload
        if last:
            missing = [i for i in range(num_packets) if i not in received]
            receiver.sendall(struct.pack(f"!I{len(missing)}I", len(missing), *missing))
    receiver.shutdown(socket.SHUT_WR)


def _exactly(end: socket.socket, size: int) -> bytes:
    """So many bytes, or none where the connection was closed."""
    data = b""
    while len(data) < size and (piece := end.recv(size - len(data))):
        data += piece
    return data
