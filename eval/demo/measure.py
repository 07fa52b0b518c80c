"""One picture through device, packet and edge, and the smallest image files that lead to the same answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import tofc
from eval.baselines import CodedFile, ImageCodec, Jpeg, WebP, lowest_qualities_keeping
from tofc.answer import plain_answer
from tofc.contents import whole_bytes
from tofc.errors import UserError
from tofc.examples import PACKAGES, PHOTOGRAPHS, ExamplePicture
from tofc.features import tile_box
from tofc.images import open_image

LINK_BITS_PER_SECOND = 100_000
"""The slow uplink that link times are computed for; nothing is sent by the demo."""

PLAIN = "JPEG, quality 90"
"""Label of the size that a picture has when nobody compresses it for a model."""


@dataclass(frozen=True)
class DemoPicture:
    """A picture, and questions about it with their true answers."""

    name: str
    image: Image.Image
    questions: Mapping[str, str]


def demo_pictures() -> tuple[DemoPicture, ...]:
    """All photographs that libraries ship, none left out; UserError where such a library is missing."""
    return tuple(DemoPicture(one.name, _open(one), one.known) for one in PHOTOGRAPHS)


def _open(example: ExamplePicture) -> Image.Image:
    file = example.find()
    if file is None:
        raise UserError(
            f"{PACKAGES[example.package]} is not installed; photographs of the demo come with it: "
            "pip install 'tofc[demo]'"
        )
    return open_image(file)


def link_seconds(num_bytes: int) -> float:
    """Compute the time that `num_bytes` take on a link of `LINK_BITS_PER_SECOND`, latency left out."""
    return 8 * num_bytes / LINK_BITS_PER_SECOND


@dataclass(frozen=True)
class QuestionResult:
    """One question about one picture.

    `baselines` maps a codec's name to its smallest file that keeps the answer, or None; `seconds` are the
    edge's stages.
    """

    prompt: str
    answer: str
    truth: str
    baselines: dict[str, CodedFile | None]
    seconds: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the answer is the true one."""
        return plain_answer(self.answer) == plain_answer(self.truth)


@dataclass(frozen=True)
class PictureResult:
    """One picture, one packet and the answers that it carried.

    `name` is unique in the demo. The cluster of every patch of the base tile is in `assignment`, int64 [rows,
    columns]; `tile` is where that tile lies on the picture: left, top, width and height in pixels, beyond the
    picture where it was padded to a square. Bytes of the packet by part are in `sections`; `baselines` holds
    by codec the smallest file that keeps all the answers at once, or None; `reference_sizes` the bytes of
    other forms of the same picture; `seconds` the device's stages.
    """

    name: str
    image: Image.Image
    assignment: np.ndarray
    tile: tuple[float, float, float, float]
    quality: int
    num_tokens: int
    sections: dict[str, int]
    questions: tuple[QuestionResult, ...]
    baselines: dict[str, CodedFile | None]
    reference_sizes: dict[str, int]
    seconds: dict[str, float]

    @property
    def num_bytes(self) -> int:
        """Bytes that travelled for this picture, whatever the number of questions."""
        return sum(self.sections.values())

    def as_json(self) -> dict[str, Any]:
        """Give everything but the pixels and the clusters as plain JSON values."""
        return {
            "name": self.name,
            "width": self.image.width,
            "height": self.image.height,
            "quality": self.quality,
            "tokens": self.num_tokens,
            "bytes": self.num_bytes,
            "sections": self.sections,
            "baselines_keeping_every_answer": _points_as_json(self.baselines),
            "reference_bytes": self.reference_sizes,
            "device_seconds": self.seconds,
            "link_seconds_computed": link_seconds(self.num_bytes),
            "link_bits_per_second": LINK_BITS_PER_SECOND,
            "questions": [
                {
                    "question": question.prompt,
                    "answer": question.answer,
                    "truth": question.truth,
                    "right": question.right,
                    "baselines": _points_as_json(question.baselines),
                    "edge_seconds": question.seconds,
                }
                for question in self.questions
            ],
        }


def _points_as_json(points: dict[str, CodedFile | None]) -> dict[str, dict[str, int] | None]:
    return {
        codec: None if point is None else {"quality": point.quality, "bytes": point.num_bytes}
        for codec, point in points.items()
    }


CODECS: tuple[ImageCodec, ...] = (WebP(), Jpeg())


def measure(
    device: tofc.Device,
    edge: tofc.Edge,
    picture: DemoPicture,
    quality: int,
    step: Callable[[], None] = lambda: None,
) -> PictureResult:
    """Encode a picture once, answer all its questions from that packet, and find the baselines' sizes.

    `step` is called `steps(picture)` times on the way, for a progress bar.
    """
    packet = device.encode(picture.image, quality=quality)
    # What travels is bytes: the edge gets nothing else.
    received = tofc.Packet.from_bytes(bytes(packet))
    answers: list[tofc.Answer] = []
    prompts = list(picture.questions)
    for prompt in prompts:
        answers.append(edge.answer(received, prompt))
        step()
    found: dict[str, list[CodedFile | None]] = {}
    for codec in CODECS:
        found[codec.name] = lowest_qualities_keeping(
            picture.image,
            codec,
            lambda decoded: _same_answers(device, edge, decoded, prompts, answers),
            len(answers) + 1,
        )
        step()
    features = device.features(picture.image)
    return PictureResult(
        name=picture.name,
        image=picture.image,
        assignment=features.cluster_map,
        tile=tile_box(picture.image.size, features.tiling),
        quality=quality,
        num_tokens=features.tokens.shape[0],
        sections=whole_bytes(edge.sections(received)),
        questions=tuple(
            QuestionResult(
                prompt=prompt,
                answer=answer.text,
                truth=truth,
                baselines={codec: points[index] for codec, points in found.items()},
                seconds=dict(answer.timing),
            )
            for index, ((prompt, truth), answer) in enumerate(
                zip(picture.questions.items(), answers, strict=True)
            )
        ),
        baselines={codec: points[-1] for codec, points in found.items()},
        reference_sizes=_reference_sizes(picture.image, features),
        seconds=dict(packet.timing),
    )


def steps(picture: DemoPicture) -> int:
    """Tell how often `measure` reports a step for this picture."""
    return len(picture.questions) + len(CODECS)


def _same_answers(
    device: tofc.Device,
    edge: tofc.Edge,
    decoded: Image.Image,
    prompts: Sequence[str],
    wanted: Sequence[tofc.Answer],
) -> list[bool]:
    """Say for each question whether its answer is kept, and last whether all of them are at once.

    An image file is seen as the device would see it, with the same tower and the same merging: what travelled
    is all that differs.
    """
    # One token more than the longest answer decides whether it is the same.
    longest = max(len(answer.tokens) for answer in wanted) + 1
    answers = edge.answer_features(device.features(decoded), prompts, max_new_tokens=longest)
    kept = [answer.text == other.text for answer, other in zip(answers, wanted, strict=True)]
    return [*kept, all(kept)]


def _reference_sizes(image: Image.Image, features: tofc.Features) -> dict[str, int]:
    """Give the bytes of the picture as people send it, and of its features if they were sent uncoded."""
    lossless = io.BytesIO()
    image.save(lossless, "PNG", optimize=True)
    num_values = features.layout.num_tokens * features.tokens.shape[1]
    return {
        PLAIN: len(Jpeg().encode(image, 90)),
        "features, float16": 2 * num_values,
        "PNG": len(lossless.getvalue()),
    }
