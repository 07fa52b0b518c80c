"""The benchmark on photographs as a data set of evaluations, and when an answer about one is right."""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from eval.asking.answering import AskedPicture, ScoredQuestion
from eval.asking.language import NUMBER_WORDS
from eval.asking.question import Question, is_correct
from eval.photos.benchmark import Benchmark
from eval.photos.facts import View
from eval.photos.names import COCO, SYNONYMS, Namer, canonical
from eval.photos.records import Photo, benchmark_photos, canonical_spelling
from tofc.answer import plain_answer
from tofc.images import open_image

_LEADING = re.compile(r"^(?:(?:it is|there are|there is|a|an|the|on|at|to|in)\s+)+")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
_CANONICAL = {word: name for name, words in SYNONYMS.items() for word in words}


@dataclass(frozen=True)
class Score:
    """`right` of `of` (1, but for a list the classes it states); `recalled` of the `recallable` ones."""

    right: int
    of: int
    recalled: int = 0
    recallable: int = 0


def score(view: View, question: Question, given: str) -> Score:
    """The score of an answer about a photograph.

    A free answer may stand behind an article or a preposition and use a synonym; one to a person's own
    question must be the same words. Of a list, classes that are not labelled or not sure count neither way;
    one that states nothing counts as one wrong class.
    """
    if question.form == "describe":
        return _list_score(view, given)
    if question.category == "people":
        return Score(int(canonical_spelling(plain_answer(given)) == canonical_spelling(question.answer)), 1)
    if question.form == "free":
        return Score(int(_short(given) == _short(question.answer)), 1)
    return Score(int(is_correct(question, given)), 1)


def _list_score(view: View, given: str) -> Score:
    named = Namer({*COCO, *view.photo.labelled}).named(given)
    stated = (named & view.photo.labelled) - view.unsure
    there = set(view.present)
    return Score(len(stated & there), max(1, len(stated)), len(stated & there), len(there))


def _short(given: str) -> str:
    """A short answer in one form: without article, a number in digits, a class by its canonical name."""
    words = canonical(_LEADING.sub("", plain_answer(given)))
    return _DIGITS.get(words, _CANONICAL.get(words, words))


class Commonest:
    """The answer that is the most frequent one of its kind; of people's questions, for their first two words.

    What can be known without a picture and without a model. A list has none.
    """

    def __init__(self, known: Iterable[Question]) -> None:
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for question in known:
            for key in _keys(question):
                counts[key][question.answer] += 1
        self._answers = {key: found.most_common(1)[0][0] for key, found in counts.items()}

    def answer(self, question: Question) -> str:
        """The commonest answer of the narrowest kind that was seen."""
        return next((self._answers[key] for key in _keys(question) if key in self._answers), "")


def _keys(question: Question) -> list[tuple[str, ...]]:
    kind = (question.form, question.category)
    return (
        [kind + tuple(question.prompt.lower().split()[:2]), kind] if question.category == "people" else [kind]
    )


class PhotosData:
    """The questions about the photographs of a split, pictures at their own size.

    In wordings of training; with `held_out` in those kept out of it, too. Lists, which take as long as all
    else, only with `lists`.
    """

    def __init__(
        self,
        split: str = "test",
        sets: Sequence[str] = ("voc", "coco"),
        root: str | None = None,
        held_out: bool = False,
        lists: bool = False,
    ) -> None:
        photos, taken = benchmark_photos(split, sets, root)
        self.benchmark, self.held_out, self.lists = Benchmark(photos), held_out, lists
        self.name = "photographs " + ", ".join(f"{name} {of}" for name, of in taken.items())

    def __len__(self) -> int:
        return len(self.benchmark.photos)

    def __getitem__(self, index: int) -> AskedPicture:
        view = self.benchmark.views[index]
        asked = tuple(
            ScoredQuestion.of(question, functools.partial(_score, view, question))
            for question in self.benchmark.questions(index)
            if (self.held_out or not question.held_out) and (self.lists or question.form != "describe")
        )
        return AskedPicture(picture_name(view.photo), open_photo(view.photo), asked)


def picture_name(photo: Photo) -> str:
    """A photograph's set and file."""
    return f"{photo.source}/{photo.file.name}"


def open_photo(photo: Photo) -> Image.Image:
    """A photograph at its own size, as its file has it: boxes count so; UserError where it is no picture."""
    return open_image(photo.file)


def _score(view: View, question: Question, given: str) -> tuple[int, int]:
    scored = score(view, question, given)
    return scored.right, scored.of
