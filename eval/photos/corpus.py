"""Photographs as a training corpus: pictures at the tower's size, and questions with their answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eval.asking.question import Draw, Question
from eval.baselines import through_image_codec
from eval.photos.balance import Balance, ask
from eval.photos.facts import View, patches, which_half
from eval.photos.names import COCO, class_names
from eval.photos.questions import HEIGHTS, SIDES, people_questions
from eval.photos.records import SPLITS, WHOLE, Photo, Region, folder_of, has_split, read_set, split_named
from eval.photos.wordings import carelessly, suffixed
from tofc.errors import UserError
from tofc.images import open_image
from tofc.training.data import Turn, resize

SETS = ("voc", "coco", "coco-more", "voc2012-animals", "flickr8k", "daquar", "caltech101", "imagenette")
LIST_WEIGHT = 0.4  # of each token of a list, which has several where other answers have one
SIDES_WEIGHT = (
    4.0  # of left or right, top or bottom: seldom asked, since they need a single thing off the middle
)
CODED_SCALES = (0.08, 0.125, 0.1875, 0.25, 0.5)  # of photographs some 500 pixels wide
_ASPECT = 1.25  # most that a crop's shape differs from the picture's


@dataclass(frozen=True)
class Photograph:
    """A picture at the tower's size, uint8 [3, S, S], with what is asked about it.

    `labels` are int64 [N] by the names of `PhotoCorpus.patch_words`: of each patch the place of its word
    there, and -100 where nobody knows or there is none.
    """

    pixels: np.ndarray
    turns: tuple[Turn, ...]
    labels: dict[str, np.ndarray]


class PhotoCorpus:
    """Photographs of one or more sets in the formats of `eval.photos.records`.

    `sets` are folders, each below `root` (else below what TOFC_PHOTOS says, else `../shared/photos`) or a
    path of its own; a number behind a name in a mapping repeats its pictures in every epoch. In training a
    picture is cropped to no less than `least_crop` of its area and mirrored half the time; answers follow.
    `coded_share` of the pictures of training have been through JPEG or WebP, at a drawn quality and size:
    what a model sees that lives behind an image codec.
    """

    def __init__(
        self,
        size: int = 224,
        questions: int = 12,
        sets: Sequence[str] | Mapping[str, int] = SETS,
        root: str | None = None,
        least_crop: float = 0.4,
        flip: bool = True,
        patch: int = 16,
        coded_share: float = 0.0,
    ) -> None:
        if not 0 < least_crop <= 1:
            raise UserError(f"least_crop is {least_crop}; give a share of the picture, above 0 up to 1")
        self.size, self.questions, self.least_crop, self.flip = size, questions, least_crop, flip
        self.patch, self.coded_share = patch, coded_share
        self.repeats = dict(sets) if isinstance(sets, Mapping) else dict.fromkeys(sets, 1)
        self.root = root
        self._photos: dict[str, tuple[Photo, ...]] = {}
        self._balances: dict[frozenset[str], Balance] = {}

    patch_words: ClassVar = {"kind": ("nothing", *COCO), "side": SIDES, "height": HEIGHTS}
    sparse_labels: ClassVar = frozenset({"kind"})  # whose first word is that for nothing

    def photos(self, split: str) -> tuple[Photo, ...]:
        """The photographs of an epoch of `split` of which something can be asked, in a fixed mixed order.

        A set without that split gives none.

        Raises `UserError` for an unknown split, and where no set has it.
        """
        split = split_named(split)
        if split not in self._photos:
            photos: list[Photo] = []
            for name, repeat in self.repeats.items():
                folder = folder_of(name, self.root)
                if split == "train" or has_split(folder, split):
                    askable = [p for p in read_set(folder, split) if p.pairs or View(p).asked_present]
                    photos += askable * repeat
            if not photos:
                raise UserError(f"none of the sets {', '.join(self.repeats)} has a split {split!r}")
            order = np.random.default_rng(len(photos)).permutation(len(photos))
            self._photos[split] = tuple(photos[place] for place in order)
        return self._photos[split]

    def num_pictures(self, split: str) -> int:
        """Photographs in an epoch of `split`."""
        return len(self.photos(split))

    def picture(self, split: str, index: int, seed: int) -> Photograph:
        """Photograph `index` of `split`, in training cropped and mirrored; drawn by (seed, split, index)."""
        photos = self.photos(split)
        photo = photos[index % len(photos)]
        rng = np.random.default_rng([seed, SPLITS.index(split_named(split)), index])
        crop, flip = self.augmentation(rng) if split == "train" else (WHOLE, False)
        turns = self.turns(photo, rng, self.questions, crop, flip)
        if not turns:  # nothing sure is left in the crop
            crop = WHOLE
            turns = self.turns(photo, rng, self.questions, crop, flip)
        kind, regions = patches(View(photo, crop, flip), self.size // self.patch)
        side, height = (which_half(regions[:, axis]) for axis in (0, 1))
        labels = {"kind": kind, "side": side, "height": height}
        is_coded = split == "train" and self.coded_share and rng.random() < self.coded_share
        return Photograph(load(photo, self.size, crop, flip, rng if is_coded else None), turns, labels)

    def augmentation(self, rng: np.random.Generator) -> tuple[Region, bool]:
        """A random crop, in shares of the picture, and whether to mirror it."""
        if rng.random() < 0.3:
            crop = WHOLE
        else:
            area, aspect = rng.uniform(self.least_crop, 1), np.exp(rng.uniform(-1, 1) * np.log(_ASPECT))
            width, height = min(1.0, (area * aspect) ** 0.5), min(1.0, (area / aspect) ** 0.5)
            x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            crop = (float(x), float(y), float(x + width), float(y + height))
        return crop, self.flip and bool(rng.random() < 0.5)

    def turns(
        self,
        photo: Photo,
        rng: np.random.Generator,
        count: int,
        crop: Region | None = None,
        flip: bool = False,
    ) -> tuple[Turn, ...]:
        """Up to `count` questions about the part of a photograph within `crop`, mirrored if `flip`.

        Needs no pixels: `crop` is (x0, y0, x1, y1) in shares of the picture. Only wordings of training are
        used. A crop in which nothing is sure gives fewer questions or none.
        """
        view, draw = View(photo, crop, flip), Draw(rng)
        asked = people_questions(view, draw, count) if photo.pairs else []
        if photo.labelled:
            asked += ask(view, self._balance(photo.labelled), draw, count - len(asked))
        return tuple(_turn(question, draw) for question in asked)

    def texts(self, count: int, seed: int) -> Iterator[str]:
        """At least `count` prompts and answers of training pictures, every name of a class among them."""
        yield from class_names()
        rng = np.random.default_rng([seed, 1])
        photos, given, index = self.photos("train"), 0, 0
        while given < count:
            for turn in self.turns(photos[index % len(photos)], rng, self.questions):
                yield turn.prompt
                yield turn.answer
                given += 2
            index += 1

    def names(self, least: int = 8) -> tuple[str, ...]:
        """Class names, their plurals, and answers that occur at least `least` times in training."""
        photos = self.photos("train")
        answers = Counter(answer for photo in photos for _, answer in photo.pairs if "," not in answer)
        answers.update(name for photo in photos for name in {thing.name for thing in photo.things})
        frequent = (answer for answer, times in answers.most_common() if times >= least)
        return tuple(dict.fromkeys([*class_names(), *frequent]))

    def _balance(self, labelled: frozenset[str]) -> Balance:
        if not self._balances:
            spaces: dict[frozenset[str], list[View]] = defaultdict(list)
            for photo in self.photos("train"):
                if photo.labelled:
                    spaces[photo.labelled].append(View(photo))
            self._balances = {space: Balance.of(views) for space, views in spaces.items()}
        if labelled not in self._balances:  # a set that has no training pictures
            views = [View(p) for photos in self._photos.values() for p in photos if p.labelled == labelled]
            self._balances[labelled] = Balance.of(views)
        return self._balances[labelled]


def load(
    photo: Photo,
    size: int,
    crop: Region = WHOLE,
    flip: bool = False,
    coded: np.random.Generator | None = None,
) -> np.ndarray:
    """The part of a photograph within `crop` at the tower's size, mirrored if `flip`: uint8 [3, size, size].

    With `coded` the photograph went through an image codec that this draws. Raises `UserError` for a file
    that is missing or no picture.
    """
    image = np.array(open_image(photo.file))  # [H, W, 3]
    if coded is not None:
        image = through_image_codec(image, coded, CODED_SCALES)
    height, width = image.shape[:2]
    x0, x1 = (round(edge * width) for edge in (crop[0], crop[2]))
    y0, y1 = (round(edge * height) for edge in (crop[1], crop[3]))
    part = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return resize(np.ascontiguousarray(part[:, ::-1] if flip else part), size)


def _turn(question: Question, draw: Draw) -> Turn:
    prompt = question.prompt
    if question.category != "people" and question.form != "choice":
        prompt = carelessly(prompt, draw)
    if question.form in ("yes_no", "choice") or (question.form == "free" and " " not in question.answer):
        prompt = suffixed(prompt, question.form, draw)
    weights = {"describe": LIST_WEIGHT, "left/right": SIDES_WEIGHT, "top/bottom": SIDES_WEIGHT}
    weight = weights.get(question.form, weights.get(question.category, 1.0))
    return Turn(prompt, question.answer, f"{question.form}/{question.category}", weight)
