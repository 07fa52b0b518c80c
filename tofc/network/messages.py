"""The body of a question to a server, in OpenAI's shape; `tofc.serving.requests` reads it there."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tofc.errors import UserError

# Of the settings of `Edge.answer`, those that travel, and their names on the wire.
_SETTINGS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}


def data_url(kind: str, data: bytes) -> str:
    """The bytes as a URL that carries them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
