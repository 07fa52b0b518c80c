"""The page itself: findings, curves, savings, gallery, every point, and how it was made."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from eval.asking.answering import Data
from eval.lab.curves import Curve, bytes_at, front
from eval.lab.figures import BLACK
from eval.lab.intervals import NotComputable
from eval.lab.rows import NOTE, ROWS
from eval.lab.terminal import remark_of_few
from eval.rate.config import RateConfig
from eval.rate.figure import FORM_TITLES, STYLES
from eval.rate.points import LABELS
from eval.rate.report.cards import gallery_html
from eval.rate.report.gallery import RULE, Card, choose_cards
from eval.rate.report.tables import Notes, headline, json_of, points_table, savings_table
from tofc.writing import write_whole

REPORT = "report.html"


def write(summary: Mapping[str, Any], config: RateConfig, data: Data, out: Path) -> Path:
    """Writes `report.html` into the folder of a finished sweep, from its summary and rows.

    The pictures are made again from the data, and their clusters with the model. UserError where they are no
    longer those of the rows.
    """
    text = page(summary, choose_cards(out / ROWS, summary, config, data), _origin(config, out))
    target = out / REPORT
    write_whole(target, text)
    return target


def page(summary: Mapping[str, Any], gallery: Sequence[Card], origin: Mapping[str, str]) -> str:
    """The whole document; it asks for nothing from anywhere."""
    notes = Notes()
    colours = (
        f"--c-{system}: {'var(--ink)' if colour == BLACK else colour};"
        for system, (colour, _, _) in STYLES.items()
    )
    parts = {
        "title": html.escape(f"{summary['name']}: accuracy against bytes"),
        "colours": " ".join(colours),
        "num_pictures": summary["pictures"],
        "few": f'<p class="few">{few}</p>' if (few := remark_of_few(summary["pictures"])) else "",
        "num_points": len(summary["points"]),
        "data": html.escape(summary["data"]),
        "checkpoint": html.escape(summary["checkpoint"]),
        "resamples": summary["resamples"],
        "findings": "".join(headline(summary, notes)),
        "savings": savings_table(summary, notes),
        "points": points_table(summary, notes),
        "rule": html.escape(RULE),
        "gallery": gallery_html(gallery),
        "origin": "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in origin.items()),
        "notes": notes.html() or "<p>Every figure of this page could be computed.</p>",
        "curves": json_of(chart_data(summary)),
        "style": _asset("style.css"),
        "chart": _asset("chart.js"),
        "filter": _asset("filter.js"),
    }
    return Template(_asset("page.html")).substitute(parts)


def chart_data(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the chart draws: points by system, which of them are on the front of each form, and styles."""
    forms = list(summary["fronts"])
    systems = []
    curves = {form: _tofc_front(summary, form) for form in forms}
    for key in (key for key in LABELS if key in summary["fronts"][forms[0]]):
        points = [point for point in summary["points"] if point["system"] == key]
        names = [point["point"] for point in points]
        systems.append(
            {
                "key": key,
                "label": LABELS[key],
                "line": STYLES[key][1],
                "marker": STYLES[key][2],
                "points": [_chart_point(point, curves) for point in points],
                "front": {
                    form: [names.index(name) for name in summary["fronts"][form][key]] for form in forms
                },
            }
        )
    return {
        "forms": [{"key": form, "label": FORM_TITLES.get(form, form)} for form in forms],
        "headline": summary["headline"],
        "systems": systems,
    }


def _chart_point(point: Mapping[str, Any], curves: Mapping[str, Curve | None]) -> dict[str, Any]:
    accuracy = {form: [a["value"], a["low"], a["high"]] for form, a in point["accuracy"].items()}
    return {
        "name": point["point"],
        "bytes": [point["bytes"][key] for key in ("mean", "p50", "p95")],
        "tokens": point["tokens"],
        "accuracy": accuracy,
        "tofc": {form: _tofc_bytes(curve, accuracy[form][0]) for form, curve in curves.items()},
    }


def _tofc_front(summary: Mapping[str, Any], form: str) -> Curve | None:
    own = [point for point in summary["points"] if point["system"] == "tofc"]
    if not own:
        return None
    sizes = np.array([point["bytes"]["mean"] for point in own])
    return front(Curve(sizes, np.array([point["accuracy"][form]["value"] for point in own])))


def _tofc_bytes(curve: Curve | None, accuracy: float) -> list[Any] | None:
    """Bytes at which TOFC is as accurate, and whether that is a bound; None where it never is."""
    if curve is None:
        return None
    try:
        return list(bytes_at(curve, accuracy))
    except NotComputable:
        return None


def _origin(config: RateConfig, out: Path) -> dict[str, str]:
    """What the sweep says it was made with."""
    made_with = json.loads((out / NOTE).read_text(encoding="utf-8"))
    data = made_with["data"]
    software = ", ".join(f"{name} {version}" for name, version in made_with["software"].items() if version)
    return {
        "checkpoint": f"{config.checkpoint}, SHA-256 {made_with['checkpoint']}",
        "data": f"{data['name']} ({data['source']}, {data['options']})",
        "computed on": f"{config.device}, {config.dtype or 'default precision'}",
        "software": software,
        "answers to each question": f"{ROWS} beside this page: a row for each question, picture and point",
        "again": f"tofc eval rate CONFIG --limit {config.limit} --out FOLDER makes this page from its rows",
        "seed of the resamples": str(config.seed),
    }


def _asset(name: str) -> str:
    return (files("eval.rate.report") / name).read_text(encoding="utf-8")
