"""The bars as a figure for a paper: stages along time, a panel for each link rate, a row for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from eval.lab.figures import drawn
from eval.latency.rows import MODELLED

# What is drawn in one colour: blue on the device, orange on the link, green on the server.
GROUPS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("device: pixels", "#C6DBEF", ("device preprocess",)),
    ("device: vision tower", "#6BAED6", ("device vision",)),
    ("device: merging", "#2171B5", ("device merge",)),
    ("device: coding", "#9E9AC8", ("device code",)),
    ("uplink", "#F4A742", ("link uplink",)),
    ("round trip", "#FDDBA8", ("link round trip",)),
    ("server: decoding, pixels", "#D9F0D3", ("server decode", "server preprocess")),
    ("server: vision tower", "#A6DBA0", ("server vision",)),
    ("server: merging, projector", "#5AAE61", ("server merge", "server project")),
    ("server: prefill", "#2E8B57", ("server prefill",)),
    ("server: further tokens", "#D0D0D0", ("server next tokens",)),
)
MEASURED_LABEL, MODELLED_LABEL = "measured", "modelled: counted, scaled, or the link's formula"
_HATCH, _HATCH_COLOUR = "//////", (0.0, 0.0, 0.0, 0.42)
_WIDTH, _BAR = 2.05, 0.2  # inches of a panel and of a bar with its gap
_FAR = 3.0  # times the median bar: what is longer is cut off


def draw(summary: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes `latency.png` and `latency.svg` into the folder `out`; errors of `require_matplotlib`."""
    config = summary["config"]
    models = [model["name"] for model in config["models"]]
    systems = [system["name"] for system in config["systems"]]
    rates = config["figure_mbit"]
    look: dict[str, Any] = {
        "font.size": 7.5, "axes.titlesize": 8.5, "axes.labelsize": 7.5, "legend.fontsize": 7,
        "axes.spines.left": False, "axes.linewidth": 0.6, "hatch.linewidth": 0.45,
    }  # fmt: skip
    size = (1.15 + _WIDTH * len(rates), len(models) * (0.62 + _BAR * len(systems)) + 0.95)
    targets = [out / "latency.png", out / "latency.svg"]
    with drawn(targets, size, **look) as figure:
        panels = figure.subplots(len(models), len(rates), squeeze=False, sharey="row")
        for line, model in zip(panels, models, strict=True):
            for panel, mbit in zip(line, rates, strict=True):
                bars = {b["system"]: b for b in summary["bars"] if (b["model"], b["mbit"]) == (model, mbit)}
                _panel(panel, [bars[system] for system in systems])
                panel.set_title(f"{mbit:g} Mbit/s", loc="left")
            line[0].set_ylabel(model, fontsize=9, fontweight="bold")
            line[0].set_yticks(range(len(systems)), systems)
            line[0].set_ylim(len(systems) - 0.4, -0.6)
        for panel in panels[-1]:
            panel.set_xlabel("seconds")
        whole = "whole answer" if config["data"] else f"{config['answer_tokens']} tokens"
        _legend(figure, summary["bars"], whole)
    return targets


def _panel(axes: Any, bars: Sequence[Mapping[str, Any]]) -> None:
    """One link rate: a bar a system, labelled with seconds to the first and to the last token."""
    near = _FAR * median(bar["answer"] for bar in bars)
    limit = max(bar["answer"] for bar in bars if bar["answer"] <= near)
    for place, bar in enumerate(bars):
        left = 0.0
        for _, colour, stages in GROUPS:
            for stage in stages:
                part = bar["parts"].get(stage)
                if part is None:
                    continue
                end = min(left + part["seconds"], 1.04 * limit)
                hatch = _HATCH if part["basis"] == MODELLED else None
                axes.barh(
                    place, max(0.0, end - left), left=left, height=0.74, color=colour, hatch=hatch,
                    edgecolor=_HATCH_COLOUR, linewidth=0,
                )  # fmt: skip
                left += part["seconds"]
        shown = min(left, 1.04 * limit)
        if left > 1.04 * limit:  # torn off
            for offset in (0.955, 0.985):
                axes.plot(
                    [limit * (offset - 0.012), limit * (offset + 0.012)], [place + 0.46, place - 0.46],
                    color="white", linewidth=1.6, zorder=3,
                )  # fmt: skip
        else:
            axes.plot([bar["first_token"]] * 2, [place - 0.37, place + 0.37], color="black", linewidth=0.9)
        label = f"{_seconds(bar['first_token'])} | {_seconds(bar['answer'])}"
        axes.text(shown + 0.025 * limit, place, label, va="center", fontsize=6.3)
    axes.set_xlim(0, 1.58 * limit)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.05 * limit])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=2.5, width=0.6)


def _seconds(value: float) -> str:
    """Some three digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{digits}f}"


def _legend(figure: Any, bars: Sequence[Mapping[str, Any]], whole: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    used = {stage for bar in bars for stage in bar["parts"]}
    handles: list[Any] = [
        Patch(facecolor=colour, label=label) for label, colour, stages in GROUPS if used & set(stages)
    ]
    labels = f"first token;  labels: first | {whole}"
    box: dict[str, Any] = {"facecolor": "#EDEDED", "linewidth": 0.5}
    handles += [
        Patch(**box, edgecolor="#555555", label=MEASURED_LABEL),
        Patch(**box, edgecolor=_HATCH_COLOUR, hatch=_HATCH, label=MODELLED_LABEL),
        Line2D([], [], color="black", linewidth=0.9, label=labels),
    ]
    options = {"ncols": 5, "frameon": False, "handlelength": 1.6, "columnspacing": 1.4}
    figure.legend(handles=handles, loc="outside lower center", **options)
