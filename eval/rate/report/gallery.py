"""The report's pictures: which are shown, by a stated rule, and what every system made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet
from PIL import Image

import tofc
from eval.asking.answering import AskedPicture, Data, ScoredQuestion
from eval.rate.config import RateConfig
from eval.rate.points import EQUAL, TARGETS, RatePoint
from eval.rate.senders import IMAGE_CODECS, PictureSender, see
from tofc.errors import UserError

EVENLY, HARDEST = 8, 4
RULE = (
    f"The first {EVENLY} pictures lie evenly spaced between the first and the last of the sweep; the other "
    f"{HARDEST} are those of the rest about which TOFC gave most wrong answers, of equals the earlier. Every "
    "question about a picture is listed. TOFC is shown at its cheapest point within one point of the uncoded "
    "accuracy (its best, if there is none); of each image codec the point that does best on all pictures, of "
    "those whose file for this picture is no larger than the packet; where there is none, its smallest file. "
    "Answers and bytes are the rows of the sweep."
)


@dataclass(frozen=True)
class SentPicture:
    """One picture through one system: `answers` (text, right, of) in the order of the questions."""

    system: str
    point: RatePoint
    num_bytes: int
    num_tokens: int
    answers: tuple[tuple[str, int, int], ...]
    file: bytes | None = None  # of an image codec
    decoded: Image.Image | None = None

    @property
    def num_right(self) -> int:
        """Questions answered fully right."""
        return sum(right == of for _, right, of in self.answers)


@dataclass(frozen=True)
class Card:
    """One picture: its clusters int64 [rows, columns], and what was sent, TOFC first."""

    name: str
    hardest: bool
    image: Image.Image
    assignment: np.ndarray
    tiling: str
    questions: tuple[ScoredQuestion, ...]
    sent: tuple[SentPicture, ...]


class Rows:
    """The rows of a sweep by picture and point."""

    def __init__(self, path: Path) -> None:
        self.table = pyarrow.parquet.read_table(path)
        self.pictures: list[str] = self.table["picture"].unique().to_pylist()  # in the order of the data

    def of_pictures(self, names: Sequence[str]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
        """Rows by (picture, system, point), questions in order."""
        chosen = self.table.filter(pyarrow.compute.is_in(self.table["picture"], pyarrow.array(names)))
        found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in chosen.sort_by([("question", "ascending")]).to_pylist():
            found.setdefault((row["picture"], row["system"], row["point"]), []).append(row)
        return found

    def num_wrong(self, point: RatePoint) -> dict[str, int]:
        """Questions not answered fully right, of each picture."""
        own = pyarrow.compute.and_(
            pyarrow.compute.equal(self.table["system"], point.system),
            pyarrow.compute.equal(self.table["point"], point.name),
        )
        wrong = dict.fromkeys(self.pictures, 0)
        for row in self.table.filter(own).select(["picture", "right", "of"]).to_pylist():
            wrong[row["picture"]] += row["right"] < row["of"]
        return wrong


def choose_cards(rows: Path, summary: Mapping[str, Any], config: RateConfig, data: Data) -> list[Card]:
    """The gallery of a sweep, empty without TOFC; UserError where data or codecs have changed since."""
    if "tofc" not in summary["systems"]:
        return []
    found = Rows(rows)
    points = {(p.system, p.name): p for sender in config.senders() for p in sender.points}
    accuracy = {
        point: p["accuracy"][summary["headline"]]["value"]
        for point, p in zip(points, summary["points"], strict=True)
    }
    ours = points[tofc_point(summary)]
    chosen = choose(found.pictures, found.num_wrong(ours))
    examples = [_example(data, found.pictures, index) for index, _ in chosen]
    device = tofc.Device.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
    by_point = found.of_pictures([example.name for example in examples])
    made = []
    seen = see(device, [example.image for example in examples])
    for (_, hardest), example, whole in zip(chosen, examples, seen, strict=True):
        own = {key[1:]: some for key, some in by_point.items() if key[0] == example.name}
        packet = _sent(ours, own)
        sent = [packet, _sent(points["raw", "-"], own)]
        for system in IMAGE_CODECS:
            its = [p for (s, _), p in points.items() if s == system]
            if its:
                sent.append(_file(_fairest(its, own, accuracy, packet.num_bytes), own, example.image))
        merged = device.merge(whole, dict(ours.settings)["tokens"])
        clusters = merged.cluster_map
        made.append(
            Card(
                example.name, hardest, example.image, clusters, merged.tiling, example.questions, tuple(sent)
            )
        )
    return made


def tofc_point(summary: Mapping[str, Any]) -> tuple[str, str]:
    """TOFC's cheapest point within one point of the uncoded accuracy, or its best."""
    form = summary["headline"]
    values = {p["point"]: p["accuracy"][form]["value"] for p in summary["points"] if p["system"] == "tofc"}
    front = summary["fronts"][form]["tofc"]  # by rising accuracy
    wanted = TARGETS[EQUAL](summary["reference"]["value"])
    return "tofc", next((name for name in front if values[name] >= wanted), front[-1])


