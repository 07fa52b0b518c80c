"""What a server remembers: positions of answers that are open for long, and answers by idempotency key."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tofc.serving.errors import ApiError, not_now, wrong
from tofc.serving.job import Job


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


@dataclass(frozen=True)
class _Entry:
    digest: bytes
    job: Job
    until: float


class AnswerStore:
    """The jobs of recent keys, at most `most` of them, each for `seconds` after it began.

    What failed or was given up is not kept: the same key asks anew.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def find_or_begin(
        self, client: str, key: str, digest: bytes, begin: Callable[[], Job]
    ) -> tuple[Job, bool]:
        """The job of this client's key and whether it was there already; `digest` is that of the body.

        Raises ApiError 409 where the key was used for another body, and whatever `begin` raises.
        """
        now = time.monotonic()
        entry = self._entries.get((client, key))
        if entry is not None and entry.until > now and not self._is_void(entry.job):
            if entry.digest != digest:
                raise ApiError(
                    409,
                    "this idempotency key belongs to another request; use a new key for each request",
                    "idempotency_key_reused",
                    again=False,
                )
            return entry.job, True
        job = begin()
        self._entries[(client, key)] = _Entry(digest, job, now + self._seconds)
        self._entries.move_to_end((client, key))
        while len(self._entries) > self._most or next(iter(self._entries.values())).until <= now:
            self._entries.popitem(last=False)
        return job, False

    @staticmethod
    def _is_void(job: Job) -> bool:
        return job.is_cancelled or job.error is not None
