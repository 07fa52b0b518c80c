"""What the uplink carries: estimated from the transfers that happen anyway; it decides a packet's size.

The channel adaptation of AI Flow (arXiv 2506.12479), section II-B1: what is sent follows the link's state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# What surrounds a packet in a request, in bytes: JSON and HTTP, headers of TCP and IP.
ENVELOPE_BYTES = 700
_BASE64 = 4 / 3


@dataclass(frozen=True)
class LinkState:
    """An estimate: `rate` in bits a second, `round_trip` in seconds of an empty request."""

    rate: float
    round_trip: float

    def seconds(self, num_bytes: float) -> float:
        """Until the answer to a request of so many bytes, without the work on it."""
        return self.round_trip + 8 * num_bytes / self.rate


class LinkEstimator:
    """Follows the rate and the round trip of an uplink.

    A transfer of n bytes that took s seconds beyond the round trip says that the rate lies between
    8 n / (s + jitter) and 8 n / (s - jitter). The estimate moves into this interval by a share `gain` (of
    its logarithm), and stays where the transfer does not contradict it: small packets on a fast link say
    little, and move little. A link that slows down or recovers is found within two or three requests.

    jitter: seconds by which times scatter though the link stays the same. Rates are bits a second.
    """

    def __init__(self, jitter: float = 0.005, gain: float = 0.8) -> None:
        if not (jitter > 0 and 0 < gain <= 1):
            raise ValueError(f"jitter is {jitter} s and gain {gain}; give some above 0, gain at most 1")
        self._jitter, self._gain = jitter, gain
        self._rate: float | None = None
        self._round_trip: float | None = None

    @property
    def state(self) -> LinkState | None:
        """The estimate; None before a transfer was seen."""
        if self._rate is None or self._round_trip is None:
            return None
        return LinkState(self._rate, self._round_trip)

    def see_round_trip(self, seconds: float) -> None:
        """An empty request took so long."""
        self._round_trip = max(0.0, seconds)

    def see(self, num_bytes: int, seconds: float) -> None:
        """A request of so many bytes took so long, without the server's work on it."""
        if num_bytes < 1 or not 0 <= seconds < math.inf:
            raise ValueError(f"{num_bytes} bytes in {seconds} s: no transfer")
        if self._round_trip is None or seconds < self._round_trip:
            self._round_trip = seconds
        spent = seconds - self._round_trip
        least = 8 * num_bytes / (spent + self._jitter)
        most = 8 * num_bytes / (spent - self._jitter) if spent > self._jitter else math.inf
        if self._rate is None:
            self._rate = least
        inside = min(max(self._rate, least), most)
        self._rate *= (inside / self._rate) ** self._gain

    def packet_bytes(self, seconds: float) -> int | None:
        """The largest packet with which a request is through in so many seconds; None without an estimate.

        0 or less where not even an empty one is.
        """
        if self._rate is None or self._round_trip is None:
            return None
        carried = (seconds - self._round_trip - self._jitter) * self._rate / 8
        return math.floor((carried - ENVELOPE_BYTES) / _BASE64)
