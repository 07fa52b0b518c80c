"""Questions of any source, a training corpus or the data of an evaluation, as calibration asks them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from tofc.edge import Edge
from tofc.familial.calibrate import CalibrationQuestion
from tofc.training.data import corpus_class, load_corpus

Questions = Iterator[tuple[Image.Image, Sequence[CalibrationQuestion]]]


def questions_of(source: str, options: Mapping[str, Any], edge: Edge, pictures: int) -> Questions:
    """The first validation pictures of the corpus that `source` names as "module:class", or the first of an
    evaluation's data (`eval.rate.data`), each with its questions.

    A corpus that takes a `size` gets the tower's unless `options` say another. ConfigError where there is no
    such source, or it takes other options.
    """
    vision: Any = edge.model.config.vision_config  # typed by transformers as possibly absent
    sized = "size" in inspect.signature(corpus_class(source)).parameters
    data = load_corpus(source, **{**({"size": vision.image_size} if sized else {}), **options})
    return _of_corpus(data, edge, pictures) if hasattr(data, "picture") else _of_data(data, pictures)


def _of_corpus(corpus: Any, edge: Edge, pictures: int) -> Questions:
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


def _of_data(data: Any, pictures: int) -> Questions:
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
    return _plain(text) == _plain(wanted)


def _whole(score: Callable[[str], tuple[int, int]], text: str) -> bool:
    right, of = score(text)
    return right == of


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()
