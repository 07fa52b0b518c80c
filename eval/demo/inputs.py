"""What the demo looks at and asks: photographs that scikit-image and scikit-learn ship.

Nothing is chosen by how well the model does: all their photographs of everyday things are shown, and asked
about what is there and what is not. The model has been trained on none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from tofc.errors import UserError
from tofc.examples import shipped
from tofc.images import open_image


@dataclass(frozen=True)
class DemoQuestion:
    """A question and its true answer."""

    prompt: str
    truth: str


@dataclass(frozen=True)
class DemoPicture:
    """A picture with its questions."""

    name: str
    image: Image.Image
    questions: tuple[DemoQuestion, ...]


Asked = tuple[tuple[str, str], ...]
PHOTOGRAPHS: dict[tuple[str, str], Asked] = {
    ("skimage", "data/chelsea.png"): (
        ("Is there a cat in the picture?", "Yes"),
        ("What animal is this?", "cat"),
        ("Do you see a bus?", "No"),
    ),
    ("skimage", "data/motorcycle_left.png"): (
        ("What is this?", "motorcycle"),
        ("Is there a dog in the picture?", "No"),
        ("How many motorcycles are there?", "1"),
    ),
    ("skimage", "data/astronaut.png"): (
        ("Can you see a person?", "Yes"),
        ("Is there a cow in the picture?", "No"),
        ("How many people are there?", "1"),
    ),
    ("skimage", "data/coffee.png"): (
        ("Is there a cup in the picture?", "Yes"),
        ("Is there a train?", "No"),
    ),
    ("sklearn", "datasets/images/china.jpg"): (
        ("Is there a bus in the picture?", "No"),
        ("Is this indoors or outdoors?", "outdoors"),
    ),
    ("sklearn", "datasets/images/flower.jpg"): (
        ("Is there a car in the picture?", "No"),
        ("Can you see a person?", "No"),
    ),
}
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def demo_pictures() -> tuple[DemoPicture, ...]:
    """All pictures of the demo; UserError where a library that ships them is missing."""
    return tuple(
        DemoPicture(
            name=path.rsplit("/", 1)[-1],
            image=_photograph(module, path),
            questions=tuple(DemoQuestion(prompt, truth) for prompt, truth in asked),
        )
        for (module, path), asked in PHOTOGRAPHS.items()
    )


def _photograph(module: str, path: str) -> Image.Image:
    file = shipped(module, path)
    if file is None:
        raise UserError(
            f"{PACKAGES[module]} is not installed; photographs of the demo come with it: "
            "pip install 'tofc[demo]'"
        )
    return open_image(file)
