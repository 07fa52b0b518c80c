"""Trained variants on test pictures, and from their rows to the table.

Measured are the bytes that a variant's integer codec writes and how well answers survive; compared are bytes
where answers are as good as the reference's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from entropy import FeatureCodec, TrainableCodec
from eval.ablation.variants import Variant
from eval.lab.curves import Curve, bytes_at, front
from eval.lab.intervals import Estimate, NotComputable, over_resamples, resamples
from eval.lab.rows import read_rows
from eval.lab.terminal import table
from tofc.errors import UserError
from tofc.training.codec import CodecRun
from tofc.training.forward import VisionLanguageModel, pixels_of
from tofc.training.packing import PackedBatch

PACKET_BYTES = 11  # header, model tag, picture size and checksum around the payload of one picture
BATCH = 16


@dataclass(frozen=True)
class CodecRow:
    """One picture at one quality: packet bytes, error, weighted cross-entropy of its answers in nats.

    `error` is the mean squared error in the coordinates that the reference's codec quantises, relative to
    the features' variance there: the error that matters to the answers, see `tofc.training.codec`.
    """

    variant: str
    picture: int
    quality: int
    bytes: int
    error: float
    cross_entropy: float
    questions: int
    right: int


@torch.no_grad()
def measure(
    name: str, run: CodecRun, codec: FeatureCodec, pictures: int, reference: TrainableCodec
) -> list[CodecRow]:
    """Rows of every quality level, and of quality 0: features merged but not coded, 2 bytes a value.

    codec: the run's, exported; reference: the codec in whose coordinates errors are taken.
    """
    run.task.eval()
    rows: list[CodecRow] = []
    for start in range(0, pictures, BATCH):
        numbers = range(start, min(start + BATCH, pictures))
        examples = [run.corpus.picture("test", number, run.config.seed) for number in numbers]
        pixels = pixels_of(examples, run.task.grounded.encoder.image_size)
        features = run.task.merged(pixels, run.config.main_tokens())
        packed = run.packer.pack([example.turns for example in examples]).to(run.device)
        for quality in (0, *codec.qualities):
            sizes, decoded = coded(features, codec, quality)
            coordinates = reference.transform(decoded.cpu() - features.cpu() + reference.center)
            errors = coordinates.square().mean((1, 2)).tolist()
            losses, exact = answers_of(run.task.grounded, decoded, packed)
            for place, number in enumerate(numbers):
                asked = len(examples[place].turns)
                right = int(exact[place, :asked].sum())
                found = (sizes[place], errors[place], losses[place], asked, right)
                rows.append(CodecRow(name, number, quality, *found))
    return rows


def coded(features: torch.Tensor, codec: FeatureCodec, quality: int) -> tuple[list[int], torch.Tensor]:
    """Packet bytes of each picture's features [B, K, C], and these decoded; quality 0 codes nothing."""
    if quality == 0:
        return [2 * picture.numel() for picture in features], features
    payloads = [codec.encode(picture, quality) for picture in features]
    decoded = np.stack([codec.decode(payload) for payload in payloads])
    return [len(payload) + PACKET_BYTES for payload in payloads], torch.from_numpy(decoded).to(features)


def answers_of(
    grounded: VisionLanguageModel, decoded: torch.Tensor, packed: PackedBatch
) -> tuple[list[float], torch.Tensor]:
    """Cross-entropy of each picture's answers in nats, and bool [B, Q], which of them are right."""
    visual = grounded.visual(decoded)
    found = grounded.answers(visual, packed)
    return found.by_picture.tolist(), found.exact


ROWS_NAME = "rows.csv"
REFERENCE = "full"
LOSSES = {"error": "error of the features", "cross_entropy": "cross-entropy of the answers"}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """Measurements of one variant: arrays [levels, pictures], the coarsest quality first.

    `loss` is what is held equal in a comparison, summed over `terms`: the "error" of the features (one term a
    picture), or the "cross_entropy" of the answers (a term a question).
    """

    bytes: Array
    loss: Array
    terms: Array
    right: Array
    questions: Array

    @classmethod
    def from_rows(cls, rows: Sequence[CodecRow], loss: str = "cross_entropy") -> Levels:
        """Of rows of one variant; UserError where a picture lacks a quality."""
        qualities = sorted({row.quality for row in rows if row.quality > 0})
        pictures = sorted({row.picture for row in rows})
        found = {(row.quality, row.picture): row for row in rows}
        missing = [(q, p) for q in qualities for p in pictures if (q, p) not in found]
        if missing:
            raise UserError(f"rows lack quality {missing[0][0]} of picture {missing[0][1]}: measure again")

        def column(name: str) -> Array:
            return np.array([[getattr(found[q, p], name) for p in pictures] for q in qualities], dtype=float)

        questions = column("questions")
        terms = questions if loss == "cross_entropy" else np.ones_like(questions)
        return cls(column("bytes"), column(loss), terms, column("right"), questions)

    def curves(self) -> list[Curve]:
        """Bytes and negative log-loss of levels worth their bytes: of all pictures, then of each resample."""
        weights = resamples(self.bytes.shape[1])
        size = weights @ self.bytes.T / self.bytes.shape[1]  # [1 + R, levels]
        loss = (weights @ self.loss.T) / (weights @ self.terms.T)
        return [front(Curve(*pair)) for pair in zip(size, -np.log(loss), strict=True)]


