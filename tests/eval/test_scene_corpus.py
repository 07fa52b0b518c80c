"""Scenes as a training corpus: the same picture on every call, with or without an image codec in between."""

from __future__ import annotations

import numpy as np

from eval.scenes.corpus import SceneCorpus


def test_a_picture_through_an_image_codec_keeps_its_truth() -> None:
    plain = SceneCorpus(size=112, questions=2, describe_share=0.0)
    coded = SceneCorpus(size=112, questions=2, describe_share=0.0, coded_share=1.0)
    differences = []
    for index in range(3):
        seen, sent = plain.picture("train", index, seed=1), coded.picture("train", index, seed=1)
        assert np.array_equal(sent.pixels, coded.picture("train", index, seed=1).pixels)
        for name, label in seen.labels.items():
            assert np.array_equal(label, sent.labels[name])
        differences.append(np.abs(seen.pixels.astype(int) - sent.pixels.astype(int)).mean())
    assert all(0.1 < difference < 40 for difference in differences)
