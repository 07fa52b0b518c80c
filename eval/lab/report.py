"""Parts of HTML reports. Every number stands in a `<data value>` in full beside its rounded form."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from eval.lab.intervals import NOT_REACHED

PERCENT, BYTES = (100, ".1f"), (1, ",.0f")
BAR_WIDTH, BAR_HEIGHT = 150, 16  # pixels
ENDLESS = {"low": "−∞", "high": "∞"}


class Notes:
    """Why figures are missing or bounded: each reason once, with a number that cells refer to."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """A reference to this note."""
        if text not in self.texts:
            self.texts.append(text)
        number = self.texts.index(text) + 1
        return f'<a class="note" href="#note-{number}" title="{html.escape(text)}">{number}</a>'

    def html(self) -> str:
        """All notes as a list."""
        items = (f'<li id="note-{i}">{html.escape(text)}</li>' for i, text in enumerate(self.texts, 1))
        return f'<ol class="notes">{"".join(items)}</ol>' if self.texts else ""


def number(value: float, scale: tuple[float, str]) -> str:
    """A number, rounded for the reader and whole for a program."""
    return f'<data value="{value!r}">{scale[0] * value:{scale[1]}}</data>'.replace(">-", ">−")


def figure(found: Mapping[str, Any], scale: tuple[float, str], notes: Notes, unit: str = "") -> str:
    """A figure with its unit and interval, or the word and the reason why there is none."""
    if "not_computed" in found:
        return f'<span class="none">none{notes.mark(found["not_computed"])}</span>'
    sign = {"at most": "≤ ", "at least": "≥ "}.get(found.get("bound", ""), "")
    value = f"<b>{sign}{number(found['value'], scale)}{unit}</b>"
    if "low" not in found:
        return f"{value} <small>no interval{notes.mark(found['interval_not_computed'])}</small>"
    low, high = (
        ENDLESS[side] if found[side] == NOT_REACHED else number(found[side], scale)
        for side in ("low", "high")
    )
    return f"{value} <small>{low} to {high}</small>"


def cell(head: str, content: str, key: str = "") -> str:
    """A table cell that knows its heading, which narrow screens print beside it."""
    named = f' data-figure="{html.escape(key)}"' if key else ""
    return f'<td data-head="{html.escape(head)}"{named}><div>{content}</div></td>'


def forest(saved: Mapping[str, Any]) -> str:
    """A saving as a dot with its interval on an axis from -100 to 100 %; arrows where it goes on."""
    if "value" not in saved:
        return ""

    def x(value: float) -> float:
        return BAR_WIDTH * (min(1.0, max(-1.0, value)) + 1) / 2

    middle = BAR_HEIGHT / 2
    low, high = (
        end if saved.get(side, end) == NOT_REACHED else saved.get(side)
        for side, end in (("low", -2.0), ("high", 2.0))
    )
    line = ""
    if low is not None and high is not None:
        line = f'<line class="span" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>'
        line += f'<path class="arrow" d="M0 {middle}l6 -4v8z"/>' if low < -1 else ""
    size = f'width="{BAR_WIDTH}" height="{BAR_HEIGHT}" viewBox="-4 0 {BAR_WIDTH + 8} {BAR_HEIGHT}"'
    return (
        f'<svg class="forest" {size} aria-hidden="true">'
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{BAR_HEIGHT}"/>'
        f'{line}<circle cx="{x(saved["value"]):.1f}" cy="{middle}" r="4"/></svg>'
    )


def data_uri(kind: str, data: bytes) -> str:
    """A file inside of the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(image: Image.Image) -> str:
    """A picture as a WebP file inside of the page."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=85, method=4)
    return data_uri("image/webp", buffer.getvalue())


def json_of(value: Any) -> str:
    """JSON that no HTML parser mistakes for the end of its element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
