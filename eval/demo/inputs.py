"""What the demo looks at and asks: three rendered test scenes and the photographs that scikit-learn ships.

Nothing is chosen by how well the model does. The scenes are the first of the test split that show a vehicle,
a person and a sign; their questions come from the benchmark's own list for them. The photographs are asked
about kinds of object that the model has learned, since it knows no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from eval.asking.question import FREE_SUFFIX, YES_NO_SUFFIX
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import Scene, make_scene
from tofc.errors import UserError

SCENES = (86, 126, 177)
"""The first three of the test split for which `is_demo_scene` holds."""
VEHICLES = frozenset({"car", "bus", "truck"})


@dataclass(frozen=True)
class DemoQuestion:
    """A question and its true answer."""

    prompt: str
    truth: str


@dataclass(frozen=True)
class DemoPicture:
    """A picture with its questions; `rendered` tells whether the model was trained on such pictures."""

    name: str
    kind: str
    rendered: bool
    image: Image.Image
    questions: tuple[DemoQuestion, ...]


PHOTOGRAPH_QUESTIONS = {
    "china.jpg": (
        DemoQuestion("Is there a bus in the picture?", "No"),
        DemoQuestion("Is there a tree in the picture?", "Yes"),
        DemoQuestion("How many cars are there?", "0"),
    ),
    "flower.jpg": (
        DemoQuestion("Is there a car in the picture?", "No"),
        DemoQuestion("How many people are there?", "0"),
    ),
}


def demo_pictures() -> tuple[DemoPicture, ...]:
    """All pictures of the demo: the scenes first, then the photographs; UserError without scikit-learn."""
    return (*_scenes(), *_photographs())


def _scenes() -> Iterator[DemoPicture]:
    for number, index in enumerate(SCENES):
        scene, image, _ = make_scene("test", index)
        yield DemoPicture(
            name=f"test scene {index}",
            kind="rendered scene",
            rendered=True,
            image=Image.fromarray(image),
            questions=_scene_questions(scene, number),
        )


def is_demo_scene(scene: Scene) -> bool:
    """Tell whether a scene shows a vehicle, a person and a sign: the rule that chose `SCENES`."""
    kinds = {thing.kind for thing in scene.things}
    return bool(kinds & VEHICLES) and {"person", "sign"} <= kinds


def _scene_questions(scene: Scene, number: int) -> tuple[DemoQuestion, ...]:
    """Take the benchmark's free questions, and a yes/no question of another category for every scene."""
    questions = benchmark_questions(scene)
    free = [question for question in questions if question.form == "free"]
    pairs = [question for question in questions if question.form == "yes_no"]
    # Every pair is a Yes and a No about one fact: take the sides in turn.
    yes_no = pairs[2 * number + number % 2]
    return tuple(
        DemoQuestion(_as_people_ask(question.prompt), question.answer) for question in (*free, yes_no)
    )


def _as_people_ask(prompt: str) -> str:
    """Leave out the request for a short answer that benchmark protocols append."""
    return prompt.removesuffix(YES_NO_SUFFIX).removesuffix(FREE_SUFFIX)


def _photographs() -> Iterator[DemoPicture]:
    try:
        from sklearn.datasets import load_sample_image
    except ModuleNotFoundError:
        raise UserError(
            "scikit-learn is not installed; the demo's photographs come with it: pip install 'tofc[demo]'"
        ) from None
    for name, questions in PHOTOGRAPH_QUESTIONS.items():
        image = Image.fromarray(load_sample_image(name))
        yield DemoPicture(name, "camera photograph", False, image, questions)
