"""The bodies of questions."""

from __future__ import annotations

import base64
from typing import Any


def url_of(data: bytes, kind: str = "application/vnd.tofc") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def message(question: str, *urls: str) -> list[Any]:
    """The messages of one question about pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]
