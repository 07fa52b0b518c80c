"""`tofc eval ablation mergings`: ways to fewer tokens before one model and codec as they are.

Density peaks as in the paper, one peak in each of K equal blocks, averages over these blocks
(`merging.way`), a picture made smaller before the tower sees it, and random tokens: bytes and answers right
at equal numbers of tokens, and at equal bytes over all numbers and qualities. What wins is worth training
for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from entropy import FeatureCodec
from eval.ablation.compare import answers_of, coded
from eval.ablation.variants import random_tokens
from eval.lab.curves import Curve, accuracy_at, front
from eval.lab.intervals import Estimate, NotComputable, resamples
from eval.lab.terminal import table
from tofc.config import MergingConfig, resolve
from tofc.hub import load_codec
from tofc.training.data import Corpus, load_corpus
from tofc.training.forward import Merge, VisionLanguageModel, merge_as, pixels_of, read_base
from tofc.training.packing import Packer

Shrink = Callable[[VisionLanguageModel, Tensor, Tensor, int], Tensor]
REFERENCE = "density peaks"
BATCH = 16
DRAWS = 300  # resamples of a figure at equal bytes, which takes a front each


def _merged(merge: Merge) -> Shrink:
    return lambda grounded, pixels, features, tokens: merge(features, tokens)


def _smaller_picture(grounded: VisionLanguageModel, pixels: Tensor, features: Tensor, tokens: int) -> Tensor:
    """The tower's tokens of a picture resized to as few patches; all tokens where those are square."""
    side, patches = math.isqrt(tokens), math.isqrt(features.shape[1])
    if side >= patches:
        return features
    size = grounded.encoder.image_size // patches * side
    small = functional.interpolate(pixels.float(), (size, size), mode="bicubic", antialias=True)
    return grounded.features(small.clamp(0, 255)).float()


MERGINGS: dict[str, Shrink] = {
    REFERENCE: _merged(merge_as(MergingConfig())),
    "one peak a block": _merged(merge_as(MergingConfig(way="spread"))),
    "averages of blocks": _merged(merge_as(MergingConfig(way="blocks"))),
    "smaller picture": _smaller_picture,
    "random tokens": _merged(random_tokens),
}


@dataclass(frozen=True)
class MergingResult:
    """One merging to so many tokens, coded at one quality (0: not coded).

    Of each picture: bytes, cross-entropy in nats, questions, and those answered right.
    """

    merging: str
    tokens: int
    quality: int
    bytes: NDArray[np.float64]
    cross_entropy: NDArray[np.float64]
    questions: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def share(self) -> float:
        """Of the questions, those that are answered right."""
        return float(self.right.sum() / self.questions.sum())

    def gain(self, other: MergingResult) -> Estimate:
        """How much larger the share is than another's of the same pictures."""
        weights = resamples(len(self.right))
        return Estimate.of(weights @ (self.right - other.right) / (weights @ self.questions))


class Bench:
    """A checkpoint's base model and codec, and pictures of a corpus; UserError for what cannot be read."""

    def __init__(self, checkpoint: str, source: str, options: dict[str, Any]) -> None:
        found = resolve(checkpoint)
        self.codec: FeatureCodec = load_codec(found)
        model, processor = read_base(found.base, torch.device("cpu"), "fp32")
        self.grounded = VisionLanguageModel.of(model, processor).eval()
        self.packer = Packer.of(processor)
        self.corpus: Corpus = load_corpus(source, **options)

    @torch.no_grad()
    def results(
        self, split: str, pictures: int, tokens: Sequence[int], qualities: Sequence[int]
    ) -> Iterator[MergingResult]:
        """Every merging to every number of tokens at every quality."""
        columns: dict[tuple[str, int, int], list[tuple[float, float, int, int]]] = {}
        for start in range(0, pictures, BATCH):
            numbers = range(start, min(start + BATCH, pictures))
            examples = [self.corpus.picture(split, number, 0) for number in numbers]
            pixels = pixels_of(examples, self.grounded.encoder.image_size)
            packed = self.packer.pack([example.turns for example in examples])
            features = self.grounded.features(pixels).float()
            for count in tokens:
                for name, shrink in MERGINGS.items():
                    merged = shrink(self.grounded, pixels, features, count)
                    for quality in qualities:
                        sizes, decoded = coded(merged, self.codec, quality)
                        losses, exact = answers_of(self.grounded, decoded, packed)
                        rows = columns.setdefault((name, count, quality), [])
                        for size, loss, hits, example in zip(sizes, losses, exact, examples, strict=True):
                            asked = len(example.turns)
                            rows.append((size, loss, asked, int(hits[:asked].sum())))
        for key, rows in columns.items():
            yield MergingResult(*key, *np.array(rows, dtype=np.float64).T)


