"""Memory of answers that are open for long: a budget of positions, and its pages given back to the system."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tofc.serving.errors import not_now, wrong


class PositionBudget:
    """At most `most` positions whose keys, values and states are held at a time; for several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, positions: int) -> Iterator[None]:
        """So many are held inside; ApiError 503 where others hold too many, 400 where they never fit."""
        if positions > self.most:
            raise wrong(
                f"{positions} positions of prompt and answer; at most {self.most} are held for answers "
                "that devices draft: send fewer visual tokens, or ask without draft",
                "messages",
            )
        with self._lock:
            if self._taken + positions > self.most:
                raise not_now("answers that are open hold all the memory there is for them; try again later")
            self._taken += positions
        try:
            yield
        finally:
            with self._lock:
                self._taken -= positions


def give_back() -> None:
    """Returns freed memory to the system, where the C library keeps it (glibc does, for each thread)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
