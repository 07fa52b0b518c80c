"""Logs as JSON lines: what happened to each request, never what was in it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

LOGGER = logging.getLogger("tofc.serving")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, event, and the fields that were given."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback stands in "trace"."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def log(event: str, level: int = logging.INFO, fault: BaseException | None = None, **fields: Any) -> None:
    """A line about something that happened."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=fault)


def write_json_lines() -> None:
    """Sends what the server and uvicorn say to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("tofc.serving", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").handlers = []
    logging.getLogger("uvicorn.error").propagate = True
    logging.getLogger("uvicorn.access").disabled = True