def report(results: Sequence[MergingResult], title: str) -> tuple[list[Table], dict[str, Any]]:
    """Tables at equal tokens and at equal bytes, each with the gain over density peaks; their figures."""
    by_tokens, mergings = _equal_tokens(results, title)
    by_bytes, equal_bytes = _equal_bytes(results, title)
    return [by_tokens, by_bytes], {"mergings": mergings, "equal_bytes": equal_bytes}


def _equal_tokens(results: Sequence[MergingResult], title: str) -> tuple[Table, list[dict[str, Any]]]:
    base = {(r.tokens, r.quality): r for r in results if r.merging == REFERENCE}
    found, cells = [], []
    for result in results:
        gain = result.gain(base[result.tokens, result.quality])
        nats = float(result.cross_entropy.sum() / result.questions.sum())
        size = float(result.bytes.mean())
        gained = "" if result.merging == REFERENCE else f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        figures = (str(result.quality), f"{size:.0f}", f"{nats:.3f}", f"{result.share:.1%}", gained)
        cells.append((str(result.tokens), result.merging, *figures))
        found.append(
            {"merging": result.merging, "tokens": result.tokens, "quality": result.quality, "bytes": size}
            | {"nats": nats, "right": result.share, "gain": [gain.low, gain.high]}
        )
    columns = ("quality", "bytes", "nats a question", "right", "gain, 95 %")
    return table(title, ["tokens", "merging"], columns, cells), found


def _equal_bytes(results: Sequence[MergingResult], title: str) -> tuple[Table, list[dict[str, Any]]]:
    """Shares right at sizes that the reference's own numbers of tokens take, read off each one's front."""
    by_merging = {name: [r for r in results if r.merging == name] for name in MERGINGS}
    sizes = sorted({round(float(r.bytes.mean())) for r in by_merging[REFERENCE]})
    budgets = sorted({sizes[round(place * (len(sizes) - 1))] for place in (0, 0.25, 0.5, 0.75, 1)})
    found, cells = [], []
    for budget in budgets:
        base = _shares(by_merging[REFERENCE], budget)
        for name, points in by_merging.items():
            shares = _shares(points, budget)
            if np.isnan(shares[0]) or np.isnan(base[0]):
                continue
            gain = Estimate.of(shares - base)
            gained = "" if name == REFERENCE else f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
            cells.append((str(budget), name, f"{shares[0]:.1%}", gained))
            found.append(
                {"merging": name, "bytes": budget, "right": float(shares[0]), "gain": [gain.low, gain.high]}
            )
    return table(f"{title}: at equal bytes", ["bytes", "merging"], ("right", "gain, 95 %"), cells), found


def _shares(points: Sequence[MergingResult], budget: float) -> NDArray[np.float64]:
    """The share right for `budget` bytes, of all and of each resample; NaN where nothing is so small."""
    shares = []
    for weights in resamples(len(points[0].right), DRAWS):
        sizes = np.array([weights @ point.bytes for point in points]) / weights.sum()
        right = np.array([weights @ point.right / (weights @ point.questions) for point in points])
        try:
            shares.append(accuracy_at(front(Curve(sizes, right)), budget))
        except NotComputable:
            shares.append(math.nan)
    return np.array(shares)
