"""Stage timing that also holds where work is queued on an accelerator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Seconds since it was made, or since the last lap; a lap first waits for the device's queued work.

    `device` is None where torch computes nothing.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds of the stage that ends now, and the start of the next one."""
        if self._device is not None and self._device.type != "cpu":
            import torch

            torch.accelerator.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds
