"""Logs as JSON lines: what happened to each request, never what was in it.

Lines are written by a thread of their own: where nobody reads them any more, they wait, then they are dropped
and counted, and requests go on.
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
from typing import Any

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
