"""A corpus that `tofc familial calibrate` can be pointed at."""

from __future__ import annotations

import numpy as np

from tofc.training.data import GroundedPicture, Turn


class TinyCorpus:
    """Pictures of noise at the tiny model's size, with two questions each."""

    def picture(self, split: str, index: int, seed: int) -> GroundedPicture:
        """Picture `index`."""
        pixels = np.random.default_rng([seed, index]).integers(0, 256, (3, 48, 48), dtype=np.uint8)
        turns = (Turn("How many cars are there?", "one"), Turn("What colour is it?", "red"))
        return GroundedPicture(pixels, {}, np.zeros((36, 5), np.float32), turns)

    def num_pictures(self, split: str) -> int | None:
        """Without end."""
        return None
