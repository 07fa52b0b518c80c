"""The results of a run: one row a stage, from which every bar is computed, and the figure of the bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from eval.lab.figures import drawn
from tofc.errors import UserError

MEASURED, MODELLED = "measured", "modelled"
STAGES = (
    "device preprocess", "device vision", "device merge", "device code",
    "link uplink", "link round trip",
    "server decode", "server preprocess", "server vision", "server merge",
    "server project", "server prefill", "server next tokens",
)  # fmt: skip
"""In the order of time; all but the last lead to the first token. Where pictures travel, they are coded."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a stage: `basis` is MEASURED or MODELLED, `how` says by what."""

    seconds: float
    basis: str
    how: str


@dataclass(frozen=True)
class StageRow:
    """A stage of one request: seconds at a link rate in Mbit/s, with the bytes and tokens of the request."""

    model: str
    system: str
    picture: str
    num_bytes: int
    visual_tokens: int
    mbit: float
    stage: str
    seconds: float
    basis: str
    how: str

    def __post_init__(self) -> None:
        # Also refuses NaN. A stage that takes no time at all was not measured.
        if not 0 < self.seconds < float("inf") and not (
            self.seconds == 0 and self.stage == "link round trip"
        ):
            raise UserError(
                f"{self.model}, {self.system}, {self.stage}: {self.seconds} seconds cannot be; run again"
            )
        if self.stage not in STAGES or self.basis not in (MEASURED, MODELLED):
            raise ValueError(f"no stage {self.stage!r} or no basis {self.basis!r}")


def summarise(rows: Sequence[StageRow], reference: str) -> list[dict[str, Any]]:
    """A bar for each model, system and rate: means over the pictures.

    Each has `parts` ({stage: {seconds, basis}}, in order of time), `first_token` and `answer` in seconds,
    `of_reference` (its time to the first token as a share of that of the system `reference`), `num_bytes`
    and `visual_tokens`. UserError where a picture lacks a stage that another has.
    """
    groups: dict[tuple[str, str, float], list[StageRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.system, row.mbit), []).append(row)
    bars = [_bar(*key, group) for key, group in groups.items()]
    first = {(bar["model"], bar["system"], bar["mbit"]): bar["first_token"] for bar in bars}
    for bar in bars:
        bar["of_reference"] = bar["first_token"] / first[bar["model"], reference, bar["mbit"]]
    return bars


def _bar(model: str, system: str, mbit: float, rows: Sequence[StageRow]) -> dict[str, Any]:
    pictures = {row.picture: row for row in rows}
    parts: dict[str, Mapping[str, Any]] = {}
    for stage in STAGES:
        found = [row for row in rows if row.stage == stage]
        if not found:
            continue
        if sorted(row.picture for row in found) != sorted(pictures):
            raise UserError(f"{model}, {system}: not every picture has exactly one {stage}; run again")
        measured = all(row.basis == MEASURED for row in found)
        parts[stage] = {
            "seconds": fmean(row.seconds for row in found),
            "basis": MEASURED if measured else MODELLED,
        }
    answer = sum(part["seconds"] for part in parts.values())
    return {
        "model": model,
        "system": system,
        "mbit": mbit,
        "num_bytes": fmean(row.num_bytes for row in pictures.values()),
        "visual_tokens": fmean(row.visual_tokens for row in pictures.values()),
        "parts": parts,
        "first_token": answer - parts["server next tokens"]["seconds"],
        "answer": answer,
    }


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
