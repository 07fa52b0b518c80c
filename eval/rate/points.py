"""Rate points: one way to send a picture, at one setting of its knobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Tokens = int | str
TOKENS_ALL = "all"
LABELS = {
    "tofc": "TOFC",
    "tofc_exits": "TOFC, smaller members",
    "uncoded": "merged, float16",
    "raw": "all tokens, float16",
    "int8": "int8 + zstd",
    "merged_jpeg": "merging + JPEG",
    "merged_webp": "merging + WebP",
    "jpeg": "JPEG",
    "webp": "WebP",
    "jpeg_fmm": "JPEG w/ FMM",
    "webp_fmm": "WebP w/ FMM",
    "avif": "AVIF",
    "jpegxl": "JPEG XL",
}
"""Systems by the key that stands in configs and rows, in the order of tables and legends."""

WITH_MERGING = {"jpeg": "jpeg_fmm", "webp": "webp_fmm"}
"""Curves of decoded pictures whose features are merged (FMM in the paper), where they stand apart."""

GROUPS = {"best of JPEG, WebP": ("jpeg", "webp"), "best of AVIF, JPEG XL": ("avif", "jpegxl")}
"""Systems that are one opponent: whichever of them needs fewer bytes."""


@dataclass(frozen=True)
class RatePoint:
    """A setting of a system. `settings` are names and values in a fixed order."""

    system: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The settings in words: unique within the system."""
        return ", ".join(f"{name} {value}" for name, value in self.settings) or "-"

    def curve(self, merged_apart: bool) -> str:
        """The system of tables and figures; with `merged_apart` one of `WITH_MERGING` where it applies."""
        merged = dict(self.settings).get("tokens", TOKENS_ALL) != TOKENS_ALL
        return WITH_MERGING.get(self.system, self.system) if merged_apart and merged else self.system


@dataclass(frozen=True)
class AnswerRow:
    """One answer to question `question` about `picture` through a point.

    It is `right` of `of`, which is 1 but for descriptions; `bytes` travelled for the picture, which had
    `tokens` visual tokens.
    """

    system: str
    point: str
    picture: str
    bytes: int
    tokens: int
    question: int
    form: str
    category: str
    truth: str
    answer: str
    right: int
    of: int
