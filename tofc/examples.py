"""Pictures to try things on, with questions that fit them: photographs of libraries, and drawn streets.

Photographs are no part of this package: scikit-image and scikit-learn bring them, where the extra `demo` is
installed. All that they ship of everyday things are here, whatever a model makes of them; no bundled model
has been trained on one. The streets are for `scenes-tiny`, which knows nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tofc.config import ASSETS
from tofc.errors import UserError

PHOTOGRAPH, STREET = "cat.png", "street.jpg"
EXAMPLES = (PHOTOGRAPH, STREET)
DRAWN_FOR = "scenes-tiny"
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class ExamplePicture:
    """A picture: the file `path` inside an installed `package`, what it shows, and what to ask about it.

    `known` are questions with their true answers, which the demo asks; `open` are more.
    """

    title: str
    package: str
    path: str
    known: Mapping[str, str]
    open: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.path).name

    @property
    def questions(self) -> tuple[str, ...]:
        """All that is asked about it."""
        return (*self.known, *self.open)

    def find(self) -> Path | None:
        """The file; None where its package is not installed or ships it no more."""
        return shipped(self.package, self.path)


SCENES = tuple(
    ExamplePicture(title, "tofc", f"ui/static/examples/{name}", {}, questions)
    for title, name, questions in (
        (
            "A purple bus and an orange sign",
            "scene-177.webp",
            (
                "Which is bigger, the purple bus or the person in green?",
                "What is written on the sign?",
                "Is the sign on the left?",
                "How many cars are there?",
                "Describe the picture.",
            ),
        ),
        (
            "A white truck and two people",
            "scene-86.webp",
            (
                "What is the colour of the truck?",
                "Do you see a person in black?",
                "What is written on the sign?",
                "How many people are there?",
                "What is in this picture?",
            ),
        ),
        (
            "A blue bus and a bin",
            "scene-126.webp",
            (
                "What colour is the bus?",
                "Are there exactly three buses in the picture?",
                "Is the bin closer than the sign?",
                "How many hydrants do you see?",
                "What is in this picture?",
            ),
        ),
    )
)
PHOTOGRAPHS = (
    ExamplePicture(
        "A cat",
        "skimage",
        "data/chelsea.png",
        {"Is there a cat in the picture?": "Yes", "What animal is this?": "cat", "Do you see a bus?": "No"},
        ("How many cats are there?", "What is in this picture?"),
    ),
    ExamplePicture(
        "A motorcycle in a garage",
        "skimage",
        "data/motorcycle_left.png",
        {
            "What is this?": "motorcycle",
            "Is there a dog in the picture?": "No",
            "How many motorcycles are there?": "1",
        },
        ("What is in this picture?",),
    ),
    ExamplePicture(
        "An astronaut",
        "skimage",
        "data/astronaut.png",
        {
            "Can you see a person?": "Yes",
            "Is there a cow in the picture?": "No",
            "How many people are there?": "1",
        },
        ("What is in this picture?",),
    ),
    ExamplePicture(
        "A cup of coffee",
        "skimage",
        "data/coffee.png",
        {"Is there a cup in the picture?": "Yes", "Is there a train?": "No"},
        ("Is there a spoon?", "What is on the table?"),
    ),
    ExamplePicture(
        "A palace in China",
        "sklearn",
        "datasets/images/china.jpg",
        {"Is there a bus in the picture?": "No", "Is this indoors or outdoors?": "outdoors"},
        ("Are there any people?", "What is in this picture?"),
    ),
    ExamplePicture(
        "A flower",
        "sklearn",
        "datasets/images/flower.jpg",
        {"Is there a car in the picture?": "No", "Can you see a person?": "No"},
        ("What is in this picture?",),
    ),
)
# What can be asked about any picture: of drawn streets, and of all others.
QUESTIONS: Mapping[bool, tuple[str, ...]] = {
    True: ("What is in this picture?", "How many cars are there?", "Is there a bus in the picture?"),
    False: (
        "What is in this picture?",
        "Is there a person?",
        "How many people are there?",
        "Is there an animal in the picture?",
    ),
}


def examples_for(model: str) -> dict[str, tuple[ExamplePicture, Path]]:
    """The examples of a model, a name or a folder, that are there, by the names of their files."""
    chosen = SCENES if _is_drawn(model) else PHOTOGRAPHS
    return {example.name: (example, file) for example in chosen if (file := example.find()) is not None}


def questions_for(model: str) -> tuple[str, ...]:
    """What to ask about a picture of which nothing is known."""
    return QUESTIONS[_is_drawn(model)]


def _is_drawn(model: str) -> bool:
    return Path(model).name == DRAWN_FOR


def shipped(package: str, path: str) -> Path | None:
    """A file inside an installed package; None where that is not installed or ships it no more.

    The package is looked up and not imported: importing scikit-learn takes longer than an answer.
    """
    spec = find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((file for folder in folders if (file := Path(folder, path)).is_file()), None)


def example_bytes(name: str) -> bytes:
    """The file of one of `EXAMPLES`.

    Raises `UserError` for another name, and for the photograph where scikit-image is not installed.
    """
    if name == STREET:
        return (ASSETS / STREET).read_bytes()  # drawn by eval.scenes: test scene 511
    if name != PHOTOGRAPH:
        raise UserError(f"there is no example {name!r}; choose from {', '.join(EXAMPLES)}")
    photograph = PHOTOGRAPHS[0].find()
    if photograph is None:
        raise UserError(
            f"{PHOTOGRAPH} comes with scikit-image: pip install 'tofc[demo]'; or take any picture of yours, "
            f"or {STREET}, a drawing, for --model scenes-tiny"
        )
    return photograph.read_bytes()
