"""The benchmark on photographs as a data set of sweeps and of the other evaluations."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image

from eval.asking.answering import max_new_tokens
from eval.asking.question import Question
from eval.photos.benchmark import Benchmark
from eval.photos.facts import View
from eval.photos.photo import Photo
from eval.photos.scoring import score
from eval.photos.sets import benchmark_photos
from eval.rate.data import AskedPicture, ScoredQuestion
from tofc.images import open_image


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
            ScoredQuestion(
                question.form,
                question.category,
                question.prompt,
                question.answer,
                max_new_tokens(question),
                functools.partial(_score, view, question),
            )
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
