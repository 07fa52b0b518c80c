"""How well a model answers the benchmark: scenes in, an accuracy table out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.scoring import Scored, held_out_table, mme_score, score, table
from eval.scenes.world import make_scene

if TYPE_CHECKING:
    from tofc import Answer, Device, Edge

SHORT_ANSWER, DESCRIPTION = 12, 128  # new tokens at most


class Answerer(Protocol):
    """Anything that answers questions about a picture."""

    def answer(self, image: Image.Image, prompts: Sequence[str], max_new_tokens: Sequence[int]) -> list[str]:
        """One answer for each prompt, of at most as many new tokens as stand at the same place."""


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

    def answer(self, image: Image.Image, prompts: Sequence[str], max_new_tokens: Sequence[int]) -> list[str]:
        """One answer for each prompt; questions of equal length limit are answered in one batch."""
        ask = self._see(image)
        answers = [""] * len(prompts)
        for limit in sorted(set(max_new_tokens)):
            places = [place for place, most in enumerate(max_new_tokens) if most == limit]
            for place, given in zip(places, ask([prompts[place] for place in places], limit), strict=True):
                answers[place] = given.text
        return answers

    def _see(self, image: Image.Image) -> Callable[[list[str], int], list[Answer]]:
        """The picture, seen once: a function of questions and the most new tokens for each answer."""
        if self.quality is None:
            features = self.device.features(image, tokens=self.tokens)
            return lambda asked, limit: self.edge.answer_features(features, asked, max_new_tokens=limit)
        packet = self.device.encode(image, quality=self.quality, tokens=self.tokens)
        self.sizes.append(len(bytes(packet)))
        return lambda asked, limit: self.edge.answer_many(
            [(packet, question) for question in asked], max_new_tokens=limit
        )


def answer_scenes(answerer: Answerer, split: str, scenes: int) -> Iterator[list[Scored]]:
    """Asks all benchmark questions of scenes 0 to `scenes` - 1; yields the scored answers scene by scene."""
    for index in range(scenes):
        scene, pixels, _ = make_scene(split, index)
        questions = benchmark_questions(scene)
        limits = [DESCRIPTION if question.form == "describe" else SHORT_ANSWER for question in questions]
        prompts = [question.prompt for question in questions]
        answers = answerer.answer(Image.fromarray(np.ascontiguousarray(pixels)), prompts, limits)
        yield [score(scene, question, given) for question, given in zip(questions, answers, strict=True)]


def summary(scored: Sequence[Scored], heldout: Sequence[Scored] = ()) -> dict[str, Any]:
    """The table in plain numbers: ``rows``, MME scores by category (0..200), held-out differences."""
    by_category = {
        category: mme_score([one for one in scored if one.question.category == category])
        for category in CATEGORIES
        if any(one.question.category == category and one.question.form == "yes_no" for one in scored)
    }
    return {
        "rows": [{"name": row.name, **asdict(row.rate)} for row in table(scored)],
        "mme": by_category,
        "held_out": [
            {"form": form, "seen": asdict(seen), "held_out": asdict(unseen), "difference": difference}
            for form, seen, unseen, difference in held_out_table(scored, heldout)
        ],
    }