def bytes_at_equal_loss(variant: Curve, reference: Curve) -> float:
    """Mean ratio of the variant's bytes to the reference's at the same loss.

    Each level of the variant within the reference's range is compared with the reference's front there (log
    bytes linear in the logarithm of the loss between its levels); the ratios' geometric mean is returned.
    Raises NotComputable where the ranges do not meet.
    """
    ratios = [
        np.log(size / bytes_at(reference, score)[0])
        for size, score in zip(*variant, strict=True)
        if reference.accuracy[0] <= score <= reference.accuracy[-1]
    ]
    if not ratios:
        raise NotComputable("the variant's losses lie outside the reference's: there are no equal losses")
    return float(np.exp(np.mean(ratios)))


def compare(levels: Levels, base: Levels) -> dict[str, float]:
    """Change in bytes at equal loss with its interval; bytes and share of right answers at middle quality.

    Raises NotComputable where losses do not meet.
    """
    if levels.bytes.shape[1] != base.bytes.shape[1]:
        raise UserError("variant and reference were measured on different numbers of pictures")
    ratio, computed = over_resamples(bytes_at_equal_loss, levels.curves(), base.curves())
    if not isinstance(ratio, Estimate):
        raise NotComputable(f"the variant's losses meet the reference's in {computed:.0%} of the resamples")
    middle = (len(levels.bytes) - 1) // 2
    return {
        "bytes_change": ratio.value - 1,
        "low": ratio.low - 1,
        "high": ratio.high - 1,
        "bytes": float(levels.bytes[middle].mean()),
        "right": float(levels.right[middle].sum() / levels.questions[middle].sum()),
    }


def comparison(out: Path, variants: dict[str, Variant], loss: str) -> tuple[Table, dict[str, Any]]:
    """The table of the variants in `out` against the reference, and its figures; UserError without that."""
    if not (out / REFERENCE / ROWS_NAME).exists():
        raise UserError(f"{out} has no variant {REFERENCE!r} to compare with: run it first")
    base = Levels.from_rows(read_rows(out / REFERENCE / ROWS_NAME, CodecRow), loss)
    found: list[dict[str, Any]] = []
    cells: list[tuple[str, ...]] = []
    for name, variant in variants.items():
        if not (out / name / ROWS_NAME).exists():
            continue
        try:
            row = compare(Levels.from_rows(read_rows(out / name / ROWS_NAME, CodecRow), loss), base)
        except NotComputable as error:  # a single point may lie beyond the reference's curve
            cells.append((variant.title, str(error)))
            found.append({"variant": name, "not_computed": str(error)})
            continue
        row["least_used"] = least_use(out / name)
        found.append({"variant": name, **row})
        cells.append(
            (
                variant.title,
                f"{row['bytes_change']:+.1%}",
                f"{row['low']:+.1%} to {row['high']:+.1%}",
                f"{row['bytes']:.0f}",
                f"{row['right']:.1%}",
                f"{row['least_used']:.1%}",
            )
        )
    title = f"bytes at equal {LOSSES[loss]}, relative to '{REFERENCE}'"
    figures = ("bytes", "95 % interval", "middle quality: bytes", "right", "use")
    told = {"ablation": found, "loss": loss, "pictures": int(base.bytes.shape[1])}
    return table(title, ["variant"], figures, cells), told


def least_use(folder: Path) -> float:
    """Share of tokens that the least used entropy model codes, over all levels, on validation pictures."""
    reports = json.loads((folder / "codec-report.json").read_text())
    return float(np.mean([report["usage"] for report in reports], axis=0).min())
