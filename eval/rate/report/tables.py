"""The report's tables: findings in sentences, savings, and every point."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from eval.lab.intervals import NOT_REACHED
from eval.lab.report import BYTES, PERCENT, Notes, cell, figure, forest, number
from eval.rate.analysis import TARGETS
from eval.rate.figure import FORM_TITLES
from eval.rate.points import GROUPS, LABELS
from eval.rate.senders import IMAGE_CODECS

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
