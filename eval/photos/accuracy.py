"""How well a model answers about photographs, beside what it answers without seeing them; as a table too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from eval.asking.answering import PICTURES_AT_ONCE, Answerer
from eval.asking.question import Question, yes_or_no
from eval.lab.intervals import Estimate, resamples
from eval.lab.terminal import FEW_PICTURES, interval, percent, remark_of_few, table
from eval.photos.benchmark import KINDS, WAYS, Benchmark
from eval.photos.data import Commonest, open_photo, picture_name, score

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


Array = NDArray[np.float64]
LABELS = {
    "choice": "choice of four", "bigger": "which is bigger", "main": "what is this",
    "list": "list, precision", "people": "people's own",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line: of `questions` about `pictures`, what share is right with its interval, and what is right
    without a picture.

    `held_out` is the share in wordings that training never used and `difference` to the trained ones, both
    over the same questions; `f1` is that of yes, `yes` the share of answers that say it. None where there is
    no such thing.
    """

    name: str
    questions: int
    pictures: int
    accuracy: Estimate
    blind: float
    commonest: float | None
    held_out: Estimate | None = None
    difference: Estimate | None = None
    f1: Estimate | None = None
    yes: float | None = None


def summarise(rows: Sequence[PhotoAnswer]) -> list[Line]:
    """The lines of all kinds that were asked; every interval is over the same resamples of the pictures."""
    places = {name: place for place, name in enumerate(sorted({row.picture for row in rows}))}
    weights = resamples(len(places))  # [1 + R, P]

    def line(name: str, chosen: Iterable[PhotoAnswer], recall: bool = False) -> list[Line]:
        some = list(chosen)
        return [_line(name, some, places, weights, recall)] if some else []

    existence = [row for row in rows if row.kind == "existence"]
    lines = line("existence", existence)
    for way in WAYS:
        lines += line(f"existence, {way}", (row for row in existence if row.way == way))
    sets = sorted({row.set for row in existence})
    for name in sets if len(sets) > 1 else []:
        lines += line(f"existence, {name}", (row for row in existence if row.set == name))
    for kind in KINDS[1:]:
        lines += line(LABELS.get(kind, kind), (row for row in rows if row.kind == kind))
    return lines + line("list, recall", (row for row in rows if row.kind == "list"), recall=True)


def _line(
    name: str, rows: Sequence[PhotoAnswer], places: Mapping[str, int], weights: Array, recall: bool
) -> Line:
    def sums(value: Callable[[PhotoAnswer], int], of: Sequence[PhotoAnswer]) -> Array:
        """The value over all pictures, then over each resample: [1 + R]."""
        by_picture = np.zeros(len(places))
        np.add.at(by_picture, [places[row.picture] for row in of], [value(row) for row in of])
        return weights @ by_picture

    def share(some: Sequence[PhotoAnswer]) -> Array:
        if recall:
            return _ratio(sums(lambda row: row.recalled, some), sums(lambda row: row.recallable, some))
        return _ratio(sums(lambda row: row.right, some), sums(lambda row: row.of, some))

    trained, other = [r for r in rows if not r.held_out], [r for r in rows if r.held_out]
    accuracy = share(trained)
    blind_of = sum(row.recallable if recall else row.blind_of for row in trained)
    line: dict[str, Any] = {
        "name": name,
        "questions": len(trained),
        "pictures": len({row.picture for row in trained}),
        "accuracy": Estimate.of(accuracy),
        "blind": sum(row.blind_recalled if recall else row.blind_right for row in trained) / max(blind_of, 1),
        "commonest": None if rows[0].form == "describe" else sum(r.commonest for r in trained) / len(trained),
    }
    if other:
        unseen = share(other)
        line |= {"held_out": Estimate.of(unseen), "difference": Estimate.of(unseen - accuracy)}
    if rows[0].form == "yes_no":
        hits = sums(lambda row: row.said_yes and row.truth == "Yes", trained)
        said = sums(lambda row: row.said_yes, trained)
        true = sums(lambda row: row.truth == "Yes", trained)
        line |= {"f1": Estimate.of(_ratio(2 * hits, said + true)), "yes": float(said[0]) / len(trained)}
    return Line(**line)


def _ratio(part: Array, whole: Array) -> Array:
    """A share of each resample, 0 where a resample has none of these questions."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines in JSON's types."""
    return [asdict(line) for line in lines]


def as_table(title: str, lines: Sequence[Line]) -> Table:
    """The lines as people read them, in percent."""
    figures = ("questions", "right", "95 % interval", "grey picture", "commonest",
               "new wordings", "difference", "F1", "says yes")  # fmt: skip
    made = table(title, ("",), figures, map(_cells, lines))
    if any(remark_of_few(line.pictures) for line in lines):
        made.caption = f"(few): about less than {FEW_PICTURES} pictures, figures may change a lot"
    return made


def _cells(line: Line) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "" if value is None else percent(value)

    difference = line.difference
    return (
        line.name,
        f"{line.questions}{' (few)' if remark_of_few(line.pictures) else ''}",
        percent(line.accuracy.value),
        interval(line.accuracy),
        percent(line.blind),
        shown(line.commonest),
        shown(line.held_out.value if line.held_out else None),
        f"{100 * difference.value:+.1f} ({interval(difference)})" if difference else "",
        shown(line.f1.value if line.f1 else None),
        shown(line.yes),
    )
