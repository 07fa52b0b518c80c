"""What is asked under load: packets of many sizes with questions, and the answers that are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene

DESCRIBE = "Describe the picture."
_RATES: Sequence[tuple[int | str, int]] = ((8, 2), (16, 3), (32, 4), (64, 4), (64, 6), (100, 5), ("all", 8))


@dataclass(frozen=True)
class LoadQuestion:
    """A packet, what is asked about it, and what `tofc.Edge` says in this process."""

    packet: bytes
    text: str
    expected: str


def scene(index: int) -> tuple[Image.Image, list[str]]:
    """A picture of the test split and its questions with short answers."""
    made, pixels, *_ = make_scene("test", index)
    return Image.fromarray(pixels), [question.prompt for question in benchmark_questions(made)]


def questions(
    num_scenes: int,
    per_scene: int = 4,
    describe: bool = True,
    rates: Sequence[tuple[int | str, int]] = _RATES,
    model: str = "scenes-tiny",
) -> list[LoadQuestion]:
    """Short questions about scenes, and with `describe` one long answer each; tokens and quality in turn."""
    device, edge = tofc.Device.from_pretrained(model), tofc.Edge.from_pretrained(model)
    pairs: list[tuple[bytes, str]] = []
    for index in range(num_scenes):
        image, prompts = scene(index)
        tokens, quality = rates[index % len(rates)]
        packet = bytes(device.encode(image, tokens=tokens, quality=quality))
        step = max(1, len(prompts) // max(1, per_scene))
        asked = [*prompts[::step][:per_scene], *([DESCRIBE] if describe else [])]
        pairs += [(packet, prompt) for prompt in asked]
    answers = edge.answer_many(pairs)
    return [LoadQuestion(*pair, answer.text) for pair, answer in zip(pairs, answers, strict=True)]
