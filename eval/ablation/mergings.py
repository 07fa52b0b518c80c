"""`python -m eval.ablation.mergings CHECKPOINT`: ways of merging before one model and codec as they are.

Density peaks as in the paper, one peak in each of K equal blocks, averages over these blocks (`merging.way`),
and random tokens: bytes, cross-entropy and answers right at some numbers of tokens. What wins is worth
training for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from entropy import FeatureCodec
from eval.ablation.measure import answers_of, coded
from eval.ablation.variants import random_tokens
from tofc.config import MergingConfig, resolve
from tofc.errors import UserError
from tofc.model import load_codec
from tofc.training.data import Corpus, load_corpus
from tofc.training.grounded import GroundedModel
from tofc.training.packing import Packer
from tofc.training.task import Merge, merge_as
from tofc.training.train import read_base

MERGINGS: dict[str, Merge] = {
    "density peaks": merge_as(MergingConfig()),
    "one peak a block": merge_as(MergingConfig(way="spread")),
    "averages of blocks": merge_as(MergingConfig(way="blocks")),
    "random tokens": random_tokens,
}
REFERENCE = "density peaks"
RESAMPLES = 2000
BATCH = 16


@dataclass(frozen=True)
class Point:
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

    def gain(self, other: Point, seed: int = 0) -> tuple[float, float]:
        """95 % bootstrap interval over pictures of how much larger the share is than another's."""
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(self.right), (RESAMPLES, len(self.right)))
        gains = (self.right - other.right)[drawn].sum(1) / self.questions[drawn].sum(1)
        low, high = np.percentile(gains, [2.5, 97.5])
        return float(low), float(high)


class Bench:
    """A checkpoint's base model and codec, and pictures of a corpus; UserError for what cannot be read."""

    def __init__(self, checkpoint: str, source: str, options: dict[str, Any]) -> None:
        found = resolve(checkpoint)
        self.codec: FeatureCodec = load_codec(found)
        model, processor = read_base(found.base, torch.device("cpu"), "fp32")
        self.grounded = GroundedModel(model).eval()
        template: Any = processor.chat_template  # typed by transformers as possibly several
        tokenizer: Any = processor.tokenizer
        self.packer = Packer(tokenizer, processor.image_token, template=template)
        self.corpus: Corpus = load_corpus(source, **options)

    @torch.no_grad()
    def points(self, split: str, pictures: int, tokens: Sequence[int], quality: int) -> Iterator[Point]:
        """Every merging to every number of tokens."""
        columns: dict[tuple[str, int], list[tuple[float, float, int, int]]] = {}
        for start in range(0, pictures, BATCH):
            numbers = range(start, min(start + BATCH, pictures))
            examples = [self.corpus.picture(split, number, 0) for number in numbers]
            pixels = torch.from_numpy(np.stack([e.pixels for e in examples if e.pixels is not None]))
            packed = self.packer.pack([example.turns for example in examples])
            features = self.grounded.tower(pixels).float()
            for count in tokens:
                for name, merge in MERGINGS.items():
                    sizes, decoded = coded(merge(features, count), self.codec, quality)
                    losses, exact = answers_of(self.grounded, decoded, packed)
                    rows = columns.setdefault((name, count), [])
                    for size, loss, hits, example in zip(sizes, losses, exact, examples, strict=True):
                        asked = len(example.turns)
                        rows.append((size, loss, asked, int(hits[:asked].sum())))
        for (name, count), rows in columns.items():
            yield Point(name, count, *np.array(rows, dtype=np.float64).T)


def main() -> int:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m eval.ablation.mergings", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="scenes-tiny", help="a name or a folder")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[9, 16, 25, 36, 64], help="numbers of tokens"
    )
    parser.add_argument("--quality", type=int, default=5, help="of the codec, 1 to 8")
    parser.add_argument("--split", default="validation", help="of the scenes")
    parser.add_argument("--pictures", type=int, default=192)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    scenes = {"size": 224, "patch": 16, "questions": 6, "describe_share": 0.2}
    try:
        bench = Bench(arguments.checkpoint, "eval.scenes.corpus:SceneCorpus", scenes)
        with console.status("merging, coding and answering"):
            points = list(
                bench.points(arguments.split, arguments.pictures, arguments.tokens, arguments.quality)
            )
    except UserError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    report(points, f"{arguments.checkpoint}, quality {arguments.quality}, {arguments.pictures} pictures")
    return 0


def report(points: Sequence[Point], title: str) -> None:
    """The table, with intervals of the gain over density peaks to as many tokens, and the JSON."""
    table = Table("tokens", "merging", title=title)
    for name in ("bytes", "nats a question", "right", "gain, 95 %"):
        table.add_column(name, justify="right")
    base = {point.tokens: point for point in points if point.merging == REFERENCE}
    told = []
    for point in points:
        low, high = point.gain(base[point.tokens])
        nats = float(point.cross_entropy.sum() / point.questions.sum())
        size = float(point.bytes.mean())
        gain = "" if point.merging == REFERENCE else f"{100 * low:+.1f} to {100 * high:+.1f}"
        table.add_row(
            str(point.tokens), point.merging, f"{size:.0f}", f"{nats:.3f}", f"{point.share:.1%}", gain
        )
        told.append(
            {"merging": point.merging, "tokens": point.tokens, "bytes": size, "nats": nats}
            | {"right": point.share, "gain": [low, high]}
        )
    Console().print(table)
    print(json.dumps({"mergings": told}))


if __name__ == "__main__":
    sys.exit(main())
