"""Bodies of questions to a server and of its answers, in OpenAI's shape (`tofc.serving.schema`)."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from tofc.answer import Answer
from tofc.errors import UserError

# Of the settings of `Edge.answer`, those that travel, and their names on the wire.
_SETTINGS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
T = TypeVar("T")

PACKET_TYPE = "application/vnd.tofc"
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


def chat_request(model: str, url: str | None, question: str, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The question about the picture or packet in `url`, None for no picture.

    UserError for a setting that does not travel.
    """
    pictures = [] if url is None else [{"type": "image_url", "image_url": {"url": url}}]
    content = [*pictures, {"type": "text", "text": question}]
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    for name, value in generation.items():
        if name not in _SETTINGS:
            raise UserError(
                f"generation setting {name} does not travel to an edge; these do: {', '.join(_SETTINGS)}"
            )
        body[_SETTINGS[name]] = value
    return body


def chat_answer(body: bytes) -> Answer:
    """The answer in a response; `exit`, tokens and timing are empty where the server is none of ours.

    Raises ValueError for what is no such response.
    """
    try:
        given = json.loads(body)
        extras = given.get("tofc") or {}
        text = _of_type(str, given["choices"][0]["message"]["content"])
        timing = {str(stage): float(seconds) for stage, seconds in extras.get("timing", {}).items()}
        tokens = tuple(_of_type(int, token) for token in extras.get("tokens", ()))
        confidence = extras.get("confidence")  # servers of earlier releases say none
        exit = _of_type(str, extras.get("exit", ""))
        if not all(0 <= seconds < math.inf for seconds in timing.values()):
            raise ValueError("seconds")
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no answer in OpenAI's shape ({type(error).__name__})") from error
    if confidence is not None and not 0 <= _of_type(float, confidence) <= 1:
        raise ValueError("its confidence is not in 0..1")
    text = text.encode(errors="replace").decode()  # half a surrogate pair could be written nowhere
    return Answer(text, exit, tokens, timing, confidence=confidence)


def _of_type(kind: type[T], value: Any) -> T:
    fits = isinstance(value, kind) or (kind is float and type(value) is int)
    if not fits:
        raise ValueError(f"{type(value).__name__} in place of {kind.__name__}")
    return value
