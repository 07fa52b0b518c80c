"""The results of a run: one row a stage, from which every bar is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

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
