"""What a corpus offers to training, batches drawn from it, and its questions as calibration asks them."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from tofc.answer import plain_answer
from tofc.edge import Edge
from tofc.errors import ConfigError
from tofc.familial.calibrate import CalibrationQuestion

AskedImage = tuple[Image.Image, Sequence[CalibrationQuestion]]


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from: `source` is "module:class", `options` its keyword arguments."""

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 1
    tokenizer_texts: int = 30_000


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `weight` scales the loss of each of the answer's tokens.

    A turn that `continues` sees the one before it, in the same conversation; any other begins its own.
    """

    prompt: str
    answer: str
    category: str = ""
    weight: float = 1.0
    continues: bool = False


class Example(Protocol):
    """What a model learns to answer from: `pixels` is uint8 [3, S, S], or None where there is only text."""

    @property
    def pixels(self) -> np.ndarray | None:
        """The picture at the tower's size."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What is asked and answered."""


@dataclass(frozen=True)
class GroundedPicture:
    """A picture at the tower's size with what is known about every patch of it.

    `pixels` is uint8 [3, S, S]. `labels` maps the name of a dense target to int64 [N] class ids, -100 where
    it says nothing; `regions` is float32 [N, R] with NaN where a patch belongs to no object. From a teacher
    may come `maps`, float32 [N, C] by name with mean 0 and deviation 1, and `distribution`, its probabilities
    [K] for the whole; `present`, float32 [P], tells which classes are in the picture, NaN where nobody knows.
    """

    pixels: np.ndarray
    labels: dict[str, np.ndarray]
    regions: np.ndarray
    turns: tuple[Turn, ...]
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    present: np.ndarray | None = None
    distribution: np.ndarray | None = None


ExampleT = TypeVar("ExampleT", bound=Example)
ExampleT_co = TypeVar("ExampleT_co", bound=Example, covariant=True)


class Corpus(Protocol[ExampleT_co]):
    """A source of examples; number `index` of a split is the same on every call and machine."""

    def picture(self, split: str, index: int, seed: int) -> ExampleT_co:
        """Example `index` of `split`, from 0; `seed` decides whatever is drawn.

        Where a split has an end, numbers beyond it go on with its next epoch.
        """

    def num_pictures(self, split: str) -> int | None:
        """Examples in an epoch of `split`, None where there is no end."""


def load_corpus(source: str, /, **options: Any) -> Any:
    """Builds the corpus that `source` names as "module:class", with the options that the config gives it.

    ConfigError where there is no such class, or it takes other options.
    """
    kind = corpus_class(source)
    takes = inspect.signature(kind)
    try:
        takes.bind(**options)
    except TypeError as error:
        names = ", ".join(takes.parameters)
        raise ConfigError(f"data.options of {source}: {error}; it takes {names}") from error
    return kind(**options)


def corpus_class(source: str) -> type[Any]:
    """The class that "module:class" names; ConfigError where there is none."""
    module_name, _, class_name = source.partition(":")
    if not class_name:
        raise ConfigError(
            f"data.source is {source!r}: write 'module:class', e.g. 'eval.scenes.corpus:SceneCorpus'"
        )
    try:
        found: type[Any] = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"data.source is {source!r}, which is not there: {error}") from error
    return found


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [3, size, size], as transformers' processor does it (bicubic, antialiased)."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return small[0].numpy()


class _Pictures(Dataset[ExampleT]):
    def __init__(self, corpus: Corpus[ExampleT], split: str, seed: int) -> None:
        self.corpus, self.split, self.seed = corpus, split, seed

    def __getitem__(self, index: int) -> ExampleT:
        return self.corpus.picture(self.split, index, self.seed)


class _Batches(Sampler[list[int]]):
    def __init__(self, batches: Sequence[range]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _as_list(pictures: list[ExampleT]) -> list[ExampleT]:
    torch.set_num_threads(1)  # loader processes must not compete with the training threads
    return pictures


def picture_batches(
    corpus: Corpus[ExampleT], split: str, batches: Sequence[range], seed: int, num_workers: int
) -> DataLoader[ExampleT]:
    """Lists of the examples whose numbers `batches` gives, in that order, made by `num_workers` processes."""
    return DataLoader(
        _Pictures(corpus, split, seed),
        batch_sampler=_Batches(batches),
        collate_fn=_as_list,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
    )


def questions_of(source: str, options: Mapping[str, Any], edge: Edge, pictures: int) -> Iterator[AskedImage]:
    """The first validation pictures of the corpus that `source` names as "module:class", or the first of an
    evaluation's data (`eval.asking.answering`), each with its questions.

    A corpus that takes a `size` gets the tower's unless `options` say another. ConfigError where there is no
    such source, or it takes other options.
    """
    vision: Any = edge.model.config.vision_config  # typed by transformers as possibly absent
    sized = "size" in inspect.signature(corpus_class(source)).parameters
    data = load_corpus(source, **{**({"size": vision.image_size} if sized else {}), **options})
    return _of_corpus(data, edge, pictures) if hasattr(data, "picture") else _of_data(data, pictures)


def _of_corpus(corpus: Any, edge: Edge, pictures: int) -> Iterator[AskedImage]:
    """Turns that begin a conversation; right is the corpus' answer but for case and a final dot."""
    tokenizer: Any = edge.tokenizer
    for number in range(pictures):
        example = corpus.picture("validation", number, 0)
        turns = [turn for turn in example.turns if not turn.continues]
        if example.pixels is None or not turns:
            continue
        lengths = [len(tokenizer(turn.answer)["input_ids"]) + 1 for turn in turns]
        asked = [
            CalibrationQuestion(turn.prompt, length, functools.partial(_same, turn.answer))
            for turn, length in zip(turns, lengths, strict=True)
        ]
        yield Image.fromarray(example.pixels.transpose(1, 2, 0)), asked


def _of_data(data: Any, pictures: int) -> Iterator[AskedImage]:
    """Right is what the evaluation counts as wholly right."""
    for index in range(min(pictures, len(data))):
        example = data[index]
        yield (
            example.image,
            [
                CalibrationQuestion(
                    question.prompt, question.max_new_tokens, functools.partial(_whole, question.score)
                )
                for question in example.questions
            ],
        )


def _same(wanted: str, text: str) -> bool:
    return plain_answer(text) == plain_answer(wanted)


def _whole(score: Callable[[str], tuple[int, int]], text: str) -> bool:
    right, of = score(text)
    return right == of
