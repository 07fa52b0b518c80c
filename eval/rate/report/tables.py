"""The report's tables: findings in sentences, savings, and every point; and the parts that pages are made of.

Every number stands in a `<data value>` in full beside its rounded form.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from eval.lab.intervals import NOT_REACHED
from eval.rate.figure import FORM_TITLES
from eval.rate.points import GROUPS, LABELS, TARGETS
from eval.rate.senders import IMAGE_CODECS

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


REFERENCE = '<td class="reference quiet">reference</td>'


def label(system: str) -> str:
    """The name of a system or group as it is printed."""
    return html.escape(LABELS.get(system, system))


def savings_table(summary: Mapping[str, Any], notes: Notes) -> str:
    """What each system needs, and what TOFC saves against it: image codecs and their groups first."""
    systems = summary["systems"]
    first = [name for name in (*GROUPS, *IMAGE_CODECS) if name in systems]
    rest = [name for name in systems if name not in first and name != "tofc"]
    heads = "".join(
        f'<th scope="col">bytes at {html.escape(target)}</th><th scope="col">TOFC saves</th>'
        for target in TARGETS
    )
    rows = [_saving_row("tofc", systems["tofc"], notes)] if "tofc" in systems else []
    rows += [_saving_row(name, systems[name], notes) for name in (*first, *rest)]
    return (
        '<div class="scroll"><table class="cards" id="savings"><thead><tr><th scope="col">system</th>'
        f'{heads}<th scope="col">BD-rate</th><th scope="col">BD-accuracy</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _saving_row(name: str, found: Mapping[str, Any], notes: Notes) -> str:
    cells = []
    for target in TARGETS:
        size = figure(found["bytes"][target], BYTES, notes)
        cells.append(cell(f"bytes at {target}", size, f"bytes/{target}"))
        if "savings" not in found:
            cells.append(REFERENCE)
            continue
        saved = found["savings"][target]
        words = figure(saved, PERCENT, notes, " %")
        cells.append(cell(f"TOFC saves at {target}", words + forest(saved), f"savings/{target}"))
    for key, words, unit in (("bd_rate", "BD-rate", " %"), ("bd_accuracy", "BD-accuracy", " points")):
        if key in found:
            cells.append(cell(words, figure(found[key], PERCENT, notes, unit), key))
        else:
            cells.append(REFERENCE)
    kind = "ours" if name == "tofc" else "group" if name in GROUPS else ""
    head = f'<th scope="row">{swatch(name)}{label(name)}</th>'
    return f'<tr class="{kind}" data-system="{html.escape(name)}">{head}{"".join(cells)}</tr>'


def swatch(system: str) -> str:
    """A dot in the colour of the system; nothing for a group."""
    return f'<i class="swatch" style="--c: var(--c-{system})"></i>' if system in LABELS else ""


def points_table(summary: Mapping[str, Any], notes: Notes) -> str:
    """Every point of the sweep with its bytes and accuracies; a star where it is on the front."""
    forms = list(summary["fronts"])
    heads = "".join(f'<th scope="col">{html.escape(FORM_TITLES.get(form, form))} %</th>' for form in forms)
    rows = []
    for point in summary["points"]:
        system, name, size = point["system"], html.escape(point["point"]), point["bytes"]
        cells = [
            cell(words, number(size[key], BYTES), key)
            for key, words in (("mean", "bytes, mean"), ("p50", "median"), ("p95", "95th percentile"))
        ]
        cells.append(cell("visual tokens", number(point["tokens"], (1, ",.0f")), "tokens"))
        for form in forms:
            best = point["point"] in summary["fronts"][form][point["system"]]
            star = '<span class="star" title="on the front">★</span> ' if best else ""
            words = star + figure(point["accuracy"][form], PERCENT, notes)
            cells.append(cell(FORM_TITLES.get(form, form), words, f"accuracy/{form}"))
        rows.append(
            f'<tr data-system="{system}" data-point="{name}"><th scope="row">{swatch(system)}{label(system)} '
            f"<small>{name}</small></th>{''.join(cells)}</tr>"
        )
    sizes = "".join(
        f'<th scope="col">{words}</th>' for words in ("bytes, mean", "median", "95th pct.", "visual tokens")
    )
    return (
        '<div class="scroll"><table class="cards" id="points"><thead><tr><th scope="col">system, point</th>'
        f"{sizes}{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def headline(summary: Mapping[str, Any], notes: Notes) -> Iterator[str]:
    """The findings in sentences: what TOFC needs, and what it saves against each group of image codecs."""
    form = FORM_TITLES.get(summary["headline"], summary["headline"]).lower()
    yield (
        f"<p>With uncoded features the model answers {figure(summary['reference'], PERCENT, notes, ' %')} of "
        f"the {html.escape(form)} questions rightly. Small figures are 95 % intervals; ∞ where pictures "
        "drawn like these do not reach the accuracy at any size, −∞ where TOFC does not.</p>"
    )
    systems = summary["systems"]
    for target in TARGETS:
        yield f"<article><h3>{html.escape(TITLES[target])}</h3>"
        if "tofc" in systems:
            needed = systems["tofc"]["bytes"][target]
            unit = '<span class="unit"> bytes a picture with TOFC</span>'
            yield f'<p class="big">{figure(needed, BYTES, notes, unit)}</p>'
        for name in GROUPS:
            if name in systems and "savings" in systems[name]:
                yield _sentence(name, systems[name], target, notes)
        yield "</article>"


TITLES = dict(
    zip(TARGETS, ("Within one point of uncoded accuracy", "At 95 % of uncoded accuracy"), strict=True)
)


def _sentence(name: str, found: Mapping[str, Any], target: str, notes: Notes) -> str:
    size, saved = found["bytes"][target], found["savings"][target]
    if "not_computed" in size or "not_computed" in saved:
        why = size.get("not_computed") or saved["not_computed"]
        return f"<p>{label(name)}: {html.escape(why)}.</p>"
    open_ = "low" not in saved or saved["low"] == NOT_REACHED or saved["low"] <= 0
    even = saved.get("high") != NOT_REACHED and saved.get("high", 0) <= 0
    verdict = "TOFC needs more" if even else "not decided by these pictures" if open_ else "TOFC needs fewer"
    needs, saves = figure(size, BYTES, notes, " bytes"), figure(saved, PERCENT, notes, " %")
    return (
        f'<div class="versus"><span>{label(name)}: {needs}</span>{forest(saved)}'
        f'<span>TOFC saves {saves}</span><span class="verdict">{verdict}</span></div>'
    )
