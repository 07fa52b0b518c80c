"""The embedded benchmark as a data set of sweeps."""

from __future__ import annotations

import functools

from PIL import Image

from eval.asking.answering import AskedPicture, ScoredQuestion
from eval.asking.question import Question
from eval.scenes.layout import SPLITS
from eval.scenes.questions import benchmark_questions
from eval.scenes.scoring import score
from eval.scenes.world import Scene, make_scene
from tofc.errors import ConfigError

ENDLESS = 1_000_000  # scenes are made from their number


class ScenesData:
    """The benchmark questions of a split; descriptions, which take as long as all else, only on demand."""

    def __init__(self, split: str = "test", describe: bool = False) -> None:
        if split not in SPLITS:
            raise ConfigError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
        self.split, self.describe = split, describe
        self.name = f"scenes {split}"

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> AskedPicture:
        scene, pixels, _ = make_scene(self.split, index)
        questions = [q for q in benchmark_questions(scene) if self.describe or q.form != "describe"]
        asked = (ScoredQuestion.of(q, functools.partial(_score, scene, q)) for q in questions)
        return AskedPicture(f"{self.split}-{index:06d}", Image.fromarray(pixels), tuple(asked))


def _score(scene: Scene, question: Question, given: str) -> tuple[int, int]:
    scored = score(scene, question, given)
    return scored.correct, scored.total
