"""The pictures that requests are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eval.asking.answering import SweepData, load_data
from tofc.errors import ImageError, UserError
from tofc.images import open_image

SCENES, PHOTOGRAPHS = "scenes", "photographs"
SKLEARN = ("china.jpg", "flower.jpg")  # 640 x 427 pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what it is called; equal to itself alone.

    A request of a data set has its question and the words of its true answer; the rest are asked the same.
    """

    name: str
    image: Image.Image
    question: str | None = None
    truth: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width


def load_pictures(source: str | SweepData, limit: int) -> list[Picture]:
    """The first `limit` rendered test scenes ("scenes"), of the demo's two "photographs", of the pictures in
    a folder by name, or of a data set, each as often as it is asked about.

    Raises UserError where there is no picture, and for what is none.
    """
    if isinstance(source, SweepData):
        data = load_data(source)
        examples = [data[index] for index in range(min(limit, len(data)))]
        return [
            Picture(f"{example.name}, question {number}", example.image, asked.prompt, asked.truth)
            for example in examples
            for number, asked in enumerate(example.questions, start=1)
        ]
    if source == SCENES:
        from eval.scenes.world import make_scene

        return [Picture(f"scene {i}", Image.fromarray(make_scene("test", i)[1])) for i in range(limit)]
    if source == PHOTOGRAPHS:
        from eval.demo.measure import demo_pictures

        found = [Picture(p.name, p.image) for p in demo_pictures() if p.name in SKLEARN]
        return found[:limit]
    if not Path(source).is_dir():
        raise UserError(f"pictures is {source!r}; give {SCENES}, {PHOTOGRAPHS} or a folder of pictures")
    pictures = []
    for file in sorted(path for path in Path(source).iterdir() if path.is_file()):
        try:
            pictures.append(Picture(file.name, open_image(file)))
        except ImageError as error:
            raise UserError(f"{source} holds something else than pictures: {error}") from error
        if len(pictures) == limit:
            break
    if not pictures:
        raise UserError(f"{source} holds no picture; give a folder that does")
    return pictures
