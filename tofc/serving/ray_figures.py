"""The figures of all replicas on one page: whichever of them is asked for /metrics shows those of all."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from tofc.serving.metrics import Metrics, side_by_side

_EVERY = 2.0  # seconds between two reports of a replica
_FORGOTTEN = 10.0  # ... after which one that is silent is gone


class Figures:
    """What each replica counted last; one actor of the application."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, bytes]] = {}

    def tell(self, replica: str, text: bytes) -> None:
        """A replica's page, in Prometheus' format."""
        self._told[replica] = (time.monotonic(), text)

    def pages(self) -> Mapping[str, bytes]:
        """The last page of every replica that is alive."""
        since = time.monotonic() - _FORGOTTEN
        self._told = {name: told for name, told in self._told.items() if told[0] > since}
        return {name: text for name, (_, text) in self._told.items()}


class Teller:
    """A replica's side: tells `Figures` what is counted here, on a thread that ends with the process."""

    def __init__(self, figures: Any, replica: str) -> None:
        self._figures, self._replica = figures, replica

    def start(self, metrics: Metrics) -> None:
        """Tells now and then."""
        self._metrics = metrics
        threading.Thread(target=self._tell, name="tofc-figures", daemon=True).start()

    def _tell(self) -> None:
        while True:
            self._figures.tell.remote(self._replica, self._metrics.text())
            time.sleep(_EVERY)

    async def all_figures(self) -> bytes:
        """The page of all replicas, this one's as it is now."""
        pages = await self._figures.pages.remote()
        return side_by_side({**pages, self._replica: self._metrics.text()}, "replica")
