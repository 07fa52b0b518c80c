"""Errors as OpenAI's clients expect them: a status, and one object that names no internals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """What goes wrong with a request, with its HTTP status; the message is meant for the client.

    `code` is a stable word, `param` the field at fault. `retry_after` (seconds) tells when another try makes
    sense; with `again` false the client is told not to repeat what cannot succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
        again: bool = True,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after, self.again = retry_after, again

    @property
    def kind(self) -> str:
        """OpenAI's name for this family of errors."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def as_json(self) -> dict[str, Any]:
        """What is sent where no status goes with it: over a WebSocket."""
        told = {"status": self.status, **self.body}
        return told if self.retry_after is None else {**told, "retry_after": self.retry_after}

    @property
    def close_code(self) -> int:
        """Why a WebSocket is closed: try again later, a fault of the server's, or of the client's."""
        if self.status in (429, 503):
            return 1013
        return 1011 if self.status >= 500 else 1008

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = f"{max(1, round(self.retry_after))}"
        if not self.again:
            headers["x-should-retry"] = "false"  # the stock client heeds it
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The client's fault: 400."""
    return ApiError(400, message, code, param)


def invalid(fault: Mapping[str, Any]) -> ApiError:
    """What pydantic found wrong in a body: where and what, without repeating what was sent."""
    steps = [str(step) for step in fault.get("loc", ())]
    place = ".".join(step for step in steps if not step.startswith("["))[:200] or None
    says = fault.get("msg", "is not valid")
    if fault.get("type") == "extra_forbidden":
        says = "is not understood here, and might change the answer; leave it out"
    return wrong(f"{place or 'the body'}: {says}", place, "invalid_request")


def too_busy(message: str, retry_after: float) -> ApiError:
    """More is asked than can be queued: 429, worth another try."""
    return ApiError(429, message, "queue_full", retry_after=retry_after)


def not_now(message: str, retry_after: float = 2.0) -> ApiError:
    """The server comes up, goes down, or has too many connections: 503, worth another try."""
    return ApiError(503, message, "unavailable", retry_after=retry_after)


def our_fault() -> ApiError:
    """Something broke here: 500. What, stands in the log under the request's id."""
    return ApiError(500, "the server failed at this request; its log has more", "internal_error")


def too_late(seconds: float) -> ApiError:
    """The deadline passed before the answer was whole: 408, and the same again would end the same."""
    message = f"the answer was not ready within {seconds:g} s; allow more, or send fewer tokens"
    return ApiError(408, message, "deadline_exceeded", "deadline_ms", again=False)
