"""The body of a question to a server, in OpenAI's shape; `tofc.serving.requests` reads it there."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from tofc.errors import UserError

# Of the settings of `Edge.answer`, those that travel, and their names on the wire.
_SETTINGS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}

_LONGEST_HEAD = 1000  # characters of a data URL before its data
_SPACE = re.compile(rb"\s+")


def data_url(kind: str, data: bytes) -> str:
    """The bytes as a URL that carries them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read_data_url(url: str) -> tuple[str, bytes] | None:
    """Type ("" for none) and bytes of a data URL, as RFC 2397 has it; None for what is no such URL.

    Raises ValueError where the data is not base64, though it says so.
    """
    comma = url.find(",", 0, _LONGEST_HEAD)
    if url[:5].lower() != "data:" or comma < 0:
        return None
    kind, *parameters = (word.strip().lower() for word in url[5:comma].split(";"))
    text = url[comma + 1 :]
    data = unquote_to_bytes(text) if "%" in text else text.encode("utf-8", "surrogatepass")
    if "base64" not in parameters:
        return kind, data
    return kind, base64.b64decode(_SPACE.sub(b"", data), validate=True)


def chat_request(model: str, url: str, question: str, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The question about the picture or packet in `url`; UserError for a setting that does not travel."""
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    for name, value in generation.items():
        if name not in _SETTINGS:
            raise UserError(
                f"generation setting {name} does not travel to an edge; these do: {', '.join(_SETTINGS)}"
            )
        body[_SETTINGS[name]] = value
    return body
