"""How many cores a model computes on: as many as help it, and none that others are using."""

from __future__ import annotations

import os

# Parameters below which passes are too short for several cores: threads that wait for each other cost more
# than they bring, up to forty times as much beside other work.
_SMALL = 50_000_000


def suited_threads(num_parameters: int) -> int:
    """Threads for a model of this size on this machine, now: 1 for a small one, else the idle cores."""
    if num_parameters < _SMALL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, cores - int(os.getloadavg()[0])))
