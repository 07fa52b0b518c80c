"""Rate points: one way to send a picture, at one setting of its knobs; and runs of lmms-eval as such points.

Every run of `--model tofc` leaves `..._rates.json` with its options and a line a request beside it. Runs that
differ in quality and tokens are the points of a curve; one with `codec=false,tokens=all` is the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofc.errors import UserError
from tofc.familial import FULL

if TYPE_CHECKING:
    from eval.rate.published import PublishedData

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

EQUAL, AT_95 = "within 1 point of uncoded", "95 % of it"
TARGETS: dict[str, Callable[[float], float]] = {
    EQUAL: lambda uncoded: uncoded - 0.01,
    AT_95: lambda uncoded: 0.95 * uncoded,
}
"""What bytes are compared at, from the accuracy of the uncoded features."""


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


RAW = RatePoint("raw")


def rows_of_runs(folder: Path, data: Any) -> dict[RatePoint, list[AnswerRow]]:
    """The rows of every run below `folder` that answered the data set's task, the reference first.

    UserError where there is none, where two are of one point, and where they lack reference or answers.
    """
    if not hasattr(data, "document"):
        raise UserError("answers of lmms-eval belong to a data set of eval.rate.published; name one in data")
    documents: PublishedData = data
    questions = {example.name: example.questions for example in map(data.__getitem__, range(len(data)))}
    found: dict[RatePoint, list[AnswerRow]] = {}
    for file in sorted(folder.rglob("*_rates.json")):
        whole = json.loads(file.read_text(encoding="utf-8"))
        point = _point(whole["options"])
        rows = list(_rows(point, file.with_name(whole["requests"]), documents, questions))
        if rows and point in found:
            raise UserError(f"{file} is a second run at {point.system}, {point.name}: move one elsewhere")
        if rows:
            found[point] = rows
    if RAW not in found:
        raise UserError(
            f"{folder} holds no run of {documents.lmms_task} with codec=false,tokens=all, with which all are "
            "compared: run lmms-eval --model tofc with these in --model_args"
        )
    return {RAW: found.pop(RAW), **dict(sorted(found.items(), key=lambda item: str(item[0])))}


def _point(options: Mapping[str, Any]) -> RatePoint:
    tokens = options["tokens"]
    if not options["codec"]:
        return RAW if tokens == TOKENS_ALL else RatePoint("uncoded", (("tokens", tokens),))
    named = ("quality", "tokens", "max_bytes")
    settings = tuple((name, options[name]) for name in named if options[name] is not None)
    if options["exit"] == FULL:
        return RatePoint("tofc", settings)
    return RatePoint("tofc_exits", (*settings, ("exit", options["exit"])))


def _rows(
    point: RatePoint, lines: Path, data: PublishedData, questions: Mapping[str, Any]
) -> Iterator[AnswerRow]:
    for line in lines.read_text(encoding="utf-8").splitlines():
        sent = json.loads(line)
        if sent["task"] != data.lmms_task:
            continue
        if "answer" not in sent:
            raise UserError(f"{lines} holds no answers: an earlier tofc wrote it; run lmms-eval again")
        picture, number = data.document(sent["doc_id"])
        question = questions[picture][number]
        where = (point.system, point.name, picture, sent["bytes"], sent["tokens"])
        asked = (number, question.form, question.category, question.truth, sent["answer"])
        yield AnswerRow(*where, *asked, *question.score(sent["answer"]))
