"""What a corpus of grounded pictures offers to pretraining, and batches drawn from it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from: `source` is "module:class", `options` its keyword arguments."""

    source: str = "eval.scenes.corpus:SceneCorpus"
    options: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 1
    tokenizer_texts: int = 30_000


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `weight` scales the loss of each of the answer's tokens."""

    prompt: str
    answer: str
    category: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class GroundedPicture:
    """A picture at the tower's size with what is known about every patch of it.

    `pixels` is uint8 [3, S, S]. `labels` maps the name of a dense target to int64 [N] class ids, -100 where
    it says nothing; `regions` is float32 [N, R] with NaN where a patch belongs to no object.
    """

    pixels: np.ndarray
    labels: dict[str, np.ndarray]
    regions: np.ndarray
    turns: tuple[Turn, ...]


class GroundedCorpus(Protocol):
    """A source of grounded pictures; picture `index` of a split is the same on every call and machine."""

    label_classes: dict[str, int]
    sparse_labels: frozenset[str]  # whose class 0 says "nothing here"
    region_size: int

    def texts(self, count: int, seed: int) -> Iterator[str]:
        """Sentences for the tokenizer."""

    def picture(self, split: str, index: int, seed: int) -> GroundedPicture:
        """Picture `index` of `split`; `seed` decides which questions are asked about it."""


def load_corpus(source: str, **options: Any) -> GroundedCorpus:
    """Builds the corpus that `source` names as "module:class", with the options that the config gives it.

    Raises `ValueError` where the name has no colon or the module has no such class.
    """
    module_name, _, class_name = source.partition(":")
    if not class_name:
        raise ValueError(
            f"data.source is {source!r}: write 'module:class', e.g. 'eval.scenes.corpus:SceneCorpus'"
        )
    module = importlib.import_module(module_name)
    if not hasattr(module, class_name):
        raise ValueError(f"data.source names {class_name!r}, which {module_name} does not define")
    corpus: GroundedCorpus = getattr(module, class_name)(**options)
    return corpus


class _Pictures(Dataset[GroundedPicture]):
    def __init__(self, corpus: GroundedCorpus, split: str, seed: int) -> None:
        self.corpus, self.split, self.seed = corpus, split, seed

    def __getitem__(self, index: int) -> GroundedPicture:
        return self.corpus.picture(self.split, index, self.seed)


class _Batches(Sampler[list[int]]):
    def __init__(self, batches: Sequence[range]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_list(pictures: list[GroundedPicture]) -> list[GroundedPicture]:
    torch.set_num_threads(1)  # loader processes must not compete with the training threads
    return pictures


def picture_batches(
    corpus: GroundedCorpus, split: str, batches: Sequence[range], seed: int, num_workers: int
) -> DataLoader[GroundedPicture]:
    """Lists of the pictures whose numbers `batches` gives, in that order, made by `num_workers` processes."""
    return DataLoader(
        _Pictures(corpus, split, seed),
        batch_sampler=_Batches(batches),
        collate_fn=_as_list,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
    )
