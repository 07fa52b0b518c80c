"""The link model: how long bytes take from device to server over a link of some rate, delay and loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tofc.errors import ConfigError


@dataclass(frozen=True)
class Packets:
    """How bytes are cut: `payload` bytes of data and `header` bytes of headers a packet.

    The defaults are those of TCP with timestamps over IPv4 and Ethernet.
    """

    payload: int = 1448
    header: int = 66

    def __post_init__(self) -> None:
        if self.payload < 1 or self.header < 0:
            raise ConfigError(f"packets are {self}; give a payload of at least 1 and a header of at least 0")

    def count(self, num_bytes: int) -> int:
        """Packets that carry so many bytes."""
        return math.ceil(num_bytes / self.payload)

    def on_the_wire(self, num_bytes: int) -> int:
        """Bytes with all headers."""
        return num_bytes + self.count(num_bytes) * self.header


@dataclass(frozen=True)
class Link:
    """An uplink on which the connection is open and nothing else is sent.

    mbit: rate in Mbit/s (10^6 bits a second); round_trip: seconds there and back of an empty packet; loss:
    the share of packets that get lost, each independently.

    Data go out at the full rate. What is lost is known half a round trip after the last packet arrived, and
    sent again, until all is there (selective repeat with faultless feedback). Slow start and congestion
    control are left out, which is in favour of systems that send much.
    """

    mbit: float
    round_trip: float = 0.0
    loss: float = 0.0
    packets: Packets = Packets()

    def __post_init__(self) -> None:
        if not (0 < self.mbit < math.inf and 0 <= self.round_trip < math.inf):
            raise ConfigError(
                f"a link has {self.mbit} Mbit/s and {self.round_trip} s round trip; give a rate above 0 and "
                "a round trip of at least 0"
            )
        if not 0 <= self.loss < 1:
            raise ConfigError(f"loss is {self.loss}; give the share of packets lost, 0 up to below 1")

    def sending(self, wire_bytes: float) -> float:
        """Seconds in which bytes, headers included, are put on the wire."""
        return 8 * wire_bytes / (1e6 * self.mbit)

    def expected_rounds(self, num_packets: int) -> float:
        """Mean number of rounds until each of `num_packets` packets got through, at least 1.

        The largest of as many geometric variables: the sum over k >= 0 of 1 - (1 - loss^k)^packets.
        """
        total, missing = 1.0, self.loss
        while missing and (term := -math.expm1(num_packets * math.log1p(-missing))) > 1e-12:
            total += term
            missing *= self.loss
        return total

    def uplink(self, num_bytes: int) -> float:
        """Mean seconds of transfer beyond the round trip that any request takes: every packet is sent
        1 / (1 - loss) times, every round but the first costs a round trip.

        Raises ValueError for less than one byte.
        """
        if num_bytes < 1:
            raise ValueError(f"{num_bytes} bytes travel; a transfer has at least 1")
        again = (self.expected_rounds(self.packets.count(num_bytes)) - 1) * self.round_trip
        return self.sending(self.packets.on_the_wire(num_bytes)) / (1 - self.loss) + again
