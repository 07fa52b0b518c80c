"""How well a model answers the benchmark: scenes in, an accuracy table out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from eval.asking.question import Question
from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.scoring import Scored, held_out_table, mme_score, score, table
from eval.scenes.world import make_scene

if TYPE_CHECKING:
    from tofc import Device, Edge
    from tofc.edge import Seen

SHORT_ANSWER, DESCRIPTION = 12, 128  # new tokens at most
SCENES_AT_ONCE = 16  # answered together: pictures share batches


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


def answer_scenes(answerer: Answerer, split: str, scenes: int) -> Iterator[list[Scored]]:
    """Asks all benchmark questions of scenes 0 to `scenes` - 1; yields the scored answers scene by scene."""
    for first in range(0, scenes, SCENES_AT_ONCE):
        made = [make_scene(split, i)[:2] for i in range(first, min(first + SCENES_AT_ONCE, scenes))]
        questions = [benchmark_questions(scene) for scene, _ in made]
        answers = answerer.answer([Image.fromarray(pixels) for _, pixels in made], questions)
        for (scene, _), asked, given in zip(made, questions, answers, strict=True):
            yield [score(scene, question, one) for question, one in zip(asked, given, strict=True)]


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
