"""How well a model answers about photographs, beside what it answers without seeing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from eval.asking.answering import PICTURES_AT_ONCE, Answerer
from eval.asking.question import Question
from eval.asking.scoring import yes_or_no
from eval.photos.benchmark import Benchmark
from eval.photos.data import open_photo, picture_name
from eval.photos.scoring import Commonest, score

BLANK = Image.new("RGB", (224, 224), (128, 128, 128))  # what a model that sees only the question is shown


@dataclass(frozen=True)
class PhotoAnswer:
    """One answer about a photograph, and how right it is.

    `way` is how an absent class was chosen; `blind` is the model's answer to the same question about a plain
    grey picture; `commonest` says whether the commonest answer to such questions is right. Of a list, `right`
    of `of` stated classes are there, and `recalled` of `recallable` ones are stated.
    """

    picture: str
    set: str
    kind: str
    form: str
    held_out: bool
    way: str
    subject: str
    prompt: str
    truth: str
    answer: str
    said_yes: bool
    right: int
    of: int
    recalled: int
    recallable: int
    blind: str
    blind_right: int
    blind_of: int
    blind_recalled: int
    commonest: int


def answer_photos(
    answerer: Answerer, blind: Answerer, benchmark: Benchmark, limit: int, commonest: Commonest
) -> Iterator[list[PhotoAnswer]]:
    """Asks everything about the first `limit` photographs; yields the rows of each.

    `blind` answers the same questions about a grey picture.
    """
    without: dict[str, str] = {}
    for first in range(0, limit, PICTURES_AT_ONCE):
        numbers = range(first, min(first + PICTURES_AT_ONCE, limit))
        questions = [benchmark.questions(number) for number in numbers]
        images = [open_photo(benchmark.photos[number]) for number in numbers]
        answers = answerer.answer(images, questions)
        new = {q.prompt: q for some in questions for q in some if q.prompt not in without}
        if new:
            (given,) = blind.answer([BLANK], [list(new.values())])
            without |= dict(zip(new, given, strict=True))
        for number, asked, texts in zip(numbers, questions, answers, strict=True):
            yield [
                _row(benchmark, number, question, text, without[question.prompt], commonest)
                for question, text in zip(asked, texts, strict=True)
            ]


def _row(
    benchmark: Benchmark, number: int, question: Question, answer: str, blind: str, commonest: Commonest
) -> PhotoAnswer:
    view = benchmark.views[number]
    seen, unseen = score(view, question, answer), score(view, question, blind)
    constant = score(view, question, commonest.answer(question)) if question.form != "describe" else None
    return PhotoAnswer(
        picture=picture_name(view.photo),
        set=view.photo.source,
        kind=question.category,
        form=question.form,
        held_out=question.held_out,
        way=question.negatives,
        subject=question.subject,
        prompt=question.prompt,
        truth=question.answer,
        answer=answer,
        said_yes=question.form == "yes_no" and yes_or_no(answer) == "yes",
        right=seen.right,
        of=seen.of,
        recalled=seen.recalled,
        recallable=seen.recallable,
        blind=blind,
        blind_right=unseen.right,
        blind_of=unseen.of,
        blind_recalled=unseen.recalled,
        commonest=constant.right if constant is not None else 0,
    )


def known_answers(benchmark: Benchmark, people: Sequence[Question]) -> Commonest:
    """The commonest answers: of the benchmark's own kinds those of the benchmark, else those of `people`.

    Without any `people`, those of the benchmark, too: more than one could know.
    """
    asked = [q for number in range(len(benchmark.photos)) for q in benchmark.questions(number)]
    own = [q for q in asked if q.category != "people" or not people]
    return Commonest([*own, *people])
