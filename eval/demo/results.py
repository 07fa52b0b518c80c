"""What the demo finds out about one picture: the records that the table, the drawing and the JSON share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eval.baselines import Point

LINK_BITS_PER_SECOND = 100_000
"""The slow uplink that link times are computed for; nothing is sent by the demo."""

PLAIN = "JPEG, quality 90"
"""Label of the size that a picture has when nobody compresses it for a model."""


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
    baselines: dict[str, Point | None]
    seconds: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the answer is the true one, upper and lower case alike."""
        return self.answer.strip().lower() == self.truth.lower()


@dataclass(frozen=True)
class PictureResult:
    """One picture, one packet and the answers that it carried.

    Attributes:
        name: short name, unique in the demo.
        kind: "rendered scene" or "camera photograph".
        rendered: whether the picture is of the kind that the model was trained on.
        image: the picture.
        assignment: cluster of every patch of the base tile, int64 [rows, columns].
        tile: where that tile lies on the picture: left, top, width and height in pixels. A tile that was
            padded to a square reaches beyond the picture.
        quality: quality of the packet.
        num_tokens: tokens that travelled.
        sections: bytes of the packet by part; they sum to its size.
        questions: the answers.
        baselines: by codec, the smallest file that keeps all the answers at once, or None.
        reference_sizes: bytes of other forms of the same picture, by label.
        seconds: the device's stages.
    """

    name: str
    kind: str
    rendered: bool
    image: Image.Image
    assignment: np.ndarray
    tile: tuple[float, float, float, float]
    quality: int
    num_tokens: int
    sections: dict[str, int]
    questions: tuple[QuestionResult, ...]
    baselines: dict[str, Point | None]
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
            "kind": self.kind,
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


def _points_as_json(points: dict[str, Point | None]) -> dict[str, dict[str, int] | None]:
    return {
        codec: None if point is None else {"quality": point.quality, "bytes": point.num_bytes}
        for codec, point in points.items()
    }
