"""`tofc eval ablation mergings`: ways of merging before one model and codec as they are.

Density peaks as in the paper, one peak in each of K equal blocks, averages over these blocks (`merging.way`),
and random tokens: bytes, cross-entropy and answers right at some numbers of tokens. What wins is worth
training for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from entropy import FeatureCodec
from eval.ablation.measure import answers_of, coded
from eval.ablation.variants import random_tokens
from eval.lab.intervals import Estimate, resamples
from eval.lab.tables import table
from tofc.config import MergingConfig, resolve
from tofc.model import load_codec
from tofc.training.data import Corpus, load_corpus
from tofc.training.forward import Merge, VisionLanguageModel, merge_as, pixels_of, read_base
from tofc.training.packing import Packer

MERGINGS: dict[str, Merge] = {
    "density peaks": merge_as(MergingConfig()),
    "one peak a block": merge_as(MergingConfig(way="spread")),
    "averages of blocks": merge_as(MergingConfig(way="blocks")),
    "random tokens": random_tokens,
}
REFERENCE = "density peaks"
BATCH = 16


@dataclass(frozen=True)
class MergingResult:
    """One merging to so many tokens: of each picture, bytes, cross-entropy in nats, questions, right ones."""

    merging: str
    tokens: int
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
        self, split: str, pictures: int, tokens: Sequence[int], quality: int
    ) -> Iterator[MergingResult]:
        """Every merging to every number of tokens."""
        columns: dict[tuple[str, int], list[tuple[float, float, int, int]]] = {}
        for start in range(0, pictures, BATCH):
            numbers = range(start, min(start + BATCH, pictures))
            examples = [self.corpus.picture(split, number, 0) for number in numbers]
            pixels = pixels_of(examples, self.grounded.encoder.image_size)
            packed = self.packer.pack([example.turns for example in examples])
            features = self.grounded.features(pixels).float()
            for count in tokens:
                for name, merge in MERGINGS.items():
                    sizes, decoded = coded(merge(features, count), self.codec, quality)
                    losses, exact = answers_of(self.grounded, decoded, packed)
                    rows = columns.setdefault((name, count), [])
                    for size, loss, hits, example in zip(sizes, losses, exact, examples, strict=True):
                        asked = len(example.turns)
                        rows.append((size, loss, asked, int(hits[:asked].sum())))
        for (name, count), rows in columns.items():
            yield MergingResult(name, count, *np.array(rows, dtype=np.float64).T)


def report(results: Sequence[MergingResult], title: str) -> tuple[Table, dict[str, Any]]:
    """The table, with intervals of the gain over density peaks to as many tokens, and its figures."""
    base = {result.tokens: result for result in results if result.merging == REFERENCE}
    found, cells = [], []
    for result in results:
        gain = result.gain(base[result.tokens])
        nats = float(result.cross_entropy.sum() / result.questions.sum())
        size = float(result.bytes.mean())
        gained = "" if result.merging == REFERENCE else f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        figures = (f"{size:.0f}", f"{nats:.3f}", f"{result.share:.1%}", gained)
        cells.append((str(result.tokens), result.merging, *figures))
        found.append(
            {"merging": result.merging, "tokens": result.tokens, "bytes": size, "nats": nats}
            | {"right": result.share, "gain": [gain.low, gain.high]}
        )
    columns = ("bytes", "nats a question", "right", "gain, 95 %")
    return table(title, ["tokens", "merging"], columns, cells), {"mergings": found}
