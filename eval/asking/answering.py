"""Pictures with questions that can be scored, and a model that answers them: uncoded or through packets."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from PIL import Image

from eval.asking.question import Question
from tofc.config import QUALITIES
from tofc.errors import ConfigError, UserError

if TYPE_CHECKING:
    from tofc import Device, Edge
    from tofc.edge import Seen

SHORT_ANSWER, DESCRIPTION = 12, 128  # new tokens at most
PICTURES_AT_ONCE = 16  # answered together: they share batches


@dataclass(frozen=True)
class SweepData:
    """Where pictures and questions come from: `source` is "module:class", `options` its keyword arguments."""

    source: str = "eval.rate.scenes:ScenesData"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredQuestion:
    """One question. `score` gives (right, of) of an answer: 0 or 1 of 1, but more where facts are counted."""

    form: str
    category: str
    prompt: str
    truth: str
    max_new_tokens: int
    score: Callable[[str], tuple[int, int]]

    @classmethod
    def of(cls, asked: Question, score: Callable[[str], tuple[int, int]]) -> ScoredQuestion:
        """A question of the scenes or photographs, with its most new tokens."""
        most = max_new_tokens(asked)
        return cls(asked.form, asked.category, asked.prompt, asked.answer, most, score)


@dataclass(frozen=True)
class AskedPicture:
    """One picture, by a name that finds it again, with what is asked about it."""

    name: str
    image: Image.Image
    questions: tuple[ScoredQuestion, ...]


class Data(Protocol):
    """A data set; example `index` is the same on every call and machine."""

    name: str

    def __len__(self) -> int:
        """Pictures at most."""

    def __getitem__(self, index: int) -> AskedPicture:
        """Example `index`, from 0."""


def load_data(config: SweepData) -> Data:
    """Builds the data set that a config names; ConfigError where there is none of that name."""
    module_name, _, class_name = config.source.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)(**config.options)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"data.source {config.source!r} with options {config.options} gives no data set ({error}); "
            "write 'module:class', e.g. 'eval.rate.scenes:ScenesData'"
        ) from error


class Answerer(Protocol):
    """Anything that answers questions about pictures."""

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]]
    ) -> list[list[str]]:
        """An answer to each of the questions about each of the pictures."""


@dataclass
class PipelineAnswerer:
    """Device and edge as an `Answerer`; `quality` None sends the features uncoded.

    `tokens` is a number, ``"all"``, or None for the checkpoint's. `sizes` collects the bytes of each
    picture's packet.
    """

    device: Device
    edge: Edge
    tokens: int | str | None = None
    quality: int | None = None
    sizes: list[int] = field(default_factory=list)

    @classmethod
    def from_pretrained(
        cls, checkpoint: str, tokens: int | str | None, quality: int | None
    ) -> PipelineAnswerer:
        """Loads both sides of a checkpoint: a bundled name, a folder or a hub id."""
        from tofc import Device, Edge

        return cls(Device.from_pretrained(checkpoint), Edge.from_pretrained(checkpoint), tokens, quality)

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Question]]
    ) -> list[list[str]]:
        """An answer to each of the questions about each of the pictures, which are seen once."""
        seen = [self._see(image) for image in images]
        asked = [[(question.prompt, max_new_tokens(question)) for question in some] for some in questions]
        return answer_all(self.edge, seen, asked)

    def _see(self, image: Image.Image) -> Seen:
        if self.quality is None:
            return self.device.features(image, tokens=self.tokens)
        packet = self.device.encode(image, quality=self.quality, tokens=self.tokens)
        self.sizes.append(len(bytes(packet)))
        return packet


def max_new_tokens(question: Question) -> int:
    """The most that an answer to this question may take."""
    return DESCRIPTION if question.form == "describe" else SHORT_ANSWER


def answer_all(
    edge: Edge,
    seen: Sequence[Seen],
    questions: Sequence[Sequence[tuple[str, int]]],
    batch_size: int = 16,
    exit: str | None = None,
) -> list[list[str]]:
    """Answers about many pictures; a question is a prompt and the most new tokens of its answer.

    `exit` names the member of the family that answers, the edge's own if left out.
    """
    answers = [[""] * len(some) for some in questions]
    for limit in sorted({most for some in questions for _, most in some}):
        places = [(p, q) for p, some in enumerate(questions) for q, (_, m) in enumerate(some) if m == limit]
        requests = [(seen[p], questions[p][q][0]) for p, q in places]
        given = edge.answer_many(requests, exit=exit, batch_size=batch_size, max_new_tokens=limit)
        for (p, q), answer in zip(places, given, strict=True):
            answers[p][q] = answer.text
    return answers


ModelOption = Annotated[
    str, typer.Option("--model", "--checkpoint", metavar="NAME", help="Bundled name, folder or hub id.")
]
TokensOption = Annotated[str, typer.Option("--tokens", help="A number to merge to, or all.")]
QualityOption = Annotated[str, typer.Option("--quality", help="1 to 8, or none: uncoded.")]
NumbersOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers too.")]


def answerer(model: str, tokens: str, quality: str) -> PipelineAnswerer:
    """The model that the options name; UserError for a number out of range or no such model."""
    if tokens != "all" and not (tokens.isdigit() and int(tokens) > 0):
        raise UserError(f"--tokens is {tokens!r}; give a number of at least 1, or all")
    if quality != "none" and not (quality.isdigit() and int(quality) in QUALITIES):
        raise UserError(
            f"--quality is {quality!r}; give {QUALITIES[0]} to {QUALITIES[-1]}, or none (uncoded)"
        )
    return PipelineAnswerer.from_pretrained(
        model, tokens if tokens == "all" else int(tokens), None if quality == "none" else int(quality)
    )