def choose(pictures: Sequence[str], num_wrong: Mapping[str, int]) -> list[tuple[int, bool]]:
    """Indices of the pictures that are shown, with whether it is for their difficulty; see `RULE`."""
    evenly = sorted({round(i) for i in np.linspace(0, len(pictures) - 1, EVENLY)})
    rest = [index for index in range(len(pictures)) if index not in evenly]
    hardest = sorted(rest, key=lambda index: -num_wrong[pictures[index]])[:HARDEST]
    return [(index, False) for index in evenly] + [(index, True) for index in hardest]


def _example(data: Data, pictures: Sequence[str], index: int) -> AskedPicture:
    example = data[index]
    if example.name != pictures[index]:
        raise UserError(
            f"picture {index} of {data.name} is {example.name} now and was {pictures[index]} when it was "
            "swept: the data changed; sweep again into another folder"
        )
    return example


def _sent(point: RatePoint, own: Mapping[tuple[str, str], Sequence[dict[str, Any]]]) -> SentPicture:
    rows = own[point.system, point.name]
    answers = tuple((row["answer"], row["right"], row["of"]) for row in rows)
    return SentPicture(point.system, point, rows[0]["bytes"], rows[0]["tokens"], answers)


def _fairest(
    points: Sequence[RatePoint],
    own: Mapping[tuple[str, str], Sequence[dict[str, Any]]],
    accuracy: Mapping[tuple[str, str], float],
    most: int,
) -> RatePoint:
    """The most accurate point whose file for this picture takes at most `most` bytes, else the smallest."""

    def size(point: RatePoint) -> int:
        return int(own[point.system, point.name][0]["bytes"])

    within = [point for point in points if size(point) <= most]
    if not within:
        return min(points, key=size)
    return max(within, key=lambda point: (accuracy[point.system, point.name], -size(point)))


def _file(
    point: RatePoint, own: Mapping[tuple[str, str], Sequence[dict[str, Any]]], image: Image.Image
) -> SentPicture:
    """The point's file, made again: it must be the one whose bytes stand in the rows."""
    sent = _sent(point, own)
    settings = dict(point.settings)
    how = (settings["scale"], settings["chroma"], settings["quality"])
    sender = PictureSender(point.system, *how, ())
    data = sender.code(image)
    if len(data) != sent.num_bytes:
        raise UserError(
            f"{point.system} {point.name} gives {len(data)} bytes for a picture that took "
            f"{sent.num_bytes} in the sweep: another codec is installed now; sweep again into another folder"
        )
    decoded = IMAGE_CODECS[point.system][settings["chroma"]].decode(data)
    return SentPicture(sent.system, point, sent.num_bytes, sent.num_tokens, sent.answers, data, decoded)
