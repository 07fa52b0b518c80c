"""Pictures to begin with, and questions that fit them.

Drawn streets for `scenes-tiny`, which knows nothing else, and photographs for every other model. Photographs
are no part of this package: scikit-image and scikit-learn bring them, where the extra `demo` is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tofc.examples import shipped

DRAWN_FOR = "scenes-tiny"


@dataclass(frozen=True)
class PageExample:
    """A picture: the file `path` inside an installed `package`, what it shows, and questions about it."""

    title: str
    package: str
    path: str
    questions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's own name, by which the page asks for it."""
        return Path(self.path).name

    def find(self) -> Path | None:
        """The file; None where its package is not installed or ships it no more."""
        return shipped(self.package, self.path)


SCENES = (
    PageExample(
        "A purple bus and an orange sign",
        "tofc",
        "ui/static/examples/scene-177.webp",
        (
            "Which is bigger, the purple bus or the person in green?",
            "What is written on the sign?",
            "Is the sign on the left?",
            "How many cars are there?",
            "Describe the picture.",
        ),
    ),
    PageExample(
        "A white truck and two people",
        "tofc",
        "ui/static/examples/scene-86.webp",
        (
            "What is the colour of the truck?",
            "Do you see a person in black?",
            "What is written on the sign?",
            "How many people are there?",
            "What is in this picture?",
        ),
    ),
    PageExample(
        "A blue bus and a bin",
        "tofc",
        "ui/static/examples/scene-126.webp",
        (
            "What colour is the bus?",
            "Are there exactly three buses in the picture?",
            "Is the bin closer than the sign?",
            "How many hydrants do you see?",
            "What is in this picture?",
        ),
    ),
)
PHOTOGRAPHS = (
    PageExample(
        "A cat",
        "skimage",
        "data/chelsea.png",
        (
            "Is there a cat in the picture?",
            "What animal is this?",
            "Is there a dog?",
            "How many cats are there?",
            "What is in this picture?",
        ),
    ),
    PageExample(
        "A motorcycle in a garage",
        "skimage",
        "data/motorcycle_left.png",
        (
            "Is there a motorcycle?",
            "What is in this picture?",
            "How many motorcycles are there?",
            "Is there a horse in the picture?",
        ),
    ),
    PageExample(
        "An astronaut",
        "skimage",
        "data/astronaut.png",
        (
            "Is there a person in the picture?",
            "How many people are there?",
            "Is there a bus?",
            "What is in this picture?",
        ),
    ),
    PageExample(
        "A cup of coffee",
        "skimage",
        "data/coffee.png",
        (
            "Is there a cup in the picture?",
            "Is there a spoon?",
            "Can you see a cow?",
            "What is on the table?",
        ),
    ),
    PageExample(
        "A palace in China",
        "sklearn",
        "datasets/images/china.jpg",
        (
            "Are there any people?",
            "Is there a sofa?",
            "Is there a train in the picture?",
            "What is in this picture?",
        ),
    ),
)
# What can be asked about any picture.
QUESTIONS: Mapping[bool, tuple[str, ...]] = {
    True: ("What is in this picture?", "How many cars are there?", "Is there a bus in the picture?"),
    False: (
        "What is in this picture?",
        "Is there a person?",
        "How many people are there?",
        "Is there an animal in the picture?",
    ),
}


def examples_for(model: str) -> dict[str, tuple[PageExample, Path]]:
    """The examples of a model, a name or a folder, that are there, by the names of their files."""
    chosen = SCENES if _is_drawn(model) else PHOTOGRAPHS
    return {example.name: (example, file) for example in chosen if (file := example.find()) is not None}


def questions_for(model: str) -> tuple[str, ...]:
    """What to ask about a picture of which nothing is known."""
    return QUESTIONS[_is_drawn(model)]


def _is_drawn(model: str) -> bool:
    return Path(model).name == DRAWN_FOR
