"""Scenes as a training corpus: pictures at the tower's size, the truth at every patch, and questions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eval.baselines import through_image_codec
from eval.scenes.layout import COLOURS, KINDS, SPLITS
from eval.scenes.questions import training_description, training_questions
from eval.scenes.world import Scene, SceneObject, make_scene
from tofc.training.data import GroundedPicture, Turn, resize

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXT_SLOTS = 4  # the longest text on a board
UNKNOWN = -100  # a target that says nothing about this patch
# Where and how large an object is, also as classes: a language model reads a class far sooner than a number.
PLACE_EDGES = {
    "column": np.linspace(0, 1, 9)[1:-1],  # of the centre, in widths
    "foot": np.linspace(0.4, 1, 9)[1:-1],  # in heights
    "height": 0.07 * 1.33 ** np.arange(7),  # steps of a third, the least that questions ask about
    "area": 0.004 * 1.8 ** np.arange(7),  # of the box, in pictures
}
CODED_SCALES = (0.25, 0.375, 0.5, 1.0)
MIN_SHARE = 0.2  # of a patch that an object must cover to own it


class SceneCorpus:
    """Grounded pictures of `eval.scenes`, each made anew from its number.

    `size` and `patch` are the tower's, in pixels; `questions` are asked of every picture and a description
    of `describe_share` of them. `coded_share` of the pictures have been through JPEG or WebP, at a drawn
    quality and size: what a model sees that lives behind an image codec.
    """

    sparse_labels = frozenset({"kind", "anchor", "glyph"})
    region_size = 5  # centre x, centre y, width, height, foot: fractions of the picture

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        questions: int = 8,
        describe_share: float = 0.3,
        coded_share: float = 0.0,
    ) -> None:
        self.size, self.side = size, size // patch
        self.coded_share = coded_share
        self.questions, self.describe_share = questions, describe_share
        slots = {f"text_{slot}": len(CHARACTERS) + 1 for slot in range(TEXT_SLOTS)}
        places = {name: len(edges) + 1 for name, edges in PLACE_EDGES.items()}
        own = {"kind": len(KINDS) + 1, "colour": len(COLOURS), "anchor": 2, "glyph": len(CHARACTERS) + 1}
        self.label_classes = {**own, **slots, **places}

    def texts(self, count: int, seed: int) -> Iterator[str]:
        """At least `count` prompts and answers of training scenes."""
        rng = np.random.default_rng([seed, 1])
        given = index = 0
        while given < count:
            scene = make_scene("train", index)[0]
            for question in [*training_questions(scene, rng, 24), training_description(scene, rng)]:
                yield question.prompt
                yield question.answer
                given += 2
            index += 1

    def picture(self, split: str, index: int, seed: int) -> GroundedPicture:
        """Scene `index` of `split`; questions drawn from (seed, split, index)."""
        scene, image, owner = make_scene(split, index)
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        asked: list[Turn] = []
        if rng.random() < self.describe_share:
            question = training_description(scene, rng)
            # A description has some forty tokens, an answer one or two.
            asked.append(Turn(question.prompt, question.answer, "describe", weight=0.25))
        asked += [
            Turn(question.prompt, question.answer, f"{question.form}/{question.category}")
            for question in training_questions(scene, rng, self.questions)
        ]
        if self.coded_share and rng.random() < self.coded_share:
            image = through_image_codec(image, rng, CODED_SCALES)
        labels, regions = self._dense(scene, owner)
        return GroundedPicture(resize(image, self.size), labels, regions, tuple(asked))

    def num_pictures(self, split: str) -> int | None:
        """None: there is always another scene."""
        return None

    def _dense(self, scene: Scene, owner: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        patch_owner = owners_of_patches(owner, self.side, len(scene.things))  # [N] 0 = background
        num_patches = self.side**2
        labels = {name: np.full(num_patches, UNKNOWN, np.int64) for name in self.label_classes}
        labels["kind"][:] = 0
        labels["anchor"][:] = 0
        labels["glyph"][:] = 0
        regions = np.full((num_patches, self.region_size), np.nan, np.float32)
        for number, thing in enumerate(scene.things, start=1):
            here = patch_owner == number
            labels["kind"][here] = KINDS.index(thing.kind) + 1
            if thing.colour is not None:
                labels["colour"][here] = COLOURS.index(thing.colour)
            text = thing.text or ""
            if text:
                for slot in range(TEXT_SLOTS):
                    character = text[slot] if slot < len(text) else None
                    labels[f"text_{slot}"][here] = 0 if character is None else CHARACTERS.index(character) + 1
                self._label_glyphs(thing, scene, labels["glyph"])
            place = regions[here] = region(thing, scene)
            seen = {"column": place[0], "foot": place[4], "height": place[3], "area": place[2] * place[3]}
            for name, edges in PLACE_EDGES.items():
                labels[name][here] = np.searchsorted(edges, seen[name])
            if here.any():
                labels["anchor"][self._anchor(here, place)] = 1
        return labels, regions

    def _label_glyphs(self, thing: SceneObject, scene: Scene, target: np.ndarray) -> None:
        """Marks every patch whose centre lies inside a character with that character."""
        centres = (np.arange(self.side) + 0.5) / self.side
        for character, (x0, y0, x1, y1) in thing.glyphs:
            columns = np.flatnonzero((centres >= x0 / scene.width) & (centres < x1 / scene.width))
            rows = np.flatnonzero((centres >= y0 / scene.height) & (centres < y1 / scene.height))
            target.reshape(self.side, self.side)[np.ix_(rows, columns)] = CHARACTERS.index(character) + 1

    def _anchor(self, here: np.ndarray, box: np.ndarray) -> int:
        """The object's own patch nearest to its centre: one a thing, so that counting is adding up."""
        mine = np.flatnonzero(here)
        rows, columns = np.divmod(mine, self.side)
        distance = ((columns + 0.5) / self.side - box[0]) ** 2 + ((rows + 0.5) / self.side - box[1]) ** 2
        return int(mine[distance.argmin()])


def owners_of_patches(owner: np.ndarray, side: int, num_things: int) -> np.ndarray:
    """Which thing (1..num_things, 0 none) owns each of side x side patches: the one that covers most."""
    height, width = owner.shape
    cells = owner.reshape(side, height // side, side, width // side).swapaxes(1, 2).reshape(side * side, -1)
    counts = np.stack([(cells == number).sum(1) for number in range(1, num_things + 1)], axis=1)
    best = counts.argmax(1) + 1
    return np.where(counts.max(1) >= MIN_SHARE * cells.shape[1], best, 0)


def region(thing: SceneObject, scene: Scene) -> np.ndarray:
    """Centre, size and foot of a thing's visible box as fractions of the picture: float32 [5]."""
    x0, y0, x1, y1 = thing.box
    scale = np.array([scene.width, scene.height, scene.width, scene.height, scene.height], np.float32)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, thing.base], np.float32) / scale
