"""From bytes to a checked object: what is large without saying anything is refused before it is unfolded."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tofc.serving.errors import ApiError, invalid, wrong
from tofc.serving.settings import Limits

T = TypeVar("T", bound=BaseModel)
_PLAIN = "application/json"
_VALUES = 16_384  # in a request, beyond the brackets and commas that its text may hold


def check_type(content_type: str) -> None:
    """Raises ApiError for a body that does not say that it is JSON, as forms on pages of others cannot."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != _PLAIN and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            415,
            f"the header content-type is {kind[:80]!r}; send content-type: {_PLAIN}",
            "unsupported_media_type",
        )


def parsed(kind: type[T], body: bytes | str, limits: Limits) -> T:
    """The body as `kind`; raises ApiError that names the field at fault.

    Takes up to some 50 ms for the largest body: not for the event loop.
    """
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if len(data) - len(data.translate(None, b"{[,")) > limits.text_chars + _VALUES:
        raise wrong("the body: holds more values than any question needs", None, "invalid_request")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise invalid(
            error.errors(include_url=False, include_input=False, include_context=False)[0]
        ) from None
