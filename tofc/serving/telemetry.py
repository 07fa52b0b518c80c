"""What a server tells of its work: a log of JSON lines, and counters for Prometheus.

Lines say what happened to each request, never what was in it. They are written by a thread of their own:
where nobody reads them any more, they wait, then they are dropped and counted, and requests go on.
docs/operations.md says what to watch.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

LOGGER = logging.getLogger("tofc.serving")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, event, the fields that were given, and a library's name."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback stands in "trace"."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.name != LOGGER.name:
            line["logger"] = record.name
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def log(event: str, level: int = logging.INFO, fault: BaseException | None = None, **fields: Any) -> None:
    """A line about something that happened."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=fault)


class LineWriter(logging.Handler):
    """Hands lines to a thread that writes them to a descriptor; `dropped` counts those that found no room."""

    def __init__(self, descriptor: int, most: int = 10_000) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor, self._lines = descriptor, queue.Queue[str](most)
        self._missing = 0  # dropped since that was last written
        threading.Thread(target=self._write, name="tofc-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Puts the line of a record behind the others; never waits."""
        line = self.format(record)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1
            self._missing += 1

    def flush(self, seconds: float = 2.0) -> None:
        """Waits until all is written, for so many seconds at most."""
        until = time.monotonic() + seconds
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _write(self) -> None:
        while True:
            text = self._lines.get() + "\n"
            if self._missing:
                missing, self._missing = self._missing, 0
                record = LOGGER.makeRecord(
                    LOGGER.name, logging.WARNING, "", 0, "lines of the log were dropped", (), None
                )
                record.fields = {"count": missing}
                text += self.format(record) + "\n"
            data = text.encode()
            with contextlib.suppress(OSError):  # nobody will ever read
                while data:
                    data = data[os.write(self._descriptor, data) :]
            self._lines.task_done()


def dropped_lines() -> int:
    """Lines of this process' log that nobody took in time."""
    return sum(one.dropped for one in logging.root.handlers if isinstance(one, LineWriter))


def write_json_lines() -> None:
    """Sends what the server and its libraries log or warn of to standard error, as JSON lines."""
    handler = LineWriter(2)
    atexit.register(handler.flush)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and any(map(_is_console, logger.handlers)):
            logger.handlers = [other for other in logger.handlers if not _is_console(other)]
            logger.propagate = True
    for name in (LOGGER.name, "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (100, 200, 300, 500, 700, 1000, 2000, 5000, 20_000, 100_000)


class Metrics:
    """All that one server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("tofc_requests", "Requests that ended", ["route", "status"], **own)
        self.seconds = Histogram(
            "tofc_request_seconds", "From a request to its whole answer", ["route"], buckets=_SECONDS, **own
        )
        self.first_token = Histogram(
            "tofc_first_token_seconds", "From a request to the first token", buckets=_SECONDS, **own
        )
        self.queue_seconds = Histogram("tofc_queue_seconds", "Waiting for the model", buckets=_SECONDS, **own)
        self.batch = Histogram(
            "tofc_batch_rows", "Sequences decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self.packet_bytes = Histogram(
            "tofc_packet_bytes", "Bytes of the packets of a request", buckets=_SIZES, **own
        )
        self.queued = Gauge("tofc_queued", "Requests that wait for the model", **own)
        self.decoding = Gauge("tofc_decoding", "Sequences in the model", **own)
        self.connections = Gauge("tofc_under_way", "Requests under way", **own)
        self.prompt_tokens = Counter("tofc_prompt_tokens", "Positions prefilled, visual ones included", **own)
        self.visual_tokens = Counter("tofc_visual_tokens", "Visual tokens prefilled", **own)
        self.new_tokens = Counter("tofc_generated_tokens", "Tokens generated", **own)
        self.drafted = Gauge("tofc_drafted_answers", "Answers that devices draft, at the moment", **own)
        self.rounds = Counter("tofc_rounds", "Rounds of drafts that were answered", **own)
        self.drafts = Counter("tofc_drafts", "Drafts that came in these rounds", **own)
        self.refused = Counter("tofc_refused", "Requests refused or given up", ["reason"], **own)
        self.repeated = Counter("tofc_repeated", "Requests that an idempotency key found answered", **own)
        dropped = Gauge("tofc_log_lines_dropped", "Lines of the log that nobody read in time", **own)
        dropped.set_function(dropped_lines)

    def text(self) -> bytes:
        """What /metrics shows."""
        return generate_latest(self.registry)


def side_by_side(pages: Mapping[str, bytes], label: str) -> bytes:
    """One page of several: every series has the name of its page as a `label` of its own."""
    return generate_latest(_Pages(pages, label))


class _Pages:
    def __init__(self, pages: Mapping[str, bytes], label: str) -> None:
        self._pages, self._label = pages, label

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, page in self._pages.items():
            for family in text_string_to_metric_families(page.decode()):
                whole = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                whole.samples += [s._replace(labels={self._label: name, **s.labels}) for s in family.samples]
        yield from families.values()
